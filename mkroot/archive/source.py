"""The sources of a build: which suites of which archives, checked by which keys."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from mkroot.archive.address import Address, parse
from mkroot.archive.config import Config
from mkroot.archive.keyring import Keyring
from mkroot.archive.mirror import SECURITY, Mirror
from mkroot.errors import MirrorError, RecipeError

SNAPSHOT_MARKS = ("@SNAPSHOTID@", "{snapshot}")  # of a Release's Snapshots field, and of the configuration
_SNAPSHOT = re.compile(r"\d{8}T\d{6}Z")
# Debian suites that have no updates and no security pocket: what is new in them goes straight in.
_ROLLING = ("sid", "unstable", "experimental", "rc-buggy")


class SuiteSource(msgspec.Struct, frozen=True, kw_only=True):
    """One suite of an archive.

    name: as asked for: "trixie-security"; with a trailing slash it is a folder of a flat archive.
    base: what its packages' paths start with in a lock when they are in a sibling of the source's archive; "" else.
    """

    name: str
    archive: Address
    base: str = ""

    @property
    def flat(self) -> bool:
        """Whether the indices stand beside the Release, without components (sources.list(5), exact path)."""
        return self.name.endswith("/")

    @property
    def address(self) -> Address:
        """The folder that has the Release file."""
        if not self.flat:
            return self.archive.join(f"dists/{self.name}")
        return self.archive if self.name in ("/", "./") else self.archive.join(self.name)


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that packages may come from.

    id: the distribution's name, or the id that the recipe gives.
    keyring: who may sign; None for a source that the recipe calls `trusted: true`.
    snapshot: "20261101T000000Z" when the source is a dated copy, whose Valid-Until has passed by its nature.
    """

    id: str
    suites: tuple[SuiteSource, ...]
    components: tuple[str, ...]
    architectures: tuple[str, ...]
    keyring: Keyring | None
    snapshot: str = ""

    def locate(self, path: str) -> Address:
        """Return the address of a package by its path in the lock (`Index.base` and `Filename` joined).

        Raises MirrorError for a path that leaves the archive.
        """
        for suite in self.suites:
            if suite.base and path.startswith(suite.base):
                return suite.archive.join(path.removeprefix(suite.base))
        plain = next((s for s in self.suites if not s.base), None)
        if plain is None:
            raise MirrorError(f"no archive of the source `{self.id}` has `{path[:200]}`")
        return plain.archive.join(path)


def distribution(
    distro: str,
    suite: str,
    *,
    mirror: Mirror,
    keyring: Keyring,
    architectures: Sequence[str],
    pockets: Sequence[str] = ("updates", "security"),
    components: Sequence[str] = ("main",),
) -> Source:
    """Return the source that a recipe's `distro`, `suite`, `pockets` and `components` mean."""
    suites = [SuiteSource(name=suite, archive=mirror.archive)]
    if distro == "debian" and suite in _ROLLING:
        pockets = ()
    for pocket in pockets:
        if pocket == "security" and mirror.security is not None:
            suites.append(SuiteSource(name=f"{suite}-{pocket}", archive=mirror.security, base=f"{SECURITY}/"))
        else:
            suites.append(SuiteSource(name=f"{suite}-{pocket}", archive=mirror.archive))
    return Source(
        id=distro,
        suites=tuple(suites),
        components=tuple(components),
        architectures=tuple(architectures),
        keyring=keyring,
    )


def check_snapshot(snapshot: str, where: str) -> None:
    """Raise RecipeError unless `snapshot` is a date as snapshot services take it."""
    if not _SNAPSHOT.fullmatch(snapshot):
        raise RecipeError(f"not a snapshot: {snapshot!r}", where=where, hint="write it as `20261101T000000Z`")


def at_snapshot(source: Source, snapshot: str, templates: Sequence[tuple[SuiteSource, str]]) -> Source:
    """Return `source` with every suite taken from the dated copy; `templates` gives each suite's address pattern.

    A snapshot pins every pocket: raises MirrorError when one has no pattern, for a live pocket beside dated ones
    would undo the pin.
    """
    patterns = {suite.name: pattern for suite, pattern in templates}
    suites: list[SuiteSource] = []
    for suite in source.suites:
        pattern = patterns.get(suite.name, "")
        archive = archive_name(source, suite)
        if not any(mark in pattern for mark in SNAPSHOT_MARKS):
            raise MirrorError(
                f"no snapshots of `{archive}` are known, and a snapshot pins every pocket (`{suite.name}` too)",
                hint=f'set `{archive} = "http://…/{{snapshot}}"` under `[snapshots]` in `config.toml`',
            )
        text = pattern.replace("{archive}", archive)
        for mark in SNAPSHOT_MARKS:
            text = text.replace(mark, snapshot)
        suites.append(msgspec.structs.replace(suite, archive=parse(text, "`[snapshots]`")))
    return msgspec.structs.replace(source, suites=tuple(suites), snapshot=snapshot)


def archive_name(source: Source, suite: SuiteSource) -> str:
    """Return the name that configuration has for a suite's archive: "debian", "debian-security", "ubuntu"."""
    return suite.base.rstrip("/") or source.id


def configured_template(source: Source, suite: SuiteSource, config: Config) -> str:
    """Return the pattern of a suite's snapshots from the configuration, "" where there is none that fits."""
    archive = archive_name(source, suite)
    if found := config.snapshots.get(archive):
        return found
    general = config.snapshots.get(source.id, "")
    return general if "{archive}" in general else ""
