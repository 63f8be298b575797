"""A unified kernel image: what firmware and other tools find in it, read here apart from mkroot's own reader."""

from __future__ import annotations

import shutil
import struct
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from mkroot.boot.pe import read_program
from mkroot.boot.uki import make_uki, uki_sections
from mkroot.errors import BootError
from tests.unit import efi

KERNEL = efi.kernel(memory=0x40000)
SECTIONS = uki_sections(
    osrel=b"ID=debian\n", cmdline="console=ttyS0", version="6.1.0", initramfs=b"i" * 70_000, kernel=KERNEL
)
OLD = efi.program([(".text", 0x4000, b"x" * 900), (".sdmagic", 0x4700, b"#### LoaderInfo")], alignment=0x200)
NEW = efi.program(headers=0x600)


class Row(NamedTuple):
    memory: int
    address: int
    size: int
    offset: int
    flags: int


def parsed(data: bytes) -> tuple[dict[str, int], dict[str, Row]]:
    """The header's fields and the section table of a PE file, by the offsets of the PE format."""
    pe = struct.unpack_from("<I", data, 60)[0]
    assert data[pe : pe + 4] == b"PE\0\0"
    count, optional = struct.unpack_from("<H", data, pe + 6)[0], struct.unpack_from("<H", data, pe + 20)[0]
    head = {
        "data": struct.unpack_from("<I", data, pe + 32)[0],
        "alignment": struct.unpack_from("<I", data, pe + 56)[0],
        "image": struct.unpack_from("<I", data, pe + 80)[0],
        "headers": struct.unpack_from("<I", data, pe + 84)[0],
        "checksum": struct.unpack_from("<I", data, pe + 88)[0],
        "certificates": struct.unpack_from("<Q", data, pe + 168)[0],
    }
    rows = {}
    for i in range(count):
        at = pe + 24 + optional + 40 * i
        name = data[at : at + 8].rstrip(b"\0").decode()
        rows[name] = Row._make(struct.unpack_from("<IIII12xI", data, at + 8))
    return head, rows


@pytest.mark.parametrize("stub", [OLD, NEW], ids=["systemd 252: aligned to 512", "systemd 257: aligned to pages"])
def test_every_section_lies_where_the_headers_say(stub: bytes) -> None:
    image = make_uki(stub, SECTIONS)
    head, rows = parsed(image)
    before, own = parsed(stub)
    assert list(rows) == [*own, ".osrel", ".cmdline", ".uname", ".initrd", ".linux"]
    for name, content in SECTIONS:
        row = rows[name]
        assert image[row.offset : row.offset + len(content)] == content
        assert row.flags == 0x40000040 and row.address % 4096 == 0
        assert row.offset % 512 == 0 and row.size % 512 == 0 and row.size >= len(content)
        assert row.memory == (0x40000 if name == ".linux" else len(content))
    spans = sorted((r.address, r.address + r.memory) for r in rows.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    places = sorted((r.offset, r.offset + r.size) for r in rows.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
    assert places[0][0] >= head["headers"] and places[-1][1] == len(image)
    assert head["image"] >= spans[-1][1] and head["image"] % head["alignment"] == 0
    assert head["data"] - before["data"] == sum(rows[name].size for name, _ in SECTIONS)
    assert head["checksum"] == 0
    for name, row in own.items():
        assert rows[name] == row
        assert image[row.offset : row.offset + row.size] == stub[row.offset : row.offset + row.size]


def test_the_same_input_gives_the_same_bytes() -> None:
    assert make_uki(NEW, SECTIONS) == make_uki(bytes(NEW), list(SECTIONS))


def test_what_is_empty_is_left_out_and_the_kernel_comes_last() -> None:
    sections = uki_sections(osrel=b"ID=x\n", cmdline="", version="6.1", initramfs=None, kernel=b"k")
    assert [name for name, _ in sections] == [".osrel", ".uname", ".linux"]
    assert SECTIONS[-1][0] == ".linux"


def test_a_kernel_that_is_no_efi_program_takes_its_own_size() -> None:
    _, rows = parsed(make_uki(NEW, [(".linux", b"k" * 3000)]))
    assert rows[".linux"].memory == 3000


def test_a_signature_of_the_stub_is_dropped() -> None:
    signed = efi.program(headers=0x600, signature=b"certificate" * 20)
    assert parsed(signed)[0]["certificates"]
    image = make_uki(signed, SECTIONS)
    assert image == make_uki(NEW, SECTIONS)


def test_a_header_without_room_is_told() -> None:
    crowded = efi.program([(f".s{i}", 0x1000 * (i + 1), b"x") for i in range(12)], headers=0x400)
    with pytest.raises(BootError, match="no room for 5 more sections") as caught:
        make_uki(crowded, SECTIONS, where="/usr/lib/stub")
    assert caught.value.where == "/usr/lib/stub" and caught.value.hint


@pytest.mark.parametrize(
    ("stub", "sections", "words"),
    [
        (b"\x7fELF" * 100, SECTIONS, "does not begin with `MZ`"),
        (b"MZ" + bytes(200), SECTIONS, "no PE header"),
        (efi.program(subsystem=3), SECTIONS, "no EFI application"),
        (efi.program(alignment=3000), SECTIONS, "powers of two"),
        (efi.program([(".linux", 0x1000, b"x")]), SECTIONS, "has a section `.linux` already"),
        (NEW, [(".cmdline", b"a"), (".cmdline", b"b")], "has a section `.cmdline` already"),
        (NEW, [(".commandline", b"a")], "no name of a PE section"),
        (NEW, [(".linux", efi.kernel(memory=0xFFFFF000))], "too big"),
    ],
)
def test_what_does_not_fit_is_told(stub: bytes, sections: list[tuple[str, bytes]], words: str) -> None:
    with pytest.raises(BootError, match=words):
        make_uki(stub, sections)


def test_a_stub_cut_short_anywhere_is_told() -> None:
    for end in range(0, len(NEW) - 1, 7):
        with pytest.raises(BootError):
            read_program(NEW[:end], "stub")


def test_objdump_reads_it(tmp_path: Path) -> None:
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("objdump is not installed (package binutils)")
    (tmp_path / "image.efi").write_bytes(make_uki(OLD, SECTIONS))
    told = subprocess.run([objdump, "-h", tmp_path / "image.efi"], capture_output=True, text=True)
    if "not recognized" in told.stderr:
        pytest.skip("this objdump does not know EFI programs")
    listed = {f[1]: int(f[2], 16) for f in map(str.split, told.stdout.splitlines()) if len(f) == 7 and f[0].isdigit()}
    assert listed[".initrd"] == 70_000 and listed[".osrel"] == 10 and ".linux" in listed
