"""Marking packages for installation as apt's pkgDepCache does it, in an empty root or over what is there already."""

from __future__ import annotations

from collections.abc import Sequence

from mkroot.resolve.graph import Dependency, Graph, Group, Node, Version

_DEPTH = 3000  # apt gives up on deeper chains


class Marker:
    """The state of the nodes of one graph and the operations on it.

    The names follow apt: a node is *installed* here when it is marked for installation.
    """

    def __init__(self, graph: Graph, recommends: bool) -> None:
        self.graph = graph
        self.recommends = recommends
        self._archs = {a: n for n, a in enumerate(graph.architectures)}

    # --- what holds

    def satisfied(self, d: Dependency) -> bool:
        """Tell whether the dependency holds with what is marked."""
        solutions = d.solutions
        if solutions is None:
            solutions = self.graph.solutions(d)
        hit = any(v.node.chosen is v for v in solutions)
        return hit is not d.negative

    def group_satisfied(self, group: Group) -> bool:
        """Tell whether one alternative holds."""
        return any(self.satisfied(d) for d in group.alternatives)

    def wants(self, group: Group) -> bool:
        """Tell whether the clause is to be followed (Policy::IsImportantDep)."""
        return group.critical or (self.recommends and group.kind == "recommends" and not self._declined(group))

    def _declined(self, group: Group) -> bool:
        """Tell whether the version that is there recommends the same already, and nothing of it was installed."""
        there = group.alternatives[0].owner.node.there
        if there is None:
            return False
        names = {d.target for d in group.alternatives}
        old = [
            g for g in self.graph.groups(there) if g.kind == group.kind and names & {d.target for d in g.alternatives}
        ]
        held = (v.node.there is v for g in old for d in g.alternatives for v in self.graph.solutions(d))
        return bool(old) and not any(held)

    def broken(self, node: Node) -> bool:
        """Tell whether a marked package lacks something, or stands against something marked."""
        if node.chosen is None:
            return False
        return any(g.critical and not self.group_satisfied(g) for g in self.graph.groups(node.chosen))

    def _lacking(self, node: Node) -> bool:
        """Like `broken`, or a recommendation that is followed is not fulfilled."""
        if node.chosen is None:
            return False
        return any(self.wants(g) and not self.group_satisfied(g) for g in self.graph.groups(node.chosen))

    def broken_nodes(self) -> list[Node]:
        """Return all that is broken."""
        return [n for n in list(self.graph.nodes.values()) if n.chosen is not None and self.broken(n)]

    # --- candidates

    def solutions(self, group: Group) -> list[Version]:
        """Return the candidates that would satisfy the clause, best first (getAllPossibleSolutions)."""
        found: list[Version] = []
        for d in group.alternatives:
            versions = [v for v in self.graph.solutions(d) if v.node.candidate is v]
            if len(versions) > 1:
                versions.sort(key=lambda v: self._preference(v, d.target))
            found += versions
        unique = [v for n, v in enumerate(found) if n == 0 or found[n - 1] is not v]
        if group.negative:
            return unique
        return [v for v in unique if not (v.node.protected and not v.node.install)]

    def _preference(self, version: Version, target: Node) -> tuple[object, ...]:
        """Return a key that sorts as CompareProviders does."""
        node = version.node
        number, place = self.graph.rank(node)
        return (
            not node.protected,
            node.there is None,
            node.group is not target.group,
            not node.essential,
            not node.important,
            self._archs[node.architecture],
            version.priority,
            -number,
            -place,
        )

    # --- changes

    def _may_change(self, node: Node, install: bool, from_user: bool, depth: int = 0) -> bool:
        if depth > _DEPTH or not node.versions:
            return False
        return from_user or node.install is install or not node.protected

    def keep(self, node: Node) -> bool:
        """Take the mark away; False where the node is protected (MarkKeep)."""
        if not self._may_change(node, False, False):
            return False
        if node.install:
            node.install = False
            node.chosen = node.there
        return True

    def delete(self, node: Node) -> bool:
        """Take the mark away for good; False where the user asked for the node or it is essential (MarkDelete)."""
        if not node.versions or node.protected or node.essential or node.important or node.there is not None:
            return False
        if node.chosen is None:
            return True
        if not node.auto:
            return False
        node.install = False
        node.chosen = None
        return True

    def install(self, node: Node, *, auto: bool, depth: int = 0, from_user: bool = False) -> bool:
        """Mark a node, with `auto` all that it needs as well; False where that fails (MarkInstall)."""
        if node.there is not None and node.there is node.chosen is node.candidate and not self._lacking(node):
            return True
        if not self._may_change(node, True, from_user, depth) or node.candidate is None:
            return False
        if node.install and not node.protected and not self._lacking(node):
            return True
        if auto and not self._satisfiable(node, node.candidate):
            return False
        fail_early = not node.protected and not from_user
        failed = False
        if from_user:
            self._mark(node, from_user)
        wanted: list[Group] = []
        if auto:
            wanted, against = self._collect(node)
            if not self._remove_conflicts(against, node.protected, from_user):
                if fail_early:
                    return False
                failed = True
            if not self._upgrade_conflicts(against, depth):
                if fail_early:
                    return False
                failed = True
        if not from_user:
            self._mark(node, from_user)
        if not auto:
            return not failed
        already = node.protected
        node.protected = True
        try:
            if not self._install_wanted(wanted, already, from_user, depth):
                if fail_early:
                    node.chosen = node.candidate = node.there
                    node.install = False
                    return False
                failed = True
        finally:
            node.protected = already
        return not failed

    def _mark(self, node: Node, from_user: bool) -> None:
        if not (node.protected and node.chosen is node.candidate):
            node.install = True
            node.chosen = node.candidate
            node.auto = not from_user

    def _satisfiable(self, node: Node, candidate: Version) -> bool:
        """Tell whether each clause could be satisfied by candidates; if not, the node loses its own."""
        for group in self.graph.groups(candidate):
            if group.negative or not group.critical:
                continue
            if not any(self._possible(d) for d in group.alternatives):
                if not node.protected:
                    node.candidate = node.there
                    node.install = False
                return False
        return True

    def _possible(self, d: Dependency) -> bool:
        return any(v.node.candidate is v or v.node.chosen is v for v in self.graph.solutions(d))

    def _collect(self, node: Node) -> tuple[list[Group], list[Group]]:
        """Return the clauses to follow: wanted ones and those that stand against something."""
        wanted: list[Group] = []
        against: list[Group] = []
        assert node.candidate is not None
        for group in self.graph.groups(node.candidate):
            if (node.protected or not self.group_satisfied(group)) and self.wants(group):
                (against if group.negative else wanted).append(group)
        return wanted, against

    def _remove_conflicts(self, against: Sequence[Group], propagate: bool, from_user: bool) -> bool:
        failed = False
        for group in against:
            for version in self.solutions(group):
                other = version.node
                if other.candidate is not version:
                    continue
                if other.install and not self.keep(other):
                    failed = True
                    if not propagate and not from_user:
                        return False
                elif propagate:
                    other.candidate = other.chosen
                    other.protected = True
        return not failed

    def _upgrade_conflicts(self, against: Sequence[Group], depth: int) -> bool:
        """Have what is there already and is stood against give way to its candidate, where that is not."""
        good = True
        for group in against:
            versions = self.graph.solutions(group.alternatives[0])
            for version in versions:
                other = version.node
                if other.there is version and other.chosen is version:
                    free = other.candidate is not None and other.candidate not in versions
                    good = free and self.install(other, auto=True, depth=depth + 1) and good
        return good

    def _install_wanted(self, wanted: Sequence[Group], propagate: bool, from_user: bool, depth: int) -> bool:
        failed = False
        for group in wanted:
            if self.group_satisfied(group):
                if propagate and group.critical and not self._protect_only_solution(group, depth):
                    failed = True
                continue
            found = self._install_one(group, propagate, depth)
            if not found and group.critical:
                failed = True
                if not propagate and not from_user:
                    break
        return not failed

    def _protect_only_solution(self, group: Group, depth: int) -> bool:
        solutions = self.solutions(group)
        for d in group.alternatives:  # what is there already counts, though a newer one is the candidate
            solutions += [v for v in self.graph.solutions(d) if v.node.there is v and v.node.chosen is v]
        if len(dict.fromkeys(solutions)) != 1 or solutions[0].node.protected:
            return True
        node = solutions[0].node
        node.protected = True
        if node.there is not None and node.there is node.chosen and not self._lacking(node):
            return True
        return self.install(node, auto=True, depth=depth + 1)

    def _install_one(self, group: Group, propagate: bool, depth: int) -> bool:
        solutions = self.solutions(group)
        for version in solutions:
            node = version.node
            if node.candidate is not version:
                continue
            if propagate and group.critical and len(solutions) == 1:
                if not self.install(node, auto=False, depth=depth + 1):
                    continue
                node.protected = True
            if self.install(node, auto=True, depth=depth + 1):
                return True
        return False

    # --- garbage

    def sweep(self) -> None:
        """Drop marked packages that nothing needs any more (DoAutomaticRemove)."""
        marked = [n for n in self.graph.nodes.values() if n.install and n.chosen is not None]
        needed: dict[Node, None] = {}
        stack = [n for n in marked if not n.auto or n.essential or n.important or n.there is not None]
        while stack:
            node = stack.pop()
            if node in needed:
                continue
            needed[node] = None
            assert node.chosen is not None
            stack += [v.node for v in self._used(node.chosen) if v.node.chosen is v and v.node not in needed]
        dropped = [n for n in marked if n not in needed]
        for node in dropped:
            self.delete(node)

    def _used(self, version: Version) -> list[Version]:
        """Return what a version depends on or recommends or suggests, of every alternative."""
        used = [
            v
            for g in self.graph.groups(version)
            if not g.negative
            for d in g.alternatives
            for v in self.graph.solutions(d)
        ]
        for group in self.graph.suggested(version):
            used += [v for d in group.alternatives for v in self.graph.solutions(d)]
        return used
