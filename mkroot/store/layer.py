"""A layer: members of a tree with their contents in a frame, and what else its kind needs; kept in the store.

A package is one kind of layer, what a configuration stage or the recipe wrote is another. Both have the same form, so
that trees, artifacts and images treat them alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Collection, Iterator

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.progress import Spans
from mkroot.store.chunked import Chunk, spans, write_chunks
from mkroot.store.damage import DamageError
from mkroot.store.frame import (
    CHUNKED,
    Frame,
    Piece,
    family,
    keyed,
    open_frame,
    pieces_of,
    raw_pieces,
    read_range,
    write_frame,
)
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store
from mkroot.tar.entry import DIR, FILE, HARDLINK, Entry
from mkroot.tar.stream import Stream
from mkroot.tar.write import header, padding

FORMAT = "3"  # of a layer's record and frame; part of every key below
LARGE = 8 << 20  # bytes of a file that need not be held as a whole,
STEP = 4 << 20  # … and of what is held of it
NOW = -1  # an entry's mtime that stands for the epoch of the build: the file was written while the build ran


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a layer.

    key: its name in the store. name: what to call it (a package, a stage).
    entries: its members in order; a FILE's `data` is the offset of its content in the frame's uncompressed stream.
    removed: paths below it that are gone. opaque: folders below it whose content is gone.
    origins: for what a stage wrote, which step wrote each path.
    notes: what the user should know of how it was made.
    control: a package's control files. conffiles: path and MD5 of each. date: seconds since 1970 at which a package was
    built.
    """

    key: str
    name: str
    entries: tuple[Entry, ...]
    removed: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    origins: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    control: dict[str, bytes] = {}
    conffiles: tuple[tuple[str, str], ...] = ()
    date: int = 0


class FrameBuilder:
    """Puts members into a layer's canonical tar stream: folders are left out, files get their offsets."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._offset = 0

    def add(self, entry: Entry, content: bytes) -> bytes:
        """Return the member's part of the stream (empty for a folder) and note its entry."""
        if entry.kind == DIR:
            self.entries.append(entry)
            return b""
        head = header(entry, 0 if entry.mtime == NOW else None)
        if entry.kind == FILE:
            entry = msgspec.structs.replace(
                entry, data=self._offset + len(head), sha256=entry.sha256 or hashlib.sha256(content).hexdigest()
            )
            chunk = b"".join((head, content, padding(len(content))))
        else:
            chunk = head
        self._offset += len(chunk)
        self.entries.append(entry)
        return chunk

    def begin(self, entry: Entry) -> bytes:
        """Return the header of a FILE whose content the caller adds in parts, with its padding, and note its entry."""
        head = header(entry, 0 if entry.mtime == NOW else None)
        self.entries.append(msgspec.structs.replace(entry, data=self._offset + len(head)))
        self._offset += len(head) + entry.size + len(padding(entry.size))
        return head

    def end(self, sha256: str) -> None:
        """Note the digest of the FILE that was begun last."""
        self.entries[-1] = msgspec.structs.replace(self.entries[-1], sha256=sha256)


