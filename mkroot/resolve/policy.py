"""Which version of a package is the candidate (apt_preferences(5), pkgPolicy)."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mkroot.debian.package import Package
from mkroot.debian.release import Index
from mkroot.resolve.request import Pin, Request, matches_version

if TYPE_CHECKING:
    from mkroot.resolve.graph import Version

LOCKED = 1100  # priority of a version that the lock names


class Policy:
    """The pins of a request, applied."""

    def __init__(self, request: Request) -> None:
        self._general = [pin for pin in request.pins if pin.package == "*" and not pin.version]
        self._specific = [pin for pin in request.pins if not (pin.package == "*" and not pin.version)]
        self._native = request.architecture
        self._locked = {(name, architecture): version for name, architecture, version in request.locked}
        self._files: dict[Index, int] = {}

    def candidate(self, versions: Sequence[Version]) -> Version | None:
        """Return the version of the highest priority; of equal ones the newest. Below 1 there is none.

        `versions` are sorted, newest first.
        """
        best, priority = None, 0
        for version in versions:
            found = self.priority(version)
            if found > priority:
                best, priority = version, found
        return best

    def priority(self, version: Version) -> int:
        """Return the priority of a version: of its own pin, else the highest of its indices."""
        if self.locked(version):
            return LOCKED
        package = version.package
        for pin in self._specific:
            if self._names(pin, package) and any(pin.covers(p.origin) for p in version.packages):
                return pin.priority
        return max(self._of_file(p.origin) for p in version.packages)

    def locked(self, version: Version) -> bool:
        """Tell whether the request's lock names this version."""
        package = version.package
        return bool(self._locked) and self._locked.get((package.name, package.architecture)) == package.version

    def _names(self, pin: Pin, package: Package) -> bool:
        name, pattern = package.name, pin.package
        if pattern.startswith("src:"):
            name, pattern = package.source, pattern[4:]
        pattern, _, architecture = pattern.partition(":")
        if architecture not in ("", "any", package.architecture) and package.architecture != "all":
            return False
        if not architecture and package.architecture not in (self._native, "all"):
            return False
        if pattern != name and not fnmatch.fnmatchcase(name, pattern):
            return False
        return not pin.version or matches_version(package.version, pin.version)

    def _of_file(self, index: Index | None) -> int:
        if index is None:
            return 500
        known = self._files.get(index)
        if known is None:
            known = 100 if index.but_automatic_upgrades else 1 if index.not_automatic else 500
            for pin in self._general:
                if pin.covers(index):
                    known = pin.priority
                    break
            self._files[index] = known
        return known
