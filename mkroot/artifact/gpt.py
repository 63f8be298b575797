"""Disks with a GUID partition table, written as sparse files without a loop device.

The numbers are those of the UEFI specification 2.10, section 5; all sectors are of 512 bytes.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from mkroot.artifact.grub import BOOT_CODE_SIZE, embed_grub
from mkroot.errors import ArtifactError

SECTOR = 512
MIB = 1 << 20
# Partition types. UEFI 2.10, table 5.7:
ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
# GNU GRUB manual, "BIOS installation"; its bytes on disk read "Hah!IdontNeedEFI":
BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
# UAPI Group, Discoverable Partitions Specification:
LINUX_ROOT_X86_64 = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
LINUX_ROOT_ARM64 = uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae")
LINUX_GENERIC = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
# Attributes. UEFI 2.10, table 5.8 (bits 0 to 2); Discoverable Partitions Specification (59, 60, 63):
REQUIRED = 1 << 0
LEGACY_BOOT = 1 << 2
GROW_FILE_SYSTEM = 1 << 59
READ_ONLY = 1 << 60
NO_AUTO = 1 << 63

ENTRIES = 128  # 16,384 bytes, the least that section 5.3.1 demands
ENTRY_SIZE = 128
HEADER_SIZE = 92
TABLE_SECTORS = ENTRIES * ENTRY_SIZE // SECTOR
HEAD_SECTORS = 2 + TABLE_SECTORS  # protective MBR, header, entries
TAIL_SECTORS = TABLE_SECTORS + 1  # entries, header
NAME_UNITS = 36  # UTF-16 code units
_COPY = 1 << 18  # bytes read and, where they are all zero, left out at a time
_ZEROS = bytes(_COPY)


class Partition(Struct, frozen=True, kw_only=True):
    """What a partition is to be.

    name: at most 36 UTF-16 units. kind: type GUID. identity: its own GUID, which Linux calls PARTUUID. content: a file
    that is copied to its start, or None for zeros. size: bytes, rounded up to a sector. attributes: 64 bits.
    """

    name: str
    kind: uuid.UUID
    identity: uuid.UUID
    content: Path | None = None
    size: int
    attributes: int = 0


class Place(Struct, frozen=True, kw_only=True):
    """A partition and its first and last sector, both its own."""

    partition: Partition
    first: int
    last: int


class Layout(Struct, frozen=True, kw_only=True):
    """Where partitions lie on a disk of `size` bytes; `free`: bytes by which the last one could be larger."""

    places: tuple[Place, ...]
    size: int
    free: int


def layout(partitions: Sequence[Partition], *, size: int = 0) -> Layout:
    """Return the places of partitions in the order given, each at a whole MiB.

    size: of the disk in bytes, rounded down to a sector; 0 for the least whole MiB that holds them. Raises
    ArtifactError where they do not fit or are not valid.
    """
    _check(partitions)
    places = []
    end = MIB  # after the table, at the alignment that every partitioner uses
    for partition in partitions:
        first = -(-end // MIB) * MIB // SECTOR
        last = first + -(-partition.size // SECTOR) - 1
        places.append(Place(partition=partition, first=first, last=last))
        end = (last + 1) * SECTOR
    least = end + TAIL_SECTORS * SECTOR
    if size and size < least:
        raise ArtifactError(
            f"the disk needs {least} bytes ({-(-least // MIB)} MiB), and {size} are given",
            where="disk.size",
            hint="leave the size to mkroot with `size: minimal`, or give more",
        )
    total = size // SECTOR * SECTOR if size else -(-least // MIB) * MIB
    return Layout(places=tuple(places), size=total, free=total - TAIL_SECTORS * SECTOR - end)


def _check(partitions: Sequence[Partition]) -> None:
    if not 0 < len(partitions) <= ENTRIES:
        raise ArtifactError(f"a disk has 1 to {ENTRIES} partitions, not {len(partitions)}")
    seen: set[uuid.UUID] = set()
    for p in partitions:
        where = f"partition {p.name!r}"
        if p.size <= 0:
            raise ArtifactError("a partition's size must be more than 0 bytes", where=where)
        if "\0" in p.name or len(p.name.encode("utf-16-le", "surrogatepass")) > 2 * NAME_UNITS:
            raise ArtifactError(f"a partition's name has at most {NAME_UNITS} characters", where=where)
        if not 0 <= p.attributes < 1 << 64:
            raise ArtifactError("a partition's attributes are 64 bits", where=where)
        if p.kind.int == 0 or p.identity.int == 0:
            raise ArtifactError("a partition's type and identity must not be zero", where=where)
        if p.identity in seen:
            raise ArtifactError(f"two partitions have the identity {p.identity}", where=where)
        seen.add(p.identity)


def write_disk(path: Path, layout: Layout, *, identity: uuid.UUID, boot_code: bytes = b"", core: bytes = b"") -> None:
    """Write a disk image to a new file, sparse and 0644.

    identity: the disk's GUID. boot_code: what the BIOS starts, at most 440 bytes. core: GRUB's core.img for the BIOS
    boot partition; boot_code is then GRUB's boot.img as shipped. Both are fitted to each other here, because what they
    say depends on where the partition lies. Raises ArtifactError where a content does not fit; OSError.
    """
    for place in layout.places:
        _check_content(place)
    if core:
        boot_code, core, bios = _embedded(layout, boot_code, core)
    total = layout.size // SECTOR
    head, tail = tables(layout.places, total, identity, boot_code=boot_code)
    with open(path, "xb", buffering=0) as disk:
        fd = disk.fileno()
        os.fchmod(fd, 0o644)
        os.ftruncate(fd, layout.size)
        write_at(fd, head, 0)
        for place in layout.places:
            if place.partition.content is not None:
                copy_sparse(place.partition.content, fd, place.first * SECTOR)
        if core:
            write_at(fd, core, bios.first * SECTOR)
        write_at(fd, tail, (total - TAIL_SECTORS) * SECTOR)


def _embedded(layout: Layout, boot_code: bytes, core: bytes) -> tuple[bytes, bytes, Place]:
    """Return GRUB's two images fitted to the BIOS boot partition, and its place."""
    bios = next((p for p in layout.places if p.partition.kind == BIOS_BOOT), None)
    if bios is None:
        raise ArtifactError("GRUB cannot start from a GPT disk by BIOS without a BIOS boot partition")
    room = (bios.last - bios.first + 1) * SECTOR
    if bios.partition.content is not None or len(core) > room:
        what = "already has a content" if bios.partition.content is not None else f"has only {room} bytes"
        raise ArtifactError(
            f"GRUB's core image of {len(core)} bytes cannot be put into the BIOS boot partition, which {what}",
            where=f"partition {bios.partition.name!r}",
        )
    return *embed_grub(boot_code, core, bios.first), bios


