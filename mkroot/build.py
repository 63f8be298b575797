"""The program on one page: a recipe becomes a lock, a root and artifacts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mkroot import lockfile, making
from mkroot.errors import ArtifactError, Faults, LockError, MkrootError
from mkroot.mending import mending
from mkroot.progress import Progress, Step
from mkroot.recipe.load import load, locate
from mkroot.recipe.model import Recipe
from mkroot.remote import attached
from mkroot.resolve.lock import Lock
from mkroot.store.store import Store, default_root

if TYPE_CHECKING:
    from mkroot import locking
    from mkroot.looking import Looking
    from mkroot.oci.model import Descriptor
    from mkroot.renewing import Update
    from mkroot.rootfs.identity import Identity


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line adds to a recipe.

    out: the output folder. outputs: kinds in place of the recipe's. lock: "auto" (use one, make one where there is
    none), "locked" (there must be one), "none" (neither read nor write one). tags: image references besides the
    recipe's. architectures: in place of the recipe's. mirror: in place of the one mkroot would find. written: addresses
    of the archive and of Debian's security archive ("" for none) that apt in the image is given, in place of this
    build's mirror. scripts: as `rooting.configured` takes it.
    """

    out: Path = Path("out")
    outputs: tuple[str, ...] = ()
    lock: str = "auto"
    offline: bool = False
    tags: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    mirror: str | None = None
    written: tuple[str, str] | None = None
    defines: dict[str, str] = {}
    allow_expired: bool = False
    explain_cache: bool = False
    scripts: str = "auto"


class Artifact(msgspec.Struct, frozen=True):
    """A file or folder that was made. size: bytes. digest: `sha256:…`, of an image its manifest's."""

    kind: str
    path: str
    size: int
    digest: str


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where came from what a build needed; each count with how many of it the store had.

    fetched: packages that a mirror sent, of so many bytes. stored: the others. stages: of configuration. frames:
    compressed parts that streams were joined from.
    """

    fetched: int = 0
    bytes: int = 0
    stored: int = 0
    stages: int = 0
    stages_stored: int = 0
    frames: int = 0
    frames_stored: int = 0


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What one build made: artifacts, package count, steps, and what was already there.

    sources: None of a build that had nothing to do.
    """

    name: str
    architecture: str
    artifacts: tuple[Artifact, ...]
    packages: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    unchanged: bool = False
    sources: Sources | None = None


def build(
    recipe: str, options: Options, environ: Mapping[str, str], progress: Progress, identity: Identity
) -> tuple[Built, ...]:
    """Build a recipe (a path, or "-" for standard input), one result an architecture; raises MkrootError."""
    wanted = open_recipe(recipe, options)
    if options.out.exists() and not options.out.is_dir():
        raise ArtifactError("the output folder is a file", where=str(options.out), hint="name another with `-o DIR`")
    siblings: list[Descriptor] = []  # an image of several architectures is one index
    rest = (options, environ, progress, siblings)
    try:
        store = Store(default_root(environ))
        lock = settled(store, wanted, recipe, options, environ, progress)

        def one(architecture: str) -> Built:
            with progress.timed("build", f"{wanted.name} {architecture}"):
                return mending(
                    store, progress, partial(making.make, store, identity, wanted, lock, architecture, *rest)
                )

        with nullcontext() if options.offline else attached(store, environ, progress):
            return tuple(map(one, wanted.arch))
    except MkrootError as e:
        raise placed(e, recipe, options) from e.__cause__


def placed(error: MkrootError, recipe: str, options: Options) -> MkrootError:
    """Return an error that names a key of the recipe with the key's file, line and column."""
    if isinstance(error, Faults):
        return Faults(placed(fault, recipe, options) for fault in error.faults)
    key = error.where or ""
    if not re.fullmatch(r"[a-z][a-z_-]*((\.[a-z_-]+)|(\[\d+\]))*", key):
        return error
    place = locate(recipe, key, options.defines)
    return type(error)(f"`{key}`: {error.what}", where=place, hint=error.hint) if place else error


def open_recipe(recipe: str, options: Options) -> Recipe:
    """Return the recipe with what the command line puts in place of its own; raises Faults."""
    wanted = load(recipe, options.defines)
    if options.architectures:
        wanted = msgspec.structs.replace(wanted, arch=options.architectures)
    if options.outputs:
        wanted = msgspec.structs.replace(wanted, outputs=options.outputs)
    return wanted


