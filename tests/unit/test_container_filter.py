"""The system call filter, run as the kernel would: what it refuses, and what it lets through."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mkroot.rootfs.filter import TABLES, program

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ALLOW, EPERM, ENOSYS, DONE = 0x7FFF0000, 0x50001, 0x50026, 0x50000


def answer(machine: str, arch: int, number: int, first: int = 0, *, syncs: bool = True) -> int:
    """Run the program for one call (seccomp(2): struct seccomp_data)."""
    words = {0: number, 4: arch, 16: first}
    lines, at, value = program(TABLES[machine], syncs=syncs), 0, 0
    while True:
        code, yes, no, operand = lines[at]
        assert 0 <= yes <= 255
        assert 0 <= no <= 255
        at += 1
        if code == 0x20:
            value = words[operand]
        elif code == 0x05:
            at += operand
        elif code == 0x06:
            return operand
        else:
            true = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            at += yes if true else no


@pytest.mark.parametrize(
    ("arch", "number", "first", "found"),
    [
        (X86_64, 0, 0, ALLOW),  # read
        (X86_64, 59, 0, ALLOW),  # execve
        (X86_64, 165, 0, EPERM),  # mount
        (X86_64, 272, 0, EPERM),  # unshare
        (X86_64, 425, 0, EPERM),  # io_uring_setup
        (X86_64, 435, 0, ENOSYS),  # clone3
        (X86_64, 56, 0x11, ALLOW),  # clone: fork
        (X86_64, 56, 0x10000011, EPERM),  # clone: user namespace
        (X86_64, 56, 0x20000, EPERM),
        (X86_64, 41, 2, ALLOW),  # socket: AF_INET
        (X86_64, 41, 40, EPERM),  # AF_VSOCK
        (X86_64, 135, 0xFFFFFFFF, ALLOW),  # personality: what is it?
        (X86_64, 135, 0x0040000, EPERM),  # ADDR_NO_RANDOMIZE
        (X86_64, 135, 8, ALLOW),
        (X86_64, 161, 0, ALLOW),  # chroot: a capability that stays
        (X86_64, 0x40000000 | 165, 0, ENOSYS),  # x32
        (I386, 21, 0, EPERM),  # mount by its other number
        (I386, 165, 0, ALLOW),
        (I386, 120, 0x10000011, EPERM),
        (I386, 4, 0, ALLOW),
        (AARCH64, 40, 0, ENOSYS),  # no table of this machine
    ],
)
def test_calls_on_x86_64(arch: int, number: int, first: int, found: int) -> None:
    assert answer("x86_64", arch, number, first) == found


@pytest.mark.parametrize(
    ("number", "first", "found"),
    [(40, 0, EPERM), (97, 0, EPERM), (63, 0, ALLOW), (220, 0x10000011, EPERM), (220, 0x11, ALLOW), (435, 0, ENOSYS)],
)
def test_calls_on_aarch64(number: int, first: int, found: int) -> None:
    assert answer("aarch64", AARCH64, number, first) == found


@pytest.mark.parametrize(
    ("file", "machine", "index"),
    [
        ("x86_64-linux-gnu/asm/unistd_64.h", "x86_64", 0),
        ("x86_64-linux-gnu/asm/unistd_32.h", "x86_64", 1),
        ("asm-generic/unistd.h", "aarch64", 0),
    ],
)
def test_the_numbers_are_the_kernels(file: str, machine: str, index: int) -> None:
    header = Path("/usr/include") / file
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    table = TABLES[machine][index]
    named = {**table.denied, "clone": table.clone, "clone3": table.clone3, "personality": table.personality}
    named |= {"socket": table.socket, **table.syncs}
    assert {name: int(found[name]) for name in named if name in found} == {n: v for n, v in named.items() if n in found}
    assert len(set(named) - set(found)) <= 2
