"""Copies files into and out of a container, by docker cp's rules, with a tar stream between the two sides.

Each side is an open folder that stands for a root: paths are resolved inside it, links and all, and what is written
goes through no link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from mkroot.errors import ContainerError
from mkroot.oci.layerfile import layer_members
from mkroot.rootfs import linux
from mkroot.rootfs.upper import Changes, read_open
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry, parent
from mkroot.tar.footing import DEPTH
from mkroot.tar.read import entries
from mkroot.tar.stream import Corrupt, Stream

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_STEP = 1 << 20
_LINKS = 40
_MARKS = ("trusted.overlay.", "user.overlay.", "user.mkroot.")  # what unions and mkroot say of files by attributes


class Side(Struct, frozen=True, kw_only=True):
    """A path below an open root. shown: how the user wrote it."""

    root: int
    path: str
    shown: str

    @property
    def name(self) -> str:
        """The last part of the path; "" for a root, or where it ends with `/.`: all that is in the folder."""
        last = self.path.rstrip("/").rpartition("/")[2]
        return "" if last in (".", "..") else last

    @property
    def is_content(self) -> bool:
        """Whether the path means what is in a folder, not the folder."""
        return not self.name

    def folder(self) -> int:
        """Return a descriptor of the folder that holds the last part, or that is the path; raises OSError."""
        path = self.path if self.is_content else self.path.rstrip("/").rpartition("/")[0]
        return linux.open_in_root(self.root, path.lstrip("/") or ".", _FOLDER)


class Source(Struct, frozen=True, kw_only=True):
    """What is to be copied. at: an open folder. name: its member, "" for all that it holds. is_folder: as it says."""

    at: int
    name: str
    is_folder: bool


@contextlib.contextmanager
def source(side: Side, *, follow: bool = False) -> Iterator[Source]:
    """Yield what a path means as a source; follow: what a link at its end leads to. Raises ContainerError."""
    try:
        for _ in range(_LINKS):
            at = side.folder()
            try:
                if side.is_content:
                    yield Source(at=at, name="", is_folder=True)
                    return
                mode = os.stat(side.name, dir_fd=at, follow_symlinks=False).st_mode
                if not (stat.S_ISLNK(mode) and (follow or side.path.endswith("/"))):
                    if side.path.endswith("/") and not stat.S_ISDIR(mode):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                    yield Source(at=at, name=side.name, is_folder=stat.S_ISDIR(mode))
                    return
                target = os.readlink(side.name, dir_fd=at)
            finally:
                os.close(at)
            base = "" if target.startswith("/") else side.path.rstrip("/").rpartition("/")[0] + "/"
            side = msgspec.structs.replace(side, path=base + target)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except OSError as e:
        raise ContainerError(f"`{side.shown}` cannot be copied: {(e.strerror or str(e)).lower()}") from e


@contextlib.contextmanager
def target(side: Side, found: Source, name: str) -> Iterator[tuple[int, str]]:
    """Yield the open folder into which a source goes, and the name that it gets there: "" for its content.

    found: the source. name: what it is called. An existing folder takes it in; a path that does not exist is made, but
    not the folders above it. Raises ContainerError where a folder would replace a file, or a file go into none.
    """
    shown = side.shown
    try:
        fd = linux.open_in_root(side.root, side.path.lstrip("/") or ".", _FOLDER)
        into, called = fd, name
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise ContainerError(f"`{shown}` cannot be written to: {(e.strerror or '').lower()}") from e
        into, called = _fresh(side, found, e.errno)
    try:
        yield into, called
    finally:
        os.close(into)


def _fresh(side: Side, found: Source, number: int) -> tuple[int, str]:
    """Return folder and name for a path that is no folder."""
    if side.path.endswith("/") and not found.is_folder:
        raise ContainerError(f"`{side.shown}` is not a folder", hint="make it first, or leave the last `/` out")
    try:
        if side.is_content:
            raise OSError(number, os.strerror(number))
        into = side.folder()
    except OSError as e:
        raise ContainerError(
            f"`{side.shown}` cannot be written to: the folder above it is not there",
            hint="make it first: no folder above the target is made",
        ) from e
    name = side.name
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=into, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            os.close(into)
            with source(side, follow=True) as resolved:  # what a link names is written, not the link
                return os.dup(resolved.at), resolved.name
        if found.is_folder:
            os.close(into)
            raise ContainerError(f"`{side.shown}` is a file: a folder cannot take its place")
    return into, name


def pack(found: Source, name: str) -> Iterator[bytes]:
    """Yield a source as a tar stream without end mark, called `name` in it ("": its content alone); raises OSError."""
    changes = read_open(found.at, found.name)
    members = changes.entries
    if found.name and not name:
        members = tuple(e for e in members if e.path != found.name)

    def called(path: str) -> str:
        rest = path.removeprefix(found.name) if found.name else "/" + path
        return (name + rest).lstrip("/")

    own = {called(e.path): e for e in members}
    renamed = (
        msgspec.structs.replace(e, path=called(e.path), link=called(e.link) if e.kind == HARDLINK else e.link)
        for e in members
    )
    return layer_members(renamed, lambda e: content(changes, own[e.path]))


def content(changes: Changes, entry: Entry) -> Iterator[bytes]:
    """Yield a file's content; raises OSError."""
    with open(changes.open(entry), "rb", buffering=0) as f:
        left = entry.size
        while left and (piece := f.read(min(left, _STEP))):
            left -= len(piece)
            yield piece


