"""Disks and ISO images start a GRUB under each firmware; the word that it prints on the console tells."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mkroot.artifact.fat import write_fat
from mkroot.artifact.gpt import BIOS_BOOT, ESP, MIB, Partition, layout, write_disk
from mkroot.artifact.iso import write_iso
from mkroot.artifact.qcow2 import write_qcow2
from mkroot.artifact.tools import HostTools
from mkroot.errors import ArtifactError

pytestmark = pytest.mark.boot

GRUB = Path("/usr/lib/grub")
FIRMWARE = Path("/usr/share/OVMF")
MODULES = [
    "fat",
    "normal",
    "configfile",
    "linux",
    "echo",
    "serial",
    "terminal",
    "search",
    "search_fs_file",
    "iso9660",
    "part_gpt",
    "halt",
]
SEARCH = "search --set=root --file /boot/grub/grub.cfg\nset prefix=($root)/boot/grub\n"
CONFIG = b'serial --unit=0\nterminal_output serial\necho "started-$grub_platform-$root"\nhalt\n'
EPOCH = 1_700_000_000
SECONDS = 120  # to wait for the word; under TCG it takes 2 to 6


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with disk.raw, disk.qcow2 and image.iso, each with a GRUB for BIOS and one for UEFI."""
    folder = tmp_path_factory.mktemp("media")
    for needed in (GRUB / "i386-pc/boot.img", GRUB / "x86_64-efi/normal.mod", FIRMWARE / "OVMF_CODE_4M.fd"):
        if not needed.exists():
            pytest.skip(f"{needed} is not installed")
    tools = HostTools()
    for tool in ("grub-mkimage", "qemu-system-x86_64", "qemu-img", "mformat"):
        try:
            tools.find(tool)
        except ArtifactError as e:
            pytest.skip(str(e))
    disk_core = grub_image(folder, "i386-pc", "(hd0,gpt2)/grub", [*MODULES, "biosdisk"])
    cd_core = grub_image(folder, "i386-pc-eltorito", "/boot/grub", [*MODULES, "biosdisk"])
    disk_efi = grub_image(folder, "x86_64-efi", "/grub", MODULES)
    cd_efi = grub_image(folder, "x86_64-efi", "/boot/grub", MODULES, SEARCH)
    boot = {"grub/grub.cfg": CONFIG, "EFI/BOOT/BOOTX64.EFI": disk_efi}
    write_fat(folder / "boot.img", boot, label="BOOT", serial=1, epoch=EPOCH, tools=tools)
    esp = {"EFI/BOOT/BOOTX64.EFI": cd_efi}
    write_fat(folder / "esp.img", esp, label="ESP", serial=2, epoch=EPOCH, tools=tools)
    one, two, disk = (uuid.UUID(int=n) for n in (1, 2, 3))
    size = (folder / "boot.img").stat().st_size
    plan = layout(
        [
            Partition(name="BIOS boot", kind=BIOS_BOOT, identity=one, size=MIB),
            Partition(name="EFI system", kind=ESP, identity=two, content=folder / "boot.img", size=size),
        ]
    )
    boot_img = (GRUB / "i386-pc/boot.img").read_bytes()
    write_disk(folder / "disk.raw", plan, identity=disk, boot_code=boot_img, core=disk_core)
    write_qcow2(folder / "disk.raw", folder / "disk.qcow2", tools)
    write_iso(
        folder / "image.iso",
        {"boot/grub/grub.cfg": CONFIG},
        volume="TEST",
        identity=disk,
        efi_image=folder / "esp.img",
        bios_core=cd_core,
        boot_code=(GRUB / "i386-pc/boot_hybrid.img").read_bytes(),
        epoch=EPOCH,
    )
    yield folder
    shutil.rmtree(folder)


def grub_image(folder: Path, kind: str, prefix: str, modules: list[str], early: str = "") -> bytes:
    """Return what grub-mkimage makes; early: a configuration that is run first."""
    config = folder / "early.cfg"
    config.write_text(early)
    arguments = ["-O", kind, "-o", str(folder / "image"), "-p", prefix, *(["-c", str(config)] if early else [])]
    HostTools().run("grub-mkimage", [*arguments, *modules])
    return (folder / "image").read_bytes()


def started(folder: Path, arguments: list[str]) -> str:
    """Start a machine and return its word, or what the console had when there was none."""
    console = folder / "console"
    console.write_bytes(b"")
    command = ["qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-m", "256", "-nic", "none", "-no-reboot"]
    command += ["-display", "none", "-monitor", "none", "-serial", f"file:{console}", *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as machine:
        try:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                text = console.read_bytes().decode("utf-8", "replace")
                for line in text.splitlines(keepends=True):
                    if "started-" in line and line.endswith("\n"):
                        return line[line.index("started-") :].strip()
                if machine.poll() is not None:
                    assert machine.stderr is not None
                    return f"{text}\n{machine.stderr.read().decode('utf-8', 'replace')}"
                time.sleep(0.1)
            return text
        finally:
            machine.kill()


def drive(path: Path, kind: str) -> list[str]:
    if kind == "cd":
        return ["-cdrom", str(path)]
    shape = "qcow2" if path.suffix == ".qcow2" else "raw"
    disk = ["-drive", f"file={path},format={shape},if=none,id=d,snapshot=on"]
    if kind == "usb":
        return [*disk, "-device", "qemu-xhci", "-device", "usb-storage,drive=d,bootindex=0"]
    return [*disk, "-device", f"{kind},drive=d,bootindex=0"]


@pytest.mark.parametrize(
    ("name", "kind", "firmware", "word"),
    [
        ("disk.raw", "virtio-blk-pci", "bios", "started-pc-hd0,gpt2"),
        ("disk.raw", "virtio-blk-pci", "uefi", "started-efi-hd0,gpt2"),
        ("disk.qcow2", "virtio-blk-pci", "bios", "started-pc-hd0,gpt2"),
        ("image.iso", "cd", "bios", "started-pc-hd96"),
        ("image.iso", "cd", "uefi", "started-efi-cd0"),
        ("image.iso", "usb", "bios", "started-pc-hd0"),
        ("image.iso", "usb", "uefi", "started-efi-hd0"),
    ],
)
def test_it_starts(media: Path, tmp_path: Path, name: str, kind: str, firmware: str, word: str) -> None:
    arguments = drive(media / name, kind)
    if firmware == "uefi":
        variables = tmp_path / "vars"
        shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", variables)
        code = FIRMWARE / "OVMF_CODE_4M.fd"
        arguments += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        arguments += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
    assert started(tmp_path, arguments) == word
