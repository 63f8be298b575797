"""Resolver cases from files: the stanzas, the request, what is expected. See tests/cases/resolve/README.md."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mkroot.debian.deb822 import parse_strict
from mkroot.debian.package import Package
from mkroot.debian.release import Index
from mkroot.resolve.request import MERGED_USR, Pin, Request
from mkroot.resolve.universe import TextUniverse

FOLDER = Path(__file__).parent / "cases" / "resolve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file."""

    name: str
    request: Request
    suites: tuple[str, ...]
    not_automatic: tuple[str, ...]
    stanzas: tuple[tuple[str, str, str], ...]  # suite, architecture, text
    expect: frozenset[tuple[str, str]] | None
    errors: tuple[str, ...]
    apt: str
    permute: bool

    def texts(self, stanzas: Iterable[tuple[str, str, str]]) -> list[tuple[Index, str]]:
        """Return the indices and their texts."""
        found = []
        stanzas = list(stanzas)
        for suite in self.suites:
            for architecture in (self.request.architecture, *self.request.foreign):
                text = "\n".join(t for s, a, t in stanzas if s == suite and a in (architecture, "all"))
                index = Index(
                    source="main",
                    suite=suite,
                    codename=suite,
                    architecture=architecture,
                    path=Path(f"{suite}-{architecture}"),
                    sha256=hashlib.sha256(text.encode()).hexdigest(),
                    not_automatic=suite in self.not_automatic,
                )
                found.append((index, text))
        return found

    def universe(self, shuffle: int | None = None) -> TextUniverse:
        """Return the case's universe; with a number, its stanzas in another order."""
        stanzas = list(self.stanzas)
        if shuffle is not None:
            random.Random(shuffle).shuffle(stanzas)
        return TextUniverse(self.texts(stanzas))


def read(path: Path) -> Case:
    """Read one file."""
    head, *packages = ({n: f.value for n, f in s.items()} for s in parse_strict(path.read_text(), path.name))
    suites = tuple(head.get("suites", "stable").split())
    known = "architecture foreign variant include exclude recommends suites notautomatic pins expect error apt permute"
    assert head.keys() <= set(known.split()), path
    request = Request(
        architecture=head.get("architecture", "amd64"),
        foreign=tuple(head.get("foreign", "").split()),
        variant=head.get("variant", "none"),
        include=_listed(head.get("include", "")),
        exclude=_listed(head.get("exclude", "")),
        recommends=head.get("recommends") == "yes",
        pins=tuple(_pin(line) for line in head.get("pins", "").splitlines()),
        prefer=MERGED_USR,
    )
    expect = frozenset((w.split()[0], w.split()[1]) for w in _listed(head["expect"])) if "expect" in head else None
    return Case(
        name=path.stem,
        request=request,
        suites=suites,
        not_automatic=tuple(head.get("notautomatic", "").split()),
        stanzas=tuple(_stanza(p, suites[0]) for p in packages),
        expect=expect,
        errors=tuple(line.strip() for line in head.get("error", "").splitlines()),
        apt=head.get("apt", "same"),
        permute=head.get("permute") != "no",
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pin(line: str) -> Pin:
    values = dict(word.split("=", 1) for word in line.split())
    return Pin(
        package=values.get("package", "*"),
        suite=values.get("suite", ""),
        version=values.get("version", ""),
        priority=int(values["priority"]),
    )


def _stanza(fields: dict[str, str], suite: str) -> tuple[str, str, str]:
    fields = dict(fields)
    suite = fields.pop("index", suite)
    name, version = fields["package"], fields.setdefault("version", "1")
    architecture = fields.setdefault("architecture", "amd64")
    fields.setdefault("priority", "optional")
    fields.setdefault("size", "1000")
    fields.setdefault("filename", f"pool/{name}_{version}_{architecture}.deb")
    fields.setdefault("sha256", hashlib.sha256(f"{name} {version} {architecture}".encode()).hexdigest())
    fields.setdefault("description", "a case")
    return suite, architecture, "".join(f"{n.title().replace('Sha', 'SHA')}: {v}\n" for n, v in fields.items())


def cases() -> list[Case]:
    """Return every case."""
    return [read(path) for path in sorted(FOLDER.glob("*.case"))]


class Shuffled:
    """A universe whose answers come in another order, as another reader of the same indices might give them."""

    def __init__(self, universe: TextUniverse, seed: int) -> None:
        self._universe = universe
        self._random = random.Random(seed)
        self.indices = universe.indices

    def _mix(self, items: Iterable[object]) -> list[object]:
        mixed = list(items)
        self._random.shuffle(mixed)
        return mixed

    def packages(self, name: str) -> Sequence[Package]:
        return self._mix(self._universe.packages(name))  # type: ignore[return-value]

    def providers(self, name: str) -> Sequence[Package]:
        return self._mix(self._universe.providers(name))  # type: ignore[return-value]

    def marked(self) -> Sequence[str]:
        return self._mix(self._universe.marked())  # type: ignore[return-value]

    def of_priority(self, priority: str) -> Sequence[str]:
        return self._mix(self._universe.of_priority(priority))  # type: ignore[return-value]

    def rank(self, name: str, architecture: str) -> tuple[int, int]:
        return self._universe.rank(name, architecture)

    def names(self) -> Iterable[str]:
        return self._mix(self._universe.names())  # type: ignore[return-value]

    def mentioning(self, name: str) -> Sequence[Package]:
        return self._mix(self._universe.mentioning(name))  # type: ignore[return-value]
