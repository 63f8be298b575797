"""Makes what boots: the boot file system, disks, the ISO and the unified kernel image, each once for a build."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from mkroot.artifact.ext4 import derived_uuid, fitting_size, write_ext4
from mkroot.artifact.fat import write_fat
from mkroot.artifact.files import HashedFile
from mkroot.artifact.gpt import (
    BIOS_BOOT,
    ESP,
    GROW_FILE_SYSTEM,
    LINUX_GENERIC,
    LINUX_ROOT_ARM64,
    LINUX_ROOT_X86_64,
    MIB,
    Partition,
    layout,
    write_disk,
)
from mkroot.artifact.kept import kept_bytes, kept_file
from mkroot.artifact.manifest import Made
from mkroot.artifact.outputs import Bench, Maker
from mkroot.boot import initramfs
from mkroot.boot.cmdline import completed
from mkroot.boot.grub import MkImage
from mkroot.boot.initramfs import make_initramfs
from mkroot.boot.kernel import Kernel, find_kernel, unassisted
from mkroot.boot.loaders import Bootfs, make_bootfs
from mkroot.boot.machine import Machine, machine_of
from mkroot.decoding import from_msgpack
from mkroot.digest import oci, sha256, sha256_file
from mkroot.errors import ArtifactError, BootError, RootfsError
from mkroot.recipe.booting import Boot as Settings
from mkroot.recipe.booting import Disk
from mkroot.rootfs.tree import Tree

ROOTS = {"amd64": LINUX_ROOT_X86_64, "arm64": LINUX_ROOT_ARM64}
BIOS_BOOT_SIZE = MIB  # GRUB's core image has 60 to 200 kB
IMAGE = "rootfs.squashfs"  # the root on an ISO


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """What the makers work from.

    tree: the root with the packages beside it. key: of all that went into that. settings, disk: the recipe's.
    mkimage: runs grub-mkimage. network: the initramfs loads the network card's driver, for the root cannot.
    """

    tree: Tree
    key: str
    settings: Settings
    disk: Disk
    name: str
    distro: str
    architecture: str
    mkimage: MkImage
    network: bool = False


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What the loader loads, and the boot file system that has it."""

    kernel: bytes
    initramfs: bytes | None
    cmdline: str
    files: Bootfs


def boot_makers(boot: Boot) -> dict[str, Maker]:
    """Return the makers by kind of output; each raises BootError, ArtifactError, SandboxError or OSError."""
    made: dict[str, Callable[[Bench, Boot], Made | tuple[Made, ...]]] = {
        "bootfs": _bootfs,
        "uki": _uki,
        "disk.raw": _raw,
        "disk.qcow2": _qcow2,
        "iso": _iso,
    }
    return {kind: functools.partial(_made_of, make, boot) for kind, make in made.items()}


def _made_of(
    make: Callable[[Bench, Boot], Made | tuple[Made, ...]], boot: Boot, bench: Bench
) -> Made | tuple[Made, ...]:
    return make(bench, boot)


def parts_of(bench: Bench, boot: Boot, *, live: bool = False) -> Parts:
    """Return kernel, initramfs, command line and boot file system of a build, made once; live: of its ISO."""
    name = "live" if live else "boot"
    known = bench.shared.get(name)
    if isinstance(known, Parts):
        return known
    settings = boot.settings
    machine = machine_of(settings.machine, settings.firmware, settings.loader, boot.architecture)
    kernel = find_kernel(boot.tree, str(settings.kernel))
    cmdline = completed(
        str(settings.cmdline),
        root=f"LABEL={volume(boot.name)}" if live else f"PARTUUID={derived_uuid(bench.tree(), 'partition root')}",
        writable=not live and boot.disk.root == "ext4" and not boot.disk.overlay,
        overlay=boot.disk.overlay and not live,
        image=f"/{IMAGE}" if live else "",
        console=machine.console,
        wait=settings.initramfs == "none",
    )
    packed = _initramfs(bench, boot, kernel, machine, cmdline, live)
    data = boot.tree.read(kernel.image)
    files = make_bootfs(
        boot.tree,
        distro=boot.distro,
        loader="grub" if live and settings.loader == "direct" else settings.loader,
        firmware="uefi" if live else settings.firmware,
        architecture=boot.architecture,
        kernel=data,
        initramfs=packed,
        cmdline=cmdline,
        title=_title(boot),
        version=kernel.version,
        mkimage=boot.mkimage,
        iso=live,
    )
    parts = Parts(kernel=data, initramfs=packed, cmdline=cmdline, files=files)
    bench.shared[name] = parts
    return parts


