"""The files of a tar archive by name, as views of the archive: for archives that hold images."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK
from mkroot.tar.read import entries
from mkroot.tar.stream import Corrupt, Stream

_LINKS = 40  # followed before a name is called a loop


@contextmanager
def archive_members(path: Path) -> Iterator[dict[str, memoryview]]:
    """Give the files of a tar archive that is not compressed; a link to one of them stands for it.

    Nothing outside of the archive is ever meant by a name in it. Raises OSError, ValueError where the file is empty
    or none, and Corrupt where it is no tar archive.
    """
    with open(path, "rb") as f:
        status = os.fstat(f.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a file")
        if not status.st_size:
            raise ValueError("it is empty")
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped when its last view goes
        whole = memoryview(mapped)
        files: dict[str, memoryview] = {}
        links: dict[str, str] = {}
        for name, at, size, link in _places(mapped, len(mapped)):
            if link is None:
                files[name] = whole[at : at + size]
            else:
                links[name] = link
        for name in links:
            target = name
            for _ in range(_LINKS):
                if target not in links:
                    break
                target = links[target]
            if target in files:
                files[name] = files[target]
        yield files


def _places(mapped: mmap.mmap, end: int) -> Iterator[tuple[str, int, int, str | None]]:
    """Yield name, offset and size of each file, and for a link the name that it means."""
    read: Callable[[int], bytes] = mapped.read
    stream = Stream(iter(lambda: read(1 << 20), b""))
    for entry, _ in entries(stream, pax=True):
        if entry.kind == FILE and entry.data + entry.size <= end:
            yield entry.path, entry.data, entry.size, None
        elif entry.kind == HARDLINK:
            yield entry.path, 0, 0, entry.link
        elif entry.kind == SYMLINK:
            yield entry.path, 0, 0, _meant(entry.path, entry.link)
        elif entry.kind not in (DIR, FILE):
            raise Corrupt(f"member {entry.path[:200]!r} is neither a file nor a folder")


def _meant(path: str, link: str) -> str:
    """Return the name in the archive that a symbolic link means; raises Corrupt where it leads out of it."""
    parts = [] if link.startswith("/") else path.split("/")[:-1]
    for part in link.split("/"):
        if part == "..":
            if not parts:
                raise Corrupt(f"link {path[:200]!r} leads out of the archive")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
