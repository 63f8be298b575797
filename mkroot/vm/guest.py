"""The guest as a value: machine, memory, what it starts from, and what it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from mkroot.boot.machine import Machine
from mkroot.errors import VmError

MIB = 1 << 20
LEAST_MEMORY = 32 * MIB  # less, and not even a small kernel unpacks itself
LEAST_UEFI = 96 * MIB  # OVMF and a boot loader
_QCOW2 = b"QFI\xfb"  # QEMU's docs/interop/qcow2.txt
_ISO = b"CD001"  # ECMA-119, 8.1.2


class Disk(msgspec.Struct, frozen=True):
    """An image on the host, in a format that is named: QEMU never guesses it from what a guest may have written."""

    path: Path
    format: Literal["raw", "qcow2"]


class Direct(msgspec.Struct, frozen=True, kw_only=True):
    """What QEMU itself puts into the guest's memory."""

    kernel: Path
    initramfs: Path | None = None
    cmdline: str = ""


class Forward(msgspec.Struct, frozen=True):
    """A TCP port of the host's loopback address that leads to one of the guest."""

    host: int
    guest: int


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest to start.

    memory: bytes. disk, cdrom, usb: media, the first of which is started from unless `direct` is given. snapshot: what
    the guest writes is thrown away. check: the script that the guest is asked to run, "" for none.
    """

    machine: Machine
    memory: int
    cpus: int = 1
    disk: Disk | None = None
    cdrom: Path | None = None
    usb: Disk | None = None
    direct: Direct | None = None
    disks: tuple[Disk, ...] = ()
    forwards: tuple[Forward, ...] = ()
    snapshot: bool = True
    check: str = ""


def kind_of(path: Path) -> Literal["raw", "qcow2", "iso"]:
    """Tell what an image on the host is; raises VmError where it is no readable file, or empty."""
    try:
        with open(path, "rb") as f:
            if not path.is_file():
                raise VmError("it is no file that could be a disk", where=str(path))
            start = f.read(4)
            f.seek(32769)
            volume = f.read(5)
    except OSError as e:
        raise VmError(f"the disk cannot be read: {e.strerror}", where=str(path)) from None
    if not start:
        raise VmError("the disk is an empty file", where=str(path))
    if start == _QCOW2:
        return "qcow2"
    return "iso" if volume == _ISO else "raw"


def disk_of(path: Path) -> Disk:
    """Return a disk on the host with its format; raises VmError."""
    return Disk(path, "qcow2" if kind_of(path) == "qcow2" else "raw")


def check_guest(guest: Guest) -> None:
    """Raise VmError where a guest cannot start: too little memory, no medium, a kernel that is not there."""
    machine = guest.machine
    least = LEAST_UEFI if machine.firmware == "uefi" and guest.direct is None else LEAST_MEMORY
    if guest.direct is not None:
        files = [p for p in (guest.direct.kernel, guest.direct.initramfs) if p is not None]
        for path in files:
            if not path.is_file():
                raise VmError("there is no such kernel or initramfs", where=str(path))
        least = max(least, 2 * sum(p.stat().st_size for p in files))
        if "direct" not in machine.loaders:
            raise VmError(f"the machine `{machine.name}` does not load a kernel itself")
    elif guest.disk is None and guest.cdrom is None and guest.usb is None:
        raise VmError("there is nothing to start from", hint="name a disk, an ISO, or a kernel with `--kernel`")
    elif machine.firmware == "none":
        raise VmError(
            f"the machine `{machine.name}` has no firmware that could start a disk",
            hint="name another with `--machine`, or a kernel with `--kernel`",
        )
    if guest.memory < least:
        raise VmError(
            f"{guest.memory // MIB} MiB of memory are too few to start this: {-(-least // MIB)} MiB are the least",
            hint="give it more: `test.memory` in the recipe, or `--memory`",
        )
    for wanted, given, what in ((guest.cdrom, machine.cdrom, "CD drive"), (guest.usb, machine.usb, "USB")):
        if wanted is not None and not given:
            raise VmError(f"the machine `{machine.name}` has no {what}", hint="name another with `--machine`")