def _initramfs(bench: Bench, boot: Boot, kernel: Kernel, machine: Machine, cmdline: str, live: bool) -> bytes | None:
    kind = boot.settings.initramfs
    if live and kind != "mkroot":
        raise BootError("the root of an ISO is found by mkroot's own initramfs", where="boot.initramfs")
    if kind == "none":
        root = next(w.removeprefix("root=") for w in cmdline.split() if w.startswith("root="))
        why = unassisted(
            kernel, boot.tree, filesystem=boot.disk.root, bus=machine.bus, root=root, overlay=boot.disk.overlay
        )
        if why:
            raise BootError(
                f"kernel {kernel.version} cannot mount this root by itself on the machine {machine.name}: {why[0]}",
                where="boot.initramfs",
                hint="write `initramfs: mkroot`",
            )
        return None
    if kind == "distro":
        path = f"boot/initrd.img-{kernel.version}"
        try:
            return boot.tree.read(path)
        except RootfsError:
            raise BootError(
                f"the distribution's tool has left no /{path} in the root",
                where="boot.initramfs",
                hint="is initramfs-tools or dracut among the packages, and `configure: scripts`?",
            ) from None
    drivers = (*machine.drivers, machine.network_driver) if boot.network else machine.drivers
    filesystem = "squashfs" if live else str(boot.disk.root)

    def make() -> bytes:
        made = make_initramfs(
            boot.tree,
            kernel,
            drivers=drivers,
            filesystem=filesystem,
            overlay=boot.disk.overlay,
            live=live,
            epoch=bench.epoch,
        )
        return msgspec.msgpack.encode(made)

    parts = [boot.key, kernel.version, list(drivers), filesystem, boot.disk.overlay, live, bench.epoch]
    own = ["initramfs", initramfs.FORMAT, sha256(initramfs.init_script())]
    known = kept_bytes(bench.assembly.layers.store, [*own, *parts], make)
    made = from_msgpack(known, initramfs.Initramfs)
    if made.left_out:
        names = ", ".join(made.left_out)
        bench.progress.warn(f"kernel {kernel.version} has no {names}: the ISO does not start from media that need them")
    for missing in made.missing_firmware:
        bench.progress.warn(f"the firmware {missing} is in no package of the root")
    return made.data


def _title(boot: Boot) -> str:
    try:
        text = boot.tree.read("etc/os-release").decode("utf-8", "replace")
    except RootfsError:
        return boot.name
    rows = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return rows.get("PRETTY_NAME", boot.name).strip().strip("\"'")


def volume(name: str) -> str:
    """Return an ISO's volume label for a recipe's name: capitals, digits, underscores, at most 32 (ECMA-119, 7.4.1)."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name.upper())
    return f"MKROOT_{plain}"[:32]


# ---- the boot file system


def _fat(bench: Bench, boot: Boot, *, live: bool = False) -> Path:
    """Write the boot file system's image to the scratch folder, once."""
    path = bench.scratch / ("live.img" if live else "bootfs.img")
    if not path.exists():
        files = parts_of(bench, boot, live=live).files.files
        serial = derived_uuid(bench.tree(), f"fat {live}").int & 0xFFFFFFFF
        label = "LIVE" if live else "BOOT"
        write_fat(path, files, label=label, serial=serial, epoch=bench.epoch, tools=bench.tools)
    return path


def _bootfs(bench: Bench, boot: Boot) -> tuple[Made, ...]:
    """Write `bootfs/`, with kernel, initramfs, command line and the loader's tree, and `bootfs.img`."""
    parts = parts_of(bench, boot)
    contents = dict(parts.files.files)
    contents |= {"vmlinuz": parts.kernel, "cmdline": parts.cmdline.encode() + b"\n"}
    if parts.initramfs is not None:
        contents["initramfs.cpio.zst"] = parts.initramfs
    folder = bench.folder / "bootfs"
    folder.mkdir()
    listing = hashlib.sha256()
    for name in sorted(contents):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with HashedFile(place) as f:
            f.write(contents[name])
        listing.update(f"{f.digest} {f.size} {name}\n".encode())
    for place in (folder, *(folder / parent for name in contents for parent in Path(name).parents)):
        place.chmod(0o755)  # whatever the umask left of it
    size = sum(map(len, contents.values()))
    made = [Made(kind="bootfs", name="bootfs", size=size, digest=f"sha256:{listing.hexdigest()}")]
    image = bench.folder / "bootfs.img"
    os.link(_fat(bench, boot), image)
    made.append(_made("bootfs", image))
    return tuple(made)


def _uki(bench: Bench, boot: Boot) -> Made:
    """Write `image.efi`: stub, kernel, initramfs and command line in one EFI program."""
    parts = parts_of(bench, boot)
    program = parts.files.efi
    if program is None:
        raise BootError(
            f"the loader `{boot.settings.loader}` makes no unified kernel image",
            where="outputs",
            hint="write `loader: uki` under `boot`",
        )
    path = bench.folder / "image.efi"
    with HashedFile(path) as f:
        f.write(program)
    return Made(kind="uki", name=path.name, size=f.size, digest=f.digest)


