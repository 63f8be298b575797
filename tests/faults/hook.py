"""Counts the calls by which a process changes a folder, and makes the N-th of them fail or be the last.

Python raises an audit event for each such call (PEP 578), whoever makes it; what a handler raises, the call raises.
Writes and fsync raise none: the files that are opened are of a class that counts them, and the functions of `os` are
wrapped. Processes that are forked count along, in shared memory.
"""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
import signal
import stat
import sys
from collections.abc import Callable
from typing import Any

import msgspec

CHANGES = {
    "os.rename": 0, "os.mkdir": 0, "os.rmdir": 0, "os.remove": 0, "os.link": 1, "os.symlink": 1, "os.truncate": 0,
    "os.chmod": 0, "os.chown": 0, "os.utime": 0, "os.setxattr": 0,
}  # event: which of its arguments is the path that is changed  # fmt: skip
NEEDS_ROOM = ("open", "write", "fsync", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.setxattr", "os.truncate")
ROOM = (errno.ENOSPC, errno.EDQUOT)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to happen.

    at: at which call, counted from 1; 0 counts only. kill: whom SIGKILL meets then: "all", "main" (the process that was
    started) or "one" (that which calls). error: an errno that the call meets instead. lasting: and those after it.
    folder: calls below it are counted. reads: so are those that open a file to read.
    """

    at: int = 0
    kill: str = ""
    error: int = 0
    lasting: bool = False
    folder: str = ""
    reads: bool = False


class Hook:
    """The counting of one run. Make it, fork, `start` it in the child; `calls` tells the count afterwards."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._count = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._main = 0
        self._inside = False

    @property
    def calls(self) -> int:
        """How many calls were counted so far."""
        return int(self._count[0])

    def start(self) -> None:
        """Count from here on, in this process and those that it forks."""
        self._main = os.getpid()
        hook = self

        class Counted(io.FileIO):
            def write(self, data: Any) -> int:
                hook.meet("write")
                return super().write(data) or 0

        def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
            if not any(c in mode for c in "wxa+") or isinstance(file, int) or not self._ours(file):
                return plain(file, mode, buffering, *rest, **more)
            raw = Counted(file, mode.replace("b", "").replace("t", ""))
            if "b" in mode:
                return raw if buffering == 0 else (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            return io.TextIOWrapper(io.BufferedWriter(raw), *rest, **more)

        plain = io.open
        builtins.open = opened
        io.open = opened
        for name in ("write", "pwrite", "fsync", "ftruncate"):
            self._wrap(name)
        sys.addaudithook(self._audit)

    def _wrap(self, name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def wrapped(fd: int, *rest: Any) -> Any:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                self.meet("fsync" if name == "fsync" else "write")
            return real(fd, *rest)

        setattr(os, name, wrapped)

    def _ours(self, path: Any) -> bool:
        if isinstance(path, int):
            return False
        text = os.fsdecode(path)
        return text.startswith(self._plan.folder) or not text.startswith("/")

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            flags = args[2] if isinstance(args[2], int) else 0
            if (flags & _WRITES or self._plan.reads) and args[0] is not None and self._ours(args[0]):
                self.meet("open" if flags & _WRITES else "read")
        elif event in CHANGES and len(args) > CHANGES[event] and self._ours(args[CHANGES[event]]):
            self.meet(event)

    def meet(self, call: str) -> None:
        """Note a call; raise or kill where it is the one."""
        plan = self._plan
        if self._inside or (plan.error in ROOM and call not in NEEDS_ROOM):
            return
        self._count[0] += 1
        now = int(self._count[0])
        if not plan.at or now < plan.at or (now > plan.at and not plan.lasting):
            return
        if plan.error:
            raise OSError(plan.error, os.strerror(plan.error))
        if plan.kill == "all":
            os.killpg(self._main, signal.SIGKILL)
        os.kill(os.getpid() if plan.kill == "one" else self._main, signal.SIGKILL)
