"""One EFI program that holds stub, kernel, initramfs and command line: a unified kernel image.

Rules: UAPI group's specification of unified kernel images (UAPI.5); Microsoft PE format for the file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from mkroot.boot.pe import (
    AT_CERTIFICATES,
    AT_CHECKSUM,
    AT_IMAGE_SIZE,
    AT_INITIALIZED_DATA,
    AT_SECTION_COUNT,
    EFI_APPLICATION,
    SECTION_SIZE,
    Program,
    read_program,
)
from mkroot.errors import BootError

PAGE = 4096  # systemd 252's stub asks for 512 only, yet firmware hands out and protects memory by pages
_NAME_LIMIT = 8  # bytes of a section's name in a PE file
_READABLE_DATA = 0x40000040  # IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
_SIZE_LIMIT = 1 << 31  # PE offsets have 32 bits, and firmware takes them as signed in places
_ROW = struct.Struct("<8sIIIIIIHHI")


def uki_sections(
    *, osrel: bytes, cmdline: str, version: str, initramfs: bytes | None, kernel: bytes
) -> tuple[tuple[str, bytes], ...]:
    """Return the sections of a unified kernel image, in the order in which they are written.

    osrel: the content of os-release; version: the kernel's release, as `uname -r` prints it. What is empty is left out.
    The kernel comes last: older stubs start it where it lies, and it may grow past its end while it unpacks itself.
    """
    sections = [
        (".osrel", osrel),
        (".cmdline", cmdline.encode("ascii")),
        (".uname", version.encode("ascii")),
        (".initrd", initramfs or b""),
        (".linux", kernel),
    ]
    return tuple((name, content) for name, content in sections if content)


def make_uki(stub: bytes, sections: Sequence[tuple[str, bytes]], *, where: str = "the stub") -> bytes:
    """Return a stub with sections added: a unified kernel image. The same input gives the same bytes.

    stub: systemd's linuxx64.efi.stub or its like; sections: names, with the dot, and contents; where: the stub's path,
    for messages. The `.linux` section takes the memory that the kernel's own header asks for, zeros behind its bytes.
    A signature of the stub is dropped, because it would no longer fit. Raises BootError where the stub is no EFI
    program, has no room for the sections, or has one of them already.
    """
    program = read_program(stub, where)
    _check(program, sections, where)
    stub = _without_signature(stub, program)
    out = bytearray(stub)
    address = max([s.address + max(s.memory, s.size) for s in program.sections], default=program.image_size)
    data_size = 0
    for number, (name, content) in enumerate(sections, len(program.sections)):
        memory = max(len(content), _kernel_memory(content) if name == ".linux" else 0)
        address = _aligned(address, max(program.section_alignment, PAGE))
        out += bytes(_aligned(len(out), program.file_alignment) - len(out))
        size = _aligned(len(content), program.file_alignment)
        row = (name.encode("ascii"), memory, address, size, len(out), 0, 0, 0, 0, _READABLE_DATA)
        _ROW.pack_into(out, program.table + number * SECTION_SIZE, *row)
        out += content
        out += bytes(size - len(content))
        address += memory
        data_size += size
        if len(out) >= _SIZE_LIMIT or address >= _SIZE_LIMIT:
            raise BootError("kernel and initramfs are too big for one EFI program (2 GiB)", where=where)
    _set_headers(out, program, len(sections), data_size, address)
    return bytes(out)


def _check(program: Program, sections: Sequence[tuple[str, bytes]], where: str) -> None:
    if program.subsystem != EFI_APPLICATION:
        raise BootError("the stub is no EFI application", where=where)
    alignments = (program.section_alignment, program.file_alignment)
    if any(n == 0 or n & (n - 1) or n > 1 << 20 for n in alignments):
        raise BootError("the stub's alignments are no powers of two", where=where)
    there = {s.name for s in program.sections}
    for name, _ in sections:
        if not 0 < len(name.encode()) <= _NAME_LIMIT or not name.isascii():
            raise BootError(f"`{name}` is no name of a PE section", where=where)
        if name in there:
            raise BootError(f"the stub has a section `{name}` already", where=where)
        there.add(name)
    end = program.table + (len(program.sections) + len(sections)) * SECTION_SIZE
    if end > program.header_end:
        raise BootError(
            f"the stub's header has no room for {len(sections)} more sections: {end} bytes are needed, "
            f"{program.header_end} are there",
            where=where,
            hint="another version of systemd's stub, or `loader: systemd-boot`, works without that room",
        )


def _without_signature(stub: bytes, program: Program) -> bytes:
    """Return the stub without the certificates at its end, with which it would be taken as tampered with."""
    offset, size = program.certificates
    if not size:
        return stub
    cleared = bytearray(stub[:offset] if offset + size >= len(stub) and offset >= program.header_end else stub)
    struct.pack_into("<II", cleared, program.start + AT_CERTIFICATES, 0, 0)
    return bytes(cleared)


def _kernel_memory(kernel: bytes) -> int:
    """Return the bytes of memory that a kernel's own header asks for, 0 where it has none that can be read."""
    try:
        return read_program(kernel, "the kernel").image_size
    except BootError:
        return 0


def _set_headers(out: bytearray, program: Program, added: int, data_size: int, end: int) -> None:
    start = program.start
    struct.pack_into("<H", out, start + AT_SECTION_COUNT, len(program.sections) + added)
    struct.pack_into("<I", out, start + AT_INITIALIZED_DATA, program.initialized_data + data_size)
    struct.pack_into("<I", out, start + AT_IMAGE_SIZE, _aligned(end, program.section_alignment))
    struct.pack_into("<I", out, start + AT_CHECKSUM, 0)  # firmware does not ask for it, and 0 stands for "none"


def _aligned(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment
