"""The lock: what a build takes, byte for byte, so that it needs no index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from mkroot.decoding import from_json
from mkroot.digest import is_sha256
from mkroot.errors import LockError

if TYPE_CHECKING:
    from mkroot.resolve.resolution import Resolution, Resolved

Key = tuple[str, str]  # a package's name and architecture
VERSION = 1  # of the lock's form


class LockedSuite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One suite of a source as it was read.

    inrelease: sha256 of the InRelease (or Release) file; date: its Date, seconds since 1970.
    signer: fingerprint of the key that signed it, upper-case hexadecimal, "" for a `trusted: true` source.
    allow_expired: its Valid-Until had passed and the user allowed that. snapshot: the timestamp, "" for live.
    """

    suite: str
    inrelease: str
    date: int
    signer: str = ""
    allow_expired: bool = False
    snapshot: str = ""


class LockedSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A source by its id in the recipe, and its suites in their order."""

    id: str
    suites: tuple[LockedSuite, ...]


class LockedPackage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One package.

    size: bytes of the .deb. installed_size: KiB. path: relative to the mirror of `origin` and `suite`.
    origin: id of the source, "" for a local .deb, whose path is the recipe's own word for it.
    stage: "essential" | "variant" | "include" | "beside". upgrades: the version of the parent's package that it takes
    the place of.
    """

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    sha256: str
    size: int
    installed_size: int
    path: str
    origin: str
    suite: str
    component: str
    stage: str
    why: str
    upgrades: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def key(self) -> Key:
        """What tells it from the other packages of its root."""
        return self.name, self.architecture


class LockedRoot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One architecture: packages in the order of their configuration, and those beside the root, by name.

    parent: digest of the manifest of the image that it stands on.
    """

    packages: tuple[LockedPackage, ...]
    beside: tuple[LockedPackage, ...] = ()
    parent: str | msgspec.UnsetType = msgspec.UNSET


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe's lock. `recipe` is the digest of the recipe after normalising; another one makes the lock stale."""

    version: int = VERSION
    recipe: str
    sources: tuple[LockedSource, ...]
    architectures: dict[str, LockedRoot]

    def encode(self) -> bytes:
        """Return the lock's text: JSON with sorted keys, indented, newline-terminated; equal locks give equal bytes."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1) + b"\n"

    def stale(self, recipe: str) -> bool:
        """Tell whether the recipe has another digest than the one that was locked."""
        return self.recipe != recipe

    def root(self, architecture: str) -> LockedRoot:
        """Return the packages of one architecture; raises LockError where it is not locked."""
        try:
            return self.architectures[architecture]
        except KeyError:
            known = ", ".join(sorted(self.architectures)) or "none"
            raise LockError(f"the lock has no packages for `{architecture}`", hint=f"it has: {known}") from None


def decode_lock(data: bytes, where: str) -> Lock:
    """Return the lock that `data` holds; `where` names its file. Raises LockError with the place of the fault."""
    hint = "the lock is made by `mkroot lock RECIPE`; remove it to make a new one"
    try:
        head = from_json(data, _Head)
        if head.version != VERSION:
            raise LockError(f"the lock has form {head.version}, this mkroot reads {VERSION}", where=where, hint=hint)
        lock = from_json(data, Lock)
    except (msgspec.DecodeError, RecursionError) as e:
        raise LockError(f"not a lock: {e}", where=where, hint=hint) from None
    except UnicodeDecodeError as e:
        raise LockError(f"not a lock: {e.reason}", where=where, hint=hint) from None
    for architecture, root in lock.architectures.items():
        seen: set[tuple[str, str]] = set()
        for package in (*root.packages, *root.beside):
            fault = _fault(package)
            if fault is None and package.key in seen:
                fault = "is listed twice"
            if fault is not None:
                raise LockError(f"package `{package.name}` of {architecture} {fault}", where=where, hint=hint)
            seen.add(package.key)
    return lock


class _Head(msgspec.Struct):
    version: int


def _fault(package: LockedPackage) -> str | None:
    if not package.name or "/" in package.name or package.name.startswith("."):
        return "has no name that could be one"
    if not is_sha256(package.sha256):
        return "has no sha256"
    if package.size < 0 or package.installed_size < 0:
        return "has a negative size"
    if package.origin and (package.path.startswith("/") or ".." in package.path.split("/")):
        return "has a path that leaves its mirror"
    return None


def lock_package(resolved: Resolved) -> LockedPackage:
    """Return what the lock keeps of a resolved package; raises LockError where its index gives no sha256."""
    package, index = resolved.package, resolved.package.origin
    if not is_sha256(package.sha256):
        raise LockError(
            f"the index gives no SHA256 for {package.name} {package.version}",
            hint="use a source that has SHA256 fields",
        )
    return LockedPackage(
        name=package.name,
        version=package.version,
        architecture=package.architecture,
        source=package.source,
        source_version=package.source_version,
        sha256=package.sha256,
        size=package.size,
        installed_size=package.installed_size,
        path=(index.base if index is not None else "") + package.filename,
        origin=index.source if index is not None else "",
        suite=index.suite if index is not None else "",
        component=index.component if index is not None else "",
        stage=resolved.stage,
        why=resolved.why.text(),
        upgrades=resolved.upgrades or msgspec.UNSET,
    )


def lock_root(resolution: Resolution, beside: Sequence[Resolved] = (), parent: str = "") -> LockedRoot:
    """Return an architecture's part of the lock; raises LockError. parent: as in `LockedRoot`, "" for none."""
    extra = sorted((lock_package(r) for r in beside), key=lambda p: p.key)
    packages = tuple(lock_package(r) for r in resolution.packages)
    return LockedRoot(packages=packages, beside=tuple(extra), parent=parent or msgspec.UNSET)