# ---- disks


def _raw(bench: Bench, boot: Boot) -> Made:
    path = bench.folder / "disk.raw"
    disk = _disk(bench, boot)
    bench.moved(disk, path)
    bench.shared["disk"] = path
    return _made("disk.raw", path)


def _qcow2(bench: Bench, boot: Boot) -> Made:
    from mkroot.artifact.qcow2 import write_qcow2

    path = bench.folder / "disk.qcow2"
    disk = _disk(bench, boot)
    make = functools.partial(write_qcow2, disk, path, tools=bench.tools)
    kept_file(bench.assembly.layers.store, ["qcow2", bench.tools.identity("qemu-img"), sha256_file(disk)], path, make)
    return _made("disk.qcow2", path)


def _disk(bench: Bench, boot: Boot) -> Path:
    """Write the disk to the scratch folder, once: what GRUB needs for BIOS, boot file system, root."""
    known = bench.shared.get("disk")
    if isinstance(known, Path):
        return known
    settings = boot.settings
    parts = parts_of(bench, boot)
    tree = bench.tree()
    before: list[Partition] = []
    if parts.files.core is not None:
        identity = derived_uuid(tree, "partition bios")
        before.append(Partition(name="bios", kind=BIOS_BOOT, identity=identity, size=BIOS_BOOT_SIZE))
    if settings.loader != "direct":
        image = _fat(bench, boot)
        before.append(
            Partition(
                name="boot",
                kind=ESP,
                identity=derived_uuid(tree, "partition boot"),
                content=image,
                size=image.stat().st_size,
            )
        )
    root = _root(bench, boot, before)
    path = bench.scratch / "disk.raw"
    write_disk(
        path,
        layout([*before, root], size=int(boot.disk.size)),
        identity=derived_uuid(tree, "disk"),
        boot_code=parts.files.boot_code or b"",
        core=parts.files.core or b"",
    )
    bench.shared["disk"] = path
    return path


def _root(bench: Bench, boot: Boot, before: list[Partition]) -> Partition:
    """Return the root's partition with its image; it takes what room the recipe's size leaves."""
    tree = bench.tree()

    def partition(size: int, content: Path | None) -> Partition:
        return Partition(
            name="root",
            kind=ROOTS.get(boot.architecture, LINUX_GENERIC),
            identity=derived_uuid(tree, "partition root"),
            content=content,
            size=size,
            attributes=GROW_FILE_SYSTEM if boot.disk.grow else 0,
        )

    if boot.disk.size and boot.disk.root == "ext4":
        size = fitting_size(bench.entries())
        size += max(0, layout([*before, partition(size, None)], size=int(boot.disk.size)).free) // MIB * MIB
        image = bench.scratch / "root.large"
        write_ext4(bench, image, size)
    else:
        image = root_image(bench, boot.disk.root)
    return partition(image.stat().st_size, image)


def root_image(bench: Bench, kind: str) -> Path:
    """Return the root as an image of a kind, the output's own where it was made, else one in the scratch folder."""
    made = bench.folder / f"rootfs.{kind}"
    if made.exists():
        return made
    path = bench.scratch / f"root.{kind}"
    if path.exists():
        return path
    if kind == "ext4":
        write_ext4(bench, path, fitting_size(bench.entries()))
    elif kind == "squashfs":
        from mkroot.artifact.squashfs import write_squashfs

        write_squashfs(bench, path)
    elif kind == "erofs":
        from mkroot.artifact.erofs import write_erofs

        write_erofs(bench, path)
    else:
        raise ArtifactError(f"a root cannot be of the kind {kind}")
    return path


# ---- ISO


def _iso(bench: Bench, boot: Boot) -> Made:
    """Write `image.iso`, which starts under UEFI and BIOS, from CD and from a USB stick."""
    from mkroot.artifact.iso import write_iso

    parts = parts_of(bench, boot, live=True)
    path = bench.folder / "image.iso"
    contents: dict[str, Path | bytes] = {IMAGE: root_image(bench, "squashfs"), **parts.files.medium}
    write_iso(
        path,
        contents,
        volume=volume(boot.name),
        identity=derived_uuid(bench.tree(), "iso"),
        efi_image=_fat(bench, boot, live=True),
        bios_core=parts.files.core,
        boot_code=parts.files.boot_code or b"",
        epoch=bench.epoch,
    )
    return _made("iso", path)


def _made(kind: str, path: Path) -> Made:
    return Made(kind=kind, name=path.name, size=path.stat().st_size, digest=oci(sha256_file(path)))
