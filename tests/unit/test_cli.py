"""The command line as such: statuses, streams, messages, signals, start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mkroot
from mkroot.cli import main as program_main
from mkroot.cli.main import COMMANDS
from tests.unit.commands import PROGRAM, Program

# Of the contract in the design; a new one is added here when it is.
LISTED = [
    "build", "lock", "check", "plan", "size", "sbom", "why", "why-not", "explain", "diff", "images", "history",
    "inspect", "cache", "doctor", "schema", "verify", "bundle", "rebase", "boot", "test", "run", "ps", "rm",
    "commit", "import", "export", "save", "load", "tag", "push", "pull", "rmi", "login", "logout",
]  # fmt: skip


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_bare_prints_the_usage_on_standard_error(program: Program) -> None:
    done = program()
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("usage: mkroot ")


def test_version(program: Program) -> None:
    for word in ("--version", "-V"):
        done = program(word)
        assert (done.status, done.out, done.err) == (0, f"mkroot {mkroot.__version__}\n", "")


def test_help_lists_every_command(program: Program) -> None:
    done = program("--help")
    assert done.status == 0
    assert done.err == ""
    for name in LISTED:
        assert name in done.out.split()
    assert set(LISTED) <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program_main.main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: mkroot {name} ")
    assert err == ""


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["biuld", "x"], "unknown command `biuld`\nhint: did you mean `build`?"),
        (["--verison"], "unknown option `--verison`\nhint: did you mean `--version`?"),
        (["build"], "missing: RECIPE"),
        (["build", "r.yaml", "--ouptut", "tar"], "unknown option `--ouptut`\nhint: did you mean `--output`?"),
        (["build", "r.yaml", "--output", "tar.bz2"], "`--output tar.bz2`: no such kind"),
        (["build", "r.yaml", "--locked", "--no-lock"], "not allowed with"),
        (["build", "r.yaml", "-D", "release"], "`-D release` is not NAME=VALUE"),
        (["build", "r.yaml", "--mirror", "ftp://mirror.example/debian"], "`--mirror`: expected an address"),
        (["plan", "a.yaml", "b.yaml"], "unexpected argument `b.yaml`"),
        (["plan", "r.yaml", "--loc"], "unknown option `--loc`"),
        (["cache"], "missing: list|size|prune|verify"),
        (["cache", "purge"], "invalid choice: 'purge'"),
        (["cache", "prune", "--days", "-1"], "not a number of days"),
        (["", "x"], "unknown command ``"),
        (["a\x1b[31mb"], "unknown command `a\\x1b[31mb`"),
    ],
)
def test_a_wrong_command_line_ends_with_2(program: Program, arguments: list[str], says: str) -> None:
    done = program(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_missing_recipe_is_told_with_its_name(program: Program) -> None:
    for command in ("build", "plan", "lock", "size"):
        done = program(command, "nowhere.yaml")
        assert (done.status, done.out) == (1, "")
        assert "nowhere.yaml" in done.err
        assert "Traceback" not in done.err
    assert not (program.folder / "out").exists()


def test_a_store_that_is_a_file_is_told(program: Program) -> None:
    (program.folder / "store").write_text("")
    done = program("cache", "size")
    assert done.status == 1
    assert str(program.folder / "store") in done.err
    assert "hint: " in done.err


def test_an_unexpected_error_is_told_without_a_traceback(program: Program, tmp_path: Path) -> None:
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "sitecustomize.py").write_text(
        "import mkroot.cli.schema as s\ndef run(args): raise ValueError('one\\x1b two')\ns.run = run\n"
        "def add(p): p.add_parser('schema').set_defaults(run=run)\ns.add = add\n"
    )
    path = f"{tmp_path}/faulty:{program.environ['PYTHONPATH']}"
    done = program("schema", PYTHONPATH=path)
    assert done.status == 1
    assert done.err.startswith("error: internal error: ValueError: one\\x1b two\nhint: please report it")
    assert "Traceback" not in done.err
    assert "Traceback" in program("schema", PYTHONPATH=path, MKROOT_DEBUG="1").err


def test_a_full_disk_under_standard_output_is_told(program: Program) -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [*PROGRAM, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, env=program.environ, check=False
        )
    assert run.returncode == 1
    assert run.stderr.startswith("error: the disk is full")


def test_a_reader_that_has_enough_is_no_error(program: Program) -> None:
    line = (
        f"{sys.executable} -c 'from mkroot.cli.main import entry; entry()' schema | head -c 1; echo ,${{PIPESTATUS[0]}}"
    )
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=program.environ, check=True)
    assert run.stderr == ""
    assert run.stdout in ("{,0\n", "{,141\n")


def test_closed_streams_do_no_harm(program: Program) -> None:
    line = f"{sys.executable} -c 'from mkroot.cli.main import entry; entry()' schema >&- 2>&-"
    assert subprocess.run(["bash", "-c", line], env=program.environ, check=False).returncode == 0


def test_no_colour_but_on_a_terminal(program: Program) -> None:
    import pty

    def told(**environ: str) -> str:
        leader, follower = pty.openpty()
        subprocess.run([*PROGRAM, "nothing"], stderr=follower, env=program.environ | environ, check=False)
        os.close(follower)
        text = os.read(leader, 1000).decode()
        os.close(leader)
        return text

    assert "\x1b[" in told(TERM="xterm")
    assert "\x1b[" not in told(TERM="xterm", NO_COLOR="1")
    assert "\x1b[" not in told(TERM="dumb")


STEPS = """
import time
from mkroot.cli.terminal import make_progress
progress = make_progress()
with progress.step("fetch", 3000, "B") as step:
    for _ in range(4):
        time.sleep(0.15)
        step.advance(1000, "hello")
    step.result = "1 package"
