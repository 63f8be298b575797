"""Running a guest: KVM tried and left, QEMU that dies or hangs, and that nothing stays behind. QEMU is a fake here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from mkroot.boot.machine import machine
from mkroot.errors import VmError
from mkroot.recipe.booting import Check, Test
from mkroot.vm import host
from mkroot.vm.guest import Direct, Disk, Forward, Guest
from mkroot.vm.judge import Verdict
from mkroot.vm.run import Run
from mkroot.vm.run import test as tested
from tests.unit.fakeqemu import fake, running

ROOT = Path(__file__).parents[2]
KVM = pytest.mark.skipif(host.ARCHITECTURES.get(os.uname().machine) != "amd64", reason="needs an x86-64 host")
PASSES = 'say("Linux version 6.1\\n"); told(0); time.sleep(60)'


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "kernel").write_bytes(b"kernel")
    direct = Direct(kernel=tmp_path / "kernel", cmdline="console=ttyS0")
    return Guest(machine=machine("microvm"), memory=64 << 20, direct=direct)


class Host:
    """A host with a fake QEMU alone. notes: what the user was told."""

    def __init__(self, folder: Path, body: str) -> None:
        self.folder = fake(folder / "bin", body)
        self.environ = {"MKROOT_STORE": str(folder / "store")}
        self.notes: list[str] = []
        self.kvm = folder / "kvm"
        self.console = folder / "console.log"

    def __call__(
        self, guest: Guest, wanted: Test, accel: str = "tcg", timeout: float = 20, stall: float = 5
    ) -> Verdict:
        before, os.environ["PATH"] = os.environ["PATH"], str(self.folder)
        how = Run(
            accel=accel,  # type: ignore[arg-type]
            environ=self.environ,
            tell=self.notes.append,
            kvm=str(self.kvm),
            stall=stall,
        )
        try:
            return tested(guest, wanted, how, self.console, timeout)
        finally:
            os.environ["PATH"] = before
            assert not running(self.folder), "QEMU was left running"


ONE = Test(run=(Check(cmd="true"),))


def test_passed_and_the_console_kept(tmp_path: Path, guest: Guest) -> None:
    there = Host(tmp_path, PASSES)
    got = there(guest, ONE)
    assert (got.kind, got.accelerator) == ("passed", "tcg")
    assert got.seconds < 15
    assert there.console.read_text() == "Linux version 6.1\n"


def test_the_check_comes_by_the_firmware_as_well(tmp_path: Path, guest: Guest) -> None:
    (tmp_path / "disk").write_bytes(b"disk")
    disk = Guest(machine=machine("q35-bios"), memory=64 << 20, disk=Disk(tmp_path / "disk", "raw"))
    assert Host(tmp_path, PASSES)(disk, ONE).kind == "passed"


def test_qemu_that_dies_is_told_in_its_own_words(tmp_path: Path, guest: Guest) -> None:
    there = Host(tmp_path, 'sys.exit("qemu: could not load kernel")')
    got = there(guest, ONE)
    assert (got.kind, got.text) == ("died", "QEMU ended with status 1: qemu: could not load kernel")
    (tmp_path / "killed").mkdir()
    killed = Host(tmp_path / "killed", "os.kill(os.getpid(), 9)")
    assert killed(guest, ONE).text == "QEMU ended by signal 9: it said nothing"


def test_what_was_written_last_still_counts(tmp_path: Path, guest: Guest) -> None:
    assert Host(tmp_path, 'say("Linux version 6.1\\n"); told(0)')(guest, ONE).kind == "passed"


def test_timeout_ends_qemu(tmp_path: Path, guest: Guest) -> None:
    body = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); say("Linux version 6.1\\n"); time.sleep(60)'
    got = Host(tmp_path, body)(guest, ONE, timeout=0.6)
    assert got.kind == "timeout"
    assert "the guest's check did not begin" in got.text


def test_no_file_of_a_run_is_left(tmp_path: Path, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    Host(tmp_path, PASSES)(guest, ONE)
    assert not list((tmp_path / "tmp").iterdir())


# ---- KVM


@KVM
def test_kvm_that_dies_at_once_is_left_and_remembered(tmp_path: Path, guest: Guest) -> None:
    there = Host(tmp_path, 'kvm and sys.exit("qemu: failed to set MSR 0x10a: kvm")\n' + PASSES)
    there.kvm.touch()
    got = there(guest, ONE, "auto")
    assert (got.kind, got.accelerator) == ("passed", "tcg")
    [note] = there.notes
    assert "no progress in KVM (qemu: failed to set MSR 0x10a: kvm)" in note
    again = there(guest, ONE, "auto")
    assert (again.accelerator, len(there.notes)) == ("tcg", 1)
    kept = tmp_path / "store" / "kvm.json"
    value = json.loads(kept.read_text())
    kept.write_text(json.dumps(value | {"boot": "of yesterday"}))
    there(guest, ONE, "auto")
    assert len(there.notes) == 2, "after the host's next start it is tried again"


@KVM
def test_kvm_in_which_the_firmware_speaks_and_the_kernel_hangs_is_left(tmp_path: Path, guest: Guest) -> None:
    there = Host(tmp_path, 'if kvm:\n    say("SeaBIOS (version 1)\\n")\n    time.sleep(60)\n' + PASSES)
    there.kvm.touch()
    got = there(guest, ONE, "auto", stall=0.7)
    assert (got.kind, got.accelerator) == ("passed", "tcg")
    assert "its kernel is silent" in there.notes[0]


@KVM
def test_kvm_that_works_is_kept(tmp_path: Path, guest: Guest) -> None:
    body = 'say("Linux version 6.1\\n"); time.sleep(1.5); told(0); time.sleep(60)'
    there = Host(tmp_path, body)
    there.kvm.touch()
    got = there(guest, ONE, "auto", stall=0.7)
    assert (got.kind, got.accelerator, there.notes) == ("passed", "kvm", [])
    assert not (tmp_path / "store" / "kvm.json").exists()


@KVM
def test_a_fault_that_is_not_kvms_is_not_blamed_on_it(tmp_path: Path, guest: Guest) -> None:
    there = Host(tmp_path, 'sys.exit("qemu: could not load kernel")')
    there.kvm.touch()
    got = there(guest, ONE, "auto")
    assert (got.kind, got.accelerator, there.notes) == ("died", "kvm", [])


def test_kvm_that_is_wanted_and_not_there(tmp_path: Path, guest: Guest) -> None:
    there = Host(tmp_path, PASSES)
    assert there(guest, ONE, "auto").accelerator == "tcg"
    assert not there.notes
    with pytest.raises(VmError, match="KVM cannot be used"):
        there(guest, ONE, "kvm")
    arm = msgspec.structs.replace(guest.machine, architecture="arm64")
    assert "arm64" in host.why_no_kvm(arm) or host.ARCHITECTURES.get(os.uname().machine) == "arm64"


# ---- what is not there


def test_a_missing_emulator_names_its_package(tmp_path: Path) -> None:
    for name, package in (("q35", "qemu-system-x86"), ("aarch64-virt", "qemu-system-arm")):
        with pytest.raises(VmError, match=f"qemu-system-.* is not installed.*`{name}`") as caught:
            host.find_emulator(machine(name), path=str(tmp_path))
        assert caught.value.hint == f"install the Debian package {package}: `apt-get install {package}`"


def test_missing_firmware_names_its_package(tmp_path: Path) -> None:
    files = tuple(
        msgspec.structs.replace(f, code=str(tmp_path / "code"), vars=str(tmp_path / "vars"))
        for f in machine("q35").firmware_files
    )
    lacking = msgspec.structs.replace(machine("q35"), firmware_files=files)
    with pytest.raises(VmError, match="the firmware of the machine `q35` is not installed") as caught:
        host.find_firmware(lacking)
    assert caught.value.hint == "install the Debian package ovmf: `apt-get install ovmf`"
    (tmp_path / "code").touch()
    (tmp_path / "vars").touch()
    assert host.find_firmware(lacking) == files[0]
    assert host.find_firmware(machine("q35-bios")) is None


def test_a_port_in_use(tmp_path: Path, guest: Guest) -> None:
    there = Host(tmp_path, PASSES)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(VmError, match=f"port {port} of this host cannot be used: Address already in use"):
            there(msgspec.structs.replace(guest, forwards=(Forward(port, 22),)), ONE)
    there(msgspec.structs.replace(guest, forwards=(Forward(port, 22),)), ONE)
    with pytest.raises(VmError, match="two ports of the guest"):
        there(msgspec.structs.replace(guest, forwards=(Forward(port, 22), Forward(port, 80))), ONE)


def test_too_much_to_check(tmp_path: Path, guest: Guest) -> None:
    many = Test(run=tuple(Check(cmd=f"echo {'x' * 900}") for _ in range(50)))
    with pytest.raises(VmError, match="are the most"):
        Host(tmp_path, PASSES)(guest, many)


def test_the_clocks_rate_is_that_of_this_processor() -> None:
    rate = host.tsc_rate()
    if rate == 0:
        pytest.skip("this host does not let it be read")
    assert 200_000 < rate < 10_000_000
    assert abs(host.tsc_rate() - rate) < rate / 100


# ---- ended from outside

CODE = """
import os, sys
from pathlib import Path
from mkroot.boot.machine import machine
from mkroot.cli import main
from mkroot.recipe.booting import Test
from mkroot.vm.guest import Direct, Guest
from mkroot.vm.run import Run, test
main._listen()
guest = Guest(machine=machine("microvm"), memory=64 << 20, direct=Direct(kernel=Path(sys.argv[1])))
try:
    test(guest, Test(), Run(accel="tcg", environ=os.environ, tell=print))
except BaseException as e:
    main._exit(7 if isinstance(e, (KeyboardInterrupt, main.Terminated)) else 8)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_on_after_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "kernel").write_bytes(b"kernel")
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say('Linux version 6.1\\n'); time.sleep(60)"
    folder = fake(tmp_path / "bin", body)
    (tmp_path / "tmp").mkdir()
    environ = os.environ | {"PATH": str(folder), "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path / "kernel")], env=environ) as process:
        await_that(lambda: bool(running(folder)) and any((tmp_path / "tmp").glob("*/console")))
        process.send_signal(number)
        status = process.wait(10)
    assert status == (-number if number == signal.SIGKILL else 7)
    await_that(lambda: not running(folder))
    if number != signal.SIGKILL:
        assert not list((tmp_path / "tmp").iterdir())


def await_that(holds: object) -> None:
    end = time.monotonic() + 15
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)
