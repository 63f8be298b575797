"""What an update of the archive would change in locks, and what of it is a security fix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mkroot.looking import Looks
from tests.testarchive import Archive
from tests.unit.commands import Program
from tests.unit.nightly import Nightly


@pytest.fixture
def night(tmp_path: Path) -> Nightly:
    return Nightly(tmp_path)


def test_a_fresh_lock_is_up_to_date(night: Nightly) -> None:
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    written = (night.folder / "r.lock").read_bytes()
    [verdict] = night.verdicts(recipe)
    assert (verdict.state, verdict.packages, verdict.added, verdict.removed) == ("current", (), (), ())
    night.archive.suites[night.suite].date += 3600  # a new Release alone changes no package
    night.update()
    assert night.verdicts(recipe)[0].state == "current"
    assert (night.folder / "r.lock").read_bytes() == written


def fix_in_the_pocket_alone(night: Nightly) -> None:
    night.add("lib", "1.0+fix1", "-security")


def fix_copied_to_updates(night: Nightly) -> None:
    night.add("lib", "1.0+fix1", "-security")
    night.add("lib", "1.0+fix1", "-updates")


def fix_overtaken_in_updates(night: Nightly) -> None:
    night.add("lib", "1.0+fix1", "-security")
    night.add("lib", "1.1", "-updates")


def fix_moved_into_the_suite(night: Nightly) -> None:
    night.add("lib", "1.0+fix1", "-security")
    night.add("lib", "1.0+fix1")


def fix_of_another_binary_of_the_source(night: Nightly) -> None:
    night.add("lib-dev", "1.1", "-security", source="lib")
    night.add("lib", "1.1", "-updates")


def fix_as_a_rebuild_of_the_same_source(night: Nightly) -> None:
    night.add("lib", "1.0+b1", "-security", source="lib (1.0)")


def fix_with_an_own_version_of_the_source(night: Nightly) -> None:
    night.add("other-binary", "7", "-security", source="lib (1.0.5)")
    night.add("lib", "1.1", "-updates")


def no_fix_in_updates(night: Nightly) -> None:
    night.add("lib", "1.1", "-updates")


def no_fix_of_something_older(night: Nightly) -> None:
    night.add("lib", "0.9+fix1", "-security")
    night.add("lib", "1.1", "-updates")


def no_fix_of_what_is_locked(night: Nightly) -> None:
    night.add("lib", "1.0", "-security")
    night.add("lib", "1.1", "-updates")


def no_fix_of_another_package(night: Nightly) -> None:
    night.add("library", "1.0.5", "-security")
    night.add("lib", "1.1", "-updates")


FIXES = [
    fix_in_the_pocket_alone,
    fix_copied_to_updates,
    fix_overtaken_in_updates,
    fix_moved_into_the_suite,
    fix_of_another_binary_of_the_source,
    fix_as_a_rebuild_of_the_same_source,
    fix_with_an_own_version_of_the_source,
]
NONE = [no_fix_in_updates, no_fix_of_something_older, no_fix_of_what_is_locked, no_fix_of_another_package]


@pytest.mark.parametrize("distro", ["debian", "ubuntu"])
@pytest.mark.parametrize("change", [*FIXES, *NONE], ids=lambda change: change.__name__)
def test_what_is_a_security_fix(tmp_path: Path, distro: str, change: Callable[[Nightly], None]) -> None:
    night = Nightly(tmp_path, distro)
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    change(night)
    night.update()
    [verdict] = night.verdicts(recipe)
    assert [(p.name, p.before, p.security) for p in verdict.packages] == [("lib", "1.0", change in FIXES)]
    assert verdict.state == "outdated"
    night.lock(recipe)  # and that is what it told
    assert night.versions(recipe) == {"app": "1.0", "lib-data": "1.0", "tool": "1.0", "lib": verdict.packages[0].after}


def test_a_fix_that_the_recipe_keeps_out_is_none(night: Nightly) -> None:
    recipe = night.recipe(packages={"include": ["app", "lib=1.*"]})
    night.lock(recipe, fresh=True)
    night.add("lib", "2.0", "-security")
    night.add("lib", "1.1", "-updates")
    night.update()
    [verdict] = night.verdicts(recipe)
    assert [(p.after, p.suite, p.security) for p in verdict.packages] == [("1.1", "trixie-updates", False)]


@pytest.mark.parametrize(("suite", "security"), [("extra", False), ("extra-security", True)])
def test_a_further_source_speaks_for_its_own_packages(night: Nightly, suite: str, security: bool) -> None:
    night.add("own", "1.0", suite=suite)
    night.update()
    source = {"id": "own", "uri": night.archive.uri, "suites": [suite], "components": ["main"]}
    source["key"] = {"file": str(night.archive.keyring), "fingerprint": night.archive.key.fingerprint}
    recipe = night.recipe(sources=[source], packages={"variant": "none", "include": ["own", "lib"]})
    night.lock(recipe, fresh=True)
    night.add("own", "1.1", suite=suite)
    night.add("lib", "1.1", suite=suite)  # what a stranger calls a fix of the distribution's package
    night.update()
    [verdict] = night.verdicts(recipe)
    assert {(p.name, p.suite, p.security) for p in verdict.packages} == {
        ("own", suite, security),
        ("lib", suite, False),
    }


def test_what_comes_and_goes_is_told(night: Nightly) -> None:
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    night.add("app", "1.1", "-security", depends="lib2")
    night.add("lib2", "2.0", "-security")
    night.update()
    [verdict] = night.verdicts(recipe)
    assert [(p.name, p.security) for p in verdict.packages] == [("app", True)]
    assert [(p.name, p.suite) for p in verdict.added] == [("lib2", "trixie-security")]
    assert [p.name for p in verdict.removed] == ["lib", "lib-data"]


# --- recipes about which nothing can be told


def missing(night: Nightly) -> str:
    return night.recipe("bad.yaml")


def stale(night: Nightly) -> str:
    night.lock(night.recipe("bad.yaml"), fresh=True)
    return night.recipe("bad.yaml", packages={"include": ["app"]})


def no_lock_but_something_else(night: Nightly) -> str:
    (night.folder / "bad.lock").write_text("{")
    return night.recipe("bad.yaml")


def of_the_future(night: Nightly) -> str:
    recipe = night.recipe("bad.yaml")
    night.lock(recipe, fresh=True)
    path = night.folder / "bad.lock"
    path.write_text(path.read_text().replace('"date": 17', '"date": 18'))
    return recipe


def faulty(night: Nightly) -> str:
    return night.recipe("bad.yaml", colour="red")


def gone(night: Nightly) -> str:
    return str(night.folder / "bad.yaml")


def without_an_answer(night: Nightly) -> str:
    night.add("rare", "1.0")
    night.update()
    recipe = night.recipe("bad.yaml", packages={"include": ["rare"]})
    night.lock(recipe, fresh=True)
    night.drop("rare", night.suite)
    night.update()
    return recipe


def of_a_suite_that_is_not_there(night: Nightly) -> str:
    recipe = night.recipe("bad.yaml")
    night.lock(recipe, fresh=True)
    text = Path(recipe).read_text()
    Path(recipe).write_text(text.replace(night.archive.uri, night.archive.uri + "-gone"))
    return recipe


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("make", "state", "says"),
    [
        (missing, "missing", "there is no lock"),
        (stale, "stale", "the lock is stale"),
        (no_lock_but_something_else, "failed", "not a lock"),
        (of_the_future, "failed", "went back in time"),
        (faulty, "failed", "colour"),
        (gone, "failed", "No such"),
        (without_an_answer, "failed", "no package is called `rare`"),
        (of_a_suite_that_is_not_there, "failed", "there is no suite `trixie"),  # or one of its pockets
    ],
    ids=lambda one: one.__name__ if callable(one) else None,
)
def test_what_cannot_be_told_stops_nothing(
    night: Nightly, make: Callable[[Nightly], str], state: str, says: str
) -> None:
    good = night.recipe("good.yaml")
    night.lock(good, fresh=True)
    bad = make(night)
    night.add("lib", "1.1", "-security")
    night.update()
    before = {p.name: p.read_bytes() for p in night.folder.iterdir() if p.is_file()}
    first, second, third = night.verdicts(good, bad, good)
    assert (first.state, second.state, third.state) == ("outdated", state, "outdated")
    assert says in str(second.errors[0])
    assert {p.name: p.read_bytes() for p in night.folder.iterdir() if p.is_file()} == before


def test_an_architecture_that_is_not_locked(tmp_path: Path) -> None:
    night = Nightly(tmp_path, architectures=("amd64", "arm64"))
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    night.recipe(arch=["amd64", "arm64"])
    first, second = night.verdicts(recipe)
    assert (first.state, second.state, second.architecture) == ("current", "missing", "arm64")
    assert "no packages for `arm64`" in str(second.errors[0])


DATE = "20260101T000000Z"


@pytest.fixture
def dated(night: Nightly) -> Nightly:
    """The archive with a dated copy, as it was before anything changed."""
    night.update()
    shutil.copytree(night.archive.root, night.folder / DATE)
    (night.folder / "config.toml").write_text(f'[snapshots]\ndebian = "file:{night.folder}/{{snapshot}}/{{archive}}"\n')
    night.environ["MKROOT_CONFIG"] = str(night.folder / "config.toml")
    return night


def test_a_snapshot_does_not_move(dated: Nightly) -> None:
    recipe = dated.recipe(snapshot=DATE, pockets=[])
    dated.lock(recipe, fresh=True)
    shutil.rmtree(dated.folder / DATE)  # nobody is asked
    shutil.rmtree(dated.archive.tree)
    [verdict] = dated.verdicts(recipe)
    assert (verdict.state, verdict.errors) == ("pinned", ())


def test_beside_a_snapshot_a_further_source_moves(dated: Nightly) -> None:
    dated.add("own", "1.0", suite="extra")
    dated.update()
    source = {"id": "own", "uri": dated.archive.uri, "suites": ["extra"], "components": ["main"]}
    source["key"] = {"file": str(dated.archive.keyring), "fingerprint": dated.archive.key.fingerprint}
    packages = {"variant": "none", "include": ["own", "lib"]}
    recipe = dated.recipe(snapshot=DATE, pockets=[], sources=[source], packages=packages)
    dated.lock(recipe, fresh=True)
    dated.add("own", "1.1", suite="extra")
    dated.add("lib", "1.1")
    dated.update()
    [verdict] = dated.verdicts(recipe)
    assert [(p.name, p.after) for p in verdict.packages] == [("own", "1.1")]


# --- many recipes on one archive


def test_an_archive_is_asked_once(night: Nightly) -> None:
    with night.archive.serve() as server:
        recipes = [night.recipe(f"r{n}.yaml", mirror=server.uri, name=f"r{n}") for n in range(5)]
        for recipe in recipes:
            night.lock(recipe, fresh=True)
        server.requests.clear()
        assert {v.state for v in night.verdicts(*recipes)} == {"current"}
        asked = [path for path, _ in server.requests]
        assert sorted(asked) == sorted(set(asked)) and len(asked) == 3


def test_a_silent_archive_is_asked_once(night: Nightly) -> None:
    with night.archive.serve() as server:
        recipes = [night.recipe(f"r{n}.yaml", mirror=server.uri, name=f"r{n}") for n in range(3)]
        for recipe in recipes:
            night.lock(recipe, fresh=True)
        server.fault("*", "status", status=404, times=None)
        looks = Looks()
        told = [str(v.errors[0]) for v in night.verdicts(recipes[0], looks=looks)]
        server.requests.clear()
        told += [str(v.errors[0]) for v in night.verdicts(*recipes[1:], looks=looks)]
        assert len(told) == 3 and all("there is no suite" in line for line in told)
        assert server.requests == []


@pytest.mark.counts("trust-refused")
def test_a_lock_that_knows_a_newer_release_is_told_for_itself(night: Nightly) -> None:
    old, new = night.recipe("old.yaml"), night.recipe("new.yaml")
    night.lock(old, fresh=True)
    night.archive.suites[night.suite].date += 3600
    night.update()
    night.lock(new, fresh=True)
    night.archive.suites[night.suite].date -= 3600
    night.update()
    night.environ["MKROOT_STORE"] = str(night.folder / "another")
    for order in ((old, new), (new, old)):
        states = {v.recipe: (v.state, *map(str, v.errors)) for v in night.verdicts(*order)}
        assert states[old] == ("current",)
        assert states[new][0] == "failed" and "the lock knows one" in states[new][1]


def test_recipes_on_two_archives_are_not_mixed_up(night: Nightly) -> None:
    other = Archive(night.folder / "other", key=night.archive.key)
    other.add("base", "9.0", essential=True)
    other.add("app", "9.0")
    other.add("tool", "9.0")
    recipes = [night.recipe("a.yaml"), night.recipe("b.yaml", mirror=other.uri)]
    for recipe in recipes:
        night.lock(recipe, fresh=True)
    other.add("tool", "9.1")
    other.publish()
    looks = Looks()
    assert [v.state for v in night.verdicts(*recipes, looks=looks)] == ["current", "outdated"]


# --- the command


@pytest.fixture
def program(night: Nightly) -> Program:
    return Program(night.folder)


def test_the_command(night: Nightly, program: Program) -> None:
    first, second = (
        Path(night.recipe()).name,
        Path(night.recipe("s.yaml", name="s", packages={"include": ["tool"]})).name,
    )
    for one in (first, second):
        night.lock(str(night.folder / one), fresh=True)
    done = program("outdated", first, second, "--exit-code")
    assert (done.status, done.err) == (0, "0 of 2 locks outdated, 0 with security fixes\n")
    night.add("lib", "1.1", "-security")
    night.add("app", "1.1", "-updates", depends="lib")
    night.update()
    assert program("outdated", first, second).status == 0
    done = program("outdated", first, second, "--exit-code")
    assert (done.status, done.err) == (3, "1 of 2 locks outdated, 1 with security fixes\n")
    lines = done.out.splitlines()
    assert lines[0] == "r.yaml amd64: 3 changes, security fixes: 2"
    assert [line.split() for line in lines[1:4]] == [
        ["~", "app", "1.0", "→", "1.1", "trixie-updates"],
        ["~", "lib", "1.0", "→", "1.1", "trixie-security", "security"],
        ["-", "lib-data", "1.0", "security"],
    ]
    assert lines[4:] == ["s.yaml amd64: up to date"]


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("command", ["outdated", "lock"])
def test_a_lock_says_nothing_to_a_terminal(night: Nightly, program: Program, command: str) -> None:
    """What stands in a lock, or in an index, comes out as text."""
    night.lock(night.recipe(), fresh=True)
    path = night.folder / "r.lock"
    lock = json.loads(path.read_text())
    root = lock["architectures"]["amd64"]
    for package in root["packages"]:
        package["version"] += "\x1b[2J"
        package["sha256"] = "0" * 64
    root["packages"][0]["name"] = "gone\x1b[2J"
    lock["architectures"]["\x1b[2J"] = {"packages": []}
    path.write_text(json.dumps(lock))
    done = program(command, "r.yaml", *(["--arch", "amd64"] if command == "lock" else []))
    assert "\x1b" not in done.out + done.err and "Traceback" not in done.err
    assert "gone\\x1b[2J" in done.out


@pytest.mark.counts("bad-input")
def test_the_command_as_json(night: Nightly, program: Program) -> None:
    recipe = night.recipe(image={"tags": ["mini:1"]})
    night.lock(recipe, fresh=True)
    night.add("lib", "1.1", "-security")
    night.update()
    done = program("outdated", "r.yaml", "nothing.yaml", "--json", "--exit-code")
    assert done.status == 1  # what cannot be told is worse than what is outdated
    assert done.json["summary"] == {"locks": 2, "outdated": 1, "security": 1, "failed": 1}
    good, bad = done.json["locks"]
    assert {k: good[k] for k in ("recipe", "name", "architecture", "lock", "state", "security", "images")} == {
        "recipe": "r.yaml",
        "name": "mini",
        "architecture": "amd64",
        "lock": "r.lock",
        "state": "outdated",
        "security": 1,
        "images": ["mini:1"],
    }
    assert good["packages"] == [
        {
            "name": "lib",
            "architecture": "all",
            "source": "lib",
            "before": "1.0",
            "after": "1.1",
            "suite": "trixie-security",
            "security": True,
            "kind": "upgraded",
        }
    ]
    assert (bad["state"], bad["architecture"], bad["packages"]) == ("failed", None, [])
    assert "No such" in bad["errors"][0]["what"]
    assert "nothing.yaml" in done.err and "Traceback" not in done.err


def test_offline_it_tells_what_the_store_knows(night: Nightly, program: Program) -> None:
    night.lock(night.recipe(), fresh=True)
    night.add("lib", "1.1", "-security")
    night.update()
    assert "1 of 1 lock" not in program("outdated", "r.yaml", "--offline").err
    assert program("outdated", "r.yaml").status == 0
    night.archive.root.rename(night.folder / "away")
    (night.folder / "archive").mkdir()
    (night.folder / "away" / "archive-key.asc").rename(night.archive.keyring)
    assert "1 of 1 lock outdated, 1 with" in program("outdated", "r.yaml", "--offline").err
