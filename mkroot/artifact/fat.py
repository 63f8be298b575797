"""FAT images, for EFI system partitions and boot folders, made by mtools without mounting anything.

Sizes and names follow Microsoft's "FAT: General Overview of On-Disk Format", 1.03, which the UEFI specification 2.10,
section 13.3, builds upon.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from mkroot.artifact.tools import Tools
from mkroot.errors import ArtifactError
from mkroot.tar.entry import parent

SECTOR = 512
MIB = 1 << 20
FAT32_FROM = 33 * MIB  # below, there cannot be the 65,525 clusters of 512 bytes that FAT32 has at least
_FAT16_CLUSTERS = 4085  # the number of clusters alone tells which FAT it is: FAT16 from here
_FAT32_CLUSTERS = 65525  # and FAT32 from here
_FILE_LIMIT = 0xFFFFFFFF
_SIZE_LIMIT = 1 << 40  # 32 bits of sectors are 2 TiB; beyond this, clusters of 4 KiB run out of numbers
_CLUSTER_LIMIT = 8  # sectors: 4 KiB, at which a loader reads fast and little is left unused
_ROOT_SECTORS = 32  # 512 names in the root folder of FAT12 and FAT16
_NAME_UNITS = 255  # UTF-16 code units in a long name
_RESERVED, _BACKUP = 32, 6  # FAT32: sectors before the tables, and where the boot sector is a second time
_OEM = b"MSWIN4.1"  # the name that the overview recommends; mtools would put its version there
_DATES = (315532800, 4354819198)  # 1980-01-01 and 2107-12-31T23:59:58: the first and the last time that FAT can tell
_FORBIDDEN = frozenset('"*/:<>?\\|\x7f[]')  # the last two FAT allows, and mtools takes for a pattern
_LABEL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 $%'-_@~`!(){}^#&")
# What an /etc/mtools.conf of the host must not decide. MTOOLSRC is read beside the one in HOME, not in its place.
_ENVIRONMENT = {
    "HOME": "/nonexistent",
    "MTOOLSRC": "/dev/null",
    "MTOOLS_SKIP_CHECK": "1",
    "MTOOLS_LOWER_CASE": "0",
    "MTOOLS_NO_VFAT": "0",
    "MTOOLS_NAME_NUMERIC_TAIL": "1",
    "MTOOLS_FAT_COMPATIBILITY": "0",
}


class Geometry(Struct, frozen=True, kw_only=True):
    """How an image is divided: its size in bytes, sectors a cluster, FAT32 or not, and clusters for content."""

    size: int
    cluster: int
    fat32: bool
    clusters: int


def write_fat(
    path: Path, files: Mapping[str, bytes], *, label: str, serial: int, epoch: int, size: int = 0, tools: Tools
) -> None:
    """Write a FAT image with these files to a new file, 0644.

    files: contents by path, with slashes, relative to the image's root; folders are made. label: at most 11 capital
    letters, digits and the like. serial: 32 bits. epoch: the time of every name, seconds since 1970. size: bytes,
    rounded down to a MiB; 0 for the least that holds the files. FAT32 from 33 MiB, else FAT16, or FAT12 below 3 MiB.
    The same arguments give the same bytes. Raises ArtifactError where a name cannot be in a FAT file system, the files
    do not fit, or mtools is missing or fails.
    """
    folders = _checked(files, label, serial)
    geometry = fitting(files, size)
    environ = {**_ENVIRONMENT, "SOURCE_DATE_EPOCH": str(min(max(epoch, _DATES[0]), _DATES[1]))}
    for tool in ("mformat", "mmd", "mcopy"):
        tools.find(tool)
    image = ["-i", path.name]
    with open(path, "xb") as f:
        f.truncate(geometry.size)
    path.chmod(0o644)
    tools.run("mformat", [*image, *_format(geometry, label, serial), "::"], environ=environ, cwd=path.parent)
    for some in _runs([f"::/{folder}" for folder in folders]):  # each after the one that it is in
        tools.run("mmd", [*image, *some], environ=environ, cwd=path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fat") as scratch:
        _copy(Path(scratch), path, files, tools, environ)
    _settle(path, geometry)


def _format(geometry: Geometry, label: str, serial: int) -> list[str]:
    """Return what mformat is told; it is left no choice, because its choices change with its version."""
    kind = ["-F", "-R", str(_RESERVED)] if geometry.fat32 else ["-r", str(_ROOT_SECTORS), "-R", "1"]
    return [
        "-T", str(geometry.size // SECTOR),
        "-h", "64", "-s", "32",  # a cylinder is a MiB
        "-m", "248",  # a fixed disk
        "-c", str(geometry.cluster),
        *kind,
        "-N", f"{serial:08x}", "-v", label,
    ]  # fmt: skip


def _copy(scratch: Path, path: Path, files: Mapping[str, bytes], tools: Tools, environ: Mapping[str, str]) -> None:
    """Copy the files into the image, folder by folder, in the order of their names."""
    names: dict[str, list[str]] = {}
    for name in sorted(files):
        names.setdefault(parent(name), []).append(name)
    for number, (folder, members) in enumerate(names.items()):
        source = scratch / str(number)
        source.mkdir()
        for name in members:
            (source / name.rpartition("/")[2]).write_bytes(files[name])
        for some in _runs([f"./{name.rpartition('/')[2]}" for name in members]):
            # A relative name: mtools would take `@@` in the name of a folder above for an offset.
            arguments = ["-i", f"../../{path.name}", *some, f"::/{folder}"]
            tools.run("mcopy", arguments, environ=environ, cwd=source)


def _runs(words: list[str]) -> Iterator[list[str]]:
    """Yield the words in runs that fit on a command line."""
    for i in range(0, len(words), 200):
        yield words[i : i + 200]


def _settle(path: Path, geometry: Geometry) -> None:
    """Set what mtools 4.0.32 and 4.0.48 write differently, as the overview has it.

    These are the maker's name (BS_OEMName), the drive's number (BS_DrvNum) and, in FAT32, the two reserved entries of
    each table.
    """
    with open(path, "r+b") as f:
        start = f.read(SECTOR)
        for sector in (0, _BACKUP) if geometry.fat32 else (0,):
            f.seek(sector * SECTOR + 3)
            f.write(_OEM)
            f.seek(sector * SECTOR + (64 if geometry.fat32 else 36))
            f.write(b"\x80")  # the first disk
        if geometry.fat32:
            length = struct.unpack_from("<I", start, 36)[0]  # BPB_FATSz32, sectors
            for copy in (0, 1):
                f.seek((_RESERVED + copy * length) * SECTOR)
                f.write(struct.pack("<II", 0x0FFFFFF8, 0x0FFFFFFF))  # the medium, and the end of a chain


def fitting(files: Mapping[str, bytes], size: int = 0) -> Geometry:
    """Return how an image of `size` bytes (0: the least whole MiB) is divided; raises ArtifactError if too small."""
    if size == 0:
        size = max(MIB, -(-sum(map(len, files.values())) // MIB) * MIB)
        while _needed(files, geometry := _geometry(size)) > geometry.clusters:
            size += MIB
        return geometry
    least = fitting(files).size
    given = size // MIB * MIB
    if given < least or _needed(files, _geometry(given)) > _geometry(given).clusters:
        raise ArtifactError(
            f"the files need {least // MIB} MiB as FAT, and {size} bytes are given",
            hint=f"give {least} bytes or more, or leave the size out",
        )
    return _geometry(given)


def _geometry(size: int) -> Geometry:
    """Return the division of an image of `size` bytes: the largest clusters at which it still is of its kind."""
    if size > _SIZE_LIMIT:
        raise ArtifactError(f"a FAT image of {size} bytes is not to be had", hint="give 1 TiB at most")
    fat32 = size >= FAT32_FROM
    bits = 32 if fat32 else 16
    fixed = _RESERVED if fat32 else 1 + _ROOT_SECTORS
    least = _FAT32_CLUSTERS if fat32 else _FAT16_CLUSTERS
    sectors = size // SECTOR
    clusters = 0
    for cluster in (_CLUSTER_LIMIT, 4, 2, 1):
        table = -(-(sectors // cluster + 2) * bits // 8 // SECTOR)  # a little more than needed, as mformat's is
        clusters = (sectors - fixed - 2 * table - 2 * cluster) // cluster
        if clusters >= least + 16:  # well off the border: some drivers are off by a few (section 3.5 of the overview)
            break
    return Geometry(size=size, cluster=cluster, fat32=fat32, clusters=clusters)


def _needed(files: Mapping[str, bytes], geometry: Geometry) -> int:
    """Return the clusters that files and folders take."""
    unit = geometry.cluster * SECTOR
    names: dict[str, set[str]] = {"": set()}
    clusters = 0
    for name, content in files.items():
        clusters += -(-len(content) // unit)
        while name:
            names.setdefault(parent(name), set()).add(name.rpartition("/")[2])
            name = parent(name)
    for folder, members in names.items():
        slots = 2 + sum(
            1 + -(-len(m.encode("utf-16-le")) // 26) for m in members
        )  # 13 units in an entry of a long name
        if folder or geometry.fat32:
            clusters += -(-slots * 32 // unit)
        elif slots * 32 > _ROOT_SECTORS * SECTOR:
            raise ArtifactError(
                f"{len(members)} names are too many for the root folder of a FAT image under 33 MiB",
                hint="put them into a folder",
            )
    return clusters


def _checked(files: Mapping[str, bytes], label: str, serial: int) -> list[str]:
    """Return the folders to make, each after its parent; raises ArtifactError for what a FAT image cannot have."""
    if not 0 < len(label) <= 11 or not set(label) <= _LABEL or label != label.strip():
        raise ArtifactError(
            f"{label!r} is not a label for a FAT file system",
            hint="take 1 to 11 capital letters, digits, `-` or `_`",
        )
    if not 0 <= serial <= 0xFFFFFFFF:
        raise ArtifactError(f"the serial number {serial} of a FAT file system has more than 32 bits")
    paths: dict[str, str] = {}  # by what FAT compares: names without case
    folders: set[str] = set()
    for name, content in files.items():
        if len(content) > _FILE_LIMIT:
            raise ArtifactError("a file of 4 GiB or more cannot be in a FAT file system", where=name)
        for part in name.split("/"):
            _check_name(part, name)
        up = parent(name)
        while up:
            folders.add(up)
            up = parent(up)
    for name in (*sorted(folders), *sorted(files)):
        other = paths.setdefault(name.upper(), name)
        if other != name or (name in folders and name in files):
            raise ArtifactError(f"FAT cannot tell these two names apart: {other} and {name}", where=name)
    return sorted(folders, key=lambda f: f.split("/"))


def _check_name(part: str, name: str) -> None:
    reason = ""
    if part in ("", ".", ".."):
        reason = "is not a path within the image"
    elif any(c in _FORBIDDEN or c < " " for c in part):
        reason = 'has one of the characters that cannot be written: " * : < > ? \\ | [ ]'
    elif part[-1] in " .":
        reason = "ends with a space or a dot, which FAT drops"
    elif any("\ud800" <= c <= "\udfff" for c in part):
        reason = "is not valid UTF-8"
    elif len(part.encode("utf-16-le")) > 2 * _NAME_UNITS:
        reason = f"is longer than {_NAME_UNITS} characters"
    if reason:
        raise ArtifactError(f"the name {reason}", where=name)
