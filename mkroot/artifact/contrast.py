"""The first thing in which two artifacts of one kind differ, in words: for whoever built twice and got two results."""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mkroot.artifact.diff import item_changes
from mkroot.artifact.inventory import Item, read_folder, unpacked_file
from mkroot.errors import ArtifactError, printable
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, SYMLINK, Entry
from mkroot.tar.read import entries
from mkroot.tar.stream import Corrupt, Stream

_STEP = 1 << 20
_NAME_LIMIT = 1 << 16  # bytes of a name in a cpio archive
Member = tuple[str, Item, int]
"""Path, metadata with the content's digest, time; a hard link keeps its kind and names its file."""
Chunks = Callable[[], Iterator[bytes]]


def tar_difference(before: Chunks, after: Chunks) -> str:
    """Return in what two tar streams first differ, "" where their members are the same in the same order.

    before, after: make the uncompressed streams; they are read side by side, in little memory.
    """
    return _difference(lambda: tar_members(before()), lambda: tar_members(after()))


def cpio_difference(before: Chunks, after: Chunks) -> str:
    """Return in what two cpio archives (newc) first differ; see tar_difference."""
    return _difference(lambda: cpio_members(before()), lambda: cpio_members(after()))


def tar_members(chunks: Iterator[bytes]) -> Iterator[Member]:
    """Yield the members of a tar stream; raises Corrupt, ArtifactError."""
    stream = Stream(chunks)
    for e, _ in entries(stream, pax=True):
        digest = _digest(stream, e.size) if e.kind == FILE else ""
        yield e.path, _item(e, digest), e.mtime


