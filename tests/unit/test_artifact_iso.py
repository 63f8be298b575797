"""ISO images: read back by pycdlib, by other tools and from the bytes; no date but the epoch in them."""

from __future__ import annotations

import re
import stat
import struct
import subprocess
import uuid
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest

from mkroot.artifact.gpt import ESP
from mkroot.artifact.iso import volume_identity, write_iso
from mkroot.artifact.tools import HostTools
from mkroot.errors import ArtifactError
from tests.unit.media import EPOCH, differing, elsewhere, grub_boot, grub_core, wanted

DISK = uuid.UUID("01234567-89ab-cdef-8123-456789abcdef")
CORE = grub_core(30_001, before=2048)
LONG = "a name with spaces, " * 10 + "so long that Rock Ridge goes on elsewhere"
FILES: dict[str, bytes | Path] = {
    "boot/grub/grub.cfg": b"menuentry\n",
    "live/rootfs.squashfs": b"hsqs" * 5000,
    "README": b"upper",
    "readme": b"lower",
    "a-b": b"1",
    "a_b": b"2",
    "empty": b"",
    LONG: b"long",
    "d/e/e/p/e/r/than/eight/folders/file.conf": b"deep",
    **{f"many/file number {n}": b"%d" % n for n in range(100)},
}
STAMP = (123, 11, 14, 22, 13, 21, 0)  # EPOCH in UTC as ECMA-119, 9.1.5, has it


def write(path: Path, files: Mapping[str, bytes | Path] = FILES, *, bios: bool = True, epoch: int = EPOCH) -> Path:
    efi = path.parent / f"{path.name}.efi"
    efi.write_bytes(b"FAT" * 3000)
    write_iso(
        path,
        files,
        volume="MKROOT_LIVE",
        identity=DISK,
        efi_image=efi,
        bios_core=CORE if bios else None,
        boot_code=grub_boot() if bios else b"",
        epoch=epoch,
    )
    efi.unlink()
    return path


def read(path: Path) -> dict[str, bytes]:
    """What pycdlib finds by Rock Ridge's names."""
    from pycdlib import PyCdlib

    iso = PyCdlib()
    iso.open(str(path))
    found = {}
    try:
        for folder, _, names in iso.walk(rr_path="/"):
            for name in names:
                out = BytesIO()
                iso.get_file_from_iso_fp(out, rr_path=f"{folder.rstrip('/')}/{name}")
                found[f"{folder}/{name}".lstrip("/")] = out.getvalue()
    finally:
        iso.close()
    return found


def catalog(data: bytes) -> tuple[bytes, list[tuple[int, int, int]]]:
    """The El Torito catalog: its raw block, and platform, sectors and block of each entry."""
    record = data[17 * 2048 : 18 * 2048]
    assert record[:30] == b"\0CD001\1EL TORITO SPECIFICATION"
    block = data[struct.unpack_from("<I", record, 71)[0] * 2048 :][:2048]
    assert sum(struct.unpack_from("<16H", block)) & 0xFFFF == 0 and block[30:32] == b"\x55\xaa"
    entries, platform, at = [], block[1], 32
    while block[at]:
        if block[at] in (0x90, 0x91):
            platform = block[at + 1]
        else:
            assert block[at : at + 2] == b"\x88\0", "bootable, no emulation"
            entries.append((platform, *struct.unpack_from("<HI", block, at + 6)))
        at += 32
    return block, entries


def test_an_iso_holds_the_files_and_what_it_starts_from(tmp_path: Path) -> None:
    path = write(tmp_path / "image.iso")
    found = read(path)
    assert {n: c for n, c in found.items() if n in FILES} == FILES
    assert sorted(found.keys() - FILES.keys()) == ["boot/bios.img", "boot/boot.cat", "boot/efi.img"]
    assert found["boot/efi.img"] == b"FAT" * 3000
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["image.iso"]


