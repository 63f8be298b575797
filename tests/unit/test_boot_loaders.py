"""The boot file system: each loader finds its files, and parts that do not fit are told with their package."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mkroot.boot import grub
from mkroot.boot.loaders import Bootfs, component, make_bootfs, packages_for
from mkroot.errors import BootError
from mkroot.rootfs.tree import Tree
from tests.unit import efi
from tests.unit.roots import tree_of

KERNEL, INITRAMFS = efi.kernel(), b"initramfs"
FILES: dict[str, str | bytes] = {
    "etc/os-release": "-> ../usr/lib/os-release",
    "usr/lib/os-release": 'ID=debian\nPRETTY_NAME="Debian 13"\n',
    "usr/lib/systemd/boot/efi/systemd-bootx64.efi": b"MZ systemd-boot",
    "usr/lib/systemd/boot/efi/linuxx64.efi.stub": efi.program(headers=0x600),
    "usr/lib/grub/x86_64-efi/monolithic/grubx64.efi": efi.grub("/EFI/debian"),
    "usr/lib/grub/x86_64-efi/kernel.img": b"kernel.img",
    "usr/lib/grub/i386-pc/boot.img": b"boot.img",
    "usr/lib/grub/i386-pc/boot_hybrid.img": b"boot_hybrid.img",
}


def mkimage(kind: str, arguments: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    return f"image {kind} ".encode() + b"".join(files.values())


def tree(folder: Path, without: str = "") -> Tree:
    return tree_of(folder, {p: data for p, data in FILES.items() if not without or without not in p})


def made(folder: Path, loader: str, *, without: str = "", **more: Any) -> Bootfs:
    arguments: dict[str, Any] = {
        "distro": "debian",
        "loader": loader,
        "firmware": "uefi",
        "architecture": "amd64",
        "kernel": KERNEL,
        "initramfs": INITRAMFS,
        "cmdline": "console=ttyS0 root=LABEL=root",
        "title": "Debian 13",
        "version": "6.12-amd64",
        "mkimage": mkimage,
    }
    return make_bootfs(tree(folder, without), **{**arguments, **more})


def markers(files: Mapping[str, bytes]) -> list[str]:
    return [path for path in files if path.endswith(".id")]


@pytest.mark.parametrize(
    ("loader", "firmware", "initramfs", "iso", "packages"),
    [
        ("direct", "uefi", "none", False, []),
        ("direct", "bios", "mkroot", False, ["busybox-static"]),
        ("systemd-boot", "uefi", "mkroot", False, ["busybox-static", "systemd-boot-efi"]),
        ("uki", "uefi", "distro", False, ["systemd-boot-efi"]),
        ("grub", "uefi", "none", False, ["grub-common", "grub-efi-amd64-bin"]),
        ("grub", "bios", "mkroot", False, ["busybox-static", "grub-common", "grub-pc-bin"]),
        ("grub", "bios", "none", True, ["grub-common", "grub-efi-amd64-bin", "grub-pc-bin"]),
        ("direct", "uefi", "none", True, ["grub-common", "grub-efi-amd64-bin", "grub-pc-bin"]),
        ("uki", "uefi", "none", True, ["grub-common", "grub-pc-bin", "systemd-boot-efi"]),
    ],
)
def test_packages_that_only_make_the_boot_file_system(
    loader: str, firmware: str, initramfs: str, iso: bool, packages: list[str]
) -> None:
    assert list(packages_for("debian", loader, firmware, initramfs, "amd64", iso=iso)) == packages


def test_packages_of_another_architecture_have_no_bios() -> None:
    assert packages_for("debian", "grub", "uefi", "none", "arm64", iso=True) == ("grub-common", "grub-efi-arm64-bin")
    with pytest.raises(BootError, match="no BIOS on arm64"):
        packages_for("debian", "grub", "bios", "none", "arm64", iso=False)
    with pytest.raises(BootError, match="nothing that boots on riscv64"):
        packages_for("debian", "grub", "uefi", "none", "riscv64", iso=False)


def test_only_ubuntu_has_systemd_boot_in_universe() -> None:
    assert component("ubuntu", "systemd-boot-efi") == "universe"
    assert component("debian", "systemd-boot-efi") == component("ubuntu", "grub-pc-bin") == "main"


def test_direct_is_kernel_initramfs_and_command_line(tmp_path: Path) -> None:
    files = made(tmp_path, "direct").files
    assert files == {
        "vmlinuz": KERNEL,
        "initramfs.cpio.zst": INITRAMFS,
        "cmdline": b"console=ttyS0 root=LABEL=root\n",
    }
    assert sorted(made(tmp_path, "direct", initramfs=None).files) == ["cmdline", "vmlinuz"]


def test_systemd_boot_has_an_entry_for_the_kernel(tmp_path: Path) -> None:
    files = made(tmp_path, "systemd-boot", title="Debian\n13\x1b").files
    assert sorted(files) == [
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/systemd/systemd-bootx64.efi",
        "debian/6.12-amd64/initramfs.cpio.zst",
        "debian/6.12-amd64/vmlinuz",
        "loader/entries/debian-6.12-amd64.conf",
        "loader/loader.conf",
    ]
    assert files["EFI/BOOT/BOOTX64.EFI"] == files["EFI/systemd/systemd-bootx64.efi"] == b"MZ systemd-boot"
    assert files["loader/loader.conf"] == b"timeout 0\nconsole-mode keep\n"
    assert files["loader/entries/debian-6.12-amd64.conf"].decode().splitlines() == [
        "title Debian 13",
        "version 6.12-amd64",
        "sort-key debian",
        "architecture x64",
        "linux /debian/6.12-amd64/vmlinuz",
        "initrd /debian/6.12-amd64/initramfs.cpio.zst",
        "options console=ttyS0 root=LABEL=root",
    ]


def test_a_unified_image_is_the_only_file(tmp_path: Path) -> None:
    bootfs = made(tmp_path, "uki")
    assert bootfs.files == {"EFI/BOOT/BOOTX64.EFI": bootfs.efi}
    assert bootfs.efi is not None
    for content in (KERNEL, INITRAMFS, b"6.12-amd64", b'PRETTY_NAME="Debian 13"', b"console=ttyS0 root=LABEL=root"):
        assert content in bootfs.efi
    bare = made(tmp_path / "bare", "uki", without="os-release", title='A "B"').efi
    assert bare is not None and b'ID=debian\nPRETTY_NAME="A \\"B\\""\n' in bare


def test_grub_for_uefi_is_the_ready_image_with_its_configuration_where_it_looks(tmp_path: Path) -> None:
    files = made(tmp_path, "grub").files
    (marker,) = markers(files)
    assert sorted(files) == sorted([
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/debian/grub.cfg",
        "debian/6.12-amd64/initramfs.cpio.zst",
        "debian/6.12-amd64/vmlinuz",
        marker,
    ])  # fmt: skip
    assert files["EFI/BOOT/BOOTX64.EFI"] == FILES["usr/lib/grub/x86_64-efi/monolithic/grubx64.efi"]
    text = files["EFI/debian/grub.cfg"].decode()
    assert f"--file /{marker}\n" in text
    assert "linux /debian/6.12-amd64/vmlinuz console=ttyS0 root=LABEL=root\n" in text
    assert "initrd /debian/6.12-amd64/initramfs.cpio.zst\n" in text


def test_grub_for_uefi_is_made_where_no_ready_image_tells_where_it_looks(tmp_path: Path) -> None:
    files = made(tmp_path, "grub", without="monolithic").files
    assert files["EFI/BOOT/BOOTX64.EFI"].startswith(b"image x86_64-efi")
    assert "boot/grub/grub.cfg" in files
    assert markers(files)[0].encode() in files["EFI/BOOT/BOOTX64.EFI"]


def test_grub_for_bios_has_a_boot_sector_and_a_core(tmp_path: Path) -> None:
    bootfs = made(tmp_path, "grub", firmware="bios", kernel=efi.kernel(efi=False))
    assert bootfs.boot_code == b"boot.img"
    assert bootfs.core is not None and bootfs.core.startswith(b"image i386-pc serial")
    assert "boot/grub/grub.cfg" in bootfs.files and not any(p.startswith("EFI/") for p in bootfs.files)


def test_a_marker_belongs_to_one_build_and_the_same_build_has_the_same_bytes(tmp_path: Path) -> None:
    first = made(tmp_path / "a", "grub")
    assert made(tmp_path / "b", "grub") == first
    others = [
        made(tmp_path / "c", "grub", cmdline="console=ttyS0 root=LABEL=other"),
        made(tmp_path / "d", "grub", initramfs=b"other"),
        made(tmp_path / "e", "grub", kernel=efi.kernel(memory=0x50000)),
    ]
    names = {markers(b.files)[0] for b in [first, *others]}
    assert len(names) == 4


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_medium_starts_grub_whatever_the_firmware(tmp_path: Path, firmware: str) -> None:
    bootfs = made(tmp_path, "grub", firmware=firmware, iso=True)
    assert bootfs.boot_code == b"boot_hybrid.img"
    assert bootfs.core is not None and bootfs.core.startswith(b"image i386-pc-eltorito")
    assert sorted(bootfs.files) == ["EFI/BOOT/BOOTX64.EFI", "EFI/debian/grub.cfg"]
    (marker,) = markers(bootfs.medium)
    assert sorted(bootfs.medium) == sorted([
        "EFI/debian/grub.cfg",
        "boot/grub/grub.cfg",
        "debian/6.12-amd64/initramfs.cpio.zst",
        "debian/6.12-amd64/vmlinuz",
        marker,
    ])  # fmt: skip
    configs = {bootfs.files["EFI/debian/grub.cfg"], *(v for k, v in bootfs.medium.items() if k.endswith("grub.cfg"))}
    assert len(configs) == 1


@pytest.mark.parametrize("loader", ["systemd-boot", "uki"])
def test_a_medium_keeps_the_loader_for_uefi(tmp_path: Path, loader: str) -> None:
    bootfs, disk = made(tmp_path, loader, iso=True), made(tmp_path / "disk", loader)
    assert bootfs.files == disk.files and bootfs.efi == disk.efi
    assert "boot/grub/grub.cfg" in bootfs.medium and "debian/6.12-amd64/vmlinuz" in bootfs.medium


@pytest.mark.parametrize(
    ("loader", "more", "missing", "package"),
    [
        ("systemd-boot", {}, "systemd-bootx64.efi", "systemd-boot-efi"),
        ("uki", {}, "linuxx64.efi.stub", "systemd-boot-efi"),
        ("grub", {}, "x86_64-efi/", "grub-efi-amd64-bin"),
        ("grub", {"firmware": "bios"}, "i386-pc/boot.img", "grub-pc-bin"),
        ("uki", {"iso": True}, "boot_hybrid.img", "grub-pc-bin"),
    ],
)
def test_a_missing_file_names_its_package(
    tmp_path: Path, loader: str, more: dict[str, Any], missing: str, package: str
) -> None:
    with pytest.raises(BootError, match="not among the packages of the lock") as caught:
        made(tmp_path, loader, without=missing, **more)
    assert missing in caught.value.what
    assert caught.value.hint == f"it is in the package {package}"


def test_a_file_of_universe_names_the_component(tmp_path: Path) -> None:
    with pytest.raises(BootError) as caught:
        made(tmp_path, "uki", without="stub", distro="ubuntu")
    assert caught.value.hint and "universe" in caught.value.hint


@pytest.mark.parametrize(
    ("loader", "more", "words"),
    [
        ("uki", {"kernel": efi.kernel(efi=False)}, "UEFI cannot start this kernel: .*no EFI program"),
        ("systemd-boot", {"kernel": efi.kernel(efi=False)}, "UEFI cannot start this kernel"),
        ("direct", {"kernel": b"\x7fELF" + bytes(600)}, "no kernel for amd64"),
        ("grub", {"kernel": b"", "firmware": "bios"}, "no kernel for amd64"),
        ("grub", {"kernel": b"\x1f\x8b" + bytes(600)}, "packed with gzip"),
        ("systemd-boot", {"kernel": efi.kernel(), "architecture": "arm64"}, "no EFI program for arm64"),
        ("systemd-boot", {"firmware": "bios"}, "needs `firmware: uefi`"),
        ("uki", {"architecture": "armhf"}, "nothing that boots on armhf"),
        ("systemd-boot", {"version": "../6.1"}, "cannot be part of a file's name"),
        ("systemd-boot", {"distro": "a/b"}, "cannot be part of a file's name"),
        ("direct", {"cmdline": "a\nb"}, "printable ASCII"),
        ("direct", {"cmdline": "name=é"}, "printable ASCII"),
        ("uki", {"cmdline": "x" * 2048}, "2048 characters, and the kernel reads 2047"),
        ("systemd-boot", {"cmdline": '"a b" "c d"'}, "take the quotation marks away"),
        ("grub", {"cmdline": 'a="b c"'}, "GRUB cannot hand"),
    ],
)
def test_parts_that_do_not_fit_are_told(tmp_path: Path, loader: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(BootError, match=words):
        made(tmp_path, loader, **more)


def test_only_the_loader_that_would_change_a_command_line_refuses_it(tmp_path: Path) -> None:
    cmdline = 'dyndbg="file a.c +p" root=LABEL=a\\x20b x=$y;z'
    image = made(tmp_path / "a", "uki", cmdline=cmdline).efi
    assert image is not None and cmdline.encode() in image
    files = made(tmp_path / "b", "systemd-boot", cmdline=cmdline).files
    assert f"options {cmdline}\n".encode() in files["loader/entries/debian-6.12-amd64.conf"]


def test_arm64_has_its_own_names(tmp_path: Path) -> None:
    kernel = efi.program(machine=0xAA64)
    files: dict[str, str | bytes] = {
        "usr/lib/systemd/boot/efi/systemd-bootaa64.efi": b"MZ systemd-boot",
        "usr/lib/grub/arm64-efi/monolithic/grubaa64.efi": efi.grub("/EFI/debian"),
    }
    rest: dict[str, Any] = {
        "distro": "debian", "firmware": "uefi", "architecture": "arm64", "kernel": kernel, "initramfs": None,
        "cmdline": "", "title": "Debian", "version": "6.12-arm64", "mkimage": mkimage,
    }  # fmt: skip
    root = tree_of(tmp_path, files)
    assert "EFI/BOOT/BOOTAA64.EFI" in make_bootfs(root, loader="systemd-boot", **rest).files
    bootfs = make_bootfs(root, loader="grub", iso=True, **rest)
    assert bootfs.core is None and "EFI/BOOT/BOOTAA64.EFI" in bootfs.files
    assert struct.unpack_from("<H", kernel, 0x78 + 4)[0] == 0xAA64
    assert grub.EFI["arm64"] == "arm64-efi"
