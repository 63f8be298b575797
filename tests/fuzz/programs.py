"""Targets of binary files that packages bring, and of what a guest says."""

from __future__ import annotations

import struct

from mkroot.boot.modules import read_module
from mkroot.boot.pe import read_program
from mkroot.errors import BootError, VmError
from mkroot.rootfs.static.certificates import certificates, subject_hash
from mkroot.rootfs.static.elf import read_library
from mkroot.vm.check import verdict
from tests.fuzz.target import Target


def pe(data: bytes) -> None:
    """An EFI program's headers: no section lies outside the file."""
    found = read_program(data, "a.efi")
    assert all(s.offset + s.size <= len(data) for s in found.sections if s.size)
    assert found.start < len(data)


def elf(data: bytes) -> None:
    """A shared object; what is none is None."""
    found = read_library(data)
    if found is None:
        raise BootError("not a shared object")
    assert found.bits in (32, 64) and "\0" not in found.soname


def module(data: bytes) -> None:
    """A kernel module; the first byte chooses its compression."""
    ending = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")[data[0] % 4] if data else ".ko"
    found = read_module("usr/lib/modules/6.1/kernel/a" + ending, data[1:])
    assert found.name == "a"


def certificate(data: bytes) -> None:
    """A bundle of certificates, and the hash of each one's subject."""
    for der in certificates(data):
        try:
            name = subject_hash(der)
        except (ValueError, IndexError):
            continue
        assert len(name) == 8
    try:
        subject_hash(data)
    except (ValueError, IndexError):
        raise BootError("not a certificate") from None


def guest(data: bytes) -> None:
    """The line in which a guest gives its verdict."""
    found = verdict("mkroot-verdict n " + data.decode("utf-8", "surrogateescape"), "n", [])
    if found is None:
        raise VmError("no verdict")
    assert found.memory >= 0


TARGETS = (
    Target(name="pe", run=pe, words=(b"MZ", b"PE\0\0", b"\x64\x86", b"\x0b\x02"), longest=1024),
    Target(name="elf", run=elf, words=(b"\x7fELF\2\1\1", b"\3\0", struct.pack("<Q", 14)), longest=1024),
    Target(name="kernel-module", run=module, words=(b"\x7fELF\2\1\1", b".modinfo\0"), longest=2048),
    Target(name="certificate", run=certificate, longest=1024),
    Target(name="verdict", run=guest, words=(b'"commands":[]', b'"memory":"', b'"boot":"', b'"ready":', b"Infinity")),
)