def test_firmware_finds_an_image_for_bios_and_one_for_uefi(tmp_path: Path) -> None:
    data = write(tmp_path / "x").read_bytes()
    _, [(bios, bios_sectors, bios_block), (efi, efi_sectors, efi_block)] = catalog(data)
    assert (bios, bios_sectors, efi, efi_sectors) == (0, 4, 0xEF, 18)
    assert data[efi_block * 2048 :].startswith(b"FAT" * 3000)
    core = data[bios_block * 2048 :][: len(CORE)]
    table = struct.unpack_from("<IIII", core, 8)
    words = core[64:].ljust((len(core) - 64 + 3) // 4 * 4, b"\0")
    assert table == (16, bios_block, len(CORE), sum(struct.unpack(f"<{len(words) // 4}I", words)) & 0xFFFFFFFF)
    assert core[:8] + core[64:2548] + core[2556:] == CORE[:8] + CORE[64:2548] + CORE[2556:]


def test_a_stick_has_a_partition_table_that_leads_to_the_same_images(tmp_path: Path) -> None:
    data = write(tmp_path / "x").read_bytes()
    _, [(_, _, bios_block), (_, _, efi_block)] = catalog(data)
    assert struct.unpack_from("<Q", data, 0x1B0)[0] == bios_block * 4 + 4
    assert struct.unpack_from("<Q", data, bios_block * 2048 + 2548)[0] == bios_block * 4 + 5
    assert data[446] == 0 and data[450] == 0xEE and data[462] == 0x80 and data[510:512] == b"\x55\xaa"
    assert len(data) % 2048 == 0
    total = len(data) // 512
    for own, other in ((1, total - 1), (total - 1, 1)):
        raw = data[own * 512 : own * 512 + 92]
        assert raw[:8] == b"EFI PART" and struct.unpack_from("<QQ", raw, 24) == (own, other)
        assert zlib.crc32(raw[:16] + bytes(4) + raw[20:]) == struct.unpack_from("<I", raw, 16)[0]
        table, count, size, crc = struct.unpack_from("<QIII", raw, 72)
        entries = data[table * 512 : table * 512 + count * size]
        assert zlib.crc32(entries) == crc and not any(entries[128:])
        assert entries[:16] == ESP.bytes_le
        assert struct.unpack_from("<QQ", entries, 32) == (efi_block * 4, efi_block * 4 + 17)
    assert struct.unpack_from("<I", data, 16 * 2048 + 80)[0] == len(data) // 2048, "the table's end is in the volume"


def test_an_iso_for_uefi_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "x", bios=False).read_bytes()
    _, entries = catalog(data)
    assert [e[0] for e in entries] == [0xEF] and not any(data[:446])
    assert "boot/bios.img" not in read(tmp_path / "x")


def test_no_date_but_the_epoch(tmp_path: Path) -> None:
    """Read from the bytes: every date of a descriptor, of a record, and of Rock Ridge."""
    data = write(tmp_path / "x").read_bytes()
    primary = data[16 * 2048 : 17 * 2048]
    for at, text in ((813, b"20231114221321"), (830, b"20231114221321"), (847, b"0" * 14), (864, b"20231114221321")):
        assert primary[at : at + 17] == text + b"00\0"
    todo, seen, stamps = [struct.unpack_from("<IxxxxI", primary, 158)], set(), set()
    assert tuple(primary[174:181]) == STAMP
    records = 0
    while todo:
        block, length = todo.pop()
        if block in seen:
            continue
        seen.add(block)
        folder = data[block * 2048 : block * 2048 + length]
        at = 0
        while at < length:
            if not folder[at]:
                at += 2048 - at % 2048
                continue
            record = folder[at : at + folder[at]]
            assert tuple(record[18:25]) == STAMP
            records += 1
            if record[25] & 2:
                todo.append(struct.unpack_from("<IxxxxI", record, 2))
            stamps.add(record.count(b"TF\x1a\x01\x0e" + bytes(STAMP) * 3))
            at += folder[at]
    assert records > len(FILES) and stamps <= {0, 1}
    assert data.count(b"TF\x1a\x01\x0e") == data.count(b"TF\x1a\x01\x0e" + bytes(STAMP) * 3) >= records - 2
    assert volume_identity(EPOCH) == "2023-11-14-22-13-21-00"


def test_the_same_bytes_at_another_time_in_another_zone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"hsqs" * 5000)
    first = write(tmp_path / "a", FILES)
    other = {**dict(reversed(FILES.items())), "live/rootfs.squashfs": source}
    elsewhere(lambda: write(tmp_path / "b", other))
    assert not differing(first, tmp_path / "b")
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o644
    assert differing(first, write(tmp_path / "c", FILES, epoch=EPOCH + 1))


@pytest.mark.parametrize("epoch", [0, 1, 4102444799, 1 << 40])
def test_any_epoch_is_a_date(tmp_path: Path, epoch: int) -> None:
    assert read(write(tmp_path / "x", epoch=epoch))["README"] == b"upper"


