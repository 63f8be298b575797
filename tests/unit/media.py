"""What the tests of disks and images share: tools that may be missing, and other circumstances to build in."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mkroot.artifact.tools import HostTools
from mkroot.errors import ArtifactError

EPOCH = 1_700_000_001  # an odd second: FAT tells even ones only


def wanted(*tools: str) -> None:
    for tool in tools:
        try:
            HostTools().find(tool)
        except ArtifactError as e:
            pytest.skip(str(e))


def elsewhere(action: Callable[[], object]) -> None:
    """Run `action` in a process of another time zone, umask, locale and home, more than two seconds later."""
    time.sleep(2.1)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.umask(0o077)
            os.environ.update(TZ="Pacific/Kiritimati", LANG="tr_TR.UTF-8", SOURCE_DATE_EPOCH="7", HOME="/")
            time.tzset()
            action()
            status = 0
        except BaseException as e:
            print(e)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def differing(a: Path, b: Path) -> list[str]:
    """Where two files differ, sixteen bytes a line."""
    x, y = a.read_bytes(), b.read_bytes()
    lines = [f"sizes {len(x)} and {len(y)}"] if len(x) != len(y) else []
    if x != y:
        for at in range(0, min(len(x), len(y)), 16):
            if x[at : at + 16] != y[at : at + 16]:
                lines.append(f"{at:08x} {x[at : at + 16].hex()} {y[at : at + 16].hex()}")
    return lines[:20]


def grub_boot() -> bytes:
    """A boot sector with what GRUB's boot.img has at the places that matter."""
    image = bytearray(b"\xaa" * 512)
    image[0x5C:0x64] = struct.pack("<Q", 1)
    image[0x66:0x68] = b"\xeb\x05"
    image[510:] = b"\x55\xaa"
    return bytes(image)


def grub_core(size: int, before: int = 0) -> bytes:
    """A core image as grub-mkimage writes it: a block list of its own at the end of the first sector."""
    image = bytearray(b"\xcc" * (before + size))
    image[before + 488 : before + 512] = bytes(12) + struct.pack("<QHH", 2, -(-size // 512) - 1, 0x820)
    return bytes(image)
