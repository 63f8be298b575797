"""The page of `mkroot build --report`: what a run over many recipes made, failed at and changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from html import escape

import msgspec

from mkroot.cli.board import MARKS, change_in_short, counted, worst
from mkroot.cli.logtail import tail
from mkroot.cli.page import Kind, document
from mkroot.cli.reportlook import COLOURS, SCRIPT, STYLE
from mkroot.cli.terminal import amount, plural, seconds
from mkroot.errors import MESSAGE_LIMIT, shown
from mkroot.fleet.grid import Grid, Line, grid, values
from mkroot.fleet.model import DONE, FAILED, RUNNING, WAITING, Change, Fault, Row

PAGE = Kind("--report", "report", "<!doctype html>\n<html lang=en class=report>")
_CUT_SHORT = {RUNNING: "not finished", WAITING: "not begun"}  # what they are after a run that was interrupted
_NAME = 200  # characters of a name
_MOST = 20  # links to builds in one place
_LOG, _LOG_FAILED = 16_000, 64_000  # bytes of a log, at most
_ALL_LOGS = 3_000_000  # bytes of the logs of what failed, and again of all others
_ALL_CHANGES, _ALL_FAULTS = 2_000_000, 2_000_000  # bytes
Told = tuple[str, str, str, bool]  # a fault: what, where, hint, internal


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run.

    begin: seconds since 1970; seconds: how long it took. version: mkroot's. ended: why it did not come to its end, ""
    if it did.
    """

    begin: float
    seconds: float
    version: str
    ended: str = ""


def page(rows: Sequence[Row], run: Run) -> str:
    """Return the page of a run: HTML that loads nothing, and reads well where its script does not run.

    Of logs, lists and messages it has a part where they are long, so that a page of 10,000 builds stays below 20 MB.
    """
    return document(
        PAGE, f"mkroot build: {_title(rows)}", _Report(rows, run).parts(), style=_style(), dark=_dark(), script=SCRIPT
    )


def _style() -> str:
    return STYLE + "".join(f".{state} {{ background: {a}; color: {b} }}\n" for state, (a, b, *_) in COLOURS.items())


def _dark() -> str:
    return "".join(f".{state} {{ background: {a}; color: {b} }}\n" for state, (*_, a, b) in COLOURS.items())


def _title(rows: Sequence[Row]) -> str:
    failed = sum(row.state == FAILED for row in rows)
    return f"{plural(len(rows), 'build')}, {failed} failed" if failed else plural(len(rows), "build")


