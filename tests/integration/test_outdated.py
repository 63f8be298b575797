"""The nightly job: the lines that README gives for it, and a real archive's locks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.building import MKROOT, ROOT, mkroot
from tests.integration.registries import Served, served
from tests.unit.nightly import Nightly

README = ROOT / "README.md"
REGISTRY = "registry.example:5000"  # as the documentation calls a registry


def nightly_job() -> str:
    """Return the lines of README's recipe for a nightly job."""
    _, _, rest = README.read_text().partition("\n## Nightly\n")
    found = re.search(r"^```sh\n(.*?)^```$", rest.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    if found is None:
        pytest.skip("README.md has no block of shell under `## Nightly`")
    return found[1]


@pytest.fixture
def night(tmp_path: Path) -> Nightly:
    """Three recipes with their locks under git, one of which holds lib."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    found = Nightly(tmp_path)
    (tmp_path / "recipes").mkdir()
    for name, package in (("web", "app"), ("db", "tool"), ("mail", "tool")):
        recipe = found.recipe(f"recipes/{name}.yaml", name=name, packages={"include": [package]}, outputs=["oci"])
        found.lock(recipe, fresh=True)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "recipes")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return found


def git(folder: Path, *words: str) -> str:
    who = {"GIT_AUTHOR_NAME": "ci", "GIT_AUTHOR_EMAIL": "ci@example.org", "GIT_CONFIG_GLOBAL": "/dev/null"}
    who |= {"GIT_COMMITTER_NAME": "ci", "GIT_COMMITTER_EMAIL": "ci@example.org"}
    done = subprocess.run(["git", *words], cwd=folder, env=os.environ | who, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(night: Nightly, job: str, registry: Served, machine: str) -> subprocess.CompletedProcess[str]:
    """Run the job as a CI system does: in a checkout, on a machine that has a store of its own, empty at first."""
    folder = night.folder
    place = folder / machine
    place.mkdir(exist_ok=True)
    environ = {
        "PATH": f"{MKROOT.parent}:{os.environ['PATH']}",
        "HOME": str(place),
        "MKROOT_STORE": str(place / "store"),
        "MKROOT_STORE_KEY": "ab" * 32,
        "GIT_AUTHOR_NAME": "ci",
        "GIT_AUTHOR_EMAIL": "ci@example.org",
        "GIT_COMMITTER_NAME": "ci",
        "GIT_COMMITTER_EMAIL": "ci@example.org",
        "LC_ALL": "C.UTF-8",
    }
    lines = job.replace(REGISTRY, registry.host)
    shutil.rmtree(folder / "out", ignore_errors=True)
    done = subprocess.run(["sh", "-ec", lines], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def digests(folder: Path) -> dict[str, bytes]:
    return {p.parent.parent.parent.name: p.read_bytes() for p in folder.glob("out/*/*/oci/index.json")}


def commits(folder: Path) -> list[str]:
    """Return which files the last commit changed, and how many commits there are."""
    return [
        git(folder, "rev-list", "--count", "HEAD").strip(),
        *git(folder, "show", "--format=", "--name-only").split(),
    ]


def test_the_nightly_job_of_the_readme(night: Nightly) -> None:
    job = nightly_job()
    with served(night.folder / "registry") as registry:
        first = run(night, job, registry, "one")
        assert "0 of 3 locks outdated, 0 with security fixes" in first.stderr
        assert commits(night.folder)[0] == "1"
        before = digests(night.folder)
        assert sorted(before) == ["db", "mail", "web"]

        night.add("lib", "1.1", "-security")
        night.add("tool", "1.1", "-updates")  # no fix, so nobody is to take it
        night.update()
        second = run(night, job, registry, "two")
        assert "3 of 3 locks outdated, 1 with security fixes" in second.stderr
        assert commits(night.folder) == ["2", "recipes/web.lock"]
        assert sum(map(int, re.findall(r"^packages: (\d+) fetched", second.stderr, re.MULTILINE))) == 1  # lib
        after = digests(night.folder)
        assert {name for name in after if after[name] != before[name]} == {"web"}
        assert night.locked(str(night.folder / "recipes/web.yaml")).root("amd64").packages != ()

        third = run(night, job, registry, "three")  # the fix is in; the other update is still none
        assert "2 of 3 locks outdated, 0 with security fixes" in third.stderr
        assert commits(night.folder)[0] == "2"
        assert digests(night.folder) == after


@pytest.mark.archive
@pytest.mark.parametrize("recipe", ["debian-min", "ubuntu-min"])
def test_a_fresh_lock_of_a_real_archive_is_up_to_date(store: Path, tmp_path: Path, recipe: str) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "recipes" / f"{recipe}.lock").unlink(missing_ok=True)
    name = f"recipes/{recipe}.yaml"
    mkroot("lock", name, "--arch", "amd64", store=store, cwd=tmp_path)
    lock = tmp_path / f"recipes/{recipe}.lock"
    written = lock.read_bytes()
    done = mkroot("outdated", name, "--exit-code", "--offline", store=store, cwd=tmp_path)
    assert done.stdout == f"{name} amd64: up to date\n"
    assert done.stderr == "0 of 1 lock outdated, 0 with security fixes\n"
    mkroot("lock", name, "--update", "--security", "--offline", store=store, cwd=tmp_path)
    assert lock.read_bytes() == written


@pytest.mark.archive
@pytest.mark.parametrize(("distro", "suite"), [("debian", "bookworm"), ("ubuntu", "noble")])
def test_security_fixes_of_a_real_archive(store: Path, tmp_path: Path, distro: str, suite: str) -> None:
    """A lock as of the day of the release: the fixes come, nothing else does, and then none is left."""
    text = f"version: 1\nname: old\ndistro: {distro}\nsuite: {suite}\npackages: {{include: [curl, systemd]}}\n"
    (tmp_path / "released.yaml").write_text(f"{text}pockets: []\n")
    (tmp_path / "old.yaml").write_text(text)
    mkroot("lock", "released.yaml", "old.yaml", store=store, cwd=tmp_path)
    lock, released = (json.loads((tmp_path / f"{name}.lock").read_text()) for name in ("old", "released"))
    lock["architectures"] = released["architectures"]
    (tmp_path / "old.lock").write_text(json.dumps(lock))

    def told() -> dict[str, Any]:
        one: dict[str, Any] = json.loads(mkroot("outdated", "old.yaml", "--json", store=store, cwd=tmp_path).stdout)
        return one["locks"][0]

    def versions() -> dict[str, str]:
        found = json.loads((tmp_path / "old.lock").read_text())["architectures"]["amd64"]["packages"]
        return {p["name"]: p["version"] for p in found}

    first, before = told(), versions()
    fixes = {p["name"]: p["after"] for p in first["packages"] if p["security"]}
    sources = {p["source"] for p in first["packages"] if p["security"]}
    assert fixes  # every release has had some
    done = mkroot("lock", "old.yaml", "--update", "--security", store=store, cwd=tmp_path)
    after = versions()
    assert {name: after[name] for name in fixes} == fixes
    others = {p["name"] for p in first["packages"] if p["source"] not in sources}
    moved = set(re.findall(r"^warning: (\S+) .* as well: ", done.stderr, re.MULTILINE))
    assert {n for n in others if after.get(n) != before[n]} <= moved
    assert told()["security"] == 0
