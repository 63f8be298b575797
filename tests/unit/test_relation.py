"""Relationship fields are read as Policy 7.1 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkroot.debian.relation import Relation, clause_text, parse_clause, parse_relations, satisfies
from mkroot.errors import PackageError


def test_all_of_it() -> None:
    assert parse_relations(
        "libc6 (>= 2.36), python3:any, default-mta | mail-transport-agent,\n foo:native(=1:2-3)"
    ) == (
        (Relation("libc6", "", ">=", "2.36"),),
        (Relation("python3", "any"),),
        (Relation("default-mta"), Relation("mail-transport-agent")),
        (Relation("foo", "native", "=", "1:2-3"),),
    )


@pytest.mark.parametrize("text", ["", " ", ",", "a,", ", a ,,"])
def test_empty_parts_are_skipped(text: str) -> None:
    assert parse_relations(text) == (((Relation("a"),),) if "a" in text else ())


def test_single_signs_mean_or_equal() -> None:
    assert parse_clause("a (< 1) | b (> 2)") == (Relation("a", "", "<=", "1"), Relation("b", "", ">=", "2"))


def test_architecture_lists() -> None:
    assert parse_relations("a [amd64 arm64], b [!amd64] <!nocheck>", "amd64") == ((Relation("a"),),)
    assert len(parse_relations("a [amd64 arm64], b [!amd64]")) == 2


@pytest.mark.parametrize(
    "text", ["a b", "(>= 1)", "a (1)", "a (>= )", "a (>= 1", "a |", "| a", "a:ANY", "a (=> 1)", "-a", "é"]
)
def test_refused(text: str) -> None:
    with pytest.raises(PackageError):
        parse_relations(text)


@pytest.mark.parametrize(
    ("have", "op", "want", "answer"),
    [
        ("1", "", "", True),
        ("", "", "", True),
        ("", ">=", "1", False),
        ("1.0", "=", "1.0-0", True),
        ("1.0", ">>", "1.0", False),
        ("1.0", ">=", "1.0", True),
        ("1.0~rc1", "<<", "1.0", True),
        ("1:1", "<=", "2", False),
    ],
)
def test_satisfies(have: str, op: str, want: str, answer: bool) -> None:
    assert satisfies(have, op, want) is answer


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        clauses = parse_relations(text)
    except PackageError:
        return
    assert parse_relations(", ".join(clause_text(c) for c in clauses)) == clauses
