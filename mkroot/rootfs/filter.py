"""The system calls that scripts and containers may not make: a filter in the spirit of Docker's default (seccomp(2)).

Refused with EPERM: what loads code into the kernel, changes clocks, swap, quotas, mounts or namespaces, reads kernel
memory, keyrings or performance counters, or is too old or too new to be trusted. What needs a capability that the
they have not is refused by the kernel as well; the filter is there for a kernel with a fault in just these calls, and
for what needs none: the user's keyring and a user namespace, in which one has every capability.

Where a root is built, the calls that wait for the disk (sync(2), fsync(2) and their kin) are answered with success and
do nothing. That is sound: who reads what a script wrote are other scripts and mkroot itself, through the page cache,
and what is kept of it is written anew, as a layer, by rules of its own; when power fails before that, the whole root is
gone, synced or not. A real sync(2) would have every file system of the host written out. Containers, whose files stay,
keep the calls. msync(2) stays everywhere: programs ask with it whether memory is there.
"""

from __future__ import annotations

from mkroot.rootfs import seccomp

_EPERM, _ENOSYS = 1, 38
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000  # include/uapi/linux/seccomp.h
# BPF (include/uapi/linux/bpf_common.h): load a word, go on, compare, compare bits, return
_LOAD, _GO, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST = 0, 4, 16  # offsets in struct seccomp_data; the low word of the first argument
_X32 = 0x40000000  # __X32_SYSCALL_BIT
_NAMESPACES = 0x7E020000  # the CLONE_NEW flags of clone(2)
_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, Linux32, with UNAME26, and the question
_AF_VSOCK = 40

_NEW = {  # one number everywhere, since Linux 5.1
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "quotactl_fd": 443,
    "set_mempolicy_home_node": 450,
}  # fmt: skip


class Table:
    """The numbers of one architecture.

    syncs: the calls that wait for the disk. clone, clone3, personality, socket: looked at closer.
    """

    def __init__(
        self, audit: int, denied: dict[str, int], syncs: dict[str, int], clone: int, personality: int, socket: int
    ) -> None:
        self.audit, self.denied, self.syncs = audit, {**denied, **_NEW}, syncs
        self.clone, self.clone3, self.personality, self.socket = clone, 435, personality, socket


