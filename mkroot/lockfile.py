"""A recipe's lock as a file: where it is, whether it fits the recipe, read and written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from mkroot.digest import sha256
from mkroot.errors import LockError
from mkroot.recipe.model import Recipe
from mkroot.recipe.normal import plain
from mkroot.resolve.lock import Lock, decode_lock
from mkroot.store.replaced import replace

# What of a recipe decides which packages are locked. A new motd or another output leaves the lock as it is.
_DECIDES = ("version", "distro", "suite", "components", "pockets", "snapshot", "keyring", "sources", "pins", "packages")


SUFFIX = ".lock"


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


def lock_path(recipe: str, defines: Mapping[str, str] | None = None) -> Path | None:
    """Return the path of a recipe's lock: beside it, its suffix replaced; None for standard input.

    defines: values of variables. Where a run over several values has left a lock for some of these, it is that one; of
    several the one that names the most.
    """
    if recipe == "-":
        return None
    place = Path(recipe)
    if defines:
        wanted = {_pair(name, value) for name, value in defines.items()}
        found = []
        for path in _variants(place):
            pairs = path.name[len(place.stem) + 1 : -len(SUFFIX)].split(",")
            if wanted.issuperset(pairs):
                found.append((-len(pairs), path.name))
        if found:
            return place.with_name(min(found)[1])
    return place.with_suffix(SUFFIX)


def variant_path(recipe: str, defines: Mapping[str, str], varied: Iterable[str]) -> Path:
    """Return the path of the lock of a recipe with some of several values: `x.yaml` gives `x.suite=bookworm.lock`.

    varied: names of the variables that have several values in this run; with none of them it is the usual path.
    """
    pairs = ",".join(_pair(name, defines[name]) for name in sorted(varied))
    place = Path(recipe)
    return place.with_name(f"{place.stem}.{pairs}{SUFFIX}") if pairs else place.with_suffix(SUFFIX)


def _variants(recipe: Path) -> list[Path]:
    import os

    try:
        names = os.listdir(recipe.parent)
    except OSError:
        return []
    return [recipe.with_name(n) for n in names if n.startswith(f"{recipe.stem}.") and n.endswith(SUFFIX) and "=" in n]


def _pair(name: str, value: str) -> str:
    """Return a variable with its value as a file's name may have it."""
    from urllib.parse import quote

    return f"{name}={quote(value, safe='+:~', errors='surrogateescape')}"


def spoken(recipe: str, defines: Mapping[str, str]) -> str:
    """Return a recipe with the values that it was given, as a command line takes it."""
    import shlex

    words = [recipe, *(word for name, value in sorted(defines.items()) for word in ("-D", f"{name}={value}"))]
    return shlex.join(words) if defines else recipe


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


def architectures(lock: Lock, recipe: Recipe) -> tuple[str, ...]:
    """Return the architectures of a recipe, and those that a run over more of them has left in its lock."""
    return tuple(dict.fromkeys((*map(str, recipe.arch), *lock.architectures)))


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
