"""The table of a `Packages` index: a file in which the names of an index are looked up without reading the index.

    magic (8 bytes), CRC-32 of all that follows (4), sizes in bytes of the parts (4 each), the parts

Numbers have 32 bits, in the byte order of the machine, which the magic tells. The parts, stanzas and names being
numbered from 0:

    of each block of stanzas the offset in the text, and, last, where the text ends; the first stanza; the CRC-32
    three lists of names: of packages, of what they provide, of what is mentioned; for each, sorted, equal names in
        the text's order: where each 64 begin, and, last, where they end; the first of each 64; all; their numbers
    the names of packages that are Essential, Protected or Important; those of each of the first three priorities

A package's name, or a provided one, has the number of the stanza; a mentioned one has its place in the order in which
names are first mentioned.

The parts are such that Python makes them without a step for each name. The sums are there for disks that err, not
against forgery: who makes a table checks the text against its digest.
"""

from __future__ import annotations

import mmap
import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

from mkroot.archive.scan import NAMED_PRIORITIES, Scan, whole
from mkroot.debian.release import Index
from mkroot.errors import StoreError

FORMAT = 4  # part of a table's key
_MAGIC = b"mkrtid" + sys.byteorder[:1].encode() + bytes([FORMAT])
_PARTS = 3 + 3 * 4 + 1 + len(NAMED_PRIORITIES)
_HEAD = struct.Struct(f"=8sI{_PARTS}I")
_SUMMED = 12  # where what is summed begins
_RUN = 64  # names
_CHUNK = 1 << 20  # bytes of text searched at a time


def encode(scan: Scan) -> bytes:
    """Return the table of what `scan` has read."""
    marks = (scan.marked, *(scan.priorities[p] for p in NAMED_PRIORITIES))
    parts = [
        _packed([*scan.starts, scan.end]),
        _packed(scan.firsts),
        _packed(scan.sums),
        *_sorted(scan.names, range(len(scan.names))),
        *_sorted(scan.provided, scan.providers),
        *_sorted(list(scan.heard), range(len(scan.heard))),
        *(b"\n".join(filter(None, names)) for names in marks),
    ]
    body = b"".join([struct.pack(f"={_PARTS}I", *map(len, parts)), *parts])
    return _MAGIC + struct.pack("=I", zlib.crc32(body)) + body


def _packed(numbers: Iterable[int]) -> bytes:
    return array("I", numbers).tobytes()


def _sorted(names: list[bytes], numbers: Sequence[int]) -> Iterator[bytes]:
    """Yield the parts of a list of names."""
    order = sorted(range(len(names)), key=names.__getitem__)  # which leaves equal ones as they stand
    ordered = [names[n] for n in order]
    runs = [b"\n".join(ordered[n : n + _RUN]) for n in range(0, len(ordered), _RUN)]
    yield _packed(accumulate(map(len, runs), initial=0))
    yield b"\n".join(ordered[::_RUN])
    yield b"".join(runs)
    yield _packed(order if isinstance(numbers, range) else map(numbers.__getitem__, order))


class _Names:
    """A sorted list of names, each with a number."""

    def __init__(self, starts: memoryview, firsts: memoryview, names: memoryview, numbers: memoryview) -> None:
        self._starts = starts.cast("I")
        self._heads = firsts
        self._names = names
        self._numbers = numbers.cast("I")

    @cached_property
    def _firsts(self) -> list[bytes]:
        return _lines(self._heads) if self._numbers else []

    def _run(self, n: int) -> list[bytes]:
        return _lines(self._names[self._starts[n] : self._starts[n + 1]])

    def find(self, name: bytes) -> Iterator[int]:
        """Yield the numbers of `name`."""
        for n in range(max(bisect_left(self._firsts, name) - 1, 0), len(self._firsts)):
            run = self._run(n)
            at = bisect_left(run, name)
            while at < len(run) and run[at] == name:
                yield self._numbers[n * _RUN + at]
                at += 1
            if at < len(run):
                return

    def __iter__(self) -> Iterator[bytes]:
        """Yield all names."""
        for n in range(len(self._firsts)):
            yield from self._run(n)


