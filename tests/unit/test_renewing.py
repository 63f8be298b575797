"""A part of a lock is renewed: what is named, or what has a security fix. The rest keeps its versions."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from mkroot.archive.http import Http
from mkroot.archive.inrelease import Policy
from mkroot.archive.refresh import refresh
from mkroot.debian.package import Package
from mkroot.decided import Answer
from mkroot.errors import LockError, ResolutionError
from mkroot.keeping import kept
from mkroot.origins import origin
from mkroot.recipe.load import load
from mkroot.renewing import Update, renew
from mkroot.resolve.lock import LockedPackage
from mkroot.resolve.request import Request
from mkroot.sources import Archive as Looked
from mkroot.store.store import Store
from mkroot.store.unpack import layer_key
from tests.unit.commands import Program
from tests.unit.nightly import Nightly
from tests.unit.parents import base_tar


@pytest.fixture
def night(tmp_path: Path) -> Nightly:
    return Nightly(tmp_path)


@pytest.fixture
def program(night: Nightly) -> Program:
    return Program(night.folder)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("distro", ["debian", "ubuntu"])
def test_security_fixes_alone(tmp_path: Path, distro: str) -> None:
    night = Nightly(tmp_path, distro)
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    before = night.locked(recipe).root("amd64")
    for name in ("lib", "lib-data"):
        night.add(name, "1.1", "-security", source="lib")
    night.add("tool", "1.1", "-updates")
    night.add("app", "1.1", "-updates", depends="lib, lib-data")
    night.update()
    assert night.lock(recipe, security=True) == []
    assert night.versions(recipe) == {"app": "1.0", "lib": "1.1", "lib-data": "1.1", "tool": "1.0"}
    after = {p.key: p for p in night.locked(recipe).root("amd64").packages}
    assert {p.key for p in before.packages if after[p.key] != p} == {("lib", "all"), ("lib-data", "all")}
    assert [v.security for v in night.verdicts(recipe)] == [0]
    night.lock(recipe)
    assert night.versions(recipe) == {"app": "1.1", "lib": "1.1", "lib-data": "1.1", "tool": "1.1"}


def test_without_a_fix_the_lock_stays_byte_for_byte(night: Nightly) -> None:
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    lock = Path(recipe).with_suffix(".lock")
    written, stamp = lock.read_bytes(), lock.stat().st_mtime_ns
    night.add("tool", "1.1", "-updates")
    for suite in night.archive.suites.values():
        suite.date += 3600
    night.update()
    night.lock(recipe, security=True)
    assert (lock.read_bytes(), lock.stat().st_mtime_ns) == (written, stamp)
    night.lock(recipe, "lib")  # which takes the Releases' new dates
    assert lock.read_bytes() != written


def test_binaries_of_one_source_stay_in_step(night: Nightly) -> None:
    """The fix is of lib alone; lib-data, built from the same source, comes along."""
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    night.add("lib", "1.1", "-security", source="lib")
    night.add("lib-data", "1.1", "-updates", source="lib")
    night.add("tool", "1.1", "-updates")
    night.update()
    night.lock(recipe, security=True)
    assert night.versions(recipe) == {"app": "1.0", "lib": "1.1", "lib-data": "1.1", "tool": "1.0"}


def test_a_fix_of_what_a_whole_renewal_would_drop(night: Nightly) -> None:
    """The newer app needs no lib any more, but it is no fix, so app stays, and lib with it: it must not stay flawed."""
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    night.add("lib", "1.1", "-security")
    night.add("app", "2.0", "-updates")
    night.update()
    [verdict] = night.verdicts(recipe)
    assert [(p.name, p.security) for p in verdict.packages] == [("app", False)]
    assert [(p.name, p.security) for p in verdict.removed] == [("lib", True), ("lib-data", True)]  # of one source
    assert verdict.security == 2
    assert night.lock(recipe, security=True) == []
    assert night.versions(recipe) == {"app": "1.0", "lib": "1.1", "lib-data": "1.0", "tool": "1.0"}


def test_a_fix_that_nothing_here_can_take(night: Nightly) -> None:
    night.add("app", "1.0", depends="lib (= 1.0)")
    recipe = night.recipe(packages={"include": ["tool", "app=1.*"]})
    night.lock(recipe, fresh=True)
    written = files(night.folder)["r.lock"]
    night.add("lib", "1.1", "-security")
    for suite in night.archive.suites.values():
        suite.date += 3600
    night.archive.add("app", "1.0.1", suite="trixie-updates")  # without lib, and no fix
    night.update()
    assert [v.security for v in night.verdicts(recipe)] == [1]
    night.lock(recipe, security=True)
    assert night.versions(recipe) == {"app": "1.0", "lib": "1.0", "tool": "1.0"}
    assert files(night.folder)["r.lock"] == written


def test_a_new_kernel_comes_and_the_old_one_goes(night: Nightly) -> None:
    night.add("linux-image", "1", depends="linux-image-1", source="linux")
    night.add("linux-image-1", "1", source="linux")
    recipe = night.recipe(packages={"include": ["linux-image", "tool"]})
    night.update()
    night.lock(recipe, fresh=True)
    night.add("linux-image", "2", "-security", depends="linux-image-2", source="linux")
    night.add("linux-image-2", "2", "-security", source="linux")
    night.add("tool", "1.1", "-updates")
    night.update()
    assert night.lock(recipe, security=True) == []
    assert night.versions(recipe) == {"linux-image": "2", "linux-image-2": "2", "tool": "1.0"}


def test_a_fix_below_comes_with_the_image_that_the_root_stands_on(night: Nightly, program: Program) -> None:
    """The tag is another image now: the lock takes it, and of its own packages only what has a fix."""
    for n in (1, 2):
        base_tar(night.folder / f"{n}.tar", files={"etc/which": f"{n}".encode()})
    first = program("import", "1.tar", "below:1", "--arch", "amd64")
    assert first.status == 0, first.err
    recipe = night.recipe(image={"from": "below:1"}, packages={"include": ["app", "tool"]}, configure="scripts")
    night.lock(recipe, fresh=True)
    before = night.locked(recipe).root("amd64")
    night.add("tool", "1.1", "-updates")
    night.update()
    written = files(night.folder)["r.lock"]
    night.lock(recipe, security=True)
    assert files(night.folder)["r.lock"] == written
    assert program("import", "2.tar", "below:1", "--arch", "amd64").status == 0
    [verdict] = night.verdicts(recipe)
    assert verdict.parent is not None and verdict.parent[0] == before.parent
    assert "~ the image below  sha256:" in program("outdated", "r.yaml").out
    night.lock(recipe, security=True)
    after = night.locked(recipe).root("amd64")
    assert (after.parent, after.packages) == (verdict.parent[1], before.packages)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("wish", ["app=1.*", "app/trixie-updates"])
def test_what_the_recipe_asks_for_by_a_pattern_stays_as_well(night: Nightly, wish: str, listed: bool) -> None:
    night.drop("app", night.suite)
    night.add("app", "1.0", "-updates", depends="lib (>= 1.0), lib-data")
    recipe = night.recipe(packages={"include": ["tool", wish]})
    night.lock(recipe, fresh=True)
    if not listed:
        night.drop("app", "trixie-updates")
    night.archive.add("app", "1.1", suite="trixie-updates", depends="lib")
    night.add("tool", "1.1", "-updates")
    night.update()
    told = night.lock(recipe, "tool")
    assert [line.partition(";")[0] for line in told] == (
        [] if listed else ["kept, though no index has it any more: app 1.0"]
    )
    assert night.versions(recipe) == {"app": "1.0", "lib": "1.0", "lib-data": "1.0", "tool": "1.1"}
    night.lock(recipe)
    assert night.versions(recipe) == {"app": "1.1", "lib": "1.0", "tool": "1.1"}


# --- what cannot stay beside a fix


def needs_a_newer_one(night: Nightly) -> str:
    night.add("lib", "1.1", "-security", depends="tool (>= 1.1)")
    night.add("tool", "1.1", "-updates")
    return "tool 1.0 → 1.1 as well: lib 1.1 depends on tool (>= 1.1)"


def breaks_the_old_one(night: Nightly) -> str:
    night.add("lib", "1.1", "-security", breaks="tool (<< 1.1)")
    night.add("tool", "1.1", "-updates")
    return "tool 1.0 → 1.1 as well: lib 1.1 breaks tool (<< 1.1)"


def the_old_one_needs_the_flaw(night: Nightly) -> str:
    night.add("tool", "1.1", "-updates", depends="lib (>= 1.1)")
    night.add("lib", "1.1", "-security")
    return "tool 1.0 → 1.1 as well: tool 1.0 depends on lib (= 1.0)"


@pytest.mark.parametrize(
    "change", [needs_a_newer_one, breaks_the_old_one, the_old_one_needs_the_flaw], ids=lambda c: c.__name__
)
def test_what_cannot_stay_moves_and_why_is_told(night: Nightly, change: Callable[[Nightly], str]) -> None:
    if change is the_old_one_needs_the_flaw:
        night.add("tool", "1.0", depends="lib (= 1.0)")
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    says = change(night)
    night.add("app", "1.1", "-updates", depends="lib, lib-data")
    night.update()
    assert night.lock(recipe, security=True) == [says]
    assert night.versions(recipe) == {"app": "1.0", "lib": "1.1", "lib-data": "1.0", "tool": "1.1"}


def test_who_moves_takes_its_source_along(night: Nightly) -> None:
    night.add("tool-data", "1.0", source="tool")
    recipe = night.recipe(packages={"include": ["app", "tool", "tool-data"]})
    night.update()
    night.lock(recipe, fresh=True)
    night.add("lib", "1.1", "-security", depends="tool (>= 1.1)")
    night.add("tool", "1.1", "-updates")
    night.add("tool-data", "1.1", "-updates", source="tool")
    night.update()
    assert night.lock(recipe, security=True) == [
        "tool 1.0 → 1.1 as well: lib 1.1 depends on tool (>= 1.1)",
        "tool-data 1.0 → 1.1 as well: it is built from the same source, tool",
    ]


def test_no_conflict_leads_back_to_the_flaw(night: Nightly) -> None:
    """The suite still has lib 1.0, which app takes as well: an answer without the fix is none."""
    night.add("app", "1.0", depends="lib, shim")
    night.add("shim", "1.0", depends="tool (= 1.0)")
    recipe = night.recipe(packages={"include": ["tool", "app"]})  # tool is settled before anything wants lib
    night.lock(recipe, fresh=True)
    night.archive.add("lib", "1.1", suite="trixie-security", depends="tool (>= 1.1)")
    night.archive.add("tool", "1.1", suite="trixie-updates")
    night.archive.add("shim", "1.1", suite="trixie-updates", depends="tool")
    night.update()
    told = night.lock(recipe, security=True)
    assert night.versions(recipe) == {"app": "1.0", "lib": "1.1", "shim": "1.1", "tool": "1.1"}
    assert "tool 1.0 → 1.1 as well: lib 1.1 depends on tool (>= 1.1)" in told
    assert any(line.startswith("shim 1.0 → 1.1 as well: shim 1.0 depends on tool (= 1.0)") for line in told)


def test_each_architecture_for_itself(tmp_path: Path) -> None:
    night = Nightly(tmp_path, architectures=("amd64", "arm64"))
    for architecture in ("amd64", "arm64"):
        night.archive.add("native", "1.0", architecture=architecture)
    recipe = night.recipe(arch=["amd64", "arm64"], packages={"include": ["native", "tool"]})
    night.update()
    night.lock(recipe, fresh=True)
    before = night.locked(recipe)
    night.archive.add("native", "1.1", architecture="amd64", suite="trixie-security")  # the other one is being built
    night.add("tool", "1.1", "-updates")
    night.update()
    assert [(v.architecture, v.security) for v in night.verdicts(recipe)] == [("amd64", 1), ("arm64", 0)]
    night.lock(recipe, security=True)
    assert night.versions(recipe) == {"native": "1.1", "tool": "1.0"}
    assert night.locked(recipe).root("arm64") == before.root("arm64")


# --- versions that no index has any more


def built(night: Nightly, recipe: str) -> None:
    """Have every package of the lock in the store, as a build leaves it."""
    done = Program(night.folder)("build", recipe, "-o", "out")
    assert done.status == 0, done.err


def in_the_store(night: Nightly, recipe: str) -> None:
    built(night, recipe)
    shutil.rmtree(night.archive.tree / "pool/main/t/tool")


def in_the_store_as_a_package_file(night: Nightly, recipe: str) -> None:
    in_the_store(night, recipe)
    layer(night, recipe).unlink()


def in_the_store_with_a_damaged_record(night: Nightly, recipe: str) -> None:
    built(night, recipe)
    path = layer(night, recipe)
    path.write_bytes(path.read_bytes()[:-20])


def at_the_mirror(night: Nightly, recipe: str) -> None:
    pass


def layer(night: Nightly, recipe: str) -> Path:
    [tool] = [p for p in night.locked(recipe).root("amd64").packages if p.name == "tool"]
    return Store(night.folder / "store").path("layers", layer_key(tool.sha256))


@pytest.mark.counts("fault")
@pytest.mark.parametrize("names", [(), ("lib",)], ids=["security", "names"])
@pytest.mark.parametrize(
    "place",
    [in_the_store, in_the_store_as_a_package_file, in_the_store_with_a_damaged_record, at_the_mirror],
    ids=lambda place: place.__name__,
)
def test_a_version_that_no_index_has_is_kept(
    night: Nightly, place: Callable[[Nightly, str], None], names: tuple[str, ...]
) -> None:
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    place(night, recipe)
    before = {p.name: p for p in night.locked(recipe).root("amd64").packages}
    night.add("lib", "1.1", "-security")
    old = night.folder / "old"
    night.add("tool", "1.1")
    night.update()
    assert night.lock(recipe, *names, security=not names) == [
        "kept, though no index has it any more: tool 1.0; "
        "a build takes it from the store, or from the mirror as long as it is there"
    ]
    assert night.versions(recipe) == {"app": "1.0", "lib": "1.1", "lib-data": "1.0", "tool": "1.0"}
    after = {p.name: p for p in night.locked(recipe).root("amd64").packages}
    assert after["tool"] == before["tool"]
    done = Program(night.folder)("build", recipe, "-o", str(old))
    assert done.status == 0, done.err


def test_what_is_kept_decides_as_it_did(night: Nightly) -> None:
    """The kept version's own relations hold, not those of the version that the index has now."""
    night.add("tool", "1.0", depends="helper")
    night.add("helper", "1.0")
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    night.add("tool", "1.1", depends="another-helper")
    night.add("another-helper", "1.0")
    night.add("lib", "1.1", "-security")
    night.update()
    night.lock(recipe, security=True)
    assert night.versions(recipe)["tool"] == "1.0"
    assert {"helper", "another-helper"} & set(night.versions(recipe)) == {"helper"}


