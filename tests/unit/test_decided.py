"""What the resolver answered is kept by all that decides it: asked again, it is not resolved again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.testarchive import Archive
from tests.unit.commands import Program

World = tuple[Program, Archive, Callable[..., None]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    program = Program(tmp_path)
    archive = Archive(tmp_path / "archive")
    archive.add("base", "1.0", essential=True)
    archive.add("tool", "1.0", depends="lib")
    archive.add("lib", "1.0")
    archive.add("extra", "1.0")

    def write(**more: object) -> None:
        program.recipe(
            "r.yaml", archive.recipe(configure="none", outputs=["tar"], packages={"include": ["tool"]}) | more
        )

    archive.publish()
    write()
    return program, archive, write


def steps(program: Program, *options: str) -> tuple[list[str], bool]:
    """The packages of a build without a lock, and whether the resolver's answer was known."""
    done = program("build", "r.yaml", "--no-lock", *options)
    assert done.status == 0, done.err
    [line] = [line for line in done.err.splitlines() if " resolve " in line]
    cached = line.endswith("cached")
    planned = program("plan", "r.yaml", "--no-lock", "--json", *options).json["packages"]
    return [f"{p['name']} {p['version']}" for p in planned], cached


ANSWER = ["base 1.0", "lib 1.0", "tool 1.0"]


def test_the_same_question_is_not_resolved_again(world: World) -> None:
    program, _, write = world
    assert steps(program) == (ANSWER, False)
    assert steps(program) == (ANSWER, True)
    assert steps(program, "--offline") == (ANSWER, True)
    write(config={"hostname": "box"})  # decides no package
    assert steps(program) == (ANSWER, True)


def test_another_question_is(world: World) -> None:
    program, _, write = world
    steps(program)
    write(packages={"include": ["tool", "extra"]})
    assert steps(program) == (["base 1.0", "lib 1.0", "tool 1.0", "extra 1.0"], False)
    write(packages={"include": ["tool"], "exclude": ["extra"]})
    assert steps(program) == (ANSWER, False)


def test_another_archive_is(world: World) -> None:
    program, archive, _ = world
    steps(program)
    archive.add("lib", "2.0")
    archive.publish()
    assert steps(program) == (["base 1.0", "lib 2.0", "tool 1.0"], False)


@pytest.mark.counts("fault")
@pytest.mark.parametrize("damage", ["bit", "cut", "empty"])
def test_a_damaged_answer_is_none(world: World, damage: str) -> None:
    program, _, _ = world
    steps(program)
    [path] = [p for p in (program.folder / "store/decided").rglob("*") if p.is_file()]
    data = path.read_bytes()
    path.write_bytes({"bit": data[:50] + bytes([data[50] ^ 1]) + data[51:], "cut": data[:-9], "empty": b""}[damage])
    assert [c.key for c in _faulty(program)] == [path.name]
    assert steps(program) == (ANSWER, False)
    assert _faulty(program) == []


def _faulty(program: Program) -> list[object]:
    from mkroot.store.store import Store
    from mkroot.store.verify import verify

    return [c.item for c in verify(Store(program.folder / "store")) if c.fault]


def test_why_explains_what_is_known(world: World) -> None:
    program, _, _ = world
    steps(program)
    first = program("why", "r.yaml", "lib")
    assert first.status == 0, first.err
    assert "tool" in first.out
    assert program("why-not", "r.yaml", "extra").status == 0
