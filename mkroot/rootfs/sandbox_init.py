"""Process 1 of a sandbox: makes it, starts the commands that it is told to, and ends everything when mkroot ends.

It runs in a Python of its own with nothing but `mkroot.rootfs.linux` and quick parts of the standard library, so that
it starts in a few milliseconds and holds nothing of mkroot's memory, environment or descriptors.
"""
# ruff: noqa: SIM105  (contextlib costs more to import than all that is done here)

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs milliseconds more
import _socket
import errno
import fcntl
import marshal
import os
import resource
import select
import sys

from mkroot.rootfs import emulator, filter, linux, pathcalls, seccomp
from mkroot.rootfs.sandbox_setup import Setup

CONTROL, ALIVE = 3, 4  # descriptors given: the socket to mkroot; a pidfd of mkroot, where the kernel has such
MESSAGE = 1 << 18  # bytes of a message at most

# What maintainer scripts do needs these; what reaches the host's kernel, devices, clock, modules and other processes
# is not among them. dac_read_search stays out: it opens files by handle, past every mount namespace. mknod makes
# nodes that nothing can open, because every file system here is mounted nodev.
_KEPT = "chown dac_override fowner fsetid kill setgid setuid setpcap setfcap mknod sys_chroot audit_write"
KEPT_CAPABILITIES = frozenset([*_KEPT.split(), "net_bind_service"])


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


def _filter(limits: list[str]) -> None:
    """Refuse the system calls that neither a script nor this process needs from here on; raises OSError.

    Those that wait for the disk are not made, either: what is built here is captured or thrown away.
    """
    try:
        if not filter.install(os.uname().machine, syncs=False):
            limits.append(f"no system call is refused, for those of {os.uname().machine} are not known")
    except OSError as e:
        if e.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        limits.append("no system call is refused, for this kernel has no seccomp filters")


# ---- commands


def _become(request: dict[str, object], fds: list[int], report: int, root: int) -> None:
    """In the child: take the descriptors, and become the command; returns never."""
    os.setsid()
    numbers = request["fds"]
    argv, environment, user = request["argv"], request["environment"], request["user"]
    assert isinstance(numbers, list)
    assert isinstance(argv, list)
    assert isinstance(environment, dict)
    top = max([2, *numbers]) + 1
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, top + 1) for fd in fds]
    root = fcntl.fcntl(root, fcntl.F_DUPFD, top + 1)
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, top + 1)
    os.dup2(report, top, inheritable=False)
    for n in range(top):
        if n not in numbers:
            os.dup2(0, n) if n < 3 else _close(n)
    for fd, n in zip(high, numbers, strict=True):
        os.dup2(fd, n)
    root = os.dup2(root, top + 1)
    linux.close_from(top + 2)
    os.set_inheritable(root, False)
    for number in (_signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ):  # what this Python ignores
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    os.umask(0o022)
    try:
        os.fchdir(root)
        os.chroot(".")
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

    def __init__(self, root: int) -> None:
        self._root = root
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
                _become(request, fds, report, self._root)
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


def _leave_root() -> int:
    """Return a descriptor of the root, and go to a root of process 1's own.

    ischroot(1) compares its root with that of process 1. Scripts ask it before they signal init or restart services:
    that of Ubuntu's libc6 waits a second for an init that it believes to be there. This is a chroot in all but name.
    """
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chroot("/dev")
    os.chdir("/")
    return root


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
        try:
            setup.make()
        except emulator.Cannot as e:
            control.send(
                "\0".join(["foreign", e.step, str(e.number), *setup.created]).encode("utf-8", "surrogateescape")
            )
            return
        linux.forget_command_line()
        _limit_resources()
        linux.limit_capabilities(KEPT_CAPABILITIES)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        _filter(setup.limits)
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
    elif setup.devices and setup.emulated >= 0:
        try:
            listener.append(seccomp.install_devices())
        except OSError:
            setup.limits.append("no device can be made, for seccomp user notification is not to be had")
    elif setup.watched:
        try:
            listener.append(seccomp.load(pathcalls.program(follow=setup.watched == "follow"), seccomp.LISTENER))
        except OSError:
            setup.limits.append("scripts are not followed, for seccomp user notification is not to be had")
    answer = ["ready", str(len(setup.created)), *setup.created, *setup.limits]
    extra = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder)) for fd in listener]
    control.sendmsg(["\0".join(answer).encode("utf-8", "surrogateescape")], extra)
    for fd in listener:
        os.close(fd)
    control.close()
    Server(_leave_root()).serve()
