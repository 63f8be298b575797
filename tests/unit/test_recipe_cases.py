"""Every wrong recipe under tests/cases/recipes is refused with the faults that it announces, each in its place."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mkroot.errors import Faults
from mkroot.recipe.load import load

CASES = Path(__file__).parent.parent / "cases" / "recipes"


def announced(path: Path) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the faults (where, beginning of the message) that a case announces, and its -D."""
    faults, defines = [], {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if found := re.fullmatch(r"# -D ([^=]+)=(.*)", line):
            defines[found[1]] = found[2]
        elif found := re.fullmatch(r"# fault (-|(?:\S+:)?\d+:\d+): (.*)", line):
            where = found[1]
            if where == "-":
                where = path.name
            elif where.count(":") == 1:
                where = f"{path.name}:{where}"
            faults.append((where, found[2]))
        else:
            faults += [(f"{path.name}:{number}", text) for text in re.findall(r"# fault: (.*?)(?= # fault: |$)", line)]
    return faults, defines


def matches(fault: tuple[str, str], where: str, what: str) -> bool:
    place, text = fault
    return (where == place or where.startswith(place + ":")) and text.rstrip() in what


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("path", sorted(CASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_wrong_recipe_is_refused_in_its_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    expected, defines = announced(path)
    assert expected, "the case announces no fault"
    with pytest.raises(Faults) as raised:
        load(path.name, defines)
    found = [(os.path.normpath(fault.where or ""), fault.what) for fault in raised.value.faults]
    told = str(raised.value)
    for fault in expected:
        assert any(matches(fault, *one) for one in found), f"{fault} is not among:\n{told}"
    assert len(found) == len(expected), f"not {len(expected)} faults:\n{told}"
    assert len(told) < 20_000


def test_there_are_enough_cases() -> None:
    assert len(list(CASES.glob("*.yaml"))) >= 200
