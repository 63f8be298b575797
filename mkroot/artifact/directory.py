"""The root as a folder, `rootfs/`."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from mkroot.artifact.manifest import Made
from mkroot.artifact.outputs import Bench
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry, parent

NAME = "rootfs"
_REFUSED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)  # EINVAL: an id that the namespace does not map


def make_directory(bench: Bench) -> Made:
    """Write `rootfs/` with the real owners, devices and capabilities where this user may; else say what is missing."""
    path = bench.folder / NAME
    path.mkdir()
    with FolderWriter(path) as writer:
        links = []
        for entry, content in bench.assembly.files():
            if entry.kind == HARDLINK:
                links.append(entry)
            else:
                writer.add(entry, content)
        for entry in links:
            writer.add(entry, b"")
        missing = writer.missing
    for what in sorted(missing):
        count = missing[what]
        bench.progress.warn(f"rootfs/: {count} {what} could not be set by this user; other outputs have them")
    return Made(kind="dir", name=NAME, size=sum(e.size for e in bench.entries()), digest=bench.tree())


class FolderWriter:
    """Writes a tree below a folder of its own, so that no path leads through a link; folders' modes and times last.

    missing: how many of what could not be set.
    """

    def __init__(self, path: Path) -> None:
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders: list[Entry] = []
        self._known = {""}
        self.missing: dict[str, int] = {}

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                for entry in sorted(self._folders, key=lambda e: e.path, reverse=True):
                    self._settle(entry)
        finally:
            os.close(self._root)

    def _miss(self, what: str) -> None:
        self.missing[what] = self.missing.get(what, 0) + 1

    def _parents(self, path: str) -> None:
        if path not in self._known:
            self._parents(parent(path))
            os.mkdir(path, 0o700, dir_fd=self._root)
            self._known.add(path)

    def add(self, entry: Entry, content: bytes) -> None:
        """Make one member; a hard link's file must be there. Raises OSError."""
        root = self._root
        self._parents(parent(entry.path))
        if entry.kind == DIR:
            self._parents(entry.path)
            self._folders.append(entry)
            return
        if entry.kind == HARDLINK:
            os.link(entry.link, entry.path, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)
            return
        if entry.kind == FILE:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(entry.path, flags, 0o600, dir_fd=root)
            with open(fd, "wb", buffering=0) as f:
                view = memoryview(content)
                while view:
                    view = view[f.write(view) :]
        elif entry.kind == SYMLINK:
            os.symlink(entry.link, entry.path, dir_fd=root)
        else:
            kind = {FIFO: stat.S_IFIFO, CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK}[entry.kind]
            try:
                os.mknod(entry.path, kind | 0o600, os.makedev(*entry.device), dir_fd=root)
            except OSError as e:
                if e.errno not in _REFUSED:
                    raise
                self._miss("device nodes")
                return
        self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        """Set owner, mode, attributes and time, in the order in which one does not undo the other."""
        path, root = entry.path or ".", self._root
        mode = entry.mode
        try:
            os.chown(path, entry.uid, entry.gid, dir_fd=root, follow_symlinks=False)
        except OSError as e:
            if e.errno not in _REFUSED:
                raise
            self._miss("owners")
            mode &= ~0o6000  # a set-user-id program of somebody else's would run as this user
        if entry.kind != SYMLINK:
            os.chmod(path, mode, dir_fd=root)
        for name in sorted(entry.xattrs):
            try:
                os.setxattr(f"/proc/self/fd/{root}/{path}", name, entry.xattrs[name], follow_symlinks=False)
            except OSError as e:
                if e.errno not in _REFUSED:
                    raise
                self._miss("extended attributes")
        os.utime(path, (entry.mtime, entry.mtime), dir_fd=root, follow_symlinks=False)
