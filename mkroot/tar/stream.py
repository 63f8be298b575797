"""Exact reads from decompressed chunks, bounded by what was promised."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from lzma import FORMAT_ALONE, FORMAT_XZ, LZMAError
from typing import Any

try:  # liblzma 5.8, whose decoder takes 0.6 of the time that 5.4's takes
    from lzma_mt import LZMADecompressor
except ImportError:
    from lzma import LZMADecompressor  # type: ignore[assignment]

STEP = 1 << 20  # bytes of compressed input, and of decompressed output, handled at a time
ZSTD_STEP = 8 << 10  # … of zstd input, whose 4-byte blocks give up to 128 KiB each (RFC 8878, 3.1.1.2), all at once


class Corrupt(Exception):
    """The stream is truncated, damaged, longer than promised, or followed by something else."""


class _Zlib:
    """zlib's decompressobj under the names that lzma's and bz2's decompressors have."""

    def __init__(self) -> None:
        self._z = zlib.decompressobj(31)
        self._pending = b""

    @property
    def eof(self) -> bool:
        return self._z.eof

    @property
    def unused_data(self) -> bytes:
        return self._z.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._z.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._z.decompress(self._z.unconsumed_tail + data, max_length)


def _members(kind: str, data: memoryview) -> Iterator[bytes]:
    """Yield decompressed pieces of one or more members or streams that stand one after the other."""
    pos = 0
    while pos < len(data):
        if pos and kind == "xz" and bytes(data[pos : pos + 4]) == bytes(4):  # padding, xz file format 2.2
            pos += 4
            continue
        d: Any
        if kind == "xz":
            d = LZMADecompressor(format=FORMAT_XZ, memlimit=512 << 20)
        elif kind == "lzma":
            d = LZMADecompressor(format=FORMAT_ALONE, memlimit=512 << 20)
        elif kind == "gz":
            d = _Zlib()
        else:
            import bz2

            d = bz2.BZ2Decompressor()
        while not d.eof:
            piece = b""
            if d.needs_input:
                if pos >= len(data):
                    raise Corrupt("the stream is truncated")
                piece = bytes(data[pos : pos + STEP])
                pos += len(piece)
            if out := d.decompress(piece, STEP):
                yield out
        pos -= len(d.unused_data)


def _zstd(data: memoryview) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    pos = 0
    while pos < len(data):
        frame = decompressor.decompressobj(write_size=STEP >> 3)
        while not frame.eof:
            if pos >= len(data):
                raise Corrupt("the stream is truncated")
            piece = data[pos : pos + ZSTD_STEP]
            pos += len(piece)
            if out := frame.decompress(piece):
                yield out
        pos -= len(frame.unused_data)


def decompress(kind: str, data: memoryview, limit: int) -> Iterator[bytes]:
    """Yield the decompressed pieces of `data`, all members or frames of it.

    kind: "", "gz", "xz", "zst", "bz2" or "lzma". limit: the most bytes that may come out.
    Raises Corrupt when the stream is truncated, damaged, followed by anything else, or longer than `limit`.
    """
    total = 0
    try:
        if not kind:
            pieces: Iterator[bytes] = (bytes(data[i : i + STEP]) for i in range(0, len(data), STEP))
        else:
            pieces = _zstd(data) if kind == "zst" else _members(kind, data)
        for piece in pieces:
            total += len(piece)
            if total > limit:
                raise Corrupt(f"it unpacks to more than the {limit} bytes that its description leads one to expect")
            yield piece
    except (LZMAError, zlib.error, OSError, EOFError, ValueError) as e:
        raise Corrupt(f"the {kind or 'plain'} stream is damaged: {e}") from e
    except Exception as e:
        if type(e).__name__ == "ZstdError":
            raise Corrupt(f"the zst stream is damaged: {e}") from e
        raise


class Stream:
    """Exact reads over an iterator of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._pos = 0
        self.offset = 0  # of the next byte to be read

    def read(self, n: int) -> bytes:
        """Return exactly `n` bytes, or fewer at the end of the stream."""
        pos = self._pos
        end = pos + n
        if end <= len(self._buffer):
            self._pos = end
            self.offset += n
            return self._buffer[pos:end]
        parts = [self._buffer[pos:]]
        have = len(parts[0])
        while have < n:
            chunk = next(self._chunks, b"")
            if not chunk:
                self._buffer, self._pos = b"", 0
                self.offset += have
                return b"".join(parts)
            parts.append(chunk)
            have += len(chunk)
        extra = have - n
        self._buffer = parts[-1]
        self._pos = len(self._buffer) - extra
        if extra:
            parts[-1] = self._buffer[: self._pos]
        self.offset += n
        return b"".join(parts)
