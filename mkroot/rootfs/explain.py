"""Explains a path of a root: what made it, and what that rests on: package, .deb, index, Release, key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from mkroot.errors import RootfsError
from mkroot.resolve.lock import Lock, LockedPackage, LockedSource
from mkroot.rootfs.tree import LINK_LIMIT, Tree
from mkroot.store.layer import Layer
from mkroot.store.unpack import layer_key
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry

KINDS = {
    FILE: "file", DIR: "folder", SYMLINK: "link", HARDLINK: "hard link", CHAR: "character device",
    BLOCK: "block device", FIFO: "FIFO",
}  # fmt: skip
ORIGINS = (  # of which a package is named: a script's, a file's of the database, what stands for a script
    re.compile(r"([a-z0-9][a-z0-9.+-]+) (?:config|preinst|postinst|prerm|postrm|triggered)\b.*"),
    re.compile(r"package: ([a-z0-9][a-z0-9.+-]+)"),
    re.compile(r"static: (?:alternative of )?([a-z0-9][a-z0-9.+-]+)"),
)
FOLDER_LIMIT = 8  # packages named for a folder that many have


class Release(msgspec.Struct, frozen=True, omit_defaults=True):
    """The signed file that an index stands in. signer: fingerprint, "" for none. date: seconds since 1970."""

    source: str
    suite: str
    inrelease: str
    date: int
    signer: str = ""
    snapshot: str = ""


class Package(msgspec.Struct, frozen=True, omit_defaults=True):
    """A package of the lock. sha256: of the .deb. release: None for a local .deb. why: what brought it."""

    name: str
    version: str
    architecture: str
    source: str
    sha256: str
    path: str
    component: str = ""
    why: str = ""
    release: Release | None = None


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One layer's part in a path.

    did: "brought" (a package), "wrote" or "removed". by: the package, or the script, hook or recipe key.
    layer: the layer's name. package: the facts of the package that brought it or whose script wrote it.
    """

    did: str
    by: str
    layer: str
    package: Package | None = None


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a path.

    path: as asked for, absolute. place: where it is when all links above it are followed; through: those links.
    kind, mode, owner, size, sha256, link: of what is there; kind "" where it was removed.
    steps: what made it, the last one first. more: packages that have the folder too, beyond those in steps.
    """

    path: str
    place: str
    kind: str = ""
    mode: str = ""
    owner: str = ""
    size: int = 0
    sha256: str = ""
    link: str = ""
    through: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    more: int = 0

    def data(self) -> Any:
        """Return it as JSON types."""
        return msgspec.to_builtins(self)


def explain(tree: Tree, path: str, lock: Lock | None = None, architecture: str = "") -> Explanation:
    """Tell where a path of a finished root comes from.

    tree: with all its layers. path: absolute or relative to the root; a link at its end is not followed.
    lock, architecture: what the root was built from; None leaves out what only a lock knows. Raises RootfsError where
    the root has no such path and never had.
    """
    place, through = _follow(tree, path.strip("/"))
    facts = _facts(lock, architecture)
    node = tree.nodes.get(place)
    shown = "/" + path.strip("/")
    steps = _steps(tree, place, facts)
    if node is None and place and not steps:
        raise RootfsError(f"the root has no path {shown}", hint=_nearest(tree, place))
    entry = node.entry if node is not None else Entry("", DIR, 0o755)
    more = max(0, len(steps) - FOLDER_LIMIT) if entry.kind == DIR else 0
    if node is None and place:
        return Explanation(shown, "/" + place, through=through, steps=tuple(steps))
    return Explanation(
        path=shown,
        place="/" + place,
        kind=KINDS[entry.kind],
        mode=f"{entry.mode:04o}",
        owner=f"{entry.uid}:{entry.gid}",
        size=entry.size,
        sha256=entry.sha256,
        link=("/" + entry.link) if entry.kind == HARDLINK else entry.link,
        through=through,
        steps=tuple(steps[: len(steps) - more]),
        more=more,
    )


def _follow(tree: Tree, path: str) -> tuple[str, tuple[str, ...]]:
    """Return where a path is, its own link not followed, and the links above it, as `/bin -> usr/bin`."""
    through: list[str] = []
    parts = [p for p in path.split("/") if p not in ("", ".")]
    for number in range(1, len(parts)):
        above = "/".join(parts[:number])
        entry = tree.get(above, follow=False)
        if entry is not None and entry.kind == SYMLINK and len(through) < LINK_LIMIT:
            through.append(f"/{entry.path} -> {entry.link}")
    return tree.resolve(path, follow=False), tuple(dict.fromkeys(through))


def _steps(tree: Tree, place: str, facts: Mapping[str, Package]) -> list[Step]:
    """Return what explains a path of today, the last first: down to the package that brought it; of a folder, all."""
    node = tree.nodes.get(place)
    steps: list[Step] = []
    for index in range(len(tree.layers) - 1, -1, -1):
        layer = tree.layers[index]
        own = node is not None and node.layer == index
        if node is not None and node.entry.kind != DIR and not own:
            if node.layer < index and (layer.control or not layer.removed):
                continue  # a package that did not get the path, or a top that has nothing to do with it
            if layer.control and tree.layers[node.layer].control:
                continue  # replaced by the package that has it now
        step = _step(layer, place, facts, own)
        if step is None:
            continue
        if step.did == "removed" and node is not None:
            if node.entry.kind != DIR:
                break
            continue
        steps.append(step)
        if node is not None and node.entry.kind != DIR and step.did == "brought":
            break
    return steps


def _step(layer: Layer, place: str, facts: Mapping[str, Package], own: bool) -> Step | None:
    """Return a layer's part in a path, or None. own: the path is this layer's, whatever it was called in it."""
    has = own or any(e.path == place for e in layer.entries)
    if layer.control:
        if not has:
            return None
        package = facts.get(layer.key)
        by = f"{package.name} {package.version}" if package else layer.name
        return Step("brought", by, layer.name, package)
    gone = not has and _covers(layer, place)
    if not has and not gone:
        return None
    origin = layer.origins.get(place) or _above(layer, place) or layer.name
    return Step("removed" if gone else "wrote", origin, layer.name, _named(origin, facts))


def _covers(layer: Layer, place: str) -> bool:
    inside = place + "/"
    return any(inside.startswith(r + "/") for r in layer.removed) or any(
        inside.startswith(o + "/") and o != place for o in layer.opaque
    )


def _above(layer: Layer, place: str) -> str | None:
    while place := place.rpartition("/")[0]:
        if place in layer.origins:
            return layer.origins[place]
    return None


def _named(origin: str, facts: Mapping[str, Package]) -> Package | None:
    """Return the package whose script an origin names, or None."""
    found = next((m[1] for m in (regex.fullmatch(origin) for regex in ORIGINS) if m), None)
    return next((p for p in facts.values() if p.name == found), None)


def _facts(lock: Lock | None, architecture: str) -> dict[str, Package]:
    """Return the locked packages' facts by the key of their layer."""
    if lock is None:
        return {}
    sources = {s.id: s for s in lock.sources}
    roots = [lock.architectures[a] for a in sorted(lock.architectures) if not architecture or a == architecture]
    return {layer_key(p.sha256): _package(p, sources) for root in roots for p in (*root.packages, *root.beside)}


