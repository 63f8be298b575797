"""What resolution asks of the indices, and a small universe made of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from mkroot.debian.deb822 import stanzas
from mkroot.debian.package import Package
from mkroot.debian.release import Index
from mkroot.digest import sha256

MENTIONS = (
    "pre-depends",
    "depends",
    "conflicts",
    "breaks",
    "recommends",
    "suggests",
    "replaces",
    "enhances",
    "provides",
)
"""The fields that make apt know a name, in the order in which it reads them."""


class Universe(Protocol):
    """The packages of several indices, looked up by name. Every answer is in the indices' order, then the file's."""

    @property
    def indices(self) -> Sequence[Index]:
        """The indices in the order of the sources, which decides ties as in apt."""

    def packages(self, name: str) -> Sequence[Package]:
        """Return the stanzas of packages called `name`, of every architecture and version."""

    def providers(self, name: str) -> Sequence[Package]:
        """Return the stanzas whose Provides field names `name`."""

    def marked(self) -> Sequence[str]:
        """Return the names of the packages with a stanza that is Essential, Protected or Important."""

    def of_priority(self, priority: str) -> Sequence[str]:
        """Return the names with a stanza of that priority: required, important or standard."""

    def rank(self, name: str, architecture: str) -> tuple[int, int]:
        """Return when apt's cache first hears of a package: number of the index, place in it.

        Of alternatives that are equal otherwise apt takes the one heard of last (CompareProviders in depcache.cc).
        """

    def names(self) -> Iterable[str]:
        """Return the names of all packages, for suggestions; slow."""

    def mentioning(self, name: str) -> Sequence[Package]:
        """Return the stanzas in which `name` occurs anywhere, for explanations; slow."""


class TextUniverse:
    """A universe of a few stanzas, for tests and for packages that come without an index."""

    def __init__(self, texts: Iterable[tuple[Index, str]]) -> None:
        """Make it of pairs of an index and its Packages text; raises PackageError."""
        self.indices: list[Index] = []
        self._all: list[Package] = []
        self._named: dict[str, list[Package]] = {}
        self._provided: dict[str, dict[Package, None]] = {}
        self._ranks: dict[tuple[str, str], tuple[int, int]] = {}
        for number, (index, text) in enumerate(texts):
            self.indices.append(index)
            heard: dict[str, None] = {}
            for stanza in stanzas(text.encode("utf-8", "surrogateescape")):
                package = Package.parse(stanza, index)
                self._all.append(package)
                self._named.setdefault(package.name, []).append(package)
                for relation in (r for clause in package.provides for r in clause):
                    self._provided.setdefault(relation.name, {})[package] = None
                heard |= dict.fromkeys(mentioned(package))
            for place, name in enumerate(heard):
                self._ranks.setdefault((name, index.architecture), (number, place))

    @classmethod
    def of(cls, text: str, *, suite: str = "stable", architecture: str = "amd64") -> TextUniverse:
        """Make it of one text, as if from one index."""
        digest = sha256(text.encode("utf-8", "surrogateescape"))
        path = Path("Packages")
        index = Index(source="main", suite=suite, codename=suite, architecture=architecture, path=path, sha256=digest)
        return cls([(index, text)])

    def packages(self, name: str) -> Sequence[Package]:
        """See Universe."""
        return tuple(self._named.get(name, ()))

    def providers(self, name: str) -> Sequence[Package]:
        """See Universe."""
        return tuple(self._provided.get(name, ()))

    def marked(self) -> Sequence[str]:
        """See Universe."""
        return list(dict.fromkeys(p.name for p in self._all if p.essential or p.protected or p.important))

    def of_priority(self, priority: str) -> Sequence[str]:
        """See Universe."""
        return list(dict.fromkeys(p.name for p in self._all if p.priority == priority))

    def rank(self, name: str, architecture: str) -> tuple[int, int]:
        """See Universe."""
        nowhere = (len(self.indices), 0)
        return min(self._ranks.get((name, architecture), nowhere), self._ranks.get((name, "all"), nowhere))

    def names(self) -> Iterable[str]:
        """See Universe."""
        return dict.fromkeys(p.name for p in self._all)

    def mentioning(self, name: str) -> Sequence[Package]:
        """See Universe."""
        return [p for p in self._all if any(name in value for value in p.fields.values())]


def mentioned(package: Package) -> Iterable[str]:
    """Yield the names that reading `package` makes known, in apt's order."""
    yield package.name
    for field in MENTIONS:
        for clause in package.relations(field):
            for relation in clause:
                qualifier = f":{relation.arch_qualifier}" if relation.arch_qualifier else ""
                yield relation.name + qualifier