def named(root: LockedRoot, names: Iterable[str]) -> frozenset[Key]:
    """Return the packages that have one of the names, or whose source package has; raises LockError for an unknown."""
    wanted = frozenset(names)
    packages = (*root.packages, *root.beside)
    known = {p.name for p in packages} | {p.source for p in packages}
    if missing := sorted(wanted - known):
        raise LockError("the lock has no package " + ", ".join(f"`{n}`" for n in missing[:20]))
    return frozenset(p.key for p in packages if {p.name, p.source} & wanted)


def held(root: LockedRoot, renewed: Collection[Key]) -> tuple[tuple[str, str, str], ...]:
    """Return the `Request.locked` of a lock of which a part is renewed: every version but those of that part."""
    packages = (*root.packages, *root.beside)
    return tuple((p.name, p.architecture, p.version) for p in packages if p.key not in renewed)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A package that is in both locks, and not the same.

    kind: "upgraded" | "downgraded" | "rebuilt" (same version, other bytes).
    """

    name: str
    architecture: str
    before: str
    after: str
    kind: str


class LockDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two locks of one architecture, each part sorted by name."""

    added: tuple[LockedPackage, ...]
    removed: tuple[LockedPackage, ...]
    changed: tuple[Change, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed)


def diff_roots(before: LockedRoot, after: LockedRoot) -> LockDiff:
    """Return what differs. A package whose architecture turned into `all` or out of it is the same package."""
    old, new = _by_name(before), _by_name(after)
    return LockDiff(
        added=tuple(new[key] for key in sorted(new.keys() - old.keys())),
        removed=tuple(old[key] for key in sorted(old.keys() - new.keys())),
        changed=tuple(_change(*pair) for pair in pairs(before, after)),
    )


def pairs(before: LockedRoot, after: LockedRoot) -> Iterator[tuple[LockedPackage, LockedPackage]]:
    """Yield the packages that are in both roots and not the same, as they were and as they are, sorted by name."""
    old, new = _by_name(before), _by_name(after)
    for key in sorted(old.keys() & new.keys()):
        if old[key].sha256 != new[key].sha256:
            yield old[key], new[key]


def diff_locks(before: Lock, after: Lock) -> dict[str, LockDiff]:
    """Return what differs, by architecture in sorted order; an architecture that one lock lacks counts as empty."""
    empty = LockedRoot(packages=())
    return {
        architecture: diff_roots(
            before.architectures.get(architecture, empty), after.architectures.get(architecture, empty)
        )
        for architecture in sorted(before.architectures.keys() | after.architectures.keys())
    }


def _by_name(root: LockedRoot) -> dict[tuple[str, str], LockedPackage]:
    """Return the packages by name; the architecture is part of the key only where a name is there twice."""
    packages = (*root.packages, *root.beside)
    count = Counter(p.name for p in packages)
    return {(p.name, p.architecture if count[p.name] > 1 else ""): p for p in packages}


def _change(before: LockedPackage, after: LockedPackage) -> Change:
    from mkroot.debian.version import version_key

    old, new = version_key(before.version), version_key(after.version)
    kind = "upgraded" if old < new else "downgraded" if old > new else "rebuilt"
    return Change(
        name=after.name, architecture=after.architecture, before=before.version, after=after.version, kind=kind
    )
