"""Frames: the compressed pieces of a layer's tar stream, stored once and joined into artifacts.

A frame file holds compressed pieces one after the other, each a whole zstd frame (RFC 8878) or gzip member (RFC 1952),
then a table of the pieces, then the table's SHA-256 and its length. Readers of the joined stream see one archive: both
formats define the concatenation of frames or members as the concatenation of their contents.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.store.damage import DamageError

SOFT = 4 << 20  # bytes of tar stream after which a piece ends at the next member
HARD = 16 << 20  # bytes of tar stream after which a piece ends inside a member
MAGIC = b"mkframe2"
_UNSUMMED = b"mkframe1"  # the end mark of files that stores still have, whose table has no digest
CHUNKED = "zstd:chunked"  # zstd with each file's content in pieces of its own; see mkroot.store.chunked
CODECS = {
    "zstd": "zstd-3",
    CHUNKED: "zstd-chunked-3",
    "gzip": "gzip-5",
    "none": "none",
}  # what a key says of library level; pyproject pins the libraries
BEST = {"gzip": 12, "zstd": 19, CHUNKED: 19}  # the highest level; zstd's higher ones ask too much memory of readers


class Piece(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One compressed piece: where it is in the file, and what it holds.

    offset, size: of the compressed bytes. raw: bytes uncompressed. sha256: of the compressed bytes.
    """

    offset: int
    size: int
    raw: int
    sha256: str


class Frame(msgspec.Struct, frozen=True):
    """A stored frame file: its path, its pieces, the total of the compressed bytes, and of the uncompressed ones."""

    path: Path
    pieces: tuple[Piece, ...]
    size: int
    raw: int


def levelled(codec: str, level: int | None) -> str:
    """Return the name of a codec at a level, such as `gzip-12`; at its default level that is its own name.

    level: None is the default, 0 the highest. A codec that has no levels stays as it is.
    """
    if level is None or codec not in BEST:
        return codec
    name = f"{codec}-{level or BEST[codec]}"
    return codec if keyed(name) == CODECS[codec] else name


def family(codec: str) -> str:
    """Return a codec's name without its level."""
    return codec.partition("-")[0]


def keyed(codec: str) -> str:
    """Return what a key says of a codec: its library's name and the level."""
    name, _, level = codec.partition("-")
    return CODECS[name].rpartition("-")[0] + "-" + level if level else CODECS[name]


def every_codec() -> Iterator[str]:
    """Yield the names of all codecs at all their levels."""
    for name in CODECS:
        yield name
        named = (levelled(name, level) for level in range(1, BEST.get(name, 0) + 1))
        yield from (at for at in named if at != name)


def level_of(codec: str) -> int:
    """Return the level of a codec that has levels."""
    return int(keyed(codec).rpartition("-")[2])


def compressor(codec: str) -> Callable[[bytes], bytes]:
    """Return the function that makes one piece; its output depends on nothing but its input."""
    name = family(codec)
    if name in ("zstd", CHUNKED):
        import zstandard

        level = level_of(codec)
        return zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True).compress
    if name == "gzip":
        import deflate

        level = level_of(codec)
        return lambda data: bytes(deflate.gzip_compress(data, level))
    return lambda data: data


def decompressor(codec: str) -> Callable[[bytes, int], bytes]:
    """Return the function that unpacks one piece of known size."""
    name = family(codec)
    if name in ("zstd", CHUNKED):
        import zstandard

        d = zstandard.ZstdDecompressor()
        return lambda data, size: d.decompress(data, max_output_size=size)
    if name == "gzip":
        import zlib

        return lambda data, size: zlib.decompress(data, 31, size)
    return lambda data, size: data


class Cutter:
    """Cuts a tar stream, given member by member, into the bytes of each piece."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []
        self._have = 0

    def add(self, chunk: bytes) -> Iterator[bytes]:
        """Take a member, or more of one; yield each piece that is full in the middle of it."""
        left: bytes | memoryview = chunk
        if self._have + len(left) > HARD:
            left = memoryview(chunk)  # slices without copies
        while self._have + len(left) > HARD:
            cut = HARD - self._have
            self._parts.append(left[:cut])
            yield self._piece()
            left = left[cut:]
        self._parts.append(left)
        self._have += len(left)

    def ended(self) -> Iterator[bytes]:
        """Note the end of a member; yield the piece that it fills."""
        if self._have >= SOFT:
            yield self._piece()

    def rest(self) -> Iterator[bytes]:
        """Yield what is left at the end of the stream."""
        if self._have:
            yield self._piece()

    def _piece(self) -> bytes:
        piece = b"".join(self._parts)
        self._parts, self._have = [], 0
        return piece


def pieces_of(members: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a tar stream, given as one or more chunks a member, into the bytes of each piece.

    A chunk that begins a member must begin with its header; a piece ends after a chunk that fills it, or inside one.
    """
    cutter = Cutter()
    for chunk in members:
        yield from cutter.add(chunk)
        yield from cutter.ended()
    yield from cutter.rest()


