"""The exact search: right and complete on anything small enough to try out, and stable in what it tells."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkroot.debian.package import Package
from mkroot.debian.relation import Relation
from mkroot.errors import ResolutionError
from mkroot.resolve.request import Request
from mkroot.resolve.resolver import resolve
from mkroot.resolve.sat import Solver, Unsatisfiable
from mkroot.resolve.universe import TextUniverse

NAMES = "abcde"


def first_open(solver: Solver, variables: int) -> int | None:
    return next((n for n in range(1, variables + 1) if n not in solver.value), None)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(-6, 6).filter(bool), min_size=1, max_size=3), max_size=30))
def test_solver_against_all_assignments(clauses: list[list[int]]) -> None:
    def holds(true: set[int], numbers: range | frozenset[int]) -> bool:
        return all(any((x in true) if x > 0 else (-x not in true) for x in clauses[n]) for n in numbers)

    everything = [set(c) for size in range(7) for c in itertools.combinations(range(1, 7), size)]
    solver = Solver()
    for n, clause in enumerate(clauses):
        solver.add(clause, n)
    try:
        found = solver.solve(lambda s: first_open(s, 6))
    except Unsatisfiable as e:
        assert not any(holds(true, e.tags) for true in everything)
        return
    assert holds(found, range(len(clauses)))


relations = st.builds(
    lambda name, op: f"{name} ({op} 2)" if op else name,
    st.sampled_from(NAMES + "v"),
    st.sampled_from(["", "", "", ">=", "<<"]),
)
clauses = st.lists(relations, min_size=1, max_size=2).map(" | ".join)
packages = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from("12"),
    st.lists(clauses, max_size=2),
    st.lists(relations, max_size=1),
    st.sampled_from(["", "v", "v (= 2)"]),
)


def text_of(stanzas: list[tuple[str, str, list[str], list[str], str]]) -> str:
    unique = {(s[0], s[1]): s for s in stanzas}
    return "\n".join(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nSHA256: {name}{version}\n"
        + (f"Depends: {', '.join(depends)}\n" if depends else "")
        + (f"Conflicts: {', '.join(conflicts)}\n" if conflicts else "")
        + (f"Provides: {provides}\n" if provides else "")
        for name, version, depends, conflicts, provides in unique.values()
    )


def fits(package: Package, relation: Relation) -> bool:
    if package.name == relation.name and relation.accepts(package.version):
        return True
    return any(r.name == relation.name and relation.accepts(r.version) for c in package.provides for r in c)


def valid(root: list[Package]) -> bool:
    for package in root:
        for clause in package.depends:
            if not any(fits(other, relation) for other in root for relation in clause):
                return False
        for clause in package.conflicts:
            if any(fits(other, r) for other in root if other is not package for r in clause):
                return False
    return len({p.name for p in root}) == len(root)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(packages, min_size=1, max_size=8), st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)
)
def test_an_answer_exactly_where_there_is_one(
    stanzas: list[tuple[str, str, list[str], list[str], str]], include: list[str]
) -> None:
    universe = TextUniverse.of(text_of(stanzas))
    every = [p for name in NAMES for p in universe.packages(name)]
    include = [n for n in include if universe.packages(n)]
    request = Request(architecture="amd64", variant="none", include=tuple(include))
    roots = (list(c) for size in range(len(every) + 1) for c in itertools.combinations(every, size))
    possible = any({p.name for p in root} >= set(include) and valid(root) for root in roots)
    try:
        resolution = resolve(universe, request)
    except ResolutionError as e:
        assert not possible, str(e)
        return
    root = [r.package for r in resolution.packages]
    assert possible and valid(root) and {p.name for p in root} >= set(include)


def test_the_story_is_short_and_stable() -> None:
    text = "\n".join(f"Package: p{n}\nVersion: 1\nArchitecture: all\nDepends: p{n + 1}\n" for n in range(300))
    request = Request(architecture="amd64", variant="none", include=("p0",))
    with pytest.raises(ResolutionError) as caught:
        resolve(TextUniverse.of(text), request)
    story = str(caught.value)
    assert len(story) < 20_000
    assert story.startswith("`p0` cannot be installed:\n  p0 is requested\n  p0 1 depends on p1")
    with pytest.raises(ResolutionError) as again:
        resolve(TextUniverse.of(text), request)
    assert str(again.value) == story


def test_a_deep_chain() -> None:
    text = "\n".join(f"Package: p{n}\nVersion: 1\nArchitecture: all\nDepends: p{n + 1}\n" for n in range(1500))
    text += "\nPackage: p1500\nVersion: 1\nArchitecture: all\n"
    request = Request(architecture="amd64", variant="none", include=("p0",))
    assert len(resolve(TextUniverse.of(text), request).packages) == 1501
