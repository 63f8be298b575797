"""A recipe's lock as a file: where it is, whether it fits the recipe, read and written."""

from __future__ import annotations

import json
from pathlib import Path

from mkroot.digest import sha256
from mkroot.errors import LockError
from mkroot.recipe.model import Recipe
from mkroot.recipe.normal import plain
from mkroot.resolve.lock import Lock, decode_lock
from mkroot.store.replaced import replace

# What of a recipe decides which packages are locked. A new motd or another output leaves the lock as it is.
_DECIDES = ("version", "distro", "suite", "components", "pockets", "snapshot", "keyring", "sources", "pins", "packages")


def digest(recipe: Recipe) -> str:
    """Return the digest that a lock holds: of the normal form of all that decides which packages are locked."""
    whole = plain(recipe)
    kept = {key: whole[key] for key in _DECIDES if key in whole}
    if recipe.boot is not None:
        kept["boot"] = {
            "kernel": str(recipe.boot.kernel),
            "loader": recipe.boot.loader,
            "initramfs": recipe.boot.initramfs,
            "firmware": recipe.boot.firmware,
            "iso": "iso" in recipe.outputs,
            "grow": recipe.disk.grow,
        }
        if recipe.boot.rootfs != "own":
            kept["boot"]["rootfs"] = str(recipe.boot.rootfs)
    if str(recipe.image.parent) != "none":
        kept["from"] = str(recipe.image.parent)
    return sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode())


def lock_path(recipe: str) -> Path | None:
    """Return the path of a recipe's lock: beside it, its suffix replaced; None for standard input."""
    return None if recipe == "-" else Path(recipe).with_suffix(".lock")


def read_lock(path: Path) -> Lock | None:
    """Return the lock at `path`, None where there is none; raises LockError."""
    try:
        return decode_lock(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise LockError(f"the lock cannot be read: {e.strerror}", where=str(path)) from None


def check_fresh(lock: Lock, recipe: Recipe, shown: str, path: Path) -> None:
    """Raise LockError where the lock was made for a recipe that asked for other packages."""
    if lock.stale(digest(recipe)):
        raise LockError(
            "the lock is stale: the recipe asks for other packages than when it was made",
            where=str(path),
            hint=f"run `mkroot lock {shown}`",
        )


def write_lock(lock: Lock, path: Path) -> None:
    """Write a lock aside, sync and rename it; raises LockError. Equal bytes are left as they are."""
    data = lock.encode()
    try:
        if path.exists() and path.read_bytes() == data:
            return
        replace(path, data)
    except OSError as e:
        raise LockError(
            f"the lock cannot be written: {e.strerror}",
            where=str(path),
            hint="make the recipe's folder writable, or build with `--no-lock`",
        ) from None
