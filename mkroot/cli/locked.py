"""What commands read from a recipe's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.build import Options
    from mkroot.recipe.model import Recipe
    from mkroot.resolve.lock import Lock


def opened(recipe: str, options: Options) -> tuple[Recipe, Lock]:
    """Return a recipe and its lock, which must be there and fit; raises Faults, LockError."""
    from mkroot.build import open_recipe
    from mkroot.errors import LockError
    from mkroot.locking import check_fresh, lock_path, read_lock

    wanted = open_recipe(recipe, options)
    path = lock_path(recipe)
    lock = read_lock(path) if path is not None else None
    if lock is None or path is None:
        where = "standard input" if path is None else str(path)
        raise LockError("there is no lock", where=where, hint=f"run `mkroot lock {recipe}`")
    check_fresh(lock, wanted, recipe, path)
    return wanted, lock
