"""The kernel of a root: found, told apart, and asked what it can mount by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mkroot.boot.kernel import BUSES, FILESYSTEMS, find_kernel, unassisted
from mkroot.errors import BootError
from tests.unit.kernels import CONFIG, MODULES, VERSION, kernel
from tests.unit.roots import tree_of

OTHER = "6.12.3-cloud-amd64"


def test_a_kernel_has_its_image_modules_and_options(tmp_path: Path) -> None:
    files = {"boot/vmlinuz": f"-> vmlinuz-{VERSION}", **kernel({})}
    found = find_kernel(tree_of(tmp_path, files), "linux-image-cloud-amd64")
    assert (found.version, found.image, found.modules) == (VERSION, f"boot/vmlinuz-{VERSION}", MODULES)
    assert found.config == {"CONFIG_RD_GZIP": "y", "CONFIG_RD_ZSTD": "y", "CONFIG_EXT4_FS": "y"}


def test_an_image_beside_its_modules_is_a_kernel_too(tmp_path: Path) -> None:
    found = find_kernel(tree_of(tmp_path, {f"{MODULES}/vmlinuz": "MZ", f"{MODULES}/kernel/": ""}), "linux-image-x")
    assert (found.image, found.config) == (f"{MODULES}/vmlinuz", {})


@pytest.mark.parametrize("files", [{"boot/": ""}, {f"{MODULES}/modules.builtin": ""}, {"boot/vmlinuz-1/": ""}])
def test_a_root_without_a_kernel_names_the_package(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    with pytest.raises(BootError, match="linux-image-none brings no kernel") as caught:
        find_kernel(tree_of(tmp_path, files), "linux-image-none")
    assert caught.value.hint and "linux-image-cloud-amd64" in caught.value.hint


def test_two_kernels_are_named_and_one_can_be_pinned(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {**kernel({}), f"boot/vmlinuz-{OTHER}": "MZ"})
    with pytest.raises(BootError) as caught:
        find_kernel(tree, "linux-image-cloud-amd64")
    assert VERSION in caught.value.what and OTHER in caught.value.what
    assert caught.value.hint and "pin one" in caught.value.hint
    assert find_kernel(tree, f"linux-image-{VERSION}=6.1.*").version == VERSION
    assert find_kernel(tree, f"linux-image-{OTHER}").version == OTHER


def reasons(tmp_path: Path, more: str, root: str = "PARTUUID=1", **asked: object) -> str:
    tree = tree_of(tmp_path, {**kernel({}), f"boot/config-{VERSION}": CONFIG + more})
    wanted = {"filesystem": "ext4", "bus": "nvme", **asked}
    return "\n".join(unassisted(find_kernel(tree, "linux-image-x"), tree, root=root, **wanted))  # type: ignore[arg-type]


def test_a_kernel_with_all_of_it_built_in_needs_no_initramfs(tmp_path: Path) -> None:
    options = "CONFIG_BLK_DEV_NVME=y\nCONFIG_EFI_PARTITION=y\n"
    assert reasons(tmp_path, options) == ""
    assert reasons(tmp_path, "CONFIG_BLK_DEV_NVME=y\n", root="/dev/nvme0n1p2") == ""


@pytest.mark.parametrize(
    ("more", "root", "asked", "told"),
    [
        ("CONFIG_BLK_DEV_NVME=m\n", "/dev/vda", {}, r"nvme is a module .* \(CONFIG_BLK_DEV_NVME=m\)"),
        ("", "/dev/vda", {}, r"nvme is not in kernel .* \(CONFIG_BLK_DEV_NVME is not set\)"),
        ("CONFIG_BLK_DEV_NVME=y\n", "PARTUUID=1", {}, "CONFIG_EFI_PARTITION is not set"),
        ("CONFIG_BLK_DEV_NVME=y\n", "UUID=1", {}, "cannot find root=UUID=1"),
        ("CONFIG_BLK_DEV_NVME=y\n", "/dev/disk/by-uuid/1", {}, "cannot find root=/dev/disk/by-uuid/1"),
        ("CONFIG_BLK_DEV_NVME=y\n", "/dev/vda", {"overlay": True}, "overlay in memory"),
        ("CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=m\n", "/dev/vda", {"bus": "virtio"}, "virtio_blk is a module"),
        ("CONFIG_SATA_AHCI=y\nCONFIG_BLK_DEV_SD=m\n", "/dev/sda", {"bus": "ahci"}, "sd_mod is a module"),
        ("CONFIG_BLK_DEV_NVME=y\nCONFIG_SQUASHFS=y\n", "/dev/vda", {"filesystem": "squashfs"}, "SQUASHFS_ZSTD is not"),
    ],
)
def test_what_stands_in_the_way_is_told(
    tmp_path: Path, more: str, root: str, asked: dict[str, object], told: str
) -> None:
    import re

    found = reasons(tmp_path, more, root, **asked)
    assert re.search(told, found) and "\n" not in found, found


def test_without_a_configuration_modules_builtin_decides(tmp_path: Path) -> None:
    files = {**kernel({}), f"{MODULES}/modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/drivers/nvme/host/nvme.ko\n"}
    del files[f"boot/config-{VERSION}"]
    tree = tree_of(tmp_path, files)
    found = find_kernel(tree, "linux-image-x")
    assert unassisted(found, tree, filesystem="ext4", bus="nvme", root="PARTUUID=1") == ()
    assert "virtio_blk" in unassisted(found, tree, filesystem="ext4", bus="virtio", root="PARTUUID=1")[1]


def test_a_bus_that_is_not_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="`floppy` is not a known disk bus"):
        reasons(tmp_path, "", bus="floppy")
    assert set(BUSES) >= {"virtio", "nvme", "ahci"} and set(FILESYSTEMS) == {"ext4", "squashfs", "erofs"}
