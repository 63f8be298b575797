"""The end of a log, as a page may have it."""

from __future__ import annotations

import re
from html import escape

import msgspec

from mkroot.errors import masked, printable, shown

# Control sequences of a terminal (ECMA-48, 5.4), and the titles and links that it may be told (OSC): no text.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """The last lines of a log, as HTML. lines: of the whole log; left: how many of them are left out here."""

    html: str
    lines: int
    left: int


def tail(log: str, limit: int) -> Tail:
    """Return the last lines of a log that take at most about `limit` bytes: escaped, passwords of URLs masked.

    One line at least is kept, cut if need be. What a script wrote is anybody's text: control sequences of a terminal
    are left out, other control characters are written as escapes.
    """
    log = log.rstrip("\r\n")
    if not log:
        return Tail(html="", lines=0, left=0)
    kept: list[str] = []
    room = limit
    for line in reversed(_plain(_last(log, 2 * limit)).split("\n")):
        html = escape(printable(masked(line)), quote=False)
        room -= len(html.encode("utf-8", "backslashreplace")) + 1
        if room < 0:
            kept = kept or [escape(shown(line, limit // 8), quote=False)]
            break
        kept.append(html)
    lines = _ends(log) + 1
    return Tail(html="\n".join(reversed(kept)), lines=lines, left=max(0, lines - len(kept)))


def _last(log: str, limit: int) -> str:
    """Return the end of a log, from the begin of a word on: an address cut in its middle hides its password's begin."""
    if len(log) <= limit:
        return log
    space = re.compile(r"\s").search(log, len(log) - limit)
    return log[space.end() :] if space else "…"


def _plain(text: str) -> str:
    return _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def _ends(text: str) -> int:
    """Return the number of line ends."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")
