"""`mkroot build --watch-table`: what fits on a screen, lines elsewhere, and a real terminal that is given back."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from mkroot.cli.board import MARKS, PLAIN, View, board, brief, change_in_short
from mkroot.fleet.grid import grid
from mkroot.fleet.model import DONE, FAILED, RUNNING, SKIPPED, UNCHANGED, WAITING, Change, Fault, Job, Row
from tests.unit.commands import PROGRAM as COMMAND
from tests.unit.commands import Program, small_archive

ROOT = Path(__file__).parents[2]
SUITES, ARCHITECTURES = ("bookworm", "trixie", "sid"), ("amd64", "arm64")


def row(recipe: str, suite: str, architecture: str, state: str = WAITING, **more: object) -> Row:
    job = Job(recipe=f"recipes/{recipe}.yaml", defines={}, name=recipe, suite=suite, architecture=architecture)
    return Row(job=job, state=state, **more)  # type: ignore[arg-type]


def matrix(recipes: int) -> list[Row]:
    return [row(f"recipe-{n}", s, a) for n in range(recipes) for s in SUITES for a in ARCHITECTURES]


def as_it_is(one: Row, state: str, **more: object) -> Row:
    return Row(job=one.job, state=state, **more)  # type: ignore[arg-type]


def shown(
    rows: Sequence[Row],
    width: int = 80,
    height: int = 40,
    *,
    began: dict[int, float] | None = None,
    colour: bool = False,
    ascii: bool = False,
) -> list[str]:
    """Return the lines of a screen."""
    view = View(rows=rows, grid=grid([r.job for r in rows]), began=began or {}, now=100.0, elapsed=3725.0, ascii=ascii)
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        height=height,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
    )
    found = board(view, width, height)
    console.print(Group(*found))
    lines = file.getvalue().splitlines()
    assert len(lines) == len(found) <= height
    assert all(cell_len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= width for line in lines)
    return [line.rstrip() for line in lines]


def test_a_few_builds_are_listed_in_their_order() -> None:
    change = Change(added=("a",), changed=("b", "c"), bytes=1 << 20)
    rows = [
        row("web", "trixie", "amd64", DONE, seconds=75.2, size=45 << 20, change=change),
        row("web", "trixie", "arm64", RUNNING, doing="recipes/web.yaml arm64: stage base", machine="box-1"),
        row("mail", "trixie", "amd64", FAILED, seconds=2.0, faults=(Fault(what="no such package `x`\nmore"),)),
        row("mail", "trixie", "arm64", SKIPPED),
        row("tiny", "sid", "amd64", UNCHANGED, size=3 << 20),
        row("tiny", "sid", "arm64"),
    ]
    assert shown(rows, began={1: 58.0}) == [
        "6  ✓ 1  = 1  ✗ 1  – 1  … 1  · 1                                   48.0 MiB  1h02",
        "",
        "✓ web   trixie  amd64    1m15  45.0 MiB, +1 ~2, +1.0 MiB",
        "… web   trixie  arm64     42s  stage base on box-1",
        "✗ mail  trixie  amd64    2.0s  no such package `x`",
        "– mail  trixie  arm64          skipped",
        "= tiny  sid     amd64          unchanged",
        "· tiny  sid     arm64",
    ]


def test_counts_have_words_where_they_fit() -> None:
    rows = [row("web", "trixie", "amd64", DONE), row("web", "trixie", "arm64")]
    assert shown(rows, 60)[0] == "2 builds  ✓ 1 done  · 1 waiting                         1h02"
    assert shown(rows, 30)[0] == "2  ✓ 1  · 1               1h02"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_180_builds_fit_a_screen_of_40_lines(width: int) -> None:
    rows = matrix(30)
    for n in range(60):
        rows[n] = as_it_is(rows[n], DONE, seconds=12.0)
    for n in (60, 61):
        rows[n] = as_it_is(rows[n], RUNNING, doing=f"at {n}")
    rows[7] = as_it_is(rows[7], FAILED, seconds=1.0, faults=(Fault(what="broken"),))
    lines = shown(rows, width, began={60: 95.0, 61: 95.0})
    assert lines[0].startswith("180 ")
    assert lines[2].split() == list(SUITES)
    assert lines[3].split() == [*ARCHITECTURES] * 3
    assert lines[4].split() == ["recipe-0", *["✓12s"] * 6]
    assert lines[5].split() == ["recipe-1", "✓12s", "✗1.0s", *["✓12s"] * 4]
    assert lines[14].split() == ["recipe-10", "…5.0s", "…5.0s", "·", "·", "·", "·"]
    assert [line.split()[0] for line in lines[4:34]] == [f"recipe-{n}" for n in range(30)]
    assert [line.split()[1:4] for line in lines[35:]] == [
        ["recipe-10", "bookworm", "amd64"],
        ["recipe-10", "bookworm", "arm64"],
        ["recipe-1", "bookworm", "arm64"],
    ]
    assert lines[35].endswith("at 60") and lines[37].endswith("broken")


def test_columns_of_the_grid_stand_under_their_heads() -> None:
    lines = shown(matrix(30), 60)
    for suite in SUITES:
        assert lines[3][lines[2].index(suite) :].startswith("amd64")
        assert lines[4][lines[2].index(suite)] == "·"


def test_where_no_grid_fits_those_that_run_and_that_failed_come_first_and_the_rest_is_counted() -> None:
    rows = matrix(30)
    for n in range(0, 100, 2):
        rows[n] = as_it_is(rows[n], DONE, seconds=12.0)
    for n in (150, 170):
        rows[n] = as_it_is(rows[n], RUNNING)
    rows[99] = as_it_is(rows[99], FAILED)
    lines = shown(rows, 80, 24)
    assert len(lines) == 24
    assert [line.split()[:4] for line in lines[2:5]] == [
        ["…", "recipe-25", "bookworm", "amd64"],
        ["…", "recipe-28", "trixie", "amd64"],
        ["✗", "recipe-16", "trixie", "arm64"],
    ]
    rest = re.fullmatch(r"and (\d+) more: (\d+) done, (\d+) waiting", lines[-1])
    assert rest is not None
    assert int(rest[1]) == 180 - 21 == int(rest[2]) + int(rest[3])


def test_neither_those_that_run_nor_those_that_failed_take_all_of_the_room() -> None:
    rows = [as_it_is(one, RUNNING if n < 90 else FAILED) for n, one in enumerate(matrix(30))]
    signs = [line[0] for line in shown(rows, 80, 24)[2:-1]]
    assert signs.count("…") >= 7 and signs.count("✗") >= 7 and len(signs) == 21


def test_a_grid_that_would_be_mostly_empty_is_none() -> None:
    rows = [row(f"recipe-{n}", f"suite-{n % 5}", "amd64") for n in range(45)]
    assert shown(rows, 200, 50)[2].startswith("· recipe-0")
    assert shown(rows[:30], 200, 25)[-1].startswith("and ")
    assert "suite-1" in shown(rows[:30], 200, 25)[3]  # listed: no grid


def test_a_recipe_that_cannot_be_read_has_its_line() -> None:
    odd = Row(job=Job(recipe="odd.yaml", defines={}), state=FAILED, faults=(Fault(what="unknown key"),))
    assert shown([*matrix(1), odd], 60)[-1].split() == ["✗", "odd", "unknown", "key"]
    assert any(line.split() == ["odd", "✗"] for line in shown([*matrix(30), odd], 80, 42))


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("width", [1, 10, 30, 60])
def test_a_tiny_terminal_harms_nothing(width: int, height: int) -> None:
    rows = [as_it_is(one, list(MARKS)[n % 6], seconds=1e7) for n, one in enumerate(matrix(20))]
    view = View(rows=rows, grid=grid([r.job for r in rows]), began={}, now=0.0, elapsed=0.0)
    lines = board(view, width, height)
    assert len(lines) <= height and all(line.cell_len <= width for line in lines)


NAMES = {
    "control-sequence": "a\x1b[2Jb",
    "line-ends": "a\nb\rc",
    "markup": "[red]a[/red][link=x]",
    "wide": "漢字" * 40,
    "password": "http://u:secret@h.example/x",
}


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_moves_no_cursor_and_is_no_markup(name: str) -> None:
    rows = [
        row(name, name, name, state, doing=name, faults=(Fault(what=name),), size=1, change=Change(changed=(name,)))
        for state in MARKS
    ]
    for some in (rows, [*rows * 10]):
        text = "\n".join(shown(some, 60, 20))
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x9b]", text) and "secret" not in text
    assert "[red]" in text or "red" not in name


def test_colours_are_those_of_the_states_and_signs_tell_them_without() -> None:
    rows = [row("web", "trixie", "amd64", FAILED), row("web", "trixie", "arm64", DONE)]
    coloured = shown(rows, colour=True)
    assert "\x1b[1;31m✗ " in coloured[2] and "\x1b[32m✓ " in coloured[3]
    assert [line[0] for line in shown(rows, ascii=True)[2:]] == ["x", "+"]
    assert all(mark.isascii() for mark in PLAIN.values()) and len(set(PLAIN.values())) == len(MARKS)


def test_durations_take_six_columns_and_changes_few() -> None:
    told = {
        0.0: "0.0s",
        9.94: "9.9s",
        9.96: "10s",
        59.4: "59s",
        59.6: "1m00",
        3599.9: "1h00",
        7260: "2h01",
        1e6: "277h",
    }
    assert {value: brief(value) for value in told} == told
    assert change_in_short(None) == ""
    assert change_in_short(Change(removed=("a", "b"), bytes=-3)) == "−2, −3 B"


# ---- a terminal

PROGRAM = """
import os, sys, time
from mkroot.cli import main
from mkroot.cli.watch import Screen
from tests.unit.test_fleet_watch import RUNNING, as_it_is, matrix
main._listen()
def run():
    with Screen() as watch:
        for n, row in enumerate(matrix(int(sys.argv[1]))):
            watch.change(n, as_it_is(row, RUNNING, doing="x" * 300))
        print("on standard output")
        sys.stderr.write("on standard error\\n")
        try:
            time.sleep(float(sys.argv[2]))
        finally:
            time.sleep(float(sys.argv[4]))
        sys.stderr.write(sys.argv[3] + "\\n")
    return 0
