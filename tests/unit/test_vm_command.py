"""QEMU's command line: what of a guest stands in it, and where."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path

import pytest

from mkroot.boot.machine import FirmwareFiles, machine
from mkroot.errors import VmError
from mkroot.vm import check
from mkroot.vm.command import CMDLINE_LIMIT, Ends, command
from mkroot.vm.guest import Direct, Disk, Forward, Guest, check_guest, disk_of, kind_of

FIRMWARE = FirmwareFiles(code="/f/code", vars="/f/vars")
MIB = 1 << 20


def line(guest: Guest, accelerator: str = "tcg", *, terminal: bool = False, tsc: int = 0) -> list[str]:
    firmware = FIRMWARE if guest.direct is None and guest.machine.firmware == "uefi" else None
    ends = Ends(console=Path("/r/console"), verdict=Path("/r/verdict"), monitor=7, terminal=terminal, firmware=firmware)
    return command("/bin/qemu", guest, ends, "kvm" if accelerator == "kvm" else "tcg", tsc)


def values(found: list[str], option: str) -> list[str]:
    return [found[i + 1] for i, word in enumerate(found) if word == option]


def disk(name: str, **more: object) -> Guest:
    return Guest(machine=machine(name), memory=512 * MIB, disk=Disk(Path("/d.qcow2"), "qcow2"), **more)  # type: ignore[arg-type]


def direct(name: str, **more: object) -> Guest:
    kernel = Direct(kernel=Path("/k"), initramfs=Path("/i"), cmdline="console=ttyS0 quiet")
    return Guest(machine=machine(name), memory=512 * MIB, direct=kernel, **more)  # type: ignore[arg-type]


def test_a_disk_under_uefi() -> None:
    found = line(disk("q35"))
    assert found[0] == "/bin/qemu"
    assert values(found, "-machine") == ["q35,graphics=off"]
    assert values(found, "-accel") == ["tcg,thread=multi"]
    assert values(found, "-m") == ["512M"]
    assert values(found, "-drive") == [
        "if=pflash,unit=0,format=raw,readonly=on,file=/f/code",
        "if=pflash,unit=1,format=raw,file=/f/vars",
        "if=none,id=root,format=qcow2,snapshot=on,cache=unsafe,file=/d.qcow2",
    ]
    assert "virtio-blk-pci,drive=root,bootindex=0" in values(found, "-device")
    assert not {"-kernel", "-append", "-smbios"} & set(found)


def test_the_artifact_is_changed_only_where_asked() -> None:
    assert "snapshot=on" in " ".join(line(disk("q35-bios")))
    assert "snapshot=on" not in " ".join(line(disk("q35-bios", snapshot=False)))
    media = [v for v in values(line(disk("q35-bios", disks=(Disk(Path("/e"), "raw"),))), "-drive") if "file=/e" in v]
    assert media == ["if=none,id=disk1,format=raw,snapshot=on,cache=unsafe,file=/e"]


def test_kvm_takes_the_hosts_processor() -> None:
    assert values(line(disk("q35"), "kvm"), "-cpu") == ["host"]
    assert values(line(disk("q35"), "kvm"), "-accel") == ["kvm"]
    assert values(line(disk("q35")), "-cpu") == ["max"]


def test_ports_lead_from_the_loopback_alone() -> None:
    found = line(disk("q35", forwards=(Forward(2222, 22), Forward(8080, 80))))
    assert values(found, "-netdev") == [
        "user,id=net,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:8080-:80",
    ]


def test_a_kernel_that_qemu_loads_needs_no_firmware() -> None:
    found = line(direct("q35"))
    assert values(found, "-kernel") == ["/k"]
    assert values(found, "-initrd") == ["/i"]
    assert values(found, "-append") == ["console=ttyS0 quiet"]
    assert not values(found, "-drive")


def test_microvm_is_told_the_rate_of_its_clock_without_kvm() -> None:
    assert values(line(direct("microvm"), tsc=2_600_000), "-append") == ["console=ttyS0 quiet tsc_early_khz=2600000"]
    assert values(line(direct("microvm"), "kvm", tsc=2_600_000), "-append") == ["console=ttyS0 quiet"]
    assert values(line(direct("microvm")), "-append") == ["console=ttyS0 quiet"]


def test_the_check_goes_by_the_firmware_where_there_is_one() -> None:
    script = check.script("n", "ttyS1", 0, ())
    for guest in (disk("q35", check=script), disk("nvme", check=script), direct("q35", check=script)):
        [given] = values(line(guest), "-smbios")
        head, text = given.split("mkroot.check=")
        assert head == "type=11,value=io.systemd.credential.binary:"
        assert base64.b64decode(text).decode() == script
        assert "mkroot.check" not in " ".join(values(line(guest), "-append"))
    for name in ("microvm", "aarch64-virt"):
        guest = direct(name, check=script)
        assert not values(line(guest), "-smbios")
        [words] = values(line(guest), "-append")
        assert gzip.decompress(base64.b64decode(words.split("mkroot.check=")[1])).decode() == script


def test_commas_in_a_path_are_no_options() -> None:
    guest = Guest(machine=machine("q35-bios"), memory=512 * MIB, disk=Disk(Path("/a,format=raw"), "qcow2"))
    assert values(line(guest), "-drive") == [
        "if=none,id=root,format=qcow2,snapshot=on,cache=unsafe,file=/a,,format=raw",
    ]


def test_the_console_is_a_file_or_the_terminal_as_well() -> None:
    assert values(line(disk("q35")), "-chardev") == [
        "file,id=console,path=/r/console",
        "file,id=verdict,path=/r/verdict",
        "socket,id=qmp,fd=7",
    ]
    found = line(disk("q35"), terminal=True)
    assert values(found, "-chardev")[0] == "stdio,id=console,mux=on,signal=off,logfile=/r/console"
    assert "chardev=console,mode=readline" in values(found, "-mon")


def test_cd_and_stick() -> None:
    cd = line(Guest(machine=machine("q35"), memory=512 * MIB, cdrom=Path("/x.iso")))
    assert "if=none,id=cd,format=raw,media=cdrom,readonly=on,file=/x.iso" in values(cd, "-drive")
    assert "ide-cd,drive=cd,bootindex=0" in values(cd, "-device")
    usb = line(Guest(machine=machine("q35-bios"), memory=512 * MIB, usb=Disk(Path("/x.iso"), "raw")))
    devices = values(usb, "-device")
    assert devices.index("qemu-xhci,id=usb") < devices.index("usb-storage,bus=usb.0,drive=usb,bootindex=0")


def test_a_command_line_that_is_too_long() -> None:
    guest = direct("microvm", check="\n".join(f"check 0 {i * 7919**9}" for i in range(200)))
    with pytest.raises(VmError, match=f"and {CMDLINE_LIMIT} are read") as caught:
        line(guest)
    assert caught.value.hint is not None and "machine with firmware" in caught.value.hint
    line(direct("q35", check=guest.check))


# ---- what cannot start


def test_too_little_memory(tmp_path: Path) -> None:
    guest = Guest(machine=machine("q35"), memory=64 * MIB, disk=Disk(tmp_path / "d", "raw"))
    with pytest.raises(VmError, match="64 MiB of memory are too few to start this: 96 MiB") as caught:
        check_guest(guest)
    assert caught.value.hint is not None and "--memory" in caught.value.hint
    kernel = tmp_path / "k"
    with open(kernel, "wb") as f:
        f.truncate(100 * MIB)
    with pytest.raises(VmError, match="200 MiB"):
        check_guest(Guest(machine=machine("microvm"), memory=128 * MIB, direct=Direct(kernel=kernel)))


def test_nothing_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="nothing to start from"):
        check_guest(Guest(machine=machine("q35"), memory=512 * MIB))
    with pytest.raises(VmError, match="no firmware that could start a disk"):
        check_guest(Guest(machine=machine("microvm"), memory=512 * MIB, disk=Disk(tmp_path / "d", "raw")))
    with pytest.raises(VmError, match="no such kernel"):
        check_guest(Guest(machine=machine("q35"), memory=512 * MIB, direct=Direct(kernel=tmp_path / "k")))
    with pytest.raises(VmError, match="has no CD drive"):
        kernel = tmp_path / "kernel"
        kernel.write_bytes(b"k")
        guest = Guest(machine=machine("microvm"), memory=512 * MIB, cdrom=kernel, direct=Direct(kernel=kernel))
        check_guest(guest)


def test_images_are_known_by_what_they_hold(tmp_path: Path) -> None:
    for name, data, kind in (
        ("a", b"QFI\xfb" + bytes(100), "qcow2"),
        ("b.qcow2", bytes(1000), "raw"),
        ("c", bytes(32768) + b"\x01CD001", "iso"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        assert kind_of(path) == kind
        assert disk_of(path).format == ("qcow2" if kind == "qcow2" else "raw")
    (tmp_path / "empty").touch()
    for name, words in (("empty", "an empty file"), ("none", "No such file"), (".", "Is a directory")):
        with pytest.raises(VmError, match=words):
            kind_of(tmp_path / name)
