"""What stands in the way of putting layers on another root than the one they were made on.

Three trees are compared: the old root, the old root with the layers (mine), and the new root (theirs).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from mkroot.rootfs import bonds, dpkg, threeway
from mkroot.rootfs.tree import Node, Tree
from mkroot.store.layer import Layer
from mkroot.store.unpack import INFO, control_fields, info_name, merged
from mkroot.tar.entry import DIR, FILE, HARDLINK, Entry, parent

LDCACHE = "etc/ld.so.cache"  # made anew by ldconfig, whatever the two sides have
_INFO = re.compile(re.escape(INFO) + "/.+")


class Clash(msgspec.Struct, frozen=True, order=True):
    """A path, or a package, that both sides changed. why: in what way."""

    path: str
    why: str


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    clashes: in order of their paths. unmet: relations that would not hold. files: databases, merged. pending: triggers
    that wait for a run of dpkg, by package.
    """

    clashes: tuple[Clash, ...]
    unmet: tuple[str, ...]
    files: dict[str, bytes]
    pending: dict[str, list[str]]


def examine(old: Tree, mine: Tree, theirs: Tree, stacked: Tree) -> Findings:
    """Compare; raises RootfsError, StoreError, PackageError.

    stacked: the new root with the layers over it, whose first layers are those of `theirs`.
    """
    first = len(theirs.layers)
    files: dict[str, bytes] = {}
    clashes: list[Clash] = []
    versions = [_versions(tree) for tree in (old, mine, theirs)]
    clashes += _packages(*versions)
    for path, node in sorted(stacked.nodes.items()):
        if node.layer < first or threeway.BACKUPS.fullmatch(path) or path == LDCACHE:
            continue
        was, there = _content(old, path), _content(theirs, path)
        if node.entry.kind == DIR:
            if there is not None and there[0] != DIR:
                clashes.append(Clash(path, "a folder in the layer, none in the new parent"))
        elif there not in (was, _content(stacked, path)):
            _settle(path, was, there, old, mine, theirs, files, clashes)
    opaque = {p for layer in stacked.layers[first:] for p in layer.opaque}
    for path in sorted(p for p in theirs.nodes if p not in old.nodes and p not in stacked.nodes):
        if any(up in opaque for up in above(path)):
            clashes.append(Clash(path, "new in the new parent, in a folder that the layer made anew"))
    clashes = [c for c in clashes if not _explained(c.path, versions)]
    status = files.get(dpkg.STATUS) or _read(stacked, dpkg.STATUS)
    unmet = bonds.unmet(bonds.present(status)) - _unmet(theirs) - _unmet(mine)
    return Findings(
        clashes=tuple(sorted(set(clashes))),
        unmet=tuple(sorted(unmet)),
        files=files,
        pending=_pending(versions, stacked, status),
    )


def above(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in."""
    while path := parent(path):
        yield path


_Facts = tuple[object, ...]
_Versions = dict[str, str]


def _settle(
    path: str,
    was: _Facts | None,
    there: _Facts | None,
    old: Tree,
    mine: Tree,
    theirs: Tree,
    files: dict[str, bytes],
    clashes: list[Clash],
) -> None:
    """Merge a path that both sides changed where it is a database, else note it as a clash."""
    done = threeway.merge(path, _read(old, path), _read(mine, path), _read(theirs, path))
    if done is not None:
        files[path] = done.data
        if path != dpkg.STATUS:  # of packages it is told by their versions
            clashes += [Clash(path, f"both changed the entry `{name}`") for name in done.conflicts]
    elif there is None:
        clashes.append(Clash(path, "changed by the layer, gone from the new parent"))
    else:
        clashes.append(Clash(path, "in both, and different" if was is None else "changed by the layer and the parent"))


def _content(tree: Tree, path: str) -> _Facts | None:
    """Return all that two paths must have in common to be the same; times are not in it."""
    node = tree.nodes.get(path)
    if node is None:
        return None
    e = _file(tree, node)
    return (e.kind, e.mode, e.uid, e.gid, e.size, e.sha256, e.link, e.device, e.xattrs)


def _file(tree: Tree, node: Node) -> Entry:
    if node.entry.kind == HARDLINK and node.layer >= 0:
        for entry in tree.layers[node.layer].entries:
            if entry.path == node.entry.link and entry.kind == FILE:
                return entry
    return node.entry


def _read(tree: Tree, path: str) -> bytes:
    entry = tree.get(path)
    return tree.read(path) if entry is not None and entry.kind in (FILE, HARDLINK) else b""


def _unmet(tree: Tree) -> set[str]:
    return bonds.unmet(bonds.present(_read(tree, dpkg.STATUS)))


def _versions(tree: Tree) -> _Versions:
    """Return the packages that are there, by their names in dpkg's database."""
    return {info_name(p.fields): p.version for p in bonds.present(_read(tree, dpkg.STATUS))}


def _packages(old: _Versions, mine: _Versions, theirs: _Versions) -> list[Clash]:
    """Return the packages that both sides changed, each in its own way."""
    found = []
    for name in sorted({*old, *mine}):
        was, wanted, there = old.get(name), mine.get(name), theirs.get(name)
        if wanted != was and there not in (was, wanted):
            found.append(
                Clash(f"package {name}", f"{wanted or 'removed'} in the layer, {there or 'removed'} in the new parent")
            )
    return found


def _explained(path: str, versions: list[_Versions]) -> bool:
    """Tell whether a path is dpkg's record of a package that both sides have in one version."""
    if not _INFO.fullmatch(path):
        return False
    name = path.removeprefix(INFO + "/").rpartition(".")[0]
    _, mine, theirs = versions
    return name in mine and mine.get(name) == theirs.get(name)


def _pending(versions: list[_Versions], tree: Tree, status: bytes) -> dict[str, list[str]]:
    """Return the triggers whose work one side did without the other's packages, by the package that waits for them."""
    old, mine, theirs = versions
    own = {n for n, v in mine.items() if old.get(n) != v}
    new = {n for n, v in theirs.items() if old.get(n) != v}
    if not own or not new:
        return {}
    layers = {info_name(control_fields(s)): _record(tree, s) for s in dpkg.stanzas(status)}
    waiting = dpkg.interests(list(layers.values()))
    by_own = dpkg.activated([layers[n] for n in sorted(own) if n in layers], waiting)
    by_new = dpkg.activated([layers[n] for n in sorted(new) if n in layers], waiting)
    found: dict[str, list[str]] = {}
    for package in sorted({*by_own, *by_new}):
        names = {n for n in by_own.get(package, ()) if n in by_new.get(package, ()) or package in new}
        names |= {n for n in by_new.get(package, ()) if package in own}
        if names:
            found[package] = sorted(names)
    return found


def _record(tree: Tree, stanza: bytes) -> Layer:
    """Return a package's record as dpkg's database has it: its paths, and what it waits for."""
    fields = control_fields(stanza)
    name = info_name(fields)
    paths = _read(tree, f"{INFO}/{name}.list").decode("utf-8", "surrogateescape").splitlines()
    return Layer(
        key="",
        name=fields["package"],
        entries=tuple(Entry(merged(p[1:]), FILE, 0) for p in paths),
        control={"control": stanza, "triggers": _read(tree, f"{INFO}/{name}.triggers")},
    )
