"""Repairing what marking left broken, as apt's pkgProblemResolver does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from mkroot.resolve.graph import Dependency, Group, Node, Version
from mkroot.resolve.marker import Marker

_ROUNDS = 20  # pkgProblemResolver::MaxCounter
_PRIORITY_SCORE = {1: 3, 2: 2, 3: 1, 4: -1, 5: -2}
_KIND_SCORE = {"depends": 1, "pre-depends": 1, "recommends": 1, "conflicts": -1, "breaks": -1}


class ProblemResolver:
    """One run over a marked graph."""

    def __init__(self, marker: Marker, requested: Collection[Node]) -> None:
        """Take the marker and the nodes that the user asked for."""
        self.marker = marker
        self.graph = marker.graph
        self.requested = frozenset(requested)
        self.scores: Counter[Node] = Counter()
        self._upgradable: set[Node] = set()
        self._change = False

    def resolve(self) -> bool:
        """Repair what can be repaired; tell whether nothing is broken any more."""
        nodes = self.graph.nodes
        before = {n for n in nodes.values() if n.install}
        self._follow_up()
        if self.marker.broken_nodes():
            self._upgradable = set(nodes.values())
            self._score()
            order = sorted(nodes.values(), key=lambda n: -self.scores[n])
            for counter in range(_ROUNDS):
                self._change = False
                for node in order:
                    if node.chosen is not None and self.marker.broken(node):
                        self._investigate(node, counter)
                if not self._change:
                    break
                order += [n for n in nodes.values() if n not in set(order)]
        if self.marker.broken_nodes():
            return False
        for node in nodes.values():
            if node.install and node not in before:
                node.auto = True
        return True

    def _follow_up(self) -> None:
        """Mark the candidates of what is there already and has become broken, until nothing more follows."""
        again = True
        while again:
            again = False
            for node in self.marker.broken_nodes():
                if node.chosen is node.there and node.candidate is not node.there:
                    again = (self.marker.install(node, auto=False) and node.chosen is not node.there) or again

    # --- scores

    def _score(self) -> None:
        scores = self.scores
        marked = [(n, n.chosen) for n in list(self.graph.nodes.values()) if n.chosen is not None]
        for node, version in marked:
            if node.essential or node.important:
                scores[node] += 100
            scores[node] += _PRIORITY_SCORE.get(version.priority, 0)
            for d, kind in self._links(version):
                self._pass_on(d, _KIND_SCORE[kind])
        old = Counter(scores)
        for node, version in marked:
            for d, kind in self._links(version):
                if kind not in ("conflicts", "breaks") and d.target.chosen is not None and old[node] > 0:
                    scores[d.target] += old[node]
        for node, _ in marked:
            if transfer := abs(scores[node] - old[node]):
                owners = (p.owner for p in self.graph.provisions(node) if not p.implicit)
                for owner in dict.fromkeys(o.node for o in owners if o.node.chosen is o):
                    scores[owner] += transfer
        for node in self.graph.nodes.values():
            if node in self.requested:
                scores[node] += 10000
            if node.essential or node.important:
                scores[node] += 5000

    def _links(self, version: Version) -> Iterator[tuple[Dependency, str]]:
        for group in self.graph.groups(version):
            for d in group.alternatives:
                yield d, group.kind

    def _pass_on(self, d: Dependency, points: int) -> None:
        target, scores = d.target, self.scores
        solutions = self.graph.solutions(d)
        if not d.relation.op:
            if not (d.negative and target is d.owner.node):
                scores[target] += points
        elif target.chosen is None or target.chosen not in solutions:
            return
        else:
            scores[target] += points
        for other in dict.fromkeys(v.node for v in solutions if v.node is not target and v.node.chosen is v):
            scores[other] += points

    # --- repairs

    def _investigate(self, node: Node, counter: int) -> None:
        """Look at each clause that fails and change something about it (the loop of ResolveInternal)."""
        kill: list[Node] = []
        assert node.chosen is not None
        for group in self.graph.groups(node.chosen):
            if not group.critical or self.marker.group_satisfied(group):
                continue
            if self._repair(node, group, kill):
                break
        if node.chosen is not None:
            self._apply(node, kill, counter)

    def _repair(self, node: Node, group: Group, kill: list[Node]) -> bool:
        """Repair one clause; True where the others need no look now."""
        several = len(group.alternatives) > 1
        size = len(kill)
        keep = False
        for d in group.alternatives:
            if self.marker.group_satisfied(group):
                return False
            targets = self.graph.solutions(d)
            if not targets and not node.protected and not d.negative:
                if several:
                    continue
                self._change = True
                self.marker.keep(node)
                return True
            done, held = self._consider(node, group, d, kill)
            keep = keep or held
            if done and not several:
                return True
        if several and len(kill) == size:
            if keep:
                self.marker.keep(node)
                self._change = True
            elif not node.protected:
                self.marker.delete(node)
                self._change = True
        return False

    def _consider(self, node: Node, group: Group, d: Dependency, kill: list[Node]) -> tuple[bool, bool]:
        """Try the targets of one alternative; (something was done, holding the node back mends it)."""
        scores, several = self.scores, len(group.alternatives) > 1
        for version in self.graph.solutions(d):
            other = version.node
            if d.negative and other.chosen is not version:
                continue
            if not d.negative or scores[node] <= scores[other]:
                if node.protected:
                    if self._upgrade(other):
                        scores[other] = min(scores[other], scores[node])
                        return False, False
                    continue
                was = node.install
                self.marker.keep(node)
                if several and was:
                    self.marker.install(node, auto=False)
                self._change = True
                return True, True
            if d.kind == "breaks" and other.candidate is not None and other.candidate not in self.graph.solutions(d):
                self.marker.install(other, auto=False)
                continue
            if not other.protected:
                kill.append(other)
        return False, False

    def _apply(self, node: Node, kill: list[Node], counter: int) -> None:
        for other in kill:
            removed = self.marker.keep(other)
            if (not removed or counter > 1) and self.scores[node] > self.scores[other]:
                self.scores[other] = self.scores[node]
                self._change = True
            self._change = self._change or removed

    def _upgrade(self, node: Node) -> bool:
        """Try to install a node and, where its candidates help, what it lacks (DoUpgrade)."""
        if node not in self._upgradable or node.candidate is None or node in self.requested:
            return False
        self._upgradable.discard(node)
        was_kept = not node.install
        if not self.marker.install(node, auto=False) or node.chosen is None:
            return False
        for group in self.graph.groups(node.chosen):
            if group.critical and not self._upgrade_for(group):
                if was_kept:
                    self.marker.keep(node)
                else:
                    self.marker.delete(node)
                return False
        return True

    def _upgrade_for(self, group: Group) -> bool:
        good = True
        for d in group.alternatives:
            if self.marker.group_satisfied(group):
                return good
            target = self._smart_target(d)
            if target.protected:
                good = False
            elif any(v.node.candidate is v for v in self.graph.solutions(d)) is not d.negative:
                if self._upgrade(target):
                    return True
                good = False
            elif d.negative:
                return good
            else:
                good = False
        return good

    def _smart_target(self, d: Dependency) -> Node:
        """Return the only provider of a name without package of its own, else the name's node."""
        if d.target.versions:
            return d.target
        owners = list(dict.fromkeys(p.owner.node for p in self.graph.provisions(d.target)))
        return owners[0] if len(owners) == 1 else d.target
