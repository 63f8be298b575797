"""Carrying out `apt-get install ?essential VARIANT INCLUDES` on a graph: selecting versions, marking, repairing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import msgspec

from mkroot.debian.package import Package
from mkroot.errors import ResolutionError
from mkroot.resolve.graph import Dependency, Graph, Group, Node, Version
from mkroot.resolve.marker import Marker
from mkroot.resolve.problem import ProblemResolver
from mkroot.resolve.request import BARE, VARIANT_PACKAGES, VARIANTS, Request, Selector, in_suite, matches_version
from mkroot.resolve.suggest import nearest


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """One wish of the request: a version of a node, and where the wish comes from.

    kind: "essential" | "priority" | "variant" | "requested" | "provided".
    detail: the priority or the include as written.
    fixed: the recipe names the version or the suite, so no other will do.
    """

    version: Version
    kind: str
    detail: str
    fixed: bool = False
    suite: str = ""

    def text(self) -> str:
        """Return the wish in a few words."""
        if self.kind == "essential":
            return "essential"
        if self.kind == "provided":
            return "there already"
        if self.kind == "priority":
            return f"priority {self.detail}"
        return f"variant {self.detail}" if self.kind == "variant" else f"requested as `{self.detail}`"


def wants(graph: Graph, request: Request) -> list[Want]:
    """Return the wishes of a request in apt's order; raises ResolutionError for names that nothing answers to."""
    if request.variant not in VARIANTS:
        known = ", ".join(f"`{name}`" for name in VARIANTS if name != "-")
        raise ResolutionError(f"unknown variant `{request.variant}`", hint=f"one of {known}")
    found = [*_provided(graph, request), *_essential(graph, request), *_by_priority(graph, request)]
    for name in VARIANT_PACKAGES.get(request.variant, ()):
        found.append(_select(graph, request, Selector(text=name, name=name), "variant", request.variant))
    found += [_local(graph, request, package) for package in request.local]
    found += [_select(graph, request, Selector.parse(text), "requested", text) for text in request.include]
    _refuse_two_versions(found)
    unique: dict[Version, Want] = {}
    there = {want.version.node for want in found if want.kind == "provided"}
    for want in found:
        named = request.upgrades and want.kind == "requested"  # apt-get takes a newer version of what it is told
        if want.kind == "provided" or want.fixed or named or want.version.node not in there:
            unique.setdefault(want.version, want)
    return list(unique.values())


def _refuse_two_versions(found: list[Want]) -> None:
    fixed: dict[Node, Want] = {}
    for want in found:
        if want.fixed:
            first = fixed.setdefault(want.version.node, want)
            if first.version is not want.version:
                name = want.version.node.name
                raise ResolutionError(
                    f"`{name}` cannot be there in two versions: {first.version.text} is {first.text()}, "
                    f"{want.version.text} is {want.text()}",
                    hint=f"leave out `{want.detail}`",
                )


def _architecture(request: Request, architecture: str) -> str:
    return request.architecture if architecture == "all" else architecture


def _provided(graph: Graph, request: Request) -> Iterator[Want]:
    for package in request.provided:
        for version in graph.node(package.name, _architecture(request, package.architecture)).versions:
            if version.package is package:
                if request.upgrades:
                    version.node.there = version
                    if version.node.candidate is None:
                        version.node.candidate = version
                yield Want(version=version, kind="provided", detail="", fixed=not request.upgrades or _held(version))


def _local(graph: Graph, request: Request, package: Package) -> Want:
    text = f"{package.name}_{package.version}_{package.architecture}.deb"
    for version in graph.node(package.name, _architecture(request, package.architecture)).versions:
        if version.package is package and package.name not in request.exclude:
            return Want(version=version, kind="requested", detail=text, fixed=True)
    if package.name in request.exclude:
        raise ResolutionError(f"`{text}` is included, and `{package.name}` excluded")
    raise ResolutionError(
        f"`{text}` is for architecture `{package.architecture}`, which this root does not have",
        hint="architectures: " + ", ".join(graph.architectures),
    )


def _essential(graph: Graph, request: Request) -> Iterator[Want]:
    if request.variant in BARE:
        return
    nodes = [graph.node(name, request.architecture) for name in graph.universe.marked()]
    for node in sorted((n for n in nodes if n.essential), key=graph.rank):
        if node.candidate is not None and _any_in_suite(node, request):
            yield Want(version=node.candidate, kind="essential", detail="")


