"""The root as an erofs image: made by mkfs.erofs of a plain folder, then given the real metadata.

mkfs.erofs takes owners, devices and capabilities from the disk, which an ordinary user cannot put there, and only newer
versions read a tar archive. An erofs inode says all of it in fixed places, so they are written afterwards: the same
bytes whoever builds. (Format: erofs_fs.h of Linux, "EROFS on-disk format".)
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mkroot.artifact.directory import FolderWriter
from mkroot.artifact.ext4 import derived_uuid
from mkroot.artifact.manifest import Made
from mkroot.artifact.outputs import Bench
from mkroot.digest import oci, sha256_file
from mkroot.errors import ArtifactError
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry

NAME = "rootfs.erofs"
FORMAT = "1"  # of how it is made here; part of what it is kept under
COMPRESSION = "lz4hc"
CLUSTER = 65536  # bytes of a compressed piece: 11 % less than with 4,096 on a minimal root; Linux reads it from 5.13 on
MAGIC = 0xE0F5E1E2
SUPER = 1024  # offset of the superblock
CHECKSUM = 1  # of feature_compat: the first block has a checksum
_TYPES = {FILE: 0o100000, DIR: 0o040000, SYMLINK: 0o120000, CHAR: 0o020000, BLOCK: 0o060000, FIFO: 0o010000}
_FILE_TYPES = {CHAR: 3, BLOCK: 4}  # of a folder's entry
_PLAIN, _INLINE = 0, 2  # layouts of data that is not compressed
# EROFS_XATTR_INDEX_…: an access list's whole name is its prefix.
_PREFIXES = {
    "user.": 1,
    "system.posix_acl_access": 2,
    "system.posix_acl_default": 3,
    "trusted.": 4,
    "security.": 6,
}


def make_erofs(bench: Bench) -> Made:
    """Write `rootfs.erofs`, lz4hc; raises ArtifactError where mkfs.erofs is missing or fails."""
    path = bench.folder / NAME
    write_erofs(bench, path)
    return Made(kind="erofs", name=NAME, size=path.stat().st_size, digest=oci(sha256_file(path)))


def write_erofs(bench: Bench, path: Path) -> None:
    """Write an erofs image to a new file; see make_erofs."""
    bench.kept(["erofs", FORMAT, bench.tools.identity("mkfs.erofs")], path, lambda: _make(bench, path))


def _make(bench: Bench, path: Path) -> None:
    entries = bench.entries()
    folder = bench.scratch / "erofs"
    folder.mkdir()
    _unpack(bench, folder)
    attributes = any(e.xattrs for e in entries)
    arguments = [
        "-d0", f"-z{COMPRESSION}", f"-C{CLUSTER}", f"-T{bench.epoch}", f"-U{derived_uuid(bench.tree(), 'erofs')}",
        "-x1000000" if attributes else "-x-1",  # in the inodes, never shared; or not at all
        "-Eforce-inode-extended",
        str(path), str(folder),
    ]  # fmt: skip
    bench.tools.run("mkfs.erofs", arguments)
    path.chmod(0o644)
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as image:
        _Image(image).give({e.path: e for e in entries})


def _unpack(bench: Bench, folder: Path) -> None:
    """Write the tree as any user can: own files, empty files for devices, attributes as `user.` ones."""
    uid, gid = os.getuid(), os.getgid()
    replace = msgspec.structs.replace
    links = []
    with FolderWriter(folder) as writer:
        for entry, content in bench.assembly.files():
            if entry.kind == HARDLINK:
                links.append(entry)
                continue
            kind = FILE if entry.kind in (CHAR, BLOCK) else entry.kind
            mode = 0o755 if kind == DIR else 0o644
            xattrs = dict(_plain(entry, name, value) for name, value in entry.xattrs.items())
            if len(xattrs) != len(entry.xattrs):
                raise ArtifactError("its extended attributes do not fit into erofs here", where=f"/{entry.path}")
            writer.add(replace(entry, kind=kind, mode=mode, uid=uid, gid=gid, xattrs=xattrs, device=(0, 0)), content)
        for entry in links:
            writer.add(entry, b"")
    if writer.missing:
        raise ArtifactError(
            "the file system of the output folder keeps no extended attributes, which the erofs image needs",
            where=str(bench.folder),
            hint="choose a folder on another file system with `-o DIR`",
        )


def _plain(entry: Entry, name: str, value: bytes) -> tuple[str, bytes]:
    """Return an attribute that any user can set and that takes as many bytes in the image."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            rest = name[len(prefix) :]
            if rest or prefix.endswith("."):
                return "user." + rest, value
            return f"user.{prefix[-1]}", value[1:]  # an access list has no name of its own: `s` or `t` stands for it
    raise ArtifactError(f"erofs images with the extended attribute `{name}` are not built yet", where=f"/{entry.path}")


