"""Reads every entry of the store and compares it with the digest that it must have."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from mkroot.digest import is_sha256, sha256_file
from mkroot.errors import MkrootError, StoreError
from mkroot.store.frame import open_frame, read_piece
from mkroot.store.layer import LayerStore, frame_key
from mkroot.store.prune import Item, items
from mkroot.store.seal import opened
from mkroot.store.store import Store
from mkroot.store.trees import fault_of
from mkroot.store.use import alone, idle, remove

NAMED = ("debs", "indices", "releases", "oci")  # kinds whose key is the content's SHA-256
SEALED = (
    "built", "causes", "decided", "effects", "finished", "joined", "registries", "roots", "seen", "tails", "unions",
    "unpacked",
)  # fmt: skip
LASTING = ("containers",)  # kinds that are never removed: there is no other copy

Checks = Mapping[str, Callable[[Path], None]]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A checked entry. fault: what is wrong with it, "" for nothing."""

    item: Item
    fault: str


def verify(store: Store, more: Checks | None = None) -> Iterator[Checked]:
    """Check every entry; raises StoreError.

    more: by kind, what raises MkrootError or ValueError for an entry of a form that the store itself does not know.
    """
    layers = LayerStore(store)
    for item in items(store):
        try:
            fault = _fault(layers, item)
            if not fault and more and item.kind in more:
                more[item.kind](item.path)
        except StoreError as e:
            fault = e.what
        except (MkrootError, ValueError) as e:
            fault = str(e)
        except OSError as e:
            fault = f"it cannot be read: {e.strerror}"
        yield Checked(item=item, fault=fault)


def torn(store: Store) -> Iterator[Checked]:
    """Check that layers and frames can be opened, which does not read what is in them; raises StoreError.

    Where power failed, what was written last is empty or cut off.
    """
    layers = LayerStore(store)
    for item in items(store):
        try:
            if item.kind == "layers":
                layers.load(item.key)
            elif item.kind == "frames":
                open_frame(item.path)
        except StoreError as e:
            yield Checked(item=item, fault=e.what)


def mend(store: Store, checked: Checked) -> bool:
    """Remove a damaged entry and what stands on it: the next build fetches or makes it again.

    Return whether it was removed: what is nowhere else, such as a container, stays. Raises StoreError, also where a
    build is running.
    """
    if checked.item.kind in LASTING:
        return False
    with alone(store):
        discard(store, checked.item.kind, checked.item.path)
        return True


def discard(store: Store, kind: str, path: Path) -> None:
    """Remove an entry, and the record of a layer with its frame, without which it must not stand; raises StoreError.

    A folder only loses its place, for it may be part of another build's union; `sweep` removes it.
    """
    if kind == "frames":
        for other in items(store):
            if other.kind == "layers" and frame_key(other.key, "zstd") == path.name:
                remove(other.path)
    if path.is_dir():
        with store.workshop("damaged.") as folder:
            os.rename(path, folder / "entry")
            os.rename(folder, f"{folder}.gone")
    else:
        remove(path)


def _fault(layers: LayerStore, item: Item) -> str:
    if not stat.S_ISDIR(item.path.lstat().st_mode) and item.kind in SEALED:
        opened(item.path.read_bytes())
        return ""
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
    if item.kind == "referrers":
        return _artifact(item)
    if item.kind.startswith("trees-"):
        if not layers.has(item.key):
            return "its layer is gone" if idle(layers.store) else ""  # it is written after its tree
        return fault_of(item.path, layers.load(item.key))
    return ""


def _frame(path: Path) -> str:
    frame = open_frame(path)
    with open(path, "rb", buffering=0) as f:
        for piece in frame.pieces:
            read_piece(frame, piece, f.fileno())
    return ""


def _artifact(item: Item) -> str:
    """Check the files of what came along with an image: each is named by its digest, the manifest by the key."""
    if not (item.path / "manifest.json").exists():
        return "its manifest is missing"
    for path in sorted(item.path.iterdir()):
        name = item.key.rpartition(".")[2] if path.name == "manifest.json" else path.name
        if sha256_file(path) != name:
            return f"{path.name} does not match its digest"
    return ""
