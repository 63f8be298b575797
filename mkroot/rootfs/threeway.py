"""Merges the small databases of a root that two sides have changed: by entry, as a person would.

Each is a list of entries with a name: a stanza, a line, three lines. An entry that one side changed is taken from it;
one that both changed in different ways is a conflict.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from mkroot.rootfs.dpkg import ADMIN, STATUS, TRIGGERS

Split = Callable[[bytes], list[tuple[bytes, bytes]]]


class Merged(msgspec.Struct, frozen=True):
    """A merged file, and the names of the entries that the two sides changed in different ways (theirs stand there)."""

    data: bytes
    conflicts: tuple[str, ...]


def merge(path: str, old: bytes, mine: bytes, theirs: bytes) -> Merged | None:
    """Return what a known database becomes; None where the path is none.

    old: before both changes. mine: a layer's. theirs: the new parent's, whose order is kept; what mine adds follows.
    """
    split = next((s for pattern, s in _KINDS if pattern.fullmatch(path)), None)
    if split is None:
        return None
    before, ours, found = dict(split(old)), dict(split(mine)), dict(split(theirs))
    conflicts = []
    for name in [*ours, *(n for n in before if n not in ours)]:
        was, wanted, there = before.get(name), ours.get(name), found.get(name)
        if wanted in (was, there):
            continue
        if there != was:
            conflicts.append(name.decode("utf-8", "replace"))
        elif wanted is None:
            del found[name]
        else:
            found[name] = wanted
    entries = list(found.items())
    if path == STATUS:
        entries.sort(key=lambda e: e[0].split(b":"))  # as dpkg writes it
    return Merged(b"".join(e + b"\n" for _, e in entries), tuple(sorted(conflicts)))


def _stanzas(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    for part in data.split(b"\n\n"):
        if stanza := part.strip(b"\n"):
            fields: dict[bytes, bytes] = dict(re.findall(rb"^(Package|Name|Architecture): *(.*)$", stanza, re.M))
            name = fields.get(b"Package", fields.get(b"Name", stanza)) + b":" + fields.get(b"Architecture", b"")
            found.append((name, stanza + b"\n"))
    return found


def _accounts(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(line.partition(b":")[0], line) for line in data.splitlines()]


def _lines(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(line, line) for line in data.splitlines()]


def _threes(data: bytes) -> list[tuple[bytes, bytes]]:
    lines = data.splitlines()
    return [(lines[n], b"\n".join(lines[n : n + 3])) for n in range(0, len(lines) - 2, 3)]


_KINDS: tuple[tuple[re.Pattern[str], Split], ...] = (
    (re.compile(rf"{STATUS}|var/lib/apt/extended_states|var/cache/debconf/[a-z]+\.dat"), _stanzas),
    (re.compile(r"etc/(passwd|group|shadow|gshadow|subuid|subgid)"), _accounts),
    (re.compile(rf"{TRIGGERS}/[^/]+|{ADMIN}/statoverride|etc/shells"), _lines),
    (re.compile(rf"{ADMIN}/diversions"), _threes),
)
BACKUPS = re.compile(  # what programs keep of an older state, locks, logs and caches: nobody reads them
    rf"{ADMIN}/(status-old|available|lock|lock-frontend|triggers/Lock|diversions-old|statoverride-old)"
    r"|etc/(passwd|group|shadow|gshadow|subuid|subgid)-|var/cache/debconf/[a-z]+\.dat-old"
    r"|var/log/.*|var/cache/(apt|ldconfig)/.*|var/lib/apt/lists/.*|var/backups/.*|tmp/.*|run/.*"
)
