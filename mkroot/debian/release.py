"""A suite's Release file and the package indices that it vouches for, as frozen values."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import msgspec

from mkroot.debian.deb822 import parse_strict
from mkroot.digest import is_sha256
from mkroot.errors import TrustError


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


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a Release file, read (Debian wiki, RepositoryFormat; apt-secure(8)).

    date, valid_until: seconds since 1970; valid_until is None where the field is missing.
    snapshots: the Snapshots field, "" where missing.
    files: what the SHA256 section vouches for: path relative to the Release → (hexadecimal digest, size in bytes).
    """

    origin: str = ""
    label: str = ""
    suite: str = ""
    codename: str = ""
    version: str = ""
    date: int
    valid_until: int | None = None
    acquire_by_hash: bool = False
    no_support_for_architecture_all: bool = False
    not_automatic: bool = False
    but_automatic_upgrades: bool = False
    components: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    snapshots: str = ""
    files: dict[str, tuple[str, int]]


def parse_release(text: str, where: str) -> Release:
    """Return what a Release file says; `text` is what its signature covers, `where` names it in messages.

    Raises TrustError for: no or more than one stanza, a field twice, a path twice in the SHA256 section or one that
    leaves the suite's folder, no SHA256 section, a Date that is missing or unreadable, an unreadable Valid-Until.
    """
    found = parse_strict(text, where, TrustError)
    if len(found) != 1:
        raise TrustError(f"a Release file is one stanza, this has {len(found)}", where=where)
    fields = {name: field.value for name, field in found[0].items()}
    if "sha256" not in fields:
        raise TrustError("the Release file has no SHA256 section, so it vouches for nothing", where=where)
    if "date" not in fields:
        raise TrustError("the Release file has no Date", where=where)
    return Release(
        origin=fields.get("origin", ""),
        label=fields.get("label", ""),
        suite=fields.get("suite", ""),
        codename=fields.get("codename", ""),
        version=fields.get("version", ""),
        date=_date(fields["date"], "Date", where),
        valid_until=_date(fields["valid-until"], "Valid-Until", where) if "valid-until" in fields else None,
        acquire_by_hash=_yes(fields.get("acquire-by-hash", "")),
        no_support_for_architecture_all=fields.get("no-support-for-architecture-all", "").strip() == "Packages",
        not_automatic=_yes(fields.get("notautomatic", "")),
        but_automatic_upgrades=_yes(fields.get("butautomaticupgrades", "")),
        components=tuple(fields.get("components", "").split()),
        architectures=tuple(fields.get("architectures", "").split()),
        snapshots=fields.get("snapshots", ""),
        files=_files(fields["sha256"], f"{where}:{found[0]['sha256'].line}"),
    )


def _yes(text: str) -> bool:
    return text.strip().lower() in ("yes", "true", "with", "on", "enable", "1")


_SIZE = re.compile(r"[0-9]{1,18}")


def _files(section: str, where: str) -> dict[str, tuple[str, int]]:
    files: dict[str, tuple[str, int]] = {}
    for line in section.split("\n"):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 3 or not is_sha256(parts[0]) or not _SIZE.fullmatch(parts[1]):
            raise TrustError(f"not a line of a SHA256 section: {line.strip()[:200]!r}", where=where)
        digest, size, path = parts
        if path.startswith("/") or ".." in path.split("/"):
            raise TrustError(f"the Release file lists a path outside its folder: {path[:200]!r}", where=where)
        if path in files:
            raise TrustError(f"the Release file lists `{path[:200]}` twice", where=where)
        files[path] = (digest, int(size))
    return files


_MONTHS = {"JanFebMarAprMayJunJulAugSepOctNovDec"[3 * n : 3 * n + 3]: n + 1 for n in range(12)}
_DATE = re.compile(
    r"(?:[A-Za-z]{3}, )?\s*(\d{1,2}) ([A-Z][a-z]{2}) (\d{4}) +(\d{1,2}):(\d{2}):(\d{2}) *(UTC|GMT|Z|[+-]0000)"
)


def _date(text: str, field: str, where: str) -> int:
    """Read a date as Release files have it: RFC 1123 form, UTC."""
    match = _DATE.fullmatch(text.strip())
    if match is not None and (month := _MONTHS.get(match[2])):
        day, year, hour, minute, second = (int(match[n]) for n in (1, 3, 4, 5, 6))
        try:
            moment = datetime.datetime(year, month, day, hour, minute, min(second, 59), tzinfo=datetime.UTC)
        except ValueError:
            pass
        else:
            return int(moment.timestamp())
    raise TrustError(f"the Release file's {field} cannot be read: {text[:100]!r}", where=where)