def _by_priority(graph: Graph, request: Request) -> Iterator[Want]:
    nodes: dict[Node, str] = {}
    for priority in VARIANTS[request.variant]:
        for name in graph.universe.of_priority(priority):
            node = graph.node(name, request.architecture)
            if not node.essential and _any_in_suite(node, request, priority):
                nodes.setdefault(node, priority)
    for node in sorted(nodes, key=graph.rank):
        if node.candidate is not None:
            yield Want(version=node.candidate, kind="priority", detail=nodes[node])


def _any_in_suite(node: Node, request: Request, priority: str = "") -> bool:
    """Tell whether a version of the node, of that priority, stands in the request's suite (mmdebstrap's ?narrow)."""
    return any(
        (not request.suite or (p.origin is not None and in_suite(p.origin, request.suite)))
        and (not priority or p.priority == priority)
        for version in node.versions
        for p in version.packages
    )


def _select(graph: Graph, request: Request, selector: Selector, kind: str, detail: str) -> Want:
    node = _named(graph, request, selector)
    if selector.version or selector.suite:
        version = _version(graph, node, selector)
        return Want(version=version, kind=kind, detail=detail, fixed=True, suite=selector.suite)
    if node.candidate is None:
        raise ResolutionError(
            f"package `{selector.name}` has no version that may be installed",
            hint=_why_no_candidate(node, request),
        )
    return Want(version=node.candidate, kind=kind, detail=detail)


def _why_no_candidate(node: Node, request: Request) -> str:
    if node.name in request.exclude:
        return f"take `{node.name}` out of `packages.exclude` or out of `packages.include`"
    return "a pin forbids each of its versions: " + ", ".join(v.text for v in node.versions)


def _named(graph: Graph, request: Request, selector: Selector) -> Node:
    """Return the node that a name means: a package, else the only provider of a virtual name (as apt-get does)."""
    architecture = selector.architecture
    if architecture in ("native", "all"):
        architecture = request.architecture
    if architecture and architecture not in graph.architectures:
        raise ResolutionError(
            f"`{selector.text}` asks for architecture `{architecture}`, which this root does not have",
            hint="architectures: " + ", ".join(graph.architectures),
        )
    group = graph.group(selector.name)
    for node in group:
        if not architecture or node.architecture == architecture:
            return node
    virtual = graph.node(selector.name, architecture or request.architecture)
    heard = not group or graph.rank(virtual)[0] < len(graph.universe.indices)
    provisions = graph.provisions(virtual) if heard else []  # apt does not know names that nothing mentions
    owners = dict.fromkeys(p.owner.node for p in provisions if p.owner.node.candidate is p.owner)
    names = sorted({n.name for n in owners})
    if len(names) == 1:
        return min(owners, key=lambda n: graph.architectures.index(n.architecture))
    if names:
        listed = ", ".join(f"`{n}`" for n in names[:50])
        raise ResolutionError(
            f"`{selector.name}` is a virtual package with several providers", hint=f"name one of them: {listed}"
        )
    if provisions:
        listed = ", ".join(sorted({f"`{p.owner.node.name}`" for p in provisions})[:50])
        raise ResolutionError(f"no provider of `{selector.name}` may be installed", hint=f"its providers: {listed}")
    raise ResolutionError(
        f"no package is called `{selector.name}`", hint=nearest(selector.name, graph.universe.names(), graph.universe)
    )


def _version(graph: Graph, node: Node, selector: Selector) -> Version:
    for version in sorted(node.versions, key=lambda v: not graph.policy.locked(v)):  # else the newest
        if selector.version:
            good = matches_version(version.text, selector.version)
        else:
            good = any(p.origin is not None and in_suite(p.origin, selector.suite) for p in version.packages)
        if good and node.name not in graph.request.exclude:
            return version
    have = ", ".join(
        f"{v.text} ({', '.join(dict.fromkeys(p.origin.suite for p in v.packages if p.origin)) or 'local'})"
        for v in node.versions[:20]
    )
    asked = f"version `{selector.version}`" if selector.version else f"a version in `{selector.suite}`"
    raise ResolutionError(f"package `{node.name}` has no {asked.removeprefix('a ')}", hint=f"there is {have}")


