"""Which relations between the packages of dpkg's database do not hold."""

from __future__ import annotations

from collections.abc import Sequence

from mkroot.debian.package import Package
from mkroot.debian.relation import Relation, clause_text

INSTALLED = ("installed", "triggers-pending", "triggers-awaited", "unpacked")


def present(status: bytes) -> list[Package]:
    """Return the packages that a status file says are there; raises PackageError."""
    from mkroot.debian.deb822 import stanzas

    found = [Package.parse(stanza) for stanza in stanzas(status)]
    return [p for p in found if p.fields.get("status", "").rpartition(" ")[2] in INSTALLED]


def unmet(packages: Sequence[Package]) -> set[str]:
    """Return a sentence for each relation that does not hold; raises PackageError."""
    named: dict[str, list[tuple[str, Package]]] = {}
    for p in packages:
        named.setdefault(p.name, []).append((p.version, p))
        for relation in (r for clause in p.provides for r in clause):
            named.setdefault(relation.name, []).append((relation.version, p))

    def holders(relation: Relation) -> list[Package]:
        return [p for version, p in named.get(relation.name, ()) if relation.accepts(version)]

    lines = set()
    for p in packages:
        for verb, field in (("depends on", "depends"), ("pre-depends on", "pre-depends")):
            for clause in p.relations(field):
                if not any(holders(r) for r in clause):
                    lines.add(f"{p.name} {p.version} {verb} {clause_text(clause)}, {_there(clause, named)}")
        for verb, field in (("conflicts with", "conflicts"), ("breaks", "breaks")):
            for relation in (r for clause in p.relations(field) for r in clause):
                lines |= {
                    f"{p.name} {p.version} {verb} {relation}, and {other.name} {other.version} is there"
                    for other in holders(relation)
                    if other.name != p.name
                }
    return lines


def _there(clause: Sequence[Relation], named: dict[str, list[tuple[str, Package]]]) -> str:
    found = sorted({f"{p.name} {p.version}" for r in clause for _, p in named.get(r.name, ())})
    return "and there is " + ", ".join(found[:5]) if found else "which is not there"
