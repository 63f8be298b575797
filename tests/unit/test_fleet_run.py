"""`mkroot build` of several recipes: shared work is done once, a failure stops nothing else, and it adds up."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mkroot.build import Options
from mkroot.fleet.local import LocalEngine
from mkroot.fleet.matrix import Given, variants
from mkroot.fleet.model import Change, Row
from mkroot.fleet.run import Report, run
from mkroot.resolve.lock import decode_lock
from tests.testarchive import Archive
from tests.testarchive.server import Server
from tests.unit.commands import Done, Program, small_archive

PLAIN = {"configure": "none", "outputs": ["tar", "oci"]}
INCLUDES = {"a": ["tool"], "b": ["other"], "c": ["lib"], "d": ["tool", "other"], "e": ["tool", "lib"], "f": ["other"]}


class Fleet:
    """A program with some recipes for an archive that is served."""

    def __init__(self, folder: Path, archive: Archive, server: Server) -> None:
        self.folder, self.archive, self.server = folder, archive, server
        self.program = Program(folder)

    def recipe(self, file: str, *include: str, **more: Any) -> str:
        data = self.archive.recipe(uri=self.server.uri, **PLAIN, packages={"include": list(include)})
        return self.program.recipe(f"{file}.yaml", data | {"name": file} | more)

    def __call__(self, *words: str, **environ: str) -> Done:
        return self.program(*words, **environ)

    def debs(self) -> Counter[str]:
        """How often each package was asked for."""
        return Counter(path.rpartition("/")[2] for path in self.server.paths("*.deb"))

    def file(self, path: str) -> Path:
        return self.folder / path

    @property
    def left(self) -> list[str]:
        return [p.name for p in self.file("store/tmp").glob("*")]


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[Fleet]:
    archive = small_archive(folder / "archive") if not settings else Archive(folder / "archive", **settings)
    if settings:
        for architecture in settings["architectures"]:
            archive.add("base", essential=True, architecture=architecture, files={"etc/base": architecture.encode()})
    with archive.serve() as server:
        yield Fleet(folder, archive, server)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with served(tmp_path) as made:
        yield made


def table(err: str) -> list[list[str]]:
    """The rows of the table at the end."""
    lines = err.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("recipe "))
    rows = []
    for line in lines[start + 1 :]:
        if line.startswith(("error: ", "hint: ")) or " in all" in line:
            break
        rows.append(line.split())
    return rows


def tree(folder: Path) -> dict[str, str]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def index_of(fleet: Fleet, tag: str) -> dict[str, str]:
    """What a tag of the image store names: digests by architecture."""
    root = fleet.file("store/oci")
    manifests = json.loads((root / "index.json").read_text())["manifests"]
    named = next(m for m in manifests if m.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag)
    if "index" not in named["mediaType"]:
        return {"": named["digest"]}
    blob = json.loads((root / "blobs/sha256" / named["digest"].removeprefix("sha256:")).read_text())
    return {m["platform"]["architecture"]: m["digest"] for m in blob["manifests"]}


# ---- what is shared


def test_six_recipes_fetch_each_package_once_and_give_the_bytes_of_each_alone(fleet: Fleet) -> None:
    recipes = [fleet.recipe(name, *include) for name, include in INCLUDES.items()]
    done = fleet("build", *recipes, "-o", "together", "--jobs", "3")
    assert done.status == 0, done.err
    assert [(row[0], row[2]) for row in table(done.err)] == [(recipe, "done") for recipe in recipes]
    assert fleet.debs() == dict.fromkeys(
        ["base_1.0_all.deb", "tool_2.0-1_all.deb", "lib_1.5_all.deb", "other_1.0_all.deb"], 1
    )
    assert max(Counter(fleet.server.paths("*/by-hash/*")).values()) == 1  # nor an index twice
    assert "6 built, 0 failed" in done.err
    assert fleet.left == []
    alone = fleet.file("alone-store")
    for recipe in recipes:
        lock = fleet.file(recipe).with_suffix(".lock")
        text = lock.read_bytes()
        lock.unlink()
        assert fleet("build", recipe, "-o", "alone", MKROOT_STORE=str(alone)).status == 0
        assert lock.read_bytes() == text  # the lock, too, is what a build alone makes
    assert tree(fleet.file("together")) == tree(fleet.file("alone"))


def test_what_is_there_unchanged_needs_no_step(fleet: Fleet) -> None:
    recipes = [fleet.recipe(name, *include) for name, include in INCLUDES.items()]
    assert fleet("build", *recipes).status == 0
    before = {p: p.stat().st_mtime_ns for p in fleet.file("out").rglob("*")}
    asked = len(fleet.server.requests)
    again = fleet("build", *recipes, "--json")
    assert again.status == 0
    assert [b["unchanged"] for b in again.json["builds"]] == [True] * 6
    assert len(fleet.server.requests) == asked
    assert {p: p.stat().st_mtime_ns for p in fleet.file("out").rglob("*")} == before
    fleet.file("out/c/amd64/rootfs.tar").write_bytes(b"")
    third = fleet("build", *recipes, "--json")
    assert [b["unchanged"] for b in third.json["builds"]] == [True, True, False, True, True, True]
    assert "0 built, 6 unchanged, 0 failed" in fleet("build", *recipes).err


def test_what_the_store_knows_is_copied_out_of_it(fleet: Fleet) -> None:
    """One step a recipe: nothing is unpacked for a build whose outputs alone are gone."""
    fleet.archive.add("large", files={"usr/lib/large": os.urandom(200_000)})
    fleet.archive.publish()
    paths = [str(fleet.file(fleet.recipe(n, "large", *INCLUDES[n], outputs=["tar.zst"]))) for n in "abd"]
    environ = fleet.program.environ
    given = [Given(shown=path, path=path, options=Options(out=fleet.file("out"))) for path in paths]

    def report() -> Report:
        return run(variants(given, ()), environ, lambda: LocalEngine(2, environ))

    first, made = report(), tree(fleet.file("out"))
    assert first.steps > 6
    shutil.rmtree(fleet.file("out"))
    second = report()
    assert second.steps == 3 and [row.state for row in second.rows] == ["done"] * 3
    assert all("a build that the store knows" in row.log for row in second.rows)
    assert tree(fleet.file("out")) == made
    shutil.rmtree(fleet.file("out"))
    for frame in fleet.file("store/frames").rglob("*"):  # what it knows is not there any more
        if frame.is_file():
            frame.unlink()
    third = report()
    assert third.steps == 3 and [row.state for row in third.rows] == ["done"] * 3
    assert all("not all of it any more" in row.log for row in third.rows), [row.log for row in third.rows]
    assert tree(fleet.file("out")) == made


def test_a_single_recipe_pays_nothing_for_it(fleet: Fleet) -> None:
    recipe = fleet.recipe("a", "tool")
    for _ in range(2):
        done = fleet("build", recipe, PYTHONPROFILEIMPORTTIME="1")
        assert done.status == 0
        assert "mkroot.build" in done.err
        assert "mkroot.fleet" not in done.err and "mkroot.cli.fleet" not in done.err


def test_the_rows_are_in_the_order_of_the_command_line(fleet: Fleet) -> None:
    recipes = [fleet.recipe(name, *INCLUDES[name]) for name in "fbd"]
    fleet.server.fault("*/base_*.deb", "slow", seconds=0.2)
    done = fleet("build", *recipes, "nowhere.yaml", fleet.recipe("a", "tool"), "--json")
    assert [b["recipe"] for b in done.json["builds"]] == ["f.yaml", "b.yaml", "d.yaml", "a.yaml"]
    assert [f["recipe"] for f in done.json["failed"]] == ["nowhere.yaml"]


def test_a_row_tells_its_way(fleet: Fleet) -> None:
    """What watches a run: every row at its beginning, what is under way, and at the end what it came to."""
    paths = [str(fleet.file(fleet.recipe(name, *INCLUDES[name]))) for name in "ab"]
    environ = fleet.program.environ
    seen: list[tuple[int, Row]] = []

    def report(arguments: Sequence[str]) -> Report:
        seen.clear()
        options = Options(out=fleet.file("out"))
        given = [Given(shown=path, path=path, options=options) for path in arguments]
        return run(
            variants(given, ()),
            environ,
            lambda: LocalEngine(1, environ),
            on_change=lambda i, row: seen.append((i, row)),
        )

    first = report(paths)
    assert [(i, row.state) for i, row in seen[:2]] == [(0, "waiting"), (1, "waiting")]
    assert {row.doing for i, row in seen if row.state == "running" and i == 0} == {
        f"{paths[0]} amd64: lock", f"{paths[0]} amd64: 2 shared packages", f"{paths[0]} amd64: outputs"
    }  # fmt: skip
    last = dict(seen)
    assert [last[0], last[1]] == list(first.rows)
    for row in first.rows:
        assert (row.state, row.doing, row.faults) == ("done", "", ())
        assert row.seconds > 0 and row.packages == 3 and row.size > 0
        assert row.change == Change(first=True)
        assert "resolve" in row.log and "fetch and unpack" in row.log and "shared packages\n" in row.log
    fleet.archive.add("tool", "3.0", files={"usr/bin/tool": b"x" * 5000})
    fleet.archive.publish()
    assert fleet("lock", "a.yaml", "--update").status == 0
    second = report([*paths, str(fleet.file("nowhere.yaml"))])
    assert [row.state for row in second.rows] == ["done", "unchanged", "failed"]
    changed = second.rows[0].change
    assert changed is not None and not changed.first
    assert (changed.added, changed.changed) == ((), ("tool 2.0-1 to 3.0",))
    assert second.rows[1].change is None and second.rows[1].packages == 3
    assert second.failed and not first.failed


# ---- failures


@pytest.mark.counts("fault")
def test_a_broken_recipe_stops_no_other(fleet: Fleet) -> None:
    good = [fleet.recipe(name, *INCLUDES[name]) for name in "abc"]
    wrong = fleet.recipe("wrong", "no-such-package")
    bad = fleet.program.recipe("bad.yaml", {"version": 1, "name": "bad", "colour": "red"})
    done = fleet("build", good[0], wrong, good[1], bad, good[2])
    assert done.status == 1
    assert [(row[0], row[2]) for row in table(done.err)] == [
        ("a.yaml", "done"), ("wrong.yaml", "failed"), ("b.yaml", "done"), ("bad.yaml", "failed"), ("c.yaml", "done")
    ]  # fmt: skip
    assert "error: wrong.yaml amd64: no package is called `no-such-package`" in done.err
    assert "error: bad.yaml:1:" in done.err
    assert "3 built, 2 failed" in done.err
    assert "Traceback" not in done.err
    assert not fleet.file("wrong.lock").exists()
    assert sorted(p.name for p in fleet.file("out").iterdir()) == ["a", "b", "c"]


@pytest.mark.counts("fault")
def test_a_shared_package_that_is_not_to_be_had_is_told_once(fleet: Fleet) -> None:
    recipes = [fleet.recipe(name, *INCLUDES[name]) for name in "abdf"]
    fleet.server.fault("*/other_*.deb", "status", times=None, status=404)
    done = fleet("build", *recipes)
    assert done.status == 1
    assert [(row[0], row[2]) for row in table(done.err)] == [
        ("a.yaml", "done"), ("b.yaml", "failed"), ("d.yaml", "failed"), ("f.yaml", "failed")
    ]  # fmt: skip
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "other" in errors[0] and "(and for 2 other jobs)" in errors[0]
    fleet.server.faults.clear()
    again = fleet("build", *recipes)
    assert again.status == 0
    assert "3 built, 1 unchanged, 0 failed" in again.err


@pytest.mark.counts("fault")
def test_a_shared_stage_that_fails_is_told_once(fleet: Fleet) -> None:
    """The archive has no shell, so no script can run; what needs none is built all the same."""
    fails = [fleet.recipe(name, *INCLUDES[name], configure="scripts") for name in "ab"]
    done = fleet("build", fails[0], fleet.recipe("c", "lib"), fails[1], "--jobs", "1")
    assert done.status == 1
    assert [(row[0], row[2]) for row in table(done.err)] == [
        ("a.yaml", "failed"), ("c.yaml", "done"), ("b.yaml", "failed")
    ]  # fmt: skip
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "(and for 1 other job)" in done.err, done.err
    assert "internal" not in done.err
    assert fleet.left == []


@pytest.mark.counts("fault")
def test_a_recipe_that_fails_on_one_architecture(tmp_path: Path) -> None:
    with served(tmp_path, architectures=("amd64", "arm64")) as fleet:
        fleet.archive.add("only", architecture="amd64", files={"usr/only": b"only"})
        fleet.archive.publish()
        both, other = fleet.recipe("both", "only", arch=["amd64", "arm64"]), fleet.recipe("other")
        done = fleet("build", both, other)
        assert done.status == 1
        assert [row[:3] for row in table(done.err)] == [
            ["both.yaml", "amd64", "done"], ["both.yaml", "arm64", "failed"], ["other.yaml", "amd64", "done"]
        ]  # fmt: skip
        assert "error: both.yaml arm64: " in done.err and "only" in done.err
        assert fleet.file("out/both/amd64/rootfs.tar").exists() and not fleet.file("out/both/arm64").exists()
        assert not fleet.file("both.lock").exists()  # one that lacks an architecture would be none


@pytest.mark.counts("fault")
def test_a_recipe_whose_package_fails_on_one_architecture(tmp_path: Path) -> None:
    """The image for the other one is made, and the one that failed keeps its place with the last image it had."""
    with served(tmp_path, architectures=("amd64", "arm64")) as fleet:
        both = fleet.recipe("both", arch=["amd64", "arm64"])
        assert fleet("build", both, fleet.recipe("other")).status == 0
        first = index_of(fleet, "both:latest")
        fleet.archive.add("base", "2.0", essential=True, architecture="arm64", files={"etc/base": b"2"})
        fleet.archive.publish()
        assert fleet("lock", both, "--update").status == 0
        fleet.server.fault("*/base_2.0_arm64.deb", "status", times=None, status=404)
        done = fleet("build", both, "other.yaml")
        assert [row[:3] for row in table(done.err)] == [
            ["both.yaml", "amd64", "done"], ["both.yaml", "arm64", "failed"], ["other.yaml", "amd64", "unchanged"]
        ]  # fmt: skip
        between = index_of(fleet, "both:latest")
        assert set(between) == {"amd64", "arm64"} and between["arm64"] == first["arm64"]
        fleet.server.faults.clear()
        again = fleet("build", both, "other.yaml")
        assert [row[2] for row in table(again.err)] == ["unchanged", "done", "unchanged"]
        last = index_of(fleet, "both:latest")
        assert set(last) == {"amd64", "arm64"}
        assert last["arm64"] != first["arm64"] and last["amd64"] == first["amd64"]


@pytest.mark.counts("fault")
def test_locks_that_cannot_be(fleet: Fleet) -> None:
    stale, good, none = fleet.recipe("stale", "tool"), fleet.recipe("good", "lib"), fleet.recipe("none", "lib")
    assert fleet("build", stale, good).status == 0
    fleet.recipe("stale", "other")
    fleet.file("good.lock").write_text("{}")
    done = fleet("build", stale, good, none, "--locked")
    assert done.status == 1
    assert "stale.lock: the lock is stale" in done.err and "hint: run `mkroot lock stale.yaml`" in done.err
    assert "good.lock: not a lock" in done.err
    assert "none.lock: there is no lock" in done.err and "hint: run `mkroot lock none.yaml`" in done.err
    assert not fleet.file("none.lock").exists()


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a.yaml", "-D", "x=1,2"], "would both write out/a/amd64"),
        (["a.yaml", "same.yaml"], "`a.yaml` and `same.yaml` would both write out/a/amd64"),
        (["a.yaml", "b.yaml", "--tag", "t"], "would both give their image the tag `t:latest`"),
        (["a.yaml", "--jobs", "0"], "`--jobs 0` is not a number of steps"),
        (["a.yaml", "--jobs", "many"], "`--jobs many` is not a number of steps"),
        (["-", "--jobs", "2"], "`-` for standard input does not go with `--jobs`"),
        (["a.yaml", "-D", "x=1,2", "--timings", "t.html"], "`--timings` does not go with `-D`"),
        (["a.yaml", "--all-arch", "--arch", "amd64"], "`--arch` does not go with `--all-arch`"),
        (["a.yaml", "b.yaml", "-D", "x"], "`-D x` is not NAME=VALUE"),
        (["a.yaml", "-D", "x=1,,2"], "names a value that is empty"),
        (["a.yaml", "b.yaml", "--output", "tra"], "`--output tra`: no such kind"),
        (["a.yaml", "b\udcff.yaml"], "is not UTF-8 text"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value).encode("ascii", "replace").decode(),
)
def test_a_wrong_command_line_begins_nothing(fleet: Fleet, words: list[str], says: str) -> None:
    for name in "ab":
        fleet.recipe(name, "tool", vars={"x": "0"})
    fleet.program.recipe("same.yaml", json.loads(fleet.file("a.yaml").read_text()))
    done = fleet("build", *words)
    assert done.status == 2, done.err
    assert says in done.err
    assert "hint: " in done.err or "UTF-8" in says
    assert not fleet.file("out").exists() and not list(fleet.folder.glob("*.lock"))
    assert fleet.server.requests == []


@pytest.mark.counts("hostile")
def test_a_name_of_a_recipe_is_no_command_to_the_terminal(fleet: Fleet) -> None:
    done = fleet("build", "a\x1b[31m.yaml", "b\nfake.yaml  amd64  done", "c\x9b2J.yaml")
    assert done.status == 1
    assert not {c for c in done.err if not c.isprintable() and c != "\n"}
    rows = done.err[done.err.index("recipe ") :].splitlines()
    assert len([line for line in rows if line.split()[2:3] == ["failed"] or line.split()[-4:-3] == ["failed"]]) == 3
    assert not [line for line in rows if line.startswith("fake.yaml  amd64  done  failed")]


@pytest.mark.counts("bad-input")
def test_an_output_folder_that_is_a_file(fleet: Fleet) -> None:
    fleet.file("out").write_text("mine")
    done = fleet("build", fleet.recipe("a", "tool"), fleet.recipe("b", "tool"))
    assert done.status == 1 and "out: the output folder is a file" in done.err
    assert fleet.file("out").read_text() == "mine"


# ---- values


def test_a_matrix_has_a_lock_for_each_value(fleet: Fleet) -> None:
    recipe = fleet.recipe("m", "${what}", vars={"what": "tool", "n": "1"}, name="m-${what}")
    done = fleet("build", recipe, "-D", "what=tool,lib", "-D", "n=7")
    assert done.status == 0, done.err
    assert [row[:4] for row in table(done.err)] == [
        ["m.yaml", "what=tool", "amd64", "done"], ["m.yaml", "what=lib", "amd64", "done"]
    ]  # fmt: skip
    assert sorted(p.name for p in fleet.folder.glob("*.lock")) == ["m.what=lib.lock", "m.what=tool.lock"]
    lock = decode_lock(fleet.file("m.what=lib.lock").read_bytes(), "x")
    assert [p.name for p in lock.root("amd64").packages] == ["base", "lib"]
    asked = len(fleet.server.requests)
    single = fleet("build", recipe, "-D", "what=lib", "-D", "n=7")  # takes the lock of the matrix
    assert single.status == 0 and "nothing changed" in single.err
    assert fleet("plan", recipe, "-D", "what=lib", "--json").json["packages"][-1]["name"] == "lib"
    assert len(fleet.server.requests) == asked
    assert fleet("build", recipe, "-D", "what=other").status == 0
    assert fleet.file("m.lock").exists()  # there was none for this value
    assert fleet("lock", recipe, "-D", "what=lib").out == ""
    assert sorted(p.name for p in fleet.folder.glob("*.lock")) == ["m.lock", "m.what=lib.lock", "m.what=tool.lock"]


def test_every_architecture_of_the_archive(tmp_path: Path) -> None:
    with served(tmp_path, architectures=("amd64", "arm64", "mips64el", "s390x")) as fleet:
        recipe = fleet.recipe("r")
        assert fleet("build", recipe).status == 0
        before = decode_lock(fleet.file("r.lock").read_bytes(), "x")
        done = fleet("build", recipe, "--all-arch")
        assert done.status == 0, done.err
        assert [row[1] for row in table(done.err)] == ["amd64", "arm64", "s390x"]
        lock = decode_lock(fleet.file("r.lock").read_bytes(), "x")
        assert sorted(lock.architectures) == ["amd64", "arm64", "s390x"]
        assert lock.architectures["amd64"] == before.architectures["amd64"]
        assert set(index_of(fleet, "r:latest")) == {"amd64", "arm64", "s390x"}
        asked = len(fleet.server.requests)
        again = fleet("build", recipe, "--all-arch", "--offline")
        assert [row[2] for row in table(again.err)] == ["unchanged"] * 3
        assert len(fleet.server.requests) == asked


@pytest.mark.counts("bad-input")
def test_an_archive_that_tells_no_architecture(tmp_path: Path) -> None:
    with served(tmp_path, architectures=("mips64el",)) as fleet:
        strange = fleet.recipe("strange", arch=["amd64"])
        gone = fleet.recipe("gone", suite="sid")
        done = fleet("build", strange, gone, "--all-arch")
        assert done.status == 1
        assert [row[:3] for row in table(done.err)] == [["strange.yaml", "-", "failed"], ["gone.yaml", "-", "failed"]]
        assert "strange.yaml:1:" in done.err and "has no architecture that mkroot knows" in done.err
        assert "hint: it has: mips64el" in done.err
        assert "there is no suite `sid`" in done.err
        assert not fleet.file("out").exists() and not list(fleet.folder.glob("*.lock"))


def test_an_index_of_architectures_is_what_one_build_makes(tmp_path: Path) -> None:
    with served(tmp_path, architectures=("amd64", "arm64")) as fleet:
        recipe = fleet.recipe("r", arch=["arm64", "amd64"])
        assert fleet("build", recipe, "--jobs", "2").status == 0
        found = index_of(fleet, "r:latest")
        fleet.program.environ["MKROOT_STORE"] = str(fleet.file("other/store"))
        assert fleet("build", recipe, "-o", "alone").status == 0
        assert tree(fleet.file("alone")) == tree(fleet.file("out"))
        other = Fleet(fleet.file("other"), fleet.archive, fleet.server)
        assert index_of(other, "r:latest") == found
        again = fleet("build", recipe, "-o", "alone")  # and a second build finds nothing to do, index or not
        assert again.err.count("nothing changed") == 2
        assert fleet("rmi", "r").status == 0
        retagged = fleet("build", recipe, "-o", "alone")
        assert retagged.status == 0
        assert index_of(other, "r:latest") == found


def test_an_image_on_another_of_the_run_comes_after_it(tmp_path: Path) -> None:
    with served(tmp_path) as fleet:
        top = fleet.program.recipe(
            "top.yaml",
            {"version": 1, "name": "top", "distro": "debian", "suite": "trixie", "arch": ["amd64"], "outputs": ["oci"],
             "image": {"from": "base:1", "tags": ["top:1"]}, "mirror": fleet.server.uri},
        )  # fmt: skip
        base = fleet.recipe("base", "lib", image={"tags": ["base:1"]})
        done = fleet("build", top, base, "--jobs", "2")
        assert done.status == 0, done.err
        lock = decode_lock(fleet.file("top.lock").read_bytes(), "x")
        assert lock.root("amd64").parent == index_of(fleet, "base:1")[""]
        assert [row[2] for row in table(fleet("build", top, base).err)] == ["unchanged"] * 2
        fleet.file("top.lock").unlink()
        fleet.recipe("base", "gone", image={"tags": ["base:1"]})
        fleet.file("base.lock").unlink()
        failed = fleet("build", top, base)
        assert failed.status == 1
        assert [row[2] for row in table(failed.err)] == ["skipped", "failed"]
        assert "error: top.yaml: it stands on " in failed.err


def test_no_lock_leaves_none(fleet: Fleet) -> None:
    done = fleet("build", fleet.recipe("a", "tool"), fleet.recipe("b", "tool"), "--no-lock")
    assert done.status == 0, done.err
    assert not list(fleet.folder.glob("*.lock"))
    assert fleet.left == []
    assert fleet.debs()["tool_2.0-1_all.deb"] == 1


def test_a_bundle_is_a_recipe_among_others(fleet: Fleet) -> None:
    fleet.file("key.asc").write_bytes(fleet.archive.keyring.read_bytes())
    a = fleet.recipe("a", "tool", keyring="key.asc")
    assert fleet("bundle", a, "-o", "a.tar").status == 0
    fleet.file("a.yaml").unlink()
    fleet.file("broken.tar").write_bytes(fleet.file("a.tar").read_bytes()[:-600])
    done = fleet("build", "a.tar", "broken.tar", fleet.recipe("b", "lib"))
    assert done.status == 1
    assert [row[:3] for row in table(done.err)] == [
        ["a.tar", "amd64", "done"], ["broken.tar", "-", "failed"], ["b.yaml", "amd64", "done"]
    ]  # fmt: skip
    assert "broken.tar: the bundle is damaged" in done.err
    assert fleet.left == []


# ---- ends


def children(session: int) -> list[str]:
    run = subprocess.run(["ps", "-s", str(session), "-o", "stat=,pid=,args="], capture_output=True, text=True)
    return [line for line in run.stdout.splitlines() if not line.lstrip().startswith("Z")]


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("number", "status", "pattern"),
    [
        (signal.SIGINT, 130, "*/tool_*.deb"),
        (signal.SIGTERM, 143, "*/tool_*.deb"),
        (signal.SIGINT, 130, "*/InRelease"),
    ],
    ids=["Ctrl-C over packages", "SIGTERM over packages", "Ctrl-C over locks"],
)
def test_an_interrupted_run_ends_in_two_seconds(fleet: Fleet, number: int, status: int, pattern: str) -> None:
    recipes = [fleet.recipe(name, *INCLUDES[name]) for name in "abd"]
    fault = fleet.server.fault(pattern, "stall", times=None)
    with fleet.program.started("build", *recipes, "--jobs", "3") as process:
        end = time.monotonic() + 20
        while not fault.seen and time.monotonic() < end:
            time.sleep(0.02)
        start = time.monotonic()
        os.killpg(process.pid, number)  # as a terminal does: to all of them
        _, err = process.communicate(timeout=10)
        assert time.monotonic() - start < 2
        assert process.returncode == status, err
        assert "Traceback" not in err
    assert children(process.pid) == []
    assert not fleet.file("out").exists() or not list(fleet.file("out").rglob("rootfs.tar"))
    fleet.server.faults.clear()
    assert fleet("build", *recipes).status == 0
    assert fleet.left == []


@pytest.mark.counts("fault")
def test_a_child_that_is_killed_fails_its_row_alone(fleet: Fleet) -> None:
    recipes = [fleet.recipe("a", "tool"), fleet.recipe("b", "lib"), fleet.recipe("c", "lib")]
    assert fleet("lock", "a.yaml").status == fleet("lock", "b.yaml").status == fleet("lock", "c.yaml").status == 0
    fault = fleet.server.fault("*/tool_*.deb", "stall", times=None)
    with fleet.program.started("build", *recipes, "--jobs", "1") as process:
        end = time.monotonic() + 20
        while not fault.seen and time.monotonic() < end:
            time.sleep(0.02)
        run = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "fleet.process"], capture_output=True, text=True)
        (child,) = run.stdout.split()
        os.kill(int(child), signal.SIGKILL)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert [row[2] for row in table(err)] == ["failed", "done", "done"]
    assert "error: a.yaml amd64: the process that did it was killed by signal 9" in err
    assert "hint: there may have been too little memory" in err
    assert fleet.left == []
