"""Kernels of a few lines: modules that are real ELF files, programs, and the files that depmod and kbuild write."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Mapping

import zstandard

VERSION = "6.1.0-9-cloud-amd64"
MODULES = f"usr/lib/modules/{VERSION}"
CONFIG = "# a comment\nCONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\nCONFIG_EXT4_FS=y\n"


def elf(kind: int, sections: Mapping[str, bytes], segments: tuple[int, ...] = ()) -> bytes:
    """A 64-bit little-endian x86-64 ELF file: e_type, sections by name, and types of program headers."""
    names = b"\0" + b"".join(n.encode() + b"\0" for n in (*sections, ".shstrtab"))
    contents = [*sections.values(), names]
    start = 64 + 56 * len(segments)
    body, headers, at = b"", bytes(64), 1
    for index, (name, content) in enumerate(zip((*sections, ".shstrtab"), contents)):
        last = index == len(contents) - 1
        headers += struct.pack("<IIQQQQIIQQ", at, 3 if last else 1, 0, 0, start + len(body), len(content), 0, 0, 1, 0)
        body += content
        at += len(name) + 1
    programs = b"".join(struct.pack("<IIQQQQQQ", t, 5, start, 0, 0, 1, 1, 1) for t in segments)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1".ljust(16, b"\0"), kind, 62, 1, 0, 64 if segments else 0,
        start + len(body), 0, 64, 56, len(segments), 64, len(contents) + 1, len(contents),
    )  # fmt: skip
    return head + programs + body + headers


def module(*said: str, version: str = VERSION) -> bytes:
    """A .ko that says these `key=value` items in its .modinfo, and which kernel it is for."""
    items = (*said, f"vermagic={version} SMP preempt mod_unload")
    return elf(1, {".text": b"\x90" * 32, ".modinfo": b"".join(i.encode() + b"\0" for i in items)})


def busybox(*, static: bool = True) -> bytes:
    """A program; PT_LOAD is 1, PT_INTERP 3."""
    return elf(2, {".text": b"busybox" * 100}, (1,) if static else (1, 3))


def kernel(modules: Mapping[str, bytes], **more: str | bytes) -> dict[str, str | bytes]:
    """The files of a kernel: modules by path below `kernel/`, packed as their names say; `more` by path in its folder.

    Its configuration says nothing of modules; modules.builtin names ext4 and crc32c_generic.
    """
    packed = {
        path: lzma.compress(data) if path.endswith(".xz")
        else zstandard.ZstdCompressor().compress(data) if path.endswith(".zst")
        else data
        for path, data in modules.items()
    }  # fmt: skip
    return {
        f"boot/vmlinuz-{VERSION}": "MZ",
        f"boot/config-{VERSION}": CONFIG,
        f"{MODULES}/modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n",
        f"{MODULES}/modules.builtin.modinfo": "ext4.alias=fs-ext4\0crc32c_generic.alias=crypto-crc32c\0",
        **{f"{MODULES}/kernel/{path}": data for path, data in packed.items()},
        **{f"{MODULES}/{name}": text for name, text in more.items()},
    }
