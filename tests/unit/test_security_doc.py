"""SECURITY.md names tests that exist, and each of its sections names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)))


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda value: value.rpartition("/")[2])
def test_what_is_named_exists(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert not test or test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("section", re.split(r"(?m)^### ", TEXT)[1:], ids=lambda text: text.partition("\n")[0])
def test_every_threat_names_a_test(section: str) -> None:
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| Threat")]
    assert rows
    assert not [row for row in rows if "`tests/" not in row and "the same" not in row]
