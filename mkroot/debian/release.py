"""A suite's Release file and the package indices that it vouches for, as frozen values."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """One verified `Packages` index: a component of a suite for one architecture, and what pins may ask of it.

    source: id of the source in the recipe ("ubuntu", "debian", or a further source's id).
    suite: the name that was asked for ("noble-updates"), as it stands in the lock.
    codename, origin, label, version: the Release file's fields, "" where it has none.
    release_suite: the Release file's own Suite ("stable-security"), "" where it has none.
    component: as apt names it for pins, without a prefix that is no part of the path ("main").
    architecture: the architecture whose list this is ("amd64", "all").
    date: the Release's Date, seconds since 1970.
    path: the uncompressed Packages file, verified, on disk.
    sha256: of the uncompressed text, hexadecimal.
    size: of the uncompressed text, bytes.
    site: host of the source, for pins by `origin "host"`; never written into a lock.
    base: prefix of `Filename` in the lock where the index lives in a sibling of the mirror ("" else).
    trusted: signed, or `trusted: true` in the recipe.
    not_automatic, but_automatic_upgrades: the Release's fields (default priorities 1 and 100, apt_preferences(5)).
    """

    source: str
    suite: str
    codename: str = ""
    release_suite: str = ""
    component: str = "main"
    architecture: str
    origin: str = ""
    label: str = ""
    version: str = ""
    date: int = 0
    path: Path
    sha256: str
    size: int = 0
    site: str = ""
    base: str = ""
    trusted: bool = True
    not_automatic: bool = False
    but_automatic_upgrades: bool = False
