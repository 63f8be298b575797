"""Many at once on one store: each package fetched once, the right bytes, no deadlock; nothing taken that is in use."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.archives import STATIC, static_archive
from tests.faults.forge import Forge
from tests.faults.works import RECIPE, Site, World, tree
from tests.integration.building import as_user, ordinary_user
from tests.testarchive import Archive, Server

BUILDS = 32


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Archive, Server]]:
    archive = static_archive(tmp_path_factory.mktemp("served") / "archive")
    with archive.serve() as server:
        yield archive, server


def others(site: Site, archive: Archive, server: Server) -> list[str]:
    """Write recipes that share packages and want others; return their names."""
    wants = {"a": ["tool"], "b": ["other"], "c": ["lib", "base"]}
    for name, include in wants.items():
        packages = {"variant": "none", "include": include}
        recipe = archive.recipe(uri=server.uri, **{**STATIC, "name": name, "packages": packages})
        (site.folder / f"{name}.yaml").write_text(json.dumps(recipe))
    return [f"{name}.yaml" for name in wants]


@pytest.mark.counts("fault")
def test_thirty_two_builds_on_one_cold_store(
    served: tuple[Archive, Server], tmp_path: Path, forge: Forge, record_property: Any
) -> None:
    """The same recipe and different ones, each into a folder of its own, none with a lock."""
    archive, server = served
    site = Site(tmp_path / "site", forge, archive.recipe(uri=server.uri, **STATIC))
    recipes = [RECIPE, *others(site, archive, server)]
    right = {}
    for recipe in recipes:
        alone = site.run("build", recipe, "-o", f"alone/{recipe}", "--no-lock")
        assert alone.status == 0, alone.err
        right[recipe] = tree(site.folder / "alone" / recipe)
    shutil.rmtree(site.store)
    server.requests.clear()
    jobs = [(n, recipes[max(0, n % 6 - 2)]) for n in range(BUILDS)]
    orders = [
        site.order("build", recipe, "-o", f"out/{n}", "--no-lock", processors=2, within=240) for n, recipe in jobs
    ]
    for (n, recipe), ended in zip(jobs, forge.run(*orders), strict=True):
        assert ended.status == 0, ended.err
        assert ended.left == ()
        assert tree(site.folder / "out" / str(n)) == right[recipe]
    fetched = Counter(server.paths("*/pool/*"))
    assert len(fetched) == 4 and set(fetched.values()) == {1}
    assert os.listdir(site.store / "tmp") == []
    checked = site.run("cache", "verify")
    assert checked.status == 0, checked.err
    record_property("cases", BUILDS)


@pytest.mark.counts("fault")
def test_the_one_that_fetches_dies_and_another_fetches(
    served: tuple[Archive, Server], tmp_path: Path, forge: Forge
) -> None:
    archive, server = served
    site = Site(tmp_path / "site", forge, archive.recipe(uri=server.uri, **STATIC))
    fault = server.fault("*/pool/*/lib_*", "stall", after=100)
    first = site.order("build", RECIPE, "-o", "one", "--no-lock", signal=9, after=2.5)
    second = site.order("build", RECIPE, "-o", "two", "--no-lock", wait=0.5)
    dead, ended = forge.run(first, second)
    assert fault.seen == 1
    assert dead.status == -9
    assert ended.status == 0, ended.err
    assert tree(site.folder / "two")


@pytest.mark.counts("fault")
def test_looking_after_the_store_takes_nothing_from_builds(scripted: World, forge: Forge, record_property: Any) -> None:
    """prune, verify, rmi and images run all the time while builds do."""
    site = scripted.fresh()
    builds = [site.order("build", RECIPE, "-o", f"out/{n}", "--no-lock", wait=0.4 * n, processors=2) for n in range(5)]
    words = [("cache", "prune", "--all"), ("cache", "verify"), ("rmi", "--all", "-f"), ("images",), ("cache", "size")]
    care = [site.order(*words[n % 5], wait=0.12 * n) for n in range(25)]
    every = forge.run(*builds, *care)
    for n, ended in enumerate(every[: len(builds)]):
        assert ended.status == 0, ended.err
        found = {f"out/{k}": v for k, v in tree(site.folder / "out" / str(n)).items()}
        assert found == {k: v for k, v in scripted.right.items() if k != "lock"}
    for ended in every[len(builds) :]:
        assert "internal error" not in ended.err
        if ended.status:
            assert "a build is using the store" in ended.err or "there is no image" in ended.err, ended.err
    shutil.rmtree(site.out)
    scripted.heals()
    assert site.run("cache", "verify").status == 0
    record_property("cases", len(care))


@pytest.mark.counts("fault")
def test_a_container_keeps_what_it_stands_on(scripted: World) -> None:
    site = scripted.fresh()
    scripted.heals()
    assert site.run("run", "--name", "box", "mini:latest", "sh", "-c", "echo one > /one").status == 0
    for words in (("rmi", "-f", "mini:latest"), ("cache", "prune", "--all")):
        ended = site.run(*words)
        assert ended.status == 0, ended.err
    ended = site.run("start", "-a", "box")
    assert ended.status == 0, ended.err
    assert site.run("commit", "-m", "x", "-a", "y <y@mail.example>", "box", "new:1").status == 0
    assert site.run("run", "--rm", "new:1", "cat", "/one").out == "one\n"


# Two users


@pytest.fixture
def user() -> str:
    return ordinary_user()


def run_as(user: str, site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = as_user(user, {"MKROOT_STORE": str(site / "store")})
    return subprocess.run([*command, *words], cwd=site, capture_output=True, text=True, timeout=120)


@pytest.fixture
def open_site(served: tuple[Archive, Server], forge: Forge, user: str) -> Iterator[Site]:
    """A site in a folder that every user may enter, whose archive is, too."""
    archive, server = served
    folder = Path("/var/tmp") / f"mkroot-two-{os.getpid()}"
    recipe = archive.recipe(uri=server.uri, **{**STATIC, "outputs": ["tar.zst"]})
    site = Site(folder, forge, recipe)
    key = folder / "key.asc"
    shutil.copy(archive.keyring, key)
    (folder / RECIPE).write_text(json.dumps({**recipe, "keyring": str(key)}))
    for path in (folder, key, folder / RECIPE):
        path.chmod(0o755)
    (folder / "user").mkdir()
    os.chown(folder / "user", pwd.getpwnam(user).pw_uid, -1)
    yield site
    shutil.rmtree(folder)


@pytest.mark.counts("fault")
def test_a_store_of_another_user_is_refused_in_one_message(open_site: Site, user: str) -> None:
    assert open_site.build("--no-lock").status == 0
    before = tree(open_site.store)
    done = run_as(user, open_site.folder, "build", RECIPE, "-o", "user/out", "--no-lock")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        line for line in done.stderr.splitlines() if "the store belongs to another user" in line
    ], done.stderr
    assert "set MKROOT_STORE to a folder of your own" in done.stderr
    assert tree(open_site.store) == before
    assert not (open_site.folder / "user" / "out").exists()


@pytest.mark.counts("fault")
@pytest.mark.parametrize("first", ["root", "user"])
def test_a_store_that_a_group_shares(open_site: Site, user: str, first: str) -> None:
    """The store's folder says so by its mode: the group's, writable and set-group-id."""
    open_site.store.mkdir()
    os.chown(open_site.store, -1, pwd.getpwnam(user).pw_gid)
    open_site.store.chmod(0o2775)
    made = set()
    for who in [first, "user" if first == "root" else "root", first]:
        out = f"user/{who}"
        if who == "root":
            ended = open_site.run("build", RECIPE, "-o", out, "--no-lock")
            assert ended.status == 0, ended.err
        else:
            done = run_as(user, open_site.folder, "build", RECIPE, "-o", out, "--no-lock")
            assert done.returncode == 0, done.stderr
        made.add((open_site.folder / out / "mini/amd64/rootfs.tar.zst").read_bytes())
        shutil.rmtree(open_site.folder / out)  # else there is nothing to do the next time
    assert len(made) == 1
    assert run_as(user, open_site.folder, "cache", "verify").returncode == 0
    assert run_as(user, open_site.folder, "cache", "prune", "--all").returncode == 0
    assert os.listdir(open_site.store / "tmp") == []
