"""The packages that a request can reach, as nodes, versions and dependencies, read from the universe when needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mkroot.debian.package import Package
from mkroot.debian.relation import Clause, Relation, clause_text
from mkroot.debian.version import version_key
from mkroot.resolve.policy import Policy
from mkroot.resolve.request import Request
from mkroot.resolve.universe import Universe

ANY = "any"  # the architecture of the nodes that stand for `name:any` and `name:arch`
KINDS = ("pre-depends", "depends", "conflicts", "breaks", "recommends")
"""The relations that decide, in the order in which apt keeps them (debListParser::NewVersion)."""
_PRIORITY = {"required": 1, "important": 2, "standard": 3, "optional": 4, "extra": 5}


class Provision(NamedTuple):
    """A version that stands in for another name, with the version that it claims for it."""

    owner: Version
    version: str
    implicit: bool = False


class Node:
    """A package name of one architecture, with what resolution has decided about it so far.

    candidate: the version to install if it is installed at all; chosen: the version that is to be installed.
    install, protected, auto: apt's mode and flags (pkgDepCache::StateCache). there: the version that is there already,
    which stays unless another takes its place; it is never taken away.
    """

    __slots__ = (
        "architecture",
        "auto",
        "candidate",
        "chosen",
        "essential",
        "group",
        "important",
        "install",
        "name",
        "protected",
        "provisions",
        "rank",
        "there",
        "versions",
    )

    def __init__(self, name: str, architecture: str, group: list[Node]) -> None:
        self.name = name
        self.architecture = architecture
        self.group = group
        self.versions: list[Version] = []
        self.provisions: list[Provision] | None = None
        self.rank: tuple[int, int] | None = None
        self.essential = False
        self.important = False
        self.candidate: Version | None = None
        self.chosen: Version | None = None
        self.there: Version | None = None
        self.install = False
        self.protected = False
        self.auto = False

    def __repr__(self) -> str:
        return f"<{self.name}:{self.architecture}>"


class Version:
    """One version of a node; the same package may stand in several indices."""

    __slots__ = ("groups", "multi_arch", "node", "package", "packages", "priority", "text")

    def __init__(self, node: Node, package: Package) -> None:
        self.node = node
        self.package = package
        self.packages = [package]
        self.text = package.version
        self.multi_arch = package.multi_arch
        self.priority = _PRIORITY.get(
            package.fields.get("priority", "").lower(), 5 if "priority" in package.fields else 0
        )
        self.groups: list[Group] | None = None

    def __repr__(self) -> str:
        return f"<{self.node.name}:{self.node.architecture} {self.text}>"


class Dependency:
    """One alternative, aimed at one node. `solutions` are the versions that satisfy it, or that it stands against."""

    __slots__ = ("implicit", "kind", "negative", "owner", "relation", "solutions", "target")

    def __init__(self, owner: Version, kind: str, relation: Relation, target: Node, implicit: bool = False) -> None:
        self.owner = owner
        self.kind = kind
        self.relation = relation
        self.target = target
        self.implicit = implicit
        self.negative = kind in ("conflicts", "breaks")
        self.solutions: list[Version] | None = None


class Group(NamedTuple):
    """The alternatives of one clause; of a negative relation always a single one."""

    kind: str
    alternatives: tuple[Dependency, ...]
    negative: bool
    critical: bool

    def text(self) -> str:
        """Return the clause as it is written."""
        return clause_text(tuple(d.relation for d in self.alternatives))


class Graph:
    """The nodes that were asked for so far."""

    def __init__(self, universe: Universe, request: Request) -> None:
        self.universe = universe
        self.request = request
        self.architectures = (request.architecture, *request.foreign)
        self.policy = Policy(request)
        self.nodes: dict[tuple[str, str], Node] = {}  # in the order of making
        self._groups: dict[str, list[Node]] = {}
        self._versions: dict[tuple[str, str, str, str], Version] = {}
        self._there: dict[tuple[str, str, str], Version] = {}
        self._excluded = frozenset(request.exclude)
        self._local: dict[str, list[Package]] = {}
        self._provided = frozenset(request.provided)
        for package in (*request.local, *request.provided):
            self._local.setdefault(package.name, []).append(package)

    # --- nodes

    def group(self, name: str) -> list[Node]:
        """Return the nodes of `name` that have a version, native first."""
        known = self._groups.get(name)
        if known is None:
            known = self._groups[name] = []
            for package in [*self._local.get(name, ()), *self.universe.packages(name)]:
                self._add(package, known)
            for node in known:
                node.versions.sort(key=lambda v: version_key(v.text), reverse=True)
                node.candidate = None if name in self._excluded else self.policy.candidate(node.versions)
            known.sort(key=lambda n: self.architectures.index(n.architecture))
        return known

    def _add(self, package: Package, group: list[Node]) -> None:
        native = self.architectures[0]
        architecture = native if package.architecture == "all" else package.architecture
        if architecture not in self.architectures:
            return
        key = (package.name, architecture, package.version, package.sha256)
        known = self._versions.get(key)
        if known is None and package.origin is not None:  # the archive has what is there, which tells no digest
            known = self._there.get(key[:3])
            if known is not None:
                self._versions[key] = known
        if known is not None:
            known.packages.append(package)
            node = known.node
        else:
            node = next((n for n in group if n.architecture == architecture), None) or self._make(
                package.name, architecture, group
            )
            version = self._versions[key] = Version(node, package)
            node.versions.append(version)
            if package in self._provided:
                self._there[key[:3]] = version
        node.essential = node.essential or package.essential
        node.important = node.important or package.protected or package.important

    def _make(self, name: str, architecture: str, group: list[Node]) -> Node:
        node = self.nodes[name, architecture] = Node(name, architecture, group)
        group.append(node)
        return node

    def node(self, name: str, architecture: str) -> Node:
        """Return the node, made empty where no index has such a package."""
        known = self.nodes.get((name, architecture))
        if known is None:
            if architecture != ANY:
                self.group(name)
                known = self.nodes.get((name, architecture))
            if known is None:
                known = self.nodes[name, architecture] = Node(name, architecture, self._groups.get(name, []))
        return known

    def rank(self, node: Node) -> tuple[int, int]:
        """Return when apt hears of the node first; see Universe.rank."""
        if node.rank is None:
            node.rank = self.universe.rank(node.name, node.architecture)
        return node.rank

    # --- provides

    def provisions(self, node: Node) -> list[Provision]:
        """Return what stands in for the node's name (debListParser::ParseProvides, Multi-Arch specification)."""
        if node.provisions is None:
            node.provisions = []  # a name may provide itself
            source = self._provisions_any(node) if node.architecture == ANY else self._provisions(node)
            node.provisions = list(dict.fromkeys(source))
        return node.provisions

    def _providers(self, name: str) -> Iterator[tuple[Version, Relation]]:
        local = [
            p for group in self._local.values() for p in group if any(r.name == name for c in p.provides for r in c)
        ]
        for package in [*local, *self.universe.providers(name)]:
            owner = self._version_of(package)
            if owner is not None:
                for clause in package.provides:
                    for relation in clause:
                        if relation.name == name and relation.op in ("", "="):
                            yield owner, relation

    def _version_of(self, package: Package) -> Version | None:
        self.group(package.name)
        architecture = self.architectures[0] if package.architecture == "all" else package.architecture
        return self._versions.get((package.name, architecture, package.version, package.sha256))

    def _provisions(self, node: Node) -> Iterator[Provision]:
        for owner, relation in self._providers(node.name):
            if relation.arch_qualifier:
                fits = relation.arch_qualifier == node.architecture
            else:
                fits = owner.multi_arch == "foreign" or owner.node.architecture == node.architecture
            itself = owner.node is node and relation.version in ("", owner.text)
            if fits and not itself:
                yield Provision(owner, relation.version)
        for sibling in self.group(node.name):
            if sibling is not node:
                for version in sibling.versions:
                    if version.multi_arch == "foreign":
                        yield Provision(version, version.text, True)

    def _provisions_any(self, node: Node) -> Iterator[Provision]:
        name, _, qualifier = node.name.rpartition(":")
        for owner, relation in self._providers(name):
            if relation.arch_qualifier == qualifier:
                yield Provision(owner, relation.version)
            elif qualifier == ANY:
                if owner.multi_arch == "allowed" and not relation.arch_qualifier:
                    yield Provision(owner, relation.version, True)
            elif owner.node.architecture == qualifier and not relation.arch_qualifier:
                yield Provision(owner, relation.version or owner.text, True)
        for sibling in self.group(name):
            for version in sibling.versions:
                if version.multi_arch == "allowed" if qualifier == ANY else sibling.architecture == qualifier:
                    yield Provision(version, version.text, True)

    # --- dependencies

    def groups(self, version: Version) -> list[Group]:
        """Return the clauses of a version that decide, in apt's order."""
        if version.groups is None:
            version.groups = [g for kind in KINDS for g in self._of_kind(version, kind)]
            version.groups += self._implicit(version)
        return version.groups

    def suggested(self, version: Version) -> list[Group]:
        """Return the clauses of Suggests, which keep a package but bring none."""
        return list(self._of_kind(version, "suggests"))

    def _of_kind(self, version: Version, kind: str) -> Iterator[Group]:
        negative = kind in ("conflicts", "breaks")
        for clause in version.package.relations(kind):
            if negative:
                for relation in clause:
                    for target in self._against(version, relation):
                        yield Group(kind, (Dependency(version, kind, relation, target),), True, True)
            else:
                aims = tuple(Dependency(version, kind, r, self._target(version, r)) for r in self._ordered(clause))
                yield Group(kind, aims, False, kind not in ("recommends", "suggests"))

    def _ordered(self, clause: Clause) -> Clause:
        if len(clause) > 1:
            names = [r.name for r in clause]
            for first, second in self.request.prefer:
                if first in names and second in names and self.group(first):
                    return tuple(sorted(clause, key=lambda r: r.name != first))
        return clause

    def _target(self, version: Version, relation: Relation) -> Node:
        if not relation.arch_qualifier:
            return self.node(relation.name, version.node.architecture)
        qualifier = self.architectures[0] if relation.arch_qualifier == "native" else relation.arch_qualifier
        return self.node(f"{relation.name}:{qualifier}", ANY)

    def _against(self, version: Version, relation: Relation) -> list[Node]:
        if relation.arch_qualifier:
            return [self._target(version, relation)]
        own = self.node(relation.name, version.node.architecture)
        return [own, *(n for n in self.group(relation.name) if n is not own)]

    def _implicit(self, version: Version) -> Iterator[Group]:
        """Yield the conflicts between architectures of one name (pkgCacheGenerator::AddImplicitDepends)."""
        for sibling in version.node.group:
            if sibling.architecture != version.node.architecture:
                kind = "breaks" if version.multi_arch == "same" else "conflicts"
                relation = Relation(version.node.name, sibling.architecture)
                yield Group(kind, (Dependency(version, kind, relation, sibling, True),), True, True)

    def solutions(self, dependency: Dependency) -> list[Version]:
        """Return every version that satisfies the dependency, or for a negative one that it stands against."""
        if dependency.solutions is None:
            dependency.solutions = list(dict.fromkeys(self._solve(dependency)))
        return dependency.solutions

    def _solve(self, d: Dependency) -> Iterator[Version]:
        owner, target, relation = d.owner, d.target, d.relation
        if d.implicit:
            for version in target.versions:
                if d.kind == "conflicts" or version_key(version.text) != version_key(owner.text):
                    yield version
            return
        own_group = owner.node.group
        if not (d.negative and target.group is own_group and (target is owner.node or owner.multi_arch == "same")):
            for version in target.versions:
                if relation.accepts(version.text):
                    yield version
        for provision in self.provisions(target):
            if d.negative and provision.owner.node.group is own_group:
                continue
            if relation.accepts(provision.version):
                yield provision.owner
