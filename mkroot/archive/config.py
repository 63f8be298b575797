"""The user's `config.toml`: mirrors by distribution, where dated snapshots of them are, and the remote store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mkroot.errors import RecipeError

_SECTIONS = ("mirrors", "snapshots", "store")
_STORE = ("remote", "key")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the user set up once for all recipes.

        [mirrors]
        debian = "http://mirror.example/debian"
        debian-security = "http://mirror.example/debian-security"
        ubuntu = "http://mirror.example/ubuntu"
        ubuntu-ports = "http://mirror.example/ubuntu-ports"

        [snapshots]
        debian = "http://mirror.example/archive/{archive}/{snapshot}"
        ubuntu = "http://mirror.example/ubuntu/{snapshot}"

        [store]
        remote = "registry.example:5000/team/store"
        key = "store.key"

    mirrors: archive (`debian`, `debian-security`, `ubuntu`, `ubuntu-ports`, …) → address.
    snapshots: archive → address with `{snapshot}` (or `@SNAPSHOTID@`) for the date and `{archive}` for the archive.
    remote: the repository of a registry that is the store's second floor; "" for none. key: the file of the secret
    that its entries are sealed with, relative to this one; "" for the usual place.
    path: the file, for messages; "" where there is none.
    """

    mirrors: dict[str, str] = {}
    snapshots: dict[str, str] = {}
    remote: str = ""
    key: str = ""
    path: str = ""


def default_path(environ: Mapping[str, str]) -> Path:
    """Return where the configuration is: `MKROOT_CONFIG`, else the user's configuration folder (XDG)."""
    if named := environ.get("MKROOT_CONFIG"):
        return Path(named)
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(base) / "mkroot" / "config.toml"


def load(environ: Mapping[str, str]) -> Config:
    """Read the configuration; an empty one where there is no file. Raises RecipeError for a wrong one."""
    path = default_path(environ)
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if environ.get("MKROOT_CONFIG"):
            raise RecipeError("there is no such file, and `MKROOT_CONFIG` names it", where=str(path)) from None
        return Config()
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"the configuration cannot be read: {e}", where=str(path)) from None
    import tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise RecipeError(f"not TOML: {e}", where=str(path)) from None
    return _checked(data, str(path))


def _checked(data: dict[str, Any], where: str) -> Config:
    for section, entries in data.items():
        if section not in _SECTIONS:
            raise RecipeError(
                f"unknown section or key `{section}`",
                where=where,
                hint="known are `[mirrors]`, `[snapshots]` and `[store]`",
            )
        if not isinstance(entries, dict):
            raise RecipeError(f"`{section}` is a section, not a value", where=where)
        for name, value in entries.items():
            if section == "store" and name not in _STORE:
                raise RecipeError(
                    f"unknown key `store.{name}`", where=where, hint="known are `store.remote` and `store.key`"
                )
            if not isinstance(value, str):
                what = "a file's name" if (section, name) == ("store", "key") else "an address"
                raise RecipeError(f"`{section}.{name}` must be {what} in quotes", where=where)
    store = data.get("store", {})
    return Config(
        mirrors=data.get("mirrors", {}),
        snapshots=data.get("snapshots", {}),
        remote=store.get("remote", ""),
        key=store.get("key", ""),
        path=where,
    )
