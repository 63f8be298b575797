"""Disks: what is written is read back from the bytes as the UEFI specification says, and by other tools."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import uuid
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from mkroot.artifact.gpt import (
    BIOS_BOOT,
    ESP,
    GROW_FILE_SYSTEM,
    LINUX_ROOT_X86_64,
    MIB,
    Layout,
    Partition,
    layout,
    write_disk,
)
from mkroot.artifact.grub import embed_eltorito, embed_grub, embed_hybrid
from mkroot.artifact.qcow2 import write_qcow2
from mkroot.artifact.tools import HostTools
from mkroot.errors import ArtifactError
from tests.unit.media import differing, grub_boot, grub_core, wanted

DISK = uuid.UUID("01234567-89ab-cdef-8123-456789abcdef")
UUIDS = [uuid.UUID(int=n << 64 | 7) for n in range(1, 200)]


class Header(NamedTuple):
    signature: bytes
    revision: int
    size: int
    crc: int
    zero: int
    own: int
    other: int
    first: int
    last: int
    disk: bytes
    table: int
    entries: int
    entry_size: int
    table_crc: int


def header(data: bytes, sector: int) -> Header:
    raw = data[sector * 512 : sector * 512 + 92]
    found = Header(*struct.unpack("<8sIIIIQQQQ16sQIII", raw))
    assert zlib.crc32(raw[:16] + bytes(4) + raw[20:]) == found.crc
    table = data[found.table * 512 :][: found.entries * found.entry_size]
    assert zlib.crc32(table) == found.table_crc
    assert (found.signature, found.revision, found.size, found.own) == (b"EFI PART", 0x10000, 92, sector)
    return found


def content(tmp_path: Path, data: bytes, name: str = "content") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def three(tmp_path: Path) -> list[Partition]:
    esp = content(tmp_path, b"E" * 5000 + bytes(600_000) + b"F" * 3)
    return [
        Partition(name="BIOS boot", kind=BIOS_BOOT, identity=UUIDS[0], size=MIB),
        Partition(name="EFI systém 😀", kind=ESP, identity=UUIDS[1], content=esp, size=2 * MIB - 100),
        Partition(name="root", kind=LINUX_ROOT_X86_64, identity=UUIDS[2], size=3 * MIB, attributes=GROW_FILE_SYSTEM),
    ]


def written(tmp_path: Path, plan: Layout, name: str = "disk.raw", **more: bytes) -> bytes:
    write_disk(tmp_path / name, plan, identity=DISK, **more)
    return (tmp_path / name).read_bytes()


def test_both_tables_say_where_the_partitions_are(tmp_path: Path) -> None:
    plan = layout(three(tmp_path))
    data = written(tmp_path, plan)
    total = len(data) // 512
    assert len(data) == plan.size == 8 * MIB
    primary, backup = header(data, 1), header(data, total - 1)
    assert (primary.other, backup.other) == (total - 1, 1)
    assert (primary.table, backup.table) == (2, total - 33)
    assert primary[7:10] == backup[7:10] == (34, total - 34, DISK.bytes_le)
    table = data[1024 : 1024 + 128 * 128]
    assert data[(total - 33) * 512 : (total - 1) * 512] == table
    rows = [struct.unpack("<16s16sQQQ72s", table[i * 128 : i * 128 + 128]) for i in range(4)]
    assert [r[0] for r in rows] == [BIOS_BOOT.bytes_le, ESP.bytes_le, LINUX_ROOT_X86_64.bytes_le, bytes(16)]
    assert [r[1] for r in rows[:3]] == [u.bytes_le for u in UUIDS[:3]]
    assert [r[2:5] for r in rows[:3]] == [(2048, 4095, 0), (4096, 8191, 0), (8192, 14335, 1 << 59)]
    assert [r[5].decode("utf-16-le").rstrip("\0") for r in rows] == ["BIOS boot", "EFI systém 😀", "root", ""]


def test_the_mbr_protects_the_disk(tmp_path: Path) -> None:
    data = written(tmp_path, layout(three(tmp_path)))
    assert data[:446] == bytes(446) and data[462:510] == bytes(48) and data[510:512] == b"\x55\xaa"
    flag, kind, first, count = data[446], data[450], *struct.unpack("<II", data[454:462])
    assert (flag, kind, first, count) == (0, 0xEE, 1, len(data) // 512 - 1)
    other = written(tmp_path, layout(three(tmp_path)), "other", boot_code=b"\xfa" * 440)
    assert other[:440] == b"\xfa" * 440 and other[440:446] == bytes(6)
    assert other[462:478] == b"\x80" + bytes(15), "some BIOSes start no disk without an active record"
    assert other[512:] == data[512:]


def test_contents_are_copied_and_their_zeros_take_no_room(tmp_path: Path) -> None:
    big = tmp_path / "big"
    with open(big, "wb") as f:
        f.truncate(64 * MIB)
        f.seek(40 * MIB + 1000)
        f.write(b"middle")
    full = content(tmp_path, big.read_bytes(), "full")  # the same without a hole
    for number, source in enumerate((big, full)):
        part = Partition(name="x", kind=LINUX_ROOT_X86_64, identity=UUIDS[0], content=source, size=64 * MIB)
        data = written(tmp_path, layout([part]), f"disk{number}")
        assert data[MIB : 65 * MIB] == big.read_bytes()
        found = (tmp_path / f"disk{number}").stat()
        assert found.st_blocks * 512 < 4 * MIB and stat.S_IMODE(found.st_mode) == 0o644
    assert not differing(tmp_path / "disk0", tmp_path / "disk1")


def test_a_given_size_leaves_room_at_the_end(tmp_path: Path) -> None:
    least = layout(three(tmp_path))
    plan = layout(three(tmp_path), size=20 * MIB + 700)
    assert plan.size == 20 * MIB + 512 and plan.places == least.places
    assert plan.free == plan.size - 33 * 512 - 7 * MIB
    last = three(tmp_path)[-1]
    grown = [*three(tmp_path)[:-1], replace(last, size=last.size + plan.free)]
    assert layout(grown, size=plan.size).free == 0


def test_a_disk_that_is_too_small_says_what_is_needed(tmp_path: Path) -> None:
    least = 7 * MIB + 33 * 512
    assert layout(three(tmp_path), size=least).free == 0
    with pytest.raises(ArtifactError, match=f"needs {least} bytes \\(8 MiB\\), and {least - 1} are given"):
        layout(three(tmp_path), size=least - 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "x" * 37}, "at most 36"),
        ({"name": "😀" * 19}, "at most 36"),
        ({"size": 0}, "more than 0"),
        ({"size": -512}, "more than 0"),
        ({"attributes": 1 << 64}, "64 bits"),
        ({"identity": UUIDS[1]}, "two partitions have the identity"),
        ({"identity": uuid.UUID(int=0)}, "must not be zero"),
    ],
)
def test_a_partition_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    one, two, three_ = three(tmp_path)
    with pytest.raises(ArtifactError, match=words) as caught:
        layout([one, two, replace(three_, **change)])
    assert caught.value.where and caught.value.where.startswith("partition ")


def test_the_number_of_partitions_is_bounded() -> None:
    parts = [Partition(name="", kind=ESP, identity=u, size=1) for u in UUIDS[:129]]
    assert len(layout(parts[:128]).places) == 128
    for some in (parts, []):
        with pytest.raises(ArtifactError, match="1 to 128"):
            layout(some)


def test_a_content_that_does_not_fit_or_is_not_there_leaves_no_file(tmp_path: Path) -> None:
    source = content(tmp_path, bytes(1025))
    for place, words in ((source, "has 1025 bytes, and the partition 1024"), (tmp_path / "no", "cannot be read")):
        part = Partition(name="x", kind=ESP, identity=UUIDS[0], content=place, size=1000)
        with pytest.raises(ArtifactError, match=words):
            write_disk(tmp_path / "disk.raw", layout([part]), identity=DISK)
        assert not (tmp_path / "disk.raw").exists()


def test_grub_is_told_where_it_lies(tmp_path: Path) -> None:
    core = grub_core(30_000)
    plan = layout(three(tmp_path))
    data = written(tmp_path, plan, boot_code=grub_boot(), core=core)
    start = plan.places[0].first
    assert struct.unpack_from("<Q", data, 0x5C)[0] == start
    assert data[0x64] == 0xFF and data[0x66:0x68] == b"\x90\x90"
    laid = data[start * 512 : start * 512 + 59 * 512]
    assert struct.unpack_from("<QHH", laid, 500) == (start + 1, 58, 0x820)
    assert laid[488:500] == bytes(12), "a list of no sectors ends the lists"
    assert laid[:488] == core[:488] and laid[512:30_000] == core[512:] and not any(laid[30_000:])


@pytest.mark.parametrize(
    ("boot", "core", "words"),
    [
        (grub_boot()[:-1], grub_core(4000), "boot.img has 511 bytes"),
        (b"\xaa" * 510 + b"\x55\xaa", grub_core(4000), "not GRUB's boot.img"),
        (grub_boot(), grub_core(600), "600 bytes, and a BIOS loads"),
        (grub_boot(), grub_core(458241), "458241 bytes, and a BIOS loads"),
        (grub_boot(), b"\xcc" * 4000, "no block list"),
        (grub_boot(), bytes(4000), "no block list"),
    ],
)
def test_what_is_not_grub_is_refused(boot: bytes, core: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        embed_grub(boot, core, 2048)


def test_grub_needs_a_bios_boot_partition_with_room(tmp_path: Path) -> None:
    one, two, _ = three(tmp_path)
    with pytest.raises(ArtifactError, match="without a BIOS boot partition"):
        write_disk(tmp_path / "a", layout([two]), identity=DISK, boot_code=grub_boot(), core=grub_core(4000))
    small = replace(one, size=2048)
    with pytest.raises(ArtifactError, match="has only 2048 bytes"):
        write_disk(tmp_path / "a", layout([small]), identity=DISK, boot_code=grub_boot(), core=grub_core(4000))
    with pytest.raises(ArtifactError, match="room for 440"):
        write_disk(tmp_path / "a", layout([two]), identity=DISK, boot_code=grub_boot())
    assert not (tmp_path / "a").exists()


def test_grub_for_a_stick_is_told_where_the_iso_has_it() -> None:
    boot = embed_hybrid(grub_boot(), 172)
    assert len(boot) == 440 and struct.unpack_from("<Q", boot, 0x1B0)[0] == 176
    core = embed_eltorito(grub_core(4000, before=2048), 172)
    assert struct.unpack_from("<QHH", core, 2548) == (177, 7, 0x820)
    for other in (b"", bytes(9000)):
        with pytest.raises(ArtifactError, match="for El Torito"):
            embed_eltorito(other, 172)


def test_other_tools_find_no_fault(tmp_path: Path) -> None:
    wanted("sfdisk", "sgdisk")
    parts = [replace(p, size=-(-p.size // MIB) * MIB) for p in three(tmp_path)]
    for number, boot_code in enumerate((b"", b"\xfa" * 440)):
        path = tmp_path / f"disk{number}"
        write_disk(path, layout(parts), identity=DISK, boot_code=boot_code)
        env = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        told = subprocess.run(["sgdisk", "-v", path], capture_output=True, text=True, check=True, env=env).stdout
        assert "No problems found" in told and "aution" not in told and "arning" not in told, told
        listed = subprocess.run(["sfdisk", "-J", path], capture_output=True, text=True, check=True, env=env)
        assert listed.stderr == ""
        table = json.loads(listed.stdout)["partitiontable"]
        assert (table["label"], table["id"]) == ("gpt", str(DISK).upper())
        assert [(p["start"], p["size"], p["uuid"]) for p in table["partitions"]] == [
            (2048, 2048, str(UUIDS[0]).upper()),
            (4096, 4096, str(UUIDS[1]).upper()),
            (8192, 6144, str(UUIDS[2]).upper()),
        ]
        assert table["partitions"][2]["attrs"] == "GUID:59"


def test_qcow2_holds_the_disk_whatever_holes_the_raw_file_has(tmp_path: Path) -> None:
    wanted("qemu-img")
    raw = tmp_path / "a:1.raw"
    with open(raw, "wb") as f:
        f.truncate(40 * MIB)
        for n in range(50):
            f.seek(n * 700_001)
            f.write(bytes([n]) * (n * 3001))
    solid = tmp_path / "solid.raw"
    solid.write_bytes(raw.read_bytes())
    for source, name in ((raw, "x:a.qcow2"), (raw, "b"), (solid, "c")):
        write_qcow2(source, tmp_path / name, HostTools())
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644
    first = tmp_path / "x:a.qcow2"
    assert not differing(first, tmp_path / "b") and not differing(first, tmp_path / "c")
    assert first.stat().st_size < 2 * MIB
    HostTools().run("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", str(tmp_path / "b"), str(tmp_path / "back")])
    assert (tmp_path / "back").read_bytes() == raw.read_bytes()
    with pytest.raises(ArtifactError, match="there already"):
        write_qcow2(raw, tmp_path / "b", HostTools())
    with pytest.raises(ArtifactError, match="qemu-img failed"):
        write_qcow2(tmp_path / "nothing", tmp_path / "d", HostTools())
    with pytest.raises(ArtifactError, match="not installed"):
        write_qcow2(raw, tmp_path / "d", HostTools(path=str(tmp_path)))
