"""The Linux system calls that Python 3.11 does not offer; the standard library only, and quick to import."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

# sched.h, mount(2), fsopen(2), openat2(2), capabilities(7): the kernel's own numbers, equal on every architecture.
CLONE_FS, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x200, 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 0x20
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 0x400, 0x800, 0x1000, 0x4000, 0x40000, 0x200000
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_SET_FD, FSCONFIG_CMD_CREATE = 0, 1, 5, 6
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_SYMLINKS = 4, 0x10
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 2, 4, 8, 16
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 23, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

# System calls since 5.1 have one number everywhere (but on alpha).
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_PIDFD_OPEN, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 434, 436, 437, 442

_NAMES = """
chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service
net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin
sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override
mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
"""
CAPABILITIES = _NAMES.split()  # by number (capabilities(7))

_AGAIN = 1000  # tries of openat2(2): a rename or mount anywhere on the host while it walks a `..` makes it say EAGAIN

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int, name: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call by number; integers go as machine words, bytes as pointers."""
    words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _check(int(_syscall(ctypes.c_long(number), *words)))


def write_out(fd: int) -> None:
    """Have what was written to a file go to the disk while there is other work (sync_file_range(2)); no promise."""
    with contextlib.suppress(AttributeError):
        _libc.sync_file_range(ctypes.c_int(fd), ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(2))


def unshare(flags: int) -> None:
    """Leave the namespaces named by the CLONE_ flags; raises OSError."""
    _check(_libc.unshare(ctypes.c_int(flags)))


def setns(fd: int, kind: int = 0) -> None:
    """Enter the namespace behind `fd`; raises OSError."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)))


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2); raises OSError that names the target."""
    _check(
        _libc.mount(_bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), ctypes.c_char_p(_bytes(data))),
        target,
    )


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2); raises OSError that names the target."""
    _check(_libc.umount2(_bytes(target), ctypes.c_int(flags)), target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2); raises OSError."""
    _check(_libc.pivot_root(_bytes(new), _bytes(old)))


def prctl(option: int, argument: int = 0, third: int = 0) -> int:
    """prctl(2) with up to two arguments; raises OSError."""
    rest = (ctypes.c_ulong(argument), ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0))
    return _check(_libc.prctl(ctypes.c_int(option), *rest))


def set_name(name: bytes) -> None:
    """Set the name that /proc/PID/comm shows of this thread, up to 15 bytes; raises OSError."""
    _check(_libc.prctl(ctypes.c_int(15), ctypes.c_char_p(name), *[ctypes.c_ulong(0)] * 3))  # PR_SET_NAME


def forget_command_line() -> None:
    """Call this process `mkroot` and nothing else: /proc/PID/cmdline would tell where mkroot lies on the host."""
    set_name(b"mkroot")
    try:
        with open("/proc/self/stat", "rb") as f:
            fields = f.read().rpartition(b") ")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end (proc(5), fields 48 and 49)
    except (OSError, IndexError, ValueError):
        return
    if 0 < start < end < start + (1 << 16):
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, b"mkroot", min(6, end - start - 1))


def sethostname(name: str) -> None:
    """Set the host name of this UTS namespace; raises OSError."""
    raw = os.fsencode(name)
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))))


def fsopen(kind: str) -> int:
    """Return a descriptor of a new file system context (fsopen(2), Linux 5.2); raises OSError."""
    return _call(_FSOPEN, _bytes(kind), 1)


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None, auxiliary: int = 0) -> None:
    """Set an option of a file system context, or create the file system (fsconfig(2)); raises OSError."""
    _call(_FSCONFIG, fd, command, _bytes(key), _bytes(value), auxiliary)


def fsmount(fd: int, attributes: int = 0) -> int:
    """Return a descriptor of a detached mount of the file system made in a context (fsmount(2)); raises OSError."""
    return _call(_FSMOUNT, fd, 1, attributes)


def move_mount(fd: int, target: str) -> None:
    """Attach the detached mount `fd` at `target` (move_mount(2)); raises OSError."""
    _call(_MOVE_MOUNT, fd, b"", AT_FDCWD, _bytes(target), MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS)


def pidfd_open(pid: int) -> int:
    """Return a descriptor that becomes readable when the process ends (Linux 5.3); raises OSError."""
    return _call(_PIDFD_OPEN, pid, 0)


def seccomp(number: int, operation: int, flags: int, program: int) -> int:
    """seccomp(2), whose number differs by architecture; `program` is an address; raises OSError."""
    return _call(number, operation, flags, program)


