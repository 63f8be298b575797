"""A universe with a few packages more: those of a lock that no index has any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mkroot.debian.package import Package
from mkroot.debian.release import Index
from mkroot.resolve.universe import Universe


class Widened:
    """The packages of a universe, then the added ones; see Universe. An added one names an index as its origin."""

    def __init__(self, universe: Universe, added: Iterable[Package]) -> None:
        """Take the universe and what it lacks."""
        self._universe = universe
        self._added = tuple(added)

    @property
    def indices(self) -> Sequence[Index]:
        """See Universe."""
        return self._universe.indices

    def packages(self, name: str) -> Sequence[Package]:
        """See Universe."""
        return (*self._universe.packages(name), *(p for p in self._added if p.name == name))

    def providers(self, name: str) -> Sequence[Package]:
        """See Universe."""
        added = (p for p in self._added if any(r.name == name for clause in p.provides for r in clause))
        return (*self._universe.providers(name), *added)

    def marked(self) -> Sequence[str]:
        """See Universe."""
        added = (p.name for p in self._added if p.essential or p.protected or p.important)
        return list(dict.fromkeys((*self._universe.marked(), *added)))

    def of_priority(self, priority: str) -> Sequence[str]:
        """See Universe."""
        added = (p.name for p in self._added if p.priority == priority)
        return list(dict.fromkeys((*self._universe.of_priority(priority), *added)))

    def rank(self, name: str, architecture: str) -> tuple[int, int]:
        """See Universe; what only an added package mentions comes last."""
        return self._universe.rank(name, architecture)

    def names(self) -> Iterable[str]:
        """See Universe."""
        return dict.fromkeys((*self._universe.names(), *(p.name for p in self._added)))

    def mentioning(self, name: str) -> Sequence[Package]:
        """See Universe."""
        added = (p for p in self._added if any(name in value for value in p.fields.values()))
        return [*self._universe.mentioning(name), *added]
