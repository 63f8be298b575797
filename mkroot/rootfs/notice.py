"""Turns a system call that is about to be made into what a trace notes of it."""

from __future__ import annotations

import os
import struct

from mkroot.rootfs import linux, pathcalls
from mkroot.rootfs.caller import Caller
from mkroot.rootfs.pathcalls import CALLS, SECOND, Call
from mkroot.rootfs.states import CONTENT, META
from mkroot.rootfs.trace import Special, Trace
from mkroot.tar.entry import FILE

_NOFOLLOW, _REMOVEDIR, _FOLLOW = 0x100, 0x200, 0x400  # AT_ flags (linux/fcntl.h)


def note(trace: Trace, caller: Caller, number: int, a: list[int]) -> None:
    """Note in a trace what a call reads and changes. a: its arguments. Raises OSError."""
    call = CALLS.get(number)
    if call is None or call.does == pathcalls.STRANGE:
        trace.odd(f"it makes system call {number}")
    elif call.does == pathcalls.CONNECT:
        _connect(trace, caller, a)
    else:
        flags = _flags(trace, caller, number, call, a)
        path = caller.text(a[call.path]) if call.path >= 0 and a[call.path] else ""
        if path:
            _named(trace, caller, number, call, a, path, flags)
        elif call.does in (pathcalls.CHANGE, pathcalls.CHANGE_OPEN) and call.at >= 0:
            place = _file(trace, caller, a[call.at])
            if place is not None:
                trace.alter(place)
        elif call.does in (pathcalls.RUN, pathcalls.JOIN):
            trace.odd("it runs or names a file by its descriptor")


def _flags(trace: Trace, caller: Caller, number: int, call: Call, a: list[int]) -> int:
    if number == pathcalls.CREAT:
        return os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    if number == pathcalls.OPENAT2:  # struct open_how: flags, mode, resolve
        how = linux.read_memory(caller.pid, a[2], 24)
        if int.from_bytes(how[16:], "little") & linux.RESOLVE_IN_ROOT:
            trace.odd("it opens a file in another root")
        return int.from_bytes(how[:8], "little")
    return a[call.flags] & 0xFFFFFFFF if call.flags >= 0 else 0


def _follows(number: int, call: Call, a: list[int], flags: int) -> bool:
    """Tell whether a call follows a link at the end of the name."""
    if call.does == pathcalls.OPEN:
        return not flags & os.O_NOFOLLOW and not (flags & os.O_CREAT and flags & os.O_EXCL)
    if number in (pathcalls.LINKAT, pathcalls.NAME_TO_HANDLE_AT):
        return bool(a[4] & _FOLLOW)
    if call.flags >= 0 and call.does in (pathcalls.STAT, pathcalls.LOOK, pathcalls.RUN, pathcalls.CHANGE):
        return call.follow and not flags & _NOFOLLOW
    return call.follow


def _named(trace: Trace, caller: Caller, number: int, call: Call, a: list[int], path: str, flags: int) -> None:
    at = a[call.at] if call.at >= 0 else linux.AT_FDCWD
    place = _place(trace, caller, at, path, _follows(number, call, a, flags), call.does, flags)
    if place is None:
        return
    if number not in SECOND:
        _done(trace, place, call.does, flags)
        return
    if flags & ~1:  # RENAME_NOREPLACE is plain
        trace.odd("it exchanges two files")
    where, second = SECOND[number]
    at = a[where] if where >= 0 else linux.AT_FDCWD
    new = _place(trace, caller, at, caller.text(a[second]), False, call.does, 0)
    if new is not None:
        (trace.move if call.does == pathcalls.MOVE else trace.join)(place, new)


def _done(trace: Trace, place: str, does: str, flags: int) -> None:
    if does == pathcalls.OPEN:
        trace.open(place, flags)
    elif does == pathcalls.STAT:
        trace.read(place, META)
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
    trace.read(place, CONTENT)
    if trace.kind(place) != FILE or depth > 4:
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
