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
from pathlib import Path

from mkroot.boot.machine import FirmwareFiles
from mkroot.errors import VmError
from mkroot.vm.command import Accelerator, Ends, command
from mkroot.vm.guest import Guest

_PR_SET_PDEATHSIG = 1  # prctl(2)
_TICKS = os.sysconf("SC_CLK_TCK")
_GRACE = 2.0  # seconds between asking QEMU to end and ending it


class Qemu:
    """A running QEMU. A context manager: at its end no process and no file of the run is left."""

    def __init__(
        self,
        emulator: str,
        guest: Guest,
        accelerator: Accelerator,
        firmware: FirmwareFiles | None,
        *,
        tsc: int = 0,
        terminal: bool = False,
    ) -> None:
        """Start QEMU; raises VmError where it cannot be started. terminal: the console is the caller's terminal."""
        self._folder = Path(tempfile.mkdtemp(prefix="mkroot-vm."))
        self._keep = not guest.snapshot
        self._place = 0
        self._told = 0
        try:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self.monitor = ours
            with theirs:
                ends = Ends(
                    console=self._folder / "console",
                    verdict=self._folder / "verdict",
                    monitor=theirs.fileno(),
                    terminal=terminal,
                    firmware=self._own(firmware),
                )
                line = command(emulator, guest, ends, accelerator, tsc)
                self._process = self._start(line, theirs.fileno(), terminal)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _own(self, firmware: FirmwareFiles | None) -> FirmwareFiles | None:
        """Return the firmware with variables that the guest may change."""
        if firmware is None:
            return None
        copy = self._folder / "vars"
        shutil.copyfile(firmware.vars, copy)
        return FirmwareFiles(code=firmware.code, vars=str(copy))

    def _start(self, line: list[str], descriptor: int, terminal: bool) -> subprocess.Popen[bytes]:
        prctl = ctypes.CDLL(None, use_errno=True).prctl

        def follow() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # even if this process is killed, QEMU does not stay behind

        with open(self._folder / "words", "xb") as words:
            try:
                return subprocess.Popen(
                    line,
                    stdin=None if terminal else subprocess.DEVNULL,
                    stdout=None if terminal else words,
                    stderr=words,
                    pass_fds=(descriptor,),
                    start_new_session=not terminal,  # from the background, a terminal could not be read
                    preexec_fn=follow,
                )
            except OSError as e:
                raise VmError(f"QEMU cannot be started: {e.strerror}", where=line[0]) from None

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

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
        return self._process.poll()

    def busy(self) -> float:
        """Return the seconds of processor time that the virtual processors have taken."""
        total = 0
        for task in Path(f"/proc/{self._process.pid}/task").glob("*"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                if (task / "comm").read_text().startswith("CPU "):
                    fields = (task / "stat").read_text().rpartition(")")[2].split()
                    total += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
        return total / _TICKS

    def end(self) -> None:
        """End QEMU and remove what it left. A guest whose disk is kept is given time to write what it has written."""
        process = self._process
        if process.poll() is None:
            if self._keep:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)
            if process.poll() is None:
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        self.monitor.close()
        shutil.rmtree(self._folder, ignore_errors=True)
