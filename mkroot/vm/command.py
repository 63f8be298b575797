"""QEMU's command line for a guest: a function of values alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from mkroot.boot.machine import FirmwareFiles
from mkroot.errors import VmError
from mkroot.vm import check
from mkroot.vm.guest import MIB, Guest

Accelerator = Literal["kvm", "tcg"]
CMDLINE_LIMIT = 2047  # bytes of a kernel's command line, COMMAND_LINE_SIZE of x86 and arm64 without the end mark


class Ends(msgspec.Struct, frozen=True, kw_only=True):
    """Where the guest's ports end on the host.

    console: what the guest writes on its first serial port is kept in this file. terminal: the port is the terminal as
    well, with QEMU's own keys. verdict: the file of the second port. monitor: a socket's number for QMP. firmware: the
    program and the guest's own copy of its variables; None where there is none.
    """

    console: Path
    verdict: Path
    monitor: int
    terminal: bool = False
    firmware: FirmwareFiles | None = None


def command(emulator: str, guest: Guest, ends: Ends, accelerator: Accelerator, tsc: int = 0) -> list[str]:
    """Return the command line that starts a guest.

    emulator: the program's path. tsc: kHz of the host's time stamp counter, 0 where it is not known. Raises VmError
    where the kernel's command line would be too long.
    """
    machine = guest.machine
    line = [
        emulator,
        "-name", "mkroot,debug-threads=on",  # a virtual processor's thread can be told from the others
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-machine", machine.machine,
        "-accel", "kvm" if accelerator == "kvm" else "tcg,thread=multi",
        "-cpu", machine.cpu_kvm if accelerator == "kvm" else machine.cpu,
        "-smp", str(guest.cpus),
        "-m", f"{-(-guest.memory // MIB)}M",
        *_ports(guest, ends),
    ]  # fmt: skip
    if ends.firmware is not None:
        line += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_value(ends.firmware.code)}"]
        line += ["-drive", f"if=pflash,unit=1,format=raw,file={_value(ends.firmware.vars)}"]
    if guest.direct is not None:
        line += ["-kernel", str(guest.direct.kernel)]
        if guest.direct.initramfs is not None:
            line += ["-initrd", str(guest.direct.initramfs)]
        line += ["-append", _cmdline(guest, accelerator, tsc)]
    if guest.check and by_firmware(guest):
        text = f"{check.SMBIOS}{check.credential(guest.check)}"
        line += ["-smbios", f"type=11,value={_value(text)}"]  # DSP0134, 7.12: strings for whoever knows them
    line += _media(guest)
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:{f.host}-:{f.guest}" for f in guest.forwards)
    line += ["-netdev", f"user,id=net{forwards}", "-device", machine.network.format(network="net")]
    return line


def by_firmware(guest: Guest) -> bool:
    """Tell whether the firmware hands a credential on; else it goes by the kernel's command line."""
    direct_arm = guest.direct is not None and guest.machine.architecture == "arm64"  # no UEFI, no SMBIOS
    return guest.machine.smbios and not direct_arm


def _value(text: str | Path) -> str:
    """Return a value as QEMU's option parser reads it: a comma twice."""
    return str(text).replace(",", ",,")


def _ports(guest: Guest, ends: Ends) -> Iterator[str]:
    console = _value(ends.console)
    if ends.terminal:
        yield from ("-chardev", f"stdio,id=console,mux=on,signal=off,logfile={console}")
        yield from ("-mon", "chardev=console,mode=readline")
    else:
        yield from ("-chardev", f"file,id=console,path={console}")
    yield from ("-serial", "chardev:console")
    yield from ("-chardev", f"file,id=verdict,path={_value(ends.verdict)}")
    yield from ("-device", guest.machine.verdict_device.format(verdict="verdict"))
    yield from ("-chardev", f"socket,id=qmp,fd={ends.monitor}", "-mon", "chardev=qmp,mode=control")


def _cmdline(guest: Guest, accelerator: Accelerator, tsc: int) -> str:
    assert guest.direct is not None
    words = [guest.direct.cmdline.strip()]
    extra = guest.machine.cmdline_tcg
    if extra and accelerator == "tcg" and tsc:
        words.append(extra.format(tsc=tsc))
    if guest.check and not by_firmware(guest):
        words.append(check.WORD + check.packed(guest.check))
    whole = " ".join(w for w in words if w)
    if len(whole.encode()) > CMDLINE_LIMIT:
        raise VmError(
            f"with the commands to check, the kernel's command line has {len(whole.encode())} bytes, and "
            f"{CMDLINE_LIMIT} are read",
            hint="ask for less under `test.run`, put it into a script of the image, or name a machine with firmware",
        )
    return whole


def _media(guest: Guest) -> Iterator[str]:
    """Yield the options of all disks and media; the first is started from."""
    machine = guest.machine
    media = []
    if guest.disk is not None:
        media.append(("root", guest.disk.path, guest.disk.format, machine.disk))
    if guest.cdrom is not None:
        media.append(("cd", guest.cdrom, "raw", machine.cdrom))
    if guest.usb is not None:
        media.append(("usb", guest.usb.path, guest.usb.format, machine.usb))
    media += [(f"disk{n}", d.path, d.format, machine.disk) for n, d in enumerate(guest.disks, 1)]
    for number, (name, path, kind, devices) in enumerate(media):
        if devices is machine.cdrom:
            mode = "media=cdrom,readonly=on"
        elif guest.snapshot:
            mode = "snapshot=on,cache=unsafe"
        else:
            mode = "cache=writeback"
        yield from ("-drive", f"if=none,id={name},format={kind},{mode},file={_value(path)}")
        for device in devices[:-1]:
            if number == 0 or devices is not machine.disk:
                yield from ("-device", device)
        boot = ",bootindex=0" if number == 0 and guest.direct is None else ""
        yield from ("-device", devices[-1].format(drive=name) + boot)
