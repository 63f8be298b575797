"""The locks of a run: those that stand beside the recipes, and new ones that its steps make."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mkroot import build, lockfile
from mkroot.errors import MkrootError
from mkroot.fleet.matrix import Variant
from mkroot.recipe.model import Recipe
from mkroot.resolve.lock import Lock, LockedSource, LockedSuite, decode_lock


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a variant's lock. lock: as far as it is there; missing: architectures that are to be locked."""

    lock: Lock | None
    missing: tuple[str, ...] = ()


def settled(variant: Variant, recipe: Recipe) -> Settled:
    """Return a variant's lock and what of it is to be made; raises LockError where a build would.

    A lock that is there stays as it is, but that a run over every architecture of the archive adds those it lacks.
    """
    shown = lockfile.spoken(variant.shown, variant.options.defines)
    path = None if variant.lock is None else Path(variant.lock)
    before = None if path is None else lockfile.read_lock(path)
    if before is None or path is None:
        if variant.options.lock == "locked":
            raise build.no_lock(shown, path)
        return Settled(lock=None, missing=tuple(map(str, recipe.arch)))
    lockfile.check_fresh(before, recipe, shown, path)
    lacks = tuple(str(a) for a in recipe.arch if a not in before.architectures)
    added = variant.every and variant.options.lock == "auto"
    return Settled(lock=before, missing=lacks if added else ())


def merged(recipe: Recipe, before: Lock | None, texts: list[bytes], where: str) -> Lock:
    """Return one lock of those that steps made, each of one architecture, added to the one before; raises LockError."""
    found = [*([before] if before is not None else []), *(decode_lock(text, where) for text in texts)]
    sources: dict[str, dict[str, LockedSuite]] = {}
    roots = {}
    for lock in found:
        roots.update(lock.architectures)
        for source in lock.sources:
            sources.setdefault(source.id, {}).update({suite.suite: suite for suite in source.suites})
    return Lock(
        recipe=lockfile.digest(recipe),
        sources=tuple(LockedSource(id=i, suites=tuple(suites.values())) for i, suites in sources.items()),
        architectures=roots,
    )


def kept(lock: Lock, variant: Variant, folder: Path, name: str, *, whole: bool) -> str:
    """Write a new lock where it belongs, and return the path at which steps find it; raises LockError.

    One that is not whole, because an architecture could not be locked, and one that is to stand nowhere go into
    `folder`, for the time of the run.
    """
    path = Path(variant.lock) if whole and variant.lock is not None else folder / f"{name}.lock"
    lockfile.write_lock(lock, path)
    return str(path)


def placed(error: MkrootError, variant: Variant) -> MkrootError:
    """Return an error with the recipe's file and line where it names a key of it."""
    return build.placed(error, variant.path, variant.options)
