"""Writes a layer: entries and removals as a tar stream in one canonical order, compressed on every processor."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from mkroot.artifact.files import HashedFile
from mkroot.errors import ImageError
from mkroot.oci.model import CODECS, LAYER, Descriptor
from mkroot.store.frame import CHUNKED, compressor, family, pieces_of
from mkroot.tar.entry import DIR, FILE, Entry, parent
from mkroot.tar.write import END, header, padding

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"  # image-spec, layer.md, "Whiteouts"

Content = Callable[[Entry], Iterable[bytes]]
"""What yields a FILE's content in pieces."""


class LayerFile(Struct, frozen=True, kw_only=True):
    """A layer that was written: its descriptor, the digest of its uncompressed stream, and that one's bytes."""

    descriptor: Descriptor
    diff_id: str
    raw: int


def layer_members(
    entries: Iterable[Entry],
    content: Content,
    *,
    removed: Collection[str] = (),
    opaque: Collection[str] = (),
    latest: int | None = None,
) -> Iterator[bytes]:
    """Yield a layer's tar stream, a member's header first and its content in pieces; the end mark is not in it.

    entries: folders before what they hold, a hard link after the file that it names. removed: paths of the layers below
    that are gone. opaque: folders whose content below is gone. latest: no time is later than this, in seconds. A
    folder's whiteouts stand before what else it holds, as image-spec asks for. Raises ImageError where a file has not
    the size that its entry says, OSError.
    """
    gone: dict[str, list[str]] = {}
    for path in sorted(opaque):
        gone.setdefault(path, []).append(OPAQUE)
    for path in sorted(removed):
        gone.setdefault(parent(path), []).append(WHITEOUT + path.rpartition("/")[2])
    yield from _whiteouts("", gone.pop("", ()))
    for entry in entries:
        yield header(entry, entry.mtime if latest is None else min(entry.mtime, latest))
        if entry.kind == FILE and entry.size:
            yield from _exactly(entry, content(entry))
        elif entry.kind == DIR and entry.path:
            yield from _whiteouts(entry.path, gone.pop(entry.path, ()))
    for folder in sorted(gone):  # of folders that the layer has not itself
        yield from _whiteouts(folder, gone[folder])


def _whiteouts(folder: str, names: Iterable[str]) -> Iterator[bytes]:
    for name in names:
        yield header(Entry(f"{folder}/{name}" if folder else name, FILE, 0o600))


def _exactly(entry: Entry, pieces: Iterable[bytes]) -> Iterator[bytes]:
    left = entry.size
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise ImageError(
            f"/{entry.path} was changed while it was read", hint="stop what writes to it, and do it once more"
        )
    yield padding(entry.size)


def write_layer(
    path: Path, members: Iterable[bytes], compression: str, *, ended: bool = False, quick: bool = False
) -> LayerFile:
    """Write a layer to a new file from the chunks of its tar stream.

    compression: gzip, zstd, zstd:chunked or none, or one of them at a level (`mkroot.store.frame.levelled`). ended: the
    stream has its end mark already; it is added otherwise. quick: compress for somebody who waits, by the level that
    takes half the time for a tenth more bytes. The bytes depend on the stream alone, not on the number of processors.
    Raises ImageError for a stream that another program wrote and that is to be zstd:chunked, OSError.
    """
    if family(compression) == CHUNKED:
        from mkroot.oci.chunked import write_chunked

        return write_chunked(
            path, members if ended else _ended(members), _quick("zstd") if quick else compressor(compression)
        )
    plain = hashlib.sha256()
    raw = 0

    def pieces(hashing: ThreadPoolExecutor) -> Iterator[bytes]:
        nonlocal raw
        for piece in pieces_of(iter(members) if ended else _ended(members)):
            hashing.submit(plain.update, piece)
            raw += len(piece)
            yield piece

    with (
        HashedFile(path) as out,
        ThreadPoolExecutor(1) as hashing,  # one thread, so that pieces are hashed in their order
        closing(_compressed(pieces(hashing), compression, quick)) as packed,
    ):
        for data in packed:
            out.write(data)
    descriptor = Descriptor(media_type=LAYER + CODECS[family(compression)], digest=out.digest, size=out.size)
    return LayerFile(descriptor=descriptor, diff_id="sha256:" + plain.hexdigest(), raw=raw)


def _ended(members: Iterable[bytes]) -> Iterator[bytes]:
    yield from members
    yield END


def _compressed(pieces: Iterator[bytes], compression: str, quick: bool) -> Generator[bytes, None, None]:
    """Yield each piece compressed, in order; the codecs run without the GIL, and threads work ahead."""
    if compression == "none":
        yield from pieces
        return
    own = threading.local()  # zstandard's compressors are not to be shared by threads

    def compress(piece: bytes) -> bytes:
        if not hasattr(own, "compress"):
            own.compress = _quick(compression) if quick else compressor(compression)
        done: bytes = own.compress(piece)
        return done

    count = min(len(os.sched_getaffinity(0)), 8)
    ahead: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(count) as pool:
        for piece in pieces:
            ahead.append(pool.submit(compress, piece))
            if len(ahead) > count + 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _quick(compression: str) -> Callable[[bytes], bytes]:
    """Return a compressor of the lowest level; what it makes of a piece depends on nothing but the piece."""
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1, write_checksum=False, write_content_size=True).compress
    import deflate

    return lambda data: bytes(deflate.gzip_compress(data, 1))
