"""What is asked of the resolver."""

from __future__ import annotations

import fnmatch
import re

import msgspec

from mkroot.debian.package import Package
from mkroot.debian.release import Index
from mkroot.errors import ResolutionError

VARIANTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "extract": (),
    "custom": (),
    "essential": (),
    "apt": (),
    "required": ("required",),
    "minbase": ("required",),
    "buildd": ("required",),
    "important": ("required", "important"),
    "debootstrap": ("required", "important"),
    "-": ("required", "important"),
    "standard": ("required", "important", "standard"),
}
"""The priorities that each variant takes (mmdebstrap(1), VARIANTS); all but the first three take the Essential too."""

BARE = frozenset(("none", "extract", "custom"))  # take nothing by themselves
VARIANT_PACKAGES = {"apt": ("apt",), "buildd": ("build-essential",)}
MERGED_USR = (("usr-is-merged", "usrmerge"),)  # mkroot makes the merged /usr itself, so nothing has to convert it

_SELECTOR = re.compile(r"([A-Za-z0-9][A-Za-z0-9+.-]*)(?::([a-z0-9][a-z0-9-]*))?(?:=(\S+)|/([^\s/=]+))?")


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """A preference as in apt_preferences(5). The conditions that are not "" must all hold.

    package: a name, a glob, `src:NAME`, or "*" for the general form.
    source: id of a source; suite: its suite, codename or release version; site: host; version: exact or a glob.
    priority: above 1000 wins over everything, below 0 forbids the version.
    """

    package: str = "*"
    source: str = ""
    suite: str = ""
    site: str = ""
    version: str = ""
    priority: int

    def covers(self, index: Index | None) -> bool:
        """Tell whether the pin speaks of packages of this index; of a local package only without such conditions."""
        if index is None:
            return not (self.source or self.suite or self.site)
        return (
            (not self.source or self.source == index.source)
            and (not self.suite or in_suite(index, self.suite))
            and (not self.site or fnmatch.fnmatchcase(index.site, self.site))
        )


class Selector(msgspec.Struct, frozen=True, kw_only=True):
    """One item of `include`: `name`, `name:arch`, `name=version`, `name=8.*`, `name/suite`."""

    text: str
    name: str
    architecture: str = ""
    version: str = ""
    suite: str = ""

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read `text`; raises ResolutionError."""
        match = _SELECTOR.fullmatch(text)
        if match is None:
            raise ResolutionError(
                f"not a package selection: {text[:200]!r}",
                hint="write `name`, `name:arch`, `name=version`, `name=8.*` or `name/suite`",
            )
        name, architecture, version, suite = match.groups()
        return cls(text=text, name=name, architecture=architecture or "", version=version or "", suite=suite or "")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides a resolution beside the indices.

    architecture: of the root; foreign: further architectures, in order of preference.
    suite: the release whose packages make the variant ("" = every index).
    variant: a key of VARIANTS. include: selections as in the recipe, in its order. local: .deb files, parsed.
    provided: packages that are there already, as a parent image's dpkg status has them: they satisfy what needs them,
    stay in their versions, and are no part of the answer. upgrades: they may give way to newer versions where something
    needs that or `include` names them; what takes their place is part of the answer.
    exclude: names that must not be installed. recommends: install recommended packages.
    pins: as in apt_preferences(5), the first that fits counts.
    prefer: pairs (a, b): in an alternative of both, `a` is taken first.
    locked: (name, architecture, version) that are kept where they exist still.
    """

    architecture: str
    foreign: tuple[str, ...] = ()
    suite: str = ""
    variant: str = "minbase"
    include: tuple[str, ...] = ()
    local: tuple[Package, ...] = ()
    provided: tuple[Package, ...] = ()
    upgrades: bool = False
    exclude: tuple[str, ...] = ()
    recommends: bool = False
    pins: tuple[Pin, ...] = ()
    prefer: tuple[tuple[str, str], ...] = MERGED_USR
    locked: tuple[tuple[str, str, str], ...] = ()


def in_suite(index: Index, name: str) -> bool:
    """Tell whether `name` (may be a glob) is the index's suite, codename or release version, as apt's `/` reads it."""
    known = (index.suite, index.release_suite, index.codename, index.version)
    return any(one and fnmatch.fnmatchcase(one, name) for one in known)


def matches_version(version: str, pattern: str) -> bool:
    """Tell whether `version` is what `=pattern` asks for: exact, a prefix with `*`, or a glob (apt-get(8))."""
    if version == pattern:
        return True
    return any(c in pattern for c in "*?[") and fnmatch.fnmatchcase(version, pattern)
