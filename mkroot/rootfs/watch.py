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
from mkroot.rootfs.pathcalls import CALLS, SECOND
from mkroot.rootfs.trace import Special, Trace

# include/uapi/linux/seccomp.h
_RECEIVE, _SEND, _SET_FLAGS, _SYNC = 0xC0502100, 0xC0182101, 0x40082104, 1
_NOTICE = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_CONTINUE = 1
_NOFOLLOW, _REMOVEDIR, _FOLLOW, _EMPTY = 0x100, 0x200, 0x400, 0x1000  # AT_ flags
_AUDIT = 0xC000003E
_PATH_MAX, _MUCH = 4096, 256
_INSTEAD = b"/usr/bin/true\0"


class Begun(Protocol):
    """Decides what becomes of a script that is about to run."""

    def begin(self, script: str, argv: list[str], environment: dict[str, str]) -> Trace | None:
        """Return a trace of the script, or None when its effects are there and it must not run."""

    def end(self, left: bool) -> None:
        """The script has ended. left: whether it left a process behind."""


class Caller:
    """A process that waits for its answer."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def text(self, address: int) -> str:
        """Return the string at an address of its memory; raises OSError."""
        found = b""
        while b"\0" not in found and len(found) < _PATH_MAX:
            at = address + len(found)
            found += linux.read_memory(self.pid, at, min(_MUCH, 4096 - at % 4096))  # the next page may not be there
        return os.fsdecode(found.partition(b"\0")[0])

    def texts(self, address: int) -> list[str]:
        """Return the strings of an array that ends with a null pointer; raises OSError."""
        found: list[str] = []
        while address and len(found) < 4096:
            pointer = int.from_bytes(linux.read_memory(self.pid, address + 8 * len(found), 8), "little")
            if not pointer:
                break
            found.append(self.text(pointer))
        return found

    def folder(self, at: int) -> str:
        """Return the path of its current folder, or of what a descriptor stands for; raises OSError, Special."""
        at = (at & 0xFFFFFFFF) - (1 << 32) if at & 0x80000000 else at & 0xFFFFFFFF
        base = os.readlink(f"/proc/{self.pid}/cwd" if at == linux.AT_FDCWD else f"/proc/{self.pid}/fd/{at}")
        root = os.readlink(f"/proc/{self.pid}/root").rstrip("/")
        if not base.startswith("/"):
            raise Special(base)
        path = base.removeprefix(root).strip("/")
        if path.partition("/")[0] in ("proc", "dev"):
            raise Special(path)
        return path

    def number(self) -> int:
        """Return its own number in its own PID namespace; raises OSError."""
        with open(f"/proc/{self.pid}/status", "rb") as f:
            return int(next(line for line in f if line.startswith(b"NSpid:")).split()[-1])

    def parent(self) -> int:
        """Return the number of its parent; raises OSError."""
        with open(f"/proc/{self.pid}/stat", "rb") as f:
            return int(f.read().rpartition(b") ")[2].split()[1])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended (proc(5)); raises OSError."""
    with open(f"/proc/{pid}/task/{pid}/children", "rb") as f:
        found = [int(word) for word in f.read().split()]
    return [child for child in found if _lives(child)]


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b") ")[2][:1] not in b"ZX"
    except FileNotFoundError:
        return False


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
        if trace is None and number != pathcalls.EXECVE:
            return 0
        if trace is None:
            return self._executed(Caller(pid), a) if arch == _AUDIT else 0
        try:
            if arch == _AUDIT:
                note(trace, Caller(pid), number, a)
            else:
                trace.odd("it runs a program of another architecture")
        except Exception as e:  # whatever it is, the script must go on, and its effects are not known
            trace.odd(f"it could not be followed: {e!r}")
        return 0

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
        self._trace = self._begun.begin(name, caller.texts(a[1]), environment)
        if self._trace is None:
            linux.write_memory(caller.pid, a[0], _INSTEAD)
        else:
            note(self._trace, caller, pathcalls.EXECVE, a)
        return 0


def note(trace: Trace, caller: Caller, number: int, a: list[int]) -> None:
    """Note what a call reads and changes; raises OSError."""
    call = CALLS.get(number)
    if call is None or call.does == pathcalls.STRANGE:
        trace.odd(f"it makes system call {number}")
        return
    does = call.does
    if does == pathcalls.CONNECT:
        _connect(trace, caller, a)
        return
    flags = a[call.flags] & 0xFFFFFFFF if call.flags >= 0 else 0
    if number == pathcalls.CREAT:
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    elif number == pathcalls.OPENAT2:
        flags = int.from_bytes(linux.read_memory(caller.pid, a[2], 8), "little")
        if int.from_bytes(linux.read_memory(caller.pid, a[2] + 16, 8), "little") & 0x10:
            trace.odd("it opens a file in another root")
    path = caller.text(a[call.path]) if call.path >= 0 and a[call.path] else ""
    if not path:
        if does in (pathcalls.CHANGE, pathcalls.CHANGE_OPEN) and call.at >= 0:
            _altered(trace, caller, a[call.at])
        elif does == pathcalls.RUN and flags & _EMPTY:
            trace.odd("it runs a program by its descriptor")
        return
    at = a[call.at] if call.at >= 0 else linux.AT_FDCWD
    follow = call.follow
    if does in (pathcalls.STAT, pathcalls.LOOK, pathcalls.RUN) or (does == pathcalls.CHANGE and call.flags >= 0):
        follow = follow and not flags & _NOFOLLOW
    elif does == pathcalls.OPEN:
        follow = not flags & os.O_NOFOLLOW and not (flags & os.O_CREAT and flags & os.O_EXCL)
    elif number == pathcalls.LINKAT:
        follow = bool(a[4] & _FOLLOW)
    place = _place(trace, caller, at, path, follow, does, flags)
    if place is None:
        return
    if number in SECOND:
        if flags & ~1:  # RENAME_NOREPLACE is plain
            trace.odd("it exchanges two files")
        second_at, second = SECOND[number]
        new = _place(
            trace, caller, a[second_at] if second_at >= 0 else linux.AT_FDCWD, caller.text(a[second]), False, does, 0
        )
        if new is not None:
            (trace.move if does == pathcalls.MOVE else trace.join)(place, new)
        return
    _done(trace, place, does, flags)


