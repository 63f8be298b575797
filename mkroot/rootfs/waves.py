"""In which groups packages are unpacked and configured, so that each preinst runs where dpkg would run it.

A package's Pre-Depends must be configured before it is unpacked (Policy 7.2); everything else may be unpacked together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mkroot.debian.relation import parse_relations
from mkroot.store.layer import Layer
from mkroot.store.unpack import control_fields


def waves(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Return the layers in groups, each in the order given; a group's Pre-Depends are in the groups before it.

    Where packages pre-depend on each other in a circle they go together, as dpkg does under force.
    """
    fields = [control_fields(layer.control["control"]) for layer in layers]
    providers: dict[str, list[int]] = {}
    for i, f in enumerate(fields):
        for name in [f["package"], *(r.name for clause in parse_relations(f.get("provides", "")) for r in clause)]:
            providers.setdefault(name, []).append(i)

    def wanted(i: int, *names: str) -> set[int]:
        clauses = [c for n in names for c in parse_relations(fields[i].get(n, ""))]
        return {j for clause in clauses for r in clause for j in providers.get(r.name, ()) if j != i}

    pre = [wanted(i, "pre-depends") for i in range(len(layers))]
    every = [wanted(i, "pre-depends", "depends") for i in range(len(layers))]
    left = set(range(len(layers)))
    found: list[list[Layer]] = []
    while left:
        group = left
        while True:
            needed = _closure({j for i in group for j in pre[i]} & group, every) & group
            if not needed or needed == group:
                break
            group = needed
        found.append([layers[i] for i in sorted(group)])
        left = left - group
    return found


def _closure(start: Iterable[int], edges: Sequence[set[int]]) -> set[int]:
    todo, seen = list(start), set(start)
    while todo:
        for j in edges[todo.pop()]:
            if j not in seen:
                seen.add(j)
                todo.append(j)
    return seen