class LayerStore:
    """Layers in a store: records under `layers`, their frames under `frames`.

    timing: takes when frames were made; None: nobody measures it. wanted: keys of the frames that were asked for; made:
    of those that were not there before.
    """

    def __init__(self, store: Store, timing: Spans | None = None) -> None:
        self.store = store
        self.timing = timing
        self.wanted: set[str] = set()
        self.made: set[str] = set()
        self.missing: Callable[[], None] | None = None  # what waits for frames that are still being made
        self._frames: dict[str, Frame] = {}
        self._records: dict[str, Layer] = {}

    def has(self, key: str) -> bool:
        """Tell whether the layer is there, or could be brought from the store's second floor."""
        return self.store.has("layers", key) or (self._bring(key) and self.store.has("layers", key))

    def _bring(self, key: str) -> bool:
        """Look for a layer on the store's second floor; tell whether there is one. Raises StoreError."""
        if self.store.beyond is None:
            return False
        self.store.beyond.bring((key,))
        return True

    def load(self, key: str) -> Layer:
        """Return a layer's record; raises StoreError where it is missing or damaged."""
        known = self._records.get(key)
        if known is not None:
            return known
        path = self.store.path("layers", key)
        if not path.exists():
            self._bring(key)
        try:
            layer = from_msgpack(opened(path.read_bytes()), Layer)
        except FileNotFoundError:
            raise DamageError("it is missing", path) from None
        except (OSError, ValueError, msgspec.MsgspecError) as e:
            raise DamageError(e, path) from e
        self._records[key] = layer  # a build asks for each of its packages several times
        return layer

    def save(self, layer: Layer, raws: Iterator[bytes]) -> None:
        """Write a layer: its frame first, then its record, so that a record never stands without its frame."""
        self.save_frame(layer, raws, "zstd")
        blob = msgspec.msgpack.encode(layer)
        with self.store.writing("layers", layer.key, sync=False) as aside:
            aside.write_bytes(sealed(blob))
        if self.store.beyond is not None:
            self.store.beyond.offer((layer.key,))

    def save_frame(self, layer: Layer, raws: Iterator[bytes], codec: str) -> None:
        """Write a layer's whole frame in a codec, from the pieces of its stream."""
        key = frame_key(layer.key, codec)
        if not self.store.has("frames", key):
            with self._making(key, layer), self.store.writing("frames", key, sync=False) as aside:
                if family(codec) == CHUNKED:
                    write_chunks(aside, codec, raws, spans(e for e in layer.entries if e.kind != DIR))
                else:
                    write_frame(aside, codec, raws)

    @contextlib.contextmanager
    def _making(self, key: str, layer: Layer) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.made.add(key)
        if self.timing is not None:
            self.timing.note("compress", "compress", layer.name, begin, sum(e.size for e in layer.entries))

    def base(self, layer: Layer) -> Frame:
        """Return the layer's whole frame, zstd."""
        key = frame_key(layer.key, "zstd")
        frame = self._frames.get(key)
        if frame is None:
            if self.store.has("frames", key):
                pass
            elif self.missing is not None:
                self.missing()
            else:
                self._bring(layer.key)
            frame = self._frames[key] = open_frame(self.store.path("frames", key))
        return frame

    def read(self, layer: Layer, entry: Entry) -> bytes:
        """Return a FILE's content; raises StoreError."""
        data = read_range(self.base(layer), "zstd", entry.data, entry.size)
        if len(data) != entry.size or (entry.sha256 and hashlib.sha256(data).hexdigest() != entry.sha256):
            raise DamageError(f"{entry.path} of {layer.name} does not match its digest", self.base(layer).path)
        return data

    def frame(self, layer: Layer, codec: str, keep: Collection[str] | None, epoch: int) -> Frame:
        """Return the layer's frame in `codec` with only the paths in `keep` (all: None), made if it is not there.

        No member's mtime is later than `epoch` (seconds); NOW becomes `epoch`.
        """
        key = derived_key(layer, codec, keep, epoch)
        path = self.store.path("frames", key)
        self.wanted.add(key)
        if not path.exists():
            with (
                self.store.lock("frames", key),
                self._making(key, layer),
                self.store.writing("frames", key, sync=False) as aside,
            ):
                members = self._members(layer, keep, epoch)
                if family(codec) == CHUNKED:
                    write_chunks(aside, codec, members, spans(entry for entry, _ in survivors(layer, keep)))
                elif key == frame_key(layer.key, codec):  # cut as when it is made beside the zstd one
                    write_frame(aside, codec, raw_pieces(self.base(layer), "zstd"))
                else:
                    write_frame(aside, codec, pieces_of(members))
        return open_frame(path, Chunk if family(codec) == CHUNKED else Piece)

    def _members(self, layer: Layer, keep: Collection[str] | None, epoch: int) -> Iterator[bytes]:
        """Yield the stream's members again, less those dropped."""
        read = _Sequential(self.base(layer)).read
        for entry, source in survivors(layer, keep):
            yield header(entry, epoch if entry.mtime == NOW else min(entry.mtime, epoch))
            if source is None or not source.size:
                continue
            if source.path != entry.path:  # out of the stream's order
                content = read_range(self.base(layer), "zstd", source.data, source.size)
                yield content + padding(len(content))
                continue
            left, offset = source.size, source.data
            while left:
                part = read(offset, min(left, 1 << 22))
                left -= len(part)
                offset += len(part)
                yield part if left else part + padding(source.size)


