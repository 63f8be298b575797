"""Follows a sandbox's system calls that name files, and has a known script's effects take the place of the script."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
import threading
from collections.abc import Callable
from typing import Protocol

from mkroot.rootfs import linux, pathcalls
from mkroot.rootfs.caller import Caller, children
from mkroot.rootfs.notice import note
from mkroot.rootfs.trace import Trace

# include/uapi/linux/seccomp.h
_RECEIVE, _SEND, _SET_FLAGS, _SYNC = 0xC0502100, 0xC0182101, 0x40082104, 1
_NOTICE = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_CONTINUE = 1
_AUDIT = 0xC000003E  # AUDIT_ARCH_X86_64
_INSTEAD = b"/usr/bin/true\0"  # no longer than the path of any script of dpkg's


class Begun(Protocol):
    """Decides what becomes of a script that is about to run."""

    def begin(self, script: str, argv: list[str], environment: dict[str, str]) -> Trace | None:
        """Return a trace of the script, or None when its effects are there and it must not run."""

    def end(self, left: bool) -> None:
        """The script has ended. left: whether it left a process behind."""


class Watch:
    """Serves a listener in a thread of its own until `close`.

    first: the sandbox's process 1. begun: asked for each maintainer script.
    fault: what went wrong while a script's effects were put in its place, None for nothing.
    """

    def __init__(self, listener: int, first: int, begun: Begun) -> None:
        self._listener, self._first, self._begun = listener, first, begun
        self.fault: Exception | None = None
        self.calls = 0
        self._main = 0
        self._own = False  # whether the script is the command itself, and no child of dpkg's
        self._script = 0  # the process of the script that was begun last
        self._trace: Trace | None = None
        with contextlib.suppress(OSError):  # since Linux 6.6: whoever is waited for runs at once, where this one ran
            fcntl.ioctl(listener, _SET_FLAGS, struct.pack("=Q", _SYNC))
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="mkroot-watch")
        self._thread.start()

    def close(self) -> None:
        """Stop answering; doing it twice is no error."""
        if self._listener >= 0:
            os.close(self._stopped)
            self._thread.join()
            os.close(self._stop)
            os.close(self._listener)
            self._listener = -1

    def settle(self, left: bool) -> None:
        """A command of the sandbox has ended, and the script that was its last. left: it left processes behind."""
        self._end(left)
        self._main = 0

    def _end(self, left: bool) -> None:
        trace, self._trace = self._trace, None
        if trace is not None:
            self._begun.end(left)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        notice = bytearray(_NOTICE.size)
        empty = bytes(_NOTICE.size)
        while True:
            for fd, event in poll.poll():
                if fd == self._stop:
                    return
                if event & (select.POLLHUP | select.POLLERR):
                    poll.unregister(fd)
                    continue
                notice[:] = empty
                try:
                    fcntl.ioctl(self._listener, _RECEIVE, notice, True)
                    token, pid, _, number, arch, _, *arguments = _NOTICE.unpack(notice)
                    error = self._safely(pid, number, arch, arguments)
                    fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(token, 0, error, 0 if error else _CONTINUE))
                except OSError:
                    pass  # the caller was killed meanwhile

    def _safely(self, pid: int, number: int, arch: int, a: list[int]) -> int:
        """Look at a call; whatever goes wrong in that, nobody must wait for ever."""
        try:
            return self._told(pid, number, arch, a)
        except Exception as e:
            self._trace, self.fault = None, e
            return -errno.EIO

    def _told(self, pid: int, number: int, arch: int, a: list[int]) -> int:
        """Look at a call before it is made; return the error that it is to give, 0 for none."""
        self.calls += 1
        trace = self._trace
        if trace is not None and pid == self._main and not self._own:
            try:
                left = bool(children(pid)) or children(self._first) != [pid]
            except OSError:
                left = True  # it cannot be told
            self._end(left)
            trace = None
        if trace is not None and trace.idle and number == pathcalls.EXECVE and self._next(pid):
            self._end(left=False)
            trace = None
        if trace is None and number != pathcalls.EXECVE:
            return 0
        if trace is None:
            return self._executed(Caller(pid), a) if arch == _AUDIT else 0
        if trace.idle:
            return 0
        try:
            if arch == _AUDIT:
                note(trace, Caller(pid), number, a)
            else:
                trace.odd("it runs a program of another architecture")
        except Exception as e:  # whatever it is, the script must go on, and its effects are not known
            trace.odd(f"it could not be followed: {e!r}")
        return 0

    def _next(self, pid: int) -> bool:
        """Tell whether a process is dpkg's next script after the last one, of whose end no other call may tell.

        A script that is the command itself has ended when that has (`settle`); its children are its own.
        """
        return not self._own and pid != self._script and Caller(pid).parent() == self._main

    def _executed(self, caller: Caller, a: list[int]) -> int:
        parent = caller.parent()
        if parent == self._first:
            self._main = caller.pid
        elif parent != self._main:
            return 0
        name = caller.text(a[0])
        self._own = caller.pid == self._main
        environment = dict(e.split("=", 1) for e in caller.texts(a[2]) if "=" in e)
        if "DPKG_MAINTSCRIPT_NAME" not in environment or not name.startswith("/var/lib/dpkg/"):
            return 0
        self._script = caller.pid
        self._trace = self._begun.begin(name, caller.texts(a[1]), environment)
        if self._trace is None:
            linux.write_memory(caller.pid, a[0], _INSTEAD)
        elif not self._trace.idle:
            note(self._trace, caller, pathcalls.EXECVE, a)
        return 0


Watcher = Callable[[int, int], Watch]
