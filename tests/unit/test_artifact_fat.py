"""FAT images: what is in them is what was asked for, and nothing else decides their bytes."""

from __future__ import annotations

import stat
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from mkroot.artifact.fat import fitting, write_fat
from mkroot.artifact.tools import HostTools
from mkroot.errors import ArtifactError
from tests.unit.media import EPOCH, differing, elsewhere, wanted

MIB = 1 << 20
FILES = {
    "EFI/BOOT/BOOTX64.EFI": b"MZ" * 40_000,
    "loader/entries/a rather long name, with ünïcödé.conf": b"title x\n",
    "loader/loader.conf": b"timeout 0\n",
    "empty": b"",
    "~tilde~1.$x": b"odd",
}
DATE, TIME = (2023 - 1980) << 9 | 11 << 5 | 14, 22 << 11 | 13 << 5 | 20 // 2  # EPOCH in UTC


def write(path: Path, files: Mapping[str, bytes], size: int = 0, label: str = "ESP", serial: int = 0xDEADBEEF) -> Path:
    wanted("mformat", "mmd", "mcopy")
    write_fat(path, files, label=label, serial=serial, epoch=EPOCH, size=size, tools=HostTools())
    return path


class Fat:
    """A FAT image read as Microsoft's overview describes it."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        d = self.data
        self.unit = d[13] * 512
        reserved, copies = struct.unpack_from("<HB", d, 14)
        slots, small = struct.unpack_from("<HH", d, 17)
        length, large = struct.unpack_from("<H", d, 22)[0], struct.unpack_from("<I", d, 32)[0]
        self.fat32 = length == 0
        length = length or struct.unpack_from("<I", d, 36)[0]
        assert (small or large) * 512 == len(d)
        self.table = reserved * 512
        root = self.table + copies * length * 512
        self.start = root + slots * 32
        self.clusters = (len(d) - self.start) // self.unit
        self.bits = 12 if self.clusters < 4085 else 16 if self.clusters < 65525 else 32
        assert self.fat32 == (self.bits == 32)
        assert d[self.table : self.table + length * 512] == d[self.table + length * 512 : root], "two like tables"
        self.serial, self.label = struct.unpack_from("<I11s", d, 67 if self.fat32 else 39)
        self.dates: set[tuple[int, ...]] = set()
        self.volume = b""
        first = struct.unpack_from("<I", d, 44)[0] if self.fat32 else 0
        self.files = self._folder(self._chain(first) if self.fat32 else d[root : self.start], "")

    def _next(self, cluster: int) -> int:
        if self.bits == 12:
            two = int(struct.unpack_from("<H", self.data, self.table + cluster * 3 // 2)[0])
            return two >> 4 if cluster & 1 else two & 0xFFF
        if self.bits == 16:
            return int(struct.unpack_from("<H", self.data, self.table + cluster * 2)[0])
        return int(struct.unpack_from("<I", self.data, self.table + cluster * 4)[0]) & 0x0FFFFFFF

    def _chain(self, cluster: int) -> bytes:
        parts = []
        while 2 <= cluster < self.clusters + 2:
            at = self.start + (cluster - 2) * self.unit
            parts.append(self.data[at : at + self.unit])
            cluster = self._next(cluster)
        return b"".join(parts)

    def _folder(self, data: bytes, above: str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        long = ""
        for at in range(0, len(data), 32):
            e = data[at : at + 32]
            if e[0] == 0:
                break
            if e[11] == 0x0F:
                long = (e[1:11] + e[14:26] + e[28:32]).decode("utf-16-le").partition("\0")[0] + long
                continue
            created, made, read, high, time, date, low, size = struct.unpack_from("<HHHHHHHI", e, 14)
            self.dates.update({(created, made), (time, date), (TIME, read), (e[13], 0)})
            if e[11] & 0x08:
                self.volume = e[:11]
                continue
            base = e[:8].decode("cp850").rstrip(), e[8:11].decode("cp850").rstrip()
            base = base[0].lower() if e[12] & 8 else base[0], base[1].lower() if e[12] & 16 else base[1]
            name, long = long or ".".join(p for p in base if p), ""
            if name in (".", ".."):
                continue
            body = self._chain(high << 16 | low)
            if e[11] & 0x10:
                inner = self._folder(body, f"{above}{name}/")
                found.update(inner or {f"{above}{name}/": b""})
            else:
                found[above + name] = body[:size]
        return found


@pytest.mark.parametrize(("size", "bits"), [(0, 12), (3 * MIB, 16), (32 * MIB, 16), (33 * MIB, 32), (300 * MIB, 32)])
def test_an_image_holds_the_files(tmp_path: Path, size: int, bits: int) -> None:
    path = write(tmp_path / "esp.img", FILES, size)
    fat = Fat(path)
    assert fat.files == FILES
    assert (fat.bits, len(fat.data)) == (bits, size or MIB)
    assert (fat.serial, fat.label, fat.volume) == (0xDEADBEEF, b"ESP        ", b"ESP        ")
    assert fat.data[3:11] == b"MSWIN4.1" and (bits != 32 or fat.data[6 * 512 : 7 * 512] == fat.data[:512])
    assert fat.data[64 if bits == 32 else 36] == 0x80
    if bits == 32:
        assert fat.data[fat.table : fat.table + 8] == b"\xf8\xff\xff\x0f\xff\xff\xff\x0f"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["esp.img"]


def test_every_date_is_the_epoch(tmp_path: Path) -> None:
    assert Fat(write(tmp_path / "a", FILES)).dates == {(TIME, DATE), (0, 0)}


@pytest.mark.parametrize("size", [0, 40 * MIB])
def test_the_same_bytes_at_another_time_in_another_zone(tmp_path: Path, size: int) -> None:
    first = write(tmp_path / "a", FILES, size)
    other = tmp_path / "a@@longer [path]"
    other.mkdir()
    backwards = dict(reversed(FILES.items()))
    elsewhere(lambda: write(other / "b", backwards, size))
    assert not differing(first, other / "b")
    assert stat.S_IMODE((other / "b").stat().st_mode) == 0o644


def test_the_first_and_the_last_date_of_fat_stand_for_those_beyond(tmp_path: Path) -> None:
    wanted("mformat", "mmd", "mcopy")
    for epoch, date in ((0, 1 << 5 | 1), (1 << 33, 127 << 9 | 12 << 5 | 31)):
        path = tmp_path / str(epoch)
        write_fat(path, {"d/f": b"x"}, label="X", serial=0, epoch=epoch, tools=HostTools())
        assert {d for t, d in Fat(path).dates} - {0} == {date}


@pytest.mark.parametrize("length", [0, 1_000_000, 2_100_000, 8_000_000, 33_000_000, 34_600_000])
def test_the_least_size_fits_and_is_hardly_more(tmp_path: Path, length: int) -> None:
    files = {"a/b": bytes([1]) * length, **{f"d{n % 3}/a longer name {n}": b"x" * n for n in range(300)}}
    path = write(tmp_path / "esp.img", files)
    size = path.stat().st_size
    assert Fat(path).files == files
    held = sum(map(len, files.values()))
    assert size % MIB == 0 and (size <= held + 3 * MIB or size == 33 * MIB)
    assert fitting(files, size).size == size
    if size > MIB:
        with pytest.raises(ArtifactError, match=f"need {size // MIB} MiB as FAT, and {size - 1} bytes") as caught:
            fitting(files, size - 1)
        assert caught.value.hint


def test_another_reader_finds_no_fault(tmp_path: Path) -> None:
    wanted("fsck.vfat")
    for size in (0, 4 * MIB, 40 * MIB):
        path = write(tmp_path / str(size), FILES, size)
        fsck = HostTools().find("fsck.vfat")
        told = subprocess.run([fsck, "-n", path], capture_output=True, text=True)
        assert told.returncode == 0, told.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/EFI", "not a path"),
        ("EFI//x", "not a path"),
        ("EFI/../x", "not a path"),
        ("", "not a path"),
        ("a:b", "characters that cannot be written"),
        ("a\nb", "characters that cannot be written"),
        ("[a]", "characters that cannot be written"),
        ("a.", "a space or a dot"),
        ("a /b", "a space or a dot"),
        ("\udc80", "not valid UTF-8"),
        ("x" * 256, "longer than 255"),
        ("efi/boot/bootx64.efi", "cannot tell these two names apart"),
        ("EFI/BOOT", "cannot tell these two names apart"),
        ("EMPTY/x", "cannot tell these two names apart"),
        ("empty/x", "cannot tell these two names apart"),
    ],
)
def test_a_name_that_fat_cannot_have_is_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        write_fat(tmp_path / "x", {**FILES, name: b""}, label="X", serial=1, epoch=EPOCH, tools=HostTools())
    assert caught.value.where is not None
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("label", ["", "twelve chars", "TWELVECHARSX", "esp", " X", "X.Y", "Ä"])
def test_a_label_that_fat_cannot_have_is_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(ArtifactError, match="not a label") as caught:
        write_fat(tmp_path / "x", FILES, label=label, serial=1, epoch=EPOCH, tools=HostTools())
    assert caught.value.hint


def test_too_many_names_for_the_root_folder_are_told() -> None:
    with pytest.raises(ArtifactError, match="too many for the root folder"):
        fitting({f"a long name {n}": b"" for n in range(300)})


def test_the_largest_sizes_are_bounded() -> None:
    with pytest.raises(ArtifactError, match="not to be had"):
        fitting({}, 2 << 40)


def test_a_missing_tool_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="mformat is not installed"):
        write_fat(tmp_path / "x", FILES, label="X", serial=1, epoch=EPOCH, tools=HostTools(path=str(tmp_path)))
    assert not (tmp_path / "x").exists()
