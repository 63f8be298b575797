"""The descriptors of a command in a sandbox, and what is taken from them."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable

KEPT_OUTPUT = 1 << 20  # bytes of a command's output that are kept, the last ones
STATUS_FD = 3  # where a command writes its status lines

StatusCallback = Callable[[str, float], None]


class Streams:
    """The descriptors of one command: the child's ends, and ours."""

    def __init__(self, stdin: bytes | int | None, stdout: int | None, stderr: int | None, status: bool) -> None:
        self._open: list[int] = []
        self._lent: list[int] = []
        self.output = self.status = -1
        if stdin is None:
            entry = self._lend(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        elif isinstance(stdin, int):
            entry = stdin
        else:
            entry = self._lend(os.memfd_create("input"))
            view = memoryview(stdin)
            while view:
                view = view[os.write(entry, view) :]
            os.lseek(entry, 0, os.SEEK_SET)
        numbers = [0, 1, 2]
        if stdout is None or stderr is None:
            self.output, pipe = self._pipe()
            stdout, stderr = (pipe if n is None else n for n in (stdout, stderr))
        theirs = [entry, stdout, stderr]
        if status:
            self.status, end = self._pipe()
            numbers.append(STATUS_FD)
            theirs.append(end)
        self.numbers, self.theirs = tuple(numbers), tuple(theirs)

    def _lend(self, fd: int) -> int:
        self._lent.append(fd)
        return fd

    def _pipe(self) -> tuple[int, int]:
        ours, theirs = os.pipe()
        self._open.append(ours)
        return ours, self._lend(theirs)

    def close_theirs(self) -> None:
        """Close the ends that the child has now."""
        while self._lent:
            os.close(self._lent.pop())

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_theirs()
        while self._open:
            os.close(self._open.pop())


class Collector:
    """Takes a command's output and status lines as they come, and keeps the end of the output."""

    def __init__(self, output: Callable[[bytes], None] | None, status: StatusCallback | None) -> None:
        self._output, self._status = output, status
        self._kept = bytearray()
        self._line, self._status_line = bytearray(), bytearray()
        self.truncated = False

    def kept(self) -> bytes:
        """Return the last mebibyte of the output."""
        return bytes(self._kept[-KEPT_OUTPUT:])

    def take(self, data: bytes) -> None:
        """Take output; b"" is its end."""
        self._kept += data
        if len(self._kept) > 2 * KEPT_OUTPUT:
            del self._kept[:-KEPT_OUTPUT]
        self.truncated = self.truncated or len(self._kept) > KEPT_OUTPUT
        if self._output is not None:
            for line in _lines(self._line, data):
                self._output(line)

    def take_status(self, data: bytes) -> None:
        """Take what came on the status descriptor; b"" is its end."""
        now = time.clock_gettime(_COARSE)
        if self._status is not None:
            for line in _lines(self._status_line, data):
                self._status(line.rstrip(b"\n").decode("utf-8", "surrogateescape"), now)


_COARSE = 5  # CLOCK_REALTIME_COARSE (time.h): the clock of inode times; clock_gettime(3)


def _lines(rest: bytearray, data: bytes) -> list[bytes]:
    """Return the whole lines of `rest` and `data`, and keep the begun one in `rest`; a very long line goes in parts."""
    rest += data
    cut = rest.rfind(b"\n") + 1 if data and len(rest) < KEPT_OUTPUT else len(rest)
    lines = io.BytesIO(rest[:cut]).readlines()
    del rest[:cut]
    return lines
