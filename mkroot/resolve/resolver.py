"""From a request to its answer."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mkroot.errors import ResolutionError
from mkroot.resolve.graph import Graph, Node
from mkroot.resolve.install import Want, attempt, deep, wants
from mkroot.resolve.marker import Marker
from mkroot.resolve.order import arrange
from mkroot.resolve.request import Request
from mkroot.resolve.resolution import Reason, Resolution, Resolved
from mkroot.resolve.sat import OutOfSteps
from mkroot.resolve.search import Collision, Search, apply
from mkroot.resolve.story import no_answer, tell
from mkroot.resolve.universe import Universe

KERNELS = ("linux-image-", "linux-modules-")  # how the packages of a kernel are called, in Debian and in Ubuntu
GAVE_UP = "apt's own heuristics give up on this request; this answer was found by an exact search"


def resolve(universe: Universe, request: Request) -> Resolution:
    """Return the answer to `request`, as `apt-get install ?essential VARIANT INCLUDES` decides it in an empty root.

    Where apt's heuristics give up although an answer exists, an exact search finds one and a note says so. The same
    request to the same universe has the same answer, byte for byte. Raises ResolutionError, whose text tells who wants
    what and where that collides; PackageError where a stanza that matters cannot be read.
    """
    graph = Graph(universe, request)
    wishes = wants(graph, request)
    if attempt(graph, request, wishes):
        return arrange(graph, request, wishes, ())
    return _search(universe, request)


def _search(universe: Universe, request: Request) -> Resolution:
    for all_versions in (False, True):
        graph = Graph(universe, request)
        wishes = wants(graph, request)
        with deep():
            search = Search(graph, wishes, all_versions=all_versions)
            try:
                versions = search.run()
            except Collision as e:
                if all_versions:
                    raise tell(graph, search, e.facts) from None
                continue
            except OutOfSteps:
                raise no_answer(wishes) from None
            apply(graph, versions)
            _tidy(graph, request, wishes)
            return arrange(graph, request, wishes, (GAVE_UP,))
    raise AssertionError("unreachable")


def _tidy(graph: Graph, request: Request, wishes: Sequence[Want]) -> None:
    """Drop what nothing needs, then follow the recommendations that break nothing."""
    marker = Marker(graph, request.recommends)
    roots = {w.version.node for w in wishes}
    for node in roots:
        node.auto = False
    if request.recommends:
        pending = [n for n in graph.nodes.values() if n.chosen is not None]
        while pending:
            before = {n for n in graph.nodes.values() if n.chosen is not None}
            for node in pending:
                _follow(graph, marker, node)
            pending = [n for n in list(graph.nodes.values()) if n.chosen is not None and n not in before]
    _drop_unneeded(graph, marker, roots)


def _follow(graph: Graph, marker: Marker, node: Node) -> None:
    assert node.chosen is not None
    for group in graph.groups(node.chosen):
        if group.kind != "recommends" or marker.group_satisfied(group):
            continue
        for version in marker.solutions(group):
            state = [(n, n.install, n.chosen, n.candidate) for n in graph.nodes.values()]
            if marker.install(version.node, auto=True) and not marker.broken_nodes():
                break
            for other, install, chosen, candidate in state:
                other.install, other.chosen, other.candidate = install, chosen, candidate


def _drop_unneeded(graph: Graph, marker: Marker, roots: set[Node]) -> None:
    needed: set[Node] = set()
    stack = [n for n in roots if n.chosen is not None]
    while stack:
        node = stack.pop()
        if node in needed or node.chosen is None:
            continue
        needed.add(node)
        for group in graph.groups(node.chosen):
            if not group.negative:
                stack += [v.node for d in group.alternatives for v in graph.solutions(d) if v.node.chosen is v]
    for node in graph.nodes.values():
        if node not in needed:
            node.install, node.chosen = False, None


def beside(
    universe: Universe,
    request: Request,
    resolution: Resolution,
    names: Sequence[str],
    tools: Sequence[str] = (),
    kernel: str = "",
) -> tuple[Resolved, ...]:
    """Return packages that are to be locked beside the root without being installed.

    `names` are selections as in `include`, taken for their files only, without dependencies; `tools` are to run over
    the root, with what of their dependencies it lacks. kernel: a kernel's package, of which only those that hold kernel
    and modules are taken. What the root has already in the same version is left out.
    Raises ResolutionError for a name that nothing answers to.
    """
    plain = msgspec.structs.replace(
        request,
        variant="none",
        include=tuple(dict.fromkeys(names)),
        local=(),
        provided=(),
        upgrades=False,
        exclude=(),
        recommends=False,
    )
    found = [want.version.package for want in wants(Graph(universe, plain), plain)]
    if tools:
        there = tuple(r.package for r in resolution.packages)
        new = {(p.name, p.architecture) for p in there}
        there += tuple(p for p in request.provided if (p.name, p.architecture) not in new)
        over = msgspec.structs.replace(plain, include=tuple(dict.fromkeys(tools)), provided=there)
        found += [r.package for r in resolve(universe, over).packages]
    if kernel:
        try:
            whole = resolve(universe, msgspec.structs.replace(plain, include=(kernel,)))
        except ResolutionError as e:
            raise ResolutionError(e.what, where="boot.kernel", hint=e.hint) from None
        found += [r.package for r in whole.packages if r.package.name.startswith(KERNELS)]
    installed = {(r.package.name, r.package.architecture, r.package.version) for r in resolution.packages}
    unique = {(p.name, p.architecture, p.version): p for p in found}
    why = Reason(kind="beside", detail="the root")
    return tuple(
        Resolved(id=unique[key].name, package=unique[key], why=why, stage="beside")
        for key in sorted(unique.keys() - installed)
    )
