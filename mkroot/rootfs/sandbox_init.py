"""Process 1 of a sandbox: makes it, starts the commands that it is told to, and ends everything when mkroot ends.

It runs in a Python of its own with nothing but `mkroot.rootfs.linux` and quick parts of the standard library, so that
it starts in a few milliseconds and holds nothing of mkroot's memory, environment or descriptors.
"""
# ruff: noqa: SIM105  (contextlib costs more to import than all that is done here)

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs milliseconds more
import _socket
import ctypes
import errno
import fcntl
import marshal
import os
import resource
import select
import sys

from mkroot.rootfs import linux, seccomp

CONTROL, ALIVE = 3, 4  # descriptors given: the socket to mkroot; a pidfd of mkroot, where the kernel has such
MESSAGE = 1 << 18  # bytes of a message at most
STAGING = "/dev/.mkroot"

# What maintainer scripts do needs these; what reaches the host's kernel, devices, clock, modules and other processes
# is not among them. dac_read_search stays out: it opens files by handle, past every mount namespace. mknod makes
# nodes that nothing can open, because every file system here is mounted nodev.
_KEPT = "chown dac_override fowner fsetid kill setgid setuid setpcap setfcap mknod sys_chroot audit_write"
KEPT_CAPABILITIES = frozenset([*_KEPT.split(), "net_bind_service"])
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


def _forget_command_line() -> None:
    """Overwrite this process's own arguments: /proc/1/cmdline would tell where mkroot lies on the host."""
    linux.set_name(b"mkroot")
    try:
        with open("/proc/self/stat", "rb") as f:
            fields = f.read().rpartition(b") ")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end (proc(5), fields 48 and 49)
    except (OSError, IndexError, ValueError):
        return
    if 0 < start < end < start + (1 << 16):
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, b"mkroot", min(6, end - start - 1))


def _default_signals() -> None:
    """Take back what was ignored where mkroot was started (nohup); SIGINT stays ignored in process 1."""
    for number in range(1, _signal.NSIG):
        try:
            if number != _signal.SIGPIPE:
                _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # SIGKILL, SIGSTOP and those of the C library
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)