def settled(
    store: Store, recipe: Recipe, shown: str, options: Options, environ: Mapping[str, str], progress: Progress
) -> Lock:
    """Return the lock to build from: the one beside the recipe, or a new one, written there; raises MkrootError."""
    path = None if options.lock == "none" else lockfile.lock_path(shown, options.defines)
    before = lockfile.read_lock(path) if path is not None else None
    shown = lockfile.spoken(shown, options.defines)
    if before is not None and path is not None:
        lockfile.check_fresh(before, recipe, shown, path)
        return before
    if options.lock == "locked":
        raise no_lock(shown, path)
    from mkroot import locking

    lock = locking.locked(recipe, searched(store, recipe, options, environ, progress, before))
    if path is not None:
        lockfile.write_lock(lock, path)
    return lock


def no_lock(recipe: str, path: Path | None) -> LockError:
    """Return the error for a recipe that has no lock, though it is asked for."""
    return LockError("there is no lock", where=str(path or "standard input"), hint=f"run `mkroot lock {recipe}`")


def searched(
    store: Store,
    recipe: Recipe,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
    before: Lock | None = None,
    update: Update | None = None,
    looking: Looking | None = None,
) -> dict[str, locking.Found]:
    """Return what the archives have for each architecture of the recipe; raises MkrootError.

    update: what of the lock `before` is renewed. looking: what looks at the archives, None for `mkroot.sources.look`.
    """
    from mkroot import locking
    from mkroot.sources import look

    return {
        architecture: locking.find(
            store,
            recipe,
            architecture,
            mirror=options.mirror,
            offline=options.offline,
            allow_expired=options.allow_expired,
            before=before,
            update=update,
            environ=environ,
            progress=progress,
            looking=looking or look,
        )
        for architecture in recipe.arch
    }


def plan(
    recipe: str, options: Options, environ: Mapping[str, str], progress: Progress
) -> tuple[Recipe, dict[str, locking.Found]]:
    """Return the recipe and what a build without a lock would take, by architecture; raises MkrootError."""
    wanted = open_recipe(recipe, options)
    try:
        return wanted, searched(Store(default_root(environ)), wanted, options, environ, progress)
    except MkrootError as e:
        raise placed(e, recipe, options) from e.__cause__


def lock(
    recipe: str,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
    update: Update | None = None,
    looking: Looking | None = None,
    path: Path | None = None,
) -> tuple[Lock | None, Lock, Path | None]:
    """Make a recipe's lock anew and write it; return the old one, the new one and its path.

    update: what of it is renewed, for all architectures that it has; None is all of it, for those of the recipe. Where
    it is security fixes alone, and there are none, the lock stays as it is, byte for byte. looking: as in `searched`.
    path: where the lock stands, None for the usual place. Raises MkrootError.
    """
    from mkroot import locking

    wanted = open_recipe(recipe, options)
    path = path or lockfile.lock_path(recipe, options.defines)
    before = lockfile.read_lock(path) if path is not None else None
    if update is not None and update.security:
        shown = lockfile.spoken(recipe, options.defines)
        if before is None or path is None:
            raise no_lock(shown, path)
        lockfile.check_fresh(before, wanted, shown, path)
    if before is not None and update is not None and not options.architectures:
        wanted = msgspec.structs.replace(wanted, arch=lockfile.architectures(before, wanted))
    store = Store(default_root(environ))
    try:
        beyond = attached(store, environ, progress) if update is not None and update.partial else nullcontext()
        with beyond:  # versions that no index has any more may be there
            found = searched(store, wanted, options, environ, progress, before, update, looking)
    except MkrootError as e:
        raise placed(e, recipe, options) from e.__cause__
    if before is not None and all(one.root is before.architectures.get(a) for a, one in found.items()):
        return before, before, path
    made = locking.locked(wanted, found)
    if before is not None and options.architectures and before.recipe == made.recipe:
        both = {**before.architectures, **made.architectures}
        made = msgspec.structs.replace(made, architectures=both)
    if path is not None:
        lockfile.write_lock(made, path)
    return before, made, path
