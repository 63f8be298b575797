"""What a container changed, a line a path, as `docker diff` tells it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from mkroot.container.view import View
from mkroot.rootfs.upper import Changes
from mkroot.tar.entry import parent

ADDED, CHANGED, DELETED = "A", "C", "D"


class Change(Struct, frozen=True, kw_only=True, order=True):
    """A path with its leading slash, and whether it was added, changed or deleted."""

    path: str
    kind: str


def changed_paths(changes: Changes, below: Sequence[Path]) -> list[Change]:
    """Return what the upper folder says over the layers' trees, sorted by path.

    below: the trees, the topmost first. A folder counts as changed where something in it was; of a deleted folder
    only itself is named. Raises OSError.
    """
    view = View([str(folder) for folder in below])
    found: dict[str, str] = {}
    for entry in changes.entries:
        found[entry.path] = ADDED if view.lstat(entry.path) is None else CHANGED
    gone = set(changes.removed)
    for folder in changes.opaque:
        gone.update(f"{folder}/{name}" for name in view.names(folder))
    hidden = set(changes.opaque)
    for path in gone:
        covered = any(up in hidden for up in _above(parent(path)))
        if path not in found and not covered and view.lstat(path) is not None:
            found[path] = DELETED
    return sorted((Change(path="/" + path, kind=kind) for path, kind in found.items()), key=lambda c: c.path.split("/"))


def _above(path: str) -> list[str]:
    found = []
    while path := parent(path):
        found.append(path)
    return found
