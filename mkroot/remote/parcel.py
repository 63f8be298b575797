"""A layer as one blob: its frame, its record, and behind them how long the record is.

One blob is one request. The frame comes first, so that whoever receives it cuts the rest off and has it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.digest import oci
from mkroot.errors import MkrootError
from mkroot.oci.model import Descriptor
from mkroot.remote.seal import LAYER, TYPES, EntryError, tag_of
from mkroot.store.damage import DamageError
from mkroot.store.frame import open_frame, read_piece
from mkroot.store.layer import Layer, frame_key
from mkroot.store.seal import opened
from mkroot.store.store import Store

MAGIC = b"mklayer1"
_TAIL = 16  # bytes: the record's length, little-endian, and MAGIC
_SALT = 16  # bytes that make another blob of the same layer
_BLOCK = 1 << 20


def packed(store: Store, key: str, path: Path, *, salted: bool = False) -> Descriptor:
    """Write a layer of the store to a new file, and return what a manifest says of it.

    Damage does not get out: record and frame are checked against their digests. salted: make another blob than usual,
    in place of one that a registry has damaged and would not take again. Raises DamageError, OSError.
    """
    place = store.path("layers", key)
    record = place.read_bytes()
    try:
        opened(record)
    except ValueError as e:
        raise DamageError(e, place) from None
    frame = open_frame(store.path("frames", frame_key(key, "zstd")))
    whole = hashlib.sha256()
    with open(frame.path, "rb", buffering=0) as source, open(path, "xb") as target:

        def put(data: bytes) -> None:
            target.write(data)
            whole.update(data)

        for piece in frame.pieces:
            put(read_piece(frame, piece, source.fileno()))
        source.seek(frame.size)
        while data := source.read(_BLOCK):
            put(data)
        put(record)
        put(os.urandom(_SALT) if salted else b"")
        put(((len(record) << 8) + (_SALT if salted else 0)).to_bytes(8, "little") + MAGIC)
        size = target.tell()
    return Descriptor(media_type=TYPES[LAYER], digest=oci(whole.hexdigest()), size=size)


def unpacked(path: Path, key: str) -> tuple[str, bytes]:
    """Cut a blob down to its frame, and return the layer's name and its record, sealed as the store has it.

    Raises EntryError where it is no layer, or another one than `key`; OSError.
    """
    try:
        with open(path, "r+b", buffering=0) as f:
            end = os.fstat(f.fileno()).st_size
            tail = os.pread(f.fileno(), _TAIL, max(0, end - _TAIL))
            if len(tail) != _TAIL or tail[8:] != MAGIC:
                raise ValueError("it has no end mark")
            said = int.from_bytes(tail[:8], "little")
            length, salt = said >> 8, said & 0xFF
            start = end - _TAIL - salt - length
            if start < 0:
                raise ValueError("a record longer than the blob")
            record = os.pread(f.fileno(), length, start)
            layer = from_msgpack(opened(record), Layer)
            if layer.key != key:
                raise ValueError(f"it is the layer {layer.key[:64]}")
            f.truncate(start)
        frame = open_frame(path)
        if any(e.data + e.size > frame.raw for e in layer.entries if e.sha256):
            raise ValueError("a file that lies outside of its frame")
    except (ValueError, msgspec.MsgspecError) as e:
        raise EntryError(f"not a layer of this store: {e}", where=tag_of(LAYER, key)) from None
    except MkrootError as e:
        raise EntryError(f"not a layer of this store: {e.what}", where=tag_of(LAYER, key)) from None
    return layer.name, record
