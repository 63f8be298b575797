"""The table of contents that makes `zstd:chunked` of a layer (containers/storage, pkg/chunked).

A layer of joined frames ends with three skippable frames (RFC 8878, 3.1.2), which no other reader sees: the table, as
JSON; what tar-split needs to make the tar stream again of an unpacked tree; and a footer that tells where both are. The
layer's annotations tell it as well, and the table's digest. Who has some of the files already reads the table, and
fetches the others by their offsets.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from mkroot.errors import ImageError
from mkroot.store.chunked import Chunk
from mkroot.store.frame import Piece
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from mkroot.tar.write import END, header, padding

FORMAT = "1"  # of what this module makes; part of every key that it is stored under
# Of the annotations' names. Before 1.44 containers/storage had `io.containers.`, and forgets owners and times that the
# table tells; under the newer name Debian 12's podman (4.3) takes such a layer for plain zstd, and is right.
PREFIX = "io.github.containers.zstd-chunked."
_TYPES = {
    FILE: "reg", HARDLINK: "hardlink", CHAR: "char", BLOCK: "block", DIR: "dir", FIFO: "fifo", SYMLINK: "symlink",
}  # fmt: skip
_CRFS = 1  # the kind of table: a JSON document like that of CRFS
_MAGIC = b"GNUlInUx"  # ends a footer of seven numbers
_SKIPPABLE = b"\x50\x2a\x4d\x18"
_BATCH = 1 << 20  # bytes of JSON that are compressed together
_LATEST = 1 << 33  # seconds that a header's field cannot hold any more


class Tail(Struct, frozen=True):
    """What stands behind a layer's frames, and the annotations of the layer that tell where."""

    data: bytes
    annotations: dict[str, str]


