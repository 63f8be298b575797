"""A tar stream written from compressed frames that are ready, joined; or as one stream, or plain."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.progress import Spans
from mkroot.store import contents
from mkroot.store.contents import Tail
from mkroot.store.damage import DamageError
from mkroot.store.frame import Frame, Piece, compressor, decompressor, family, level_of, read_piece
from mkroot.store.part import Part
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store
from mkroot.tar.write import END

_RUN = 1 << 20  # bytes of a stream that are unpacked together


class Blob(msgspec.Struct, frozen=True):
    """A tar stream that was written.

    digest: `sha256:…` of the bytes written. size: bytes. diff_id: that of the uncompressed stream. raw: its bytes.
    parts: of which it was joined, empty where it was not. annotations: what an image says of it as a layer.
    """

    digest: str
    size: int
    diff_id: str
    raw: int
    parts: tuple[Part, ...] = ()
    annotations: Mapping[str, str] = {}


def join(
    store: Store,
    out: BinaryIO,
    codec: str,
    head: list[tuple[bytes, int]],
    frames: list[Frame],
    end: bytes,
    *,
    stream: Callable[[], str],
    tail: Callable[[], Tail] | None = None,
    timing: Spans | None = None,
) -> Blob:
    """Write the pieces one after the other, while a thread finds out the diff-id where it is not known yet.

    head, end: what comes before the frames, each with its size uncompressed, and the end mark, both compressed.
    stream: returns a key for the uncompressed stream, the same in every codec. tail: makes what stands behind all, of
    the pieces alone; it is kept in the store. timing: takes when the diff-id was hashed. Raises DamageError for a piece
    that does not match its digest, OSError where `out` cannot be written.
    """
    key = _pieces_key(codec, head, frames)
    known = _recall(store, key)
    whole = hashlib.sha256()
    size = 0

    def hashed() -> str:
        begin = time.monotonic()
        found = _diff_id(store, codec, head, frames, stream)
        if timing is not None:
            timing.note("hash", "hash", "the layer, uncompressed", begin, sum(frame.raw for frame in frames))
        return found

    with ThreadPoolExecutor(1) as beside:
        made = beside.submit(hashed) if known is None else None
        for data, _ in head:
            whole.update(data)
            size += _put(out, data)
        for frame in frames:
            with open(frame.path, "rb", buffering=0) as f:
                left = frame.size
                while left:
                    data = f.read(min(left, 1 << 22))
                    if not data:
                        raise DamageError("it became shorter", frame.path)
                    whole.update(data)
                    _put(out, data)
                    left -= len(data)
                size += frame.size
        behind = Tail(b"", {}) if tail is None else _kept_tail(store, key, tail)
        for data in (end, behind.data):
            whole.update(data)
            size += _put(out, data)
        digest = "sha256:" + whole.hexdigest()
        if known is not None and known[0] == digest:
            diff_id = known[1]
        else:  # a damaged frame shows here: its piece is named
            diff_id = made.result() if made is not None else _diff_id(store, codec, head, frames, stream)
            _remember(store, key, digest, diff_id)
    raw = sum(n for _, n in head) + sum(f.raw for f in frames) + len(END)
    parts = [Part(data, "", len(data)) for data, _ in head]
    parts += [Part(b"", str(f.path.relative_to(store.root)), f.size) for f in frames]
    parts += [Part(data, "", len(data)) for data in (end, behind.data) if data]
    return Blob(digest, size, diff_id, raw, tuple(parts), behind.annotations)


def _kept_tail(store: Store, key: str, make: Callable[[], Tail]) -> Tail:
    """Return the tail of these pieces from the store, else what `make` returns. key: of the pieces."""
    key = hashlib.sha256(f"tail {contents.FORMAT} {key}".encode()).hexdigest()
    path = store.path("tails", key)
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):  # damaged: it is made again
        return from_msgpack(opened(path.read_bytes()), Tail)
    path.unlink(missing_ok=True)
    tail = make()
    with store.writing("tails", key, sync=False) as aside:
        aside.write_bytes(sealed(msgspec.msgpack.encode(tail)))
    return tail


def _diff_id(
    store: Store, codec: str, head: list[tuple[bytes, int]], frames: list[Frame], stream: Callable[[], str]
) -> str:
    """Return the digest of the uncompressed stream, known from another codec or hashed now.

    Every piece is checked on the way.
    """
    key = stream()
    same = _recall(store, key)
    if same is not None:
        _check(frames)
        return same[1]
    h = hashlib.sha256()
    for raw in _unpacked(codec, head, frames):
        h.update(raw)
    h.update(END)
    diff_id = "sha256:" + h.hexdigest()
    _remember(store, key, diff_id, diff_id)
    return diff_id


def stream_digest(store: Store, key: str, raws: Callable[[], Iterator[bytes]]) -> str:
    """Return the digest of an uncompressed stream, known from an earlier write or hashed now.

    key: as `join` has it of its `stream`.
    """
    same = _recall(store, key)
    if same is not None:
        return same[1]
    h = hashlib.sha256()
    for raw in raws():
        h.update(raw)
    diff_id = "sha256:" + h.hexdigest()
    _remember(store, key, diff_id, diff_id)
    return diff_id


def _pieces_key(codec: str, head: list[tuple[bytes, int]], frames: list[Frame]) -> str:
    """Return a key for the joined stream: the digests of its pieces."""
    h = hashlib.sha256(codec.encode())
    for data, _ in head:
        h.update(hashlib.sha256(data).digest())
    for frame in frames:
        for piece in frame.pieces:
            h.update(bytes.fromhex(piece.sha256))
    return h.hexdigest()


def _recall(store: Store, key: str) -> tuple[str, str] | None:
    """Return the digests of a joined stream, compressed and plain; None where they are not known or were damaged."""
    try:
        about, digest, diff_id = opened(store.path("joined", key).read_bytes()).decode().split()
    except (OSError, ValueError):
        return None
    return (digest, diff_id) if about == key else None


def _remember(store: Store, key: str, digest: str, diff_id: str) -> None:
    store.path("joined", key).unlink(missing_ok=True)
    with store.writing("joined", key, sync=False) as aside:
        aside.write_bytes(sealed(f"{key} {digest} {diff_id}".encode()))


def _put(out: BinaryIO, data: bytes) -> int:
    """Write all of `data`, which an unbuffered file may take in parts; return how many bytes that was."""
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]
    return len(data)


def _check(frames: list[Frame]) -> None:
    """Raise StoreError for the first piece that does not match its digest."""
    for frame in frames:
        with open(frame.path, "rb", buffering=0) as f:
            for piece in frame.pieces:
                read_piece(frame, piece, f.fileno())


def _unpacked(codec: str, head: list[tuple[bytes, int]], frames: list[Frame]) -> Iterator[bytes]:
    """Yield some pieces at a time, checked and uncompressed, in order.

    Two threads work ahead (the codecs run without the GIL).
    """
    unpack = decompressor(codec)

    def one(frame: Frame, pieces: list[Piece]) -> bytes:
        own = decompressor(codec)
        with open(frame.path, "rb", buffering=0) as f:
            return b"".join(own(read_piece(frame, piece, f.fileno()), piece.raw) for piece in pieces)

    for data, size in head:
        yield unpack(data, size)
    ahead: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(2) as pool:
        for frame in frames:
            for pieces in _runs(frame):
                ahead.append(pool.submit(one, frame, pieces))
                if len(ahead) > 4:
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _runs(frame: Frame) -> Iterator[list[Piece]]:
    """Yield a frame's pieces in lists, of which each but the last has _RUN bytes of the stream or more."""
    run: list[Piece] = []
    have = 0
    for piece in frame.pieces:
        run.append(piece)
        have += piece.raw
        if have >= _RUN:
            yield run
            run, have = [], 0
    if run:
        yield run