class _Report:
    """The parts of one page; what is bounded for all rows together is known from the begin on."""

    def __init__(self, rows: Sequence[Row], run: Run) -> None:
        self._rows, self._run = rows, run
        self._faults: dict[Told, list[int]] = {}
        for index, row in enumerate(rows):
            for fault in row.faults:
                told = self._faults.setdefault(_told(fault), [])
                if not told or told[-1] != index:
                    told.append(index)
        self._numbers = {fault: number for number, fault in enumerate(self._faults, 1)}
        failed = sum(row.state == FAILED and bool(row.log) for row in rows)
        others = sum(row.state != FAILED and bool(row.log) for row in rows)
        self._log = min(_LOG, _ALL_LOGS // max(1, others))
        self._log_failed = min(_LOG_FAILED, _ALL_LOGS // max(1, failed))
        self._change = _ALL_CHANGES // max(1, sum(row.change is not None for row in rows))
        self._fault = min(MESSAGE_LIMIT, _ALL_FAULTS // max(1, len(self._faults)))

    def parts(self) -> Iterator[str]:
        yield self._head()
        if self._faults:
            yield self._failed()
        if self._rows:
            found = grid([row.job for row in self._rows])
            if len(found.columns) > 1:
                yield self._grid(found)
            yield "<section>\n<h2>Builds</h2>\n<div class=scroll><table id=builds>\n"
            yield "<caption><span>Each build, in the order of the command line</span></caption>\n<thead><tr>"
            for name in ("recipe", "suite", "architecture", "state", "time", "size", "packages", "change"):
                yield f"<th scope=col{' class=words' if name in ('suite', 'architecture', 'state') else ''}>{name}</th>"
            yield "</tr></thead>\n"
            for index, row in enumerate(self._rows):
                yield self._build(index, row)
            yield "</table></div>\n</section>\n"
        yield "</main>\n"

    def _head(self) -> str:
        run, rows = self._run, self._rows
        chips = "".join(
            f"<li class={state}>{MARKS[state]} {count:,} {self._word(state)}</li>" for state, count in counted(rows)
        )
        made = sum(row.size for row in rows)
        begin = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.begin))
        about = [f"<time datetime='{begin[:10]}T{begin[11:19]}Z'>{begin}</time>", f"{seconds(run.seconds)} in all"]
        about += [f"artifacts of {amount(made)}"] if made else []
        note = (
            f"<p><strong>The run did not come to its end: {_bounded(run.ended, MESSAGE_LIMIT)}</strong></p>\n"
            if run.ended
            else ""
        )
        return (
            f"<main>\n<h1>{_title(rows)}</h1>\n<p class=soft>{', '.join(about)}, by mkroot {_name(run.version)}</p>\n"
            f"{note}<ul class=counts>{chips}</ul>\n"
        )

    def _word(self, state: str) -> str:
        return _CUT_SHORT.get(state, state) if self._run.ended else state

    # ---- what failed

    def _failed(self) -> str:
        parts = ["<section>\n<h2>What failed</h2>\n<ol class=faults>\n"]
        for number, ((what, where, hint, internal), indices) in enumerate(self._faults.items(), 1):
            what = f"internal error: {what}" if internal else what
            parts.append(f"<li id=f{number}><p><strong>{self._said(what)}</strong></p>")
            parts.append(f"<p>{self._said(where)}</p>" if where else "")
            parts.append(f"<p>hint: {self._said(hint)}</p>" if hint else "")
            links = ", ".join(f"<a href=#b{i}>{self._titled(i)}</a>" for i in indices[:_MOST])
            more = f" and {len(indices) - _MOST:,} more" if len(indices) > _MOST else ""
            parts.append(f"<p class=soft>in {links}{more}</p></li>\n")
        return "".join([*parts, "</ol>\n</section>\n"])

    def _said(self, text: str) -> str:
        return _bounded(text, self._fault // 3)

    def _titled(self, index: int) -> str:
        job = self._rows[index].job
        return _name(" ".join(part for part in (job.recipe, *values(job), job.suite, job.architecture) if part))

    # ---- the grid

    def _grid(self, found: Grid) -> str:
        suites = "".join(f"<th colspan={n} scope=colgroup>{_name(suite)}</th>" for suite, n in found.suites)
        architectures = "".join(f"<th scope=col>{_name(a)}</th>" for _, a in found.columns)
        lines = "".join(self._line(line) for line in found.lines)
        return (
            "<section>\n<h2>Recipes, suites, architectures</h2>\n<div class=scroll><table class=grid>\n"
            "<caption><span>Time, size; packages new (+), gone (−), other (~) than at the last run</span></caption>\n"
            f"<thead><tr><th rowspan=2 scope=col class=words>recipe</th>{suites}</tr>\n"
            f"<tr>{architectures}</tr></thead>\n"
            f"<tbody>\n{lines}</tbody></table></div>\n</section>\n"
        )

    def _line(self, line: Line) -> str:
        head = f"<tr><th scope=row>{_name(line.label)}</th>"
        if line.rest and not any(line.cells):
            return f"{head}{self._cell(line.rest, len(line.cells))}</tr>\n"
        return f"{head}{''.join(map(self._cell, line.cells))}</tr>\n"

    def _cell(self, indices: Sequence[int], span: int = 1) -> str:
        if not indices:
            return "<td></td>"
        state = self._rows[worst(self._rows, indices)].state
        wide = f" colspan={span}" if span > 1 else ""
        return f"<td class={state}{wide}>{''.join(map(self._summary, indices))}</td>"

    def _summary(self, index: int) -> str:
        row = self._rows[index]
        word = self._word(row.state)
        told = f"<span class=hide>{word}, </span>{seconds(row.seconds)}" if row.state == DONE else word
        notes = [amount(row.size)] if row.size else []
        notes += [note] if (note := change_in_short(row.change)) else []
        small = "".join(f"<small>{note}</small>" for note in notes)
        return f"<a href=#b{index}><span aria-hidden=true>{MARKS[row.state]}</span> {told}</a>{small}"

    # ---- the builds

    def _build(self, index: int, row: Row) -> str:
        job, change = row.job, row.change
        word = self._word(row.state)
        recipe = " ".join([job.recipe, *values(job)])
        others = 0 if change is None else len(change.added) + len(change.removed) + len(change.changed)
        took, size = seconds(row.seconds) if row.seconds else "", amount(row.size) if row.size else ""
        more = self._more(row)
        return (
            f"<tbody id=b{index} data-state='{word}'>\n<tr class=build><th scope=row>{_name(recipe)}</th>"
            f"<td class=words>{_name(job.suite)}</td><td class=words>{_name(job.architecture)}</td>"
            f"<td class=words><span class='state {row.state}'>{MARKS[row.state]} {word}</span></td>"
            f"<td data-v={row.seconds:.3f}>{took}</td><td data-v={row.size}>{size}</td>"
            f"<td class=packages data-v={row.packages}>{f'{row.packages:,}' if row.packages else ''}</td>"
            f"<td data-v={others}>{change_in_short(change)}</td></tr>\n{more}</tbody>\n"
        )

    def _more(self, row: Row) -> str:
        heads, parts = [], []
        if row.doing and row.state == RUNNING:
            parts.append(f"<p>it was at: {_name(row.doing)}</p>")
        for fault in dict.fromkeys(map(_told, row.faults)):
            number = self._numbers[fault]
            parts.append(f"<p>failed: <a href=#f{number}>{escape(shown(fault[0], _NAME))}</a></p>")
        if row.change is not None and (lists := self._lists(row.change)):
            heads.append("changes")
            parts.append(lists)
        if row.machine:
            parts.append(f"<p class=soft>made by {_name(row.machine)}</p>")
        log = tail(row.log, self._log_failed if row.state == FAILED else self._log)
        if log.lines:
            heads.append(f"log of {plural(log.lines, 'line')}")
            left = (
                f"<p class=soft>the last {plural(log.lines - log.left, 'line')} of {log.lines:,}</p>"
                if log.left
                else ""
            )
            parts.append(f"{left}<pre tabindex=0 aria-label=log>{log.html}</pre>")
        if not parts:
            return ""
        summary = ", ".join(heads) or "more"
        return (
            f"<tr class=more><td colspan=8><details><summary>{summary}</summary>{''.join(parts)}</details></td></tr>\n"
        )

    def _lists(self, change: Change) -> str:
        parts = []
        for word, packages in (("new", change.added), ("gone", change.removed), ("other", change.changed)):
            if packages:
                parts.append(f"<p>{word}: {_bounded(', '.join(packages), self._change // 3)}</p>")
        return "".join(parts)


def _told(fault: Fault) -> Told:
    return fault.what, fault.where, fault.hint, fault.internal


def _name(text: str) -> str:
    return escape(shown(text, _NAME))


def _bounded(text: str, limit: int) -> str:
    """Return a text as HTML of about `limit` bytes at most."""
    html = escape(shown(text, limit), quote=False)
    fits = len(html.encode("utf-8", "backslashreplace")) <= limit + 40
    return html if fits else escape(shown(text, limit // 6), quote=False)
