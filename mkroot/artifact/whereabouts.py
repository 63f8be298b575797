"""Tells what stands at an offset of a disk or file-system image: the partition, and the file where it can be told."""

from __future__ import annotations

import re
import struct
import uuid
from pathlib import Path

from msgspec import Struct

from mkroot.artifact.gpt import ENTRY_SIZE, SECTOR
from mkroot.artifact.tools import HostTools, Tools
from mkroot.errors import ArtifactError, printable

_ENTRIES = 1024  # of a partition table at most that are read
_EXT_MAGIC = 0xEF53  # ext4, "Super block": at byte 0x38 of it


class Extent(Struct, frozen=True, kw_only=True):
    """A partition. Bytes."""

    name: str
    start: int
    size: int


def partitions(path: Path) -> list[Extent]:
    """Return the partitions of a disk image (UEFI 2.10, 5.3), none where it has no table; raises OSError."""
    with open(path, "rb") as f:
        f.seek(SECTOR)
        header = f.read(SECTOR)
        if header[:8] != b"EFI PART" or len(header) < 92:
            return []
        first, count, size = struct.unpack_from("<QII", header, 72)
        if size != ENTRY_SIZE or count > _ENTRIES:
            return []
        f.seek(first * SECTOR)
        table = f.read(count * size)
    found = []
    for at in range(0, len(table) - size + 1, size):
        entry = table[at : at + size]
        if uuid.UUID(bytes_le=entry[:16]).int:
            start, last = struct.unpack_from("<QQ", entry, 32)
            name = entry[56:128].decode("utf-16-le", "replace").rstrip("\0")
            found.append(Extent(name=printable(name), start=start * SECTOR, size=(last + 1 - start) * SECTOR))
    return found


def at_offset(path: Path, offset: int, tools: Tools | None = None) -> str:
    """Return in words what stands at an offset of an image: `partition root, /usr/bin/tool`; "" where nobody knows.

    Raises OSError.
    """
    tools = tools or HostTools()
    for extent in partitions(path):
        if extent.start <= offset < extent.start + extent.size:
            inside = _ext_file(path, extent.start, offset, tools)
            return f"partition {extent.name or 'without a name'}" + (f", {inside}" if inside else "")
    return _ext_file(path, 0, offset, tools)


def _ext_file(path: Path, start: int, offset: int, tools: Tools) -> str:
    """Return the file of an ext4 file system that has an offset, or what of the file system it is; "" for no ext4."""
    with open(path, "rb") as f:
        f.seek(start + 1024)
        block = f.read(1024)
    if len(block) < 1024 or struct.unpack_from("<H", block, 0x38)[0] != _EXT_MAGIC:
        return ""
    number = (offset - start) // (1024 << struct.unpack_from("<I", block, 0x18)[0])
    where = f"{path.absolute()}?offset={start}"  # debugfs(8); as e2fsprogs' unix_io takes it
    try:
        inode = re.search(rf"^{number}\t(\d+)$", tools.run("debugfs", ["-R", f"icheck {number}", where])[0], re.M)
        if inode is None or (int(inode[1]) < 11 and int(inode[1]) != 2):
            return "the file system's own data"
        name = re.search(rf"^{inode[1]}\t(/.*)$", tools.run("debugfs", ["-R", f"ncheck {inode[1]}", where])[0], re.M)
    except ArtifactError:  # no debugfs here, or a file system that it cannot read
        return ""
    return printable(name[1]) if name else f"inode {inode[1]}"