def _package(locked: LockedPackage, sources: Mapping[str, LockedSource]) -> Package:
    release = None
    source = sources.get(locked.origin)
    for suite in source.suites if source else ():
        if suite.suite == locked.suite:
            release = Release(
                locked.origin, suite.suite, suite.inrelease, suite.date, suite.signer, suite.snapshot
            )  # the index itself is pinned by the Release's digest
    return Package(
        name=locked.name,
        version=locked.version,
        architecture=locked.architecture,
        source=f"{locked.source} {locked.source_version}",
        sha256=locked.sha256,
        path=locked.path,
        component=locked.component,
        why=locked.why,
        release=release,
    )


def _nearest(tree: Tree, place: str) -> str | None:
    import difflib

    folder, _, name = place.rpartition("/")
    found = difflib.get_close_matches(name, tree.children(folder), 1)
    return f"did you mean /{folder + '/' if folder else ''}{found[0]}?" if found else None


def told(explanation: Explanation) -> str:
    """Return an explanation as text: what is there, then step below step what it rests on."""
    e = explanation
    lines = [f"{e.path}: {_what(e)}"]
    lines += [f"  through {link}" for link in e.through]
    if e.place != e.path:
        lines.append(f"  at {e.place}")
    for step in e.steps:
        verb = {"brought": "from package", "wrote": "written by", "removed": "removed by"}[step.did]
        lines.append(f"  {verb} {step.by}")
        if step.package is not None:
            lines += [f"    {line}" for line in _package_lines(step.package, step.did != "brought")]
    if e.more:
        lines.append(f"  and {e.more} more packages")
    return "\n".join(lines)


def _what(e: Explanation) -> str:
    if not e.kind:
        return "not in the root"
    size = f", {e.size} bytes" if e.kind == "file" else ""
    target = f" -> {e.link}" if e.link else ""
    return f"{e.kind}{target}, mode {e.mode}, owner {e.owner}{size}" + (f", sha256 {e.sha256}" if e.sha256 else "")


def _package_lines(package: Package, name: bool) -> list[str]:
    lines = [f"package {package.name} {package.version} {package.architecture}"] if name else []
    lines.append(f".deb {package.path}, sha256 {package.sha256}")
    lines.append(f"source {package.source}")
    if package.why:
        lines.append(f"because {package.why}")
    release = package.release
    if release is not None:
        when = datetime.fromtimestamp(release.date, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        component = f"/{package.component}" if package.component else ""
        lines.append(f"index {release.source} {release.suite}{component}")
        lines.append(f"Release of {when}, sha256 {release.inrelease}")
        lines.append(f"signed by {release.signer}" if release.signer else "not signed (`trusted: true`)")
    return lines