def write_plain(out: BinaryIO, raws: Iterator[bytes]) -> Blob:
    """Write a stream as it is."""
    h = hashlib.sha256()
    size = 0
    for raw in raws:
        h.update(raw)
        size += _put(out, raw)
    digest = "sha256:" + h.hexdigest()
    return Blob(digest, size, digest, size)


def write_single(out: BinaryIO, codec: str, raws: Iterator[bytes]) -> Blob:
    """Write one compressed stream. gzip holds the whole tar in memory, for libdeflate has no streaming form."""
    plain, packed = hashlib.sha256(), hashlib.sha256()
    raw_size = size = 0

    def seen() -> Iterator[bytes]:
        nonlocal raw_size
        for raw in raws:
            plain.update(raw)
            raw_size += len(raw)
            yield raw

    for data in _one_stream(codec, seen()):
        packed.update(data)
        size += _put(out, data)
    return Blob("sha256:" + packed.hexdigest(), size, "sha256:" + plain.hexdigest(), raw_size)


def _one_stream(codec: str, raws: Iterator[bytes]) -> Iterator[bytes]:
    if family(codec) == "zstd":
        import zstandard

        stream = zstandard.ZstdCompressor(level=level_of(codec)).compressobj()
        for raw in raws:
            yield stream.compress(raw)
        yield stream.flush()
    else:
        yield compressor(codec)(b"".join(raws))
