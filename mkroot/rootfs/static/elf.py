"""Reads of an ELF file what the loader's cache needs: machine, kind and SONAME (System V gABI, chapters 4 and 5)."""

from __future__ import annotations

import struct

import msgspec

ET_DYN = 3
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_STRTAB, DT_STRSZ, DT_SONAME = 0, 5, 10, 14
SEGMENT_LIMIT, DYNAMIC_LIMIT = 4096, 1 << 16


class Library(msgspec.Struct, frozen=True):
    """A shared object. machine: e_machine. bits: 32 or 64. flags: e_flags. soname: "" where it has none."""

    machine: int
    bits: int
    flags: int
    soname: str


def read_library(data: bytes) -> Library | None:
    """Return what a shared object says of itself, or None where `data` is none or is damaged."""
    try:
        return _read(data)
    except (struct.error, ValueError, IndexError, OverflowError):
        return None


def _read(data: bytes) -> Library | None:
    if data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
        return None
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    kind, machine = struct.unpack_from(order + "HH", data, 16)
    if kind != ET_DYN:
        return None
    if wide:
        (offset,), flags = struct.unpack_from(order + "Q", data, 32), struct.unpack_from(order + "I", data, 48)[0]
        size, count = struct.unpack_from(order + "HH", data, 54)
    else:
        (offset,), flags = struct.unpack_from(order + "I", data, 28), struct.unpack_from(order + "I", data, 36)[0]
        size, count = struct.unpack_from(order + "HH", data, 42)
    if count > SEGMENT_LIMIT or size < (56 if wide else 32):
        return None
    loads: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    for n in range(count):
        at = offset + n * size
        if wide:
            (what,) = struct.unpack_from(order + "I", data, at)
            start, address, _, length = struct.unpack_from(order + "4Q", data, at + 8)
        else:
            what, start, address, _, length = struct.unpack_from(order + "5I", data, at)
        if what == PT_LOAD:
            loads.append((address, length, start))
        elif what == PT_DYNAMIC:
            dynamic = (start, length)
    if dynamic is None:
        return None
    return Library(machine, 64 if wide else 32, flags, _soname(data, order, wide, dynamic, loads))


def _soname(data: bytes, order: str, wide: bool, dynamic: tuple[int, int], loads: list[tuple[int, int, int]]) -> str:
    values: dict[int, int] = {}
    step = 16 if wide else 8
    for at in range(dynamic[0], dynamic[0] + min(dynamic[1], DYNAMIC_LIMIT), step):
        tag, value = struct.unpack_from(order + ("qQ" if wide else "iI"), data, at)
        if tag == DT_NULL:
            break
        values.setdefault(tag, value)
    if DT_SONAME not in values or DT_STRTAB not in values:
        return ""
    for address, length, start in loads:
        if address <= values[DT_STRTAB] < address + length:
            begin = values[DT_STRTAB] - address + start + values[DT_SONAME]
            return data[begin : data.index(b"\0", begin)].decode("utf-8", "surrogateescape")
    return ""
