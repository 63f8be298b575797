"""Telling a person why a request has no answer: who wants what, and where the wants collide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mkroot.errors import ResolutionError
from mkroot.resolve.graph import Dependency, Graph, Group, Node, Version
from mkroot.resolve.install import Want
from mkroot.resolve.order import node_id
from mkroot.resolve.search import Fact, Search

_VERB = {"pre-depends": "pre-depends on", "depends": "depends on", "conflicts": "conflicts with", "breaks": "breaks"}
_ALIKE = "; its other versions do as well"
_LINES = 60  # of a story; what comes after is counted


def no_answer(wishes: Sequence[Want]) -> ResolutionError:
    """Return the error for a search that was given up."""
    asked = sorted({w.detail for w in wishes if w.kind == "requested"})
    return ResolutionError(
        "no answer was found in reasonable time", hint="leave out one of " + ", ".join(f"`{a}`" for a in asked[:20])
    )


def tell(graph: Graph, search: Search, facts: Sequence[Fact]) -> ResolutionError:
    """Return the error for facts that collide. The same facts in any order give the same text."""
    return _Story(graph, search, facts).error()


class _Story:
    def __init__(self, graph: Graph, search: Search, facts: Sequence[Fact]) -> None:
        self._graph = graph
        self._search = search
        self._facts = facts
        self._hints: list[str] = []

    def error(self) -> ResolutionError:
        lines = self._chain()
        if len(lines) > _LINES:
            lines = [*lines[:_LINES], f"… and {len(lines) - _LINES} more"]
        requested, others = self._wishes()
        wishes = sorted((*requested, *others))
        what = "the packages cannot be installed together:"
        if len(wishes) == 1:
            what = f"`{wishes[0]}` cannot be installed:"
        if not self._hints:
            if requested:
                listed = ", ".join(f"`{w}`" for w in requested)
                self._hints.append(f"leave out one of {listed}" if len(requested) > 1 else f"leave out {listed}")
            if others and wishes != others:
                self._hints.append("put " + ", ".join(f"`{w}`" for w in others) + " into `packages.exclude`")
        return ResolutionError("\n  ".join([what, *lines]), hint="; or ".join(dict.fromkeys(self._hints)) or None)

    def _wishes(self) -> tuple[list[str], list[str]]:
        """Return what of the request collides: the includes as written, and the packages that the variant brings."""
        wants = [f.want for f in self._facts if f.want is not None and f.want.kind != "provided"]
        for fact in self._facts:
            for d in fact.group.alternatives if fact.kind == "needs" and fact.group is not None else ():
                fixing = [self._search.fixing(v.node) for v in self._graph.solutions(d) if not self._search.allowed(v)]
                wants += [w for w in fixing if w is not None and w.kind == "requested"]
        requested = {w.detail for w in wants if w.kind == "requested"}
        return sorted(requested), sorted({self._name(w.version.node) for w in wants if w.kind != "requested"})

    def _name(self, node: Node) -> str:
        return node_id(node, self._graph.request.architecture)

    def _label(self, version: Version) -> str:
        return f"{self._name(version.node)} {version.text}"

    def _chain(self) -> list[str]:
        """Return the facts as lines, each after the one that brings its package."""
        lines: list[str] = []
        reached: list[Version] = []
        wants = sorted((f for f in self._facts if f.kind == "want"), key=self._key)
        for fact in wants:
            assert fact.want is not None
            lines.append(self._want_line(fact.want))
            reached += [v for v in fact.want.version.node.versions if self._search.allowed(v)]
        pending = sorted((f for f in self._facts if f.kind == "needs"), key=self._key)
        told: dict[tuple[str, ...], int] = {}
        while pending:
            fact = next((f for f in pending if f.version in reached), pending[0])
            pending.remove(fact)
            assert fact.version is not None and fact.group is not None
            solutions = self._search.solutions(fact.group)
            reached += solutions
            self._once(lines, told, fact, partial(self._needs_line, fact.version, fact.group, solutions))
        for fact in sorted((f for f in self._facts if f.kind in ("against", "one")), key=self._key):
            self._once(lines, told, fact, partial(self._against_line, fact))
        return list(dict.fromkeys(lines))

    def _once(self, lines: list[str], told: dict[tuple[str, ...], int], fact: Fact, line: Callable[[], str]) -> None:
        """Add the line of a fact; of several versions with the same relation only the newest has one."""
        names = [self._name(v.node) for v in (fact.version, fact.other) if v is not None]
        relation = [d.relation.name for d in fact.group.alternatives] if fact.group is not None else []
        key = (fact.kind, *names, *relation)
        if key not in told:
            told[key] = len(lines)
            lines.append(line())
        elif not lines[told[key]].endswith(_ALIKE):
            lines[told[key]] += _ALIKE

    def _key(self, fact: Fact) -> tuple[object, ...]:
        """Sort by kind and name, newest versions first."""
        key: list[object] = [fact.kind]
        for version in (fact.version, fact.other):
            if version is not None:
                key += [self._name(version.node), version.node.versions.index(version)]
        if fact.want is not None:
            key += [fact.want.kind != "requested", self._name(fact.want.version.node)]
        return (*key, fact.group.text() if fact.group is not None else "")

    def _want_line(self, want: Want) -> str:
        name = self._name(want.version.node)
        asked = "requested" if want.kind == "requested" and want.detail == name else want.text()
        if not any(self._search.allowed(v) for v in want.version.node.versions):
            self._forbidden(want.version.node)
            return f"{name} is {asked}, but {self._why_forbidden(want.version.node)}"
        return f"{name} is {asked}"

    def _needs_line(self, version: Version, group: Group, solutions: Sequence[Version]) -> str:
        line = f"{self._label(version)} {_VERB[group.kind]} {group.text()}"
        if solutions:
            if len(solutions) > 1 or self._name(solutions[0].node) != group.alternatives[0].relation.name:
                line += ", that is " + " or ".join(sorted(self._label(v) for v in solutions)[:5])
            return line
        reasons = [self._missing(d) for d in group.alternatives]
        return f"{line}, but " + ", and ".join(dict.fromkeys(reasons))

    def _missing(self, d: Dependency) -> str:
        """Say why nothing satisfies one alternative."""
        fitting = self._graph.solutions(d)
        if fitting:
            nodes = sorted({v.node for v in fitting}, key=self._name)
            for node in nodes:
                self._forbidden(node)
            return ", ".join(self._why_forbidden(node) for node in nodes[:5])
        if d.target.versions:
            self._hints.append(f"add a suite or source that has {d.relation}")
            return f"{d.target.name} is there only as " + ", ".join(v.text for v in d.target.versions[:10])
        self._hints.append(f"add a component or source that has `{d.relation.name}`")
        return f"nothing called {d.relation.name} is in the indices"

    def _forbidden(self, node: Node) -> None:
        if node.name in self._graph.request.exclude:
            self._hints.append(f"take `{node.name}` out of `packages.exclude`")
        elif not any(self._graph.policy.priority(v) > 0 for v in node.versions):
            self._hints.append(f"change the pin of `{node.name}`")

    def _why_forbidden(self, node: Node) -> str:
        name = self._name(node)
        if node.name in self._graph.request.exclude:
            return f"{name} is excluded"
        fixed = self._search.fixing(node)
        if fixed is not None:
            return f"{self._label(fixed.version)} is {fixed.text()}"
        return f"a pin forbids {name}"

    def _against_line(self, fact: Fact) -> str:
        assert fact.version is not None and fact.other is not None
        if fact.kind == "one":
            pair = sorted((self._label(fact.version), self._label(fact.other)))
            return f"only one version can be installed of two: {pair[0]}, {pair[1]}"
        assert fact.group is not None
        line = f"{self._label(fact.version)} {_VERB[fact.group.kind]} {fact.group.text()}"
        relation = fact.group.alternatives[0].relation
        if relation.name != fact.other.node.name:
            line += f", which {self._label(fact.other)} provides"
        elif relation.op:
            line += f", and {self._label(fact.other)} is such a one"
        return line
