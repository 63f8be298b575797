"""Writes a layer's members as files and folders: the tree on disk that a union stands on."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from mkroot.errors import RootfsError
from mkroot.store import marks
from mkroot.store.layer import NOW, Layer, LayerStore, streamed
from mkroot.store.trees import Trees
from mkroot.tar.entry import CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry, parent


class Chown(msgspec.Struct, frozen=True):
    """Which owners can be set in a tree on disk: those below `limit` (0: none but the own one)."""

    limit: int = 1 << 32


class Writer(Protocol):
    """What takes a layer's members, as `TreeWriter.add` does."""

    def add(self, entry: Entry, content: bytes | Iterable[bytes]) -> None:
        """Take one member."""


class TreeWriter:
    """Writes entries below a new folder that nobody else knows yet.

    Parents are folders that it made itself, so no write goes through a link.
    """

    def __init__(
        self, root: Path, chown: Chown, *, above: Callable[[str], Entry | None] = lambda path: None, now: int = 0
    ) -> None:
        """Open the folder `root`.

        above: tells what a folder is like that is not added itself; 0755 and root's where it knows nothing.
        now: seconds, the time of entries that were written while a build ran.
        """
        self._above = above
        self._now = now
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._chown = chown
        self._folders = {""}
        self._times: list[tuple[str, int]] = []
        self._umask = os.umask(0)

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for path, mtime in reversed(self._times):
                os.utime(path or ".", (mtime, mtime), dir_fd=self._root)
        finally:
            os.umask(self._umask)
            os.close(self._root)

    def _make_parents(self, path: str) -> None:
        up = parent(path)
        if up not in self._folders:
            self._make_parents(up)
            known = self._above(up) or Entry(up, DIR, 0o755)
            os.mkdir(up, known.mode, dir_fd=self._root)
            self._folders.add(up)
            if self._own(known):
                os.chown(up, known.uid, known.gid, dir_fd=self._root, follow_symlinks=False)
            if self._own(known) or known.mode & 0o6000:
                os.chmod(up, known.mode, dir_fd=self._root)
            self._mark(up, known)

    def make(self, path: str) -> None:
        """Make a folder, like the one above it where it is not added itself."""
        if path not in self._folders:
            self._make_parents(f"{path}/.")

    def _own(self, entry: Entry) -> bool:
        return (entry.uid or entry.gid) != 0 and max(entry.uid, entry.gid) < self._chown.limit

    def _mark(self, target: int | str, entry: Entry) -> None:
        """Note the owner that cannot be set, where a file or folder can hold an attribute."""
        if max(entry.uid, entry.gid) >= self._chown.limit and entry.kind in (FILE, DIR):
            if isinstance(target, str):
                target = f"/proc/self/fd/{self._root}/{target}"
            with contextlib.suppress(OSError):  # a file system without attributes
                os.setxattr(target, marks.OWNER, f"{entry.uid}:{entry.gid}".encode())

    def add(self, entry: Entry, content: bytes | Iterable[bytes]) -> None:
        """Make one member; raises OSError. content: a FILE's, in parts where it is large."""
        path, root = entry.path, self._root
        if parent(path) not in self._folders:
            self._make_parents(path)
        mtime = self._now if entry.mtime == NOW else entry.mtime
        if entry.kind == FILE:
            fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, entry.mode, dir_fd=root
            )
            try:
                for part in (content,) if isinstance(content, bytes) else content:
                    view = memoryview(part)
                    while view:
                        view = view[os.write(fd, view) :]
                if self._own(entry):
                    os.fchown(fd, entry.uid, entry.gid)
                    os.fchmod(fd, entry.mode)
                elif (
                    entry.mode & 0o6000
                ):  # in a user namespace, writing takes them away (should_remove_suid in fs/inode.c)
                    os.fchmod(fd, entry.mode)
                self._mark(fd, entry)
                for name, value in entry.xattrs.items():
                    _attribute(fd, path, name, value)
                os.utime(fd, (mtime, mtime))
            finally:
                os.close(fd)
            return
        if entry.kind == DIR:
            if path not in self._folders:
                os.mkdir(path, entry.mode, dir_fd=root)
                self._folders.add(path)
            elif path:
                os.chmod(path, entry.mode, dir_fd=root)
            else:
                os.fchmod(root, entry.mode)
            self._mark(path, entry)
            self._times.append((path, mtime))
        elif entry.kind == SYMLINK:
            os.symlink(entry.link, path, dir_fd=root)
        elif entry.kind == HARDLINK:
            os.link(entry.link, path, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)
            return
        elif entry.kind == FIFO:
            os.mkfifo(path, entry.mode, dir_fd=root)
        else:
            kind = stat.S_IFCHR if entry.kind == CHAR else stat.S_IFBLK
            try:
                os.mknod(path, entry.mode | kind, os.makedev(*entry.device), dir_fd=root)
            except PermissionError:  # in a user namespace
                if entry.device == (0, 0):
                    raise
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root))
                mark = f"{entry.kind}:{entry.device[0]}:{entry.device[1]}:{entry.mode:o}"
                with contextlib.suppress(OSError):  # a file system without attributes
                    os.setxattr(f"/proc/self/fd/{root}/{path}", marks.DEVICE, mark.encode())
        if self._own(entry):
            os.chown(path, entry.uid, entry.gid, dir_fd=root, follow_symlinks=False)
        if entry.kind == DIR and (self._own(entry) or entry.mode & 0o6000):  # mkdir(2) makes no set-group-id folder
            os.chmod(path or ".", entry.mode, dir_fd=root)
        if entry.kind != DIR:
            os.utime(path, (mtime, mtime), dir_fd=root, follow_symlinks=False)


def make_tree(layers: LayerStore, layer: Layer, trees: Trees, chown: Chown) -> Path:
    """Return the layer's unpacked tree, made from its frame where it is not there yet."""
    if not trees.has(layer.key):
        with trees.writing(layer.key) as aside:
            aside.mkdir(mode=0o755)
            with TreeWriter(aside, chown) as writer:
                for entry, content in streamed(layers, layer):
                    writer.add(entry, content)
    return trees.path(layer.key)


def _attribute(fd: int, path: str, name: str, value: bytes) -> None:
    try:
        os.setxattr(fd, name, value)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ERANGE, errno.E2BIG, errno.EOPNOTSUPP):
            raise
        raise RootfsError(f"/{path} has an attribute {name} that cannot be set: {e.strerror}") from None
