"""Merges packages into the tree as dpkg would unpack them one after the other (dpkg(1), Policy 6.6 and 7.6)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import msgspec

from mkroot.errors import RootfsError
from mkroot.rootfs.tree import Node, Tree, check_path
from mkroot.store.layer import Layer
from mkroot.store.unpack import ALIASED, INFO, control_fields, info_name, merged
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK, Entry, parent

Replaces = Callable[[str, str], bool]
"""Tells whether the package of the first name declares that it replaces files of the second."""


class Diversion(msgspec.Struct, frozen=True):
    """A path that a package has diverted (dpkg-divert(1)), as it was named. by: the package, ":" the administrator."""

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

    def __init__(
        self,
        tree: Tree,
        replaces: Replaces,
        diverted: Mapping[str, Diversion],
        *,
        settled: bool = False,
    ) -> None:
        """settled: who has a path was settled before, as a layer above them tells; of two packages the first has it."""
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
        self._cleared: set[str] = set()  # folders in whose place was something else that was written
        self._replaces = replaces
        # What scripts removed belongs to its package all the same.
        tops = [layer for layer in tree.layers if not layer.control] if not settled else []
        self._gone = {p: True for top in tops for p in (*top.removed, *top.opaque)}
        self._settled = settled
        self._owners: dict[str, tuple[Layer, str]] = {}  # by name, of so many layers: listed when first asked for
        self._listed = 0
        self._diverted: dict[str, list[Diversion]] = {}
        for diversion in diverted.values():
            self._diverted.setdefault(merged(diversion.path), []).append(diversion)

    @property
    def fixed(self) -> set[str]:
        """The paths to put right in a layer above the packages'."""
        found = self._fixed | self._folders
        ours = self._linked | self._cleared
        for folders, first in ((self._folders, 0), (ours, self._first)):
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
            if path in self._diverted:
                entry = self._aside(entry, layer)
                path = entry.path
            up = parent(path)
            if up:
                above = nodes.get(up)
                if above is None or above.entry.kind != DIR:
                    entry = self._placed(entry, layer, index)
                    path = entry.path
            old = nodes.get(path)
            if old is None:
                if self._gone and (path in self._gone or self._is_gone(up)):
                    self._dispute(path, layer)
                nodes[path] = Node(entry, index)
            elif entry.kind == DIR and old.entry.kind == DIR:
                continue
            elif self._takes(entry, old, layer):
                nodes[path] = Node(entry, index)

    def _aside(self, entry: Entry, layer: Layer) -> Entry:
        """Return an entry where another package's diversion puts it; raises RootfsError on a conflict.

        dpkg compares names as packages write them: who diverts /bin/x does not divert /usr/bin/x.
        """
        for diversion in self._diverted[entry.path]:
            if diversion.by != layer.name and self._named(layer, diversion.path):
                self._dispute(entry.path, layer)
                return self._moved(entry, merged(diversion.to))
        return entry

    def _named(self, layer: Layer, name: str) -> bool:
        """Tell whether a package has the name written so, where its place could have another name as well."""
        top, _, rest = merged(name).partition("/")
        if top != "usr" or rest.partition("/")[0] not in ALIASED:
            return True
        listed = f"{INFO}/{info_name(control_fields(layer.control['control']))}.list"
        entry = next((e for e in layer.entries if e.path == listed), None)
        names = self.tree.content(layer, entry).decode("utf-8", "surrogateescape").split("\n") if entry else []
        return f"/{name}" in names

    def _is_gone(self, folder: str) -> bool:
        """Tell whether scripts removed what was in a folder, once."""
        found = self._gone.get(folder)
        if found is None:
            found = self._gone[folder] = folder != "" and self._is_gone(parent(folder))
        return found

    def _dispute(self, path: str, layer: Layer) -> None:
        """Raise RootfsError where a path that is not there is another package's by name."""
        other = self._owner_by_name(path)
        if (
            other is not None
            and other.name != layer.name
            and not self._parted(path, layer, other)
            and not self._replaces(layer.name, other.name)
            and not self._replaces(other.name, layer.name)
        ):
            raise _conflict(other, layer, path)

    def _owner_by_name(self, path: str, folders: bool = False) -> Layer | None:
        """Return the package unpacked last before this one that has the path, whatever became of it since.

        folders: those who have it as a folder count as well.
        """
        for other in self.tree.layers[self._listed : -1]:  # the last one is this package
            self._listed += 1
            for entry in other.entries if other.control else ():
                if entry.kind != DIR or entry.path not in self._owners:
                    self._owners[entry.path] = other, entry.kind
        found, kind = self._owners.get(path, (None, DIR))
        return found if folders or kind != DIR else None

    def _owner_inside(self, folder: str) -> Layer | None:
        """Return a package that has something in a folder."""
        inside = (n.layer for p, n in self.tree.nodes.items() if p.startswith(folder + "/"))
        return next((layer for layer in map(self.tree.layers.__getitem__, inside) if layer.control), None)

    def _parted(self, path: str, one: Layer, other: Layer) -> bool:
        """Tell whether one of two packages diverts the path, which then is no conflict (dpkg's tarobject)."""
        found = self._diverted.get(path, ())
        return any(d.by in (one.name, other.name) and self._named(one, d.path) for d in found)

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
            if self._settled:
                return entry
            raise RootfsError(
                f"package {layer.name} has /{entry.path}, but /{at} of {self._owner(node)} is not a folder"
            )
        # dpkg would fail there as well; a folder is not made where a link points
        if missing and place != up and not self._settled:
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
        kinds = (entry.kind, old.entry.kind)
        owner = other if other.control else self._owner_by_name(path, folders=DIR in kinds)
        if owner is None and old.entry.kind == DIR:
            owner = self._owner_inside(path)
        if owner is None or owner is layer:  # what a script or the recipe wrote before: dpkg replaces it
            self._fixed.add(path)
            if old.entry.kind == DIR:
                self.tree.drop_below(path)
            elif entry.kind == DIR:
                self._cleared.add(path)
            return True
        if DIR not in kinds:
            if self._parted(path, layer, owner) or self._replaces(layer.name, owner.name):
                self._fixed.add(path)
                return True
            if self._replaces(owner.name, layer.name):
                self._fixed.add(path)
                return False
            if self._same(entry, old, owner, layer):
                return False
        if self._settled:
            return False
        raise _conflict(owner, layer, path)

    def _leads_to_folder(self, path: str) -> bool:
        with contextlib.suppress(RootfsError):  # a loop leads nowhere
            target = self.tree.get(path)
            return target is not None and target.kind == DIR
        return False

    def _same(self, entry: Entry, old: Node, other: Layer, layer: Layer) -> bool:
        """Tell whether two instances of one Multi-Arch: same package share a file that is equal (dpkg(1))."""
        if other.name != layer.name:
            return False
        if not self.tree.layers[old.layer].control:
            return True  # a script changed it since
        if entry.kind == FILE and old.entry.kind == FILE:
            return entry.sha256 == old.entry.sha256
        return entry.kind == old.entry.kind and (entry.kind in (HARDLINK, SYMLINK)) and entry.link == old.entry.link


def _conflict(other: Layer, layer: Layer, path: str) -> RootfsError:
    return RootfsError(
        f"packages {other.name} and {layer.name} both have /{path}, and neither replaces the other's files",
        hint="leave one of them out of `packages.include`, or report the conflict to the distribution",
    )


def alias_links(tree: Tree) -> list[Entry]:
    """Return the merged-/usr links that no package brings and that something in the tree needs."""
    needed = []
    for name in ALIASED:
        folder = tree.nodes.get("usr/" + name)
        if name not in tree.nodes and folder is not None and folder.entry.kind == DIR:
            needed.append(Entry(name, SYMLINK, 0o777, link="usr/" + name))
    return needed
