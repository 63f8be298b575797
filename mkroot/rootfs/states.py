"""What a path of a root is at a moment, in the words in which two runs of a script can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable

import msgspec

from mkroot.rootfs.tree import Tree
from mkroot.store.layer import NOW
from mkroot.store.marks import DEVICE, OWNER
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, SYMLINK

# How closely a script looked: at the name, who may use it and its attributes; at all that stat(2) tells; at what is in
# it.
KIND, META, CONTENT = 0, 1, 2
LARGEST = 64 << 20  # bytes of a file that is read to compare it
_FRESH = 20_000_000  # nanoseconds within which a file may change and keep its times (coarse clock)
_KINDS = {
    stat.S_IFREG: FILE, stat.S_IFDIR: DIR, stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHAR, stat.S_IFBLK: BLOCK,
    stat.S_IFIFO: FIFO,
}  # fmt: skip


class State(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """A path: kind "" where nothing is there, else as in `mkroot.tar.entry`, or "s" for a socket.

    text: a link's target; a device's numbers. The others are filled in as closely as was looked: mtime (seconds, or
    NOW for what builds write), size and links by META; digest, of a file's content or a folder's names, by
    CONTENT.
    """

    kind: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    text: str = ""
    size: int = 0
    mtime: int = 0
    links: int = 0
    attributes: tuple[tuple[str, bytes], ...] = ()
    digest: str = ""


ABSENT = State()
Names = Callable[[str, list[str]], list[str]]


class TooLarge(Exception):
    """A file that is too large to be compared."""


class States:
    """Looks at a mounted root.

    at: a descriptor of it. upper: one of its top, to tell what in it is still a layer's. tree: what the layers below
    the top hold. start: when the first script began, seconds.
    """

    def __init__(self, at: int, upper: int, tree: Tree, start: float) -> None:
        self.at, self._upper, self._tree, self._start = at, upper, tree, int(start)
        self._digests: dict[tuple[int, ...], str] = {}

    def look(self, path: str, level: int, names: Names | None = None) -> State:
        """Return what a path is. It must lead over folders only. names: corrects a folder's names.

        Raises OSError, TooLarge.
        """
        try:
            st = os.stat(path or ".", dir_fd=self.at, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        kind = _KINDS.get(stat.S_IFMT(st.st_mode), "s")
        mode, text = stat.S_IMODE(st.st_mode), ""
        if kind == SYMLINK:
            text = os.readlink(path, dir_fd=self.at)
        elif kind in (CHAR, BLOCK):
            text = f"{os.major(st.st_rdev)}:{os.minor(st.st_rdev)}"
        attributes = self._attributes(path) if kind in (FILE, DIR) else ()
        if level == KIND:
            return State(kind, mode, st.st_uid, st.st_gid, text, attributes=attributes)
        mtime = self.mtime(path, kind, st)
        digest = ""
        if level == CONTENT and kind == FILE:
            digest = self.digest(path, st)
        elif level == CONTENT and kind == DIR:
            found = self._names(path)
            found = sorted(names(path, found) if names else found)
            digest = hashlib.sha256("\0".join(found).encode("utf-8", "surrogateescape")).hexdigest()
        if kind != FILE:
            return State(kind, mode, st.st_uid, st.st_gid, text, 0, mtime, 0, attributes, digest)
        return State(kind, mode, st.st_uid, st.st_gid, text, st.st_size, mtime, st.st_nlink, attributes, digest)

    def mtime(self, path: str, kind: str, st: os.stat_result) -> int:
        """Return a time in seconds, NOW for what a build wrote: the same in every build."""
        seconds = int(st.st_mtime)
        node = self._tree.nodes.get(path)
        if seconds >= self._start or (node is not None and node.entry.mtime == NOW):
            return NOW
        # A folder shows the time of the topmost layer that has it, which may be a copy that nothing came of.
        return NOW if kind == DIR and (node is None or node.entry.mtime != seconds) else seconds

    def _names(self, path: str) -> list[str]:
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.at)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def _attributes(self, path: str) -> tuple[tuple[str, bytes], ...]:
        place = f"/proc/self/fd/{self.at}/{path}"
        found = os.listxattr(place, follow_symlinks=False)
        kept = [n for n in found if n.startswith(("user.", "system.posix_acl_")) or n == "security.capability"]
        own = [n for n in kept if not n.startswith("user.overlay.") and n not in (OWNER, DEVICE)]
        return tuple((n, os.getxattr(place, n, follow_symlinks=False)) for n in sorted(own))

    def digest(self, path: str, st: os.stat_result) -> str:
        """Return the digest of a file's content, a layer's without reading it; raises OSError, TooLarge."""
        if st.st_size > LARGEST:
            raise TooLarge(path)
        node = self._tree.nodes.get(path)
        if node is not None and node.entry.kind == FILE and node.entry.sha256 and not self._written(path):
            return node.entry.sha256
        key = (st.st_dev, st.st_ino, st.st_ctime_ns, st.st_size, st.st_mtime_ns)
        known = self._digests.get(key)
        if known is None:
            known = hashlib.sha256(self.read(path)).hexdigest()
            if time.clock_gettime_ns(time.CLOCK_REALTIME) - st.st_ctime_ns > _FRESH:
                self._digests[key] = known
        return known

    def _written(self, path: str) -> bool:
        try:
            os.stat(path, dir_fd=self._upper, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def read(self, path: str) -> bytes:
        """Return a regular file's content; raises OSError."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags, dir_fd=self.at), "rb", buffering=0) as f:
            return f.readall()

    def head(self, path: str) -> bytes:
        """Return the first page of a file; raises OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.at)
        try:
            return os.read(fd, 4096)
        finally:
            os.close(fd)
