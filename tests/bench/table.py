"""The bench's tables as Markdown, and the goals that stand in their last column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.measure import Contender


@dataclass(frozen=True)
class Goal:
    """What a contender is to reach. text: in words; limit: the same as seconds that its median may take."""

    text: str
    limit: float

    def verdict(self, seconds: float) -> str:
        """Return the goal and whether `seconds` meet it."""
        return f"{self.text}: {'met' if seconds <= self.limit else 'missed'}"


def part(whole: int, peer: Contender) -> Goal:
    """Return the goal `1/whole` of what a measured peer took."""
    text = f"1/{whole} of {peer.name}" if whole > 1 else f"no more than {peer.name}"
    return Goal(text, peer.median / whole)


def times(factor: float, floor: float, what: str = "the floor") -> Goal:
    """Return the goal of at most `factor` times some seconds."""
    return Goal(f"{factor:.3g} × {what}", factor * floor)


def within(seconds: float) -> Goal:
    """Return the goal of a number of seconds."""
    return Goal(f"{seconds:.2f} s", seconds)


def table(
    title: str,
    contenders: Sequence[Contender],
    peer: Contender,
    goals: Mapping[str, Sequence[Goal]] | None = None,
    floor: float | None = None,
) -> Iterator[str]:
    """Yield a table of contenders that were measured.

    The columns are seconds, spread, the memory of the biggest process, how many times the floor it took, the ratio to
    the peer, and each goal with its verdict. goals: by the contender's name. floor: seconds, None where there is none.
    """
    goals = goals or {}
    yield f"### {title}"
    yield ""
    yield f"| | seconds | least to most | peak memory | × floor | {peer.name} ÷ this | goal |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    for c in contenders:
        cells = [
            c.name,
            f"{c.median:.3f}",
            f"{min(c.seconds):.3f} to {max(c.seconds):.3f}",
            f"{c.peak / 2**20:.0f} MiB" if c.peak else "",
            f"{c.median / floor:.2f}" if floor else "",
            f"{peer.median / c.median:.2f}",
            "; ".join(goal.verdict(c.median) for goal in goals.get(c.name, ())),
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def sizes(title: str, rows: Sequence[tuple[str, float, str, bool | None]], head: str) -> Iterator[str]:
    """Yield a table of sizes.

    rows: name, megabytes, what else there is to say, and whether the goal in it was met; None where there is none.
    head: of the third column.
    """
    yield f"### {title}"
    yield ""
    yield f"| | MB | {head} | |"
    yield "|---|---:|---|---|"
    for name, size, said, met in rows:
        yield f"| {name} | {size:.2f} MB | {said} | {'' if met is None else 'met' if met else 'missed'} |"
    yield ""
