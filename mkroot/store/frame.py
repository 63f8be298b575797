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

from mkroot.store.damage import DamageError

SOFT = 4 << 20  # bytes of tar stream after which a piece ends at the next member
HARD = 16 << 20  # bytes of tar stream after which a piece ends inside a member
MAGIC = b"mkframe2"
_UNSUMMED = b"mkframe1"  # the end mark of files that stores still have, whose table has no digest
CODECS = {
    "zstd": "zstd-3",
    "gzip": "gzip-5",
    "none": "none",
}  # what a key says of library level; pyproject pins the libraries


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


def compressor(codec: str) -> Callable[[bytes], bytes]:
    """Return the function that makes one piece; its output depends on nothing but its input."""
    if codec == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=3, write_checksum=False, write_content_size=True).compress
    if codec == "gzip":
        import deflate

        return lambda data: bytes(deflate.gzip_compress(data, 5))
    return lambda data: data


def decompressor(codec: str) -> Callable[[bytes, int], bytes]:
    """Return the function that unpacks one piece of known size."""
    if codec == "zstd":
        import zstandard

        d = zstandard.ZstdDecompressor()
        return lambda data, size: d.decompress(data, max_output_size=size)
    if codec == "gzip":
        import zlib

        return lambda data, size: zlib.decompress(data, 31, size)
    return lambda data, size: data


def pieces_of(members: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a tar stream, given as one or more chunks a member, into the bytes of each piece.

    A chunk that begins a member must begin with its header; a piece ends after a chunk that fills it, or inside one.
    """
    parts: list[bytes] = []
    have = 0
    for chunk in members:
        while have + len(chunk) > HARD:
            cut = HARD - have
            parts.append(chunk[:cut])
            yield b"".join(parts)
            parts, have, chunk = [], 0, chunk[cut:]
        parts.append(chunk)
        have += len(chunk)
        if have >= SOFT:
            yield b"".join(parts)
            parts, have = [], 0
    if have:
        yield b"".join(parts)


def write_frame(path: Path, codec: str, raws: Iterator[bytes]) -> None:
    """Compress each piece and write a frame file at `path`; raises OSError."""
    compress = compressor(codec)
    table: list[Piece] = []
    offset = 0
    with open(path, "xb") as f:
        for raw in raws:
            data = compress(raw)
            f.write(data)
            table.append(Piece(offset, len(data), len(raw), hashlib.sha256(data).hexdigest()))
            offset += len(data)
        tail = msgspec.msgpack.encode(table)
        f.write(tail + hashlib.sha256(tail).digest() + len(tail).to_bytes(8, "little") + MAGIC)


def open_frame(path: Path) -> Frame:
    """Read a frame file's table; raises DamageError where the file is missing or not whole."""
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
        pieces = msgspec.msgpack.decode(table, type=tuple[Piece, ...])
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
