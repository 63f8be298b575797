"""Process 1 of a container: makes it, starts commands in it, reaps what ends, and ends everything when it is time.

It runs in a Python of its own with nothing but `mkroot.rootfs.linux` and quick parts of the standard library, so that
it starts in a few milliseconds and holds nothing of mkroot's memory, environment or descriptors.

Messages (`Wire`), the first word says which:
    to it:   setup CONFIG            make the container; only on FIRST, before anything else
             start REQUEST + fds     start a command; fds are its stdin, stdout, stderr unless it gets a terminal
             signal NUMBER           to the command of this connection
             stop NUMBER             to the main command, from any connection
    from it: ready LIMITS [+ fd]     it stands; the descriptor answers changes of owner (`mkroot.rootfs.owners`)
             fail ERRNO TEXT
             foreign STEP ERRNO      its programs do not run here (`mkroot.rootfs.foreign.missing`)
             terminal + fd           the master of the command's terminal
             done STATUS ERRNO STEP  it has ended; ERRNO and STEP where it could not be executed
"""
# ruff: noqa: SIM105  (contextlib costs more to import than all that is done here)

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs milliseconds more
import _socket
import errno
import fcntl
import os
import select
import termios

from mkroot.container import crun
from mkroot.container.console import CrunTerminal, Terminal
from mkroot.container.setup import Setup
from mkroot.container.signals import default_signals
from mkroot.container.wire import Wire
from mkroot.rootfs import emulator, filter, linux, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Descriptors given: the listening socket, a pipe that ends with mkroot, the connection to it.
LISTEN, ALIVE, FIRST = 3, 4, 5

_MOMENT = 20  # milliseconds

# What Docker leaves to a container.
_KEPT = "chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod"
CAPABILITIES = frozenset([*_KEPT.split(), "audit_write", "setfcap"])


# ---- a command


def _become(request: dict[str, Any], fds: list[int], terminal: bool, report: int, single: bool) -> None:
    """In the child: take the descriptors, and become the command; returns never."""
    step = "session"
    try:
        os.setsid()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        default_signals()
        os.umask(0o022)
        step = "filter"
        try:
            filter.install(os.uname().machine)
        except OSError as e:
            if e.errno not in (errno.ENOSYS, errno.EINVAL):  # a kernel without seccomp
                raise
        step = "user"
        linux.limit_capabilities(CAPABILITIES)
        uid, gid, groups = request["uid"], request["gid"], request["groups"]
        if not single:
            os.setgroups(sorted({gid, *groups}))
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        step = "workdir"
        os.chdir(str(request["workdir"]))
        step = "execute"
        _execute(request["argv"], request["environment"])
    except OSError as e:
        os.write(report, f"{e.errno} {step}".encode())
    os._exit(127)


