"""Which system calls name files, and what each does with them; a filter that tells of every one (seccomp(2)).

What is in the table goes to whoever holds the listener and is then made as it was asked for. A call that may name a
file in a way that is not known here is told of as well: by it a script is one whose effects cannot be known.
"""

from __future__ import annotations

from mkroot.rootfs.filter import Line

# What a call does with a file.
OPEN, STAT, LOOK, LINKED, ENTER, RUN = "open", "stat", "look", "readlink", "chdir", "execve"
REMOVE, REMOVE_DIR, MAKE_DIR, MAKE_LINK, JOIN, MOVE = "unlink", "rmdir", "mkdir", "symlink", "link", "rename"
CHANGE, CHANGE_OPEN, CONNECT, STRANGE = "change", "fchange", "connect", "strange"

MACHINE = "x86_64"  # whose calls these are; on another one no script is followed
_AUDIT = 0xC000003E  # AUDIT_ARCH_X86_64
_LAST = 462  # mseal: the newest call of which it is known that it names no file, or how
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000  # include/uapi/linux/seccomp.h
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # include/uapi/linux/bpf_common.h
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data

NONE = -1


class Call:
    """A system call. does: see above. at, path: places of the folder's descriptor and of the name among its arguments.

    flags: the place of its flags, NONE where it has none. follow: whether a link at the end of the name is followed
    when no flag says otherwise.
    """

    def __init__(self, does: str, at: int, path: int, flags: int = NONE, *, follow: bool = True) -> None:
        self.does, self.at, self.path, self.flags, self.follow = does, at, path, flags, follow


_N = NONE
# arch/x86/entry/syscalls/syscall_64.tbl
CALLS = {
    2: Call(OPEN, _N, 0, 1), 257: Call(OPEN, 0, 1, 2), 437: Call(OPEN, 0, 1, 2), 85: Call(OPEN, _N, 0),
    4: Call(STAT, _N, 0), 6: Call(STAT, _N, 0, follow=False), 262: Call(STAT, 0, 1, 3), 332: Call(STAT, 0, 1, 2),
    191: Call(STAT, _N, 0), 192: Call(STAT, _N, 0, follow=False), 194: Call(STAT, _N, 0),
    195: Call(STAT, _N, 0, follow=False), 303: Call(STAT, 0, 1, follow=False),
    21: Call(LOOK, _N, 0), 269: Call(LOOK, 0, 1), 439: Call(LOOK, 0, 1, 3), 137: Call(LOOK, _N, 0),
    89: Call(LINKED, _N, 0, follow=False), 267: Call(LINKED, 0, 1, follow=False),
    80: Call(ENTER, _N, 0), 59: Call(RUN, _N, 0), 322: Call(RUN, 0, 1, 4),
    87: Call(REMOVE, _N, 0, follow=False), 84: Call(REMOVE_DIR, _N, 0, follow=False),
    263: Call(REMOVE, 0, 1, 2, follow=False),
    83: Call(MAKE_DIR, _N, 0, follow=False), 258: Call(MAKE_DIR, 0, 1, follow=False),
    88: Call(MAKE_LINK, _N, 1, follow=False), 266: Call(MAKE_LINK, 1, 2, follow=False),
    86: Call(JOIN, _N, 0, follow=False), 265: Call(JOIN, 0, 1, follow=False),
    82: Call(MOVE, _N, 0, follow=False), 264: Call(MOVE, 0, 1, follow=False), 316: Call(MOVE, 0, 1, 4, follow=False),
    90: Call(CHANGE, _N, 0), 268: Call(CHANGE, 0, 1), 452: Call(CHANGE, 0, 1, 3), 92: Call(CHANGE, _N, 0),
    94: Call(CHANGE, _N, 0, follow=False), 260: Call(CHANGE, 0, 1, 4), 132: Call(CHANGE, _N, 0),
    235: Call(CHANGE, _N, 0), 261: Call(CHANGE, 0, 1), 280: Call(CHANGE, 0, 1, 3), 76: Call(CHANGE, _N, 0),
    188: Call(CHANGE, _N, 0), 189: Call(CHANGE, _N, 0, follow=False), 197: Call(CHANGE, _N, 0),
    198: Call(CHANGE, _N, 0, follow=False),
    91: Call(CHANGE_OPEN, 0, _N), 93: Call(CHANGE_OPEN, 0, _N), 77: Call(CHANGE_OPEN, 0, _N),
    190: Call(CHANGE_OPEN, 0, _N), 199: Call(CHANGE_OPEN, 0, _N),
    42: Call(CONNECT, _N, _N),
    # bind, ptrace, mknod, mknodat, chroot, inotify_add_watch, fanotify_mark, process_vm_writev, pidfd_getfd; and
    # shmget, semget, msgget, mq_open: what one script leaves there, another could find
    **{n: Call(STRANGE, _N, _N) for n in (49, 101, 133, 259, 161, 254, 301, 311, 438, 29, 64, 68, 240)},
}  # fmt: skip
EXECVE, CREAT, OPENAT2, LINKAT, NAME_TO_HANDLE_AT = 59, 85, 437, 265, 303
SECOND = {86: (NONE, 1), 265: (2, 3), 82: (NONE, 1), 264: (2, 3), 316: (2, 3)}  # the new name of a link or a move


def program(*, follow: bool = True) -> list[Line]:
    """Return the filter's instructions. A call by the numbers of another architecture is told of as well.

    follow: whether all calls of the table are told of; else only the execution of programs.
    """
    tell: Line = (_RETURN, 0, 0, _NOTIFY)
    if not follow:
        allow: Line = (_RETURN, 0, 0, _ALLOW)
        own: list[Line] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, _AUDIT), allow, (_LOAD, 0, 0, _NUMBER)]
        return [*own, (_EQUAL, 0, 1, EXECVE), tell, allow]
    lines: list[Line] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, _AUDIT), tell, (_LOAD, 0, 0, _NUMBER)]
    lines += [(_AT_LEAST, 0, 1, _LAST + 1), tell]
    for number in CALLS:
        lines += [(_EQUAL, 0, 1, number), tell]
    return [*lines, (_RETURN, 0, 0, _ALLOW)]
