"""The bench's tables: what a goal says of a figure, and that the picture is drawn of the same rows."""

from __future__ import annotations

import pytest

from tests.bench.measure import Contender
from tests.bench.picture import picture, tables
from tests.bench.table import Goal, part, sizes, table, times, within


def measured(name: str, *seconds: float, memory: int = 0) -> Contender:
    return Contender(name, [], seconds=list(seconds), memory=[memory])


PEER = measured("peer", 8.0, 9.0, 40.0, memory=50 << 20)


@pytest.mark.parametrize(
    ("goal", "said", "most"),
    [
        (part(3, PEER), "1/3 of peer", 3.0),
        (times(1.5, 2.0), "1.5 × the floor", 3.0),
        (times(2, 2.0, "cp and sha256sum"), "2 × cp and sha256sum", 4.0),
        (within(0.1), "0.10 s", 0.1),
        (Goal("words", 7.0), "words", 7.0),
    ],
    ids=["part", "times", "times-of", "within", "words"],
)
def test_a_goal_is_met_up_to_its_limit(goal: Goal, said: str, most: float) -> None:
    assert goal.limit == pytest.approx(most)
    assert goal.verdict(most - 0.001) == f"{said}: met"
    assert goal.verdict(most + 0.001) == f"{said}: missed"


def test_a_row_says_everything_and_is_drawn() -> None:
    own = measured("mkroot", 2.5, 3.0, 3.5, memory=100 << 20)
    lines = list(table("Work", [own, PEER], PEER, {"mkroot": [part(3, PEER), times(1.5, 1.0)]}, 1.5))
    assert lines[0] == "### Work" and lines[-1] == ""
    assert "peer ÷ this" in lines[2] and "× floor" in lines[2]
    wanted = "| mkroot | 3.000 | 2.500 to 3.500 | 100 MiB | 2.00 | 3.00 | 1/3 of peer: met; 1.5 × the floor: missed |"
    assert lines[4] == wanted
    assert lines[5].endswith("| 6.00 | 1.00 |  |")
    text = "\n".join(lines)
    ((title, bars),) = tables(text)
    assert title == "Work"
    assert [(b.name, b.seconds, b.ratio) for b in bars] == [("mkroot", 3.0, 3.0), ("peer", 9.0, 1.0)]
    assert "3 s · 3 ×" in picture(text)


def test_without_floor_and_memory_the_cells_are_empty() -> None:
    own = measured("mkroot", 1.0)
    line = list(table("Work", [own, PEER], PEER))[4]
    assert line == "| mkroot | 1.000 | 1.000 to 1.000 |  |  | 9.00 |  |"
    assert len(next(tables("### Work\n" + line))[1]) == 1


def test_sizes_are_told_and_not_drawn() -> None:
    lines = list(
        sizes("Bytes", [("a", 28.2, "", None), ("b", 26.7, "0.95", True), ("c", 27.0, "0.96", False)], "share")
    )
    assert lines[4] == "| a | 28.20 MB |  |  |"
    assert [line.rpartition("| ")[2] for line in lines[5:7]] == ["met |", "missed |"]
    assert list(tables("\n".join(lines))) == []
