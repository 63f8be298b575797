"""From marked nodes to the answer: order of configuration, stages and reasons."""

from __future__ import annotations

from collections.abc import Sequence

from mkroot.resolve.graph import Graph, Node, Version
from mkroot.resolve.install import Want, deep, source_of
from mkroot.resolve.request import Request
from mkroot.resolve.resolution import Link, Reason, Resolution, Resolved

_STAGE = {"essential": "essential", "priority": "variant", "variant": "variant", "requested": "include"}


def node_id(node: Node, native: str) -> str:
    """Return the name by which messages and locks know a node."""
    return node.name if node.architecture == native else f"{node.name}:{node.architecture}"


class _Walk:
    """One depth-first walk over the chosen versions: what a package needs comes before it."""

    def __init__(self, graph: Graph, request: Request, provided: frozenset[Version]) -> None:
        self._graph = graph
        self._provided = provided
        self._native = request.architecture
        self._seen: set[Version] = set()
        self.order: list[Version] = []
        self.stage: dict[Version, str] = {}
        self.why: dict[Version, Reason] = {}
        self.links: list[Link] = []
        self._soft: list[tuple[Version, Version, Reason]] = []

    def visit(self, version: Version, why: Reason, stage: str) -> None:
        if version in self._seen:
            return
        self._seen.add(version)
        self.why[version] = why
        by = node_id(version.node, self._native)
        for group in self._graph.groups(version):
            if group.negative:
                continue
            targets = [v for d in group.alternatives for v in self._graph.solutions(d) if v.node.chosen is v]
            if not self._provided.isdisjoint(targets):
                continue
            for target in dict.fromkeys(targets):
                reason = Reason(kind=group.kind, by=by, relation=group.text())
                self.links.append(Link(by, group.kind, reason.relation, node_id(target.node, self._native)))
                self._soft.append((version, target, reason))
            if group.critical and targets and not self._seen.intersection(targets):
                # The first alternative is enough. Another one that is there too is there for a reason of its own, and
                # must not draw its dependencies into an earlier stage than that reason.
                self.visit(targets[0], Reason(kind=group.kind, by=by, relation=group.text()), stage)
        self.stage[version] = stage
        self.order.append(version)

    def visit_rest(self, stage: str) -> None:
        """Visit what is only recommended by what was visited so far, or a further alternative."""
        while self._soft:
            pending, self._soft = self._soft, []
            for _, target, reason in pending:
                self.visit(target, reason, stage)


def arrange(graph: Graph, request: Request, wishes: Sequence[Want], notes: Sequence[str]) -> Resolution:
    """Return the answer that the graph's chosen versions make."""
    there = [w.version for w in wishes if w.kind == "provided"]
    kept = frozenset(v for v in there if v.node.chosen is v)
    walk = _Walk(graph, request, kept)
    named = [(want, want.version.node.chosen) for want in wishes if want.kind != "provided"]
    named = [(want, version) for want, version in named if version not in kept]
    with deep():
        for stage in dict.fromkeys(_STAGE.values()):
            for want, version in named:
                if version is not None and _STAGE[want.kind] == stage:
                    walk.visit(version, Reason(kind=want.kind, detail=want.detail), stage)
        walk.visit_rest("include")
        for old in there:
            if old.node.chosen is not None and old not in kept:
                walk.visit(old.node.chosen, _gives_way(graph, walk, old), "include")
        walk.visit_rest("include")
    native = request.architecture
    packages = tuple(
        Resolved(
            id=node_id(v.node, native),
            package=v.package,
            why=walk.why[v],
            stage=walk.stage[v],
            upgrades=v.node.there.text if v.node.there is not None else "",
        )
        for v in walk.order
    )
    roots = tuple(
        (node_id(version.node, native), Reason(kind=want.kind, detail=want.detail))
        for want, version in named
        if version is not None
    )
    return Resolution(request=request, packages=packages, wishes=roots, links=tuple(walk.links), notes=tuple(notes))


def _gives_way(graph: Graph, walk: _Walk, old: Version) -> Reason:
    """Return why a version that was there could not stay: who stands against it, or what it lacks now."""
    native = graph.request.architecture
    for version in walk.order:
        for group in graph.groups(version):
            if group.negative and old in graph.solutions(group.alternatives[0]):
                return Reason(kind=group.kind, by=node_id(version.node, native), relation=group.text())
    for group in graph.groups(old):
        found = [v for d in group.alternatives for v in graph.solutions(d)]
        if group.critical and not group.negative and not any(v.node.chosen is v for v in found):
            by = f"{node_id(old.node, native)} {old.text}"
            return Reason(kind=group.kind, by=by, relation=group.text())
    assert old.node.chosen is not None
    source = source_of(old.node.chosen)
    kin = [node_id(v.node, native) for v in walk.order if source_of(v) == source]
    return Reason(kind="upgrade", detail=f"with {kin[0]}, of the same source" if kin else f"of {old.text}")