def survivors(layer: Layer, keep: Collection[str] | None) -> Iterator[tuple[Entry, Entry | None]]:
    """Yield the entries of a layer's stream that are kept, each file with the entry that holds its content.

    keep: paths; None for all. A hard link whose file is dropped takes the file's place, and the next ones name it.
    """
    moved: dict[str, str] = {}
    sources: dict[str, Entry] = {}
    for entry in layer.entries:
        if entry.kind == FILE:
            sources[entry.path] = entry
        if entry.kind == DIR or (keep is not None and entry.path not in keep):
            continue
        if entry.kind == HARDLINK and keep is not None and entry.link not in keep:
            first = moved.setdefault(entry.link, entry.path)
            if first == entry.path:
                source = sources[entry.link]
                yield msgspec.structs.replace(source, path=entry.path), source
            else:
                yield msgspec.structs.replace(entry, link=first), None
        else:
            yield entry, entry if entry.kind == FILE else None


class _Sequential:
    """Reads ranges of a zstd frame's stream in rising order, with one piece unpacked at a time."""

    def __init__(self, frame: Frame) -> None:
        self._pieces = raw_pieces(frame, "zstd")
        self._start = 0
        self._piece = b""

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset` on, at least one."""
        while offset >= self._start + len(self._piece):
            self._start += len(self._piece)
            self._piece = next(self._pieces)
        begin = offset - self._start
        return self._piece[begin : begin + size]


def frame_key(layer_key: str, codec: str) -> str:
    """Return the store key of a layer's whole frame."""
    return hashlib.sha256(f"frame {FORMAT} {keyed(codec)} {layer_key}".encode()).hexdigest()


def derived_key(layer: Layer, codec: str, keep: Collection[str] | None, epoch: int) -> str:
    """Return the store key of a frame with only `keep` and no mtime later than `epoch`."""
    kept = [e for e in layer.entries if e.kind != DIR and (keep is None or e.path in keep)]
    whole = len(kept) == sum(e.kind != DIR for e in layer.entries)
    if whole and all(0 <= e.mtime <= epoch for e in kept):
        return frame_key(layer.key, codec)
    h = hashlib.sha256(f"frame {FORMAT} {keyed(codec)} {layer.key} ".encode())
    h.update(b"whole" if whole else b"\0".join(e.path.encode("utf-8", "surrogateescape") for e in kept))
    if any(not 0 <= e.mtime <= epoch for e in kept):
        h.update(f" {epoch}".encode())
    return h.hexdigest()


Reader = Callable[[Layer, Entry], bytes]
"""What reads a FILE of a layer."""


def streamed(layers: LayerStore, layer: Layer) -> Iterator[tuple[Entry, bytes | Iterator[bytes]]]:
    """Yield a layer's entries with their contents as `contents` does, those of large files in parts.

    The parts are read, or passed over, before the next entry. Raises StoreError.
    """
    stream = Stream(raw_pieces(layers.base(layer), "zstd"))
    for entry in layer.entries:
        if entry.kind == FILE:
            stream.read(entry.data - stream.offset)
            yield (
                entry,
                stream.read(entry.size) if entry.size <= LARGE else _parts(stream, entry.size, layers.base(layer)),
            )
        else:
            yield entry, b""


def _parts(stream: Stream, left: int, frame: Frame) -> Iterator[bytes]:
    while left:
        part = stream.read(min(left, STEP))
        if not part:
            raise DamageError("it ends too early", frame.path)
        left -= len(part)
        yield part


def contents(layers: LayerStore, layer: Layer) -> Iterator[tuple[Entry, bytes]]:
    """Yield a layer's entries with their contents, read in one pass; raises StoreError."""
    stream = Stream(raw_pieces(layers.base(layer), "zstd"))
    for entry in layer.entries:
        if entry.kind == FILE:
            stream.read(entry.data - stream.offset)
            yield entry, stream.read(entry.size)
        else:
            yield entry, b""
