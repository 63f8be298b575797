"""Relationship fields: Depends, Conflicts, Provides and their kin."""

from __future__ import annotations

import functools
import re

import msgspec

from mkroot.debian.version import version_key
from mkroot.errors import PackageError

_RELATION = re.compile(  # blanks possessively: three runs of them side by side would be tried in every division
    r"\s*+([A-Za-z0-9][A-Za-z0-9+._-]*+)(?::([a-z0-9][a-z0-9-]*+))?"
    r"\s*+(?:\(\s*+(<<|<=|=|>=|>>|<|>)\s*+([^\s()<>=][^\s()]*+)\s*+\)\s*+)?"
    r"(?:\[([^\]]*+)\]\s*+)?((?:<[^<>]*+>\s*+)*+)"
)
_OBSOLETE = {"<": "<=", ">": ">="}  # Policy 7.1: what the old single signs mean


class Relation(msgspec.Struct, frozen=True, gc=False):
    """One alternative of a relationship (Policy 7.1).

    name: the package asked for.
    arch_qualifier: "" | "any" | "native" | an architecture.
    op: "" | "<<" | "<=" | "=" | ">=" | ">>".
    version: what `op` compares with, "" without one.
    """

    name: str
    arch_qualifier: str = ""
    op: str = ""
    version: str = ""

    def __str__(self) -> str:
        qualifier = f":{self.arch_qualifier}" if self.arch_qualifier else ""
        return f"{self.name}{qualifier} ({self.op} {self.version})" if self.op else self.name + qualifier

    def accepts(self, version: str) -> bool:
        """Tell whether a package of `version` satisfies this relation; "" (a Provides without one) only where no
        version is asked for."""
        return satisfies(version, self.op, self.version)


Clause = tuple[Relation, ...]


def satisfies(have: str, op: str, want: str) -> bool:
    """Tell whether version `have` stands in relation `op` to `want`; without `op` always."""
    if not op:
        return True
    if not have:
        return False
    if have == want:
        return op in ("=", "<=", ">=")
    left, right = version_key(have), version_key(want)
    if op == ">=":
        return left >= right
    if op == "=":
        return left == right
    if op == "<<":
        return left < right
    if op == "<=":
        return left <= right
    return left > right


def clause_text(clause: Clause) -> str:
    """Return a clause as it stands in a control file: `a (>= 1) | b`."""
    return " | ".join(map(str, clause))


@functools.lru_cache(maxsize=1 << 16)
def parse_clause(text: str, architecture: str = "") -> Clause:
    """Return the alternatives of `a (>= 1) | b`; raises PackageError.

    Bracketed architecture lists (legal in source packages and templates, Policy 7.1) are read: an alternative that is
    not for `architecture` is left out, all stay where `architecture` is "".
    """
    found = []
    for part in text.split("|"):
        match = _RELATION.fullmatch(part)
        if match is None:
            raise PackageError(f"not a package relation: {part.strip()[:200]!r}")
        name, qualifier, op, version, architectures, _ = match.groups()
        if architectures is not None and architecture and not _applies(architectures.split(), architecture):
            continue
        found.append(Relation(name, qualifier or "", _OBSOLETE.get(op, op) or "", version or ""))
    return tuple(found)


def _applies(listed: list[str], architecture: str) -> bool:
    negative = [one[1:] for one in listed if one.startswith("!")]
    if negative:
        return architecture not in negative and "any" not in negative
    return architecture in listed or "any" in listed or f"any-{architecture}" in listed or "linux-any" in listed


@functools.lru_cache(maxsize=1 << 14)
def parse_relations(text: str, architecture: str = "") -> tuple[Clause, ...]:
    """Return the clauses of a relationship field, all of which must hold, empty parts skipped; raises PackageError."""
    parts = (part for part in text.split(",") if part and not part.isspace())
    return tuple(clause for part in parts if (clause := parse_clause(part, architecture)))