def test_a_version_that_only_the_second_floor_has_is_kept(night: Nightly) -> None:
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    in_the_store(night, recipe)
    [tool] = [p for p in night.locked(recipe).root("amd64").packages if p.name == "tool"]
    night.drop("tool", night.suite)
    night.update()
    asked: list[str] = []

    class Floor:
        def bring(self, keys: Iterable[str]) -> None:
            for key in keys:
                asked.append(key)
                target = bare.path("layers", key)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Store(night.folder / "store").path("layers", key), target)

        def offer(self, keys: Iterable[str]) -> None: ...
        def begin(self) -> None: ...
        def rest(self) -> None: ...

    bare = Store(night.folder / "bare")
    wanted = load(recipe, {})
    place = origin(wanted, "amd64", None, night.environ)
    http = Http(night.environ)
    policy = Policy(now=int(time.time()))
    fresh = refresh(bare, place.sources, http=http, policy=policy)
    archive = Looked(store=bare, indices=fresh.indices)
    assert kept([tool], archive, place, http, offline=False) == {}
    bare.beyond = Floor()
    [found] = kept([tool], archive, place, http, offline=False).values()
    assert (found.name, found.version, found.sha256) == ("tool", "1.0", tool.sha256)
    assert asked == [layer_key(tool.sha256)]