def _limit_resources() -> None:
    """Set what the host's shell may have changed: scripts see the limits that Debian's default shell gives."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # 1024 and not a million: dpkg and perl close every possible descriptor before they start a program.
    top = hard if hard != resource.RLIM_INFINITY and hard < 524288 else 524288
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, top), top))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stack = resource.getrlimit(resource.RLIMIT_STACK)[1]
    soft = 8 << 20 if stack == resource.RLIM_INFINITY else min(8 << 20, stack)
    resource.setrlimit(resource.RLIMIT_STACK, (soft, stack))


# ---- commands


def _become(request: dict[str, object], fds: list[int], report: int) -> None:
    """In the child: take the descriptors, and become the command; returns never."""
    os.setsid()
    numbers = request["fds"]
    argv, environment, user = request["argv"], request["environment"], request["user"]
    assert isinstance(numbers, list)
    assert isinstance(argv, list)
    assert isinstance(environment, dict)
    top = max([2, *numbers]) + 1
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, top + 1) for fd in fds]
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, top + 1)
    os.dup2(report, top, inheritable=False)
    for n in range(top):
        if n not in numbers:
            os.dup2(0, n) if n < 3 else _close(n)
    for fd, n in zip(high, numbers, strict=True):
        os.dup2(fd, n)
    linux.close_from(top + 1)
    for number in (_signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ):  # what this Python ignores
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    os.umask(0o022)
    try:
        if isinstance(user, tuple):
            os.setgroups(user[2:] or user[1:2])
            os.setresgid(user[1], user[1], user[1])
            os.setresuid(user[0], user[0], user[0])
        else:
            _drop_groups()
        os.chdir(str(request["cwd"]))
        _execute(argv, environment)
    except OSError as e:
        os.write(top, str(e.errno).encode())
    os._exit(127)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


def _drop_groups() -> None:
    try:
        os.setgroups([0])
    except OSError:
        pass  # forbidden where there is one id only


def _execute(argv: list[str], environment: dict[str, str]) -> None:
    if "/" in argv[0]:
        os.execve(argv[0], argv, environment)
    fault = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in environment.get("PATH", "").split(":"):
        try:
            os.execve(f"{folder}/{argv[0]}", argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as e:
            fault = e
    raise fault


class Server:
    """Takes requests from the control socket, one at a time, and answers each when all it started is gone."""

    def __init__(self) -> None:
        self._control = _socket.socket(fileno=CONTROL)
        self._main = 0
        self._report = -1
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake, False)
        _signal.signal(_signal.SIGCHLD, lambda number, frame: None)
        _signal.set_wakeup_fd(wake)

    def serve(self) -> None:
        """Serve until mkroot closes the socket or ends."""
        poll = select.poll()
        poll.register(CONTROL, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            os.fstat(ALIVE)
            poll.register(ALIVE, select.POLLIN)
        except OSError:
            pass  # before Linux 5.3: the socket alone tells
        while True:
            for fd, _ in poll.poll():
                if fd == ALIVE:
                    return
                if fd == self._wake:
                    os.read(self._wake, 512)
                    self._reap()
                elif not self._request():
                    return

    def _request(self) -> bool:
        size = _socket.CMSG_SPACE(16 * 4)
        data, extra, _, _ = self._control.recvmsg(MESSAGE, size, _socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        fds: list[int] = []
        for _, kind, raw in extra:
            if kind == _socket.SCM_RIGHTS:
                fds += [int.from_bytes(raw[i : i + 4], sys.byteorder) for i in range(0, len(raw) // 4 * 4, 4)]
        request = marshal.loads(data)
        self._report, report = os.pipe()
        self._main = os.fork()
        if self._main == 0:
            try:
                _become(request, fds, report)
            finally:
                os._exit(127)
        for fd in [*fds, report]:
            os.close(fd)
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._main:
                self._finish(status)

    def _finish(self, status: int) -> None:
        """The command has ended: end what it left behind, then say so."""
        self._main = 0
        left = 0
        try:
            os.kill(-1, _signal.SIGKILL)
            while True:
                os.waitpid(-1, 0)
                left += 1
        except (ProcessLookupError, ChildProcessError):
            pass
        fault = os.read(self._report, 16)
        os.close(self._report)
        self._control.send(b"done %d %d %d" % (os.waitstatus_to_exitcode(status), int(fault or b"0"), left))


def main() -> None:
    """Make the sandbox as the first message says, answer whether it stands, and serve."""
    linux.close_from(ALIVE + 1)
    _default_signals()
    os.umask(0)
    control = _socket.socket(fileno=os.dup(CONTROL))
    data = control.recv(MESSAGE)
    if not data:
        return
    setup = Setup(marshal.loads(data))
    try:
        setup.make()
        _forget_command_line()
        _limit_resources()
        linux.limit_capabilities(KEPT_CAPABILITIES)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
    except OSError as e:
        names = "\0".join(setup.created)
        control.send(f"fail\0{e.errno}\0{e.strerror}: {e.filename or ''}\0{names}".encode("utf-8", "surrogateescape"))
        return
    listener: list[int] = []
    if setup.single:
        try:
            listener.append(seccomp.install(notify=True))
        except OSError:
            setup.limits.append(
                "owners other than root are not recorded, for seccomp user notification is not to be had"
            )
            try:
                seccomp.install(notify=False)
            except OSError:
                setup.limits[-1] = "nothing can be given to another owner than root, for seccomp is not to be had"
    answer = ["ready", str(len(setup.created)), *setup.created, *setup.limits]
    extra = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder)) for fd in listener]
    control.sendmsg(["\0".join(answer).encode("utf-8", "surrogateescape")], extra)
    for fd in listener:
        os.close(fd)
    control.close()
    Server().serve()
