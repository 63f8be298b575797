"""A process that does one step after another for its parent, and its parent's handle on it.

Both sides speak length-prefixed msgpack over the child's standard input and output: a Step goes in, its Outcome comes
out. When the parent is gone, however it ended, its end of the pipe is closed: the child then cleans up and ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import IO, NoReturn

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.fleet.model import FAILED, Fault, Outcome, Step

COMMAND = (sys.executable, "-P", "-m", "mkroot.fleet.process")  # -P: nothing of the current folder is imported
SECONDS = 1.2  # from the wish that a child ends to its end, whatever it does
_TERMINATED = 128 + signal.SIGTERM  # a child's status after such a wish
_HEAD = 8  # bytes of a message's length
_TAIL = 4000  # bytes of what a process that died wrote at last


class StepProcess:
    """A child process that does steps, one at a time; one that dies is replaced when there is a next step.

    environ: of the child. For use by one thread, but for `close`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._child: subprocess.Popen[bytes] | None = None
        self._told: IO[bytes] | None = None
        self._changing = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The child's process id; None where there is no child."""
        return None if self._child is None else self._child.pid

    def do(self, step: Step) -> Outcome:
        """Have the child do a step and return its outcome; a child that dies over it is a FAILED one."""
        begin = time.time()
        try:
            child = self._started()
            assert child.stdin is not None and child.stdout is not None
            _send(child.stdin.fileno(), msgspec.msgpack.encode(step))
            answer = _receive(child.stdout.fileno())
            if answer is not None:
                return from_msgpack(answer, Outcome)
        except OSError as e:  # the pipe of a child that died meanwhile; or there cannot be a child
            if self._child is None:
                fault = Fault(what=f"a process for the step cannot be started: {(e.strerror or '').lower()}")
                return Outcome(key=step.key, state=FAILED, begin=begin, end=time.time(), faults=(fault,))
        fault, text = self._death()
        return Outcome(key=step.key, state=FAILED, begin=begin, end=time.time(), faults=(fault,), log=text)

    def close(self) -> None:
        """End the child and wait for it; what it was at leaves nothing. May be called by another thread."""
        with self._changing:
            self._closed = True
            child, told = self._child, self._told
        if child is not None:
            assert child.stdin is not None
            with contextlib.suppress(OSError):
                child.stdin.close()
            try:
                child.wait(SECONDS + 0.2)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if told is not None:
            told.close()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._changing:
            if self._closed:
                raise BrokenPipeError
            if self._child is None:
                self._told = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the child
                self._child = subprocess.Popen(
                    COMMAND,
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._told,
                    env=self._environ,
                )
            return self._child

    def _death(self) -> tuple[Fault, str]:
        """Take leave of a child that died; return why, and what it wrote at last."""
        with self._changing:
            child, told = self._child, self._told
            if self._closed or child is None or told is None:
                return Fault(what="the run was ended"), ""
            self._child = self._told = None
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
        try:
            status = child.wait(SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
        told.seek(max(0, told.seek(0, os.SEEK_END) - _TAIL))
        text = told.read().decode("utf-8", "replace")
        told.close()
        if status == -signal.SIGKILL:
            hint = "there may have been too little memory: `dmesg` tells, and `--jobs 1` needs less"
            return Fault(what=f"the process that did it was killed by signal {-status}", hint=hint), text
        if status == _TERMINATED:
            return Fault(what="the process that did it was ended by SIGTERM", hint="build again what is left"), text
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return Fault(what=f"the process that did it {how}", hint="the log has its last words", internal=True), text


# ---- messages


def _send(fd: int, data: bytes) -> None:
    rest = memoryview(len(data).to_bytes(_HEAD, "big") + data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _receive(fd: int) -> bytes | None:
    """Return the next message, None where there comes none any more."""
    head = _exactly(fd, _HEAD)
    return None if head is None else _exactly(fd, int.from_bytes(head, "big"))


def _exactly(fd: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# ---- the child


class _Ended(BaseException):
    """The parent is gone, or wishes this process to end."""


def main() -> NoReturn:
    """Do what the parent sends until it sends no more."""
    from mkroot.rootfs.identity import assume

    identity = assume()  # first: it may fork, and must not find threads
    orders, answers = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # what a step runs cannot read orders,
    os.dup2(2, 1)  # … nor print into the answers
    signal.signal(
        signal.SIGINT, lambda *_: None
    )  # Ctrl-C is the parent's; a handler is not handed down, as ignoring is
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    status = 0
    try:
        threading.Thread(target=_watch, args=(orders,), daemon=True).start()
        from mkroot.fleet.perform import perform

        while (data := _receive(orders)) is not None:
            outcome = perform(from_msgpack(data, Step), os.environ, identity)
            _send(answers, msgspec.msgpack.encode(outcome))
    except (_Ended, BrokenPipeError):
        status = _TERMINATED
    os._exit(status)


def _watch(orders: int) -> None:
    """Have this process end when nobody holds the other end of the pipe any more.

    A parent-death signal would come too early: when the parent's thread ends that has started this process.
    """
    import select

    poll = select.poll()
    poll.register(orders, 0)  # a hang-up is told unasked
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def _end(number: int, frame: object) -> None:
    def at_last() -> None:
        time.sleep(SECONDS)
        os._exit(128 + number)

    for other in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # the clean-up is not interrupted again
    threading.Thread(target=at_last, daemon=True).start()
    raise _Ended


if __name__ == "__main__":
    main()
