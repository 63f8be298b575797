"""EFI programs and kernels of a few hundred bytes, made for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def program(
    sections: Sequence[tuple[str, int, bytes]] = ((".text", 0x1000, b"code"), (".sbat", 0x2000, b"sbat,1")),
    *,
    alignment: int = 0x1000,
    headers: int = 0x400,
    machine: int = 0x8664,
    subsystem: int = 10,
    image_size: int = 0x3000,
    signature: bytes = b"",
) -> bytes:
    """A PE32+ file with these sections (name, address, content), file alignment 512; signature: certificates."""
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 0x200, 0x200, 0, 0x1000, 0x1000)
    optional += struct.pack(
        "<QIIHHHHHHIIIIHH", 0, alignment, 0x200, 0, 0, 0, 0, 0, 0, 0, image_size, headers, 77, subsystem, 0
    )
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16)
    place = headers
    rows, body = b"", b""
    for name, address, content in sections:
        size = -(-len(content) // 0x200) * 0x200
        row = (name.encode(), len(content), address, size, place + len(body), 0, 0, 0, 0, 0x60000020)
        rows += struct.pack("<8sIIIIIIHHI", *row)
        body += content.ljust(size, b"\0")
    directories = [(0, 0)] * 16
    if signature:
        directories[4] = (place + len(body), len(signature))
    optional += b"".join(struct.pack("<II", *d) for d in directories)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, len(sections), 0, 0, 0, len(optional), 0x22E)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x78)
    return (head.ljust(0x78, b"\0") + coff + optional + rows).ljust(headers, b"\0") + body + signature


def kernel(*, efi: bool = True, memory: int = 0x40000) -> bytes:
    """A bzImage as far as its headers go, which is an EFI program as well, or is none."""
    data = bytearray(program([(".text", 0x1000, b"vmlinux" * 100)], headers=0x400, image_size=memory))
    if not efi:
        data[:2] = b"\xea\x05"
    data[0x202:0x206] = b"HdrS"
    return bytes(data)


def grub(prefix: str | None, *, config: bytes = b"") -> bytes:
    """An EFI image of GRUB as far as its section `mods` goes."""
    objects = [(0, b"\x7fELF module"), *([(2, config)] if config else [])]
    objects += [] if prefix is None else [(3, prefix.encode() + b"\0")]
    body = b"".join(struct.pack("<II", kind, len(data) + 8) + data for kind, data in objects)
    mods = struct.pack("<4sIQQ", b"mimg", 0, 24, 24 + len(body)) + body
    return program([(".text", 0x1000, b"grub"), ("mods", 0x2000, mods)])
