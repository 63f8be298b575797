"""The commands on a signed archive in miniature: what they print, where, and with which status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.commands import Program, small_archive

PLAIN = {"packages": {"variant": "none", "include": ["tool"]}, "configure": "none", "outputs": ["tar"]}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("commands")
    program = Program(folder)
    archive = small_archive(folder / "archive")
    program.recipe("r.yaml", archive.recipe(**PLAIN))
    program.recipe(
        "wrong.yaml", archive.recipe(**PLAIN) | {"name": "wrong", "packages": {"include": ["no-such-package"]}}
    )
    return program


def fresh(program: Program) -> str:
    (program.folder / "r.lock").unlink(missing_ok=True)
    return "r.yaml"


def test_build_prints_what_it_made(program: Program) -> None:
    done = program("build", fresh(program), "-o", "out")
    assert done.status == 0, done.err
    path, _, _, digest = done.out.split()
    assert path == "out/mini/amd64/rootfs.tar"
    assert (program.folder / path).is_file()
    manifest = json.loads((program.folder / "out/mini/amd64/manifest.json").read_bytes())
    assert [a["digest"] for a in manifest["artifacts"]] == [digest]
    assert "mini amd64: 2 packages" in done.err
    assert (program.folder / "r.lock").is_file()
    again = program("build", "r.yaml", "-o", "out")
    assert again.out == done.out
    assert "nothing changed" in again.err


def test_build_json_is_data_alone(program: Program) -> None:
    done = program("build", fresh(program), "-o", "json", "--json")
    assert done.status == 0, done.err
    [built] = done.json["builds"]
    assert done.json["failed"] == []
    assert (built["recipe"], built["name"], built["architecture"], built["packages"]) == ("r.yaml", "mini", "amd64", 2)
    assert [a["kind"] for a in built["artifacts"]] == ["tar"]
    assert {"name", "seconds", "cached", "note"} == set(built["steps"][0])


def test_one_wrong_recipe_does_not_hide_the_others(program: Program) -> None:
    done = program("build", "wrong.yaml", "nowhere.yaml", fresh(program), "-o", "several", "--json")
    assert done.status == 1
    assert [b["recipe"] for b in done.json["builds"]] == ["r.yaml"]
    assert [f["recipe"] for f in done.json["failed"]] == ["wrong.yaml", "nowhere.yaml"]
    assert "no-such-package" in done.json["failed"][0]["errors"][0]["what"]
    assert done.err.count("error: ") == 2
    assert not (program.folder / "wrong.lock").exists()


def test_no_lock_leaves_none(program: Program) -> None:
    assert program("build", fresh(program), "-o", "none", "--no-lock").status == 0
    assert not (program.folder / "r.lock").exists()


def test_locked_needs_a_lock(program: Program) -> None:
    done = program("build", fresh(program), "-o", "locked", "--locked")
    assert done.status == 1
    assert "there is no lock" in done.err
    assert "hint: run `mkroot lock r.yaml`" in done.err
    assert not (program.folder / "locked").exists()


def test_an_output_folder_that_is_a_file(program: Program) -> None:
    (program.folder / "file").write_text("mine")
    done = program("build", fresh(program), "-o", "file")
    assert done.status == 1
    assert "file" in done.err
    assert "Traceback" not in done.err
    assert (program.folder / "file").read_text() == "mine"


def test_a_recipe_from_standard_input(program: Program) -> None:
    text = (program.folder / "r.yaml").read_text()
    done = program("plan", "-", "--json", stdin=text)
    assert done.status == 0, done.err
    assert [p["name"] for p in done.json["packages"]] == ["lib", "tool"]
    done = program("build", "-", "-o", "stdin", stdin=text)
    assert done.status == 0, done.err
    assert (program.folder / "stdin/mini/amd64/rootfs.tar").is_file()


def test_plan_json_has_the_contract_s_keys(program: Program) -> None:
    done = program("plan", fresh(program), "--json")
    assert done.status == 0, done.err
    assert {"packages", "download", "installed"} <= set(done.json)
    lib, tool = done.json["packages"]
    assert {"name", "version", "architecture", "why", "size"} <= set(lib)
    assert (tool["name"], tool["version"], tool["why"]) == ("tool", "2.0-1", "requested as `tool`")
    assert lib["why"] == "tool depends on lib (>= 1)"
    assert done.json["download"] == lib["size"] + tool["size"]
    assert not (program.folder / "r.lock").exists()


def test_plan_shows_what_a_build_would_take(program: Program) -> None:
    assert program("plan", fresh(program), "--locked").status == 1
    assert program("lock", "r.yaml").status == 0
    assert "2 packages" in program("plan", "r.yaml", "--locked").err
    data = json.loads((program.folder / "r.yaml").read_text())
    data["packages"]["include"].append("other")
    program.recipe("grown.yaml", data)
    (program.folder / "grown.lock").write_bytes((program.folder / "r.lock").read_bytes())
    done = program("plan", "grown.yaml")
    assert done.status == 0
    assert "3 packages" in done.err
    assert "warning: grown.lock: the lock is stale" in done.err
    assert program("build", "grown.yaml").status == 1
    assert program("lock", "grown.yaml").out == "+ other 1.0  requested as `other`\n"


def test_lock_tells_what_it_did(program: Program) -> None:
    done = program("lock", fresh(program), "--json")
    assert done.status == 0, done.err
    assert done.json["new"] is True
    assert done.json["packages"] == {"amd64": 2}
    first = (program.folder / "r.lock").read_bytes()
    again = program("lock", "r.yaml")
    assert "no package changed" in again.err
    assert (program.folder / "r.lock").read_bytes() == first
    assert program("lock", "r.yaml", "--update", "lib").status == 0
    unknown = program("lock", "r.yaml", "--update", "nothing")
    assert (unknown.status, unknown.out) == (1, "")
    assert "`nothing`" in unknown.err


def test_lock_of_standard_input_goes_to_standard_output(program: Program) -> None:
    done = program("lock", "-", stdin=(program.folder / "r.yaml").read_text())
    assert done.status == 0, done.err
    assert [p["name"] for p in done.json["architectures"]["amd64"]["packages"]] == ["lib", "tool"]


def test_why_and_why_not(program: Program) -> None:
    done = program("why", "r.yaml", "lib")
    assert done.status == 0, done.err
    assert done.out == "tool (requested as `tool`) → tool depends on lib (>= 1)\n"
    assert program("why", "r.yaml", "lib", "--json").json[0]["chains"][0][-1]["package"] == "lib"
    absent = program("why", "r.yaml", "other")
    assert absent.status == 1
    assert "hint: mkroot why-not" in absent.err
    done = program("why-not", "r.yaml", "other")
    assert done.status == 0, done.err
    assert done.out.startswith("other is not installed\n")
    assert program("why-not", "r.yaml", "tool").status == 1


def test_size(program: Program) -> None:
    done = program("size", fresh(program), "--json")
    assert done.status == 0, done.err
    [root] = done.json
    assert {p["name"]: p["wish"] for p in root["packages"]} == {"lib": "`tool`", "tool": "`tool`"}
    assert [(w["wish"], w["packages"]) for w in root["wishes"]] == [("`tool`", 2)]
    assert "tool depends on lib" in program("size", "r.yaml").out


def test_a_limit_that_is_passed_names_who_is_to_blame(program: Program) -> None:
    data = json.loads((program.folder / "r.yaml").read_text()) | {"name": "limited", "limits": {"packages": 1}}
    done = program("plan", program.recipe("limited.yaml", data))
    assert done.status == 1
    assert "2 packages are more than `limits.packages: 1`" in done.err
    assert "tool: requested as `tool`" in done.err


def test_offline_without_a_store(program: Program, tmp_path: Path) -> None:
    done = program("build", fresh(program), "--offline", "-o", "offline", MKROOT_STORE=str(tmp_path / "empty"))
    assert done.status == 1
    assert "offline" in done.err
    assert not (program.folder / "offline").exists()


def test_doctor(program: Program) -> None:
    done = program("doctor", "--json", MKROOT_MIRROR_DEBIAN="http://user:secret@mirror.example/debian")
    parts = {f["part"] for f in done.json["facts"]}
    assert {"program", "rights", "store", "mirrors", "keys", "tools"} <= parts
    assert "secret" not in done.out + done.err
    assert any("mirror.example/debian" in f["text"] for f in done.json["facts"])
    assert done.status == (0 if done.json["ok"] else 1)
    assert "overlayfs" in program("doctor").out
