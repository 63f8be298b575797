"""Why a package is in an answer, and why another is not."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

import msgspec

from mkroot.debian.relation import Clause, clause_text
from mkroot.errors import ResolutionError
from mkroot.resolve.graph import Graph, Node, Version
from mkroot.resolve.request import Request
from mkroot.resolve.resolution import Reason, Resolution
from mkroot.resolve.resolver import resolve
from mkroot.resolve.suggest import nearest
from mkroot.resolve.universe import Universe


class Step(msgspec.Struct, frozen=True):
    """One link of a chain: the package, and why it is there according to the step before it."""

    package: str
    reason: str


Chain = tuple[Step, ...]


def why(resolution: Resolution, name: str, limit: int = 20) -> tuple[Chain, ...]:
    """Return the chains that bring a package, from a wish of the recipe to it, shortest first, at most `limit`.

    Raises ResolutionError where the package is not in the answer.
    """
    target = resolution.get(name)
    if target is None:
        raise ResolutionError(f"`{name}` is not among the packages", hint=f"mkroot why-not RECIPE {name}")
    wishes: dict[str, list[Reason]] = {}
    for one, reason in resolution.wishes:
        wishes.setdefault(one, []).append(reason)
    incoming: dict[str, dict[str, Reason]] = {}  # of several relations between two packages the first tells enough
    for link in resolution.links:
        reason = Reason(kind=link.kind, by=link.by, relation=link.relation)
        incoming.setdefault(link.target, {}).setdefault(link.by, reason)
    chains: list[Chain] = []
    queue: deque[tuple[str, Chain]] = deque([(target.id, ())])
    steps = 0
    while queue and len(chains) < limit and steps < 50_000:
        steps += 1
        at, tail = queue.popleft()
        for reason in wishes.get(at, ()):
            chains.append((Step(at, reason.text()), *tail))
        seen = {at, *(step.package for step in tail)}
        for by, reason in incoming.get(at, {}).items():
            if by not in seen:
                queue.append((by, (Step(at, reason.text()), *tail)))
    return tuple(chains[:limit])


def chain_text(chain: Chain) -> str:
    """Return a chain as one line: `nginx (requested as `nginx`) → nginx depends on nginx-common → nginx-common`."""
    first = f"{chain[0].package} ({chain[0].reason})"
    return " → ".join([first, *(step.reason for step in chain[1:])])


class Absence(msgspec.Struct, frozen=True, kw_only=True):
    """Why a package is not in an answer.

    known: there is such a package. reasons: what stands against it. brings: what would bring it, one line each.
    """

    name: str
    known: bool
    reasons: tuple[str, ...]
    brings: tuple[str, ...]


def why_not(universe: Universe, request: Request, resolution: Resolution, name: str) -> Absence:
    """Return what stands against a package and what would bring it; raises ResolutionError where it is installed."""
    present = resolution.get(name)
    if present is not None:
        raise ResolutionError(f"`{name}` is among the packages: {present.why.text()}", hint=f"mkroot why RECIPE {name}")
    graph = Graph(universe, request)
    bare, _, architecture = name.partition(":")
    nodes = [n for n in graph.group(bare) if not architecture or n.architecture == architecture]
    virtual = graph.node(bare, architecture or request.architecture)
    if not nodes and not graph.provisions(virtual):
        reason = f"no package is called `{name}`; " + nearest(bare, universe.names(), universe)
        return Absence(name=name, known=False, reasons=(reason,), brings=())
    here = list(_related(resolution, bare))
    brings = [*here, *_elsewhere(universe, resolution, bare, bool(here))]
    reasons = list(_against(graph, request, resolution, nodes))
    if not nodes:
        owners = sorted({p.owner.node.name for p in graph.provisions(virtual)})
        reasons.append(f"`{name}` is a virtual package, provided by " + ", ".join(owners[:20]))
    elif not reasons:
        reasons.append(_trial(universe, request, resolution, name))
    return Absence(name=name, known=True, reasons=tuple(reasons), brings=tuple(dict.fromkeys(brings))[:40])


def _against(graph: Graph, request: Request, resolution: Resolution, nodes: list[Node]) -> Iterator[str]:
    chosen = [(r.package.name, r.package.version) for r in resolution.packages]
    for node in nodes:
        if node.name in request.exclude:
            yield f"`{node.name}` stands in `packages.exclude`"
        elif node.candidate is None:
            yield f"a pin forbids every version of `{node.name}`"
        else:
            yield from _conflicts(graph, node.candidate, chosen)


def _conflicts(graph: Graph, candidate: Version, chosen: Collection[tuple[str, str]]) -> Iterator[str]:
    for group in graph.groups(candidate):
        if group.negative:
            for other in graph.solutions(group.alternatives[0]):
                if (other.package.name, other.text) in chosen:
                    yield f"it {_VERBS[group.kind]} {other.package.name} {other.text}"
    for name, version in chosen:
        for owner in graph.group(name):
            for found in owner.versions:
                if found.text == version:
                    yield from _stands_against(graph, found, candidate)


def _stands_against(graph: Graph, owner: Version, candidate: Version) -> Iterator[str]:
    for group in graph.groups(owner):
        if group.negative and candidate in graph.solutions(group.alternatives[0]):
            yield f"{owner.package.name} {owner.text} {_VERBS[group.kind]} {group.text()}"


_VERBS = {"conflicts": "conflicts with", "breaks": "breaks"}


def _related(resolution: Resolution, name: str) -> Iterator[str]:
    """Yield the relations of installed packages that name it and that something else fulfils, or nothing has to."""
    for one in resolution.packages:
        for field, verb in (("pre-depends", "pre-depends on"), ("depends", "depends on")):
            for clause in _naming(one.package.relations(field), name):
                yield f"{one.id} {verb} {clause_text(clause)}, which another package fulfils"
        for clause in _naming(one.package.relations("recommends"), name):
            reason = "" if resolution.request.recommends else "; `packages.recommends: true` would follow it"
            yield f"{one.id} recommends {clause_text(clause)}{reason}"
        for clause in _naming(one.package.relations("suggests"), name):
            yield f"{one.id} suggests {clause_text(clause)}"


def _naming(clauses: tuple[Clause, ...], name: str) -> Iterator[Clause]:
    return (clause for clause in clauses if any(r.name == name for r in clause))


def _elsewhere(universe: Universe, resolution: Resolution, name: str, enough: bool) -> Iterator[str]:
    """Yield packages outside the answer that depend on it."""
    found: dict[str, str] = {}
    for package in universe.mentioning(name):
        if package.name not in found and resolution.get(package.name) is None:
            for clause in (*package.pre_depends, *package.depends):
                if clause[0].name == name:
                    found[package.name] = clause_text(clause)
                    break
    names = sorted(found)
    for one in names[: 5 if enough else 15]:
        yield f"including {one} would: it depends on {found[one]}"
    if len(names) > 15:
        yield f"… and {len(names) - 15} more packages depend on it"


def _trial(universe: Universe, request: Request, resolution: Resolution, name: str) -> str:
    try:
        with_it = resolve(universe, msgspec.structs.replace(request, include=(*request.include, name)))
    except ResolutionError as e:
        return f"including it would fail: {e.what}"
    before = {r.id for r in resolution.packages}
    more = sorted({r.id for r in with_it.packages} - before - {name})
    if not more:
        return "nothing stands against it; nothing asks for it"
    extra = ", ".join(more[:20]) + (f" and {len(more) - 20} more" if len(more) > 20 else "")
    return f"nothing stands against it; including it would bring {extra} as well"
