"""Renews a part of a lock: packages by name, or those with a security fix. The others keep their versions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from mkroot.debian.package import Package
from mkroot.debian.version import version_key
from mkroot.decided import Answer
from mkroot.errors import ResolutionError
from mkroot.fixes import fixed, security
from mkroot.keeping import unlisted
from mkroot.resolve.lock import Key, LockedPackage, LockedRoot, diff_roots, held, named, pairs
from mkroot.resolve.request import Pin, Request
from mkroot.resolve.universe import Universe
from mkroot.sources import Archive

Ask = Callable[[Request, Sequence[Package]], Answer]  # a request, and packages that the archives have not
Keep = Callable[[Sequence[LockedPackage]], dict[Key, Package]]
_VERBS = {"pre-depends": "pre-depends on", "depends": "depends on", "conflicts": "conflicts with", "breaks": "breaks"}
_LISTED = 20  # packages in one note


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What of a lock is renewed: packages by their own or their source's name, or those with a security fix.

    With neither all of it is.
    """

    names: tuple[str, ...] = ()
    security: bool = False

    @property
    def partial(self) -> bool:
        """Whether what is not renewed keeps its version."""
        return bool(self.names) or self.security


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """A renewed root, and what the user should know of it. root: the very one before where nothing was to be done."""

    root: LockedRoot
    notes: tuple[str, ...] = ()


def renew(
    before: LockedRoot, update: Update, asked: Request, parent: str, archive: Archive, ask: Ask, keep: Keep
) -> Renewal:
    """Return a root in which only what `update` means has another version, and what cannot stay beside it.

    asked: what the recipe asks for. parent: digest of the image that the root stands on now, "" for none. ask: the
    resolver. keep: what has packages whose versions no index has, as `keeping.kept`.
    A package that must move takes those of its source along, for binaries of one source belong together; what moved
    beside the wish is told in the notes, and why. Raises LockError for a name that the lock has not, ResolutionError.
    """
    everything = (*before.packages, *before.beside)
    if update.security:
        found, going = _flawed(before, ask(asked, ()).root, archive)
        sources = {p.source for p in (*(old for old, _ in found), *going)}
        wanted = frozenset(p.key for p in everything if p.source in sources)
        if not wanted and (before.parent or "") == parent:
            return Renewal(root=before)
        asked = msgspec.structs.replace(asked, pins=(*_forbidding(archive.universe(), found), *asked.pins))
    else:
        wanted = named(before, update.names)
    universe = archive.universe()
    gone = list(unlisted(universe, (p for p in everything if p.key not in wanted)))
    extra = keep(gone)
    lost = {p.key for p in gone} - extra.keys()
    free = _along(everything, wanted, lost)
    reasons = dict.fromkeys(lost, "no index, no store and no mirror has the old version any more")
    while True:
        request = msgspec.structs.replace(asked, locked=held(before, free))
        added = [stanza for key, stanza in extra.items() if key not in free]
        try:
            answer = ask(request, added)
        except ResolutionError as e:
            ask(asked, ())  # raises what is no fault of the versions that are kept
            hint = "`mkroot lock RECIPE --update`, and nothing else, renews every package"
            raise ResolutionError(e.what, where=e.where, hint=hint) from None
        moved = [(old, new) for old, new in pairs(before, answer.root) if _moved(old, new) and old.key not in free]
        if not moved:
            if update.security and (before.parent or "") == parent and diff_roots(before, answer.root).empty:
                return Renewal(root=before)  # a fix that nothing here can take
            notes = (*_beside(before, answer.root, wanted, reasons), *_held_on(extra, answer.root), *answer.notes)
            return Renewal(root=answer.root, notes=notes)
        reasons |= {old.key: _reason(universe, old, new, answer.root) for old, new in moved}
        free = _along(everything, free, {old.key for old, _ in moved})


def _flawed(
    before: LockedRoot, after: LockedRoot, archive: Archive
) -> tuple[list[tuple[LockedPackage, LockedPackage]], list[LockedPackage]]:
    """Return the packages that have a security fix in a whole renewal, as they were and as they are; raises OSError.

    The second: those with a fix that are not there any more when all is renewed. They stay with what needs them now.
    """
    pockets = security(archive.indices)
    found = [(old, new) for old, new in pairs(before, after) if fixed(old, new, pockets)]
    return found, [p for p in diff_roots(before, after).removed if fixed(p, None, pockets)]


def _forbidding(universe: Universe, found: Sequence[tuple[LockedPackage, LockedPackage]]) -> Iterator[Pin]:
    """Yield pins against every version older than the one with the fix: no conflict shall lead back to them."""
    for old, new in found:
        limit = version_key(new.version)
        pattern = old.name if old.architecture == "all" else f"{old.name}:{old.architecture}"
        for version in sorted({p.version for p in universe.packages(old.name)}):
            if version_key(version) < limit:
                yield Pin(package=pattern, version=version, priority=-1)


def _along(packages: Sequence[LockedPackage], free: Collection[Key], more: Collection[Key]) -> frozenset[Key]:
    """Return what is free to move when more is: all of the same sources with it."""
    sources = {p.source for p in packages if p.key in more}
    return frozenset((*free, *(p.key for p in packages if p.source in sources)))


def _moved(old: LockedPackage, new: LockedPackage) -> bool:
    return old.version != new.version


def _beside(before: LockedRoot, after: LockedRoot, wanted: Collection[Key], reasons: dict[Key, str]) -> Iterator[str]:
    """Yield a line for each package that moved beside those that were to be renewed."""
    for old, new in pairs(before, after):
        if _moved(old, new) and old.key not in wanted:
            why = reasons.get(old.key, f"it is built from the same source, {old.source}")
            yield f"{old.name} {old.version} → {new.version} as well: {why}"


def _held_on(extra: dict[Key, Package], after: LockedRoot) -> Iterator[str]:
    """Yield a line about the packages that are kept though no index has them any more."""
    there = {(p.name, p.architecture, p.version) for p in (*after.packages, *after.beside)}
    names = sorted(f"{p.name} {p.version}" for p in extra.values() if (p.name, p.architecture, p.version) in there)
    if names:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        yield (
            f"kept, though no index has it any more: {', '.join(names[:_LISTED])}{more}; "
            "a build takes it from the store, or from the mirror as long as it is there"
        )


def _reason(universe: Universe, old: LockedPackage, new: LockedPackage, after: LockedRoot) -> str:
    """Say what kept a package from staying in its old version."""
    own = _stanza(universe, old.name, old.architecture, old.version)
    for other in after.packages:
        stanza = _stanza(universe, other.name, other.architecture, other.version)
        if stanza is not None and (line := _stands_against(stanza, old.name, old.version)):
            return line
        if own is not None and (line := _stands_against(own, other.name, other.version)):
            return line
    return "no answer has its old version"


def _stanza(universe: Universe, name: str, architecture: str, version: str) -> Package | None:
    found = (p for p in universe.packages(name) if (p.architecture, p.version) == (architecture, version))
    return next(found, None)


def _stands_against(package: Package, name: str, version: str) -> str:
    """Return the relation of a package that does not go with another one's version, "" where there is none."""
    for field, verb in _VERBS.items():
        negative = field in ("conflicts", "breaks")
        for clause in package.relations(field):
            if len(clause) == 1 and clause[0].name == name and clause[0].accepts(version) is negative:
                return f"{package.name} {package.version} {verb} {clause[0]}"
    return ""
