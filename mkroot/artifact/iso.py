"""ISO images that start under UEFI and BIOS, from CD and from a USB stick, made with pycdlib.

ECMA-119 (ISO 9660) level 3 with Rock Ridge 1.09; El Torito 1.0 for the CD; for the stick a GUID partition table in the
system area that ECMA-119, 6.2.1, leaves free, whose EFI system partition is the FAT image inside the ISO.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mkroot.artifact.gpt import ESP, SECTOR, TAIL_SECTORS, Partition, Place, tables, write_at
from mkroot.artifact.grub import embed_eltorito, embed_hybrid
from mkroot.artifact.isodates import BLOCK, set_dates
from mkroot.errors import ArtifactError
from mkroot.tar.entry import parent

if TYPE_CHECKING:
    from pycdlib import PyCdlib

EFI_PATH = "boot/efi.img"
BIOS_PATH = "boot/bios.img"
CATALOG_PATH = "boot/boot.cat"
_FILE_LIMIT = 0xFFFFFFFF  # bytes in one extent (ECMA-119, 9.1.4)
_VOLUME_LIMIT = 32
_NAME_LIMIT = 255  # of Linux
_ISO_NAME = 30  # name and extension (ECMA-119, 7.5.1)
_DIRECTORY_MODE, _FILE_MODE = 0o040555, 0o100444
_CDBOOT_SECTORS = 4  # of 512 bytes: what the BIOS loads is cdboot.img, which loads the rest
_SECTORS_LIMIT = 0xFFFF
# Zeros after the last file: GRUB reads a CD 16 blocks at a time, and gets wrong bytes where that goes past its end.
PAD = 150 * BLOCK
_SPACE_SIZE = 16 * BLOCK + 80  # ECMA-119, 8.4.8


def write_iso(
    path: Path,
    files: Mapping[str, Path | bytes],
    *,
    volume: str,
    identity: uuid.UUID,
    efi_image: Path,
    bios_core: bytes | None = None,
    boot_code: bytes = b"",
    epoch: int,
) -> None:
    """Write an ISO image to a new file, 0644.

    files: contents by path, with slashes, relative to the image's root; folders are made, all of it is 0444 or 0555 and
    root's. volume: its label. identity: the GUID of the partition table, from which that of the EFI system partition is
    derived. efi_image: a FAT image with EFI/BOOT/BOOTX64.EFI; it becomes boot/efi.img. bios_core: GRUB's core image as
    `grub-mkimage -O i386-pc-eltorito` writes it, which becomes boot/bios.img; it is started with (cd) or (hd0) as root.
    boot_code: GRUB's boot_hybrid.img, by which a BIOS starts bios_core from a USB stick. epoch: every date, seconds
    since 1970. The same arguments give the same bytes. Raises ArtifactError for what an ISO image cannot hold; OSError.
    """
    if boot_code and not bios_core:
        raise ArtifactError("boot code for a USB stick needs GRUB's core image for El Torito as well")
    own: dict[str, Path | bytes] = {EFI_PATH: efi_image}
    if bios_core:
        embed_eltorito(bios_core, 0)  # raises, as does the next, where it is not one
        own[BIOS_PATH] = bios_core
        if boot_code:
            embed_hybrid(boot_code, 0)
    _check_label(volume)
    for name in (EFI_PATH, BIOS_PATH, CATALOG_PATH):
        taken = next((f for f in sorted(files) if f == name or f.startswith(name + "/")), None)
        if taken is not None:
            raise ArtifactError(f"{name} is taken by what the ISO starts from", where=taken)
    everything = {**files, **own}
    _check(everything)
    names = _iso_names([*everything, CATALOG_PATH])
    extents = _master(path, everything, names, volume, bios=bool(bios_core))
    with open(path, "r+b", buffering=0) as f:
        set_dates(f.fileno(), epoch)
        if bios_core:
            _fit_core(f.fileno(), bios_core, extents[BIOS_PATH])
            if boot_code:
                boot_code = embed_hybrid(boot_code, extents[BIOS_PATH] * (BLOCK // SECTOR))
        _add_tables(f.fileno(), extents[EFI_PATH], _size(efi_image, EFI_PATH), identity, boot_code)


def volume_identity(epoch: int) -> str:
    """Return what Linux and GRUB take as the UUID of an ISO image: its date of modification."""
    from mkroot.artifact.isodates import volume_date

    text = volume_date(epoch)[:16].decode("ascii")
    return "-".join((text[:4], *(text[i : i + 2] for i in range(4, 16, 2))))


def _master(
    path: Path, files: Mapping[str, Path | bytes], names: dict[str, str], volume: str, *, bios: bool
) -> dict[str, int]:
    """Write the image with today's dates; return the block at which each boot image begins."""
    from pycdlib import PyCdlib
    from pycdlib.pycdlibexception import PyCdlibException

    iso = PyCdlib()
    try:
        iso.new(interchange_level=3, sys_ident="LINUX", vol_ident=volume, rock_ridge="1.09", app_ident_str="MKROOT")
        for name in sorted(n for n in names if n not in files and n != CATALOG_PATH):
            iso.add_directory(names[name], rr_name=_last(name), file_mode=_DIRECTORY_MODE)
        for name in sorted(files):
            content = files[name]
            if isinstance(content, bytes):
                iso.add_fp(BytesIO(content), len(content), names[name], rr_name=_last(name), file_mode=_FILE_MODE)
            else:
                iso.add_file(str(content), names[name], rr_name=_last(name), file_mode=_FILE_MODE)
        _add_boot(iso, names, files[EFI_PATH], bios)
        with open(path, "xb") as f:
            os.fchmod(f.fileno(), 0o644)
            iso.write_fp(f, 1 << 20)
        return {n: iso.get_record(iso_path=names[n]).extent_location() for n in (EFI_PATH, BIOS_PATH) if n in files}
    except PyCdlibException as e:
        raise ArtifactError(f"the ISO image cannot be made: {e}", where=path.name) from e
    finally:
        iso.close()