# arch/x86/entry/syscalls/syscall_64.tbl, syscall_32.tbl and include/uapi/asm-generic/unistd.h
_X86_64 = Table(
    0xC000003E,
    {
        "syslog": 103, "uselib": 134, "ustat": 136, "sysfs": 139, "vhangup": 153, "pivot_root": 155, "_sysctl": 156,
        "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
        "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175,
        "delete_module": 176, "get_kernel_syms": 177, "query_module": 178, "quotactl": 179, "nfsservctl": 180,
        "lookup_dcookie": 212, "clock_settime": 227, "mbind": 237, "set_mempolicy": 238, "kexec_load": 246,
        "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256, "unshare": 272, "move_pages": 279,
        "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304, "setns": 308, "kcmp": 312,
        "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    },
    {"fsync": 74, "fdatasync": 75, "sync": 162, "sync_file_range": 277, "syncfs": 306},
    56, 135, 41,
)  # fmt: skip
_I386 = Table(
    0x40000003,
    {
        "mount": 21, "umount": 22, "stime": 25, "acct": 51, "umount2": 52, "ustat": 62, "sethostname": 74,
        "settimeofday": 79, "uselib": 86, "swapon": 87, "reboot": 88, "ioperm": 101, "syslog": 103, "iopl": 110,
        "vhangup": 111, "vm86old": 113, "swapoff": 115, "setdomainname": 121, "create_module": 127, "init_module": 128,
        "delete_module": 129, "get_kernel_syms": 130, "quotactl": 131, "sysfs": 135, "_sysctl": 149, "vm86": 166,
        "query_module": 167, "nfsservctl": 169, "pivot_root": 217, "lookup_dcookie": 253, "clock_settime": 264,
        "mbind": 274, "set_mempolicy": 276, "kexec_load": 283, "add_key": 286, "request_key": 287, "keyctl": 288,
        "migrate_pages": 294, "unshare": 310, "move_pages": 317, "perf_event_open": 336, "fanotify_init": 338,
        "open_by_handle_at": 342, "setns": 346, "kcmp": 349, "finit_module": 350, "bpf": 357, "userfaultfd": 374,
        "clock_settime64": 404,
    },
    {"sync": 36, "fsync": 118, "fdatasync": 148, "sync_file_range": 314, "syncfs": 344},
    120, 136, 359,
)  # fmt: skip
_AARCH64 = Table(
    0xC00000B7,
    {
        "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42, "vhangup": 58,
        "quotactl": 60, "acct": 89, "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106,
        "clock_settime": 112, "syslog": 116, "reboot": 142, "sethostname": 161, "setdomainname": 162,
        "settimeofday": 170, "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224, "swapoff": 225,
        "mbind": 235, "set_mempolicy": 237, "migrate_pages": 238, "move_pages": 239, "perf_event_open": 241,
        "fanotify_init": 262, "open_by_handle_at": 265, "setns": 268, "kcmp": 272, "finit_module": 273, "bpf": 280,
        "userfaultfd": 282, "kexec_file_load": 294,
    },
    {"sync": 81, "fsync": 82, "fdatasync": 83, "sync_file_range": 84, "syncfs": 267},
    220, 92, 198,
)  # fmt: skip
# arch/arm/tools/syscall.tbl; for armhf on a 64-bit kernel
_ARM = Table(
    0x40000028,
    {
        "mount": 21, "acct": 51, "umount2": 52, "ustat": 62, "sethostname": 74, "settimeofday": 79, "uselib": 86,
        "swapon": 87, "reboot": 88, "syslog": 103, "vhangup": 111, "swapoff": 115, "setdomainname": 121,
        "init_module": 128, "delete_module": 129, "quotactl": 131, "sysfs": 135, "_sysctl": 149, "nfsservctl": 169,
        "pivot_root": 218, "lookup_dcookie": 249, "clock_settime": 262, "add_key": 309, "request_key": 310,
        "keyctl": 311, "mbind": 319, "set_mempolicy": 321, "unshare": 337, "move_pages": 344, "kexec_load": 347,
        "perf_event_open": 364, "fanotify_init": 367, "open_by_handle_at": 371, "setns": 375, "kcmp": 378,
        "finit_module": 379, "bpf": 386, "userfaultfd": 388, "migrate_pages": 400, "kexec_file_load": 401,
        "clock_settime64": 404,
    },
    {"sync": 36, "fsync": 118, "fdatasync": 148, "sync_file_range2": 341, "syncfs": 373},
    120, 136, 281,
)  # fmt: skip
DENIED = frozenset([*_X86_64.denied, *_I386.denied, *_AARCH64.denied, *_ARM.denied])  # by name, on any architecture
TABLES = {"x86_64": (_X86_64, _I386), "aarch64": (_AARCH64, _ARM)}

Line = tuple[int, int, int, int]


def program(tables: tuple[Table, ...], *, syncs: bool = True) -> list[Line]:
    """Return the filter's instructions; a call by the numbers of an architecture not among the tables is ENOSYS.

    syncs: calls that wait for the disk do so; else they do nothing and succeed.
    """
    lines: list[Line] = [(_LOAD, 0, 0, _ARCH)]
    for table in tables:
        body = _body(table, syncs)
        lines += [(_EQUAL, 1, 0, table.audit), (_GO, 0, 0, len(body)), *body]
    return [*lines, (_RETURN, 0, 0, _ERRNO | _ENOSYS)]


def _body(table: Table, syncs: bool) -> list[Line]:
    refuse: Line = (_RETURN, 0, 0, _ERRNO | _EPERM)
    lines: list[Line] = [(_LOAD, 0, 0, _NUMBER)]
    if table is _X86_64:
        lines += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    for number in table.denied.values():
        lines += [(_EQUAL, 0, 1, number), refuse]
    if not syncs:
        for number in table.syncs.values():
            lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO)]  # errno 0: done
    # glibc takes clone where clone3, whose flags lie in memory that a filter cannot read, is not there.
    lines += [(_EQUAL, 0, 1, table.clone3), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    allow: Line = (_RETURN, 0, 0, _ALLOW)
    lines += [(_EQUAL, 0, 4, table.clone), (_LOAD, 0, 0, _FIRST), (_BITS, 0, 1, _NAMESPACES), refuse, allow]
    lines += [(_EQUAL, 0, 4, table.socket), (_LOAD, 0, 0, _FIRST), (_EQUAL, 0, 1, _AF_VSOCK), refuse, allow]
    known: list[Line] = []
    for value in _PERSONALITIES:
        known += [(_EQUAL, 0, 1, value), allow]
    lines += [(_EQUAL, 0, len(known) + 2, table.personality), (_LOAD, 0, 0, _FIRST), *known, refuse]
    return [*lines, allow]


def install(machine: str, *, syncs: bool = True) -> bool:
    """Install the filter in this process and all that it starts; return False where its numbers are not known here.

    syncs: as `program` takes it. Needs CAP_SYS_ADMIN. Raises OSError.
    """
    tables = TABLES.get(machine)
    if tables is None:
        return False
    seccomp.load(program(tables, syncs=syncs))
    return True
