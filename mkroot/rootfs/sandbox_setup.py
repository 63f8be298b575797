"""Makes the mounts and namespaces of a sandbox around the process that is to be its process 1.

Quick parts of the standard library only: see `mkroot.rootfs.sandbox_init`.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os

from mkroot.rootfs import linux

STAGING = "/dev/.mkroot"
_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
# As in the OCI runtime specification's usual lists: what tells of the host, or changes it without any capability.
_PROC_HIDDEN = ("kcore", "keys", "key-users", "kmsg", "latency_stats", "sched_debug", "timer_list", "kallsyms")
_PROC_HIDDEN_FOLDERS = ("acpi", "asound", "scsi")
_PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


class Setup:
    """Makes the sandbox around this process.

    created: what had to be made in the root to mount upon, each as the folder's mtime before and after (nanoseconds)
    and the path; mkroot removes it when the sandbox has ended.
    limits: what this host did not give.
    """

    def __init__(self, config: dict[str, object]) -> None:
        self.root = str(config["root"])
        self.network = bool(config["network"])
        self.sysfs = bool(config["sysfs"])
        self.hostname = str(config["hostname"])
        self.single = bool(config["single"])
        files = config["files"]
        assert isinstance(files, list)
        self.files: list[tuple[str, bytes, int, bool]] = files
        self.created: list[str] = []
        self.limits: list[str] = []
        self._at = -1

    def make(self) -> None:
        """Do all of it; raises OSError."""
        flags = linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
        linux.unshare(flags if self.network else flags | linux.CLONE_NEWNET)
        try:
            linux.unshare(linux.CLONE_NEWCGROUP)  # hides the host's cgroup names; nothing in cgroups is changed
        except OSError:
            self.limits.append("the names of the host's control groups are visible in /proc")
        linux.sethostname(self.hostname)
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(self.root, self.root, None, linux.MS_BIND | linux.MS_REC)
        linux.mount_setattr(self.root, linux.MOUNT_ATTR_NODEV, recursive=True)
        self._at = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._dev()
        self._proc()
        if self.sysfs:
            self._sys()
        os.fchdir(self._at)
        os.close(self._at)
        linux.pivot_root(".", ".")
        linux.umount(".", linux.MNT_DETACH)
        os.chdir("/")
        for target, content, mode, make in self.files:
            self._file(target, content, mode, make)
        os.rmdir(STAGING)
        if not self.network:
            _loopback_up()

    def _made(self, path: str, folder: str, before: int) -> None:
        """Note what was made, with the time of its folder before and after."""
        self.created.append(f"{before} {os.stat(folder).st_mtime_ns} {path}")

    def _enter(self, name: str) -> None:
        """Go into a folder of the root, making it where it is missing; never through a symlink."""
        os.fchdir(self._at)
        try:
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            before = os.stat(".").st_mtime_ns
            os.mkdir(name, 0o755)
            self._made("/" + name, ".", before)
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.fchdir(fd)
        os.close(fd)

    def _cover(self, name: str, kind: str, flags: int, options: str | None) -> None:
        """Mount a file system on a folder of the root and go into it."""
        self._enter(name)
        linux.mount(kind, ".", kind, flags, options)
        os.fchdir(self._at)
        os.chdir(name)

    def _dev(self) -> None:
        self._cover("dev", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=64m")
        for name, source in [*((n, n) for n in _NODES), ("console", "null")]:
            # Bound, not made: it works in a user namespace, and the tmpfs can stay nodev.
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
            try:
                linux.mount("/dev/" + source, name, None, linux.MS_BIND)
            except OSError:
                os.unlink(name)
                self.limits.append(f"the host has no /dev/{name} to show")
        for name, target in _LINKS:
            os.symlink(target, name)
        os.mkdir("shm", 0o1777)
        os.mkdir("pts", 0o755)
        for options in ("newinstance,ptmxmode=0666,mode=620,gid=5", "newinstance,ptmxmode=0666,mode=620"):
            try:
                linux.mount("devpts", "pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, options)
                break
            except OSError as e:
                if e.errno != errno.EINVAL:  # gid 5 does not exist where there is one id only
                    raise
        os.mkdir(os.path.basename(STAGING), 0o700)

    def _proc(self) -> None:
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        try:
            self._cover("proc", "proc", flags, None)
        except PermissionError:
            # A container whose /proc has covered parts gives no fresh one (mount_too_revealing in fs/namespace.c).
            self._enter("proc")
            linux.mount("/proc", ".", None, linux.MS_BIND | linux.MS_REC)
            os.fchdir(self._at)
            os.chdir("proc")
            self.limits.append("/proc is the host's, for this container gives no fresh one")
        for name in _PROC_READ_ONLY:
            if os.path.lexists(name):
                linux.mount(name, name, None, linux.MS_BIND | linux.MS_REC)
                linux.mount_setattr(name, linux.MOUNT_ATTR_RDONLY)
        for name in _PROC_HIDDEN:
            if os.path.lexists(name):
                linux.mount("/dev/null", name, None, linux.MS_BIND)
        for name in _PROC_HIDDEN_FOLDERS:
            if os.path.lexists(name):
                linux.mount("tmpfs", name, "tmpfs", flags | linux.MS_RDONLY, "size=0")

    def _sys(self) -> None:
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC | linux.MS_RDONLY
        try:
            self._cover("sys", "sysfs", flags, None)
        except PermissionError:
            self.limits.append("/sys is empty, for this host gives no fresh one")

    def _file(self, target: str, content: bytes, mode: int, make: bool) -> None:
        """Show a read-only file in place of `target`, leaving the one below as it is."""
        target = os.path.realpath(target)
        if os.path.isfile(target):
            with open(target, "rb") as f:
                if f.read(len(content) + 1) == content:
                    return  # the scaffold's own
        elif not make or os.path.lexists(target) or not os.path.isdir(os.path.dirname(target)):
            return
        else:
            before = os.stat(os.path.dirname(target)).st_mtime_ns
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
            self._made(target, os.path.dirname(target), before)
        source = f"{STAGING}/file"
        fd = os.open(source, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
        os.write(fd, content)
        os.fchmod(fd, mode)
        os.close(fd)
        linux.mount(source, target, None, linux.MS_BIND)
        linux.mount_setattr(target, linux.MOUNT_ATTR_RDONLY)
        os.unlink(source)


def _loopback_up() -> None:
    s = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        fcntl.ioctl(s.fileno(), 0x8914, b"lo".ljust(16, b"\0") + b"\x49\0".ljust(24, b"\0"))  # SIOCSIFFLAGS, IFF_UP …
    except OSError:
        pass  # nothing listens in here anyway
    finally:
        s.close()
