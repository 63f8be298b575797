"""What became of a run, as rows of words: a table for its end, and the faults below it, each once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mkroot.errors import printable
from mkroot.fleet.model import DONE, FAILED, SKIPPED, UNCHANGED, Fault, Row

HEAD = ("recipe", "arch", "state", "packages", "size", "time")
RIGHT = (3, 4, 5)  # columns of numbers


def cells(rows: Sequence[Row], amount: Callable[[int], str], seconds: Callable[[float], str]) -> list[tuple[str, ...]]:
    """Return a row of words for each job, in order, after their heads. amount, seconds: put a number into words."""
    found: list[tuple[str, ...]] = [HEAD]
    for row in rows:
        made = row.state in (DONE, UNCHANGED)
        found.append(
            (
                printable(label(row)).replace("\n", "\\n").replace("\t", "\\t"),
                row.job.architecture or "-",
                row.state,
                str(row.packages) if made else "-",
                amount(row.size) if made else "-",
                seconds(row.seconds) if row.seconds else "-",
            )
        )
    return found


def label(row: Row) -> str:
    """Return a job's recipe with the values that tell it from others."""
    values = [f"{name}={row.job.defines[name]}" for name in row.job.varied if name in row.job.defines]
    return " ".join((row.job.recipe, *values))


def faults(rows: Sequence[Row]) -> list[tuple[Fault, tuple[Row, ...]]]:
    """Return each fault once, with the rows that have it, in order; what was only skipped comes last."""
    found: dict[Fault, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.state == SKIPPED):
        for fault in row.faults:
            found.setdefault(fault, []).append(row)
    return [(fault, tuple(having)) for fault, having in found.items()]


def tally(rows: Sequence[Row]) -> str:
    """Return how many jobs came to what: `3 built, 1 unchanged, 2 failed`."""
    words = ((DONE, "built"), (UNCHANGED, "unchanged"), (FAILED, "failed"), (SKIPPED, "skipped"))
    counts = [(sum(row.state == state for row in rows), word) for state, word in words]
    return ", ".join(f"{count} {word}" for count, word in counts if count or word in ("built", "failed"))
