"""What a terminal shows of a run over many recipes: as many rows as fit, those first that need to be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from mkroot.cli.terminal import amount, plural
from mkroot.errors import shown
from mkroot.fleet.grid import Grid
from mkroot.fleet.model import DONE, FAILED, RUNNING, SKIPPED, UNCHANGED, WAITING, Change, Row

if TYPE_CHECKING:
    from rich.text import Text

MARKS = {DONE: "✓", UNCHANGED: "=", FAILED: "✗", SKIPPED: "–", RUNNING: "…", WAITING: "·"}
PLAIN = {
    DONE: "+",
    UNCHANGED: "=",
    FAILED: "x",
    SKIPPED: "-",
    RUNNING: ">",
    WAITING: ".",
}  # where ASCII is all there is
STYLES = {DONE: "green", UNCHANGED: "", FAILED: "bold red", SKIPPED: "yellow", RUNNING: "cyan", WAITING: "dim"}
_NARROW, _CELL = 10, 6  # columns: of a recipe's name at least, of a cell at least
_DENSE = 0.5  # share of cells that must hold a build, for a grid to be shown


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be shown.

    began: of rows that run, when; now: both by one clock. elapsed: seconds of the whole run. ascii: the terminal knows
    no other characters.
    """

    rows: Sequence[Row]
    grid: Grid
    began: dict[int, float]
    now: float
    elapsed: float
    ascii: bool = False

    @property
    def marks(self) -> dict[str, str]:
        """The sign of each state."""
        return PLAIN if self.ascii else MARKS


def board(view: View, width: int, height: int) -> list[Text]:
    """Return at most `height` lines of at most `width` columns.

    All builds are listed where they fit. Of more, those that run and that failed are; the rest are cells of a grid
    where one fits and would not be mostly empty, and a number elsewhere.
    """
    everyone = range(len(view.rows))
    head, room = _head(view, width), height - 2
    if len(everyone) <= room:
        body = _entries(view, everyone, width)
    elif lines := _cells(view, width, room):
        left = room - len(lines) - 1
        body = [*lines, _text(""), *_entries(view, _pressing(view.rows, left), width)]
    else:
        body = _shortened(view, width, room)
    return [head, _text(""), *body][:height]


def change_in_short(change: Change | None) -> str:
    """Return a change in a few characters, `+2 −1 ~3, +1.2 MiB`; "" where nothing was built."""
    if change is None:
        return ""
    if change.first:
        return "first"
    counts = (("+", change.added), ("−", change.removed), ("~", change.changed))
    parts = [" ".join(f"{sign}{len(packages)}" for sign, packages in counts if packages)]
    if change.bytes:
        parts.append(f"{'+' if change.bytes > 0 else '−'}{amount(abs(change.bytes))}")
    return ", ".join(filter(None, parts)) or "same"


def counted(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Return how many rows are in each state, of those in which some are."""
    found = Counter(row.state for row in rows)
    return [(state, found[state]) for state in MARKS if found[state]]


def worst(rows: Sequence[Row], indices: Sequence[int]) -> int:
    """Return the one of several builds whose state says most."""
    return max(indices, key=lambda i: (DONE, UNCHANGED, WAITING, SKIPPED, RUNNING, FAILED).index(rows[i].state))


def brief(seconds: float) -> str:
    """Return a duration in at most six characters, for ever: `1.2s`, `59s`, `1m05`, `2h07`, `123h`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}"
    return f"{whole // 3600}h{whole % 3600 // 60:02}" if whole < 360_000 else f"{whole // 3600}h"


# ---- the first line


def _head(view: View, width: int) -> Text:
    """Return the line of counts: with words where they fit, with marks alone elsewhere."""
    counts = counted(view.rows)
    size = sum(row.size for row in view.rows)
    right = "  ".join(([amount(size)] if size else []) + [brief(view.elapsed)])
    for words in (True, False):
        line = _text("").append(plural(len(view.rows), "build") if words else str(len(view.rows)), "bold")
        for state, count in counts:
            line.append("  ")
            line.append(f"{view.marks[state]} {count}{f' {state}' if words else ''}", STYLES[state])
        room = width - line.cell_len - len(right)
        if room >= 2:
            break
    line.append(" " * max(2, room) + right)
    return _cut(line, width)


# ---- the list


