"""The file systems of the kernel's own as a sandbox and a container show them: a small /dev, and what /proc hides.

Quick parts of the standard library only: see `mkroot.rootfs.sandbox_init` and `mkroot.container.init`.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os

from mkroot.rootfs import linux

QUIET = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
NODES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
# What tells of the host or changes it without any capability: the paths that Docker masks and makes read-only, and
# beside these the kernel's addresses and messages.
HIDDEN = (
    "proc/acpi", "proc/asound", "proc/interrupts", "proc/kallsyms", "proc/kcore", "proc/key-users", "proc/keys",
    "proc/kmsg", "proc/latency_stats", "proc/sched_debug", "proc/scsi", "proc/timer_list", "proc/timer_stats",
)  # fmt: skip
HIDDEN_SYS = ("sys/devices/virtual/powercap", "sys/firmware")
READ_ONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger")


def fill_dev(limits: list[str]) -> None:
    """Make the nodes, links and pseudo-terminals of the /dev that is the current folder; raises OSError.

    The nodes are the host's, bound and not made: it works in a user namespace, and the file system can stay without
    devices, so that no node which a command makes opens. limits: takes what the host does not give.
    """
    for name in NODES:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        try:
            linux.mount("/dev/" + name, name, None, linux.MS_BIND)
        except OSError:
            os.unlink(name)
            limits.append(f"the host has no /dev/{name} to show")
    for name, target in _LINKS:
        os.symlink(target, name)
    os.mkdir("pts", 0o755)
    for options in ("newinstance,ptmxmode=0666,mode=620,gid=5", "newinstance,ptmxmode=0666,mode=620"):
        try:
            linux.mount("devpts", "pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, options)
            break
        except OSError as e:
            if e.errno != errno.EINVAL:  # gid 5 does not exist where there is one id only
                raise


def mask(null: str, *, sysfs: bool) -> None:
    """Hide and fix what of /proc and /sys is the host's, in the root that is the current folder; raises OSError.

    null: the path of a /dev/null. sysfs: whether /sys is the kernel's, and not a folder of the root.
    """
    for path in READ_ONLY:
        if os.path.lexists(path):
            linux.mount(path, path, None, linux.MS_BIND | linux.MS_REC)
            linux.mount_setattr(path, linux.MOUNT_ATTR_RDONLY)
    for path in (*HIDDEN, *HIDDEN_SYS) if sysfs else HIDDEN:
        if os.path.isdir(path):
            linux.mount("tmpfs", path, "tmpfs", QUIET | linux.MS_RDONLY, "size=0k")
        elif os.path.lexists(path):
            linux.mount(null, path, None, linux.MS_BIND)


def loopback_up() -> None:
    """Bring the loopback device of this network namespace up; raises OSError."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        fcntl.ioctl(sock.fileno(), 0x8914, b"lo".ljust(16, b"\0") + b"\x49\0".ljust(24, b"\0"))  # SIOCSIFFLAGS, UP …
    finally:
        sock.close()
