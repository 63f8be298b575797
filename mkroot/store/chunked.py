"""Chunked frames: frames of zstd in which each file's content has pieces of its own, so that it can be fetched alone.

Between the contents stand pieces with what else the tar stream has: padding and headers. Joined they are one zstd
archive like any other; `mkroot.store.contents` writes the table that makes `zstd:chunked` of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mkroot.store.frame import FrameWriter, Piece, compressor
from mkroot.tar.crc64 import crc64
from mkroot.tar.entry import FILE, Entry
from mkroot.tar.stream import Stream
from mkroot.tar.write import header, padding

CHUNK = 4 << 20  # bytes of a file in one piece, and the most of headers; a change needs another word in frame.CODECS


class Chunk(Piece, frozen=True, array_like=True, gc=False):
    """A piece of a chunked frame.

    plain: SHA-256 of what it holds, where that is a file's content or a part of it, "" for a piece between contents.
    crc: CRC-64 of the file from its beginning to the end of this piece.
    """

    plain: str = ""
    crc: int = 0


def spans(entries: Iterable[Entry]) -> Iterator[tuple[int, int]]:
    """Yield where each content lies in the tar stream of these members, which has no folders: offset and size."""
    at = 0
    for entry in entries:
        at += len(header(entry, 0))
        if entry.kind == FILE and entry.size:
            yield at, entry.size
            at += entry.size + len(padding(entry.size))


def cut(stream: Iterable[bytes], contents: Iterable[tuple[int, int]]) -> Iterator[tuple[bytes, int]]:
    """Cut a tar stream into the bytes of each piece; contents: offset and size of each, in order.

    With a piece of a file comes its offset in the file, with one between files -1. Raises ValueError where the stream
    ends too early.
    """
    source = Stream(iter(stream))
    for offset, size in contents:
        while source.offset < offset:
            yield _exactly(source, min(offset - source.offset, CHUNK)), -1
        for at in range(0, size, CHUNK):
            yield _exactly(source, min(size - at, CHUNK)), at
    while rest := source.read(CHUNK):
        yield rest, -1


def _exactly(source: Stream, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise ValueError("the stream ends before its last content")
    return data


def packed(pieces: Iterable[tuple[bytes, int]], compress: Callable[[bytes], bytes]) -> Iterator[tuple[bytes, Chunk]]:
    """Compress what `cut` gives; yield each piece with its record, whose offset counts from the first one."""
    offset = crc = 0
    for raw, place in pieces:
        data = compress(raw)
        digest = hashlib.sha256(data).hexdigest()
        if place < 0:
            yield data, Chunk(offset, len(data), len(raw), digest)
        else:
            crc = crc64(raw, crc if place else 0)
            yield data, Chunk(offset, len(data), len(raw), digest, hashlib.sha256(raw).hexdigest(), crc)
        offset += len(data)


def write_chunks(path: Path, codec: str, stream: Iterable[bytes], contents: Iterable[tuple[int, int]]) -> None:
    """Write a chunked frame file of a tar stream at `path`; raises OSError, ValueError as `cut` does."""
    writer = FrameWriter(path, codec)
    try:
        for data, chunk in packed(cut(stream, contents), compressor(codec)):
            writer.put(data, chunk)
        writer.end()
    finally:
        writer.close()
