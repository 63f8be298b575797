"""One QEMU as a process: started, watched from outside, and ended whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mkroot.boot.machine import FirmwareFiles
from mkroot.errors import VmError
from mkroot.vm.command import Accelerator, Ends, command
from mkroot.vm.guest import Guest

_PR_SET_PDEATHSIG = 1  # prctl(2)
_TICKS = os.sysconf("SC_CLK_TCK")
_GRACE = 2.0  # seconds between asking QEMU to end and ending it


class Qemu:
    """A QEMU, from `running`."""

    def __init__(self, folder: Path, *, keep: bool) -> None:
        """folder: of this run alone. keep: what the guest writes on its disk stays there."""
        self.monitor, self._theirs = socket.socketpair()
        self.monitor.setblocking(False)
        self._folder = folder
        self._keep = keep
        self._place = 0
        self._told = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        emulator: str,
        guest: Guest,
        accelerator: Accelerator,
        firmware: FirmwareFiles | None,
        *,
        tsc: int = 0,
        terminal: bool = False,
    ) -> None:
        """Start the process; raises VmError where it cannot be started. terminal: the console is the caller's."""
        ends = Ends(
            console=self._folder / "console",
            verdict=self._folder / "verdict",
            monitor=self._theirs.fileno(),
            terminal=terminal,
            firmware=self._own(firmware),
        )
        line = command(emulator, guest, ends, accelerator, tsc)
        prctl = ctypes.CDLL(None, use_errno=True).prctl

        def follow() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # even if this process is killed, QEMU does not stay behind

        with open(self._folder / "words", "xb") as words:
            try:
                self._process = subprocess.Popen(
                    line,
                    stdin=None if terminal else subprocess.DEVNULL,
                    stdout=None if terminal else words,
                    stderr=words,
                    pass_fds=(self._theirs.fileno(),),
                    start_new_session=not terminal,  # from the background, a terminal could not be read
                    preexec_fn=follow,
                )
            except OSError as e:
                raise VmError(f"QEMU cannot be started: {e.strerror}", where=line[0]) from None
        self._theirs.close()

    def _own(self, firmware: FirmwareFiles | None) -> FirmwareFiles | None:
        """Return the firmware with variables that the guest may change."""
        if firmware is None:
            return None
        copy = self._folder / "vars"
        shutil.copyfile(firmware.vars, copy)
        return FirmwareFiles(code=firmware.code, vars=str(copy))

    def console(self) -> bytes:
        """Return what the guest has written on its console since the last time."""
        data = self._read("console", self._place)
        self._place += len(data)
        return data

    def verdicts(self) -> list[str]:
        """Return the whole lines that the guest has written on its second port since the last time."""
        data = self._read("verdict", self._told)
        data = data[: data.rfind(b"\n") + 1]
        self._told += len(data)
        return [line.strip("\r") for line in data.decode("utf-8", "replace").split("\n") if line.strip()]

    def words(self) -> str:
        """Return what QEMU itself has said."""
        return self._read("words", 0).decode("utf-8", "replace").strip()

    def _read(self, name: str, place: int) -> bytes:
        try:
            with open(self._folder / name, "rb") as f:
                f.seek(place)
                return f.read()
        except OSError:
            return b""

    def keep_console(self, path: Path) -> None:
        """Copy the console's bytes to a file; raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(self._folder / "console", path)

    def status(self) -> int | None:
        """Return the exit status, negative for a signal; None while QEMU runs."""
        return None if self._process is None else self._process.poll()

    def busy(self) -> float:
        """Return the seconds of processor time that the virtual processors have taken."""
        total = 0
        pid = 0 if self._process is None else self._process.pid
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                if (task / "comm").read_text().startswith("CPU "):
                    fields = (task / "stat").read_text().rpartition(")")[2].split()
                    total += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
        return total / _TICKS

    def end(self) -> None:
        """End QEMU. A guest whose disk is kept is given time to write what it has written."""
        process = self._process
        if process is not None:
            if process.poll() is None and self._keep:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)
            if process.poll() is None:
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        self._theirs.close()
        self.monitor.close()


@contextlib.contextmanager
def running(
    emulator: str,
    guest: Guest,
    accelerator: Accelerator,
    firmware: FirmwareFiles | None,
    *,
    tsc: int = 0,
    terminal: bool = False,
) -> Iterator[Qemu]:
    """Give a QEMU that runs; at the end, whatever ends it, no process and no file of the run is left.

    tsc: see mkroot.vm.command. terminal: the console is the caller's terminal. Raises VmError and OSError.
    """
    folder = Path(tempfile.mkdtemp(prefix="mkroot-vm."))
    qemu: Qemu | None = None
    try:
        qemu = Qemu(folder, keep=not guest.snapshot)
        qemu.start(emulator, guest, accelerator, firmware, tsc=tsc, terminal=terminal)
        yield qemu
    finally:
        if qemu is not None:
            qemu.end()
        shutil.rmtree(folder, ignore_errors=True)
