"""Draws the tables of the benchmark: a bar for each contender's seconds, as long as the table's slowest allows.

python -m tests.bench.picture docs/bench.md >docs/bench.svg
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

WIDTH, NAMES, BARS, LINE = 860, 330, 400, 22  # pixels
_ROW = re.compile(r"\| ([^|]+) \| (\d+\.\d+) \| .* \| (\d+\.\d+) \|[^|]*\|")
_STYLE = (
    "text{fill:#1b2530}.title{font-weight:bold}.small{font-size:12px;fill:#55606c}rect{fill:#b9c4d0}.own{fill:#2f7d4f}"
    ".floor{fill:#e3c98a}@media(prefers-color-scheme:dark){svg{background:#fff}}"
)


class Bar(NamedTuple):
    """A contender. seconds: the median. ratio: of the peer's seconds to these."""

    name: str
    seconds: float
    ratio: float


def tables(markdown: str) -> Iterator[tuple[str, list[Bar]]]:
    """Yield each table of the benchmark: its title and its rows."""
    title, bars = "", list[Bar]()
    for line in [*markdown.splitlines(), "#"]:
        if line.startswith("#"):
            if bars:
                yield title, bars
            title, bars = line.lstrip("# "), []
        elif row := _ROW.fullmatch(line):
            bars.append(Bar(row[1].strip(), float(row[2]), float(row[3])))


def picture(markdown: str, titles: tuple[str, ...] = ("",)) -> str:
    """Return an SVG of the tables whose titles begin with one of `titles`."""
    parts: list[str] = []
    y = 30
    for title, bars in tables(markdown):
        if not title.startswith(titles):
            continue
        parts.append(f'<text x="20" y="{y}" class="title">{escape(title)}</text>')
        y += LINE
        longest = max(bar.seconds for bar in bars)
        for bar in bars:
            kind = "own" if bar.name.startswith("mkroot") else "floor" if bar.name.startswith("floor") else "peer"
            width = max(1.0, BARS * bar.seconds / longest)
            said = f"{bar.seconds:.3g} s"
            if kind == "own" and bar.ratio > 1:
                said += f" · {bar.ratio:.3g} ×"
            name = bar.name if len(bar.name) < 48 else bar.name[:47] + "…"
            parts += [
                f'<text x="{NAMES - 8}" y="{y}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{NAMES}" y="{y - 13}" width="{width:.1f}" height="16" class="{kind}"/>',
                f'<text x="{NAMES + width + 6:.1f}" y="{y}" class="small">{said}</text>',
            ]
            y += LINE
        y += 14
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="13">'
    return "\n".join([head, "<title>Seconds of each contender</title>", f"<style>{_STYLE}</style>", *parts, "</svg>\n"])


if __name__ == "__main__":
    sys.stdout.write(picture(Path(sys.argv[1]).read_text(), tuple(sys.argv[2:]) or ("",)))
