"""The page of `mkroot build --timings`: one file with all of it, for a browser, a printer or a CI's artifacts."""

from __future__ import annotations

from collections.abc import Sequence

from mkroot.cli.page import Kind, document, table, text
from mkroot.cli.terminal import amount, plural, seconds
from mkroot.timings import KINDS, Row, Section, packages, rows, scripts, sums, waits

PAGE = Kind("--timings", "page of timings")
_MOST = 20  # rows of a table of packages
_WIDTH, _NAMES, _HIGH = 1200, 120, 18  # of the timeline, its names and a row, in units of the drawing
_LETTER, _GAP = 6.2, 0.6  # units; a letter of a name in a bar, what is between bars
_COLOURS = {  # kind: on a light ground, on a dark one
    "step": ("#6f7d8c", "#5b6673"),
    "script": ("#d9822b", "#b8691c"),
    "fetch": ("#3b82c4", "#3572ab"),
    "check": ("#8fb8de", "#4a6f91"),
    "decompress": ("#4f9d69", "#3e8055"),
    "write": ("#9bc53d", "#6f8f2b"),
    "compress": ("#8e6bbf", "#7757a8"),
    "hash": ("#c45b7c", "#a84867"),
    "assemble": ("#5aa9a3", "#478a85"),
    "store": ("#7a8b99", "#66757f"),
    "settle": ("#b0a18f", "#7d7162"),
    "sync": ("#8a7458", "#8a7458"),
}
_STYLE = """
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif } svg text { fill: var(--text) }
svg .in { fill: #fff } svg .tick { stroke: var(--line) } svg .scale { fill: var(--soft) }
p.key span { margin-right: 1rem; white-space: nowrap }
i { display: inline-block; width: .8em; height: .8em; margin-right: .3em }
@media print { body { margin: 0; max-width: none; font-size: 11px } h2 { break-before: page } h2:first-of-type
  { break-before: auto } tr, svg { break-inside: avoid } i, svg { print-color-adjust: exact } }
"""


def page(found: Sequence[Section]) -> str:
    """Return the page of some builds: HTML that loads nothing and runs nothing."""
    light = "".join(f".{kind} {{ fill: {a}; background: {a} }}\n" for kind, (a, _) in _COLOURS.items())
    dark = "".join(f".{kind} {{ fill: {b}; background: {b} }}\n" for kind, (_, b) in _COLOURS.items())
    body = ["<h1>Where the time went</h1>\n", *map(_section, found)]
    return document(PAGE, "mkroot build: timings", body, style=f"{_STYLE}{light}", dark=dark)


def _section(section: Section) -> str:
    note = f" <span class=soft>{text(section.note)}</span>" if section.note else ""
    return (
        f"<h2>{text(section.title)}: {seconds(section.seconds)}</h2>\n"
        f"<p>{_story(section)}{note}</p>\n{_timeline(section)}"
        + _scripts(section)
        + _packages(section)
        + _sums(section)
    )


def _story(section: Section) -> str:
    """Return in words what the build waited for."""
    whole = section.seconds or 1.0
    told = [f"{text(what)} {seconds(n)}" for what, n in waits(section) if n >= whole / 200]
    return f"Of {seconds(section.seconds)} the build waited for: {', '.join(told)}." if told else ""


# ---- the timeline


def _timeline(section: Section) -> str:
    lines = rows(section)
    if not lines or section.seconds <= 0:
        return ""
    high = (len(lines) + 2) * _HIGH
    unit = (_WIDTH - _NAMES) / section.seconds
    drawn = [f"<svg viewBox='0 0 {_WIDTH} {high}' role=img aria-label='timeline of {text(section.title)}'>\n"]
    for at in _ticks(section.seconds):
        x = _NAMES + at * unit
        drawn.append(f"<line class=tick x1={x:.1f} x2={x:.1f} y1={_HIGH} y2={high - _HIGH} />")
        drawn.append(f"<text class=scale x={x:.1f} y={_HIGH - 5} text-anchor=middle>{at:g} s</text>\n")
    for number, row in enumerate(lines, 1):
        drawn.append(_row(section, row, number * _HIGH, unit))
    kinds = {s.kind for s in section.spans}
    key = "".join(f"<span><i class={k}></i>{name}</span>" for k, name in KINDS.items() if k in kinds)
    return f"{''.join(drawn)}</svg>\n<p class='key soft'>{key}</p>\n"


def _row(section: Section, row: Row, top: float, unit: float) -> str:
    drawn = [f"<text x=0 y={top + 13:.0f}>{text(row.name)}</text>\n"]
    for s in row.spans:
        begin, end = max(s.begin, section.begin) - section.begin, min(s.end, section.end) - section.begin
        x, width = _NAMES + begin * unit, max((end - begin) * unit - _GAP, _GAP)
        size = f", {amount(s.size)}" if s.size else ""
        told = f"{text(s.name)}: {seconds(s.end - s.begin)}{size} ({KINDS.get(s.kind, s.kind)}, from {begin:.3f} s)"
        kind = s.kind if s.kind in _COLOURS else "step"
        drawn.append(f"<g><title>{told}</title><rect class={kind} x={x:.1f} y={top + 1:.0f}")
        drawn.append(f" width={width:.2f} height={_HIGH - 2} />")
        if width > _LETTER * len(s.name) + 6:
            drawn.append(f"<text class=in x={x + 3:.1f} y={top + 13:.0f}>{text(s.name)}</text>")
        drawn.append("</g>\n")
    return "".join(drawn)


def _ticks(whole: float) -> list[float]:
    """Return the times of the scale: at most ten, at a distance that people count in."""
    power = -3
    while True:
        for digit in (1, 2, 5):
            step = digit * 10.0**power
            if whole / step <= 10:
                return [n * step for n in range(int(whole / step) + 1)]
        power += 1


# ---- the tables


def _scripts(section: Section) -> str:
    found = scripts(section)
    cells = [
        (text(one.package), seconds(one.seconds), ", ".join(f"{text(n)} {seconds(v)}" for n, v in one.parts))
        for one in found[:_MOST]
    ]
    heads = ("package", "seconds", "scripts")
    return table(f"Slowest of {plural(len(found), 'package')} with scripts", heads, cells, words=(2,))


def _packages(section: Section) -> str:
    found = packages(section)
    kinds = ("fetch", "check", "decompress", "write", "compress")
    cells = [
        (
            text(one.name),
            amount(one.fetched) if one.fetched else "",
            amount(one.size) if one.size else "",
            *(seconds(one.seconds[kind]) if kind in one.seconds else "" for kind in kinds),
        )
        for one in found[:_MOST]
    ]
    heads = ("package", "packed", "unpacked", "fetched in", "checked in", "decompressed", "written", "compressed")
    return table(f"Biggest of {plural(len(found), 'package')} that came into the store", heads, cells)


def _sums(section: Section) -> str:
    cells = [
        (KINDS[one.kind], str(one.count), seconds(one.seconds), amount(one.size) if one.size else "")
        for one in sums(section)
    ]
    return table("All work, of all processes together", ("kind", "times", "seconds", "bytes"), cells)