def _done(trace: Trace, place: str, does: str, flags: int) -> None:
    if does == pathcalls.OPEN:
        trace.open(place, flags)
    elif does == pathcalls.STAT:
        trace.read(place, 1)
    elif does == pathcalls.RUN:
        _run(trace, place)
    elif does in (pathcalls.REMOVE, pathcalls.REMOVE_DIR):
        trace.remove(place, folder=does == pathcalls.REMOVE_DIR or bool(flags & _REMOVEDIR))
    elif does in (pathcalls.MAKE_DIR, pathcalls.MAKE_LINK):
        trace.make(place, folder=does == pathcalls.MAKE_DIR)
    elif does == pathcalls.CHANGE:
        trace.alter(place)


def _place(trace: Trace, caller: Caller, at: int, path: str, follow: bool, does: str, flags: int) -> str | None:
    try:
        return trace.resolve("" if path.startswith("/") else _base(caller, at, path), path, follow=follow)
    except Special as e:
        changes = does in (
            pathcalls.CHANGE, pathcalls.MOVE, pathcalls.JOIN, pathcalls.REMOVE, pathcalls.REMOVE_DIR,
            pathcalls.MAKE_DIR, pathcalls.MAKE_LINK,
        ) or (does == pathcalls.OPEN and bool(flags & (os.O_ACCMODE | os.O_CREAT)))  # fmt: skip
        listed = does == pathcalls.OPEN and not flags & os.O_PATH
        fd = trace.special(os.path.normpath(e.path), caller.number(), changes=changes, listed=listed)
        if fd < 0 or does in (pathcalls.LOOK, pathcalls.LINKED, pathcalls.ENTER):
            return None
        if does not in (pathcalls.OPEN, pathcalls.CHANGE, pathcalls.STAT):
            trace.odd(f"it runs or moves /{e.path}")
            return None
        return _file(trace, caller, fd)


def _base(caller: Caller, at: int, path: str) -> str:
    try:
        return caller.folder(at)
    except Special as e:
        raise Special(f"{e.path}/{path}") from None


def _file(trace: Trace, caller: Caller, fd: int) -> str | None:
    """Return the path of the file that a descriptor stands for, None for a pipe or one that has no name."""
    try:
        place = caller.folder(fd)
    except Special:
        return None
    if place.endswith(" (deleted)"):
        trace.odd("it changes a file that has no name")
        return None
    return place


def _altered(trace: Trace, caller: Caller, fd: int) -> None:
    place = _file(trace, caller, fd)
    if place is not None:
        trace.alter(place)


def _connect(trace: Trace, caller: Caller, a: list[int]) -> None:
    raw = linux.read_memory(caller.pid, a[1], min(a[2] & 0xFFFF, 110))
    family = int.from_bytes(raw[:2], "little")
    if family in (0, 16):  # AF_UNSPEC, AF_NETLINK
        return
    path = os.fsdecode(raw[2:].partition(b"\0")[0])
    if family != 1 or not path:
        trace.odd("it connects to something")
        return
    try:
        place = trace.resolve("" if path.startswith("/") else caller.folder(linux.AT_FDCWD), path, follow=True)
    except Special as e:
        if e.path != "dev/log":
            trace.odd(f"it connects to /{e.path}")
        return
    if place is not None and trace.kind(place):
        trace.odd(f"it connects to /{place}")


def _run(trace: Trace, place: str, depth: int = 0) -> None:
    """A program is executed: the kernel reads it, and its interpreter (execve(2))."""
    trace.read(place, 2)
    if trace.kind(place) != "f" or depth > 4:
        return
    head = trace.states.head(place)
    interpreter = ""
    if head[:2] == b"#!":
        words = head[2:].split(b"\n", 1)[0].split()
        interpreter = os.fsdecode(words[0]) if words else ""
    elif head[:4] == b"\x7fELF":
        interpreter = _elf_interpreter(head)
    if interpreter and not interpreter.startswith("/"):
        trace.odd(f"/{place} names its interpreter by a relative path")
    elif interpreter:
        inner = trace.resolve("", interpreter, follow=True)
        if inner is not None:
            _run(trace, inner, depth + 1)


def _elf_interpreter(head: bytes) -> str:
    """Return what PT_INTERP of an ELF64 file names, "" for nothing (elf(5))."""
    if head[4:5] != b"\2":
        return ""
    at, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
    for i in range(count):
        if at + (i + 1) * size > len(head):
            return ""
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", head, at + i * size)
        if kind == 3:  # PT_INTERP
            return os.fsdecode(head[offset : offset + length].rstrip(b"\0"))
    return ""


Watcher = Callable[[int, int], Watch]
