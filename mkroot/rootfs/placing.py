"""Unpacks packages over a root in which scripts have written: where dpkg would put each file, worked out in memory.

The packages' own trees are what the union shows; where dpkg's result is another, for a script has diverted, moved,
removed or made something there, the top holds the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import msgspec

from mkroot.rootfs import dpkg
from mkroot.rootfs.capture import DATABASE
from mkroot.rootfs.merge import Diversion, Merge, diversions
from mkroot.rootfs.top import Top
from mkroot.rootfs.tree import Node, Tree
from mkroot.rootfs.upper import read_upper
from mkroot.store.layer import Layer
from mkroot.store.unpack import control_fields
from mkroot.tar.entry import FILE, HARDLINK, Entry, parent

DIVERSIONS = f"{dpkg.ADMIN}/diversions"


def replaces(packages: Sequence[Layer]) -> Callable[[str, str], bool]:
    """Return the function that tells whether one package's Replaces names another's version (Policy 7.6.1)."""
    from mkroot.debian.relation import parse_relations

    control = {p.name: p.control["control"] for p in packages}

    @cache
    def field(package: str, name: str) -> str:  # few packages are ever asked for
        return control_fields(control[package]).get(name, "") if package in control else ""

    def declared(new: str, old: str) -> bool:
        version = field(old, "version")
        relations = (r for clause in parse_relations(field(new, "replaces")) for r in clause)
        return any(r.name == old and r.accepts(version) for r in relations)

    return declared


def recorded(tree: Tree) -> dict[str, Diversion]:
    """Return the diversions that a root has; raises RootfsError."""
    return diversions(tree.read(DIVERSIONS)) if tree.get(DIVERSIONS) else {}


def settled(tree: Tree, before: Sequence[Layer], packages: Sequence[Layer]) -> tuple[Tree, set[str]]:
    """Return the tree that the layers show with packages unpacked, and the paths that their union shows otherwise.

    before: the packages that are there. Whatever is disputed or diverted stands in a top, which is to come over it.
    """
    tree = tree.copy()
    merge = Merge(tree, replaces([*before, *packages]), {}, settled=True)
    for layer in packages:
        merge.add(layer)
    return tree, merge.fixed


def place(top: Top, tree: Tree, before: Sequence[Layer], packages: Sequence[Layer]) -> tuple[Tree, dict[str, str]]:
    """Unpack packages; put into the top what their union with it would show otherwise.

    tree: what the layers below the top show. Returns the same with the packages, and the paths that the top puts right,
    each with its package in the words of a layer's origins. Raises RootfsError where two packages have one path.
    """
    plain, fixed = settled(tree, before, packages)
    written = _written(top)
    seen = tree.copy()
    index = seen.apply(written)
    hidden = tuple(f"{p}/" for p in (*written.removed, *written.opaque))  # folders of which only the top's part is seen
    text = top.read(DIVERSIONS)
    diverted = recorded(tree) if text is None else diversions(text)
    merge = Merge(seen, replaces([*before, *packages]), diverted)
    for layer in packages:
        merge.add(layer)
    fixed |= merge.fixed
    for path, node in seen.nodes.items():
        if node.layer > index and (path.startswith(hidden) or _shown(seen, path) != _shown(plain, path)):
            fixed.add(path)
    put_right(top, seen, fixed, index)
    return plain, origins(seen, fixed)


def reorder(top: Top, tree: Tree, other: Tree, fixed: set[str]) -> set[str]:
    """Have the top say what is to be seen where another order of the packages would show something else; return where.

    tree: what the layers show in the order of unpacking. other: in the order in which they are kept. fixed: further
    paths that must be in the top.
    """
    found = fixed | {p for p in tree.nodes.keys() | other.nodes.keys() if _shown(tree, p) != _shown(other, p)}
    if found:
        seen = tree.copy()
        put_right(top, seen, found, seen.apply(_written(top)))
    return found


def _written(top: Top) -> Layer:
    """Return what scripts have written so far, as a layer without contents."""
    changes = read_upper(top.upper, owners=top.owners)
    return Layer(
        key="", name="what scripts wrote", entries=changes.entries, removed=changes.removed, opaque=changes.opaque
    )


def _shown(tree: Tree, path: str) -> tuple[Entry, str] | None:
    node = tree.nodes.get(path)
    return None if node is None else (node.entry, tree.layers[node.layer].key)


def origins(tree: Tree, paths: Iterable[str]) -> dict[str, str]:
    """Return paths with the packages that they come from, in the words of a layer's origins."""
    layers = {path: tree.layers[node.layer] for path in paths if (node := tree.nodes.get(path)) is not None}
    return {p: f"package: {layers[p].name}" if p in layers and layers[p].control else DATABASE for p in paths}


def put_right(top: Top, tree: Tree, paths: set[str], written: int = -1) -> None:
    """Put into the top what the union of the packages' own trees would show otherwise.

    written: the index of the layer that stands for the top itself.
    """
    for path in sorted(paths):
        node = tree.nodes.get(path)
        if node is None:
            if tree.resolve(parent(path)) == parent(path):  # what is below a link is hidden by it
                top.hide(path, tree)
        elif node.layer == written:
            continue
        elif node.entry.kind == HARDLINK:
            content = tree.read(path)
            top.put([(msgspec.structs.replace(tree.linked(node), path=path), content)], tree)
        else:
            top.put([(node.entry, tree.read(path) if node.entry.kind == FILE else b"")], tree)


def stands(tree: Tree, node: Node, path: str) -> bool:
    """Tell whether a path stands where its layer has it: what lies below another package's link does not."""
    return any(e.path == path for e in tree.layers[node.layer].entries)
