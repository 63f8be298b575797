"""mkroot's initramfs: what is in it, that it is the same each time, and what it is told without."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from mkroot.boot.initramfs import APPLETS, codec_of, compress, init_script, make_initramfs
from mkroot.boot.kernel import Kernel, find_kernel
from mkroot.errors import BootError
from tests.unit.kernels import VERSION, busybox, kernel, module
from tests.unit.roots import tree_of
from tests.unit.test_artifact_outputs import newc

EPOCH = 1_700_000_000
MODULES = {
    "drivers/block/virtio_blk.ko.xz": module("depends=virtio", "firmware=blk.fw", "firmware=none.fw"),
    "drivers/virtio/virtio.ko.zst": module("depends="),
    "fs/squashfs/squashfs.ko": module("depends="),
    "fs/overlayfs/overlay.ko": module("depends="),
    "fs/isofs/isofs.ko": module("depends=cdrom"),
    "drivers/cdrom/cdrom.ko": module("depends="),
    "drivers/block/loop.ko": module("depends="),
    "drivers/scsi/sr_mod.ko": module("depends=cdrom"),
}


def root(**more: str | bytes) -> dict[str, str | bytes]:
    return {**kernel(MODULES), "usr/bin/busybox": busybox(), "usr/lib/firmware/blk.fw": b"firmware", **more}


def made(tmp_path: Path, files: dict[str, str | bytes] | None = None, **asked: object):  # type: ignore[no-untyped-def]
    tree = tree_of(tmp_path, root() if files is None else files)
    wanted = {"drivers": ["virtio-blk"], "filesystem": "ext4", "overlay": False, "live": False, "epoch": EPOCH, **asked}
    return make_initramfs(tree, find_kernel(tree, "linux-image-x"), **wanted)


def unpacked(data: bytes) -> dict[str, tuple[list[int], bytes]]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    plain = frame.decompress(data)
    assert frame.eof and not frame.unused_data, "Linux wants one frame"
    return {name: (fields, content) for name, fields, content in newc(plain)}


def test_it_holds_init_busybox_the_modules_and_their_order(tmp_path: Path) -> None:
    result = made(tmp_path)
    members = unpacked(result.data)
    assert members["init"][1] == init_script() and members["init"][0][1] == 0o100755
    assert members["bin/busybox"][1] == busybox() and members["bin/busybox"][0][1] == 0o100755
    assert members["modules/load"][1] == b"virtio\nvirtio_blk\n"
    assert members["modules/virtio.ko"][1].startswith(b"\x7fELF"), "modules go in uncompressed"
    assert members["modules/virtio_blk.ko"][1].startswith(b"\x7fELF")
    assert members["lib/firmware/blk.fw"][1] == b"firmware"
    assert members["dev/console"][0][1] == 0o020600 and members["dev/console"][0][9:11] == [5, 1]
    for name in APPLETS:
        assert members[f"bin/{name}"][1] == b"busybox" and members[f"bin/{name}"][0][1] == 0o120777
    for name in ("proc", "sys", "dev", "run", "root"):
        assert members[name][0][1] == 0o040755
    assert {fields[5] for fields, _ in members.values()} == {EPOCH}
    assert {tuple(fields[2:4]) for fields, _ in members.values()} == {(0, 0)}
    names = list(members)
    assert all("/" not in n or names.index(n.rpartition("/")[0]) < names.index(n) for n in names)
    assert result.modules == ("virtio", "virtio_blk") and result.codec == "zstd"
    assert result.firmware == ("blk.fw",) and result.missing_firmware == ("none.fw",)
    assert result.raw > len(result.data)


def test_the_same_root_gives_the_same_bytes(tmp_path: Path) -> None:
    again = dict(reversed(root().items()))
    assert made(tmp_path / "a").data == made(tmp_path / "b", again).data
    assert made(tmp_path / "a").data != made(tmp_path / "c", epoch=EPOCH + 1).data


def test_an_overlay_and_a_live_medium_bring_their_modules(tmp_path: Path) -> None:
    assert made(tmp_path, overlay=True, filesystem="squashfs").modules == (
        "virtio",
        "virtio_blk",
        "squashfs",
        "overlay",
    )
    live = made(tmp_path, live=True, filesystem="squashfs", drivers=[])
    assert set(live.modules) == {"squashfs", "overlay", "loop", "cdrom", "isofs", "virtio", "virtio_blk", "sr_mod"}
    assert {"ahci", "usb_storage"} <= set(live.left_out) and "sr_mod" not in live.left_out


def test_busybox_may_come_from_another_tree(tmp_path: Path) -> None:
    tools = tree_of(tmp_path / "tools", {"usr/bin/busybox": busybox()})
    files = root()
    del files["usr/bin/busybox"]
    assert made(tmp_path / "a", files, tools=tools).data == made(tmp_path / "b").data


@pytest.mark.parametrize(
    ("busybox", "told"),
    [
        (None, "no /usr/bin/busybox"),
        (busybox(static=False), "needs shared libraries"),
        (b"#!/bin/sh\n", "not a program"),
        (b"\x7fELF", "not a program"),
    ],
)
def test_a_busybox_that_will_not_do_is_told(tmp_path: Path, busybox: bytes | None, told: str) -> None:
    files = root() if busybox is None else root(**{"usr/bin/busybox": busybox})
    if busybox is None:
        del files["usr/bin/busybox"]
    with pytest.raises(BootError, match=told) as caught:
        made(tmp_path, files)
    assert caught.value.hint and "busybox-static" in caught.value.hint


def test_a_file_system_that_is_not_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="kind btrfs"):
        made(tmp_path, filesystem="btrfs")


@pytest.mark.parametrize(
    ("config", "codec"),
    [
        ({"CONFIG_RD_ZSTD": "y", "CONFIG_RD_GZIP": "y"}, "zstd"),
        ({"CONFIG_RD_GZIP": "y"}, "gzip"),
        ({"CONFIG_X": "y"}, "none"),
        ({}, "gzip"),
    ],
)
def test_it_is_packed_as_the_kernel_can_read_it(config: dict[str, str], codec: str) -> None:
    assert codec_of(Kernel(version=VERSION, image="", modules="", config=config)) == codec


def test_gzip_holds_no_time_and_no_name() -> None:
    data = compress(b"archive", "gzip")
    assert gzip.decompress(data) == b"archive" and data[3:8] == bytes(5)
    assert compress(b"archive", "none") == b"archive"


# The init script: its functions are run by the busybox of this machine; that it boots is for the boot tests.


def functions(body: str, *, folder: Path, uptime: str = "/proc/uptime") -> str:
    """Run a few lines with init's functions, and what they would tell the kernel on standard output."""
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("busybox is not installed")
    head = init_script().decode().partition("\nmount -t devtmpfs")[0].replace("/dev/kmsg", "/dev/stdout")
    head = head.replace("export PATH=/bin", "").replace("/proc/uptime", uptime)
    script = folder / "script"
    script.write_text(f"{head}\n{body}\n")
    ran = subprocess.run([found, "sh", script], capture_output=True, text=True, timeout=30)
    assert ran.stderr == "", ran.stderr
    return ran.stdout.strip()


