"""The self-check: the script that the guest runs, and the line that it answers with."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mkroot.recipe.booting import Check
from mkroot.rootfs.machine import data_folder
from mkroot.vm import check

SHELLS = pytest.mark.parametrize("shell", ["sh", "busybox sh"])
RUN = (
    Check(cmd='echo "it\'s"; echo two >&2; exit 3', exit=3),
    Check(cmd="printf 'a\\001\\377\"\\\\b'; false"),
    Check(cmd="cat"),  # ends, for its input is empty
)


def harmless(text: str, folder: Path) -> str:
    """Return a script that leaves this machine running and writes into a folder alone."""
    text, count = re.subn(r"^off\(\) \{\n.*?^\}\n", "", text, flags=re.MULTILINE | re.DOTALL)
    assert count == 1
    assert text.endswith("\ntell\noff\n")
    text = text.removesuffix("off\n").replace("d=/run/mkroot", f"d={folder}").replace("/run/systemd/system", "/none")
    assert "poweroff" not in text and "/run" not in text.replace(str(folder), "")
    return text


def answer(shell: str, folder: Path, run: tuple[Check, ...]) -> list[str]:
    port = folder / "port"
    port.touch()
    text = harmless(check.script("n0", f"..{port}", 0, run), folder)
    done = subprocess.run(shell.split(), input=text, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    return port.read_text().splitlines()


@SHELLS
def test_the_script_runs_the_commands_and_tells(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "boot.env").write_text("INITRAMFS_KIB=3000\nROOT=/dev/vda\nUPTIME_INIT=0.50\n")
    first, last = answer(shell, tmp_path, RUN)
    assert check.begins(first, "n0")
    assert not check.begins(first, "n1")
    told = check.verdict(last, "n0", RUN)
    assert told is not None
    assert [(c.status, c.good) for c in told.commands] == [(3, True), (1, False), (0, True)]
    assert told.commands[0].output == "it's\ntwo\n"
    assert told.commands[1].output == 'a\x01�"\\b'
    assert told.boot == {"INITRAMFS_KIB": "3000", "ROOT": "/dev/vda", "UPTIME_INIT": "0.50"}
    assert told.memory > 0 and told.available > 0
    assert (told.state, told.failed, told.analyze) == ("", (), "")
    assert 0 < told.ready <= told.uptime


@SHELLS
def test_a_long_output_is_cut_at_its_beginning(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"{shell} is not installed")
    run = (Check(cmd="i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i + 1)); done"),)
    told = check.verdict(answer(shell, tmp_path, run)[1], "n0", run)
    assert told is not None
    assert told.commands[0].output.endswith("line 1999\n")
    assert len(told.commands[0].output) == 3000


def test_a_command_that_leaves_a_daemon_does_not_hold_the_verdict_up(tmp_path: Path) -> None:
    run = (Check(cmd="sleep 30 & true"),)
    assert len(answer("sh", tmp_path, run)) == 2


def line(nonce: str = "n0", **more: str) -> str:
    fields = {
        "state": '"running"', "ready": "2.50", "uptime": "3.00", "memory": '""', "boot": '""',
        "mounts": '""', "analyze": '""', "failed": '""', "commands": "[]",
    } | more  # fmt: skip
    return f"mkroot-verdict {nonce} {{" + ",".join(f'"{k}":{v}' for k, v in fields.items()) + "}"


def test_only_a_whole_line_of_this_run_is_a_verdict() -> None:
    assert check.verdict(line(), "n0", ()) is not None
    for wrong in (
        line("n1"),
        "x" + line(),
        line()[:-1],
        line(commands="[{}]"),
        line(commands='[{"status":0,"from":0,"to":1,"out":""}]'),  # more than was asked
        line(uptime='"x"'),
        line(memory="7"),
        line(boot='"%%%"'),
        "mkroot-verdict n0 []",
        "mkroot-verdict n0 7",
        "",
    ):
        assert check.verdict(wrong, "n0", ()) is None, wrong


def test_mounts_are_those_of_a_boot_file_system() -> None:
    import base64

    rows = "systemd-1 /boot autofs rw 0 0\n/dev/vda1 /boot/efi vfat rw 0 0\n"
    told = check.verdict(line(mounts='"' + base64.b64encode(rows.encode()).decode() + '"'), "n0", ())
    assert told is not None
    assert told.mounted == ("/boot/efi",)


def test_the_script_fits_a_kernels_command_line() -> None:
    """microvm has no other way in, and 2,047 bytes for everything."""
    run = tuple(Check(cmd=f"systemctl is-active service-number-{i}.service") for i in range(8))
    assert len(check.packed(check.script("0123456789abcdef", "ttyS1", 20, run))) < 1500


def test_the_unit_asks_for_the_credential_by_its_name() -> None:
    unit = (data_folder() / "check" / "mkroot-check.service").read_text()
    assert "ConditionCredential=|mkroot.check" in unit
    assert f"ConditionKernelCommandLine=|{check.WORD.rstrip('=')}" in unit
    assert "LoadCredential=mkroot.check" in unit
    assert check.SMBIOS == "io.systemd.credential.binary:mkroot.check="


@pytest.mark.parametrize("name", ["sh", "busybox sh"])
def test_init_is_a_script_that_shells_read(name: str) -> None:
    if shutil.which(name.split()[0]) is None:
        pytest.skip(f"{name} is not installed")
    subprocess.run([*name.split(), "-n", str(data_folder() / "check" / "init")], check=True)
