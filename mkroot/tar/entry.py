"""One member of a tree: what a tar header can say of a file."""

from __future__ import annotations

import msgspec

FILE, DIR, SYMLINK, HARDLINK, CHAR, BLOCK, FIFO = "f", "d", "l", "h", "c", "b", "p"


class Entry(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """A member of a tree or of a tar stream.

    path: relative to the root, without leading or trailing slash; undecodable bytes as surrogates; "" is the root.
    kind: one of FILE, DIR, SYMLINK, HARDLINK, CHAR, BLOCK, FIFO.
    mode: the permission bits, 0 to 0o7777.
    mtime: seconds since 1970.
    size: bytes of content, of a FILE; 0 otherwise.
    link: a SYMLINK's target as written; a HARDLINK's target as a path relative to the root, like `path`.
    xattrs: extended attributes by name (`security.capability`), values as bytes.
    data: offset of the content in the stream that the entry was read from, of a FILE.
    sha256: hexadecimal digest of a FILE's content, or "" where it is not known.
    """

    path: str
    kind: str
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = {}
    data: int = 0
    sha256: str = ""


def parent(path: str) -> str:
    """Return the path of the folder that holds `path`; "" for a top-level name and for the root."""
    return path.rpartition("/")[0]