def test_an_efi_image_that_sixteen_bits_cannot_count_is_left_to_the_firmware(tmp_path: Path) -> None:
    efi = tmp_path / "efi"
    for size, sectors in ((65535 * 512, 65535), (65536 * 512, 0)):
        with open(efi, "wb") as f:
            f.truncate(size)
        (tmp_path / "x").unlink(missing_ok=True)
        write_iso(tmp_path / "x", {}, volume="X", identity=DISK, efi_image=efi, epoch=EPOCH)
        with open(tmp_path / "x", "rb") as g:
            assert [e[1] for e in catalog(g.read(1 << 20))[1]] == [sectors]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"boot/efi.img": b""}, "taken by what the ISO starts from"),
        ({"boot/bios.img": b""}, "taken by what the ISO starts from"),
        ({"boot/boot.cat/x": b""}, "taken by what the ISO starts from"),
        ({"boot": b""}, "a file and a folder"),
        ({"a": b"", "a/b": b""}, "a file and a folder"),
        ({"/a": b""}, "not a path"),
        ({"a/../b": b""}, "not a path"),
        ({"\udc80": b""}, "not a path"),
        ({"ü" * 128: b""}, "longer than 255 bytes"),
        ({"a": Path("/nowhere/at/all")}, "cannot be read"),
    ],
)
def test_what_an_iso_cannot_hold_is_refused(tmp_path: Path, files: dict[str, bytes | Path], words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        write(tmp_path / "x", files)
    assert caught.value.where is not None and not (tmp_path / "x").exists()


def test_a_file_of_4_gib_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big"
    with open(big, "wb") as f:
        f.truncate(1 << 32)
    with pytest.raises(ArtifactError, match="less than 4 GiB") as caught:
        write(tmp_path / "x", {"live/big": big})
    assert caught.value.where == "live/big" and caught.value.hint


@pytest.mark.parametrize("volume", ["", "X" * 33, "Ü", " X", "a\nb"])
def test_a_label_that_cannot_be_is_refused(tmp_path: Path, volume: str) -> None:
    with pytest.raises(ArtifactError, match="not a label"):
        write_iso(tmp_path / "x", {}, volume=volume, identity=DISK, efi_image=tmp_path, epoch=EPOCH)


def test_what_is_not_grub_is_refused(tmp_path: Path) -> None:
    efi = tmp_path / "efi"
    efi.write_bytes(b"FAT")
    for core, code, words in (
        (bytes(9000), b"", "not a core image"),
        (None, grub_boot(), "needs GRUB's core image"),
        (CORE, b"x", "boot_hybrid.img has 1 bytes"),
    ):
        with pytest.raises(ArtifactError, match=words):
            write_iso(
                tmp_path / "x",
                {},
                volume="X",
                identity=DISK,
                efi_image=efi,
                bios_core=core,
                boot_code=code,
                epoch=EPOCH,
            )
        assert not (tmp_path / "x").exists()


def test_xorriso_finds_the_same(tmp_path: Path) -> None:
    wanted("xorriso")
    path = write(tmp_path / "image.iso")
    command = ["xorriso", "-indev", str(path), "-report_el_torito", "plain", "-report_system_area", "plain"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    text = told.stdout + told.stderr
    for line in (
        r"El Torito boot img : +1 +BIOS +y +none +0x0000 +0x00 +4 ",
        r"El Torito boot img : +2 +UEFI +y +none +0x0000 +0x00 +18 ",
        r"El Torito img opts : +1 +boot-info-table grub2-boot-info",
        r"System area summary: MBR protective-msdos-label grub2-mbr .*GPT",
        r"GPT partition path : +1 +/boot/efi.img",
    ):
        assert re.search(line, text), text
    out = tmp_path / "out"
    extract = ["xorriso", "-osirrox", "on", "-indev", str(path), "-extract", "/", str(out)]
    subprocess.run(extract, capture_output=True, check=True)
    subprocess.run(["chmod", "-R", "u+w", out], check=True)  # what is read-only could not be removed
    assert {n: (out / n).read_bytes() for n in FILES} == FILES


def test_sgdisk_finds_no_fault(tmp_path: Path) -> None:
    wanted("sgdisk")
    told, _ = HostTools().run("sgdisk", ["-v", str(write(tmp_path / "image.iso"))])
    assert "No problems found" in told, told
