"""What is in a root, whatever form it comes in: packages, and every path's metadata and content digest."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from mkroot.debian.deb822 import parse_stanza, stanzas
from mkroot.errors import ArtifactError
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from mkroot.tar.read import entries as tar_entries
from mkroot.tar.stream import Corrupt, Stream, decompress

SOCKET = "s"  # a kind that only a folder on disk can have
STATUS = "var/lib/dpkg/status"
STATUS_FOLDER = "var/lib/dpkg/status.d/"
_TEXT = re.compile(
    r"var/lib/dpkg/status|var/lib/dpkg/status\.d/[^/]+|etc/os-release|usr/lib/os-release|usr/share/doc/[^/]+/copyright"
)
_LIMIT = 1 << 42  # bytes that an archive of the user's own may unpack to
_MAGIC = ((b"\x1f\x8b", "gz"), (b"\x28\xb5\x2f\xfd", "zst"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bz2"))


class Package(Struct, frozen=True, kw_only=True):
    """An installed or locked package. sha256: of the .deb, "" where it is not known. Sizes in bytes."""

    name: str
    version: str
    architecture: str
    source: str = ""
    source_version: str = ""
    sha256: str = ""
    size: int = 0
    installed_size: int = 0


class Item(Struct, frozen=True, gc=False):
    """A path's metadata and the digest of its content; a hard link is a file like the one that it names."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = {}


class Inventory(Struct, frozen=True, kw_only=True):
    """What was found. files: by path without leading slash, None for a lock. texts: contents of a few."""

    packages: dict[tuple[str, str], Package]
    files: dict[str, Item] | None
    texts: dict[str, bytes]


class Collector:
    """Takes the members of a tree, layer over layer, and makes an inventory of them."""

    def __init__(self) -> None:
        self.files: dict[str, Item] = {}
        self.texts: dict[str, bytes] = {}

    def add(self, entry: Entry, content: bytes | None, sha256: str = "") -> None:
        """Take a member; one at the same path is replaced. content: a file's, or its digest where it was not kept."""
        path = entry.path
        old = self.files.get(path)
        if old is not None and old.kind == DIR and entry.kind != DIR:
            self.drop_below(path)
        self.texts.pop(path, None)
        if entry.kind == HARDLINK:
            if entry.link in self.files:
                self.files[path] = self.files[entry.link]
                if entry.link in self.texts and _TEXT.fullmatch(path):
                    self.texts[path] = self.texts[entry.link]
            return
        if entry.kind == FILE and content is not None:
            sha256 = hashlib.sha256(content).hexdigest()
            if _TEXT.fullmatch(path):
                self.texts[path] = content
        mode = 0o777 if entry.kind == SYMLINK else entry.mode
        device = entry.device if entry.kind in (CHAR, BLOCK) else (0, 0)
        link = entry.link if entry.kind == SYMLINK else ""
        self.files[path] = Item(entry.kind, mode, entry.uid, entry.gid, entry.size, sha256, link, device, entry.xattrs)

    def drop(self, path: str) -> None:
        """Remove a path and what is below it."""
        self.files.pop(path, None)
        self.texts.pop(path, None)
        self.drop_below(path)

    def drop_below(self, path: str) -> None:
        """Remove what is below a folder."""
        start = path + "/" if path else ""
        for name in [n for n in self.files if n.startswith(start) and n != path]:
            del self.files[name]
            self.texts.pop(name, None)

    def add_tar(self, chunks: Iterator[bytes], where: str, *, whiteouts: bool = False) -> None:
        """Take every member of a tar stream; raises ArtifactError.

        whiteouts: names `.wh.NAME` remove what is below, as layers have it (image-spec, layer.md).
        """
        stream = Stream(chunks)
        added: set[str] = set()
        try:
            for entry, _ in tar_entries(stream, pax=True):
                folder, _, base = entry.path.rpartition("/")
                if whiteouts and base.startswith(".wh."):
                    self._whiteout(folder, base, added)
                    continue
                self.add(entry, stream.read(entry.size) if entry.kind == FILE else b"")
                added.add(entry.path)
        except Corrupt as e:
            raise ArtifactError(f"not a tar archive of a root: {e}", where=where) from None

    def _whiteout(self, folder: str, base: str, added: set[str]) -> None:
        place = f"{folder}/" if folder else ""
        if base == ".wh..wh..opq":
            for name in [n for n in self.files if n.startswith(place) and n not in added and n != folder]:
                self.files.pop(name, None)
                self.texts.pop(name, None)
        elif (path := place + base[4:]) not in added:
            self.drop(path)

    def inventory(self, packages: Iterable[Package] = ()) -> Inventory:
        """Return what was collected; packages are read from dpkg's database unless they are given."""
        found = {(p.name, p.architecture): p for p in packages} or packages_of(self.texts)
        return Inventory(packages=found, files=self.files, texts=self.texts)


