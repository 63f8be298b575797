"""The machine table: what QEMU plays, which firmware it has, and what a system needs to see its disk there."""

from __future__ import annotations

import functools
import tomllib
from typing import Literal

import msgspec

from mkroot.errors import BootError
from mkroot.rootfs.machine import data_folder


class FirmwareFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pair of flash images: the program, and the variables that a guest starts with. Paths of the host."""

    code: str
    vars: str


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine of the table in `qemu/`.

    emulator: the program; package: Debian's package that has it. machine, cpu: values of `-machine` and `-cpu`;
    cpu_kvm: with KVM. cmdline_tcg: words for a kernel that QEMU loads, without KVM; `{tsc}` is the rate in kHz of the
    host's time stamp counter, which QEMU hands on. firmware_files: where the flash images may be, the best first;
    firmware_package: Debian's package that has them. loaders: those that start here. disk, cdrom, usb: values of
    `-device`, with `{drive}` for the medium's id; network: with `{network}`; network_driver: the module it
    takes. console, verdict: the guest's serial
    ports; verdict_device: the second one's `-device`. smbios: whether the firmware hands on strings of the host. bus,
    drivers: how the root's disk is attached, and the modules it takes. root: a disk without partitions, as the guest
    names it.
    """

    name: str
    about: str
    architecture: Literal["amd64", "arm64"]
    emulator: str
    package: str
    machine: str
    cpu: str
    cpu_kvm: str = "host"
    cmdline_tcg: str = ""
    firmware: Literal["uefi", "bios", "none"]
    firmware_files: tuple[FirmwareFiles, ...] = ()
    firmware_package: str = ""
    loaders: tuple[str, ...]
    console: str
    verdict: str
    verdict_device: str
    smbios: bool
    disk: tuple[str, ...]
    cdrom: tuple[str, ...] = ()
    usb: tuple[str, ...] = ()
    network: str
    network_driver: str
    bus: Literal["virtio", "nvme"]
    drivers: tuple[str, ...]
    root: str


DEFAULTS = {  # by architecture, then firmware; the loader `direct` needs no firmware
    "amd64": {"uefi": "q35", "bios": "q35-bios", "direct": "microvm"},
    "arm64": {"uefi": "aarch64-virt", "direct": "aarch64-virt"},
}


@functools.cache
def machines() -> tuple[Machine, ...]:
    """Return the table in order of names; raises BootError where a file of it is damaged or there is none."""
    folder = data_folder()
    found = []
    for path in sorted(folder.glob("*.toml"), key=lambda p: p.stem):
        try:
            table = tomllib.loads(path.read_text("utf-8"))
            found.append(msgspec.convert({"name": path.stem, **table}, Machine))
        except (OSError, ValueError) as e:
            raise BootError(f"the machine table is damaged: {e}", where=str(path), hint="install mkroot anew") from None
    if not found:
        raise BootError("the machine table is missing", where=str(folder), hint="install mkroot anew")
    return tuple(found)


def machine(name: str) -> Machine:
    """Return a machine by its name; raises BootError with the nearest one."""
    known = {m.name: m for m in machines()}
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise BootError(f"there is no machine `{name}`", hint=f"{hint}machines are {', '.join(known)}")
    return known[name]


def machine_of(name: str | None, firmware: str, loader: str, architecture: str) -> Machine:
    """Return the machine that a recipe names, else the default for its firmware, loader and architecture.

    Raises BootError where there is none, or the named one does not fit.
    """
    if name is None:
        name = DEFAULTS.get(architecture, {}).get("direct" if loader == "direct" else firmware)
        if name is None:
            raise BootError(f"there is no machine of the architecture {architecture} with {firmware} firmware")
    found = machine(str(name))
    faults = fits(found, firmware, loader)
    if found.architecture != architecture:
        faults = (f"the machine `{found.name}` is {found.architecture}, the system is {architecture}", *faults)
    if faults:
        fitting = [m.name for m in machines() if m.architecture == architecture and not fits(m, firmware, loader)]
        hint = f"machines that fit: {', '.join(fitting)}" if fitting else "no machine of the table fits"
        raise BootError(faults[0], where="boot.machine", hint=hint)
    return found


def fits(machine: Machine, firmware: str, loader: str) -> tuple[str, ...]:
    """Return why a system with this firmware and loader does not start on a machine, in words; empty where it does."""
    if loader == "direct":  # QEMU puts the kernel into memory, whatever the firmware is
        return () if "direct" in machine.loaders else (f"the machine `{machine.name}` does not load a kernel itself",)
    if machine.firmware == "none":
        return (f"the machine `{machine.name}` has no firmware that could start the loader `{loader}`",)
    faults = []
    if loader not in machine.loaders:
        faults.append(f"the loader `{loader}` does not start on the {machine.firmware.upper()} of `{machine.name}`")
    if firmware != machine.firmware:
        faults.append(
            f"the system is made for {firmware.upper()}, the machine `{machine.name}` has {machine.firmware.upper()}"
        )
    return tuple(faults)