@pytest.mark.counts("trust-refused")
def test_what_is_kept_must_be_the_package_that_the_lock_names(night: Nightly) -> None:
    """A layer under the locked digest that says it is something else is not what a resolution may rest on."""
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    in_the_store(night, recipe)
    path = night.folder / "r.lock"
    path.write_text(path.read_text().replace('"name": "tool"', '"name": "fool"').replace("tool_1.0", "fool_1.0"))
    night.add("fool", "1.1")
    night.add("lib", "1.1", "-security")
    night.recipe(packages={"variant": "minbase", "include": ["app", "fool"]})
    told = night.lock(recipe, "lib")
    assert any(line.startswith("fool 1.0 → 1.1 as well: no index, no store and no mirror") for line in told)


def deleted(night: Nightly) -> None:
    pass


def replaced(night: Nightly) -> None:
    path = night.archive.tree / "pool/main/t/tool/tool_1.0_all.deb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"!<arch>\nsomething else".ljust(2000))


@pytest.mark.counts("fault")
@pytest.mark.parametrize("state", [deleted, replaced], ids=lambda state: state.__name__)
def test_a_version_that_nobody_has_is_renewed_and_told(night: Nightly, state: Callable[[Nightly], None]) -> None:
    night.add("tool-data", "1.0", source="tool")
    recipe = night.recipe(packages={"include": ["app", "tool", "tool-data"]})
    night.lock(recipe, fresh=True)
    shutil.rmtree(night.archive.tree / "pool/main/t/tool")
    night.add("lib", "1.1", "-security")
    night.add("tool", "1.1")
    night.add("tool-data", "1.1", source="tool")
    night.update()
    state(night)
    why = "no index, no store and no mirror has the old version any more"
    assert night.lock(recipe, security=True) == [
        f"tool 1.0 → 1.1 as well: {why}",
        f"tool-data 1.0 → 1.1 as well: {why}",
    ]
    assert night.versions(recipe) == {"app": "1.0", "lib": "1.1", "lib-data": "1.0", "tool": "1.1", "tool-data": "1.1"}
    assert not list((night.folder / "store").rglob("debs.*"))  # downloads that came to nothing
    done = Program(night.folder)("build", recipe, "-o", "out")
    assert done.status == 0, done.err


