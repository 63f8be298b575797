"""Writes a tar stream as a `zstd:chunked` layer: each file's content in frames of its own, a table behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from mkroot.artifact.files import HashedFile
from mkroot.errors import ImageError
from mkroot.oci.layerfile import LayerFile
from mkroot.oci.model import CODECS, LAYER, Descriptor
from mkroot.store.chunked import CHUNK, Chunk, packed
from mkroot.store.contents import Table, add_members
from mkroot.store.frame import CHUNKED
from mkroot.tar.entry import FILE, Entry
from mkroot.tar.read import entries
from mkroot.tar.stream import Corrupt, Stream
from mkroot.tar.write import header, padding


def write_chunked(path: Path, stream: Iterable[bytes], compress: Callable[[bytes], bytes]) -> LayerFile:
    """Write a layer to a new file from its tar stream, end mark included.

    The headers must be as mkroot writes them: readers compare them with the table. compress: what makes a frame. Raises
    ImageError where the stream is damaged or has other headers, OSError.
    """
    plain = hashlib.sha256()
    cutter = _Cutter(stream)
    chunks: list[Chunk] = []
    raw = 0
    with HashedFile(path) as out:
        for data, chunk in packed(_hashed(cutter.pieces(), plain.update), compress):
            out.write(data)
            chunks.append(chunk)
            raw += chunk.raw
        table = Table()
        add_members(table, cutter.members, chunks, 0)
        tail = table.tail(sum(chunk.size for chunk in chunks), cutter.end)
        out.write(tail.data)
    descriptor = Descriptor(
        media_type=LAYER + CODECS[CHUNKED], digest=out.digest, size=out.size, annotations=tail.annotations
    )
    return LayerFile(descriptor=descriptor, diff_id="sha256:" + plain.hexdigest(), raw=raw)


def _hashed(pieces: Iterator[tuple[bytes, int]], update: Callable[[bytes], None]) -> Iterator[tuple[bytes, int]]:
    for piece in pieces:
        update(piece[0])
        yield piece


class _Tapped(Stream):
    """A stream that keeps what was read of it until somebody takes it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__(chunks)
        self._taken: list[bytes] = []

    def read(self, n: int) -> bytes:
        data = super().read(n)
        self._taken.append(data)
        return data

    def taken(self) -> bytes:
        """Return what was read since the last time."""
        data = b"".join(self._taken)
        self._taken = []
        return data


class _Cutter:
    """Cuts a tar stream at its files' contents, as `mkroot.store.chunked.cut` does where they are known.

    members: those that were seen. end: what stood behind the last one's padding.
    """

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = _Tapped(iter(stream))
        self.members: list[Entry] = []
        self.end = b""

    def pieces(self) -> Iterator[tuple[bytes, int]]:
        """Yield each piece with its offset in its file, -1 between files; raises ImageError."""
        between: list[bytes] = []
        rest = b""  # the padding of the last file, which is not read yet
        try:
            for entry, name in entries(self._stream, pax=True):
                self.members.append(entry)
                taken = self._stream.taken()
                if taken != rest + header(entry):
                    raise _foreign(name)
                between.append(taken)
                rest = padding(entry.size)
                if entry.kind == FILE and entry.size:
                    yield from _parts(b"".join(between))
                    between = []
                    digest = hashlib.sha256()
                    for at in range(0, entry.size, CHUNK):
                        data = self._content(min(CHUNK, entry.size - at))
                        if entry.size > CHUNK:
                            digest.update(data)
                        yield data, at
                    if entry.size > CHUNK:  # of a smaller file the only chunk has the digest
                        self.members[-1] = replace(entry, sha256=digest.hexdigest())
        except Corrupt as e:
            raise ImageError(f"a layer's tar stream is damaged: {e}") from None
        taken = self._stream.taken()
        self.end = taken[len(rest) :]
        yield from _parts(b"".join((*between, taken)))

    def _content(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._stream.taken()
        if len(data) < size:
            raise Corrupt("it is truncated")
        return data


def _parts(data: bytes) -> Iterator[tuple[bytes, int]]:
    for at in range(0, len(data), CHUNK):
        yield data[at : at + CHUNK], -1


def _foreign(name: str) -> ImageError:
    return ImageError(
        f"a layer cannot be made zstd:chunked as it is: another program wrote the header of {name[:200]!r}",
        hint="compress it as zstd, or build the image again",
    )