def attempt(graph: Graph, request: Request, wishes: list[Want]) -> bool:
    """Mark the graph as apt would; tell whether the result holds."""
    marker = Marker(graph, request.recommends)
    with deep():
        nodes = []
        for want in wishes:
            node = want.version.node
            if want.kind == "provided" and not want.fixed:
                node.chosen = want.version
                continue
            if want.fixed:
                node.candidate = want.version
            node.protected = True
            if want.kind == "provided":
                node.install, node.chosen = True, want.version
                continue
            nodes.append(node)
            marker.install(node, auto=False, from_user=True)
        for want in wishes:
            if want.suite:
                _switch_release(graph, marker, want.version, want.suite, set())
        for node in dict.fromkeys(nodes):
            marker.install(node, auto=True, from_user=True)
        _upgrade_siblings(graph, marker)
        if not ProblemResolver(marker, nodes).resolve():
            return False
        marker.sweep()
    return not marker.broken_nodes() and all(w.version.node.chosen is not None for w in wishes)


def _upgrade_siblings(graph: Graph, marker: Marker) -> None:
    """Upgrade what is there of each source of which something is taken, as apt does since 2.6.

    apt calls it APT::Get::Upgrade-By-Source-Package.
    """
    again = True
    while again:
        again = False
        nodes = list(graph.nodes.values())
        there = [n for n in nodes if n.there is not None]
        moved = {source_of(n.chosen) for n in nodes if n.chosen is not None and n.chosen is not n.there}
        for node in there:
            new = node.candidate
            if node.chosen is node.there and new is not None and new is not node.there and source_of(new) in moved:
                again = marker.install(node, auto=True) or again


def source_of(version: Version) -> tuple[str, str]:
    """Return the source package that a version was built from, and its version."""
    return version.package.source, version.package.source_version


def _held(version: Version) -> bool:
    """Tell whether dpkg's status says that the package is to stay in its version (dpkg(1), `hold`)."""
    return version.package.fields.get("status", "").startswith("hold ")


def _switch_release(graph: Graph, marker: Marker, version: Version, suite: str, seen: set[Version]) -> bool:
    """Make versions of `suite` the candidates of what `version` needs and lacks so far (SetCandidateRelease).

    As in apt, what failed last stays switched.
    """
    seen.add(version)
    _set_candidate(version)
    for group in graph.groups(version):
        if group.negative or not marker.wants(group):
            continue
        if any(_fine(graph, marker, d) for d in group.alternatives):
            continue
        if not _switch_one(graph, marker, group, suite, seen) and group.critical:
            return False
    return True


def _switch_one(graph: Graph, marker: Marker, group: Group, suite: str, seen: set[Version]) -> bool:
    for d in group.alternatives:
        found = next((v for v in d.target.versions if _is_in(v, suite)), None) if d.relation.op else None
        if found is None or not d.relation.accepts(found.text):
            continue
        old = d.target.candidate
        if found in seen or _switch_release(graph, marker, found, suite, seen):
            return True
        if d is not group.alternatives[-1] and old is not None:
            _set_candidate(old)
    return False


def _fine(graph: Graph, marker: Marker, d: Dependency) -> bool:
    """Tell whether a dependency needs no switch: its target's candidate fits and lacks nothing that is not marked."""
    if d.relation.op:
        candidate = d.target.candidate
        return candidate is not None and d.relation.accepts(candidate.text) and _complete(graph, marker, candidate)
    provisions = graph.provisions(d.target)
    if provisions:
        owners = [p.owner for p in provisions]
    else:
        owners = [d.target.candidate] if d.target.candidate is not None else []
    return any(v.node.candidate is v and _complete(graph, marker, v) for v in owners)


def _set_candidate(version: Version) -> None:
    node = version.node
    if node.install and node.chosen is node.candidate:
        node.chosen = version
    node.candidate = version


def _is_in(version: Version, suite: str) -> bool:
    return any(p.origin is not None and in_suite(p.origin, suite) for p in version.packages)


def _complete(graph: Graph, marker: Marker, version: Version) -> bool:
    """Tell whether all that the version needs is marked already, as apt's DepCandMin says it."""
    return all(marker.group_satisfied(g) for g in graph.groups(version) if g.critical)


@contextlib.contextmanager
def deep() -> Iterator[None]:
    """Allow as deep chains as apt does; plain Python calls take no C stack."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