class FrameWriter:
    """Writes a frame file piece by piece."""

    def __init__(self, path: Path, codec: str) -> None:
        """Begin the file, which must not exist yet; raises OSError."""
        self._compress = compressor(codec)
        self._table: list[Piece] = []
        self._offset = 0
        self._file = open(path, "xb")  # noqa: SIM115  # closed by `end` or `close`

    def add(self, raw: bytes) -> None:
        """Compress and write a piece; raises OSError."""
        data = self._compress(raw)
        self.put(data, Piece(self._offset, len(data), len(raw), hashlib.sha256(data).hexdigest()))

    def put(self, data: bytes, piece: Piece) -> None:
        """Write a compressed piece, whose place is behind the others; raises OSError."""
        self._file.write(data)
        self._table.append(piece)
        self._offset += len(data)

    def end(self) -> None:
        """Write the table and close the file; raises OSError."""
        tail = msgspec.msgpack.encode(self._table)
        self._file.write(tail + hashlib.sha256(tail).digest() + len(tail).to_bytes(8, "little") + MAGIC)
        self._file.close()

    def close(self) -> None:
        """Close the file as it is; after `end` that does nothing."""
        self._file.close()


def write_frame(path: Path, codec: str, raws: Iterator[bytes]) -> None:
    """Compress each piece and write a frame file at `path`; raises OSError."""
    writer = FrameWriter(path, codec)
    try:
        for raw in raws:
            writer.add(raw)
        writer.end()
    finally:
        writer.close()


def open_frame(path: Path, kind: type[Piece] = Piece) -> Frame:
    """Read a frame file's table; raises DamageError where the file is missing or not whole.

    kind: of the pieces' records, for a frame whose codec has more to say of them.
    """
    try:
        with open(path, "rb", buffering=0) as f:
            end = os.fstat(f.fileno()).st_size
            guess = min(end, 4096)
            tail = os.pread(f.fileno(), guess, end - guess)
            if tail[-8:] not in (MAGIC, _UNSUMMED):
                raise ValueError("no end mark")
            after = 48 if tail[-8:] == MAGIC else 16  # bytes behind the table
            length = int.from_bytes(tail[-16:-8], "little")
            if length > end - after:
                raise ValueError("a table longer than the file")
            table = (
                tail[-after - length : -after]
                if length + after <= guess
                else os.pread(f.fileno(), length, end - after - length)
            )
        if after == 48 and hashlib.sha256(table).digest() != tail[-48:-16]:
            raise ValueError("the table does not match its digest")
        pieces: tuple[Piece, ...] = from_msgpack(table, tuple[kind, ...])  # type: ignore[valid-type]
        size = sum(p.size for p in pieces)
        if size != end - after - length:
            raise ValueError("pieces that do not fill the file")
        if any(p.offset != at for p, at in zip(pieces, accumulate((p.size for p in pieces), initial=0))):
            raise ValueError("pieces that do not follow each other")
        if any(p.size < 0 or p.raw < 0 for p in pieces):
            raise ValueError("a piece of an impossible size")
    except (OSError, ValueError, msgspec.MsgspecError) as e:
        raise DamageError(e, path) from e
    return Frame(path=path, pieces=pieces, size=size, raw=sum(p.raw for p in pieces))


def read_piece(frame: Frame, piece: Piece, fd: int) -> bytes:
    """Return a piece's compressed bytes from the open file, checked against their digest; raises DamageError."""
    data = os.pread(fd, piece.size, piece.offset)
    if hashlib.sha256(data).hexdigest() != piece.sha256:
        raise DamageError("a piece does not match its digest", frame.path)
    return data


def raw_pieces(frame: Frame, codec: str) -> Iterator[bytes]:
    """Yield each piece of a frame uncompressed and checked; raises DamageError."""
    unpack = decompressor(codec)
    fd = os.open(frame.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for piece in frame.pieces:
            yield unpack(read_piece(frame, piece, fd), piece.raw)
    finally:
        os.close(fd)


def read_range(frame: Frame, codec: str, offset: int, size: int) -> bytes:
    """Return `size` bytes of the uncompressed stream from `offset` on; raises DamageError."""
    if not size:
        return b""
    unpack = decompressor(codec)
    out: list[bytes] = []
    start = 0
    fd = os.open(frame.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for piece in frame.pieces:
            end = start + piece.raw
            if start < offset + size and end > offset:
                raw = unpack(read_piece(frame, piece, fd), piece.raw)
                out.append(raw[max(0, offset - start) : offset + size - start])
            start = end
    finally:
        os.close(fd)
    return b"".join(out)