def _add_boot(iso: PyCdlib, names: dict[str, str], efi_image: Path | bytes, bios: bool) -> None:
    """Add the El Torito catalog: BIOS first, which is what a BIOS without knowledge of platforms starts."""
    catalog, name = names[CATALOG_PATH], _last(CATALOG_PATH)
    sectors = -(-_size(efi_image, EFI_PATH) // SECTOR)
    if sectors > _SECTORS_LIMIT:
        sectors = 0  # 16 bits do not hold it; firmware then takes all that follows (UEFI 2.10, section 13.3.2.1)
    if bios:
        core = names[BIOS_PATH]
        iso.add_eltorito(core, catalog, name, boot_load_size=_CDBOOT_SECTORS, platform_id=0, boot_info_table=True)
    iso.add_eltorito(names[EFI_PATH], catalog, name, boot_load_size=sectors, platform_id=0xEF, efi=True)


def _fit_core(fd: int, core: bytes, block: int) -> None:
    """Set the block list of GRUB's core image, and the check sum of its boot information table again.

    The table (at bytes 8 to 63: image's descriptor, block, length, sum) is GRUB's cdboot.img's way to find the rest.
    """
    fitted = embed_eltorito(core, block * (BLOCK // SECTOR))
    words = fitted[64:].ljust(-(-len(fitted[64:]) // 4) * 4, b"\0")
    total = sum(struct.unpack(f"<{len(words) // 4}I", words)) & 0xFFFFFFFF
    table = struct.pack("<IIII40x", 16, block, len(core), total)
    write_at(fd, fitted[:8] + table + fitted[64:], block * BLOCK)


def _add_tables(fd: int, block: int, size: int, identity: uuid.UUID, boot_code: bytes) -> None:
    """Put a partition table around the image, and count its end as a part of the volume."""
    end = os.fstat(fd).st_size + PAD
    total = -(-(end + TAIL_SECTORS * SECTOR) // BLOCK) * BLOCK
    os.ftruncate(fd, total)
    first = block * (BLOCK // SECTOR)
    esp = Partition(name="EFI system", kind=ESP, identity=uuid.uuid5(identity, "efi"), size=size)
    place = Place(partition=esp, first=first, last=first + -(-size // SECTOR) - 1)
    head, tail = tables([place], total // SECTOR, identity, boot_code=boot_code)
    write_at(fd, head, 0)
    write_at(fd, tail, total - TAIL_SECTORS * SECTOR)
    write_at(fd, struct.pack("<I", total // BLOCK) + struct.pack(">I", total // BLOCK), _SPACE_SIZE)


def _check_label(volume: str) -> None:
    printable = volume.isascii() and volume.isprintable() and volume == volume.strip()
    if not printable or not 0 < len(volume) <= _VOLUME_LIMIT:
        raise ArtifactError(
            f"{volume!r} is not a label for an ISO image",
            hint=f"take 1 to {_VOLUME_LIMIT} capital letters, digits or `_`",
        )


def _check(files: Mapping[str, Path | bytes]) -> None:
    for name, content in files.items():
        _size(content, name)
        for part in name.split("/"):
            if part in ("", ".", "..") or "\0" in part or any("\ud800" <= c <= "\udfff" for c in part):
                raise ArtifactError("the name is not a path within the image, in UTF-8", where=name)
            if len(part.encode()) > _NAME_LIMIT:
                raise ArtifactError(f"the name is longer than {_NAME_LIMIT} bytes", where=name)
        up = parent(name)
        while up:
            if up in files:
                raise ArtifactError(f"{up} is a file and a folder", where=name)
            up = parent(up)


def _size(content: Path | bytes, name: str) -> int:
    """Return a content's size in bytes; raises ArtifactError where it cannot be read or is too large."""
    try:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
    except OSError as e:
        raise ArtifactError(f"the file cannot be read: {e.strerror}", where=name) from e
    if size > _FILE_LIMIT:
        raise ArtifactError(
            f"the file has {size} bytes, and an ISO image holds files of less than 4 GiB",
            where=name,
            hint="make the root smaller, or build a disk instead",
        )
    return size


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _iso_names(paths: list[str]) -> dict[str, str]:
    """Return the ISO 9660 path of each file and of each folder above them; Rock Ridge carries the real names."""
    files = set(paths)
    everything = set(files)
    for name in paths:
        while name := parent(name):
            everything.add(name)
    found = {"": ""}
    taken: set[str] = set()
    for name in sorted(everything, key=lambda n: n.split("/")):
        above = found[parent(name)]
        number = 0
        while (short := f"{above}/{_iso_name(_last(name), name not in files, number)}") in taken:
            number += 1
        found[name] = short
        taken.add(short)
    del found[""]
    return found


def _iso_name(name: str, folder: bool, number: int) -> str:
    """Return a name of capital letters, digits and `_` (ECMA-119, 7.5 and 7.6); `number` tells like ones apart."""
    stem, _, extension = name.rpartition(".")
    if folder or not stem:
        stem, extension = name, ""
    tail = f"_{number}" if number else ""
    extension = _plain(extension)[:3]
    stem = _plain(stem)[: _ISO_NAME - len(extension) - len(tail)] + tail
    return stem if folder else f"{stem}.{extension};1"


def _plain(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text.upper())
