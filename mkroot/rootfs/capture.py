"""Turns what scripts wrote into a layer: what is really new or changed, and which script wrote it."""

from __future__ import annotations

import bisect
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mkroot.rootfs.tree import Tree, check_path
from mkroot.rootfs.upper import Changes, read_upper
from mkroot.store.layer import NOW, FrameBuilder, Layer
from mkroot.tar.entry import DIR, FILE, HARDLINK, Entry

DATABASE = "mkroot: dpkg's database"  # who wrote what was there before the first script
COARSE = 5  # CLOCK_REALTIME_COARSE of clock_gettime(3): the clock from which files get their times


NOTHING: Mapping[str, str] = {}


class Event(msgspec.Struct, frozen=True):
    """A script begins. when: seconds, by the clock that file times have (COARSE). what: whose and which."""

    when: float
    what: str


def capture(
    upper: Path,
    before: Tree,
    key: str,
    name: str,
    start: float,
    events: Sequence[Event],
    *,
    keep: Mapping[str, str] = NOTHING,
    owners: Mapping[str, tuple[int, int]] | None = None,
    heirs: bool = False,
    writers: Mapping[str, tuple[int, str]] | None = None,
    epoch: int | None = None,
) -> tuple[Layer, list[bytes]]:
    """Return the layer of what an upper folder holds, and the chunks of its stream.

    before: what the layers below it show. key, name: the layer's. start: when the first script began, seconds; a file
    written since carries no time of its own. events: the scripts in order, to tell which one wrote a path.
    keep: paths that belong to the layer though nothing changed them, each with whose it is where no script wrote it
    (DATABASE). owners: as `read_upper` takes them.
    heirs: where there is one id only, a program that replaces a file keeps the owner that stat shows, which is root;
    the new file is taken to belong to whom the old one did.
    writers: who is known to have changed a path last, with its ctime after that (nanoseconds).
    epoch: the date of the newest package; a later time is a build's, such as that of a copy of what an earlier stage
    wrote, and none of the file's own. Raises RootfsError, OSError.
    """
    changes = read_upper(upper, owners=owners)
    for found in changes.entries:
        check_path(found.path, found.link)
    builder = FrameBuilder()
    chunks: list[bytes] = []
    origins: dict[str, str] = {}
    changed = _changed_links(changes) | set(keep)
    whens = [e.when for e in events]
    emptied = tuple(f"{p}/" if p else "" for p in changes.opaque)  # what is as it was must be told here, too
    # A copy with the time of what an earlier stage wrote, such as /etc/group-: when that was is nobody's business.
    builds = {n.entry.sha256 for n in before.nodes.values() if n.entry.mtime == NOW and n.entry.size}
    for found in changes.entries:
        content = _content(changes, found)
        entry = _entry(found, content, start, epoch)
        if entry.sha256 in builds:
            entry = msgspec.structs.replace(entry, mtime=NOW)
        node = before.nodes.get(entry.path)
        if heirs and (entry.uid, entry.gid) == (0, 0):
            entry = _heir(entry, before)
        told = entry.path in changed or entry.path in changes.opaque or entry.path.startswith(emptied)
        if node is not None and not told and _same(entry, node.entry):
            continue
        writer = (writers or {}).get(entry.path)
        who = _who(os.lstat(changes.path_of(found)), whens, events, writer)
        origins[entry.path] = keep.get(entry.path, who) if who == DATABASE else who
        if chunk := builder.add(entry, content):
            chunks.append(chunk)
    gone = tuple(p for p in changes.removed if p in before.nodes or p in changed)
    layer = Layer(
        key=key,
        name=name,
        entries=tuple(builder.entries),
        removed=gone,
        opaque=changes.opaque,
        origins=origins,
    )
    return layer, chunks


def _changed_links(changes: Changes) -> set[str]:
    """Return the paths of files with several names: they are kept together, whether or not one of them is unchanged."""
    linked = {e.link for e in changes.entries if e.kind == HARDLINK}
    return linked | {e.path for e in changes.entries if e.kind == HARDLINK}


def _content(changes: Changes, entry: Entry) -> bytes:
    if entry.kind != FILE or not entry.size:
        return b""
    with os.fdopen(changes.open(entry), "rb") as f:
        return f.read()


def _entry(entry: Entry, content: bytes, start: float, epoch: int | None) -> Entry:
    mtime = NOW if entry.mtime >= int(start) or (epoch is not None and entry.mtime > epoch) else entry.mtime
    if entry.kind == FILE:
        return msgspec.structs.replace(
            entry, mtime=mtime, size=len(content), sha256=hashlib.sha256(content).hexdigest()
        )
    return msgspec.structs.replace(entry, mtime=mtime)


def _heir(entry: Entry, before: Tree) -> Entry:
    """Return an entry that belongs to whom the file belonged that it replaces, or of which it is the backup `FILE-`."""
    node = before.nodes.get(entry.path) or before.nodes.get(entry.path.removesuffix("-"))
    if node is None or node.entry.kind != entry.kind:
        return entry
    return msgspec.structs.replace(entry, uid=node.entry.uid, gid=node.entry.gid)


def _same(new: Entry, old: Entry) -> bool:
    """Tell whether an entry of the upper says no more than the layers below: a copy that nothing came of."""
    if (new.kind, new.mode, new.uid, new.gid, new.xattrs) != (
        old.kind,
        old.mode,
        old.uid,
        old.gid,
        old.xattrs,
    ):
        return False
    if new.kind == DIR:
        return True
    return (new.size, new.sha256, new.link, new.device) == (old.size, old.sha256, old.link, old.device)


def _who(found: os.stat_result, whens: Sequence[float], events: Sequence[Event], writer: tuple[int, str] | None) -> str:
    """Return the script that ran when a file was last changed; what was there before the first is mkroot's own.

    whens: when each of the events was. writer: who is known to have changed it last, with the ctime after that.
    """
    if writer is not None and writer[0] == found.st_ctime_ns:
        return writer[1]
    index = bisect.bisect_right(whens, found.st_ctime) - 1
    return events[index].what if index >= 0 else DATABASE
