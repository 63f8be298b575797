"""From marked nodes to the answer: order of configuration, stages and reasons."""

from __future__ import annotations

from collections.abc import Sequence

from mkroot.resolve.graph import Graph, Node, Version
from mkroot.resolve.install import Want, deep
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
    walk = _Walk(graph, request, frozenset(w.version for w in wishes if w.kind == "provided"))
    named = [(want, want.version.node.chosen) for want in wishes if want.kind != "provided"]
    with deep():
        for stage in dict.fromkeys(_STAGE.values()):
            for want, version in named:
                if version is not None and _STAGE[want.kind] == stage:
                    walk.visit(version, Reason(kind=want.kind, detail=want.detail), stage)
        walk.visit_rest("include")
    native = request.architecture
    packages = tuple(
        Resolved(id=node_id(v.node, native), package=v.package, why=walk.why[v], stage=walk.stage[v])
        for v in walk.order
    )
    roots = tuple(
        (node_id(version.node, native), Reason(kind=want.kind, detail=want.detail))
        for want, version in named
        if version is not None
    )
    return Resolution(request=request, packages=packages, wishes=roots, links=tuple(walk.links), notes=tuple(notes))
