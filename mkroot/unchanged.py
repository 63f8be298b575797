"""Tells a build that has nothing to do: the same inputs, and outputs that nobody touched since.

After a build the store keeps what went in and how each output file looked to stat(2). A file's ctime cannot be set
back, so a file that was written to, replaced or renamed since shows it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store

KIND = "built"


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """How a file looked: path below the output folder, size, times in nanoseconds, inode."""

    path: str
    size: int
    mtime: int
    ctime: int
    inode: int


class Record(msgspec.Struct, frozen=True):
    """A finished build. key: digest of all that went in. result: what it returned, encoded."""

    key: str
    seen: tuple[Seen, ...]
    result: bytes


def _place(store: Store, folder: Path) -> Path:
    name = os.fsencode(os.path.abspath(folder))
    return store.path(KIND, hashlib.sha256(name).hexdigest())


def look(folder: Path) -> tuple[Seen, ...] | None:
    """Return how every file below a folder looks, in order; None where it is not there."""
    found: list[Seen] = []
    top = os.fspath(folder)
    try:
        for at, names, files in os.walk(top, onerror=_raise):
            names.sort()
            for name in sorted(files):
                path = os.path.join(at, name)
                s = os.lstat(path)
                found.append(Seen(os.path.relpath(path, top), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino))
    except OSError:
        return None
    return tuple(found)


def _raise(error: OSError) -> None:
    raise error


def recall(store: Store, folder: Path, key: str) -> bytes | None:
    """Return what the last build into `folder` returned, if its inputs were the same and its files still stand."""
    try:
        record = from_msgpack(opened(_place(store, folder).read_bytes()), Record)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return record.result if record.key == key and look(folder) == record.seen else None


def remember(store: Store, folder: Path, key: str, result: bytes) -> None:
    """Keep what a build into `folder` made of the inputs that `key` stands for."""
    seen = look(folder)
    if seen is None:
        return
    final = _place(store, folder)
    final.unlink(missing_ok=True)
    with store.writing(KIND, final.name, sync=False) as aside:
        aside.write_bytes(sealed(msgspec.msgpack.encode(Record(key, seen, result))))


def key_of(parts: Iterable[bytes]) -> str:
    """Return the digest of a build's inputs, given in a fixed order."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "little") + part)
    return h.hexdigest()
