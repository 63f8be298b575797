"""What a renewal of recipes' locks would change now, and which of it are security fixes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from mkroot import lockfile
from mkroot.build import Options, no_lock, open_recipe, placed
from mkroot.errors import LockError, MkrootError
from mkroot.looking import Looks
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe
from mkroot.recipe.standing import reference_of
from mkroot.resolve.lock import LockedPackage, diff_roots, pairs
from mkroot.store.store import Store, default_root

if TYPE_CHECKING:
    from mkroot.resolve.lock import Lock

State = Literal["current", "outdated", "pinned", "missing", "stale", "failed"]


class Newer(msgspec.Struct, frozen=True, kw_only=True):
    """A package that would change: its versions, and the suite that the new one is from.

    security: a security pocket has a fix between the two. kind: as in `mkroot.resolve.lock.Change`.
    """

    name: str
    architecture: str
    source: str
    before: str
    after: str
    suite: str
    security: bool
    kind: str


class Leaving(msgspec.Struct, frozen=True, kw_only=True):
    """A package that would not be there any more. security: it has a fix that the locked version lacks."""

    name: str
    architecture: str
    source: str
    version: str
    suite: str
    security: bool


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What `mkroot lock --update` would change for one recipe and architecture.

    name, architecture: "" where the recipe could not be read so far. lock: its path, "" for standard input.
    state: "current" (nothing), "outdated", "pinned" (a snapshot: nothing can), "missing" or "stale" (there is no lock
    to ask about), "failed". added, removed: packages. parent: digests of the image that the root stands on, where it is
    another one now. images: tags that a build gives. errors: of the last three states.
    """

    recipe: str
    name: str = ""
    architecture: str = ""
    lock: str = ""
    state: State
    packages: tuple[Newer, ...] = ()
    added: tuple[LockedPackage, ...] = ()
    removed: tuple[Leaving, ...] = ()
    parent: tuple[str, str] | None = None
    images: tuple[str, ...] = ()
    errors: tuple[MkrootError, ...] = ()

    @property
    def security(self) -> int:
        """How many packages have a security fix."""
        return sum(p.security for p in self.packages) + sum(p.security for p in self.removed)


def outdated(
    recipe: str,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
    looks: Looks,
    path: Path | None = None,
) -> Iterator[Verdict]:
    """Yield a verdict for each architecture of a recipe and its lock; one alone where one of them cannot be read.

    Nothing but the store is written to. looks: what looked at the archives for the recipes before; what it knows is not
    asked for again. path: where the lock stands, None for the usual place. Raises nothing that is a fault of the
    recipe, the lock or an archive.
    """
    path = path or lockfile.lock_path(recipe, options.defines)
    shown = lockfile.spoken(recipe, options.defines)
    verdict = Verdict(recipe=shown, lock=str(path or ""), state="failed")
    try:
        wanted = open_recipe(recipe, options)
        verdict = replace(verdict, name=str(wanted.name), images=tuple(map(str, wanted.image.tags)))
        lock = lockfile.read_lock(path) if path is not None else None
    except MkrootError as e:
        yield replace(verdict, errors=(e,))
        return
    if lock is None or path is None:
        yield replace(verdict, state="missing", errors=(no_lock(shown, path),))
        return
    try:
        lockfile.check_fresh(lock, wanted, shown, path)
    except LockError as e:
        yield replace(verdict, state="stale", errors=(e,))
        return
    for architecture in options.architectures or lockfile.architectures(lock, wanted):
        verdict = replace(verdict, architecture=architecture)
        if architecture not in lock.architectures:
            lacking = LockError(
                f"the lock has no packages for `{architecture}`", where=str(path), hint=f"run `mkroot lock {shown}`"
            )
            yield replace(verdict, state="missing", errors=(lacking,))
        elif wanted.snapshot and not wanted.sources and not reference_of(wanted):
            yield replace(verdict, state="pinned")
        else:
            try:
                yield _asked(verdict, wanted, lock, options, environ, progress, looks)
            except MkrootError as e:
                yield replace(verdict, errors=(placed(e, recipe, options),))


def _asked(
    verdict: Verdict,
    recipe: Recipe,
    lock: Lock,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
    looks: Looks,
) -> Verdict:
    """Return the verdict that the archives give; raises what `mkroot.locking.find` does."""
    from mkroot import locking
    from mkroot.fixes import fixed, security

    found = locking.find(
        Store(default_root(environ)),
        recipe,
        verdict.architecture,
        mirror=options.mirror,
        offline=options.offline,
        allow_expired=options.allow_expired,
        before=lock,
        update=None,
        environ=environ,
        progress=progress,
        looking=looks,
    )
    before, after = lock.architectures[verdict.architecture], found.root
    difference = diff_roots(before, after)
    pockets = security(found.archive.indices)
    packages = tuple(
        Newer(
            name=new.name,
            architecture=new.architecture,
            source=new.source,
            before=old.version,
            after=new.version,
            suite=new.suite,
            security=fixed(old, new, pockets),
            kind=change.kind,
        )
        for (old, new), change in zip(pairs(before, after), difference.changed, strict=True)
    )
    images = before.parent or "", after.parent or ""
    moved = images if images[0] != images[1] else None
    return replace(
        verdict,
        state="current" if difference.empty and moved is None else "outdated",
        packages=packages,
        added=difference.added,
        removed=tuple(
            Leaving(
                name=p.name,
                architecture=p.architecture,
                source=p.source,
                version=p.version,
                suite=p.suite,
                security=fixed(p, None, pockets),
            )
            for p in difference.removed
        ),
        parent=moved,
    )
