"""An interpreter that has mkroot imported and forks a process for each command: a command costs a tenth."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from tests.faults.hook import Hook, Plan

ROOT = Path(__file__).parents[2]
GRACE = 1.0  # seconds in which the processes of a killed one must have ended


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A command to run.

    processors: how many it may use. within: seconds. wait: seconds before it begins. signal: sent to its group so many
    seconds (`after`) after its begin.
    """

    words: tuple[str, ...]
    folder: str
    environ: dict[str, str]
    plan: Plan | None = None
    processors: int = 1
    within: float = 60.0
    wait: float = 0.0
    signal: int = 0
    after: float = 0.0


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended. status: negative for a signal. calls: that were counted. left: its processes that still live.

    took: seconds from the signal to the end.
    """

    status: int
    out: str
    err: str
    calls: int
    left: tuple[str, ...]
    took: float = 0.0


class Forge:
    """The interpreter, from outside."""

    def __init__(self) -> None:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forge"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            cwd=ROOT,
        )

    def run(self, *orders: Order) -> list[Ended]:
        """Run commands, all at once, to their ends."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(orders) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=list[Ended])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(20)


@contextlib.contextmanager
def forge() -> Iterator[Forge]:
    """Yield one, for as long as the context lasts."""
    made = Forge()
    try:
        yield made
    finally:
        made.close()


def serve() -> None:
    """Read orders, one a line, and answer each."""
    _import()
    for line in sys.stdin.buffer:
        running = [_start(order) for order in msgspec.json.decode(line, type=list[Order])]
        sys.stdout.buffer.write(msgspec.json.encode([_end(*one) for one in running]) + b"\n")
        sys.stdout.buffer.flush()


def _import() -> None:
    import mkroot

    for module in pkgutil.walk_packages(mkroot.__path__, "mkroot."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # what a command needs, it imports itself
                importlib.import_module(module.name)
    for name in ("urllib3", "zstandard", "deflate", "pysequoia"):
        importlib.import_module(name)


def _start(order: Order) -> tuple[Order, Hook | None, int, IO[bytes], IO[bytes]]:
    hook = Hook(order.plan) if order.plan is not None else None
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
    pid = os.fork()
    if pid == 0:
        try:
            _be(order, hook, out.fileno(), err.fileno())
        finally:
            os._exit(99)
    return order, hook, pid, out, err


def _end(order: Order, hook: Hook | None, pid: int, out: IO[bytes], err: IO[bytes]) -> Ended:
    status, took = _wait(pid, order)
    left = _left(pid)
    texts = []
    for file in (out, err):
        file.seek(0)
        texts.append(file.read().decode("utf-8", "backslashreplace"))
        file.close()
    return Ended(
        status=status, out=texts[0], err=texts[1], calls=0 if hook is None else hook.calls, left=left, took=took
    )


def _be(order: Order, hook: Hook | None, out: int, err: int) -> None:
    os.setsid()
    time.sleep(order.wait)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environ)
    tempfile.tempdir = None
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order.processors])
    sys.argv = ["mkroot", *order.words]
    if hook is not None:
        hook.start()
    from mkroot.cli.main import entry

    entry()


def _wait(pid: int, order: Order) -> tuple[int, float]:
    fd = os.pidfd_open(pid)
    sent = 0.0
    try:
        left = order.within
        if order.signal and not select.select([fd], [], [], order.after)[0]:
            os.killpg(pid, order.signal)
            sent = time.monotonic()
        if not select.select([fd], [], [], left)[0]:
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(fd)
    return os.waitstatus_to_exitcode(status), time.monotonic() - sent if sent else 0.0


def _left(session: int) -> tuple[str, ...]:
    """Return the processes of a session that have not ended a moment after its leader, and end them."""
    until = time.monotonic() + GRACE
    while living := list(_living(session)):
        if time.monotonic() > until:
            for pid, _ in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return tuple(words for _, words in living)
        time.sleep(0.005)
    return ()


def _living(session: int) -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    yield int(name), Path(f"/proc/{name}/cmdline").read_text().replace("\0", " ")


if __name__ == "__main__":
    serve()