with progress.step("quick", 1, "package") as step:
    step.advance(1, "hello")
    step.cached = True
progress.warn("beware")
"""


def test_bars_on_a_terminal_and_lines_elsewhere(program: Program) -> None:
    import pty

    run = [sys.executable, "-c", STEPS]
    plain = subprocess.run(run, capture_output=True, text=True, env=program.environ, check=True).stderr
    assert [line.split(maxsplit=2)[2] for line in plain.splitlines()[:2]] == [
        "fetch                 1 package",
        "quick                 cached",
    ]
    assert plain.splitlines()[2:] == ["warning: beware"]
    leader, follower = pty.openpty()
    subprocess.run(run, stderr=follower, env=program.environ | {"TERM": "xterm"}, check=True)
    os.close(follower)
    shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "━" in shown
    assert "hello" in shown
    assert "4.0/3.0" not in shown
    assert "quick                 cached" in shown


SLEEPER = """
import mkroot.cli.schema as command, sys, time
def run(args):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        {cleanup}
def add(parsers):
    parsers.add_parser("schema").set_defaults(run=run)
command.add = add
sys.argv = ["mkroot", "schema"]
from mkroot.cli.main import entry
entry()
"""


def interrupted(program: Program, number: int, cleanup: str) -> tuple[int, str, str, float]:
    """Send a signal to a command that sleeps; return its status, streams and the seconds it took to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER.format(cleanup=cleanup)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=program.environ,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    start = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    return process.returncode, out, err, time.monotonic() - start


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_at_once_without_a_traceback(program: Program, number: int, status: int) -> None:
    *told, seconds = interrupted(program, number, "print('cleaned')")
    assert told == [status, "cleaned\n", ""]
    assert seconds < 1


def test_what_hangs_in_its_clean_up_is_ended_all_the_same(program: Program) -> None:
    *told, seconds = interrupted(program, signal.SIGINT, "time.sleep(60)")
    assert told == [130, "", ""]
    assert seconds < 2.3


def test_the_start_imports_next_to_nothing(program: Program) -> None:
    code = "import sys\nbefore = set(sys.modules)\nimport mkroot.cli.main\nprint(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=program.environ, check=True)
    assert set(run.stdout.split()) <= {"mkroot", "mkroot.cli", "mkroot.cli.main", "__future__"}
    heavy = {"yaml", "requests", "rich", "pysequoia", "zstandard", "msgspec", "asyncio"}
    for name in ("build", "plan", "images", "cache", "doctor"):
        code = f"import sys\nimport mkroot.cli.{COMMANDS[name][0]}\nprint(*sys.modules)"
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=program.environ, check=True
        )
        assert not heavy & set(run.stdout.split()), name


def test_the_start_is_quick(program: Program) -> None:
    def once() -> float:
        start = time.monotonic()
        assert program("--version").status == 0
        return time.monotonic() - start

    assert min(once() for _ in range(7)) < 0.15


@pytest.mark.counts("hostile")
def test_no_control_character_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from mkroot.cli.terminal import labelled, print_json

    value = {"comment": "\x1b[2J \x7f \x9b31m é"}
    print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert all(c == "\n" or c.isprintable() for c in printed)
    assert labelled("warning", "a\x1b[0m\x9b1m") == "warning: a\\x1b[0m\\x9b1m\n"