def extract(chunks: Iterable[bytes], into: int, *, owners: bool = False) -> None:
    """Write a tar stream's members below an open folder; files there are replaced, folders joined.

    owners: as the stream has them, else those of whoever writes. Raises ContainerError, OSError.
    """
    stream = Stream(iter(chunks))
    folders: list[tuple[Entry, str]] = []
    try:
        for entry, _ in entries(stream, pax=True):
            if not entry.path:
                continue
            _check(entry)
            up, _, name = entry.path.rpartition("/")
            at = _above(into, up)
            try:
                _write(at, name, entry, stream, into)
                if entry.kind != HARDLINK:
                    _dress(at, name, entry, owners)
                if entry.kind == DIR:
                    folders.append((entry, name))
            except OSError as e:
                raise ContainerError(f"`{entry.path}` cannot be written: {(e.strerror or str(e)).lower()}") from e
            except ValueError as e:  # a NUL in a link's target
                raise ContainerError(f"`{entry.path}` cannot be written: {e}") from None
            finally:
                os.close(at)
    except Corrupt as e:
        raise ContainerError(f"the archive cannot be read: {e}") from None
    for entry, name in reversed(folders):  # a folder's time is that before its members came
        at = linux.open_beneath(into, parent(entry.path) or ".", _FOLDER)
        try:
            os.utime(name, (entry.mtime, entry.mtime), dir_fd=at, follow_symlinks=False)
        finally:
            os.close(at)


def _check(entry: Entry) -> None:
    """Raise ContainerError for what would mean something else in the layer that a container writes to."""
    if entry.kind in (CHAR, BLOCK) and entry.device == (0, 0):
        raise ContainerError(f"`{entry.path}` is device 0:0, which a union reads as a removal")
    if any(attribute.startswith(_MARKS) or "\0" in attribute for attribute in entry.xattrs):
        raise ContainerError(f"`{entry.path}` has an attribute by which a union marks its own files")
    if entry.path.count("/") >= DEPTH:
        raise ContainerError(f"`{entry.path[:200]}` lies more than {DEPTH} folders deep")


def _above(into: int, path: str) -> int:
    """Return a descriptor of a folder below `into`, made with those above it where an archive does not name them."""
    try:
        return linux.open_beneath(into, path or ".", _FOLDER)
    except FileNotFoundError:
        up, _, name = path.rpartition("/")
        at = _above(into, up)
        try:
            os.mkdir(name, 0o755, dir_fd=at)
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
        except OSError as e:
            raise ContainerError(f"`{path}` cannot be written to: {(e.strerror or str(e)).lower()}") from e
        finally:
            os.close(at)
    except OSError as e:
        raise ContainerError(f"`{path}` cannot be written to: {(e.strerror or str(e)).lower()}") from e


def _write(at: int, name: str, entry: Entry, stream: Stream, into: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode) != (entry.kind == DIR):
            what = "a folder cannot be replaced by a file" if stat.S_ISDIR(mode) else "a file is where a folder goes"
            raise ContainerError(f"`{entry.path}` cannot be written: {what}")
        if entry.kind == DIR:
            return
        os.unlink(name, dir_fd=at)
    if entry.kind == DIR:
        os.mkdir(name, 0o700, dir_fd=at)
    elif entry.kind == FILE:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)
        with open(fd, "wb", buffering=0) as f:
            left = entry.size
            while left:
                piece = stream.read(min(left, _STEP))
                if not piece:
                    raise Corrupt("the tar stream is truncated")
                left -= len(piece)
                view = memoryview(piece)
                while view:
                    view = view[f.write(view) :]
    elif entry.kind == SYMLINK:
        os.symlink(entry.link, name, dir_fd=at)
    elif entry.kind == HARDLINK:
        up, _, old = entry.link.rpartition("/")
        there = linux.open_beneath(into, up or ".", _FOLDER)
        try:
            os.link(old, name, src_dir_fd=there, dst_dir_fd=at, follow_symlinks=False)
        finally:
            os.close(there)
    else:
        kind = {FIFO: stat.S_IFIFO, CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK}[entry.kind]
        os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=at)


def _dress(at: int, name: str, entry: Entry, owners: bool) -> None:
    """Set owner, mode, attributes and time, in the order in which one does not undo the other."""
    if owners:
        os.chown(name, entry.uid, entry.gid, dir_fd=at, follow_symlinks=False)
    if entry.kind != SYMLINK:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)  # a container that runs may put a link
        try:
            os.chmod(f"/proc/self/fd/{fd}", entry.mode)
        finally:
            os.close(fd)
    for attribute, value in entry.xattrs.items():
        with contextlib.suppress(OSError):  # what this user, or that file system, may not have
            os.setxattr(f"/proc/self/fd/{at}/{name}", attribute, value, follow_symlinks=False)
    if entry.kind != DIR:
        os.utime(name, (entry.mtime, entry.mtime), dir_fd=at, follow_symlinks=False)
