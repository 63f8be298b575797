"""Cuts a layer into one part a package, or a part of any name, so that an image's layers can follow source packages."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping

import msgspec

from mkroot.rootfs.tree import Node, Tree
from mkroot.store.damage import DamageError
from mkroot.store.frame import pieces_of, raw_pieces
from mkroot.store.layer import NOW, FrameBuilder, Layer, LayerStore
from mkroot.store.unpack import INFO, merged
from mkroot.tar.entry import DIR, FILE, HARDLINK, Entry, parent
from mkroot.tar.stream import Stream
from mkroot.tar.write import padding

FORMAT = "2"  # of how a layer is cut; part of every part's key
_STEP = 4 << 20
_INFO = re.compile(re.escape(INFO) + r"/([a-z0-9][a-z0-9.+-]*)(?::[a-z0-9-]+)?\.([a-z0-9.-]+)")


def cut(layers: LayerStore, tree: Tree, index: int, packages: Collection[str]) -> Tree:
    """Return the tree with its layer `index`, which dpkg wrote, in parts: one for each of `packages`, and the rest.

    See `split`. Raises StoreError.
    """
    return split(layers, tree, index, listed(tree, packages))


def listed(tree: Tree, packages: Collection[str]) -> dict[str, str]:
    """Return which of `packages` each path belongs to, by dpkg's lists in the tree and by their own names there.

    Raises StoreError.
    """
    found: dict[str, str] = {}
    for path in sorted(p for p in tree.nodes if p.startswith(INFO + "/")):
        match = _INFO.fullmatch(path)
        if match is None or match[1] not in packages:
            continue
        found[path] = match[1]
        if match[2] == "list":  # of an upgrade it may be as it was
            lines = tree.read(path).decode("utf-8", "surrogateescape").splitlines()
            found |= dict.fromkeys((p for line in lines for p in {line[1:], merged(line[1:])}), match[1])
    return found


def split(layers: LayerStore, tree: Tree, index: int, owners: Mapping[str, str]) -> Tree:
    """Return the tree with its layer `index` in parts: one for each name in `owners`, by path, and what is left.

    The parts come after the other layers, in order of their names; nothing in the tree is another file than before.
    Each brings the folders above its members. Raises StoreError.
    """
    whole = tree.layers[index]
    own = _together(whole, owners)
    found = tree.copy()
    for name in sorted(set(own.values())):
        part = _part(layers, whole, name, [p for p, owner in own.items() if owner == name], tree)
        at = found.add_layer(part)
        for entry in part.entries:
            node = tree.nodes.get(entry.path)
            if entry.kind != DIR and node is not None and node.layer == index:
                found.nodes[entry.path] = Node(entry, at)
    return found


def _together(whole: Layer, owners: Mapping[str, str]) -> dict[str, str]:
    """Return the owners of a layer's own members; one file with several names stays together."""
    found = {e.path: owners[e.path] for e in whole.entries if e.kind != DIR and e.path in owners}
    for entry in whole.entries:
        if entry.kind == HARDLINK and entry.link in found:
            found[entry.path] = found[entry.link]
        elif entry.kind == HARDLINK:
            found.pop(entry.path, None)
    return found


def _part(layers: LayerStore, whole: Layer, name: str, paths: list[str], tree: Tree) -> Layer:
    mine = set(paths)
    folders = _folders([e for e in whole.entries if e.path in mine and e.kind != DIR], tree)
    told = json.dumps(["part", FORMAT, whole.key, name, sorted(mine), [msgspec.to_builtins(f) for f in folders]])
    key = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
    if not layers.has(key):
        builder = FrameBuilder()
        pieces = pieces_of(_chunks(layers, whole, mine, builder))
        layers.save_frame(Layer(key=key, name=name, entries=()), pieces, "zstd")
        for _ in pieces:  # where the frame was there already: the builder learns by it
            pass
        control = {"control": f"Package: {name}\n".encode()}
        layers.save(Layer(key=key, name=name, entries=(*folders, *builder.entries), control=control), iter(()))
    return layers.load(key)


def _chunks(layers: LayerStore, whole: Layer, paths: Collection[str], builder: FrameBuilder) -> Iterator[bytes]:
    """Yield the stream of some of a layer's members, no more than _STEP bytes of a file at once."""
    frame = layers.base(whole)
    stream = Stream(raw_pieces(frame, "zstd"))

    def read(count: int) -> Iterator[bytes]:
        while count:
            piece = stream.read(min(count, _STEP))
            if not piece:
                raise DamageError("its stream is too short", frame.path)
            count -= len(piece)
            yield piece

    for entry in whole.entries:
        if entry.kind == DIR or entry.path not in paths:
            continue
        if entry.kind != FILE:
            yield builder.add(entry, b"")
            continue
        for _ in read(entry.data - stream.offset):
            pass
        yield builder.begin(entry)
        digest = hashlib.sha256()
        left = entry.size
        for piece in read(entry.size):
            digest.update(piece)
            left -= len(piece)
            yield piece if left else piece + padding(entry.size)
        builder.end(digest.hexdigest())


def _folders(members: list[Entry], tree: Tree) -> list[Entry]:
    """Return the folders above a part's members, as they are in the tree but for their times.

    A folder has the time of the newest member below it: the same members give the same layer, whatever else there is.
    """
    newest: dict[str, int] = {}
    for entry in members:
        path = entry.path
        while path := parent(path):
            before = newest.get(path, 0)
            newest[path] = NOW if NOW in (before, entry.mtime) else max(before, entry.mtime)
    found = []
    for path in sorted(newest):
        node = tree.nodes.get(path)
        if node is not None and node.entry.kind == DIR:
            found.append(msgspec.structs.replace(node.entry, mtime=newest[path]))
    return found