class _Member(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A member in the table, or a further chunk of the one before it."""

    type: str
    name: str
    link_name: str = ""
    mode: int = 0
    size: int = 0
    uid: int = 0
    gid: int = 0
    modtime: str = ""
    dev_major: int = 0
    dev_minor: int = 0
    xattrs: dict[str, str] = {}
    digest: str = ""
    offset: int = 0
    end_offset: int = 0
    chunk_size: int = 0
    chunk_offset: int = 0
    chunk_digest: str = ""


class Table:
    """Takes a layer's members in the order of its stream, then makes the tail."""

    def __init__(self) -> None:
        self._toc = _Packed()
        self._split = _Packed()
        self._position = 0
        self._between = b""  # what stands before the next header
        self._comma = b'{"version":1,"entries":['

    def add(self, entry: Entry, chunks: Sequence[Chunk] = (), base: int = 0) -> None:
        """Take a member, with the pieces that hold its content. base: where in the layer their offsets begin.

        A file of several chunks has its digest with it. Raises ImageError for a name that the table cannot hold.
        """
        try:
            self._add(entry, chunks, base)
        except UnicodeEncodeError:
            raise ImageError(
                f"the image cannot be zstd:chunked: a name in it is not UTF-8: /{entry.path}",
                hint="write `compression: zstd`, or give the file or what links to it another name",
            ) from None

    def _add(self, entry: Entry, chunks: Sequence[Chunk], base: int) -> None:
        name = (entry.path + "/" if entry.path else "./") if entry.kind == DIR else entry.path
        self._segment(self._between + header(entry))
        if entry.kind != FILE or not entry.size:
            self._file(name)
            self._between = b""
            self._row(_member(entry, name, {}))
            return
        self._file(name, entry.size, chunks[-1].crc)
        self._between = padding(entry.size)
        end = base + chunks[-1].offset + chunks[-1].size
        first = {"size": entry.size, "offset": base + chunks[0].offset, "end_offset": end}
        if len(chunks) == 1:
            self._row(_member(entry, name, {**first, "digest": "sha256:" + chunks[0].plain}))
            return
        told = [{"chunk_size": c.raw, "chunk_digest": "sha256:" + c.plain} for c in chunks]
        self._row(_member(entry, name, {**first, **told[0], "digest": "sha256:" + entry.sha256}))
        done = chunks[0].raw
        for chunk, more in zip(chunks[1:], told[1:], strict=True):
            place: dict[str, Any] = {"offset": base + chunk.offset, "chunk_offset": done, **more}
            if chunk is chunks[-1]:  # containers/storage takes it from here, else it fetches the next header as well
                place["end_offset"] = end
            self._row(_Member(type="chunk", name=name, **place))
            done += chunk.raw

    def _row(self, member: _Member) -> None:
        self._toc.add(self._comma + msgspec.json.encode(member))
        self._comma = b","

    def _segment(self, data: bytes) -> None:
        """Add a line of tar-split's: the bytes of a header with the padding before it."""
        self._line(b'{"type":2,"payload":"%b"' % binascii.b2a_base64(data, newline=False))

    def _file(self, name: str, size: int = 0, crc: int | None = None) -> None:
        """Add a line of tar-split's: that a member stands here, and the CRC-64 of its content."""
        payload = b"null" if crc is None else b'"%b"' % binascii.b2a_base64(crc.to_bytes(8, "big"), newline=False)
        told = b',"size":%d' % size if size else b""
        self._line(b'{"type":1,"name":%b%b,"payload":%b' % (msgspec.json.encode(name), told, payload))

    def _line(self, begun: bytes) -> None:
        self._split.add(b'%b,"position":%d}\n' % (begun, self._position))
        self._position += 1

    def tail(self, offset: int, end: bytes = END) -> Tail:
        """Return what stands at `offset`, behind the layer's frames. end: what its stream has behind the members."""
        self._segment(self._between + end)
        split = self._split.end()
        digest = "sha256:" + hashlib.sha256(split).hexdigest()
        self._toc.add((b"" if self._comma == b"," else self._comma) + b'],"tarSplitDigest":"%b"}' % digest.encode())
        toc = self._toc.end()
        at = offset + 8
        beside = at + len(toc) + 8
        places = (at, len(toc), self._toc.raw, _CRFS, beside, len(split), self._split.raw)
        footer = b"".join(n.to_bytes(8, "little") for n in places) + _MAGIC
        return Tail(
            b"".join(_SKIPPABLE + len(data).to_bytes(4, "little") + data for data in (toc, split, footer)),
            {
                PREFIX + "manifest-checksum": "sha256:" + hashlib.sha256(toc).hexdigest(),
                PREFIX + "manifest-position": ":".join(map(str, places[:4])),
                PREFIX + "tarsplit-position": ":".join(map(str, places[4:])),
            },
        )


def add_members(table: Table, entries: Iterable[Entry], pieces: Iterable[Piece], base: int) -> None:
    """Add the members of one tar stream, each with those of its pieces that hold its content.

    entries: with their final times. pieces: of a chunked frame. base: where it stands in the layer. Raises ImageError,
    ValueError where the pieces are not those of the members.
    """
    left = (piece for piece in pieces if isinstance(piece, Chunk) and piece.plain)
    for entry in entries:
        chunks: list[Chunk] = []
        size = entry.size if entry.kind == FILE else 0
        while (missing := size - sum(chunk.raw for chunk in chunks)) > 0:
            chunk = next(left, None)
            if chunk is None or chunk.raw > missing:
                raise ValueError(f"no piece holds {entry.path}")
            chunks.append(chunk)
        table.add(entry, chunks, base)
    if next(left, None) is not None:
        raise ValueError("a piece is of no member")


def _member(entry: Entry, name: str, more: dict[str, Any]) -> _Member:
    """Return what the table says of a member: the same as its header, and where its content is."""
    return _Member(
        type=_TYPES[entry.kind],
        name=name,
        link_name=entry.link if entry.kind in (HARDLINK, SYMLINK) else "",
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        modtime=_time(entry.mtime if 0 <= entry.mtime < _LATEST else 0),
        dev_major=entry.device[0],
        dev_minor=entry.device[1],
        xattrs={k: base64.b64encode(v).decode() for k, v in sorted(entry.xattrs.items())} if entry.xattrs else {},
        **more,
    )


@lru_cache(4096)
def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Packed:
    """A document that is compressed while it is made."""

    def __init__(self) -> None:
        import zstandard

        self.raw = 0  # bytes that went in
        self._stream = zstandard.ZstdCompressor(level=3).compressobj()
        self._done: list[bytes] = []
        self._batch: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        self.raw += len(data)
        self._size += len(data)
        self._batch.append(data)
        if self._size >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._done.append(self._stream.compress(b"".join(self._batch)))
        self._batch, self._size = [], 0

    def end(self) -> bytes:
        self._flush()
        return b"".join((*self._done, self._stream.flush()))
