"""System call filters by which mkroot answers what a user namespace does not give (seccomp(2)).

With one id in the user namespace chown fails for every other owner, and so would most maintainer scripts. The filter
hands the calls of the chown and mknod families to whoever holds the listener, and answers those that change the
process's own ids with success, without doing anything: the process stays root of its namespace.

With every id, but in a namespace that was made for an emulator, only devices cannot be made: the mknod family alone is
handed over.
"""

from __future__ import annotations

import ctypes
import os

from mkroot.rootfs import linux

# include/uapi/linux/{seccomp,bpf_common,audit}.h
_RET_ERRNO_0, _RET_NOTIFY, _RET_ALLOW = 0x00050000, 0x7FC00000, 0x7FFF0000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_SET_MODE_FILTER, LISTENER = 1, 8
_NUMBER_AT, _ARCH_AT = 0, 4  # offsets in struct seccomp_data


class Calls:
    """System call numbers of an architecture; the chown and mknod families by name, the others as a list."""

    def __init__(self, audit: int, seccomp: int, notified: dict[str, int], ignored: list[int]) -> None:
        self.audit, self.seccomp, self.notified, self.ignored = audit, seccomp, notified, ignored


# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; ignored: setuid, setgid, setreuid,
# setregid, setgroups, setresuid, setresgid, setfsuid, setfsgid.
CALLS = {
    "x86_64": Calls(
        0xC000003E,
        317,
        {"chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "mknod": 133, "mknodat": 259},
        [105, 106, 113, 114, 116, 117, 119, 122, 123],
    ),
    "aarch64": Calls(
        0xC00000B7, 277, {"fchown": 55, "fchownat": 54, "mknodat": 33}, [146, 144, 145, 143, 159, 147, 149, 151, 152]
    ),
}


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


def program(calls: Calls, *, notify: bool) -> list[tuple[int, int, int, int]]:
    """Return the filter's instructions (code, jump if true, jump if false, operand)."""
    tests = [(n, _RET_NOTIFY if notify else _RET_ERRNO_0) for n in calls.notified.values()]
    tests += [(n, _RET_ERRNO_0) for n in calls.ignored]
    # Calls of another architecture (32 bits) are left alone: their numbers mean something else.
    lines = [(_LOAD, 0, 0, _ARCH_AT), (_JUMP_EQUAL, 1, 0, calls.audit), (_RETURN, 0, 0, _RET_ALLOW)]
    lines.append((_LOAD, 0, 0, _NUMBER_AT))
    for number, answer in tests:
        lines += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, answer)]
    return [*lines, (_RETURN, 0, 0, _RET_ALLOW)]


def devices(calls: Calls) -> list[tuple[int, int, int, int]]:
    """Return the instructions of a filter that hands over the calls of the mknod family, and nothing else."""
    kept = {name: number for name, number in calls.notified.items() if name.startswith("mknod")}
    return program(Calls(calls.audit, calls.seccomp, kept, []), notify=True)


def install_devices() -> int:
    """Install the filter for devices in this process and all that it starts; return the listener. Raises OSError."""
    calls = CALLS.get(os.uname().machine)
    if calls is None:
        raise OSError(38, os.strerror(38))
    return load(devices(calls), LISTENER)


def install(*, notify: bool) -> int:
    """Install the filter in this process and all that it starts; return the listener (0 without `notify`).

    Raises OSError: ENOSYS for an architecture whose numbers are not known here.
    """
    calls = CALLS.get(os.uname().machine)
    if calls is None:
        raise OSError(38, os.strerror(38))
    return load(program(calls, notify=notify), LISTENER if notify else 0)


def load(lines: list[tuple[int, int, int, int]], flags: int = 0) -> int:
    """Install a filter in this process and all that it starts; raises OSError, ENOSYS for an unknown architecture."""
    calls = CALLS.get(os.uname().machine)
    if calls is None:
        raise OSError(38, os.strerror(38))
    array = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    whole = _Program(len(lines), array)
    return linux.seccomp(calls.seccomp, _SET_MODE_FILTER, flags, ctypes.addressof(whole))
