"""What people read: sizes, tables, labels, and the progress of a build on a terminal and elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mkroot.errors import printable

if TYPE_CHECKING:
    from mkroot.progress import Progress

RED, YELLOW, BLUE, BOLD, RESET = "\x1b[31;1m", "\x1b[33;1m", "\x1b[36m", "\x1b[1m", "\x1b[0m"
_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}  # which JSON takes as they are, and terminals act on
_LABELS = {"error": RED, "warning": YELLOW, "hint": BLUE, "note": BLUE}


def is_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal that understands escapes."""
    return bool(stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb")


def coloured(stream: Any) -> bool:
    """Tell whether colours may be used (NO_COLOR, as its convention has it)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def labelled(label: str, text: str) -> str:
    """Return a line for standard error, `label: text`, in the label's colour on a terminal."""
    text = printable(text)  # what a mirror or a package said may be in it
    return f"{_LABELS[label]}{label}:{RESET} {text}\n" if coloured(sys.stderr) else f"{label}: {text}\n"


def amount(size: int) -> str:
    """Return a number of bytes in binary units, as `ls -lh` and apt's users read them: `1.4 MiB`."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def seconds(value: float) -> str:
    """Return a duration: `0.004 s`, `1.25 s`, `2 min 5 s`."""
    if value < 0.01:
        return f"{value:.3f} s"
    if value < 100:
        return f"{value:.2f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def plural(count: int, noun: str) -> str:
    """Return `1 package`, `2 packages`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "") -> str:
    """Return rows in columns, each ending with a newline; the columns in `right` are aligned there."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append((indent + "  ".join(cells)).rstrip() + "\n")
    return "".join(lines)


def print_json(value: object) -> None:
    """Print a value as JSON on standard output; control characters in it are escaped, those beyond ASCII too."""
    import json

    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    text = json.dumps(value, indent=2, ensure_ascii=ascii_only)
    sys.stdout.write(text.translate(_CONTROLS) + "\n")


def make_progress(quiet: bool = False) -> Progress:
    """Return what shows a build's steps: bars on a terminal, lines elsewhere, warnings alone with `quiet`."""
    from mkroot.progress import Progress, Step

    class Lines(Progress):
        """One line a finished step."""

        def end(self, step: Step) -> None:
            sys.stderr.write(step_line(step))
            sys.stderr.flush()

        def warn(self, line: str) -> None:
            sys.stderr.write(labelled("warning", line))
            sys.stderr.flush()

    class Quiet(Lines):
        """Nothing but warnings."""

        def end(self, step: Step) -> None:
            pass

    class Bars(Lines):
        """A bar for the step under way, if it lasts; drawn by whoever advances it, so that no thread is needed.

        rich is imported when the first bar is drawn: a build that has little to do never needs it.
        """

        def __init__(self) -> None:
            super().__init__()
            self._bar: Bar | None = None

        def begin(self, name: str, total: int | None, unit: str) -> None:
            self._bar = Bar(name, total, unit)

        def advance(self, amount: int, item: str = "") -> None:
            if self._bar is not None:
                self._bar.advance(amount, item)

        def end(self, step: Step) -> None:
            if self._bar is not None:
                self._bar.close()
                self._bar = None
            super().end(step)

        def warn(self, line: str) -> None:
            if self._bar is not None:
                self._bar.hide()
            super().warn(line)

    if quiet:
        return Quiet()
    return Bars() if is_terminal(sys.stderr) else Lines()


def step_line(step: Any) -> str:
    """Return the line of a finished step: what, how long, what it did, whether the store had it."""
    note = ", ".join(part for part in (step.note, "cached" if step.cached else "") if part)
    return f"{seconds(step.seconds):>10}  {step.name:<20}  {note}".rstrip() + "\n"


class Bar:
    """One step's bar on the terminal. It appears when the step has lasted `AFTER` seconds."""

    AFTER, EVERY = 0.2, 0.1  # seconds

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done = 0
        self._item = ""
        self._start = time.monotonic()
        self._next = self._start + self.AFTER
        self._rich: Any = None
        self._task: Any = None

    def advance(self, amount: int, item: str) -> None:
        """Count, and draw when it is time."""
        self._done += amount
        self._item = printable(item) or self._item  # a package's own script may have said it
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.EVERY
        if self._rich is None:
            self._open()
        done = self._done if self._total is None else min(self._done, self._total)  # a trigger runs a package again
        self._rich.update(self._task, completed=done, item=self._item[:40])
        self._rich.refresh()

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn

        count = DownloadColumn(binary_units=True) if self._unit == "B" else MofNCompleteColumn()
        columns = (
            TextColumn("{task.description:<20}", markup=False),
            BarColumn(bar_width=30),
            count,
            TextColumn("{task.fields[unit]} {task.fields[item]}", markup=False),
        )
        self._rich = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
        self._rich.start()
        unit = "" if self._unit == "B" else self._unit
        self._task = self._rich.add_task(self._name, total=self._total, unit=unit, item="")

    def hide(self) -> None:
        """Take the bar off the screen; the next `advance` draws it again."""
        if self._rich is not None:
            self._rich.stop()
            self._rich = None

    close = hide
