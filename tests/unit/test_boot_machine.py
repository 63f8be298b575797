"""The machine table: what is in it, what fits what, and what is said where it does not."""

from __future__ import annotations

import string
import subprocess
import sys
from pathlib import Path

import pytest

from mkroot.boot.machine import DEFAULTS, Machine, fits, machine, machine_of, machines
from mkroot.errors import BootError
from mkroot.rootfs.machine import data_folder

ALL = pytest.mark.parametrize("one", machines(), ids=lambda m: m.name)


def test_the_machines_that_recipes_may_name() -> None:
    names = [m.name for m in machines()]
    assert names == sorted(names)
    assert {"q35", "q35-bios", "microvm", "nvme", "aarch64-virt"} <= set(names)
    assert {name for row in DEFAULTS.values() for name in row.values()} <= set(names)


@ALL
def test_a_machine_is_whole(one: Machine) -> None:
    assert one.about and one.emulator and one.package and one.drivers and one.root.startswith("/dev/")
    assert one.console != one.verdict
    assert bool(one.firmware_files) == (one.firmware == "uefi") == bool(one.firmware_package)
    for templates, field in (((*one.disk[-1:], *one.cdrom[-1:], *one.usb[-1:]), "drive"), ((one.network,), "network")):
        for template in templates:
            assert field in [name for _, name, _, _ in string.Formatter().parse(template)], template
    assert "{verdict}" in one.verdict_device
    assert ("nvme" in one.disk[-1]) == (one.bus == "nvme") == (one.drivers == ("nvme",))


@pytest.mark.parametrize(
    ("name", "firmware", "loader", "faults"),
    [
        ("q35", "uefi", "systemd-boot", 0),
        ("q35", "uefi", "uki", 0),
        ("q35", "uefi", "grub", 0),
        ("q35", "bios", "grub", 1),
        ("q35", "bios", "direct", 0),
        ("q35-bios", "bios", "grub", 0),
        ("q35-bios", "uefi", "systemd-boot", 2),
        ("q35-bios", "uefi", "grub", 1),
        ("nvme", "uefi", "systemd-boot", 0),
        ("microvm", "uefi", "direct", 0),
        ("microvm", "uefi", "grub", 1),
        ("aarch64-virt", "uefi", "uki", 0),
    ],
)
def test_what_fits(name: str, firmware: str, loader: str, faults: int) -> None:
    found = fits(machine(name), firmware, loader)
    assert len(found) == faults, found
    assert all(name in fault for fault in found)


def test_defaults() -> None:
    assert machine_of(None, "uefi", "systemd-boot", "amd64").name == "q35"
    assert machine_of(None, "bios", "grub", "amd64").name == "q35-bios"
    assert machine_of(None, "uefi", "direct", "amd64").name == "microvm"
    assert machine_of(None, "uefi", "uki", "arm64").name == "aarch64-virt"
    assert machine_of("nvme", "uefi", "uki", "amd64").name == "nvme"
    with pytest.raises(BootError, match="arm64 with bios"):
        machine_of(None, "bios", "grub", "arm64")


def test_an_unknown_name_has_a_near_one() -> None:
    with pytest.raises(BootError, match="no machine `q53`") as caught:
        machine("q53")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean `q35`? machines are aarch64-virt, microvm")


def test_a_machine_that_does_not_fit_names_those_that_do() -> None:
    with pytest.raises(BootError) as caught:
        machine_of("q35-bios", "uefi", "uki", "amd64")
    assert caught.value.where == "boot.machine"
    assert caught.value.hint == "machines that fit: nvme, q35"
    with pytest.raises(BootError, match="`nvme` is amd64, the system is arm64"):
        machine_of("nvme", "uefi", "uki", "arm64")


def test_the_table_ships_inside_the_package(tmp_path: Path) -> None:
    """In a wheel the folder lies inside the package, in a checkout beside it."""
    source = Path(data_folder())
    (tmp_path / "mkroot").symlink_to(Path(sys.modules["mkroot"].__file__ or "").parent)
    code = (
        "import mkroot, pathlib, sys; mkroot.__file__ = sys.argv[1]\n"
        "from mkroot.boot.machine import machines; print(len(machines()))"
    )
    package = tmp_path / "installed" / "mkroot"
    package.mkdir(parents=True)
    (package / "qemu").symlink_to(source)
    run = subprocess.run(
        [sys.executable, "-c", code, str(package / "__init__.py")], capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == str(len(machines())), run.stderr
    (package / "qemu").unlink()
    run = subprocess.run(
        [sys.executable, "-c", code, str(package / "__init__.py")], capture_output=True, text=True, check=False
    )
    assert "the machine table is missing" in run.stderr