def close_from(first: int) -> None:
    """Close every descriptor from `first` on."""
    try:
        _call(_CLOSE_RANGE, first, 0x7FFFFFFF, 0)
    except OSError:
        os.closerange(first, min(os.sysconf("SC_OPEN_MAX"), 1 << 20))


class _MountAttr(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount_setattr(path: str, attributes: int, *, recursive: bool = False) -> None:
    """Add MOUNT_ATTR_ flags to the mount at `path`, keeping those it has.

    Before Linux 5.12 by a remount, which takes the flags that statvfs tells; raises OSError.
    """
    given = _MountAttr(attributes, 0, 0, 0)
    try:
        flags = ctypes.c_long(AT_RECURSIVE if recursive else 0)
        words = (ctypes.c_long(AT_FDCWD), ctypes.c_char_p(_bytes(path)), flags, ctypes.byref(given))
        _check(int(_syscall(ctypes.c_long(_MOUNT_SETATTR), *words, ctypes.c_size_t(32))), path)
    except OSError as e:
        if e.errno != errno.ENOSYS:
            raise
        # ST_ and MS_ agree up to MS_NOEXEC, the atime flags too; ST_RELATIME is 0x1000 (statvfs(3)).
        now = os.statvfs(path).f_flag
        kept = now & (15 | MS_NOATIME | MS_NODIRATIME) | (MS_RELATIME if now & 0x1000 else 0)
        mount(None, path, None, MS_REMOUNT | MS_BIND | kept | attributes)


class _OpenHow(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("flags", "mode", "resolve")]


def _openat2(at: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    words = (ctypes.c_long(at), ctypes.c_char_p(_bytes(path)), ctypes.byref(how), ctypes.c_size_t(24))
    result = -1
    for _ in range(_AGAIN):
        result = int(_syscall(ctypes.c_long(_OPENAT2), *words))
        if result >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(result, path)


def open_beneath(at: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` below the folder `at`, following no symlink at all; raises OSError (ELOOP at a symlink).

    Where openat2 is not to be had, the folders are opened one by one, which gives the same.
    """
    path = path.strip("/") or "."
    try:
        return _openat2(at, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError as e:
        if e.errno not in (errno.ENOSYS, errno.EPERM):  # a container's seccomp filter may answer EPERM
            raise
    return _open_stepwise(at, path, flags, mode)


def open_in_root(at: int, path: str, flags: int) -> int:
    """Open `path` as it is found by a process whose root is the folder `at` (openat2); raises OSError."""
    return _openat2(at, path, flags, 0, RESOLVE_IN_ROOT)


def _open_stepwise(at: int, path: str, flags: int, mode: int) -> int:
    names = path.split("/")
    if ".." in names:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    folder = at
    try:
        for name in names[:-1]:
            inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            if folder != at:
                os.close(folder)
            folder = inner
        return os.open(names[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
    except NotADirectoryError as e:  # O_DIRECTORY is looked at before O_NOFOLLOW: a symlink says ENOTDIR
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from e
    finally:
        if folder != at:
            os.close(folder)


def capabilities() -> int:
    """Return this process's effective capabilities as a bit set."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, data))
    return int(data[0]) | int(data[3]) << 32


def has_capability(name: str) -> bool:
    """Tell whether this process has the capability in effect, by its lower-case name without `cap_`."""
    return bool(capabilities() >> CAPABILITIES.index(name) & 1)


def limit_capabilities(names: frozenset[str]) -> None:
    """Take every capability but `names` from what programs started from here can ever get; raises OSError.

    The calling process keeps its own until it executes another program.
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, data))
    data[2] = data[5] = 0  # nothing inheritable
    _check(_libc.capset(header, data))
    number = 0
    while True:
        try:
            prctl(PR_CAPBSET_READ, number)
        except OSError:
            return  # past the last one that this kernel knows
        if number >= len(CAPABILITIES) or CAPABILITIES[number] not in names:
            prctl(PR_CAPBSET_DROP, number)
        number += 1


class _Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Return up to `size` bytes of another process's memory (process_vm_readv(2)); raises OSError."""
    data = bytearray(size)
    ours = _Piece(ctypes.addressof(ctypes.c_char.from_buffer(data)), size)
    theirs = _Piece(address, size)
    done = _libc.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    return bytes(data[: _check(int(done))])


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Write into another process's memory (process_vm_writev(2)); raises OSError."""
    buffer = ctypes.create_string_buffer(data, len(data))
    ours, theirs = _Piece(ctypes.addressof(buffer), len(data)), _Piece(address, len(data))
    if _check(int(_libc.process_vm_writev(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))) != len(data):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
