"""A command in a container, seen from outside: started through process 1, its streams passed on until it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from mkroot.container import terminal
from mkroot.container.user import User
from mkroot.container.wire import Wire
from mkroot.errors import ContainerError

PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_CHUNK = 4096  # bytes that a pipe takes at once when poll(2) says that it takes any (PIPE_BUF)
_SOME = 1 << 16
_MOMENT = 100  # milliseconds; in most cases the streams come to their ends at once
_STEPS = {"workdir": "its working directory", "user": "its user", "filter": "its system call filter"}


class Request(Struct, frozen=True, kw_only=True):
    """A command to start. terminal: it gets one; else its streams are pipes. interactive: it reads mkroot's stdin."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    user: User = User()
    workdir: str = "/"
    terminal: bool = False
    interactive: bool = False


class Ended(Struct, frozen=True):
    """How a command ended: its exit status (128 and the signal's number; 126, 127), and why it did not start."""

    code: int
    fault: str = ""


def connect(folder: Path) -> Wire:
    """Return a connection to the process 1 of the container in this folder; raises ContainerError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{at}/control")  # an address has 107 bytes at most (unix(7))
    except OSError as e:
        sock.close()
        raise ContainerError(f"the container does not answer: {e.strerror}", where=str(folder)) from e
    finally:
        os.close(at)
    return Wire(sock)


class Session:
    """Runs one command over a connection.

    attached: mkroot's own stdin, stdout and stderr are the command's; else only the log is. log: a descriptor that
    takes all that the command writes, or -1.
    """

    def __init__(self, wire: Wire, request: Request, *, attached: bool = True, log: int = -1) -> None:
        self._wire, self._request, self._log = wire, request, log
        self._attached = attached
        self._sources: dict[int, int] = {}  # what is read: where it goes
        self._waiting: dict[int, bytearray] = {}  # what is not written yet, by where it goes
        self._stdin = -1  # the command's end
        self._owned: set[int] = set()
        self._ended: Ended | None = None

    def run(self) -> Ended:
        """Start the command and pass everything on until it has ended; raises ContainerError where the container has.

        Signals that ask for an end go to the command. The terminal is as it was when this returns or raises.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            wake = stack.enter_context(terminal.signals((*PASSED, signal.SIGWINCH)))
            self._start()
            if self._request.terminal and self._attached and self._request.interactive:
                stack.enter_context(terminal.raw(0))
            self._pass(wake)
        assert self._ended is not None
        return self._ended

    def _start(self) -> None:
        request = self._request
        message = {
            "argv": request.argv,
            "environment": dict(request.environment),
            "uid": request.user.uid,
            "gid": request.user.gid,
            "groups": request.user.groups,
            "workdir": request.workdir,
            "terminal": request.terminal,
            "size": terminal.size(),
        }
        if request.terminal:
            self._send(message)
            got = self._wire.receive()
            if got is None or got[0][0] != "terminal":
                raise _gone() if got is None else ContainerError(f"a terminal cannot be made: {got[0]}")
            master = got[1][0]
            self._owned.add(master)
            self._sources[master] = 1
            self._stdin = master if request.interactive else -1
        else:
            theirs = self._pipes()
            try:
                self._send(message, theirs)
            finally:
                for fd in theirs:
                    os.close(fd)
        if self._attached and request.interactive:
            self._sources[0] = self._stdin

    def _send(self, message: dict[str, object], fds: Sequence[int] = ()) -> None:
        try:
            self._wire.send(("start", message), fds)
        except ConnectionError:
            raise _gone() from None

    def _pipes(self) -> list[int]:
        """Make the command's streams; return its ends."""
        theirs = []
        if self._request.interactive and self._attached:
            read, self._stdin = os.pipe()
            os.set_blocking(self._stdin, False)
            self._owned.add(self._stdin)
        else:
            read = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        theirs.append(read)
        for number in (1, 2):
            ours, write = os.pipe()
            self._owned.add(ours)
            self._sources[ours] = number
            theirs.append(write)
        return theirs

    def _close(self) -> None:
        for fd in self._owned:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._owned.clear()

    # ---- passing on

    def _pass(self, wake: int) -> None:
        while self._ended is None or self._outputs() or any(self._waiting.get(n) for n in (1, 2)):
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            if self._ended is None:
                poll.register(self._wire, select.POLLIN)
            wanted: dict[int, int] = {}
            for source, sink in self._sources.items():
                if not self._waiting.get(sink):  # what cannot be written holds up what is read
                    wanted[source] = wanted.get(source, 0) | select.POLLIN
            for sink, data in self._waiting.items():
                if data:
                    wanted[sink] = wanted.get(sink, 0) | select.POLLOUT
            for fd, events in wanted.items():
                poll.register(fd, events)
            # After the end, what background processes hold open is not waited for; what is there is read. A terminal
            # shows a moment later what was written to it.
            ready = poll.poll(None if self._ended is None else _MOMENT if not any(self._waiting.values()) else None)
            if self._ended is not None and not any(fd in wanted for fd, _ in ready):
                return
            for fd, events in ready:
                if fd == wake:
                    self._signals(wake)
                elif fd == self._wire.fileno() and self._ended is None:
                    self._answer()
                else:
                    if wanted.get(fd, 0) & select.POLLIN and events & ~select.POLLOUT and fd in self._sources:
                        self._read(fd)
                    if self._waiting.get(fd) and events & ~select.POLLIN:
                        self._write(fd)

    def _outputs(self) -> bool:
        return any(source != 0 for source in self._sources)

    def _signals(self, wake: int) -> None:
        for number in os.read(wake, 512):
            if number == signal.SIGWINCH:
                master = next((fd for fd, sink in self._sources.items() if sink == 1), -1)
                if self._request.terminal and master >= 0:
                    terminal.resize(master, terminal.size())
            else:
                with contextlib.suppress(OSError):
                    self._wire.send(("signal", number))

    def _answer(self) -> None:
        try:
            got = self._wire.receive()
        except OSError:
            got = None
        if got is None:
            self._ended = Ended(137)  # process 1 was killed
        elif got[0][0] == "done":
            _, code, number, step = got[0]
            self._ended = _judge(self._request.argv[0], int(str(code)), int(str(number)), str(step))
        if self._ended is not None:
            self._sources.pop(0, None)
            self._waiting.pop(self._stdin, None)

    def _read(self, fd: int) -> None:
        sink = self._sources[fd]
        try:
            data = os.read(fd, _SOME)
        except OSError as e:
            if e.errno == errno.EAGAIN:
                return
            data = b""  # EIO: nobody has the terminal open any more
        if not data:
            del self._sources[fd]
            if fd == 0:
                self._end_of_input()
            elif fd in self._owned and fd != self._stdin:
                os.close(fd)
                self._owned.discard(fd)
            return
        if fd != 0 and self._log >= 0:
            _write_all(self._log, data)
        if fd == 0 or self._attached:
            self._waiting.setdefault(sink, bytearray()).extend(data)
            self._write(sink, first=True)

    def _end_of_input(self) -> None:
        if self._request.terminal:
            self._waiting.setdefault(self._stdin, bytearray()).extend(b"\x04")  # what a terminal sends for an end
        elif self._stdin >= 0:
            os.close(self._stdin)
            self._owned.discard(self._stdin)
            self._stdin = -1

    def _write(self, sink: int, first: bool = False) -> None:
        if first and sink != self._stdin:
            return  # it is not known yet whether it takes any
        data = self._waiting[sink]
        try:
            del data[: os.write(sink, data[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            # Its reader is gone. The command learns it as it would without mkroot: by its own pipe.
            data.clear()
            for source in [s for s, to in self._sources.items() if to == sink]:
                del self._sources[source]
                if source in self._owned and not self._request.terminal:
                    os.close(source)
                    self._owned.discard(source)


def _write_all(fd: int, data: bytes) -> None:
    """Write to the log; a full disk does not stop the command."""
    view = memoryview(data)
    with contextlib.suppress(OSError):
        while view:
            view = view[os.write(fd, view) :]


def _gone() -> ContainerError:
    return ContainerError("the container has ended", hint="`mkroot ps -a` tells how; `mkroot start` begins it again")


def _judge(name: str, code: int, number: int, step: str) -> Ended:
    """Return how a command ended; `number` and `step` say what kept it from being executed."""
    if not number:
        return Ended(code & 0xFF)
    why = os.strerror(number)
    if step == "execute":
        if number in (errno.ENOENT, errno.ENOTDIR):
            return Ended(127, f"`{name}` is not there in the container, or the interpreter that it names")
        return Ended(126, f"`{name}` cannot be executed: {why}")
    return Ended(126, f"`{name}` cannot be started: {_STEPS.get(step, step)}: {why}")
