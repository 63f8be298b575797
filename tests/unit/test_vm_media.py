"""From a build's outputs to a guest's media, and a verdict as JUnit XML."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from mkroot.boot.machine import machine
from mkroot.errors import VmError
from mkroot.recipe.booting import Check, Test
from mkroot.vm.check import Ran
from mkroot.vm.guest import Direct, Disk
from mkroot.vm.judge import Verdict
from mkroot.vm.junit import document
from mkroot.vm.media import choose, media_of


def outputs(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"QFI\xfb" if name.endswith("qcow2") else b"console=ttyS0 quiet\n")
    return folder


def test_the_first_that_was_built_and_fits(tmp_path: Path) -> None:
    folder = outputs(tmp_path, "disk.raw", "disk.qcow2", "image.iso", "bootfs/vmlinuz")
    assert choose(folder, "grub", None, "b") == "disk.qcow2"
    assert choose(folder, "direct", None, "b") == "bootfs"
    assert choose(folder, "grub", "disk.raw", "b") == "disk.raw"
    assert choose(folder, "grub", "usb", "b") == "usb"
    assert media_of(folder, "disk.qcow2", machine("q35")).disk == Disk(folder / "disk.qcow2", "qcow2")
    assert media_of(folder, "iso", machine("q35")).cdrom == folder / "image.iso"
    assert media_of(folder, "usb", machine("q35")).usb == Disk(folder / "image.iso", "raw")


def test_what_is_not_built_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="nothing that boots of this recipe") as caught:
        choose(tmp_path, "grub", None, "mkroot build r.yaml")
    assert caught.value.hint == "run `mkroot build r.yaml` first"
    with pytest.raises(VmError, match="no iso of this recipe"):
        choose(outputs(tmp_path, "disk.raw"), "grub", "iso", "b")
    with pytest.raises(VmError, match="nothing that boots"):
        choose(tmp_path, "direct", None, "b")


def test_a_kernel_of_its_own_takes_the_disk_or_the_bare_root(tmp_path: Path) -> None:
    folder = outputs(tmp_path, "bootfs/vmlinuz", "bootfs/cmdline", "rootfs.ext4")
    boot = folder / "bootfs"
    found = media_of(folder, "bootfs", machine("nvme"))
    assert found.disk == Disk(folder / "rootfs.ext4", "raw")
    assert found.direct == Direct(kernel=boot / "vmlinuz", cmdline="console=ttyS0 quiet root=/dev/nvme0n1")
    outputs(tmp_path, "bootfs/initramfs.cpio.zst", "disk.raw")
    found = media_of(folder, "bootfs", machine("microvm"))
    assert found.disk == Disk(folder / "disk.raw", "raw")
    assert found.direct == Direct(
        kernel=boot / "vmlinuz", initramfs=boot / "initramfs.cpio.zst", cmdline="console=ttyS0 quiet"
    )


def test_a_kernel_without_a_root(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="a kernel and no root") as caught:
        media_of(outputs(tmp_path, "bootfs/vmlinuz"), "bootfs", machine("microvm"))
    assert caught.value.hint is not None and "disk.raw" in caught.value.hint


# ---- JUnit

WANTED = Test(expect=("login:", "never"), reject=("Oops",), run=(Check(cmd="a < b"), Check(cmd="false")))


def ran(command: str, status: int) -> Ran:
    return Ran(command=command, wanted=0, status=status, seconds=0.5, output="w\x1bords\n")


def verdict(kind: str, text: str, console: str, *commands: Ran) -> Verdict:
    return Verdict(kind=kind, text=text, seconds=3.25, stages=(), console=console, commands=commands)  # type: ignore[arg-type]


def cases(data: bytes) -> dict[str, str]:
    suites = ElementTree.fromstring(data)
    return {
        case.get("name") or "": "".join(f"{fault.tag}: {fault.get('message')}" for fault in case)
        for case in suites.iter("testcase")
    }


def test_each_wish_is_a_case() -> None:
    commands = (ran("a < b", 0), ran("false", 1))
    data = document([("box amd64", WANTED, verdict("failed", "…", "box login: \x00\ufffe", *commands))])
    assert cases(data) == {
        "boot": "",
        "run: a < b": "",
        "run: false": "failure: status 1, 0 was wanted",
        "expect: login:": "",
        "expect: never": "failure: the console does not show it",
        "reject: Oops": "",
    }
    [suite] = ElementTree.fromstring(data)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "0")
    assert suite.get("time") == "3.25"
    assert (suite.findtext("system-out") or "").startswith("box login: ")


def test_a_guest_that_did_not_get_there() -> None:
    data = document([("box", WANTED, verdict("panic", "the kernel panics: x", "Oops"))])
    assert cases(data) == {
        "boot": "failure: panic: the kernel panics: x",
        "run: a < b": "failure: it did not come to that",
        "run: false": "failure: it did not come to that",
        "expect: login:": "failure: the console does not show it",
        "expect: never": "failure: the console does not show it",
        "reject: Oops": "failure: the console shows it",
    }
    assert "error: died: QEMU" in cases(document([("box", Test(), verdict("died", "QEMU ended", ""))]))["boot"]


def test_the_same_verdict_gives_the_same_bytes() -> None:
    one = [("box", WANTED, verdict("passed", "", "x"))]
    assert document(one) == document(one)
