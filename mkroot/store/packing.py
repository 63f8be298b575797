"""A package's tar stream on its way into a frame: held while it is small, compressed as it comes once it is large."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mkroot.store.frame import Cutter, FrameWriter, raw_pieces
from mkroot.store.layer import Layer, LayerStore, frame_key
from mkroot.store.store import Store

HELD = 32 << 20  # bytes of one stream that are held; what is more goes to the disk, compressed


class Packing:
    """Takes a layer's stream member by member; `save` writes frames and record.

    Used as a context manager it leaves nothing in the store when it ends in an error. What is held is compressed only
    by `save`, so that this can wait until the processors have time.
    """

    def __init__(self, layers: LayerStore, key: str) -> None:
        self.held = 0  # bytes
        self._layers = layers
        self._key = frame_key(key, "zstd")
        self._cutter = Cutter()
        self._pieces: list[bytes] = []
        self._writer: FrameWriter | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Packing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, None)

    def add(self, chunk: bytes) -> None:
        """Take a member, which begins with its header, or more of one; raises StoreError, OSError."""
        for piece in self._cutter.add(chunk):
            self._full(piece)

    def ended(self) -> None:
        """Note the end of a member; raises StoreError, OSError."""
        for piece in self._cutter.ended():
            self._full(piece)

    def complete(self) -> None:
        """Note the end of the stream, after which `held` is all that is held; raises StoreError, OSError."""
        for piece in self._cutter.rest():
            self._full(piece)

    def _full(self, piece: bytes) -> None:
        if self._writer is not None:
            self._writer.add(piece)
            return
        self._pieces.append(piece)
        self.held += len(piece)
        if self.held > HELD:
            self._writer = self._begun(self._layers.store)
            for held in self._pieces:
                self._writer.add(held)
            self._pieces, self.held = [], 0

    def _begun(self, store: Store) -> FrameWriter:
        aside: Path = self._stack.enter_context(store.writing("frames", self._key, sync=False))
        writer = FrameWriter(aside, "zstd")
        self._stack.callback(writer.close)
        return writer

    def save(self, layer: Layer, codecs: tuple[str, ...] = ()) -> None:
        """Write the frame of a complete stream, those in further codecs, and the record; raises StoreError, OSError."""
        if self._writer is None:
            for codec in codecs:
                self._layers.save_frame(layer, iter(self._pieces), codec)
            self._layers.save(layer, iter(self._pieces))
            return
        with self._stack:
            self._writer.end()
        for codec in codecs:
            self._layers.save_frame(layer, raw_pieces(self._layers.base(layer), "zstd"), codec)
        self._layers.save(layer, iter(()))  # its frame is there