def _check_content(place: Place) -> None:
    content, room = place.partition.content, (place.last - place.first + 1) * SECTOR
    if content is None:
        return
    where = f"partition {place.partition.name!r}"
    try:
        size = content.stat().st_size
    except OSError as e:
        raise ArtifactError(f"the content cannot be read: {e.strerror}", where=where) from e
    if size > room:
        raise ArtifactError(f"the content has {size} bytes, and the partition {room}", where=where)


def tables(
    places: Sequence[Place], sectors: int, identity: uuid.UUID, *, boot_code: bytes = b"", usable: int = HEAD_SECTORS
) -> tuple[bytes, bytes]:
    """Return the first 34 and the last 33 sectors of a disk of `sectors` sectors.

    usable: the first sector that a partition may have.
    """
    entries = b"".join(_entry(place) for place in places).ljust(ENTRIES * ENTRY_SIZE, b"\0")
    last = sectors - 1

    def header(own: int, other: int, table: int) -> bytes:
        # Table 5.5. The header's own CRC is taken with its field zero.
        before = struct.pack("<8sII", b"EFI PART", 0x00010000, HEADER_SIZE)
        after = struct.pack(
            "<IQQQQ16sQIII",
            0, own, other, usable, sectors - TAIL_SECTORS - 1, identity.bytes_le,
            table, ENTRIES, ENTRY_SIZE, zlib.crc32(entries),
        )  # fmt: skip
        crc = zlib.crc32(before + bytes(4) + after)
        return (before + struct.pack("<I", crc) + after).ljust(SECTOR, b"\0")

    head = _protective_mbr(sectors, boot_code) + header(1, last, 2) + entries
    return head, entries + header(last, 1, sectors - TAIL_SECTORS)


def _entry(place: Place) -> bytes:
    """Return a partition's entry (table 5.6)."""
    p = place.partition
    name = p.name.encode("utf-16-le", "surrogatepass").ljust(2 * NAME_UNITS, b"\0")
    return struct.pack(
        "<16s16sQQQ72s", p.kind.bytes_le, p.identity.bytes_le, place.first, place.last, p.attributes, name
    )


def _protective_mbr(sectors: int, boot_code: bytes) -> bytes:
    """Return the protective MBR (section 5.2.3).

    With boot code there is a second, empty record with the active flag: some BIOSes start no disk without one, and on
    the protective record itself the specification forbids it.
    """
    if len(boot_code) > BOOT_CODE_SIZE:
        raise ArtifactError(f"the boot code has {len(boot_code)} bytes, and the MBR has room for {BOOT_CODE_SIZE}")
    cover = min(sectors - 1, 0xFFFFFFFF)
    protective = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, cover)
    active = struct.pack("<B15x", 0x80) if boot_code else bytes(16)
    return boot_code.ljust(BOOT_CODE_SIZE, b"\0") + bytes(6) + protective + active + bytes(32) + b"\x55\xaa"


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at an offset in bytes; raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def copy_sparse(source: Path, fd: int, offset: int) -> None:
    """Copy a file into another at an offset in bytes, leaving out its holes and runs of zeros; raises OSError."""
    buffer = bytearray(_COPY)
    view = memoryview(buffer)
    with open(source, "rb", buffering=0) as f:
        at, end = 0, os.fstat(f.fileno()).st_size
        while at < end:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
                stop = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            except OSError:
                return  # ENXIO: a hole to the end; a file system without holes says that all of it is data
            while at < stop:
                n = os.preadv(f.fileno(), [view[: min(_COPY, stop - at)]], at)
                if n == 0:
                    return
                if view[:n] != _ZEROS[:n]:
                    write_at(fd, view[:n], offset + at)
                at += n
