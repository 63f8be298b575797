"""Reads every entry of the store and compares it with the digest that it must have."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mkroot.digest import is_sha256, sha256_file
from mkroot.errors import StoreError
from mkroot.store.frame import open_frame, read_piece
from mkroot.store.layer import LayerStore, frame_key
from mkroot.store.prune import Item, items, remove
from mkroot.store.store import Store
from mkroot.tar.entry import DIR, FILE, SYMLINK

NAMED = ("debs", "indices", "releases", "oci")  # kinds whose key is the content's SHA-256


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A checked entry. fault: what is wrong with it, "" for nothing."""

    item: Item
    fault: str


def verify(store: Store) -> Iterator[Checked]:
    """Check every entry that has a digest of its own or is described by one that has; raises StoreError.

    Tables of indices check themselves when they are opened, and records of what was built or seen when they are read.
    """
    layers = LayerStore(store)
    for item in items(store):
        try:
            fault = _fault(layers, item)
        except StoreError as e:
            fault = e.what
        except OSError as e:
            fault = f"it cannot be read: {e.strerror}"
        yield Checked(item=item, fault=fault)


def mend(store: Store, checked: Checked) -> None:
    """Remove a damaged entry and what stands on it: the next build fetches or makes it again. Raises StoreError."""
    item = checked.item
    if item.kind == "frames":  # the layer's record must not stand without its frame
        for other in items(store):
            if other.kind == "layers" and frame_key(other.key, "zstd") == item.key:
                remove(other.path)
    remove(item.path)


def _fault(layers: LayerStore, item: Item) -> str:
    if item.kind in NAMED:
        if not is_sha256(item.key):
            return ""  # a table beside its index
        return "" if sha256_file(item.path) == item.key else "its content does not match its digest"
    if item.kind == "layers":
        layers.load(item.key)
        frame = layers.store.path("frames", frame_key(item.key, "zstd"))
        return "" if frame.exists() else "its frame is missing"
    if item.kind in ("frames", "made"):
        return _frame(item.path)
    if item.kind.startswith("trees-"):
        return _tree(layers, item)
    return ""


def _frame(path: Path) -> str:
    frame = open_frame(path)
    with open(path, "rb", buffering=0) as f:
        for piece in frame.pieces:
            read_piece(frame, piece, f.fileno())
    return ""


def _tree(layers: LayerStore, item: Item) -> str:
    """Compare an unpacked tree with its layer: kinds, sizes and contents of files, targets of links, nothing more."""
    if not layers.has(item.key):
        return "its layer is gone"
    expected = {""}
    layer = layers.load(item.key)
    for entry in layer.entries:
        path = entry.path
        expected.add(path)
        while path := path.rpartition("/")[0]:
            expected.add(path)
        place = item.path / entry.path
        try:
            s = os.lstat(place)
        except FileNotFoundError:
            return f"{entry.path} is missing"
        if entry.kind == FILE:
            if not stat.S_ISREG(s.st_mode) or s.st_size != entry.size:
                return f"{entry.path} is not the file that it was"
            if hashlib.sha256(place.read_bytes()).hexdigest() != entry.sha256:
                return f"{entry.path} has another content"
        elif entry.kind == SYMLINK and (not stat.S_ISLNK(s.st_mode) or os.readlink(place) != entry.link):
            return f"{entry.path} is not the link that it was"
        elif entry.kind == DIR and not stat.S_ISDIR(s.st_mode):
            return f"{entry.path} is not a folder any more"
    for at, names, files in os.walk(item.path) if layer.control else ():  # a stage's also has marks of what it removed
        for name in (*names, *files):
            path = os.path.relpath(os.path.join(at, name), item.path)
            if path not in expected:
                return f"{path} does not belong there"
    return ""