def _execute(argv: tuple[str, ...], environment: dict[str, str]) -> None:
    """Execute a command, looked up in PATH where it has no slash; raises OSError, EACCES before ENOENT."""
    if "/" in argv[0]:
        os.execve(argv[0], argv, environment)
    fault = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in environment.get("PATH", "/usr/bin:/bin").split(":"):
        try:
            os.execve(f"{folder or '.'}/{argv[0]}", argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as e:
            fault = e
    raise fault


class _Command:
    """A command that runs, and the connection that asked for it. number: what crun's files for it are called by."""

    def __init__(self, wire: Wire, pid: int, report: int, number: int) -> None:
        self.wire, self.pid, self.report, self.number = wire, pid, report, number


class Server:
    """Serves connections until the main command has ended or mkroot is gone."""

    def __init__(self, first: Wire, config: dict[str, Any]) -> None:
        self._first, self._single = first, bool(config["single"])
        self._crun: crun.Crun | None = None
        if config["crun"]:
            self._crun = crun.Crun(config["crun"], config["bundle"], CAPABILITIES)
        self._wires: dict[int, Wire] = {first.fileno(): first}
        self._commands: dict[int, _Command] = {}  # by connection
        self._count = 0
        self._unwatched = 0  # the number of the main command that crun is about to start
        self._main = -1  # a descriptor that tells when it has ended
        self._ending = False
        self._listener = _socket.socket(fileno=LISTEN)
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake, False)
        _signal.signal(_signal.SIGCHLD, lambda number, frame: None)
        _signal.set_wakeup_fd(wake)
        self._poll = select.poll()
        for fd in (LISTEN, ALIVE, self._wake, first.fileno()):
            self._poll.register(fd, select.POLLIN)

    def serve(self) -> None:
        """Serve; what still runs when it returns is killed by the kernel with this process."""
        while True:
            for fd, _ in self._poll.poll(_MOMENT if self._unwatched or self._ending else None):
                if fd == ALIVE:
                    return
                if fd == self._main:
                    self._poll.unregister(fd)
                    self._ending = True
                if fd == LISTEN:
                    self._accept()
                elif fd == self._wake:
                    os.read(self._wake, 512)
                    if self._reap():
                        return
                elif fd in self._wires and not self._message(self._wires[fd]):
                    return
            if self._unwatched and self._crun is not None and (pid := self._crun.started(self._unwatched)):
                self._watch(pid)
            if self._ending:  # more than once, for some may be starting others
                self._end_others()

    def _watch(self, pid: int) -> None:
        """See to it that a main command's end is the container's: crun itself waits for all that it leaves running."""
        self._unwatched = 0
        try:
            self._main = linux.pidfd_open(pid)
            self._poll.register(self._main, select.POLLIN)
        except OSError as e:
            self._ending = e.errno == errno.ESRCH  # else a kernel before 5.3

    def _end_others(self) -> None:
        """Kill everything but the crun that tells how the main command ended."""
        command = self._commands.get(self._first.fileno())
        spared = {1, command.pid if command is not None else 1}
        for pid in {int(name) for name in os.listdir("/proc") if name.isdigit()} - spared:
            try:
                os.kill(pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _accept(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # what `socket` makes `accept` of
        except OSError:
            return
        os.set_inheritable(fd, False)
        wire = Wire(_socket.socket(fileno=fd))
        self._wires[fd] = wire
        self._poll.register(fd, select.POLLIN)

    def _drop(self, wire: Wire) -> None:
        fd = wire.fileno()
        self._poll.unregister(fd)
        del self._wires[fd]
        if command := self._commands.pop(fd, None):
            os.close(command.report)
        wire.close()

    def _message(self, wire: Wire) -> bool:
        """Take a message; False when the main connection is gone."""
        try:
            got = wire.receive()
        except OSError:
            got = None
        if got is None:
            self._drop(wire)  # a command of another connection goes on; its terminal hangs up
            return wire is not self._first
        (word, *rest), fds = got
        try:
            if word == "start" and isinstance(rest[0], dict) and wire.fileno() not in self._commands:
                self._start(wire, rest[0], fds)
            elif word in ("signal", "stop") and isinstance(rest[0], int):
                self._signal((wire if word == "signal" else self._first).fileno(), rest[0])
        except OSError as e:
            self._answer(wire, ("done", 126, e.errno or errno.EIO, "start"))
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _signal(self, connection: int, number: int) -> None:
        command = self._commands.get(connection)
        if command is not None:
            try:
                os.kill(self._crun.pid(command.number) if self._crun else command.pid, number)
            except OSError:
                pass  # it has just ended

    @staticmethod
    def _answer(wire: Wire, message: tuple[object, ...], fds: tuple[int, ...] = ()) -> None:
        try:
            wire.send(message, fds)
        except OSError:
            pass  # nobody waits for it any more

    def _start(self, wire: Wire, request: dict[str, Any], fds: list[int]) -> None:
        self._count += 1
        main = wire is self._first
        terminal: Terminal | CrunTerminal | None = None
        if self._crun is not None:
            self._crun.write(self._count, request, main)
            terminal = CrunTerminal(self._count) if request["terminal"] else None
        elif request["terminal"]:
            rows, columns = request["size"]
            terminal = Terminal(rows, columns, request["uid"])
            if main:
                terminal.show_as_console()
        report, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                if self._crun is not None:
                    self._crun.become(self._count, main, fds, terminal is not None)
                slave = [terminal.slave] * 3 if isinstance(terminal, Terminal) else fds
                _become(request, slave, terminal is not None, write, self._single)
            finally:
                os._exit(127)
        os.close(write)
        self._commands[wire.fileno()] = _Command(wire, pid, report, self._count)
        if main and self._crun is not None:
            self._unwatched = self._count
        if terminal is not None:
            master = terminal.wait(pid)
            self._answer(wire, ("terminal",), (master,))
            terminal.close()

    def _reap(self) -> bool:
        """Reap what has ended; True when the main command has."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return False
            for fd, command in list(self._commands.items()):
                if command.pid == pid:
                    self._done(command, status)
                    del self._commands[fd]
                    if command.wire is self._first:
                        return True

    def _done(self, command: _Command, status: int) -> None:
        fault = os.read(command.report, 64).decode()
        os.close(command.report)
        word, _, step = fault.partition(" ")
        code, number = os.waitstatus_to_exitcode(status), int(word or 0)
        if self._crun is not None and code:
            number, step = crun.fault(command.number)
        self._answer(command.wire, ("done", 128 - code if code < 0 else code, number, step))


def _owners(limits: list[str]) -> list[int]:
    """Have changes of owner answered by mkroot where there is one id only; return the listener, if there is one."""
    try:
        return [seccomp.install(notify=True)]
    except OSError:
        limits.append("owners other than root are not recorded, for seccomp user notification is not to be had")
    try:
        seccomp.install(notify=False)
    except OSError:
        limits[-1] = "nothing can be given to another owner than root, for seccomp is not to be had"
    return []


def main() -> None:
    """Make the container as the first message says, answer whether it stands, and serve."""
    for fd in (LISTEN, ALIVE, FIRST):
        os.set_inheritable(fd, False)
    linux.close_from(FIRST + 1)  # what mkroot itself was given, such as by a shell's `9<file`
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    os.umask(0)
    first = Wire(_socket.socket(fileno=FIRST))
    got = first.receive()
    if got is None:
        return
    config = got[0][1]
    setup = Setup(config)
    try:
        if config["crun"]:
            crun.prepare(config["root"], config["folder"], config["files"], config["network"])
        else:
            setup.make()
        linux.forget_command_line()
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
    except emulator.Cannot as e:
        first.send(("foreign", e.step, e.number))
        return
    except OSError as e:
        first.send(("fail", e.errno or errno.EIO, f"{e.strerror}: {e.filename}" if e.filename else str(e.strerror)))
        return
    listener = _owners(setup.limits) if config["single"] else []
    if config["devices"] and setup.emulated >= 0:
        try:
            listener.append(seccomp.install_devices())
        except OSError:
            setup.limits.append("no device can be made, for seccomp user notification is not to be had")
    first.send(("ready", tuple(setup.limits)), listener)
    for fd in listener:
        os.close(fd)
    Server(first, config).serve()
