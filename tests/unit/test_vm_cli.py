"""`mkroot boot` and `mkroot test` as a user runs them, with a fake QEMU: what they print, where, and the status."""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.unit.commands import PROGRAM, Program
from tests.unit.fakeqemu import fake, running

RECIPE = """\
version: 1
name: box
distro: debian
suite: trixie
packages: {variant: none, include: [busybox-static]}
boot: {kernel: linux-image-cloud-amd64, loader: direct}
test: {memory: 64M, timeout: 20, expect: ["login:"], run: [{cmd: "true"}]}
outputs: [bootfs, disk.raw]
"""
TALKS = 'say("[    0.000000] Linux version 6.1\\n[    2.0] mkroot-init: modules loaded\\nbox login: ")\n'
PASSES = TALKS + "told(0); time.sleep(60)"


class Host(Program):
    """The program in a folder with a recipe, its outputs and a fake QEMU."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "r.yaml").write_text(RECIPE)
        out = folder / "out" / "box" / "amd64"
        (out / "bootfs").mkdir(parents=True)
        (out / "bootfs" / "vmlinuz").write_bytes(b"kernel")
        (out / "bootfs" / "cmdline").write_text("console=ttyS0 root=PARTUUID=x\n")
        (out / "disk.raw").write_bytes(b"disk")
        self.count = 0
        self.programs: list[Path] = []

    def qemu(self, body: str) -> None:
        """Have QEMU do something else from now on."""
        self.count += 1
        self.programs.append(fake(self.folder / f"bin{self.count}", body))
        self.environ["PATH"] = f"{self.programs[-1]}:{os.environ['PATH']}"

    def left(self) -> list[int]:
        """Return the processes of QEMU that still run."""
        return [p for folder in self.programs for p in running(folder)]


@pytest.fixture
def there(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_stages_and_verdict_are_printed(there: Host) -> None:
    there.qemu(PASSES)
    done = there("test", "r.yaml", "--accel", "tcg", "--junit", "j.xml")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[-1].startswith("box amd64 on microvm bootfs (tcg), ")
    assert lines[-1].endswith(": passed")
    assert [line.split()[2] for line in lines if " s  " in line][:2] == ["kernel", "initramfs"]
    assert "  boot file system: not mounted" in lines
    [suite] = ElementTree.parse(there.folder / "j.xml").getroot()
    assert (suite.get("name"), suite.get("failures")) == ("box amd64 microvm bootfs", "0")
    assert (there.folder / "out/box/console-amd64.log").read_text().endswith("box login: ")


def test_a_failure_shows_the_consoles_end(there: Host) -> None:
    there.qemu(TALKS + "told(4); time.sleep(60)")
    done = there("test", "r.yaml", "--accel", "tcg", "--console", "c.log")
    assert done.status == 1
    assert "failed: `true` ended with status 4, 0 was wanted\n  x\n" in done.out
    assert done.err.startswith("the console's last lines (c.log):\n[    0.000000] Linux version 6.1\n")
    assert done.err.endswith("box login: \n")


def test_json_is_data_alone(there: Host) -> None:
    there.qemu(PASSES)
    done = there("test", "r.yaml", "--accel", "tcg", "--json", "--machine", "q35")
    [got] = done.json
    assert (done.status, done.err, got["verdict"], got["passed"]) == (0, "", "passed", True)
    assert (got["name"], got["architecture"], got["machine"], got["medium"]) == ("box", "amd64", "q35", "bootfs")
    assert got["accelerator"] == "tcg"
    assert got["commands"] == [{"command": "true", "wanted": 0, "status": 0, "seconds": 1.0, "output": "x"}]
    assert got["stages"][0]["name"] == "kernel"


def test_a_hidden_escape_does_not_reach_the_terminal(there: Host) -> None:
    there.qemu('say("Linux version 6.1\\n\\x1b]0;evil\\x07\\x1b[2Jgone\\x9b2J\\n"); time.sleep(60)')
    done = there("test", "r.yaml", "--accel", "tcg", "--timeout", "1")
    assert done.status == 1
    assert "timeout: no verdict within 1 s" in done.out
    assert "\x1b" not in done.out + done.err and "\x9b" not in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("test", "r.yaml", "-o", "nowhere"), 1, "run `mkroot build r.yaml -o nowhere` first"),
        (("test", "r.yaml", "--machine", "q53"), 1, "did you mean `q35`?"),
        (("test", "r.yaml", "--machine", "aarch64-virt"), 1, "is arm64, the system is amd64"),
        (("test", "r.yaml", "--medium", "disk"), 2, "no such medium"),
        (("test", "r.yaml", "--medium", "iso"), 1, "no iso of this recipe"),
        (("test", "r.yaml", "--memory", "much"), 2, "`--memory much`: expected a size"),
        (("test", "r.yaml", "--memory", "8M"), 1, "8 MiB of memory are too few"),
        (("test", "r.yaml", "--cpus", "0"), 2, "`--cpus 0`: expected a number from 1 to 64"),
        (("test", "r.yaml", "--timeout", "-3"), 2, "--timeout"),
        (("test", "r.yaml", "--accel", "xen"), 2, "--accel"),
        (("test", "nowhere.yaml"), 1, "nowhere.yaml"),
        (("boot", "r.yaml", "--port", "22"), 2, "expected two ports such as `2222:22`"),
        (("boot", "r.yaml", "--port", "70000:22"), 2, "expected two ports"),
        (("boot", "r.yaml", "--disk", "none"), 1, "none: the disk cannot be read: No such file"),
        (("boot", "none.qcow2"), 1, "none.qcow2: the disk cannot be read: No such file"),
        (("boot",), 2, "missing: RECIPE|DISK|ISO"),
        (("boot", "r.yaml", "--initrd", "x"), 2, "`--initrd` goes with `--kernel`"),
        (("boot", "--kernel", "none", "--machine", "microvm"), 1, "none: there is no such kernel"),
        (("boot", "disk", "--append", "x"), 2, "here a boot loader does"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(there: Host, arguments: tuple[str, ...], status: int, words: str) -> None:
    there.qemu("sys.exit(9)")
    (there.folder / "disk").write_bytes(b"disk")
    done = there(*arguments)
    assert (done.status, done.out) == (status, ""), done.err
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_recipe_that_does_not_boot(there: Host) -> None:
    (there.folder / "c.yaml").write_text(
        "\n".join(r for r in RECIPE.splitlines() if r[:4] not in ("boot", "test", "outp"))
    )
    done = there("test", "c.yaml")
    assert done.status == 1
    assert "c.yaml: the recipe says nothing of how it boots" in done.err


def test_boot_that_dies_says_qemus_words(there: Host) -> None:
    there.qemu('sys.exit("qemu: no")')
    done = there("boot", "r.yaml", "--accel", "tcg")
    assert done.status == 1
    assert "error: QEMU ended with status 1: qemu: no" in done.err


def test_boot_hands_the_options_on(there: Host) -> None:
    there.qemu('open("line", "w").write("\\n".join(line))')
    (there.folder / "more").write_bytes(b"QFI\xfb")
    arguments = ("--accel", "tcg", "--memory", "96M", "--cpus", "2", "--disk", "more", "--append", "quiet")
    done = there("boot", "r.yaml", "--no-snapshot", *arguments)
    assert (done.status, done.err) == (0, "microvm, 96.0 MiB, 2 processors; Ctrl-A X leaves\n")
    line = (there.folder / "line").read_text()
    assert "console=ttyS0 root=PARTUUID=x quiet" in line
    assert "\n96M\n" in line and "\n-smp\n2\n" in line
    assert "format=qcow2" in line and "snapshot=on" not in line


def test_an_image_says_itself_what_it_is(there: Host) -> None:
    there.qemu('open("line", "w").write("\\n".join(line))')
    (there.folder / "x.img").write_bytes(bytes(32768) + b"\x01CD001" + bytes(100))
    for arguments, words in (((), "media=cdrom"), (("--medium", "usb"), "usb-storage")):
        assert there("boot", "x.img", "--machine", "q35-bios", "--accel", "tcg", *arguments).status == 0
        assert words in (there.folder / "line").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_given_back(there: Host, number: signal.Signals) -> None:
    """QEMU makes the terminal raw; whoever ends mkroot finds it as it was."""
    import termios

    there.qemu("import tty\ntty.setraw(0)\nopen('raw', 'w').close()\ntime.sleep(60)")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(there.folder)
        os.execve(PROGRAM[0], [*PROGRAM, "boot", "r.yaml", "--accel", "tcg"], there.environ)
    try:
        before = termios.tcgetattr(terminal)
        await_that((there.folder / "raw").exists)
        assert termios.tcgetattr(terminal) != before
        os.kill(pid, number)
        await_that(lambda: termios.tcgetattr(terminal) == before)
        await_that(lambda: not there.left())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + number
        pid = 0
    finally:
        os.close(terminal)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def await_that(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)
