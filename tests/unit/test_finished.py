"""A build whose inputs the store knows is copied out of it: the same bytes, or made again."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from tests.testarchive import Archive, File
from tests.unit.commands import Program

COPIED = "a build that the store knows"
BIG = random.Random(1).randbytes(200_000)  # more than a record holds itself


@pytest.fixture
def program(tmp_path: Path) -> Program:
    program = Program(tmp_path)
    archive = Archive(tmp_path / "archive")
    archive.add("base", "1.0", essential=True, files={"etc/base.conf": b"base\n"})
    archive.add("tool", "2.0-1", files={"usr/bin/tool": File(content=BIG, mode=0o755)})
    settings = {"configure": "none", "outputs": ["tar.zst", "oci"], "packages": {"include": ["tool"]}}
    program.recipe("r.yaml", archive.recipe(**settings))
    program.recipe("zstd.yaml", archive.recipe(**settings, image={"compression": "zstd"}))
    program.recipe("tar.yaml", archive.recipe(**settings | {"outputs": ["tar"]}))
    return program


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder: its mode and its content's digest."""
    return {
        str(p.relative_to(folder)): (
            p.stat().st_mode,
            hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "",
        )
        for p in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("recipe", ["r.yaml", "zstd.yaml"])
def test_another_folder_gets_the_same_files(program: Program, recipe: str) -> None:
    first = program("build", recipe, "-o", "one")
    assert first.status == 0, first.err
    assert COPIED not in first.err
    second = program("build", recipe, "-o", "two")
    assert second.status == 0, second.err
    assert COPIED in second.err
    assert second.out == first.out.replace("one/", "two/")
    assert tree(program.folder / "one") == tree(program.folder / "two")
    assert "nothing changed" in program("build", recipe, "-o", "two").err


def test_no_package_and_no_mirror_is_needed(program: Program) -> None:
    assert program("build", "r.yaml", "-o", "one").status == 0
    for kind in ("debs", "layers", "indices", "releases"):
        for path in (program.folder / "store" / kind).rglob("*"):
            if path.is_file():
                path.unlink()
    for path in (program.folder / "archive").rglob("*"):
        if path.is_file() and path.suffix != ".asc":
            path.unlink()
    done = program("build", "r.yaml", "-o", "two")
    assert done.status == 0, done.err
    assert tree(program.folder / "one") == tree(program.folder / "two")


@pytest.mark.counts("fault")
@pytest.mark.parametrize("kind", ["frames", "oci/blobs", "finished"])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_damage_is_never_copied(program: Program, kind: str, damage: str) -> None:
    assert program("build", "r.yaml", "-o", "one").status == 0
    found = [p for p in (program.folder / "store" / kind).rglob("*") if p.is_file() and p.stat().st_size > 5000]
    assert found
    for path in found:
        data = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(data[: len(data) // 2] if damage == "cut" else _flipped(data))
    done = program("build", "r.yaml", "-o", "two")
    if done.status:  # an image's own blob, which only the user can do without
        assert kind == "oci/blobs"
        assert "damaged" in done.err
        assert not (program.folder / "two").exists()
        return
    assert COPIED not in done.err or "made again" in done.err
    assert tree(program.folder / "one") == tree(program.folder / "two")


def _flipped(data: bytes) -> bytes:
    return data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]


def test_other_inputs_are_another_build(program: Program) -> None:
    first = program("build", "r.yaml", "-o", "one", SOURCE_DATE_EPOCH="1700000000")
    assert first.status == 0, first.err
    assert COPIED not in program("build", "r.yaml", "-o", "two", SOURCE_DATE_EPOCH="1600000000").err
    assert (
        COPIED not in program("build", "r.yaml", "-o", "three", "--tag", "other:1", SOURCE_DATE_EPOCH="1700000000").err
    )
    assert COPIED in program("build", "r.yaml", "-o", "four", SOURCE_DATE_EPOCH="1700000000").err
    assert tree(program.folder / "one") == tree(program.folder / "four")


def test_the_image_and_its_tag_come_back(program: Program) -> None:
    first = program("build", "r.yaml", "-o", "one", "--json")
    digest = next(a["digest"] for a in first.json["builds"][0]["artifacts"] if a["kind"] == "oci")
    assert program("rmi", "mini:latest").status == 0
    assert program("images", "--json").json == []
    done = program("build", "r.yaml", "-o", "two")
    assert done.status == 0, done.err
    assert [(i["reference"], i["digest"]) for i in program("images", "--json").json] == [("mini:latest", digest)]
    assert tree(program.folder / "one") == tree(program.folder / "two")


def test_a_tag_that_another_image_took_is_taken_back(program: Program) -> None:
    first = program("build", "r.yaml", "-o", "one")
    assert first.status == 0, first.err
    digest = program("images", "--json").json[0]["digest"]
    assert program("build", "zstd.yaml", "-o", "other").status == 0
    assert program("images", "--json").json[0]["digest"] != digest
    done = program("build", "r.yaml", "-o", "two")
    assert COPIED in done.err
    [image] = program("images", "--json").json
    assert (image["reference"], image["digest"]) == ("mini:latest", digest)


def test_what_is_not_joined_is_made(program: Program) -> None:
    assert program("build", "tar.yaml", "-o", "one").status == 0
    again = program("build", "tar.yaml", "-o", "two")
    assert COPIED not in again.err
    assert tree(program.folder / "one") == tree(program.folder / "two")


def test_explain_cache_goes_the_long_way(program: Program) -> None:
    assert program("build", "r.yaml", "-o", "one").status == 0
    assert COPIED not in program("build", "r.yaml", "-o", "two", "--explain-cache").err


def test_a_foreign_folder_stays(program: Program) -> None:
    assert program("build", "r.yaml", "-o", "one").status == 0
    mine = program.folder / "two/mini/amd64/mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = program("build", "r.yaml", "-o", "two")
    assert done.status == 1
    assert "not an output of mkroot" in done.err
    assert json.dumps(sorted(p.name for p in mine.parent.iterdir())) == '["mine"]'
