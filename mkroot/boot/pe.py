"""Reads what of a PE file (an EFI program) matters for booting: its machine, its kind and its sections.

Offsets: Microsoft PE format, "COFF File Header", "Optional Header PE32+" and "Section Table".
"""

from __future__ import annotations

import struct

import msgspec

from mkroot.errors import BootError

MACHINES = {"amd64": 0x8664, "arm64": 0xAA64}  # IMAGE_FILE_MACHINE_*
EFI_APPLICATION = 10  # IMAGE_SUBSYSTEM_EFI_APPLICATION
SECTION_SIZE = 40  # bytes of one row of the section table
# Offsets from the PE signature: 4 bytes of signature and 20 of COFF header stand before the optional header.
AT_SECTION_COUNT = 6
AT_OPTIONAL = 24
AT_INITIALIZED_DATA = AT_OPTIONAL + 8
AT_IMAGE_SIZE = AT_OPTIONAL + 56
AT_CHECKSUM = AT_OPTIONAL + 64
AT_CERTIFICATES = AT_OPTIONAL + 112 + 4 * 8  # data directory 4, the certificate table
_PE32_PLUS = 0x20B
_COFF = struct.Struct("<4sHHIIIHH")
_ROW = struct.Struct("<8sIIII")


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A section: its name, where it lies in memory (from the image's base) and in the file; all in bytes."""

    name: str
    address: int
    memory: int
    offset: int
    size: int


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """The headers of an EFI program.

    start: where the PE signature stands; table, header_end: where the section table begins and the room for it ends;
    image_size: bytes in memory; certificates: place and size of a signature at the file's end, (0, 0) without one.
    """

    machine: int
    subsystem: int
    start: int
    table: int
    header_end: int
    section_alignment: int
    file_alignment: int
    initialized_data: int
    image_size: int
    certificates: tuple[int, int]
    sections: tuple[Section, ...]


def read_program(data: bytes, where: str) -> Program:
    """Read the headers of an EFI program of 64 bits; raises BootError, saying what is wrong with the file `where`."""
    try:
        return _read(data, where)
    except struct.error:
        raise BootError("the EFI program ends within its headers", where=where) from None


def _read(data: bytes, where: str) -> Program:
    if data[:2] != b"MZ":
        raise BootError("this is no EFI program: it does not begin with `MZ`", where=where)
    (start,) = struct.unpack_from("<I", data, 0x3C)
    signature, machine, count, _, _, _, optional, _ = _COFF.unpack_from(data, start)
    if signature != b"PE\0\0":
        raise BootError("this is no EFI program: it has no PE header", where=where)
    (magic,) = struct.unpack_from("<H", data, start + AT_OPTIONAL)
    if magic != _PE32_PLUS:
        raise BootError("this EFI program is not one of 64 bits (PE32+)", where=where)
    section_alignment, file_alignment = struct.unpack_from("<II", data, start + AT_OPTIONAL + 32)
    image_size, headers_size = struct.unpack_from("<II", data, start + AT_IMAGE_SIZE)
    (subsystem,) = struct.unpack_from("<H", data, start + AT_OPTIONAL + 68)
    (directories,) = struct.unpack_from("<I", data, start + AT_OPTIONAL + 108)
    table = start + AT_OPTIONAL + optional
    sections = tuple(_section(data, table + i * SECTION_SIZE, where) for i in range(count))
    certificates = struct.unpack_from("<II", data, start + AT_CERTIFICATES) if directories > 4 else (0, 0)
    return Program(
        machine=machine,
        subsystem=subsystem,
        start=start,
        table=table,
        header_end=min([headers_size, *(s.offset for s in sections if s.size)]),
        section_alignment=section_alignment,
        file_alignment=file_alignment,
        initialized_data=struct.unpack_from("<I", data, start + AT_INITIALIZED_DATA)[0],
        image_size=image_size,
        certificates=certificates,
        sections=sections,
    )


def _section(data: bytes, at: int, where: str) -> Section:
    name, memory, address, size, offset = _ROW.unpack_from(data, at)
    text = name.rstrip(b"\0").decode("ascii", "backslashreplace")
    if offset + size > len(data) and size:
        raise BootError(f"the EFI program is cut short: its section `{text}` ends behind the file", where=where)
    return Section(name=text, address=address, memory=memory, offset=offset, size=size)
