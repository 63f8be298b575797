"""Modules: what a driver needs comes first, in any compression, with or without depmod's files."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import zstandard

from mkroot.boot.kernel import find_kernel
from mkroot.boot.modules import Closure, closure, read_module
from mkroot.errors import BootError
from tests.unit.kernels import MODULES, VERSION, kernel, module
from tests.unit.roots import tree_of

Files = Mapping[str, bytes]
DISK: Files = {
    "drivers/block/virtio_blk.ko.xz": module("depends=virtio,virtio_ring", "alias=virtio:d00000002v*"),
    "drivers/virtio/virtio.ko": module("depends="),
    "drivers/virtio/virtio_ring.ko.zst": module("depends=virtio"),
    "drivers/usb/storage/usb-storage.ko": module("depends=usb-core", "name=usb_storage"),
    "drivers/usb/core/usb_core.ko": module("depends="),
}


def found(
    tmp_path: Path, modules: Files, wanted: Sequence[str], optional: Sequence[str] = (), **more: str | bytes
) -> Closure:
    files = {k: v for k, v in more.items() if "/" in k}
    tree = tree_of(tmp_path, {**kernel(modules, **{k: v for k, v in more.items() if "/" not in k}), **files})
    return closure(tree, find_kernel(tree, "linux-image-x"), wanted, optional)


def names(result: Closure) -> list[str]:
    return [m.name for m in result.modules]


def test_what_a_driver_needs_loads_before_it(tmp_path: Path) -> None:
    result = found(tmp_path, DISK, ["virtio-blk", "usb-storage", "virtio_blk"])
    assert names(result) == ["virtio", "virtio_ring", "virtio_blk", "usb_core", "usb_storage"]
    assert all(m.data.startswith(b"\x7fELF") for m in result.modules)
    assert result.missing_firmware == result.left_out == ()


def test_a_driver_that_is_built_in_needs_nothing(tmp_path: Path) -> None:
    assert names(found(tmp_path, DISK, ["ext4", "fs-ext4", "crc32c-generic"])) == []


def test_a_driver_that_is_nowhere_is_told_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(BootError, match=f"kernel {VERSION} has no driver ahci") as caught:
        found(tmp_path, DISK, ["virtio_blk", "ahci"])
    assert caught.value.hint and "linux-modules-extra" in caught.value.hint and "cloud" in caught.value.hint


def test_an_optional_driver_is_left_out_and_reported(tmp_path: Path) -> None:
    result = found(tmp_path, DISK, ["virtio"], ["usb_storage", "ata-piix", "ext4"])
    assert names(result) == ["virtio", "usb_core", "usb_storage"] and result.left_out == ("ata_piix",)


SOFT: Files = {
    "fs/ext9/ext9.ko": module("depends=", "softdep=pre: crypto-crc64 crypto-crc32c nowhere", "softdep=post: late"),
    "crypto/crc64_generic.ko.xz": module("depends=", "alias=crypto-crc64", "alias=crc64"),
    "arch/x86/crypto/crc64-fast.ko.xz": module("depends=crc64_generic", "alias=crypto-crc64"),
    "lib/late.ko": module("depends=ext9"),
    "drivers/broken.ko": b"never read",
}


@pytest.mark.parametrize("depmod", [False, True])
def test_soft_dependencies_by_alias(tmp_path: Path, depmod: bool) -> None:
    """An alias that the kernel itself answers to (crypto-crc32c) needs no module; one that nobody has is no fault."""
    alias = "# Aliases\nalias crypto_crc64 crc64_generic\nalias crypto-crc64 crc64_fast\nalias pci:v1* broken\n"
    result = found(tmp_path, SOFT, ["ext9"], **({"modules.alias": alias} if depmod else {}))
    assert sorted(names(result)[:2]) == ["crc64_fast", "crc64_generic"] and names(result)[2:] == ["ext9", "late"]
    assert names(result).index("crc64_generic") == 0, "it is needed by the other"


def test_modules_softdep_counts_beside_what_the_module_says(tmp_path: Path) -> None:
    more = {"modules.softdep": "# Soft dependencies\nsoftdep usb_storage pre: virtio post: virtio-ring\n"}
    assert names(found(tmp_path, DISK, ["usb_storage"], **more)) == ["virtio", "usb_core", "usb_storage", "virtio_ring"]


def test_a_file_system_is_found_by_its_alias(tmp_path: Path) -> None:
    files = {"fs/isofs/isofs.ko": module("depends=cdrom", "alias=fs-iso9660"), "drivers/cdrom.ko": module("depends=")}
    assert names(found(tmp_path, files, ["fs-iso9660"])) == ["cdrom", "isofs"]


def test_a_ring_of_soft_dependencies_ends(tmp_path: Path) -> None:
    files = {"a.ko": module("depends=", "softdep=pre: b"), "b.ko": module("depends=", "softdep=pre: a")}
    assert names(found(tmp_path, files, ["a"])) == ["b", "a"]


def test_a_long_chain_is_no_trouble(tmp_path: Path) -> None:
    files = {f"m{i}.ko": module(f"depends=m{i + 1}" if i < 1500 else "depends=") for i in range(1501)}
    assert names(found(tmp_path, files, ["m0"]))[:2] == ["m1500", "m1499"]


def test_an_updated_module_counts_and_modules_dep_has_the_last_word(tmp_path: Path) -> None:
    more = {f"{MODULES}/updates/dkms/virtio.ko": module("depends=", "alias=new")}
    assert found(tmp_path, DISK, ["virtio"], **more).modules[0].aliases == ("new",)
    more["modules.dep"] = "kernel/drivers/virtio/virtio.ko:\nkernel/gone.ko:\n"
    assert found(tmp_path, DISK, ["virtio"], **more).modules[0].aliases == ()


def test_firmware_comes_from_the_root_or_is_reported(tmp_path: Path) -> None:
    files = {
        "drivers/net/card.ko": module(
            "depends=", *(f"firmware={n}" for n in ("a.bin", "d/b.bin", "c.bin", "../x", "e*"))
        )
    }
    more = {
        "usr/lib/firmware/a.bin": b"plain",
        "usr/lib/firmware/d/b.bin.xz": lzma.compress(b"packed"),
        "usr/lib/firmware/e1": b"one",
        "usr/lib/x": b"outside",
    }
    result = found(tmp_path, files, ["card"], **more)
    assert result.firmware == (("a.bin", b"plain"), ("d/b.bin", b"packed"), ("e1", b"one"))
    assert result.missing_firmware == ("../x", "c.bin")


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ({"bad.ko": b"no ELF at all"}, "not a kernel module"),
        ({"bad.ko": module("depends=")[:90]}, "not a kernel module"),
        ({"bad.ko": b"\x7fELF\2\1\1" + bytes(57)}, "not a kernel module"),
        ({"bad.ko": module("depends=gone")}, "needs gone, which the kernel"),
        ({"bad.ko": module("depends=", version="5.0")}, "made for the kernel 5.0"),
    ],
)
def test_a_module_that_cannot_be_used_is_named(tmp_path: Path, modules: Files, told: str) -> None:
    with pytest.raises(BootError, match=told) as caught:
        found(tmp_path, modules, ["bad"])
    assert caught.value.where == f"/{MODULES}/kernel/bad.ko" and caught.value.hint


PACKED = {"xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress, "gz": gzip.compress}


@pytest.mark.parametrize("ending", PACKED)
def test_a_damaged_compressed_module_is_named(ending: str) -> None:
    packed = PACKED[ending](module("depends="))
    assert read_module(f"lib/good-one.ko.{ending}", packed).name == "good_one"
    for damaged in (b"no archive at all", packed[:-20], packed[: len(packed) // 2], b""):
        with pytest.raises(BootError, match="cannot be uncompressed") as caught:
            read_module(f"lib/bad.ko.{ending}", damaged)
        assert caught.value.where == f"/lib/bad.ko.{ending}"


@pytest.mark.parametrize("at", range(0, 640, 16))
def test_no_damage_of_a_module_is_a_traceback(at: int) -> None:
    data = bytearray(module("depends=x", "softdep=pre: y"))
    data[at : at + 16] = b"\xff" * 16
    try:
        read_module("lib/bad.ko", bytes(data))
    except BootError as e:
        assert "not a kernel module" in e.what
