"""Merges packages into the tree as dpkg would unpack them one after the other (dpkg(1), Policy 6.6 and 7.6)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import msgspec

from mkroot.errors import RootfsError
from mkroot.rootfs.tree import Node, Tree, check_path
from mkroot.store.layer import Layer
from mkroot.store.unpack import ALIASED
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK, Entry, parent

Replaces = Callable[[str, str], bool]
"""Tells whether the package of the first name declares that it replaces files of the second."""


class Diversion(msgspec.Struct, frozen=True):
    """A path that a package has diverted (dpkg-divert(1)). by: the package, or ":" for the administrator."""

    path: str
    to: str
    by: str


def diversions(text: bytes) -> dict[str, Diversion]:
    """Parse dpkg's `diversions` file: three lines each, path, place and package; raises RootfsError.

    Scripts write it, and what it names becomes a place to unpack to: a path with `..` is refused, not followed.
    """
    lines = text.decode("utf-8", "surrogateescape").split("\n")
    found = {}
    for path, to, by in zip(lines[0::3], lines[1::3], lines[2::3], strict=False):
        for place in (path, to):
            if not place.startswith("/") or {"", ".", ".."} & set(place[1:].split("/")):
                raise RootfsError(f"dpkg's diversions have the impossible path {place[:200]!r}")
            check_path(place[1:])
        found[path[1:]] = Diversion(path[1:], to[1:], by)
    return found


class Merge:
    """Adds packages to a tree and notes where an overlay of their own trees would show something else."""

    def __init__(self, tree: Tree, replaces: Replaces, diverted: Mapping[str, Diversion]) -> None:
        self.tree = tree
        self._fixed: set[str] = set()
        self._first = len(tree.layers)
        self._folders: set[str] = set()  # in whose place a package has a link, which in an overlay would hide them,
        self._linked = {  # … and those in whose place one unpacked before has one
            e.path
            for layer in tree.layers
            if layer.control
            for e in layer.entries
            if e.kind == SYMLINK and (node := tree.nodes.get(e.path)) is not None and node.entry.kind == DIR
        }
        self._replaces = replaces
        self._diverted = diverted

    @property
    def fixed(self) -> set[str]:
        """The paths to put right in a layer above the packages'."""
        found = self._fixed | self._folders
        for folders, first in ((self._folders, 0), (self._linked, self._first)):
            if starts := tuple(folder + "/" for folder in folders):
                found |= {p for p, n in self.tree.nodes.items() if n.layer >= first and p.startswith(starts)}
        return found

    def add(self, layer: Layer) -> None:
        """Unpack one package in memory; raises RootfsError naming both packages where they claim one path."""
        tree = self.tree
        nodes = tree.nodes
        index = tree.add_layer(layer)
        for entry in layer.entries:
            path = entry.path
            if path in self._diverted and self._diverted[path].by != layer.name:
                entry = self._moved(entry, self._diverted[path].to)
                path = entry.path
            up = parent(path)
            if up:
                above = nodes.get(up)
                if above is None or above.entry.kind != DIR:
                    entry = self._placed(entry, layer, index)
                    path = entry.path
            old = nodes.get(path)
            if old is None:
                nodes[path] = Node(entry, index)
            elif entry.kind == DIR and old.entry.kind == DIR:
                continue
            elif self._takes(entry, old, layer):
                nodes[path] = Node(entry, index)

    def _moved(self, entry: Entry, path: str) -> Entry:
        self._fixed.update((entry.path, path))
        check_path(path)
        return msgspec.structs.replace(entry, path=path)

    def _placed(self, entry: Entry, layer: Layer, index: int) -> Entry:
        """Return an entry whose folder is not there as such: below a link it goes where the link leads."""
        up = parent(entry.path)
        place = at = self.tree.resolve(up)
        missing = []
        while at and (node := self.tree.nodes.get(at)) is None:
            missing.append(at)
            at = parent(at)
        if at and node is not None and node.entry.kind != DIR:
            raise RootfsError(
                f"package {layer.name} has /{entry.path}, but /{at} of {self._owner(node)} is not a folder"
            )
        if missing and place != up:  # dpkg would fail there as well; a folder is not made where a link points
            raise RootfsError(f"package {layer.name} has /{entry.path} below /{up}, a link that leads to nothing")
        for folder in reversed(missing):
            self.tree.nodes[folder] = Node(Entry(folder, DIR, 0o755, mtime=layer.date), index)
        if place == up:
            return entry
        self._fixed.add(up)
        return self._moved(entry, f"{place}/{entry.path.rpartition('/')[2]}".lstrip("/"))

    def _owner(self, node: Node) -> str:
        layer = self.tree.layers[node.layer]
        return f"package {layer.name}" if layer.control else layer.name

    def _takes(self, entry: Entry, old: Node, layer: Layer) -> bool:
        """Tell whether the new entry takes the place of the old one; raises RootfsError on a conflict."""
        path = entry.path
        other = self.tree.layers[old.layer]
        if entry.kind == DIR and old.entry.kind == SYMLINK and self._leads_to_folder(path):
            self._fixed.add(path)  # the link stays, and what is in the folder goes through it (Policy 6.6)
            return False
        if entry.kind == SYMLINK and old.entry.kind == DIR:  # a folder stays (dpkg's tarobject)
            self._folders.add(path)
            return False
        if entry.kind == old.entry.kind == SYMLINK and entry.link == old.entry.link and self._leads_to_folder(path):
            return False
        if DIR not in (entry.kind, old.entry.kind):
            if not other.control:  # what a script or the recipe wrote before: dpkg replaces it
                self._fixed.add(path)
                return True
            if self._replaces(layer.name, other.name):
                self._fixed.add(path)
                return True
            if self._replaces(other.name, layer.name):
                self._fixed.add(path)
                return False
            if self._same(entry, old, layer):
                return False
        raise RootfsError(
            f"packages {other.name} and {layer.name} both have /{path}, and neither replaces the other's files",
            hint="leave one of them out of `packages.include`, or report the conflict to the distribution",
        )

    def _leads_to_folder(self, path: str) -> bool:
        with contextlib.suppress(RootfsError):  # a loop leads nowhere
            target = self.tree.get(path)
            return target is not None and target.kind == DIR
        return False

    def _same(self, entry: Entry, old: Node, layer: Layer) -> bool:
        """Tell whether two instances of one Multi-Arch: same package share a file that is equal (dpkg(1))."""
        other = self.tree.layers[old.layer]
        if other.name != layer.name:
            return False
        if entry.kind == FILE and old.entry.kind == FILE:
            return entry.sha256 == old.entry.sha256
        return entry.kind == old.entry.kind and (entry.kind in (HARDLINK, SYMLINK)) and entry.link == old.entry.link


def alias_links(tree: Tree) -> list[Entry]:
    """Return the merged-/usr links that no package brings and that something in the tree needs."""
    needed = []
    for name in ALIASED:
        folder = tree.nodes.get("usr/" + name)
        if name not in tree.nodes and folder is not None and folder.entry.kind == DIR:
            needed.append(Entry(name, SYMLINK, 0o777, link="usr/" + name))
    return needed
