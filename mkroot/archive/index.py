"""Packages indices in a form that opens at once: a hash table of names over the text, made once an index.

The table of an index is a file in the store, kind `indices`, keyed by the text's digest. Its parts, little endian:

    magic (8 bytes), number of slots, a power of two (4), CRC-32 of all that follows, begun with that number (4)
    for each slot the CRC-32 of its key (4)
    for each slot the offset of its record, 0 where it is free (4)
    records: length of the key (2), length of the data (4), key, data

A key is a letter and a name. `p`: the stanzas of the package and `v`: the stanzas that provide the name, as triples of
offset and length in the text and CRC-32. `m`: the place in the order in which names are first mentioned. `e`: the names
that are marked Essential, Protected or Important and `r`: the names of a priority, as text.

The sums are there for disks that err, not against forgery: making the table checks the text against its digest.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import signal
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mkroot.debian.package import PRIORITIES, Package
from mkroot.debian.release import Index
from mkroot.digest import sha256_file
from mkroot.errors import StoreError, TrustError
from mkroot.resolve.universe import MENTIONS
from mkroot.store.store import Store

KIND = "indices"
FORMAT = 3  # of the table; part of its key
_MAGIC = b"mkrtidx" + bytes([FORMAT])
_HEAD = struct.Struct("<8sII")
_RECORD = struct.Struct("<HI")
_CHUNK = 8 << 20  # bytes of text read at a time
_FIELDS = tuple(f"\n{name.title()}:".encode() for name in MENTIONS)
_TARGET = re.compile(rb"(?:^|[,|])[ \t\n]*([^ \t\n,|(\[<]+)")
_NAMED_PRIORITIES = tuple(p.encode() for p in PRIORITIES[:3])
_MARKS = (b"\nEssential: yes", b"\nProtected: yes", b"\nImportant: yes")


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, text) of whole stanzas, some MiB at a time."""
    with path.open("rb") as f:
        offset, rest = 0, b""
        while block := f.read(_CHUNK):
            text = rest + block
            end = text.rfind(b"\n\n") + 2
            if end == 1:
                rest = text
                continue
            yield offset, text[:end]
            rest = text[end:]
            offset += end
        if rest.strip(b"\n"):
            yield offset, rest


class _Tables:
    """What one pass over an index collects."""

    def __init__(self) -> None:
        self.places: dict[bytes, list[int]] = {}
        self.heard: dict[bytes, None] = {}
        self.marked: dict[bytes, None] = {}
        self.priorities: dict[bytes, dict[bytes, None]] = {p: {} for p in _NAMED_PRIORITIES}

    def read(self, path: Path, where: str) -> None:
        for base, text in _chunks(path):
            offset = base
            for stanza in text.split(b"\n\n"):
                if bare := stanza.strip(b"\n"):
                    self._stanza(b"\n" + bare, offset + stanza.index(bare[:1]), where)
                offset += len(stanza) + 2

    def _stanza(self, stanza: bytes, offset: int, where: str) -> None:
        at = stanza.find(b"\nPackage:")
        if at < 0:
            raise TrustError(f"a stanza at byte {offset} of the index names no package", where=where)
        end = stanza.find(b"\n", at + 9)
        name = stanza[at + 9 : end if end > 0 else None].strip()
        place = (offset, len(stanza) - 1, zlib.crc32(memoryview(stanza)[1:]))
        self.places.setdefault(b"p" + name, []).extend(place)
        heard = [name]
        for field in _FIELDS:
            at = stanza.find(field)
            if at >= 0:
                at += len(field)
                end = stanza.find(b"\n", at)
                if end < 0:
                    end = len(stanza)
                while stanza[end + 1 : end + 2] in (b" ", b"\t"):  # a folded field
                    end = stanza.find(b"\n", end + 1)
                    end = len(stanza) if end < 0 else end
                names = _TARGET.findall(stanza[at:end])
                heard += names
                if field is _FIELDS[-1]:
                    for provided in dict.fromkeys(names):
                        self.places.setdefault(b"v" + provided.partition(b":")[0], []).extend(place)
        self.heard |= dict.fromkeys(heard)
        if any(mark in stanza for mark in _MARKS):
            self.marked[name] = None
        at = stanza.find(b"\nPriority: ") + 11
        if at > 10:
            word = stanza[at : at + 10].partition(b"\n")[0].strip()
            if word in self.priorities:
                self.priorities[word][name] = None

    def records(self) -> Iterator[tuple[bytes, Sequence[int] | bytes]]:
        yield from self.places.items()
        for place, name in enumerate(self.heard):
            yield b"m" + name, (place,)
        yield b"e", b" ".join(self.marked)
        for priority, names in self.priorities.items():
            yield b"r" + priority, b" ".join(names)


