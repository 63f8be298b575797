"""The recipe's keys for what boots: `boot`, `disk` and `test`."""

# No `from __future__ import annotations`: see mkroot.recipe.model.
from typing import Annotated, Literal, Self

from msgspec import Meta

from mkroot.recipe.numbers import DiskSize, Duration, Size
from mkroot.recipe.part import Part, doc
from mkroot.recipe.values import OneLine, PackageName, Reference, Text


class MachineName(Text):
    """A machine of the table in `qemu/`."""

    __slots__ = ()
    pattern = r"[a-z0-9][a-z0-9-]{0,40}"
    expected = "a machine's name such as `q35` or `nvme`"


class BootRoot(Text):
    """The tree to boot: this recipe's `own`, or `image:REF`."""

    __slots__ = ()
    pattern = r"own|image:[!-~]+"
    expected = "`own` or `image:` and an image reference"

    @classmethod
    def parse(cls, text: str) -> Self:
        root = super().parse(text)
        if root != "own":
            Reference.parse(root.removeprefix("image:"))
        return root


class Boot(Part, frozen=True, kw_only=True):
    """How the system boots; left out for containers."""

    kernel: Annotated[PackageName, doc("The kernel's package; it becomes part of the lock.", "linux-image-virtual")]
    initramfs: Annotated[
        Literal["mkroot", "distro", "none"],
        doc(
            "Made by mkroot for this machine, by the distribution's own tool in the image, or `none` where the kernel "
            "can mount the root by itself."
        ),
    ] = "mkroot"
    firmware: Annotated[Literal["uefi", "bios"], doc("The machine's firmware.")] = "uefi"
    loader: Annotated[
        Literal["direct", "systemd-boot", "uki", "grub"],
        doc("The boot loader; `direct` has QEMU load the kernel. Default `systemd-boot`, with `bios` `grub`."),
    ] = "systemd-boot"
    cmdline: Annotated[
        OneLine, doc("The kernel's command line; `root=` is added unless it is there.", "console=ttyS0")
    ] = OneLine("")
    machine: Annotated[
        MachineName | None,
        doc(
            "The machine of mkroot's table (`qemu/`) that the initramfs has drivers for and `mkroot test` boots; "
            "default `q35`, with `bios` `q35-bios`, with `direct` `microvm`.",
            "nvme",
        ),
    ] = None
    rootfs: Annotated[
        BootRoot, doc("What boots: this recipe's `own` tree, or that of an image.", "image:debian:trixie")
    ] = BootRoot("own")


class Disk(Part, frozen=True, kw_only=True):
    """The disk of `disk.raw` and `disk.qcow2`, and the root of anything that boots."""

    size: Annotated[
        DiskSize, doc("The disk's size; `minimal` (0 bytes here) fits it to what it holds.", "minimal", "2G")
    ] = DiskSize(0)
    root: Annotated[Literal["ext4", "squashfs", "erofs"], doc("The root file system.")] = "ext4"
    grow: Annotated[
        bool,
        doc("Let the root grow to the disk at first boot; needs systemd's `systemd-repart`, and `ext4`."),
    ] = False
    overlay: Annotated[
        bool,
        doc("Keep the root read-only, under an overlay in memory. Default `true` with `squashfs` and `erofs`."),
    ] = False


class Check(Part, frozen=True, kw_only=True):
    """A command that the guest runs."""

    cmd: Annotated[OneLine, doc("The command, for the guest's shell.", "systemctl is-system-running --wait")]
    exit: Annotated[int, Meta(ge=0, le=255, description="The exit status that it must have.", examples=[0])] = 0


class Test(Part, frozen=True, kw_only=True):
    """What `mkroot test` asks of the booted system."""

    __test__ = False  # not a test case of pytest

    memory: Annotated[Size, doc("The guest's memory.", "512M")] = Size(512 << 20)
    timeout: Annotated[Duration, doc("The most time until the verdict.", 120, "5m")] = Duration(120)
    expect: Annotated[tuple[Text, ...], doc("Text that the console must show.", ["login:"])] = ()
    reject: Annotated[tuple[Text, ...], doc("Text that the console must not show.", ["Kernel panic"])] = ()
    run: Annotated[
        tuple[Check, ...], doc("Commands that the guest runs.", [{"cmd": "systemctl is-active ssh", "exit": 0}])
    ] = ()