def cpio_members(chunks: Iterator[bytes]) -> Iterator[Member]:
    """Yield the members of a newc archive (cpio(5)); raises Corrupt, ArtifactError."""
    stream = Stream(chunks)
    kinds = {0o10: FILE, 0o04: DIR, 0o12: SYMLINK, 0o02: CHAR, 0o06: BLOCK, 0o01: FIFO}
    while True:
        head = stream.read(110)
        try:
            if len(head) < 110 or head[:6] != b"070701":
                raise Corrupt("the archive is truncated" if len(head) < 110 else "no header where one should be")
            numbers = [int(head[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
        except ValueError:
            raise Corrupt("an unreadable header") from None
        _, mode, uid, gid, _, mtime, size, _, _, major, minor, length, _ = numbers
        if not 0 < length <= _NAME_LIMIT:
            raise Corrupt("an impossible name")
        name = stream.read(length)[:-1].decode("utf-8", "surrogateescape")
        stream.read(-(110 + length) % 4)
        if name == "TRAILER!!!":
            return
        kind = kinds.get(mode >> 12, FILE)
        link = stream.read(min(size, _NAME_LIMIT)).decode("utf-8", "surrogateescape") if kind == SYMLINK else ""
        digest = _digest(stream, size) if kind == FILE else ""
        stream.read(-size % 4)
        entry = Entry(name, kind, mode & 0o7777, uid, gid, mtime, size if kind == FILE else 0, link, (major, minor))
        yield name, _item(entry, digest), mtime


def _digest(stream: Stream, size: int) -> str:
    h = hashlib.sha256()
    while size:
        piece = stream.read(min(size, _STEP))
        if not piece:
            raise Corrupt("the stream is truncated")
        h.update(piece)
        size -= len(piece)
    return h.hexdigest()


def _item(e: Entry, digest: str) -> Item:
    return Item(e.kind, e.mode, e.uid, e.gid, e.size, digest, e.link, e.device, e.xattrs)


def _difference(before: Callable[[], Iterator[Member]], after: Callable[[], Iterator[Member]]) -> str:
    """Return in what the members first differ; damage counts as what follows the last member that could be read."""
    last = ""
    for old, new in itertools.zip_longest(_sound(before()), _sound(after())):
        if isinstance(old, Corrupt):
            return f"damaged {_after(last)}: {old}"
        if isinstance(new, Corrupt):
            return f"what was built again is damaged {_after(last)}: {new}"
        if old is None or new is None or old[0] != new[0]:
            return _other_member(old, new, before, after)
        last = old[0]
        if words := changes(old[1], new[1], old[2], new[2]):
            return f"{shown(last)}: {words}"
    return ""


def _sound(members: Iterator[Member]) -> Iterator[Member | Corrupt]:
    """Yield members, and at the end the damage, where there is any."""
    try:
        yield from members
    except Corrupt as e:
        yield e
    except ArtifactError as e:
        yield Corrupt(e.what)


def _after(last: str) -> str:
    return f"after {shown(last)}" if last else "at its beginning"


def shown(path: str) -> str:
    """Return a member's path as messages show it."""
    return "/" + printable(path)


def _other_member(
    old: Member | Corrupt | None,
    new: Member | Corrupt | None,
    before: Callable[[], Iterator[Member]],
    after: Callable[[], Iterator[Member]],
) -> str:
    """Return what is wrong where the members at one place have different paths."""
    here = {m[0] for m in _sound(before()) if not isinstance(m, Corrupt)}
    there = {m[0] for m in _sound(after()) if not isinstance(m, Corrupt)}
    if isinstance(old, tuple) and old[0] not in there:
        return f"{shown(old[0])}: only in the artifact"
    if isinstance(new, tuple) and new[0] not in here:
        return f"{shown(new[0])}: missing in the artifact"
    one = old if isinstance(old, tuple) else new
    return f"{shown(one[0] if isinstance(one, tuple) else '')}: stands in another place"


def changes(old: Item, new: Item, old_time: int, new_time: int) -> str:
    """Return in words in what two members of one path differ, "" for nothing: `content differs`, `mode 0644 → 0600`.

    Before the arrow stands the artifact, after it what was built again.
    """
    found = item_changes(old, new)
    words = [f"{name} {a or 'none'} → {b or 'none'}" for name, (a, b) in found.items() if name != "content"]
    if old_time != new_time:
        words.append(f"time {old_time} → {new_time}")
    if "content" in found:
        words.insert(0, "content differs")
    return ", ".join(words)


def folder_difference(before: Path, after: Path) -> str:
    """Return in what two folders first differ, by path, "" for nothing; raises ArtifactError.

    Owners, devices and attributes are those on disk, so both must have been written by the same kind of user.
    """
    old, new = read_folder(before).files or {}, read_folder(after).files or {}
    for path in sorted(old.keys() | new.keys()):
        if path not in new:
            return f"{shown(path)}: only in the artifact"
        if path not in old:
            return f"{shown(path)}: missing in the artifact"
        times = [int(os.lstat(place / path).st_mtime) for place in (before, after)]
        if words := changes(old[path], new[path], *times):
            return f"{shown(path)}: {words}"
    return ""


def json_difference(before: bytes, after: bytes) -> str:
    """Return the first key in which two JSON documents differ, with both values, "" for none."""
    try:
        return _key_difference(json.loads(before), json.loads(after), "")
    except (ValueError, RecursionError):
        return "no JSON any more"


def _key_difference(old: object, new: object, path: str) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{path}.{key}" if path else str(key)
            if key not in new:
                return f"`{place}`: only in the artifact"
            if key not in old:
                return f"`{place}`: missing in the artifact"
            if found := _key_difference(old[key], new[key], place):
                return found
        return ""
    if isinstance(old, list) and isinstance(new, list):
        for n, (a, b) in enumerate(zip(old, new)):
            if found := _key_difference(a, b, f"{path}[{n}]"):
                return found
        return "" if len(old) == len(new) else f"`{path}`: {len(old)} → {len(new)} items"
    return "" if old == new else f"`{path}`: {_value(old)} → {_value(new)}"


def _value(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"


def first_offset(before: Path, after: Path) -> int | None:
    """Return the offset of the first byte in which two files differ, None for none; raises OSError."""
    with open(before, "rb", buffering=0) as a, open(after, "rb", buffering=0) as b:
        at = 0
        while True:
            old, new = a.read(_STEP), b.read(_STEP)
            if old != new:
                return at + differing(old, new)
            if not old:
                return None
            at += len(old)


def differing(old: bytes | memoryview | mmap.mmap, new: bytes | memoryview | mmap.mmap) -> int:
    """Return the index of the first byte in which two runs differ, or the shorter one's length."""
    low, high = 0, min(len(old), len(new))
    if old[:high] == new[:high]:
        return high
    while high - low > 1:  # the first difference lies in [low, high)
        middle = (low + high) // 2
        low, high = (middle, high) if old[low:middle] == new[low:middle] else (low, middle)
    return low


def file_difference(before: Path, after: Path) -> str:
    """Return in what two files first differ, looking into archives whose name says what they are, "" for nothing.

    Raises MkrootError, OSError.
    """
    name = before.name
    at = first_offset(before, after)
    if at is None:
        return ""
    found = ""
    if name.endswith((".tar", ".tar.gz", ".tar.zst")):
        found = tar_difference(lambda: unpacked_file(before), lambda: unpacked_file(after))
    elif name.endswith(".cpio.zst"):
        found = cpio_difference(lambda: unpacked_file(before), lambda: unpacked_file(after))
    elif name.endswith(".json"):
        found = json_difference(before.read_bytes(), after.read_bytes())
    sizes = [path.stat().st_size for path in (before, after)]
    size = "" if sizes[0] == sizes[1] else f"; {sizes[0]} → {sizes[1]} bytes"
    return found or f"other bytes from offset {at} on{size}"