def _little(numbers: Sequence[int]) -> bytes:
    packed = array("I", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _encode(tables: _Tables) -> bytes:
    records = list(tables.records())
    slots = 1 << max(4, (len(records) * 3 // 2).bit_length())
    mask = slots - 1
    hashes, offsets = [0] * slots, [0] * slots
    body: list[bytes] = []
    at = _HEAD.size + 8 * slots
    pack, crc32 = _RECORD.pack, zlib.crc32
    for key, payload in records:
        data = payload if isinstance(payload, bytes) else struct.pack(f"<{len(payload)}I", *payload)
        record = pack(len(key), len(data)) + key + data
        value = crc32(key)
        slot = value & mask
        while offsets[slot]:
            slot = (slot + 1) & mask
        hashes[slot], offsets[slot] = value, at
        body.append(record)
        at += len(record)
    data = b"".join([_little(hashes), _little(offsets), *body])
    return _HEAD.pack(_MAGIC, slots, zlib.crc32(data, slots)) + data


class Table:
    """The opened table of one index together with its text."""

    def __init__(self, index: Index, table: Path) -> None:
        """Map both files; raises StoreError where the table is not one, OSError."""
        self.index = index
        self._text = _map(index.path)
        self._data = _map(table)
        good = len(self._data) >= _HEAD.size and self._data[:8] == _MAGIC
        if good:
            _, self._slots, stated = _HEAD.unpack_from(self._data)
            with memoryview(self._data) as view, view[_HEAD.size :] as rest:
                good = zlib.crc32(rest, self._slots) == stated
        if not good:
            raise _damaged(table)

    def find(self, key: bytes) -> bytes:
        """Return the record under `key`, b"" where there is none."""
        data, mask, value = self._data, self._slots - 1, zlib.crc32(key)
        slot = value & mask
        hashes = _HEAD.size
        offsets = hashes + 4 * self._slots
        while True:
            (at,) = _NUMBER.unpack_from(data, offsets + 4 * slot)
            if not at:
                return b""
            if _NUMBER.unpack_from(data, hashes + 4 * slot)[0] == value:
                length, size = _RECORD.unpack_from(data, at)
                start = at + _RECORD.size
                if data[start : start + length] == key:
                    return data[start + length : start + length + size]
            slot = (slot + 1) & mask

    def stanzas(self, key: bytes) -> Iterator[bytes]:
        """Yield the stanzas whose places are under `key`."""
        for offset, length, stated in _PLACE.iter_unpack(self.find(key)):
            stanza = self._text[offset : offset + length]
            if zlib.crc32(stanza) != stated:
                raise _damaged(self.index.path)
            yield stanza

    def keys(self, letter: bytes) -> Iterator[bytes]:
        """Yield the names under `letter`, in no useful order."""
        offsets = _HEAD.size + 4 * self._slots
        for (at,) in _NUMBER.iter_unpack(self._data[offsets : offsets + 4 * self._slots]):
            if at and self._data[at + _RECORD.size : at + _RECORD.size + 1] == letter:
                length = _RECORD.unpack_from(self._data, at)[0]
                yield self._data[at + _RECORD.size + 1 : at + _RECORD.size + length]

    def containing(self, text: bytes) -> Iterator[bytes]:
        """Yield the stanzas in which `text` occurs."""
        for _, chunk in _chunks(self.index.path):
            at = chunk.find(text)
            while at >= 0:
                start = chunk.rfind(b"\n\n", 0, at) + 2 if b"\n\n" in chunk[:at] else 0
                end = chunk.find(b"\n\n", at)
                end = len(chunk) if end < 0 else end
                yield chunk[start:end].strip(b"\n")
                at = chunk.find(text, end)


def _first(place: tuple[int, Table]) -> int:
    return place[0]


_NUMBER = struct.Struct("<I")
_PLACE = struct.Struct("<III")

_LARGE = 8 << 20  # bytes of an index that are worth a process


def _map(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _damaged(path: Path) -> StoreError:
    return StoreError("the store holds a damaged index", where=str(path), hint="run `mkroot cache verify`")


def open_index(store: Store, index: Index) -> Table:
    """Return the table of `index`, made now where the store has none or a damaged one; raises TrustError, StoreError.

    The index's text must have been verified. Two builds that want the same table make it once.
    """
    key = f"{index.sha256}.t{FORMAT}"
    path = store.path(KIND, key)
    try:
        with contextlib.suppress(FileNotFoundError, StoreError):
            return Table(index, path)
        with store.lock(KIND, key):
            with contextlib.suppress(FileNotFoundError, StoreError):  # another build was faster
                return Table(index, path)
            path.unlink(missing_ok=True)
            _compile(store, key, index)
        return Table(index, path)
    except OSError as e:
        raise StoreError(f"an index cannot be read: {e.strerror}", where=str(e.filename or path)) from e


def _compile(store: Store, key: str, index: Index) -> None:
    if sha256_file(index.path) != index.sha256:
        raise _damaged(index.path)
    tables = _Tables()
    tables.read(index.path, f"{index.suite}/{index.component}/{index.architecture}")
    data = _encode(tables)
    with store.writing(KIND, key) as aside:
        aside.write_bytes(data)


def prepare(store: Store, indices: Sequence[Index]) -> None:
    """Make the tables that are missing, side by side in processes of their own; what fails there is made later, aloud.

    Making one takes a second for Ubuntu's universe, all of it in Python.
    """
    missing = [i for i in indices if not store.path(KIND, f"{i.sha256}.t{FORMAT}").exists()]
    unique = sorted({i.sha256: i for i in missing if i.size > _LARGE}.values(), key=lambda i: -i.size)
    if len(unique) < 2:
        return
    running: set[int] = set()
    try:
        for index in unique:
            if len(running) >= len(os.sched_getaffinity(0)):
                running.discard(os.wait()[0])
            running.add(_fork(store, index))
        while running:
            running.discard(os.wait()[0])
    except BaseException:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise


def _fork(store: Store, index: Index) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            open_index(store, index)
        finally:
            os._exit(0)
    return pid


class ArchiveUniverse:
    """The packages of several indices of the store; see mkroot.resolve.universe.Universe."""

    def __init__(self, store: Store, indices: Sequence[Index]) -> None:
        """Open the indices, in the order of the sources; raises TrustError, StoreError."""
        self.indices = tuple(indices)
        prepare(store, self.indices)
        self._tables = [open_index(store, index) for index in indices]
        self._places: dict[str, list[tuple[int, Table]]] = {}
        for number, table in enumerate(self._tables):
            self._places.setdefault(table.index.architecture, []).append((number, table))

    def packages(self, name: str) -> Sequence[Package]:
        """See Universe."""
        return self._read(b"p" + name.encode("utf-8", "surrogateescape"))

    def providers(self, name: str) -> Sequence[Package]:
        """See Universe."""
        return self._read(b"v" + name.encode("utf-8", "surrogateescape"))

    def _read(self, key: bytes) -> Sequence[Package]:
        return tuple(Package.parse(stanza, t.index) for t in self._tables for stanza in t.stanzas(key))

    def marked(self) -> Sequence[str]:
        """See Universe."""
        return self._listed(b"e")

    def of_priority(self, priority: str) -> Sequence[str]:
        """See Universe."""
        return self._listed(b"r" + priority.encode())

    def _listed(self, key: bytes) -> list[str]:
        return list(dict.fromkeys(name.decode() for table in self._tables for name in table.find(key).split()))

    def rank(self, name: str, architecture: str) -> tuple[int, int]:
        """See Universe."""
        key = b"m" + name.encode("utf-8", "surrogateescape")
        for number, table in sorted((*self._places.get(architecture, ()), *self._places.get("all", ())), key=_first):
            if found := table.find(key):
                return number, _NUMBER.unpack(found)[0]
        return len(self._tables), 0

    def names(self) -> Iterable[str]:
        """See Universe."""
        return sorted({name.decode("utf-8", "replace") for table in self._tables for name in table.keys(b"p")})

    def mentioning(self, name: str) -> Sequence[Package]:
        """See Universe."""
        text = name.encode("utf-8", "surrogateescape")
        return [Package.parse(stanza, table.index) for table in self._tables for stanza in table.containing(text)]