class _Image:
    """An erofs image with 64-byte inodes, open for change."""

    def __init__(self, image: mmap.mmap) -> None:
        self._image = image
        magic, _, self._compat, bits, _, self._root = struct.unpack_from("<IIIBBH", image, SUPER)
        if magic != MAGIC:
            raise ArtifactError("mkfs.erofs made something else than an erofs image", where=NAME)
        self._block = 1 << bits
        self._meta: int = struct.unpack_from("<I", image, SUPER + 40)[0]

    def give(self, entries: dict[str, Entry]) -> None:
        """Write every path's mode, owner, time, device and attributes; raises ArtifactError where one is missing."""
        wanted = set(entries)
        todo = [("", self._root)]
        while todo:
            path, nid = todo.pop()
            entry = self._entry(entries, path)
            self._settle(self._offset(nid), entry)
            wanted.discard(path)
            if entry.kind == DIR:
                for place, child, name in self._names(self._offset(nid)):
                    below = f"{path}/{name}" if path else name
                    found = self._entry(entries, below)
                    if found.kind in _FILE_TYPES:
                        self._image[place + 10] = _FILE_TYPES[found.kind]
                    todo.append((below, child))
        if wanted - {""}:
            raise ArtifactError(f"mkfs.erofs left out /{min(wanted - {''})}", where=NAME)
        if self._compat & CHECKSUM:
            struct.pack_into("<I", self._image, SUPER + 4, 0)
            struct.pack_into("<I", self._image, SUPER + 4, crc32c(self._image[SUPER : self._block]))

    def _entry(self, entries: dict[str, Entry], path: str) -> Entry:
        entry = entries.get(path)
        if entry is None:
            if path:
                raise ArtifactError(f"mkfs.erofs put in /{path}", where=NAME)
            return Entry("", DIR, 0o755)
        return entries[entry.link] if entry.kind == HARDLINK else entry

    def _offset(self, nid: int) -> int:
        place: int = self._meta * self._block + nid * 32
        return place

    def _settle(self, at: int, entry: Entry) -> None:
        layout, count, old = struct.unpack_from("<HHH", self._image, at)
        if not layout & 1:
            raise ArtifactError("mkfs.erofs made an inode of the short form", where=NAME)
        if entry.kind not in (CHAR, BLOCK) and old & 0o170000 != _TYPES[entry.kind]:
            raise ArtifactError(f"mkfs.erofs made something else of /{entry.path}", where=NAME)
        struct.pack_into("<H", self._image, at + 4, _TYPES[entry.kind] | entry.mode)
        struct.pack_into("<IIQI", self._image, at + 24, entry.uid, entry.gid, max(entry.mtime, 0), 0)
        if entry.kind in (CHAR, BLOCK):
            major, minor = entry.device
            struct.pack_into("<I", self._image, at + 16, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
        self._attributes(at + 64, count, entry)

    def _attributes(self, at: int, count: int, entry: Entry) -> None:
        """Write the attributes anew, by their real names and in order: the disk keeps them in one of its own."""
        size = 12 + 4 * (count - 1) if count else 0
        body = b""
        for name in sorted(entry.xattrs):
            prefix = next(p for p in _PREFIXES if name.startswith(p))
            rest = name[len(prefix) :].encode()
            value = entry.xattrs[name]
            item = struct.pack("<BBH", len(rest), _PREFIXES[prefix], len(value)) + rest + value
            body += item + bytes(-len(item) % 4)
        if len(body) != max(size - 12, 0) or (size and self._image[at + 4]):
            raise ArtifactError(
                f"/{entry.path} has other extended attributes on disk than in the root",
                where=NAME,
                hint="choose a folder on a file system that adds none of its own with `-o DIR`",
            )
        if body:
            self._image[at + 12 : at + size] = body

    def _names(self, at: int) -> Iterator[tuple[int, int, str]]:
        """Yield a folder's entries but `.` and `..`: where each stands, its inode, its name."""
        form, count = struct.unpack_from("<HH", self._image, at)
        layout = form >> 1 & 7
        (size,) = struct.unpack_from("<Q", self._image, at + 8)
        (start,) = struct.unpack_from("<I", self._image, at + 16)
        if layout not in (_PLAIN, _INLINE):
            raise ArtifactError("mkfs.erofs made a folder of an unknown layout", where=NAME)
        for begin in range(0, size, self._block):
            length = min(self._block, size - begin)
            if layout == _INLINE and size - begin < self._block:
                place = at + 64 + (12 + 4 * (count - 1) if count else 0)
            else:
                place = start * self._block + begin
            yield from self._block_names(place, length)

    def _block_names(self, place: int, length: int) -> Iterator[tuple[int, int, str]]:
        data = self._image[place : place + length]
        (first,) = struct.unpack_from("<H", data, 8)
        starts = [struct.unpack_from("<QH", data, i) for i in range(0, first, 12)]
        for number, (nid, begin) in enumerate(starts):
            end = starts[number + 1][1] if number + 1 < len(starts) else length
            name = data[begin:end].rstrip(b"\0").decode("utf-8", "surrogateescape")
            if name not in (".", ".."):
                yield place + number * 12, nid, name


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of a superblock's block as erofs has it: not inverted at the end."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc
