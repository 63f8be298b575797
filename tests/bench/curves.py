"""Draws the growth of costs: seconds against packages, both by their logarithm, so that a linear cost is a diagonal.

python -m tests.bench.curves docs/bench.md >docs/growth.svg
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 420, 60, 190, 40, 50  # pixels
TITLE = "### Growth: Debian"
LINES = (
    ("cold", 4, "#b5523b"),
    ("warm, new folder", 5, "#2f7d4f"),
    ("plan", 3, "#3b6fb5"),
    ("nothing changed", 6, "#777"),
)
"""What is drawn: name, column, colour."""
_STYLE = (
    "text{fill:#1b2530}.title{font-weight:bold}.small{font-size:12px;fill:#55606c}.grid{stroke:#dde3ea}"
    "polyline{fill:none;stroke-width:2}@media(prefers-color-scheme:dark){svg{background:#fff}}"
)


def rows(markdown: str) -> list[list[float]]:
    """Return the numbers of the table of growth, a row a size; nothing where there is none."""
    found: list[list[float]] = []
    inside = False
    for line in markdown.splitlines():
        if line.startswith("#"):
            inside = line.startswith(TITLE)
        elif inside and re.match(r"\| \d", line):
            found.append([float(cell.split()[0]) for cell in line.strip("| ").split("|")])
    return found


def curves(markdown: str) -> str:
    """Return an SVG of the table of growth."""
    table = rows(markdown)
    seconds = [row[column] for row in table for _, column, _ in LINES]
    across = _Axis([row[0] for row in table], LEFT, WIDTH - RIGHT)
    up = _Axis(
        [10.0 ** math.floor(math.log10(min(seconds))), 10.0 ** math.ceil(math.log10(max(seconds)))],
        HEIGHT - BOTTOM,
        TOP,
    )
    parts = ['<text x="20" y="22" class="title">Debian 13: seconds against packages, logarithmic</text>']
    for value in up.decades():
        y = up.at(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" class="small">{value:g} s</text>')
    for row in table:
        x = across.at(row[0])
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="grid"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" class="small">{row[0]:.0f}</text>'
        )
    for name, column, colour in LINES:
        points = [(across.at(row[0]), up.at(row[column])) for row in table]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{joined}" stroke="{colour}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        said = f"{name}: {table[-1][column]:.3g} s"
        parts.append(f'<text x="{points[-1][0] + 10:.1f}" y="{points[-1][1] + 4:.1f}">{escape(said)}</text>')
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, "<title>Seconds against packages</title>", f"<style>{_STYLE}</style>", *parts, "</svg>\n"])


class _Axis:
    """Places values between two pixels by their logarithm."""

    def __init__(self, values: list[float], first: float, last: float) -> None:
        self._low, self._high = math.log10(min(values)), math.log10(max(values))
        self._first, self._last = first, last

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self._first + (self._last - self._first) * (math.log10(value) - self._low) / (self._high - self._low)

    def decades(self) -> Iterator[float]:
        """Yield the powers of ten from end to end."""
        return (10.0**n for n in range(round(self._low), round(self._high) + 1))


if __name__ == "__main__":
    sys.stdout.write(curves(Path(sys.argv[1]).read_text()))
