"""Keeps in the store what a root was made of, under the digests of what was made from it: to explain it later."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.errors import StoreError
from mkroot.resolve.lock import Lock
from mkroot.rootfs.stage import Root, Stage, merge_stage, replay
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store

KIND = "roots"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A root. layers: keys, in the tree's order. scripts: whether they were configured by scripts. lock: its bytes.

    provenance: the record of the build, as it stands beside the artifacts; empty for one that an older mkroot kept.
    """

    architecture: str
    scripts: bool
    layers: tuple[str, ...]
    lock: bytes
    provenance: bytes = b""


def keep(store: Store, digests: Iterable[str], root: Root, *, scripts: bool, lock: Lock, provenance: bytes) -> None:
    """Keep what a root was made of. digests: `sha256:…` of its tree (`Manifest.tree`) and of images made from it."""
    record = Record(
        architecture=str(root.architecture),
        scripts=scripts,
        layers=tuple(layer.key for layer in root.tree.layers),
        lock=lock.encode(),
        provenance=provenance,
    )
    data = sealed(msgspec.msgpack.encode(record))
    for digest in digests:
        path = store.path(KIND, digest.removeprefix("sha256:"))
        try:
            if path.read_bytes() == data:
                continue
            path.unlink()  # the same bytes from another lock: the newest explains them
        except FileNotFoundError:
            pass
        with store.writing(KIND, path.name, sync=False) as aside:
            aside.write_bytes(data)


def recall(store: Store, digest: str) -> Record | None:
    """Return what the thing with this digest was made of, None where the store does not know; raises StoreError."""
    path = store.path(KIND, digest.removeprefix("sha256:"))
    try:
        return from_msgpack(opened(path.read_bytes()), Record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as e:
        raise StoreError(f"a damaged store entry: {e}", where=str(path), hint="build the recipe again") from e


def pass_on(store: Store, record: Record, digest: str) -> None:
    """Keep a root's record for another image of it, unless that has one; raises StoreError.

    The record of the build does not go along: it tells of the image that the build made.
    """
    path = store.path(KIND, digest.removeprefix("sha256:"))
    if not path.exists():
        with store.writing(KIND, path.name, sync=False) as aside:
            aside.write_bytes(sealed(msgspec.msgpack.encode(msgspec.structs.replace(record, provenance=b""))))


def tree_of(layers: LayerStore, record: Record) -> Tree:
    """Return a recorded root's tree; raises StoreError where a layer is gone."""
    root = Root(key="", tree=Tree(layers.read), architecture=record.architecture)
    waiting: list[Layer] = []
    if layers.store.beyond is not None:
        layers.store.beyond.bring(record.layers)
    for key in record.layers:
        layer = layers.load(key)
        if layer.control:
            waiting.append(layer)
            continue
        root = _with(root, waiting, layer, record.scripts)
        waiting = []
    return root.tree


def _with(root: Root, packages: list[Layer], top: Layer, scripts: bool) -> Root:
    stage = Stage(name="", packages=tuple(packages), epoch=0)
    if packages and scripts:
        return replay(root, stage, top)
    tree, _ = merge_stage(root, stage)
    tree.apply(top)
    return msgspec.structs.replace(
        root, key=top.key, tree=tree, packages=(*root.packages, *packages), tops=(*root.tops, top)
    )
