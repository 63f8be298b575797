"""What this host has for a guest: emulator, firmware, KVM, free ports, and the rate of its time stamp counter."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from mkroot.boot.machine import FirmwareFiles, Machine
from mkroot.errors import VmError
from mkroot.store.store import default_root
from mkroot.vm.guest import Guest

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # uname(2)'s names, and Debian's
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret


def find_emulator(machine: Machine, path: str | None = None) -> str:
    """Return the emulator's path; raises VmError naming the package that has it. path: default, the caller's PATH."""
    found = shutil.which(machine.emulator, path=path)
    if found is None:
        raise VmError(
            f"{machine.emulator} is not installed, which plays the machine `{machine.name}`",
            hint=f"install the Debian package {machine.package}: `apt-get install {machine.package}`",
        )
    return found


def find_firmware(machine: Machine) -> FirmwareFiles | None:
    """Return the machine's firmware, None where QEMU brings its own; raises VmError naming the package that has it."""
    if not machine.firmware_files:
        return None
    for files in machine.firmware_files:
        if os.path.isfile(files.code) and os.path.isfile(files.vars):
            return files
    raise VmError(
        f"the firmware of the machine `{machine.name}` is not installed",
        where=machine.firmware_files[0].code,
        hint=f"install the Debian package {machine.firmware_package}: `apt-get install {machine.firmware_package}`",
    )


def why_no_kvm(machine: Machine, device: str = "/dev/kvm") -> str:
    """Return why KVM cannot serve a machine here, "" where it may."""
    host = ARCHITECTURES.get(platform.machine(), platform.machine())
    if machine.architecture != host:
        return f"the guest is {machine.architecture} and this host {host}"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        return f"{device}: {e.strerror}"
    return ""


def check_ports(guest: Guest) -> None:
    """Raise VmError for a port of the host that is taken, is wanted twice, or may not be opened."""
    seen = set()
    for forward in guest.forwards:
        if forward.host in seen:
            raise VmError(f"port {forward.host} of this host is to lead to two ports of the guest")
        seen.add(forward.host)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", forward.host))
            except OSError as e:
                taken = f"port {forward.host} of this host cannot be used: {e.strerror}"
                raise VmError(taken, hint="choose another with `--port HOST:GUEST`") from None


class Memory:
    """Remembers until the host's next start that guests do not run in its KVM; a file in the store's folder."""

    def __init__(self, environ: Mapping[str, str], boot: str | None = None) -> None:
        """environ: names the store. boot: an id of the host's run; default, the kernel's."""
        self._path = default_root(environ) / "kvm.json"
        self._boot = boot if boot is not None else _boot_id()

    def recall(self) -> str:
        """Return why KVM was given up, "" where it was not."""
        try:
            value = json.loads(self._path.read_bytes())
            return str(value["why"]) if value["boot"] == self._boot and self._boot else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def keep(self, why: str) -> None:
        """Remember why KVM was given up; where nothing can be written, the next run finds out again."""
        aside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps({"boot": self._boot, "why": why}) + "\n")
            os.replace(aside, self._path)
        except OSError:
            return


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def tsc_rate() -> int:
    """Return the rate of this processor's time stamp counter in kHz, 0 where it cannot be read.

    QEMU without KVM hands the counter on as it is. The kernel tells its rate nowhere that every user may read.
    """
    if platform.machine() != "x86_64":
        return 0
    import ctypes
    import mmap

    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # a host that forbids such pages
        return 0
    page.write(_RDTSC)
    start = ctypes.c_char.from_buffer(page)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(start))
    best = 0
    spread = 1 << 62
    for _ in range(3):  # the least disturbed of three
        before, ticks, after = time.perf_counter_ns(), read(), time.perf_counter_ns()
        time.sleep(0.01)
        begin, more, end = time.perf_counter_ns(), read(), time.perf_counter_ns()
        if after - before + end - begin < spread:
            spread = after - before + end - begin
            best = (more - ticks) * 1_000_000 * 2 // (begin + end - before - after)
    return best