def packages_of(texts: dict[str, bytes]) -> dict[tuple[str, str], Package]:
    """Return the installed packages that dpkg's database tells of: its `status`, or `status.d` of distroless roots."""
    parts = [texts[STATUS]] if STATUS in texts else []
    parts += [texts[p] for p in sorted(texts) if p.startswith(STATUS_FOLDER) and not p.endswith(".md5sums")]
    found: dict[tuple[str, str], Package] = {}
    for part in parts:
        for stanza in stanzas(part):
            fields = parse_stanza(stanza)
            name, version = fields.get("package", ""), fields.get("version", "")
            if not name or not version or fields.get("status", "install ok installed").split()[-1] == "not-installed":
                continue
            source, _, rest = fields.get("source", name).partition(" ")
            size = fields.get("installed-size", "")
            package = Package(
                name=name,
                version=version,
                architecture=fields.get("architecture", ""),
                source=source,
                source_version=rest.strip("() ") or version,
                installed_size=int(size) * 1024 if size.isdigit() and len(size) < 16 else 0,
            )
            found[name, package.architecture] = package
    return found


def unpacked_file(path: Path) -> Iterator[bytes]:
    """Yield a file's content, decompressed where it begins as gzip, zstd, xz or bzip2 do; raises ArtifactError."""
    try:
        with open(path, "rb") as f:
            if not os.fstat(f.fileno()).st_size:
                return
            mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped when its last view goes
            yield from unpacked(memoryview(mapped), str(path))
    except OSError as e:
        raise ArtifactError(f"the file cannot be read: {e.strerror}", where=str(path)) from e


def unpacked(view: memoryview, where: str) -> Iterator[bytes]:
    """Yield bytes, decompressed where they begin as gzip, zstd, xz or bzip2 do; raises ArtifactError."""
    head = bytes(view[:6])
    kind = next((k for magic, k in _MAGIC if head.startswith(magic)), "")
    try:
        yield from decompress(kind, view, _LIMIT)
    except Corrupt as e:
        raise ArtifactError(str(e), where=where) from None


def read_tar(path: Path) -> Inventory:
    """Read a tar archive of a root, of any compression; raises ArtifactError."""
    collector = Collector()
    collector.add_tar(unpacked_file(path), str(path))
    return collector.inventory()


def read_folder(root: Path) -> Inventory:
    """Read a root on disk; nothing in it is followed, no device or pipe is opened. Raises ArtifactError."""
    collector = Collector()
    try:
        todo = [""]
        while todo:
            path = todo.pop()
            entry = _on_disk(root, path)
            if entry.kind == FILE:
                data = (root / path).read_bytes() if _TEXT.fullmatch(path) else None
                collector.add(entry, data, "" if data is not None else _digest(root / path))
            else:
                collector.add(entry, b"")
            if entry.kind == DIR:
                todo.extend(sorted((f"{path}/{n}" if path else n for n in os.listdir(root / path)), reverse=True))
    except OSError as e:
        hint = "read it as the user who owns it" if isinstance(e, PermissionError) else None
        raise ArtifactError(f"the folder cannot be read: {e.strerror}", where=str(e.filename or root), hint=hint) from e
    return collector.inventory()


def _digest(path: Path) -> str:
    from mkroot.digest import sha256_file

    return sha256_file(path)


def _on_disk(root: Path, path: str) -> Entry:
    place = root / path
    s = os.lstat(place)
    kinds = ((stat.S_ISREG, FILE), (stat.S_ISDIR, DIR), (stat.S_ISLNK, SYMLINK), (stat.S_ISCHR, CHAR))
    more = ((stat.S_ISBLK, BLOCK), (stat.S_ISFIFO, FIFO))
    kind = next((k for test, k in (*kinds, *more) if test(s.st_mode)), SOCKET)
    xattrs = {}
    try:
        names = os.listxattr(place, follow_symlinks=False)
    except OSError as e:
        if e.errno != errno.ENOTSUP:  # a file system without any
            raise
        names = []
    for name in sorted(names):
        if not name.startswith(("security.selinux", "user.overlay.", "trusted.overlay.", "system.posix_acl")):
            xattrs[name] = os.getxattr(place, name, follow_symlinks=False)
    device = (os.major(s.st_rdev), os.minor(s.st_rdev)) if kind in (CHAR, BLOCK) else (0, 0)
    return Entry(
        path=path,
        kind=kind,
        mode=s.st_mode & 0o7777,
        uid=s.st_uid,
        gid=s.st_gid,
        size=s.st_size if kind == FILE else 0,
        link=os.readlink(place) if kind == SYMLINK else "",
        device=device,
        xattrs=xattrs,
    )
