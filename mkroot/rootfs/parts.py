"""Cuts what dpkg wrote into one part a package, so that an image's layers can follow source packages."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator

from mkroot.rootfs.tree import Node, Tree
from mkroot.store.frame import pieces_of
from mkroot.store.layer import FrameBuilder, Layer, LayerStore, contents
from mkroot.store.unpack import INFO, merged
from mkroot.tar.entry import DIR, HARDLINK

FORMAT = "1"  # of how a layer is cut; part of every part's key
_INFO = re.compile(re.escape(INFO) + r"/([a-z0-9][a-z0-9.+-]*)(?::[a-z0-9-]+)?\.([a-z0-9.-]+)")


def cut(layers: LayerStore, tree: Tree, index: int, packages: Collection[str]) -> Tree:
    """Return the tree with its layer `index`, which dpkg wrote, in parts: one for each of `packages`, and the rest.

    The parts come after the other layers; nothing in the tree is another file than before. Raises StoreError.
    """
    whole = tree.layers[index]
    owners = _owners(tree, whole, packages)
    names = sorted(set(owners.values()))
    found = tree.copy()
    for name in names:
        part = _part(layers, whole, name, owners)
        at = found.add_layer(part)
        for entry in part.entries:
            node = tree.nodes.get(entry.path)
            if node is not None and node.layer == index:
                found.nodes[entry.path] = Node(entry, at)
    return found


def _owners(tree: Tree, whole: Layer, packages: Collection[str]) -> dict[str, str]:
    """Return the package that each path of the layer belongs to, where it belongs to one of them."""
    own = {e.path: e for e in whole.entries if e.kind != DIR}
    found: dict[str, str] = {}
    for path in tree.nodes:
        match = _INFO.fullmatch(path)
        if match is None or match[1] not in packages:
            continue
        if path in own:
            found[path] = match[1]
        if match[2] == "list":  # of an upgrade it may be as it was
            lines = tree.read(path).decode("utf-8", "surrogateescape").splitlines()
            found |= {p: match[1] for line in lines if (p := merged(line[1:])) in own}
    for path, entry in own.items():
        if entry.kind == HARDLINK and entry.link in found:  # one file with several names stays together
            found[path] = found[entry.link]
        elif entry.kind == HARDLINK:
            found.pop(path, None)
    return found


def _part(layers: LayerStore, whole: Layer, name: str, owners: dict[str, str]) -> Layer:
    paths = sorted(p for p, owner in owners.items() if owner == name)
    told = json.dumps(["part", FORMAT, whole.key, name, paths])
    key = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
    if not layers.has(key):
        builder = FrameBuilder()

        def chunks() -> Iterator[bytes]:
            for entry, content in contents(layers, whole):
                if owners.get(entry.path) == name and (chunk := builder.add(entry, content)):
                    yield chunk

        pieces = list(pieces_of(chunks()))
        control = {"control": f"Package: {name}\n".encode()}
        layers.save(Layer(key=key, name=name, entries=tuple(builder.entries), control=control), iter(pieces))
    return layers.load(key)
