"""Sets every date in an ISO image.

pycdlib takes the clock and the local time zone for the volume's dates, for every directory record and for Rock Ridge's
time stamps, and has an argument for few of them.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator

BLOCK = 2048
_FIRST_DESCRIPTOR = 16  # ECMA-119, 6.2.1: the system area is before
_PRIMARY, _SUPPLEMENTARY, _TERMINATOR = 1, 2, 255
_ROOT_RECORD = 156  # ECMA-119, 8.4.18
_VOLUME_DATES = (813, 830, 864)  # creation, modification, effective (8.4.26 to 8.4.29); 847, expiration, stays unset
_DIRECTORY = 0x02  # file flags, 9.1.6
_LONG_FORM = 0x80  # Rock Ridge 1.12, 4.1.6: 17 bytes a date, not 7
_LIMIT = (0, 4102444799)  # to the end of 2099


def record_date(epoch: int) -> bytes:
    """Return seconds since 1970 as in a directory record, 7 bytes, UTC (ECMA-119, 9.1.5)."""
    t = time.gmtime(min(max(epoch, _LIMIT[0]), _LIMIT[1]))
    return struct.pack("<6Bb", t.tm_year - 1900, t.tm_mon, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, 0)


def volume_date(epoch: int) -> bytes:
    """Return seconds since 1970 as in a volume descriptor, 17 bytes, UTC (ECMA-119, 8.4.26.1)."""
    t = time.gmtime(min(max(epoch, _LIMIT[0]), _LIMIT[1]))
    return b"%04d%02d%02d%02d%02d%02d00\0" % (t.tm_year, t.tm_mon, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec)


def set_dates(fd: int, epoch: int) -> None:
    """Set all dates of the ISO image open for reading and writing as `fd`; raises OSError."""
    number = _FIRST_DESCRIPTOR
    roots = set()
    while (descriptor := bytearray(os.pread(fd, BLOCK, number * BLOCK)))[0] != _TERMINATOR:
        if descriptor[0] in (_PRIMARY, _SUPPLEMENTARY):
            for at in _VOLUME_DATES:
                descriptor[at : at + 17] = volume_date(epoch)
            descriptor[_ROOT_RECORD + 18 : _ROOT_RECORD + 25] = record_date(epoch)
            os.pwrite(fd, descriptor, number * BLOCK)
            roots.add(_extent(descriptor, _ROOT_RECORD))
        number += 1
    todo, done = sorted(roots), set(roots)
    while todo:
        block, length = todo.pop()
        for folder in _set_folder(fd, block, length, epoch):
            if folder not in done:
                done.add(folder)
                todo.append(folder)


def _extent(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return the block and the length in bytes that a directory record tells."""
    return struct.unpack_from("<I", data, at + 2)[0], struct.unpack_from("<I", data, at + 10)[0]


def _set_folder(fd: int, block: int, length: int, epoch: int) -> list[tuple[int, int]]:
    """Set the dates in a folder's records; return the extents of the folders that it names, itself among them."""
    data = bytearray(os.pread(fd, length, block * BLOCK))
    found = []
    for at in _records(data):
        data[at + 18 : at + 25] = record_date(epoch)
        if data[at + 25] & _DIRECTORY:
            found.append(_extent(data, at))
        name = data[at + 32]
        fields = at + 33 + name + (name % 2 == 0)  # the system use field: after the name, at an even offset
        for place, size in _set_stamps(data, fields, at + data[at], epoch):
            _set_continuation(fd, place, size, epoch)
    os.pwrite(fd, data, block * BLOCK)
    return found


def _records(data: bytearray) -> Iterator[int]:
    """Yield the offsets of directory records; none crosses the end of a block, and what is left there is zero."""
    at = 0
    while at < len(data):
        if data[at] == 0:
            at = (at // BLOCK + 1) * BLOCK
        else:
            yield at
            at += data[at]


def _set_stamps(data: bytearray, at: int, end: int, epoch: int) -> list[tuple[int, int]]:
    """Set Rock Ridge's dates between two offsets; return places and sizes in bytes of where the fields go on (SUSP)."""
    more = []
    while at + 4 <= end and data[at + 2] >= 4:
        kind, size = bytes(data[at : at + 2]), data[at + 2]
        if kind == b"CE":
            block, offset, length = (struct.unpack_from("<I", data, at + n)[0] for n in (4, 12, 20))
            more.append((block * BLOCK + offset, length))
        elif kind == b"TF":
            date = volume_date(epoch) if data[at + 4] & _LONG_FORM else record_date(epoch)
            data[at + 5 : at + size] = date * ((size - 5) // len(date))
        at += size
    return more


def _set_continuation(fd: int, place: int, size: int, epoch: int) -> None:
    todo = [(place, size)]
    while todo:
        place, size = todo.pop()
        data = bytearray(os.pread(fd, size, place))
        todo += _set_stamps(data, 0, len(data), epoch)
        os.pwrite(fd, data, place)
