"""What a run wrote: an overlay's upper folder read as entries, removed paths and replaced folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from mkroot.errors import RootfsError
from mkroot.rootfs import linux
from mkroot.store import marks
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from mkroot.tar.footing import DEPTH, NAME_MAX, PATH_MAX

_OVERLAY = ("trusted.overlay.", "user.overlay.")
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK,
    stat.S_IFIFO: FIFO,
}


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in an upper folder.

    entries: every member, folders before what they hold, sorted by path; the folder itself (path "") is not among them.
    Of several links to one file the first is a FILE, the others are HARDLINKs to it. sha256 is not filled in.
    removed: paths of the lower layers that are gone. opaque: folders that hide what lower layers have below them.
    """

    root: Path
    entries: tuple[Entry, ...]
    removed: tuple[str, ...]
    opaque: tuple[str, ...]

    def path_of(self, entry: Entry) -> Path:
        """Return where the entry's content lies on disk."""
        return self.root / entry.path

    def open(self, entry: Entry) -> int:
        """Return a descriptor of a FILE's content, opened without following any symlink; raises OSError."""
        at = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return linux.open_beneath(at, entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        finally:
            os.close(at)


def read_upper(
    upper: Path, *, ignored: Collection[str] = (), owners: Mapping[str, tuple[int, int]] | None = None
) -> Changes:
    """Return what an overlay's upper folder holds; also reads a plain tree.

    ignored: paths left out, with all below them. owners: owner and group by path, where they are not the file's own
    (`Sandbox.owners`). Extended attributes kept: `user.*`, file capabilities and POSIX ACLs. Sockets are left out.
    Nobody may write to the folder meanwhile. Raises RootfsError.
    """
    reader = _Reader(frozenset(ignored), owners or {})
    try:
        at = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        reader.folder(at, "")
    except OSError as e:
        raise RootfsError(f"what the scripts wrote cannot be read: {e.strerror}", where=str(upper)) from e
    return reader.changes(upper)


def read_open(at: int, name: str = "", *, owners: Mapping[str, tuple[int, int]] | None = None) -> Changes:
    """Return what the open folder `at` holds, or only its member `name` with all below; as `read_upper` does.

    Contents are read through `at`, which must stay open. Raises OSError.
    """
    reader = _Reader(frozenset(), owners or {})
    if name:
        reader.member(at, name, name)
    else:
        reader.folder(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at), "")
    return reader.changes(Path(f"/proc/self/fd/{at}"))


class _Reader:
    """One walk; folders are read by descriptor, in order of names."""

    def __init__(self, ignored: frozenset[str], owners: Mapping[str, tuple[int, int]]) -> None:
        self.entries: list[Entry] = []
        self.removed: list[str] = []
        self.opaque: list[str] = []
        self._ignored, self._owners = ignored, owners
        self._links: dict[tuple[int, int], str] = {}

    def folder(self, fd: int, path: str) -> None:
        """Read the folder behind `fd`, and close it; raises RootfsError for what no tree can hold."""
        try:
            if path.count("/") >= DEPTH or len(os.fsencode(path)) > PATH_MAX - NAME_MAX:
                raise RootfsError(f"/{path[:200]} lies more than {DEPTH} folders deep, or has too long a name")
            with os.scandir(fd) as listing:
                names = sorted(entry.name for entry in listing)
            for name in names:
                inner = f"{path}/{name}" if path else name
                if inner not in self._ignored:
                    self.member(fd, name, inner)
        finally:
            os.close(fd)

    def changes(self, root: Path) -> Changes:
        """Return what was read; contents lie below `root`."""
        return Changes(
            root=root,
            entries=tuple(sorted(self.entries, key=lambda e: e.path.split("/"))),
            removed=tuple(sorted(self.removed)),
            opaque=tuple(sorted(self.opaque)),
        )

    def member(self, fd: int, name: str, path: str) -> None:
        """Read one member of the folder behind `fd`, and what is below it."""
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        kind = _KINDS.get(stat.S_IFMT(st.st_mode))
        if kind is None:
            return  # a socket: it means nothing once its listener is gone
        if kind == CHAR and st.st_rdev == 0:
            self.removed.append(path)
            return
        first = self._links.setdefault((st.st_dev, st.st_ino), path) if st.st_nlink > 1 and kind != DIR else path
        xattrs, own = self._attributes(fd, name, kind)
        if kind == FILE and any(o + "whiteout" in own for o in _OVERLAY):
            self.removed.append(path)
            return
        uid, gid = self._owners.get(path, (st.st_uid, st.st_gid))
        uid, gid = marks.owner(own.get(marks.OWNER, b"")) or (uid, gid)
        mode, device = stat.S_IMODE(st.st_mode), (os.major(st.st_rdev), os.minor(st.st_rdev))
        if (is_device := marks.device(own.get(marks.DEVICE, b""))) and kind == FILE:
            kind, mode, device = is_device
        self.entries.append(
            Entry(
                path=path,
                kind=kind if first == path else HARDLINK,
                mode=0o777 if kind == SYMLINK else mode,
                uid=uid,
                gid=gid,
                mtime=st.st_mtime_ns // 1_000_000_000,
                size=st.st_size if kind == FILE and first == path else 0,
                link=first if first != path else os.readlink(name, dir_fd=fd) if kind == SYMLINK else "",
                device=device if kind in (CHAR, BLOCK) else (0, 0),
                xattrs=xattrs,
            )
        )
        if kind == DIR:
            if any(own.get(o + "opaque") == b"y" for o in _OVERLAY):
                self.opaque.append(path)
            self.folder(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd), path)

    @staticmethod
    def _attributes(fd: int, name: str, kind: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return the attributes that belong to the tree, and those by which overlayfs and mkroot mark files."""
        kept: dict[str, bytes] = {}
        own: dict[str, bytes] = {}
        if kind not in (FILE, DIR):
            return kept, own  # links, devices and pipes have no attributes that belong to a tree
        place = f"/proc/self/fd/{fd}/{name}"
        for attribute in sorted(os.listxattr(place, follow_symlinks=False)):
            if attribute.startswith(_OVERLAY) or attribute in (marks.OWNER, marks.DEVICE):
                own[attribute] = os.getxattr(place, attribute, follow_symlinks=False)
            elif not attribute.isprintable():
                continue  # not UTF-8, or meant to confuse: nothing that a tree could keep
            elif attribute.startswith(("user.", "system.posix_acl_")) or attribute == "security.capability":
                kept[attribute] = os.getxattr(place, attribute, follow_symlinks=False)
        return kept, own