def superblock(at: int, magic: bytes, *parts: tuple[int, bytes]) -> bytes:
    image = bytearray(40_000)
    for place, data in ((at, magic), *parts):
        image[place : place + len(data)] = data
    return bytes(image)


UUID = bytes(range(0x10, 0x20))
DASHED = "10111213-1415-1617-1819-1a1b1c1d1e1f"


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (superblock(1080, b"\x53\xef", (1128, UUID), (1144, b"my root")), f"ext4|{DASHED}|my root"),
        (superblock(1080, b"\x53\xef", (1128, UUID), (1144, b"sixteen letters!")), f"ext4|{DASHED}|sixteen letters!"),
        (superblock(1024, b"\xe2\xe1\xf5\xe0", (1072, UUID), (1088, b"label")), f"erofs|{DASHED}|label"),
        (superblock(0, b"hsqs"), "squashfs||"),
        (
            superblock(
                32769,
                b"CD001",
                (32808, b"MY DISC".ljust(32)),
                (33581, b"2024010203040506\0"),
                (33598, b"0" * 16 + b"\0"),
            ),
            "iso9660|2024-01-02-03-04-05-06|MY DISC",
        ),
        (
            superblock(
                32769, b"CD001", (32808, b"D".ljust(32)), (33581, b"2024010203040506\0"), (33598, b"2025111213141516\0")
            ),
            "iso9660|2025-11-12-13-14-15-16|D",
        ),
        (bytes(40_000), "||"),
        (b"short", "||"),
        (b"", "||"),
    ],
)
def test_init_knows_file_systems_by_their_superblocks(tmp_path: Path, image: bytes, told: str) -> None:
    (tmp_path / "image").write_bytes(image)
    assert functions(f'probe {tmp_path}/image; echo "$type|$uuid|$label"', folder=tmp_path) == told


def test_init_finds_no_label_where_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert functions(f'probe {tmp_path}/none; echo "$type|$uuid|$label"', folder=tmp_path) == "||"


def test_init_counts_hundredths_of_seconds(tmp_path: Path) -> None:
    place = str(tmp_path / "uptime")
    times = ("0.00 1", "0.08 1", "9.09 1", "123.45 1")
    body = "\n".join(f"echo {text} > {place}; now; echo $cs $((cs + 1)) $up" for text in times)
    told = functions(body, folder=tmp_path, uptime=place)
    assert told.split("\n") == ["0 1 0.00", "8 9 0.08", "909 910 9.09", "12345 12346 123.45"]


def test_quiet_silences_all_but_faults(tmp_path: Path) -> None:
    told = functions("say one; quiet=1; say two; fault three", folder=tmp_path)
    assert told.split("\n") == ["<6>mkroot-init: one", "<3>mkroot-init: three"]