def _entries(view: View, indices: Sequence[int], width: int) -> list[Text]:
    """Return a line for each of some builds."""
    if not indices:
        return []
    labels = view.grid.labels
    names = [_text(labels[i]) for i in indices]
    suites = [_text(view.rows[i].job.suite) for i in indices]
    architectures = [_text(view.rows[i].job.architecture) for i in indices]
    wide = (
        min(max(t.cell_len for t in names), max(_NARROW, width * 3 // 10)),
        min(max(t.cell_len for t in suites), 10),
        min(max(t.cell_len for t in architectures), 8),
    )
    lines = []
    for i, *parts in zip(indices, names, suites, architectures, strict=True):
        row = view.rows[i]
        line = _text(view.marks[row.state] + " ", STYLES[row.state])
        for part, columns in zip(parts, wide, strict=True):
            if columns:
                line.append_text(_fitted(part, columns)).append("  ")
        line.append(f"{_time(view, i):>{_CELL}}  ").append_text(_text(_about(row), STYLES[row.state]))
        lines.append(_cut(line, width))
    return lines


def _shortened(view: View, width: int, room: int) -> list[Text]:
    """Return lines of the builds to be seen first, and how many others there are."""
    first = _pressing(view.rows, room - 1)
    chosen = set(first)
    others = [i for i in range(len(view.rows)) if i not in chosen]
    others.sort(key=lambda i: (WAITING, DONE, UNCHANGED, RUNNING, FAILED, SKIPPED).index(view.rows[i].state))
    more = max(0, room - 1 - len(first))
    first, others = [*first, *others[:more]], others[more:]
    counts = ", ".join(f"{count} {state}" for state, count in counted([view.rows[i] for i in others]))
    last = _text(f"and {len(others)} more: {counts}", "dim")
    return [*_entries(view, first, width), _cut(last, width)]


def _pressing(rows: Sequence[Row], room: int) -> list[int]:
    """Return builds that run and then those that failed; each has a third of the room at least."""
    running = [i for i, row in enumerate(rows) if row.state == RUNNING]
    failed = [i for i, row in enumerate(rows) if row.state == FAILED]
    least = room // 3
    running = running[: max(0, room - min(len(failed), least))]
    return [*running, *failed[: max(0, room - len(running))]]


def _time(view: View, index: int) -> str:
    row = view.rows[index]
    if row.state == RUNNING:
        return brief(max(0.0, view.now - view.began.get(index, view.now)))
    return brief(row.seconds) if row.seconds else ""


def _about(row: Row) -> str:
    """Return what a build is at, or came to."""
    if row.state == RUNNING:  # a step that works for several recipes bears the first one's name
        doing = row.doing.partition(": ")[2] if row.doing.startswith(row.job.recipe) else row.doing
        return f"{doing} on {row.machine}" if row.machine else doing
    if row.state == FAILED and row.faults:
        return row.faults[0].what.partition("\n")[0]
    if row.state == DONE:
        return ", ".join(filter(None, (amount(row.size) if row.size else "", change_in_short(row.change))))
    return "" if row.state == WAITING else row.state


# ---- the grid


def _cells(view: View, width: int, room: int) -> list[Text]:
    """Return the lines of a grid, none where it does not fit or is mostly empty."""
    grid = view.grid
    pressing = sum(row.state in (RUNNING, FAILED) for row in view.rows)
    if len(grid.lines) + 2 + 1 + min(2, pressing) > room or grid.filled < _DENSE or len(grid.columns) < 2:
        return []
    columns = [max(_CELL, _text(architecture).cell_len) for _, architecture in grid.columns]
    name = width - sum(columns) - len(columns)
    if name < _NARROW:
        return []
    name = min(name, max(_text(line.label).cell_len for line in grid.lines))
    first, second = _text(" " * name), _text(" " * name)
    at = 0
    for suite, count in grid.suites:
        span = sum(columns[at : at + count]) + count - 1
        first.append(" ").append_text(_fitted(_text(suite, "bold"), span))
        at += count
    for (_, architecture), wide in zip(grid.columns, columns, strict=True):
        second.append(" ").append_text(_fitted(_text(architecture, "dim"), wide))
    lines = [first, second]
    for one in grid.lines:
        line = _fitted(_text(one.label), name)
        for indices, wide in zip(one.cells, columns, strict=True):
            line.append(" ").append_text(_fitted(_cell(view, indices), wide))
        if one.rest and not any(one.cells):
            line = _fitted(_text(one.label), name).append(" ").append_text(_cell(view, one.rest))
        lines.append(_cut(line, width))
    return lines


def _cell(view: View, indices: Sequence[int]) -> Text:
    if not indices:
        return _text("")
    state = view.rows[index := worst(view.rows, indices)].state
    return _text(f"{view.marks[state]}{_time(view, index)}", STYLES[state])


# ---- text


def _text(text: str, style: str = "") -> Text:
    """Return a text of one line; names are anybody's, so nothing in them is markup or moves a cursor."""
    from rich.text import Text

    return Text(shown(text, 400).replace("\n", " ").replace("\t", " "), style, no_wrap=True)


def _fitted(text: Text, width: int) -> Text:
    fitted = text.copy()
    fitted.truncate(width, overflow="ellipsis", pad=True)
    return fitted


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text
