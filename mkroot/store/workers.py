"""Processes that unpack packages side by side.

They are forked before any thread exists, end with their parent whatever ends it, and leave Ctrl-C to it.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.errors import MkrootError, PackageError
from mkroot.progress import Spans
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.store import Store
from mkroot.store.timed import TimedWork, Work
from mkroot.store.trees import Trees
from mkroot.store.unpack import PENDING, Expected, layer_key, unpack
from mkroot.store.writer import Chown, make_tree

_PR_SET_PDEATHSIG = 1
YIELDING = 5  # niceness once trees are made: the scripts that run meanwhile are what everything waits for


class Job(msgspec.Struct, frozen=True):
    """One package to unpack.

    deb: the verified file; None where the store has the layer and only its tree is to be made. trees: where that is
    made, None for no tree. codecs: of further frames that this build will want. rank: jobs of a lower one come first.
    """

    expected: Expected
    deb: Path | None
    trees: Trees | None
    codecs: tuple[str, ...] = ()
    rank: int = 0


class Unpackers:
    """Unpacks packages in as many processes as there are processors.

    `put` a job; `done` yields the digests of packages whose trees are complete; `finish` waits for the frames, too.
    timing: takes what each process did when, as it comes with their answers.
    """

    def __init__(self, store: Store, chown: Chown, count: int | None = None, timing: Spans | None = None) -> None:
        self._workers: list[_Worker] = []
        self._waiting: list[Job] = []
        self._timing = timing
        for number in range(1, 1 + (count or len(os.sched_getaffinity(0)))):
            lane = f"unpack {number}" if timing is not None else ""
            self._workers.append(_Worker(store, chown, [w.socket for w in self._workers], lane))

    def put(self, job: Job) -> None:
        """Queue a job and hand it out when a worker is idle; raises what a worker reported."""
        insort(self._waiting, job, key=lambda j: j.rank)
        self._hand_out()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if not self._waiting:
                return
            if worker.load < 3:  # one at work, the next at hand
                worker.send(("unpack", self._waiting.pop(0)))
                worker.load += 1

    @property
    def busy(self) -> bool:
        """Tell whether a job has not been reported yet."""
        return bool(self._waiting) or any(w.load for w in self._workers)

    def done(self, timeout: float | None = 0) -> Iterator[tuple[str, Layer | None]]:
        """Yield digest and layer of each package whose tree has become complete; wait up to `timeout` seconds for one.

        The layer is in the store only after `finish`: its frame is compressed when the processors have time. None: the
        store has had it before.

        Raises the error of a package that was refused.
        """
        fds = {w.socket.fileno(): w for w in self._workers if w.load}
        ready, _, _ = select.select(list(fds), [], [], timeout) if fds else ([], [], [])
        for fd in ready:
            worker = fds[fd]
            answer = worker.receive()
            worker.load -= 1
            if isinstance(answer, BaseException):
                raise answer
            digest, layer, spans = answer
            self._time(spans)
            yield digest, from_msgpack(layer, Layer) if layer else None
        self._hand_out()

    def finish(self) -> None:
        """Let the workers compress what is left, wait for them, and end them; raises what they reported."""
        for worker in self._workers:
            worker.send(("finish", None))
        errors = []
        for worker in self._workers:
            error, spans = worker.receive()
            self._time(spans)
            errors += [error] if error is not None else []
        self.stop()
        if errors:
            raise errors[0]

    def _time(self, spans: Spans) -> None:
        if self._timing is not None:
            self._timing.extend(spans)

    def stop(self) -> None:
        """End the workers at once; what they had not finished leaves no entry."""
        for worker in self._workers:
            worker.end()
        self._workers = []


class _Worker:
    def __init__(self, store: Store, chown: Chown, others: list[Any], lane: str) -> None:
        import socket

        self.load = 0
        self.socket, theirs = socket.socketpair()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                for other in [*others, self.socket]:
                    other.close()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if os.getppid() == parent:
                    _serve(theirs, store, chown, lane)
                    status = 0
            finally:
                os._exit(status)
        theirs.close()

    def send(self, message: object) -> None:
        data = pickle.dumps(message)
        try:
            self.socket.sendall(len(data).to_bytes(4, "little") + data)
        except OSError:
            raise _ended() from None

    def receive(self) -> Any:
        return _receive(self.socket)

    def end(self) -> None:
        self.socket.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def _receive(connection: Any) -> Any:
    head = _exactly(connection, 4)
    return pickle.loads(_exactly(connection, int.from_bytes(head, "little")))


def _exactly(connection: Any, size: int) -> bytes:
    parts = []
    while size:
        try:
            data = connection.recv(min(size, 1 << 20))
        except ConnectionResetError:  # it died with a job unread
            data = b""
        if not data:
            raise _ended()
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def _ended() -> PackageError:
    return PackageError(
        "a process that unpacks packages ended unexpectedly", hint="is the machine out of memory? see `dmesg`"
    )


def _serve(connection: Any, store: Store, chown: Chown, lane: str) -> None:
    """Answer jobs until `finish`: the tree first; compressing waits while there are trees to make and memory allows.

    lane: the name under which it tells, with the next answer, what it did when; "": it does not.
    """
    pending: deque[tuple[int, Callable[[], None]]] = deque()
    held = 0
    yielding = False
    failed: BaseException | None = None
    work = TimedWork(lane) if lane else Work()

    def answer(value: object) -> None:
        data = pickle.dumps(value)
        connection.sendall(len(data).to_bytes(4, "little") + data)

    while True:
        while pending and (held > PENDING or not select.select([connection], [], [], 0)[0]):
            if not yielding:
                os.nice(YIELDING)
                yielding = True
            size, finish = pending.popleft()
            held -= size
            try:
                finish()
            except BaseException as e:
                failed = _portable(e)
        try:
            kind, job = _receive(connection)
        except PackageError:
            return
        if kind == "finish":
            for _, finish in pending:
                try:
                    finish()
                except BaseException as e:
                    failed = _portable(e)
            answer((failed, work.told()))
            return
        try:
            with work.unpacking(job.expected.name):
                told = b""
                if job.deb is None:
                    known = LayerStore(store)
                    make_tree(known, known.load(layer_key(job.expected.sha256)), job.trees, chown)
                else:
                    layer, size, finish = unpack(
                        store, job.deb, job.expected, job.trees, chown, job.codecs, around=work.around
                    )
                    pending.append((size, work.compressing(layer, finish)))
                    held += size
                    told = msgspec.msgpack.encode(layer)
            answer((job.expected.sha256, told, work.told()))
        except BaseException as e:
            answer(_portable(e))


def _portable(error: BaseException) -> BaseException:
    """Return an error that the parent can raise: mkroot's own as it is, others told in words."""
    if isinstance(error, MkrootError):
        return error
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    return RuntimeError(f"{type(error).__name__}: {error}")
