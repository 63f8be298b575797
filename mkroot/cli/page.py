"""What the pages of `mkroot build` have in common: their frame, their looks, and where one may be written."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import msgspec

from mkroot.errors import ArtifactError, UsageError, printable
from mkroot.store.replaced import replace

_START = "<!doctype html>\n<html lang=en>"
_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2430; --soft: #5f6b7a; --line: #d9dee5 }
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.4rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .15rem .8rem; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child, .words { text-align: left }
th { font-weight: 600; color: var(--soft) }
.soft { color: var(--soft) } .scroll { overflow-x: auto }
"""
_DARK = "--ground: #14181d; --text: #e3e8ee; --soft: #98a4b3; --line: #2c343d"


class Kind(msgspec.Struct, frozen=True):
    """A kind of page. option: that asks for it; name: what it is called; start: by which one is known again."""

    option: str
    name: str
    start: str = _START


def document(kind: Kind, title: str, body: Iterable[str], *, style: str, dark: str, script: str = "") -> str:
    """Return a page: HTML that loads nothing, and runs nothing but `script`.

    title and body are HTML. style: rules beside the common ones; dark: those of a dark screen. Were a name taken for
    markup after all, a browser would not run it: the policy names the script by its digest (Content Security Policy
    Level 3, section 2.3.1).
    """
    runs = ""
    if script:
        runs = f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    dark = f"@media screen and (prefers-color-scheme: dark) {{\n:root {{ {_DARK} }}\n{dark}}}\n"
    parts = [
        f"{kind.start}\n<head>\n<meta charset=utf-8>\n<meta name=viewport content='width=device-width'>\n",
        f"<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'{runs}\">\n",
        f"<title>{title}</title>\n<style>{_STYLE}{style}{dark}</style>\n</head>\n<body>\n",
        *body,
        f"<script>{script}</script>\n" if script else "",
        "</body>\n</html>\n",
    ]
    return "".join(parts)


def table(title: str, heads: Sequence[str], cells: Iterable[Sequence[str]], words: Sequence[int] = ()) -> str:
    """Return a table, nothing of one without rows; `cells` are HTML, and those in the columns `words` are text."""
    lines = []
    for row in cells:
        lines.append("".join(f"<td{' class=words' if n in words else ''}>{cell}</td>" for n, cell in enumerate(row)))
    if not lines:
        return ""
    head = "".join(f"<th{' class=words' if n in words else ''}>{name}</th>" for n, name in enumerate(heads))
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f"<h3>{title}</h3>\n<div class=scroll><table>\n<tr>{head}</tr>\n{body}</table></div>\n"


def text(given: str) -> str:
    """Return a text as HTML: a package's name, or what a script or a mirror said, is no markup."""
    return escape(printable(given))


def checked(kind: Kind, given: str, out: Path) -> Path:
    """Return the path of a page that may be written; raises UsageError, ArtifactError.

    A file that is there already is replaced only if it is such a page: a slip of the hand must not cost a recipe.
    out: the output folder.
    """
    path = Path(os.path.realpath(given))
    if given == "-":
        example = f"{kind.option} {kind.option.removeprefix('--')}.html"
        raise UsageError(f"`{kind.option} -`: the page is a file", hint=f"name one, such as `{example}`")
    within = Path(os.path.realpath(out))
    if len(path.parts) > len(within.parts) + 1 and path.is_relative_to(within):
        raise UsageError(
            f"`{kind.option} {given}` lies in a folder of outputs, which a build replaces as a whole",
            hint=f"name a file elsewhere, such as {out / path.name}",
        )
    try:
        foreign = path.exists() and not _replaceable(kind, path)
    except OSError as e:
        raise _unwritable(kind, e.strerror or str(e), given) from e
    if foreign:
        raise ArtifactError(
            f"it is there already and is not a {kind.name}: it is not replaced",
            where=given,
            hint=f"name another file with `{kind.option} FILE`",
        )
    if not path.parent.is_dir() and path.parent != within:
        raise _unwritable(kind, "its folder is not there", given)
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unwritable(kind, "its folder cannot be written to", given)
    return path


def write(kind: Kind, path: Path, html: str) -> None:
    """Write a page, whole or not at all; raises ArtifactError."""
    try:
        replace(path, html.encode("utf-8", "backslashreplace"), sync=False)
    except OSError as e:
        raise _unwritable(kind, e.strerror or str(e), str(path)) from e


def _replaceable(kind: Kind, path: Path) -> bool:
    if not path.is_file():
        return False
    start = kind.start.encode()
    with open(path, "rb") as f:
        head = f.read(len(start))
    return not head or head == start


def _unwritable(kind: Kind, why: str, where: str) -> ArtifactError:
    return ArtifactError(
        f"the {kind.name} cannot be written: {why}", where=where, hint=f"name another file with `{kind.option} FILE`"
    )
