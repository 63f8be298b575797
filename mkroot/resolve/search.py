"""An exact search for an answer where apt's heuristics find none, and the clauses that collide where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mkroot.resolve.graph import Graph, Group, Node, Version
from mkroot.resolve.install import Want
from mkroot.resolve.marker import Marker
from mkroot.resolve.sat import Literal, OutOfSteps, Solver, Unsatisfiable

_MINIMISE = 400  # clauses; a larger core is told as it is


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One clause in terms of packages.

    kind: "want" | "needs" | "against" | "one".
    want: the wish. version, group: whose relation. other: the second of two that exclude each other.
    node: of a "want" that may be fulfilled by any of its versions.
    """

    kind: str
    want: Want | None = None
    version: Version | None = None
    group: Group | None = None
    other: Version | None = None


class Collision(Exception):
    """The request has no answer; `facts` collide, and none of them can be left out."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self.facts = tuple(facts)
        super().__init__(f"{len(facts)} facts collide")


class Search:
    """The request as clauses over versions."""

    def __init__(self, graph: Graph, wishes: Sequence[Want], *, all_versions: bool) -> None:
        """Collect everything that the wishes can reach; `all_versions`: not only the candidates."""
        self._graph = graph
        self._wishes = wishes
        self._all = all_versions
        self._fixed: dict[Node, Want] = {}
        for want in wishes:
            if want.fixed:
                self._fixed.setdefault(want.version.node, want)
        self._number: dict[Version, int] = {}
        self._versions: list[Version] = []
        self._facts: list[Fact] = []
        self._clauses: list[list[Literal]] = []
        self._marker = Marker(graph, False)
        self._collect()

    def allowed(self, version: Version) -> bool:
        """Tell whether a version may be installed at all."""
        node = version.node
        if (fixed := self._fixed.get(node)) is not None:
            return version is fixed.version
        if node.name in self._graph.request.exclude:
            return False
        if node.candidate is version or node.there is version:
            return True
        return self._all and node.there is None and self._graph.policy.priority(version) > 0

    def fixing(self, node: Node) -> Want | None:
        """Return the wish that allows one version of a node only."""
        return self._fixed.get(node)

    def solutions(self, group: Group) -> list[Version]:
        """Return what may satisfy a clause, best first: what is there, candidates as apt has them, then new to old."""
        found = [v for v in self._marker.solutions(group) if self.allowed(v)]
        for d in group.alternatives:
            found += [v for v in self._graph.solutions(d) if self.allowed(v)]
        return sorted(dict.fromkeys(found), key=lambda v: v.node.there is not v)

    def _options(self, want: Want) -> list[Version]:
        node = want.version.node
        return [v for v in dict.fromkeys([want.version, *node.versions]) if self.allowed(v)]

    def _var(self, version: Version) -> int:
        number = self._number.get(version)
        if number is None:
            self._versions.append(version)
            number = self._number[version] = len(self._versions)
        return number

    def _add(self, literals: Iterable[Literal], fact: Fact) -> None:
        self._clauses.append(list(literals))
        self._facts.append(fact)

    def _collect(self) -> None:
        for want in self._wishes:
            self._add([self._var(v) for v in self._options(want)], Fact(kind="want", want=want))
        done = 0
        against: list[tuple[Version, Group]] = []
        while done < len(self._versions):
            version = self._versions[done]
            done += 1
            for group in self._graph.groups(version):
                if group.negative:
                    against.append((version, group))
                elif group.critical:
                    literals = [-self._number[version], *(self._var(v) for v in self.solutions(group))]
                    self._add(literals, Fact(kind="needs", version=version, group=group))
        for version, group in against:
            for other in self._graph.solutions(group.alternatives[0]):
                if other in self._number and other is not version:
                    fact = Fact(kind="against", version=version, group=group, other=other)
                    self._add([-self._number[version], -self._number[other]], fact)
        self._only_one()

    def _only_one(self) -> None:
        by_node: dict[Node, list[Version]] = {}
        for version in self._versions:
            by_node.setdefault(version.node, []).append(version)
        for versions in by_node.values():
            for n, version in enumerate(versions):
                for other in versions[:n]:
                    fact = Fact(kind="one", version=version, other=other)
                    self._add([-self._number[version], -self._number[other]], fact)

    def run(self) -> list[Version]:
        """Return the versions of an answer; raises Collision, OutOfSteps."""
        try:
            chosen = self._solve(range(len(self._clauses)))
        except Unsatisfiable as e:
            raise Collision([self._facts[n] for n in self._minimal(sorted(e.tags))]) from None
        return [self._versions[n - 1] for n in sorted(chosen)]

    def _solve(self, numbers: Iterable[int]) -> set[int]:
        solver = Solver()
        wanted: dict[int, list[list[int]]] = {}
        roots: list[list[int]] = []
        for n in numbers:
            clause = self._clauses[n]
            solver.add(clause, n)
            if self._facts[n].kind == "want":
                roots.append(clause)
            elif self._facts[n].kind == "needs":
                wanted.setdefault(-clause[0], []).append(clause[1:])
        return solver.solve(lambda s: _next(s, roots, wanted))

    def _minimal(self, core: list[int]) -> list[int]:
        """Return a part of `core` of which no clause can be left out."""
        if len(core) > _MINIMISE:
            return core
        for n in list(core):
            rest = [m for m in core if m != n]
            try:
                self._solve(rest)
            except Unsatisfiable as e:
                core = [m for m in rest if m in e.tags]
            except OutOfSteps:
                return core
        return core


def _next(solver: Solver, roots: list[list[int]], wanted: dict[int, list[list[int]]]) -> int | None:
    """Return the best open solution of the first clause that is not fulfilled, walking from the wishes."""
    value = solver.value
    seen: set[int] = set()
    stack = list(reversed(roots))
    while stack:
        clause = stack.pop()
        held = next((n for n in clause if value.get(n) is True), None)
        if held is None:
            return next(n for n in clause if value.get(n) is None)
        if held not in seen:
            seen.add(held)
            stack.extend(reversed(wanted.get(held, ())))
    return None


def apply(graph: Graph, versions: Sequence[Version]) -> None:
    """Mark exactly these versions, keeping of them what the wishes reach (the solver may leave a few idle ones)."""
    for node in graph.nodes.values():
        node.install, node.chosen, node.auto, node.protected = False, None, True, False
    for version in versions:
        version.node.install, version.node.chosen, version.node.candidate = True, version, version
