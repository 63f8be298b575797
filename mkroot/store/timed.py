"""What a process that unpacks packages did when, for who asked for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

from mkroot.progress import Span, Spans
from mkroot.store.layer import Layer
from mkroot.store.writer import Writer
from mkroot.tar.entry import Entry


class Work:
    """The work of a process whose times nobody asked for: it measures nothing."""

    @contextlib.contextmanager
    def unpacking(self, name: str) -> Iterator[None]:
        """Frame the unpacking of a package."""
        yield

    def around(self, writer: Writer) -> Writer:
        """Return what writes a package's tree."""
        return writer

    def compressing(self, layer: Layer, finish: Callable[[], None]) -> Callable[[], None]:
        """Return `finish`, which compresses a layer's frames."""
        return finish

    def told(self) -> Spans:
        """Return what has not been told yet."""
        return Spans()


class TimedWork(Work):
    """The work of a process whose times are wanted. lane: the process' name."""

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self._spans = Spans()
        self._writer: _TimedWriter | None = None

    @contextlib.contextmanager
    def unpacking(self, name: str) -> Iterator[None]:
        """Note two spans: decompressing and writing take turns, and are told as if one came after the other."""
        self._writer = None
        begin = time.monotonic()
        yield
        end = time.monotonic()
        written, size = (self._writer.seconds, self._writer.size) if self._writer is not None else (0.0, 0)
        self._spans.append(Span(self._lane, "decompress", name, begin, end - written, size))
        if written:
            self._spans.append(Span(self._lane, "write", name, end - written, end, size))

    def around(self, writer: Writer) -> Writer:
        """Return the writer with a clock."""
        self._writer = _TimedWriter(writer)
        return self._writer

    def compressing(self, layer: Layer, finish: Callable[[], None]) -> Callable[[], None]:
        """Return `finish` with a clock."""

        def timed() -> None:
            begin = time.monotonic()
            finish()
            self._spans.note(self._lane, "compress", layer.name, begin, sum(e.size for e in layer.entries))

        return timed

    def told(self) -> Spans:
        """Return what has not been told yet, and forget it."""
        spans, self._spans = self._spans, Spans()
        return spans


class _TimedWriter:
    """Adds to a tree and counts: seconds of writing, without what making the parts of a large file took, and bytes."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.seconds = 0.0
        self.size = 0

    def add(self, entry: Entry, content: bytes | Iterable[bytes]) -> None:
        begin = time.monotonic()
        self._writer.add(entry, content if isinstance(content, bytes) else self._parts(content))
        self.seconds += time.monotonic() - begin
        self.size += entry.size

    def _parts(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        begin = time.monotonic()
        for part in parts:
            self.seconds -= time.monotonic() - begin
            yield part
            begin = time.monotonic()
        self.seconds -= time.monotonic() - begin
