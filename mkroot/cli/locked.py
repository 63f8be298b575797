"""The packages that a build of a recipe would take: its lock's, or what the archives have now."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.build import Options
    from mkroot.recipe.model import Recipe
    from mkroot.resolve.lock import LockedRoot


def roots(
    recipe: str, options: Options, environ: Mapping[str, str]
) -> tuple[Recipe, dict[str, LockedRoot], tuple[str, ...]]:
    """Return the recipe, the packages by architecture and the resolver's notes, as a build would take them.

    `options.lock` says whether there must be a lock ("locked"), whether one is used where it fits ("auto"), or not
    ("none"). A lock that does not fit is said aloud, for a build would refuse it. Raises MkrootError.
    """
    from mkroot.build import open_recipe, searched
    from mkroot.cli.terminal import labelled, make_progress
    from mkroot.errors import LockError
    from mkroot.lockfile import check_fresh, lock_path, read_lock, spoken
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    wanted = open_recipe(recipe, options)
    path = None if options.lock == "none" else lock_path(recipe, options.defines)
    lock = read_lock(path) if path is not None else None
    if lock is not None and path is not None:
        try:
            check_fresh(lock, wanted, spoken(recipe, options.defines), path)
            return wanted, {a: lock.root(a) for a in wanted.arch}, ()
        except LockError as e:
            if options.lock == "locked":
                raise
            sys.stderr.write(labelled("warning", f"{path}: {e.what}; shown is what the archives have"))
    elif options.lock == "locked":
        where = "standard input" if path is None else str(path)
        raise LockError("there is no lock", where=where, hint=f"run `mkroot lock {recipe}`")
    store = Store(default_root(dict(environ)))
    with using(store):
        found = searched(store, wanted, options, environ, make_progress(quiet=True))
    notes = tuple(dict.fromkeys(note for f in found.values() for note in f.notes))
    return wanted, {a: f.root for a, f in found.items()}, notes
