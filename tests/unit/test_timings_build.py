"""`mkroot build --timings`, and what came from where: on a small archive, as a user runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mkroot.cli.page import checked
from mkroot.cli.timeline import PAGE
from mkroot.errors import ArtifactError
from tests.testarchive import Archive, Server
from tests.unit.commands import Program, small_archive

RECIPE: dict[str, Any] = {
    "packages": {"variant": "none", "include": ["tool"]},
    "configure": "none",
    "outputs": ["tar.zst", "oci"],
}
NOTHING = {
    "fetched": 0, "bytes": 0, "stored": 2, "stages": 0, "stages_stored": 0, "frames": 0, "frames_stored": 0,
}  # fmt: skip


class Place(Program):
    """A program in a folder with a recipe, and a server that counts what it gives out."""

    def __init__(self, folder: Path, server: Server, recipe: dict[str, Any]) -> None:
        super().__init__(folder)
        self.server = server
        self.recipe("r.yaml", recipe)

    def build(self, *words: str) -> dict[str, Any]:
        done = self("build", "r.yaml", "--no-lock", "--json", *words)
        assert done.status == 0, done.err
        return dict(done.json["builds"][0])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    archive = small_archive(tmp_path / "archive")
    with archive.serve() as server:
        yield Place(tmp_path, server, archive.recipe(uri=server.uri, **RECIPE))


def kinds(built: dict[str, Any]) -> set[tuple[str, str]]:
    return {(s["lane"].partition(" ")[0], s["kind"]) for s in built["timings"]["spans"]}


def test_the_page_and_the_numbers_of_every_kind_of_build(place: Place) -> None:
    first = place.build("--timings", "t.html")
    text = (place.folder / "t.html").read_text()
    assert text.startswith(PAGE.start) and "mini amd64" in text and "tool: " in text
    assert {("network", "fetch"), ("unpack", "decompress"), ("unpack", "compress"), ("main", "step")} <= kinds(first)
    assert {("hash", "hash"), ("disk", "sync"), ("main", "store")} <= kinds(first)
    timings = first["timings"]
    assert sum(w["seconds"] for w in timings["waited"]) == pytest.approx(timings["seconds"], abs=1e-4)
    assert all(0 <= s["begin"] <= s["end"] <= timings["seconds"] + 1e-4 for s in timings["spans"])
    fetched = {s["name"]: s["bytes"] for s in timings["spans"] if s["kind"] == "fetch"}
    assert set(fetched) == {"tool", "lib"}
    sources = first["sources"]
    assert (sources["fetched"], sources["bytes"], sources["stored"]) == (2, sum(fetched.values()), 0)
    assert (sources["stages"], sources["stages_stored"]) == (1, 0)
    assert sources["frames"] > 0 and sources["frames_stored"] == 0

    unchanged = place.build("--timings", "t.html")
    assert unchanged["unchanged"] and unchanged["sources"] is None
    assert unchanged["timings"]["seconds"] < timings["seconds"]
    assert "nothing" not in kinds(unchanged) and ("network", "fetch") not in kinds(unchanged)

    copied = place.build("-o", "copied", "--timings", "t.html")
    assert copied["sources"] == NOTHING
    assert [s["name"] for s in copied["timings"]["spans"] if s["kind"] == "step"][-1] == "copy"

    for path in (place.folder / "store" / "finished").glob("*/*"):
        path.unlink()
    warm = place.build("-o", "warm", "--timings", "t.html")
    frames = warm["sources"]["frames"]
    assert warm["sources"] == {
        **NOTHING, "stages": 1, "stages_stored": 1, "frames": frames, "frames_stored": frames,
    }  # fmt: skip
    assert frames == sources["frames"]
    for other in ("copied", "warm"):
        assert tree(place.folder / other) == tree(place.folder / "out")


def test_a_page_costs_no_byte_of_an_output(place: Place, tmp_path: Path) -> None:
    place.build("-o", "with", "--timings", "t.html")
    place.environ["MKROOT_STORE"] = str(tmp_path / "other store")
    without = place.build("-o", "without")
    assert "timings" not in without
    assert tree(place.folder / "with") == tree(place.folder / "without")
    assert not list(place.folder.glob("without/**/*.html"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_one_more_package_is_fetched_and_the_rest_is_there(place: Place) -> None:
    place.build()
    recipe = json.loads((place.folder / "r.yaml").read_text())
    recipe["packages"]["include"].append("other")
    place.recipe("r.yaml", recipe)
    done = place("build", "r.yaml", "--no-lock")
    assert done.status == 0, done.err
    line = next(line for line in done.err.splitlines() if line.startswith("packages: "))
    assert line.startswith("packages: 1 fetched (") and " B), 2 cached; stages: 0 of 1 cached; frames: " in line
    told = line.rpartition("frames: ")[2].split()
    assert 0 < int(told[0]) < int(told[2])


def test_a_build_that_changes_nothing_has_no_such_line(place: Place) -> None:
    place.build()
    done = place("build", "r.yaml", "--no-lock")
    assert "nothing changed" in done.err and "packages: " not in done.err


def test_several_recipes_and_architectures_have_a_section_each_and_so_has_one_that_failed(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", architectures=("amd64", "arm64"))
    archive.add("data", "1.0", architecture="all", files={"usr/share/data": b"data"})
    with archive.serve() as server:
        recipe = archive.recipe(uri=server.uri, **RECIPE)
        place = Place(tmp_path, server, {**recipe, "packages": {"variant": "none", "include": ["no-such-package"]}})
        both = {"name": "two", "arch": ["amd64", "arm64"], "packages": {"variant": "none", "include": ["data"]}}
        place.recipe("two.yaml", {**recipe, **both})
        done = place("build", "r.yaml", "two.yaml", "--no-lock", "--json", "--timings", "t.html")
    assert done.status == 1
    text = (tmp_path / "t.html").read_text()
    heads = [line.removeprefix("<h2>").partition(":")[0] for line in text.splitlines() if line.startswith("<h2>")]
    assert heads == ["r.yaml", "two amd64", "two arm64"]
    assert "failed: " in text and "no-such-package" in text
    first, second = done.json["builds"]
    assert "indices" in [s["name"] for s in first["timings"]["spans"]]
    assert [s["name"] for s in second["timings"]["spans"] if s["name"].startswith("write")] == [
        "write tar.zst",
        "write oci",
    ]
    assert (first["sources"]["fetched"], second["sources"]["fetched"]) == (1, 0), "both have the same package"


BAD = {
    "no-folder": ("nowhere/t.html", 1, "its folder is not there"),
    "a-folder": ("archive", 1, "is there already and is not a page of timings"),
    "a-recipe": ("r.yaml", 1, "is there already and is not a page of timings"),
    "a-device": ("/dev/null", 1, "is there already and is not a page of timings"),
    "standard-output": ("-", 2, "the page is a file"),
    "among-outputs": ("out/mini/amd64/t.html", 2, "lies in a folder of outputs"),
    "below-a-file": ("r.yaml/t.html", 1, "its folder is not there"),
    "not-given": ("", 1, "is there already and is not a page"),
}


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("case", BAD)
def test_a_path_that_cannot_be_a_page_is_told_before_anything_is_done(place: Place, case: str) -> None:
    path, status, told = BAD[case]
    before = (place.folder / "r.yaml").read_bytes()
    done = place("build", "r.yaml", "--timings", path)
    assert (done.status, done.out) == (status, "")
    assert told in done.err and "hint: name " in done.err
    assert "Traceback" not in done.err
    assert not (place.folder / "out").exists() and not (place.folder / "r.lock").exists()
    assert place.server.requests == []
    assert (place.folder / "r.yaml").read_bytes() == before
    assert Path("/dev/null").is_char_device()


@pytest.mark.counts("bad-input")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(place: Place) -> None:
    (place.folder / "shut").mkdir(mode=0o500)
    done = place("build", "r.yaml", "--timings", "shut/t.html")
    assert done.status == 1 and "its folder cannot be written to" in done.err


def test_a_page_beside_the_outputs_is_replaced_and_changes_nothing(place: Place) -> None:
    place.build("--timings", "out/t.html")
    (place.folder / "link.html").symlink_to("out/t.html")
    again = place.build("--timings", "link.html")
    assert again["unchanged"]
    assert (place.folder / "link.html").is_symlink()
    assert (place.folder / "out/t.html").read_text().count("<h2>") == 1
    assert sorted(p.name for p in (place.folder / "out").iterdir()) == ["mini", "t.html"]


def test_a_disk_that_has_no_room_for_the_page_is_told_and_the_outputs_stand(place: Place) -> None:
    (place.folder / "t.html").write_text("")
    (place.folder / ".t.html.new").mkdir()  # what is in the way of the file aside
    done = place("build", "r.yaml", "--json", "--timings", "t.html")
    assert done.status == 1
    assert "the page of timings cannot be written" in done.err
    assert [b["name"] for b in done.json["builds"]] == ["mini"]
    assert (place.folder / "out/mini/amd64/manifest.json").is_file()
    assert (place.folder / "t.html").read_text() == ""


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("path", ["x" * 300, f"{'d/' * 2100}t.html"], ids=["long-name", "long-path"])
def test_a_path_that_no_file_can_have(tmp_path: Path, path: str) -> None:
    with pytest.raises(ArtifactError, match="the page of timings cannot be written"):
        checked(PAGE, path, tmp_path)
