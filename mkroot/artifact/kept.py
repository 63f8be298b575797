"""What a tool made of a root, kept in the store: the next build that wants it made of the same takes it from there.

The key is the digest of all that decides the bytes, the tool's version among it, so that a build gives the same bytes
whether the store has them or not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mkroot.errors import StoreError
from mkroot.store.frame import Frame, Piece, decompressor, open_frame, raw_pieces, read_piece, write_frame
from mkroot.store.store import Store

KIND = "made"
FORMAT = "1"  # of this module's files; part of every key
_PIECE = 4 << 20  # bytes that are packed together
_BLOCK = 1 << 16  # bytes; a block of zeros becomes a hole
_ZEROS = memoryview(bytes(_BLOCK))


def kept_file(store: Store, parts: Sequence[object], path: Path, make: Callable[[], None]) -> None:
    """Have a new file at `path`, 0644: from the store, where it was made of the same parts before, else by `make`.

    parts: strings, numbers and lists, all that decides the file's bytes. Zeros may become holes. Raises what `make`
    raises, StoreError, OSError.
    """
    key = _key(parts)
    if store.has(KIND, key):
        try:
            _restore(store.path(KIND, key), path)
            return
        except StoreError:  # damaged: it is made again
            path.unlink(missing_ok=True)
            store.path(KIND, key).unlink(missing_ok=True)
    make()
    with store.writing(KIND, key, sync=False) as aside:
        write_frame(aside, "zstd", _pieces(path))


def kept_bytes(store: Store, parts: Sequence[object], make: Callable[[], bytes]) -> bytes:
    """Return bytes that were made of the same parts before, else what `make` returns; see kept_file."""
    key = _key(parts)
    if store.has(KIND, key):
        try:
            return b"".join(raw_pieces(open_frame(store.path(KIND, key)), "zstd"))
        except StoreError:
            store.path(KIND, key).unlink(missing_ok=True)
    data = make()
    with store.writing(KIND, key, sync=False) as aside:
        write_frame(aside, "zstd", (data[at : at + _PIECE] for at in range(0, len(data), _PIECE)))
    return data


def _key(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps([KIND, FORMAT, *parts]).encode()).hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as f:
        while piece := f.read(_PIECE):
            yield piece


def _restore(kept: Path, path: Path) -> None:
    frame = open_frame(kept)
    offsets = [0]
    for piece in frame.pieces:
        offsets.append(offsets[-1] + piece.raw)
    source = os.open(kept, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with open(path, "xb", buffering=0) as f, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            os.fchmod(f.fileno(), 0o644)
            os.ftruncate(f.fileno(), frame.raw)
            jobs = zip(frame.pieces, offsets, strict=False)
            for job in [pool.submit(_put, frame, piece, source, f.fileno(), at) for piece, at in jobs]:
                job.result()
    finally:
        os.close(source)


def _put(frame: Frame, piece: Piece, source: int, target: int, offset: int) -> None:
    view = memoryview(decompressor("zstd")(read_piece(frame, piece, source), piece.raw))
    start = 0  # of the run of blocks that are not zeros
    for at in range(0, len(view) + _BLOCK, _BLOCK):
        block = view[at : at + _BLOCK]
        if not block or block == _ZEROS[: len(block)]:
            while start < min(at, len(view)):
                start += os.pwrite(target, view[start : min(at, len(view))], offset + start)
            start = at + _BLOCK
