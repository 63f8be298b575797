"""Stanzas of `Field: value` lines: a fast reader for indices, a strict one for what a person or a package wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from mkroot.errors import MkrootError, PackageError

_FIELD = re.compile(r"^([!-9;-~]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
_NAME = re.compile(r"[!\"$-,.-9;-~][!-9;-~]*")  # Policy 5.1: printable, no colon, not starting with # or -


def stanzas(data: bytes) -> Iterator[bytes]:
    """Yield the stanzas of `data`, which are separated by empty lines, without their last newline."""
    for part in data.split(b"\n\n"):
        if stripped := part.strip(b"\n"):
            yield stripped


def parse_stanza(data: bytes) -> dict[str, str]:
    """Return the fields of one stanza by lower-case name. Lines that are no field are passed over.

    A continuation keeps its newlines and leading spaces. Of a field given twice the last one counts, as in apt.
    Undecodable bytes become surrogates.
    """
    return {name.lower(): value for name, value in _FIELD.findall(data.decode("utf-8", "surrogateescape"))}


class Field(msgspec.Struct, frozen=True):
    """One field as the strict reader gives it: name as written, value, number of its line (from 1)."""

    name: str
    value: str
    line: int


def parse_strict(text: str, where: str, error: type[MkrootError] = PackageError) -> list[dict[str, Field]]:
    """Return the stanzas of `text`, each field by its lower-case name.

    Raises `error` with file and line where a line is neither a field, a continuation, a comment nor empty, where a
    field is given twice in a stanza, or where a name is not one (Policy 5.1).
    """
    found: list[dict[str, Field]] = []
    current: dict[str, tuple[str, list[str], int]] = {}  # what a Field will have, the value by its lines
    last = ""

    def ended() -> None:
        if current:
            found.append({key: Field(name, "\n".join(lines), at) for key, (name, lines, at) in current.items()})
            current.clear()

    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip(" \t"):
            ended()
            last = ""
        elif line[0] in " \t":
            if not last:
                raise error("a continuation line that continues nothing", where=f"{where}:{number}")
            current[last][1].append(line)
        elif line[0] != "#":
            name, colon, value = line.partition(":")
            if not colon or not _NAME.fullmatch(name):
                raise error(f"not a `Field: value` line: {line[:100]!r}", where=f"{where}:{number}")
            last = name.lower()
            if last in current:
                raise error(f"field `{name}` is given twice", where=f"{where}:{number}")
            current[last] = (name, [value.strip()], number)
    ended()
    return found
