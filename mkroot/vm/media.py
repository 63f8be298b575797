"""From what a build has written to a guest's media."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import msgspec

from mkroot.boot.machine import Machine
from mkroot.errors import VmError
from mkroot.vm.guest import Direct, Disk, disk_of

Medium = Literal["disk.qcow2", "disk.raw", "iso", "usb", "bootfs"]
MEDIA: tuple[str, ...] = get_args(Medium)
_FILES = {"disk.qcow2": "disk.qcow2", "disk.raw": "disk.raw", "iso": "image.iso", "usb": "image.iso"}
_ROOTS = ("rootfs.ext4", "rootfs.squashfs", "rootfs.erofs")


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest starts from; see mkroot.vm.guest.Guest."""

    kind: Medium
    disk: Disk | None = None
    cdrom: Path | None = None
    usb: Disk | None = None
    direct: Direct | None = None


def has(folder: Path, kind: str) -> bool:
    """Tell whether a folder of outputs has a medium of a kind."""
    if kind == "bootfs":
        return (folder / "bootfs" / "vmlinuz").is_file()
    return (folder / _FILES[kind]).is_file()


def choose(folder: Path, loader: str, wanted: str | None, build: str) -> Medium:
    """Return the kind of medium to start from: the wanted one, else the first that was built and fits the loader.

    build: the command that makes what is missing, for the message. Raises VmError.
    """
    order: tuple[Medium, ...] = ("bootfs",) if loader == "direct" else ("disk.qcow2", "disk.raw", "iso", "bootfs")
    if wanted is not None:
        order = tuple(k for k in get_args(Medium) if k == wanted)
    for kind in order:
        if has(folder, kind):
            return kind
    what = f"no {wanted}" if wanted else "nothing that boots"
    raise VmError(f"there is {what} of this recipe yet", where=str(folder), hint=f"run `{build}` first")


def media_of(folder: Path, kind: Medium, machine: Machine) -> Media:
    """Return a medium of a folder of outputs; raises VmError where a part of it is missing."""
    if kind == "bootfs":
        return _direct(folder, machine)
    path = folder / _FILES[kind]
    if kind == "iso":
        return Media(kind=kind, cdrom=path)
    if kind == "usb":
        return Media(kind=kind, usb=Disk(path, "raw"))
    return Media(kind=kind, disk=disk_of(path))


def _direct(folder: Path, machine: Machine) -> Media:
    """Return kernel, initramfs and command line, with the disk that the root is on.

    A root without a partition table is named to the kernel as the machine's disk: of two `root=`, the last counts.
    """
    bootfs = folder / "bootfs"
    try:
        cmdline = (bootfs / "cmdline").read_text("utf-8").strip()
    except FileNotFoundError:
        cmdline = ""
    except (OSError, UnicodeDecodeError) as e:
        raise VmError(f"the kernel's command line cannot be read: {e}", where=str(bootfs / "cmdline")) from None
    initramfs = bootfs / "initramfs.cpio.zst"
    disk = next((folder / n for n in ("disk.qcow2", "disk.raw") if (folder / n).is_file()), None)
    if disk is None:
        disk = next((folder / n for n in _ROOTS if (folder / n).is_file()), None)
        if disk is None:
            raise VmError(
                "there is a kernel and no root for it",
                where=str(folder),
                hint="have the recipe make `disk.qcow2`, `disk.raw`, `ext4`, `squashfs` or `erofs` as well",
            )
        cmdline += f" root={machine.root}"
    return Media(
        kind="bootfs",
        disk=disk_of(disk),
        direct=Direct(
            kernel=bootfs / "vmlinuz", initramfs=initramfs if initramfs.is_file() else None, cmdline=cmdline.strip()
        ),
    )