class Table:
    """The opened table of one index together with its text."""

    def __init__(self, index: Index, table: Path) -> None:
        """Map both files; raises StoreError where the table is not one, OSError."""
        self.index = index
        self._text = _map(index.path)
        data = memoryview(_map(table))
        if len(data) < _HEAD.size or data[:8] != _MAGIC:
            raise damaged(table)
        _, stated, *sizes = _HEAD.unpack_from(data)
        if zlib.crc32(data[_SUMMED:]) != stated:
            raise damaged(table)
        parts = [data[start:end] for start, end in pairwise(accumulate(sizes, initial=_HEAD.size))]
        self._starts, self._firsts, self._sums = (part.cast("I") for part in parts[:3])
        self._packages, self._provided, self._mentioned = (_Names(*parts[n : n + 4]) for n in (3, 7, 11))
        self._marked = parts[15]
        self._priorities = dict(zip(NAMED_PRIORITIES, parts[16:], strict=True))
        self._sound: set[int] = set()  # blocks whose sum was right

    def packages(self, name: bytes) -> Iterator[bytes]:
        """Yield the stanzas of the packages called `name`; raises StoreError where the text is damaged."""
        return map(self._stanza, self._packages.find(name))

    def providers(self, name: bytes) -> Iterator[bytes]:
        """Yield the stanzas whose Provides field has `name`; raises StoreError where the text is damaged."""
        return map(self._stanza, self._provided.find(name))

    def _stanza(self, number: int) -> bytes:
        block = bisect_right(self._firsts, number) - 1
        text = self._text[self._starts[block] : self._starts[block + 1]]
        if block not in self._sound:
            if zlib.crc32(text) != self._sums[block]:
                raise damaged(self.index.path)
            self._sound.add(block)
        text = text.strip(b"\n")
        at = 0
        for _ in range(number - self._firsts[block]):
            at = text.index(b"\n\n", at) + 2
        end = text.find(b"\n\n", at)
        return text[at:] if end < 0 else text[at:end]

    def place(self, name: bytes) -> int | None:
        """Return the place of `name` in the order of first mention, None where it is never mentioned."""
        return next(self._mentioned.find(name), None)

    def names(self) -> Iterator[bytes]:
        """Yield the name of each stanza's package, sorted."""
        return iter(self._packages)

    def marked(self) -> list[bytes]:
        """Return the names of packages that are Essential, Protected or Important, in the text's order."""
        return _lines(self._marked) if self._marked else []

    def of_priority(self, priority: bytes) -> list[bytes]:
        """Return the names of packages of a priority, in the text's order."""
        part = self._priorities.get(priority)
        return _lines(part) if part else []

    def containing(self, text: bytes) -> Iterator[bytes]:
        """Yield the stanzas in which `text` occurs."""
        for chunk in whole(blocks(self.index.path, _CHUNK)):
            at = chunk.find(text)
            while at >= 0:
                start = chunk.rfind(b"\n\n", 0, at) + 2 if b"\n\n" in chunk[:at] else 0
                end = chunk.find(b"\n\n", at)
                end = len(chunk) if end < 0 else end
                yield chunk[start:end].strip(b"\n")
                at = chunk.find(text, end)


def check(path: Path) -> None:
    """Raise StoreError where a file of the store is a table and is not what it was; does nothing for a text."""
    if path.name.partition(".")[2] == f"t{FORMAT}":
        data = path.read_bytes()
        if data[:8] != _MAGIC or zlib.crc32(data[_SUMMED:]) != int.from_bytes(data[8:_SUMMED], sys.byteorder):
            raise damaged(path)


def _lines(part: memoryview) -> list[bytes]:
    return bytes(part).split(b"\n")


def _map(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def blocks(path: Path, size: int, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` to `end`, `size` at a time; raises OSError."""
    with path.open("rb", buffering=0) as f:
        f.seek(start)
        while block := f.read(size if end is None else min(size, end - start)):
            start += len(block)
            yield block


def damaged(path: Path) -> StoreError:
    """Return the error for a file of an index that is not what it was."""
    return StoreError("the store holds a damaged index", where=str(path), hint="run `mkroot cache verify`")