def test_a_build_of_what_the_mirror_dropped_names_the_way_out(night: Nightly, program: Program) -> None:
    with night.archive.serve() as server:
        for place in (server.uri, night.archive.uri):
            recipe = night.recipe(mirror=place)
            night.lock(recipe, fresh=True)
            moved = night.archive.tree / "pool/main/t/tool"
            moved.rename(night.folder / "away")
            done = program("build", "r.yaml", "-o", "out")
            assert done.status == 1 and not (night.folder / "out").exists()
            assert "tool_1.0_all.deb: " in done.err
            assert "hint: mirrors keep the newest versions alone; `mkroot lock RECIPE --update` takes those" in done.err
            (night.folder / "away").rename(moved)
            done = program("build", "r.yaml", "-o", "out")
            assert done.status == 0, done.err
            moved.rename(night.folder / "away")
            shutil.rmtree(night.folder / "out")
            done = program("build", "r.yaml", "-o", "out")  # the store has it
            assert done.status == 0, done.err
            (night.folder / "away").rename(moved)
            shutil.rmtree(night.folder / "out")
            shutil.rmtree(night.folder / "store")


# --- the command


def test_several_recipes(night: Nightly, program: Program) -> None:
    night.recipe("a.yaml")
    night.recipe("b.yaml", packages={"include": ["nowhere"]})
    night.recipe("c.yaml", packages={"include": ["tool"]})
    done = program("lock", "a.yaml", "b.yaml", "c.yaml")
    assert done.status == 1
    lines = done.err.splitlines()
    assert lines[0] == "a.lock: new; amd64 5 packages"
    assert "nowhere" in lines[1]
    assert lines[-2:] == ["c.lock: new; amd64 2 packages", "2 of 3 locks made; failed: b.yaml"]
    assert sorted(p.name for p in night.folder.glob("*.lock")) == ["a.lock", "c.lock"]
    night.add("lib", "1.1", "-security")
    night.update()
    done = program("lock", "a.yaml", "c.yaml", "--update", "--security")
    assert done.status == 0, done.err
    assert done.out == "a.lock:\n~ lib 1.0 → 1.1  upgraded\n"
    assert done.err.splitlines() == [
        "a.lock: renewed; amd64 5 packages",
        "c.lock: no security fix, left as it is; amd64 2 packages",
    ]
    done = program("lock", "a.yaml", "b.yaml", "--json")
    assert done.status == 1
    assert [one["lock"] for one in done.json["locks"]] == ["a.lock"] and done.json["failed"] == ["b.yaml"]


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["lock"], 2, "missing: RECIPE"),
        (["lock", "--update"], 2, "missing: RECIPE"),
        (["lock", "--update", "lib"], 2, "missing: RECIPE"),
        (["lock", "r.yaml", "--security"], 2, "write `--update --security`"),
        (["lock", "r.yaml", "--update", "lib", "--security"], 2, "names or `--security`, not both"),
        (["lock", "r.yaml", "-"], 2, "give it alone"),
        (["lock", "r.yaml", "--update", "--security"], 1, "there is no lock"),
        (["lock", "stale.yaml", "--update", "--security"], 1, "the lock is stale"),
        (["lock", "torn.yaml", "--update", "--security"], 1, "not a lock"),
        (["lock", "good.yaml", "--update", "nothing"], 1, "the lock has no package `nothing`"),
        (["outdated"], 2, "missing: RECIPE"),
        (["outdated", "r.yaml", "--exitcode"], 2, "did you mean `--exit-code`?"),
        (["outdated", "-"], 1, "there is no lock"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
def test_a_wrong_command_line_changes_nothing(
    night: Nightly, program: Program, words: list[str], status: int, says: str
) -> None:
    night.recipe()
    for name in ("stale", "good"):
        night.lock(night.recipe(f"{name}.yaml"), fresh=True)
    night.recipe("stale.yaml", packages={"include": ["tool"]})
    night.recipe("torn.yaml")
    (night.folder / "torn.lock").write_bytes((night.folder / "good.lock").read_bytes()[:-40])
    before = files(night.folder)
    done = program(*words, stdin=json.dumps(night.archive.recipe()))
    assert done.status == status, done.err
    assert says in done.err and "Traceback" not in done.err
    assert files(night.folder) == before


def test_update_before_the_recipe(night: Nightly, program: Program) -> None:
    """As the documentation has it: what follows `--update` and cannot be a package is a recipe."""
    night.lock(night.recipe(), fresh=True)
    night.add("lib", "1.1", "-updates")
    night.add("tool", "1.1", "-updates")
    night.update()
    done = program("lock", "--update", "lib", "r.yaml")
    assert (done.status, done.out) == (0, "~ lib 1.0 → 1.1  upgraded\n"), done.err
    done = program("lock", "--update", "r.yaml")
    assert (done.status, done.out) == (0, "~ tool 1.0 → 1.1  upgraded\n"), done.err


def test_a_lock_is_renewed_for_the_architecture_asked_for(tmp_path: Path) -> None:
    night = Nightly(tmp_path, architectures=("amd64", "arm64"))
    recipe = night.recipe(arch=["amd64", "arm64"])
    night.lock(recipe, fresh=True)
    night.add("lib", "1.1", "-security")
    night.update()
    night.lock(recipe, security=True, architectures=("arm64",))
    assert (night.versions(recipe)["lib"], night.versions(recipe, "arm64")["lib"]) == ("1.0", "1.1")


def test_an_error_names_the_way_out_where_keeping_is_what_fails(night: Nightly) -> None:
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    before = night.locked(recipe).root("amd64")

    def ask(request: Request, _: object) -> Answer:
        if request.locked:
            raise ResolutionError("no answer was found in reasonable time", hint="leave out `app`")
        return Answer(key="", root=before)

    def keep(packages: Sequence[LockedPackage]) -> dict[tuple[str, str], Package]:
        return {p.key: Package({"package": p.name, "version": p.version, "architecture": "all"}) for p in packages}

    looked = Looked(store=Store(night.folder / "store"))
    with pytest.raises(ResolutionError, match="no answer was found") as caught:
        renew(before, Update(names=("lib",)), Request(architecture="amd64"), "", looked, ask, keep)
    assert "`mkroot lock RECIPE --update`, and nothing else, renews every package" in str(caught.value.hint)


def test_a_fault_of_the_recipe_is_told_as_such(night: Nightly) -> None:
    recipe = night.recipe()
    night.lock(recipe, fresh=True)
    night.drop("app", night.suite)
    shutil.rmtree(night.archive.tree / "pool/main/a/app")
    night.update()
    with pytest.raises(ResolutionError, match="no package is called `app`") as caught:
        night.lock(recipe, "lib")
    assert "--update" not in str(caught.value.hint)
    with pytest.raises(LockError, match="`nothing`"):
        night.lock(recipe, "nothing")


def test_an_architecture_that_the_lock_alone_has_is_renewed_with_the_others(tmp_path: Path) -> None:
    """A run over all architectures of an archive leaves locks of more of them than the recipe names."""
    night = Nightly(tmp_path, architectures=("amd64", "arm64"))
    recipe = night.recipe(arch=["amd64", "arm64"])
    night.lock(recipe, fresh=True)
    night.recipe(arch=["amd64"])
    night.add("lib", "1.1", "-security")
    night.update()
    assert [(v.architecture, v.security) for v in night.verdicts(recipe)] == [("amd64", 1), ("arm64", 1)]
    night.lock(recipe, security=True)
    assert (night.versions(recipe)["lib"], night.versions(recipe, "arm64")["lib"]) == ("1.1", "1.1")
    assert [v.architecture for v in night.verdicts(recipe, architectures=("amd64",))] == ["amd64"]


def test_each_choice_of_values_has_its_lock(night: Nightly, program: Program) -> None:
    night.recipe(vars={"which": "tool"}, packages={"include": ["${which}"]})
    done = program("lock", "r.yaml", "-D", "which=tool,lib")
    assert done.status == 0, done.err
    assert sorted(p.name for p in night.folder.glob("*.lock")) == ["r.which=lib.lock", "r.which=tool.lock"]
    night.add("lib", "1.1", "-security")
    night.update()
    done = program("outdated", "r.yaml", "-D", "which=tool,lib", "--json")
    assert [(v["recipe"], v["lock"], v["state"]) for v in done.json["locks"]] == [
        ("r.yaml -D which=tool", "r.which=tool.lock", "current"),
        ("r.yaml -D which=lib", "r.which=lib.lock", "outdated"),
    ]
    done = program("lock", "r.yaml", "-D", "which=tool,lib", "--update", "--security")
    assert (done.status, done.out) == (0, "r.which=lib.lock:\n~ lib 1.0 → 1.1  upgraded\n"), done.err
    assert "0 of 2 locks outdated" in program("outdated", "r.yaml", "-D", "which=tool,lib").err