import types
main._dispatch = lambda argv: run()
main._exit(main.main([]))
"""
OPEN, CLOSED = "\x1b[?1049h", "\x1b[?1049l"


def started(
    recipes: int, seconds: float, *, busy: float = 0, before: Sequence[str] = (), **environ: str
) -> pexpect.spawn[str]:
    """Start a run on a terminal; busy: seconds that its clean-up takes. before: words before the command."""
    program, *words = [*before, sys.executable, "-c", PROGRAM, str(recipes), str(seconds), "the end", str(busy)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    return pexpect.spawn(program, words, env=environment | environ, dimensions=(24, 80), encoding="utf-8", timeout=20)  # type: ignore[arg-type]


def pictures(text: str) -> list[list[str]]:
    """Return what was drawn: of each picture its lines, without colours."""
    found = []
    for picture in text.split("\x1b[1;1H")[1:]:
        picture = picture.partition("\x1b[?")[0]
        found.append(re.split(r"\x1b\[\d+;1H", re.sub(r"\x1b\[[0-9;]*m", "", picture)))
    return found


def test_a_terminal_is_redrawn_at_its_new_size_and_given_back_on_ctrl_c() -> None:
    with started(30, 60) as child:
        child.expect_exact(OPEN)
        child.expect_exact("\x1b[?25l")
        child.expect("recipe-3 ")
        child.setwinsize(40, 60)
        child.expect_exact("\x1b[40;1H")
        child.expect_exact("\x1b[1;1H")
        child.expect_exact("\x1b[1;1H")
        (drawn,) = pictures(f"\x1b[1;1H{child.before}")
        assert len(drawn) == 40 and {len(line) for line in drawn} == {60}
        assert drawn[2].split() == list(SUITES)
        child.sendintr()
        child.expect_exact(CLOSED)
        child.expect(pexpect.EOF)
        assert child.before == "\x1b[?25hon standard output\r\non standard error\r\n"
        child.close()
        assert child.exitstatus == 130


@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}])
def test_what_is_written_meanwhile_comes_when_the_screen_is_back(environ: dict[str, str]) -> None:
    with started(1, 0.6, **environ) as child:
        child.expect(pexpect.EOF)
        text = child.before
        assert isinstance(text, str)
        before, _, after = text.partition(CLOSED)
        assert "on standard" not in before and "the end" not in before
        assert after == "\x1b[?25hon standard output\r\non standard error\r\nthe end\r\n"
        assert ("\x1b[36m" in before) == (not environ)
        (first, *_) = pictures(before)
        assert len(first) == 24 and {len(line) for line in first} == {80}
        child.close()
        assert child.exitstatus == 0


def test_a_signal_gives_the_terminal_back_though_the_program_is_busy() -> None:
    with started(1, 60, busy=30) as child:
        child.expect("recipe-0")
        child.kill(signal.SIGTERM)
        child.expect_exact(CLOSED)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 143


def test_a_stopped_program_leaves_the_terminal_and_takes_it_again() -> None:
    shell = 'set -m; "$@"; echo stopped: $?; fg >/dev/null'
    with started(1, 60, before=["bash", "-c", shell, "bash"]) as child:
        child.expect("recipe-0")
        child.sendcontrol("z")
        child.expect_exact(f"{CLOSED}\x1b[?25h")
        child.expect_exact(f"stopped: {128 + signal.SIGTSTP}")
        child.expect_exact(OPEN)
        child.expect("recipe-0")
        child.sendintr()
        child.expect_exact(f"{CLOSED}\x1b[?25h")
        child.expect(pexpect.EOF)


# ---- as a user runs it


def test_the_screen_shows_a_real_run_and_the_table_follows_it(tmp_path: Path) -> None:
    program = Program(tmp_path)
    archive = small_archive(tmp_path / "archive")
    with archive.serve() as server:
        server.fault("*.deb", "slow", seconds=0.8, times=None)
        small = {"configure": "none", "outputs": ["tar.zst"]}
        for name, package in (("one", "tool"), ("two", "lib"), ("bad", "nope")):
            packages = {"variant": "none", "include": [package]}
            program.recipe(f"{name}.yaml", archive.recipe(uri=server.uri, name=name, packages=packages, **small))
        words = ["build", "one.yaml", "two.yaml", "bad.yaml", "--no-lock", "--watch-table"]
        environ = {**program.environ, "TERM": "xterm-256color", "PATH": os.environ["PATH"]}
        command, *before = COMMAND
        with pexpect.spawn(
            command,
            [*before, *words],
            env=environ,
            cwd=str(tmp_path),
            dimensions=(24, 80),
            encoding="utf-8",
            timeout=30,
        ) as child:  # type: ignore[call-overload]
            child.expect(pexpect.EOF)
            assert isinstance(child.before, str)
            before_, _, after = child.before.partition(CLOSED)
            child.close()
            assert child.exitstatus == 1
    drawn = pictures(before_)
    assert len(drawn) >= 2 and all({len(line) for line in picture} == {80} for picture in drawn)
    seen = {line.rstrip() for picture in drawn for line in picture}
    assert any(
        re.fullmatch(r"… one  trixie  amd64 +[\d.]+s  (lock|\d shared packages?|outputs)", line) for line in seen
    )
    assert any(re.fullmatch(r"✗ bad  trixie  amd64 +[\d.]+s  no package is called `nope`", line) for line in seen)
    assert "[1/3]" not in after and "out/one/amd64/rootfs.tar.zst" in after
    assert re.search(r"one\.yaml +amd64 +done ", after) and "2 built, 1 failed" in after


def test_elsewhere_than_on_a_terminal_there_are_lines(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.recipe("bad.yaml", {})
    done = program("build", "bad.yaml", "--watch-table")
    assert done.status == 1 and done.out == ""
    assert done.err.startswith("[1/1] bad.yaml: failed\n") and "\x1b" not in done.err
