"""Every resolver case gives its answer, whatever order the input comes in."""

from __future__ import annotations

import pytest

from mkroot.errors import ResolutionError
from mkroot.resolve.resolver import GAVE_UP, resolve
from mkroot.resolve.universe import Universe
from tests.resolve_cases import Case, Shuffled, cases

CASES = cases()


def answer(case: Case, universe: Universe) -> str:
    """Return the answer or the refusal as one text."""
    try:
        resolution = resolve(universe, case.request)
    except ResolutionError as e:
        return str(e)
    return "\n".join(
        [*resolution.notes, *(f"{p.id} {p.version} {p.stage}: {p.why.text()}" for p in resolution.packages)]
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_case(case: Case) -> None:
    if case.expect is None:
        with pytest.raises(ResolutionError) as caught:
            resolve(case.universe(), case.request)
        for text in case.errors:
            assert text in str(caught.value)
        return
    resolution = resolve(case.universe(), case.request)
    assert {(p.id, p.version) for p in resolution.packages} == case.expect
    assert resolution.notes == ((GAVE_UP,) if case.apt == "gives up" else ())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_order_of_lookups_changes_nothing(case: Case) -> None:
    expected = answer(case, case.universe())
    for seed in range(5):
        assert answer(case, Shuffled(case.universe(), seed)) == expected


@pytest.mark.parametrize("case", [c for c in CASES if c.permute], ids=lambda c: c.name)
def test_the_order_of_stanzas_changes_nothing(case: Case) -> None:
    for seed in range(5):
        if case.expect is None:
            assert answer(case, case.universe(seed)) == answer(case, case.universe())
        else:
            resolution = resolve(case.universe(seed), case.request)
            assert {(p.id, p.version) for p in resolution.packages} == case.expect


@pytest.mark.parametrize("case", [c for c in CASES if c.expect], ids=lambda c: c.name)
def test_a_package_comes_after_what_it_needs(case: Case) -> None:
    resolution = resolve(case.universe(), case.request)
    place = {p.id: n for n, p in enumerate(resolution.packages)}
    needs: dict[str, set[str]] = {}
    for link in resolution.links:
        if link.kind != "recommends":
            needs.setdefault(link.by, set()).add(link.target)
    for link in resolution.links:
        if link.kind != "recommends" and link.by not in _reach(link.target, needs):
            assert place[link.target] < place[link.by], link


def _reach(start: str, needs: dict[str, set[str]]) -> set[str]:
    seen, stack = set(), [start]
    while stack:
        at = stack.pop()
        if at not in seen:
            seen.add(at)
            stack += needs.get(at, ())
    return seen
