"""A package is bumped: scripts whose inputs are the same are not run, and every output has the bytes of a real run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from mkroot.rootfs import memo
from mkroot.rootfs.effects import Effects, Write
from mkroot.store.store import Store
from mkroot.tar.entry import FILE, Entry
from tests.integration.building import ROOT, as_user, mkroot, needs, needs_root, ordinary_user

RECIPE = """version: 1
name: bumped
distro: {distro}
suite: {suite}
arch: [amd64]
packages: {{variant: minbase, include: [{include}]}}
outputs: [tar.zst, oci]
"""
# Bumped together: of the first stage and of a later one, a shell, a library, users' tools, what has no script.
ROOTS = {
    "debian-13": (
        "debian", "trixie", "netbase, openssh-server", (["tzdata"], ["dash", "zlib1g"], ["passwd", "netbase"]),
    ),
    "ubuntu-24.04": ("ubuntu", "noble", "adduser", (["libc6"], ["perl-base", "adduser"])),
}  # fmt: skip


class Base:
    """A recipe and a store that has followed its scripts once."""

    def __init__(self, name: str, folder: Path, debs: Path) -> None:
        self.distro, self.suite, self.include, self.bumps = ROOTS[name]
        self.folder, self.store = folder, folder / "store"
        self.store.mkdir()
        if debs.is_dir():
            subprocess.run(["cp", "-a", debs, self.store / "debs"], check=True)
        self.write("base.yaml", self.include)
        mkroot("build", folder / "base.yaml", "-o", folder / "out", "--follow-scripts", store=self.store)
        lock = json.loads((folder / "base.lock").read_text())
        self.digests = {p["name"]: p["sha256"] for p in lock["architectures"]["amd64"]["packages"]}

    def write(self, name: str, include: str) -> Path:
        path = self.folder / name
        path.write_text(RECIPE.format(distro=self.distro, suite=self.suite, include=include))
        return path

    def bumped(self, names: list[str]) -> Path:
        """Write a recipe in which the packages are rebuilt ones, with a higher version and a further file."""
        debs = [f"./{name}.deb" for name in names]
        for name in names:
            if (self.folder / f"{name}.deb").exists():
                continue
            digest = self.digests[name]
            at = self.folder / f"deb-{name}"
            subprocess.run(["dpkg-deb", "-R", self.store / "debs" / digest[:2] / digest, at], check=True)
            control = at / "DEBIAN/control"
            control.write_text(re.sub(r"^(Version: .*)$", r"\1+b9", control.read_text(), flags=re.M))
            (at / "usr/share").mkdir(parents=True, exist_ok=True)
            (at / f"usr/share/bumped-{name}").write_text("new\n")
            words = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", at, self.folder / f"{name}.deb"]
            subprocess.run(words, check=True, capture_output=True)
            shutil.rmtree(at)
        return self.write(f"{'-'.join(names)}.yaml", ", ".join([self.include, *debs]))


def digests(out: Path) -> dict[str, str]:
    """Digest every file of the outputs but the records that name the recipe's files."""
    files = [p for p in (out / "bumped").rglob("*") if p.is_file()]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module", params=ROOTS)
def base(request: pytest.FixtureRequest, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    needs("dpkg-deb")
    needs_root()
    return Base(request.param, tmp_path_factory.mktemp("memo"), store / "debs")


@pytest.mark.archive
@pytest.mark.counts("rebuild")
@pytest.mark.parametrize("number", range(3))
def test_a_bump_gives_the_bytes_of_a_real_run(base: Base, number: int, tmp_path: Path) -> None:
    if number >= len(base.bumps):
        pytest.skip("no third one here")
    recipe = base.bumped(base.bumps[number])
    plain = tmp_path / "store"
    subprocess.run(["cp", "-a", base.store, plain], check=True)
    follow = ["--follow-scripts"] if number == 1 else []
    done = mkroot("build", recipe, "-o", tmp_path / "known", "--explain-cache", *follow, store=base.store)
    told = [(int(m[1]), int(m[2])) for m in re.finditer(r"effects of (\d+) scripts were known, (\d+)", done.stderr)]
    assert told and sum(known for known, _ in told) >= 5, done.stderr
    ran = re.findall(r"(stage \S+: \S+ p\w+inst) ran", done.stderr)
    assert len(ran) == len(set(ran)), "a script is asked for once, whatever it executes"
    real = mkroot("build", recipe, "-o", tmp_path / "real", "--rerun-scripts", "--explain-cache", store=plain)
    assert "were known" not in real.stderr
    ours, theirs = digests(tmp_path / "known"), digests(tmp_path / "real")
    assert {k for k in ours if ours[k] != theirs.get(k)} == set() and ours.keys() == theirs.keys()


@pytest.mark.archive
@pytest.mark.counts("fault")
@pytest.mark.parametrize("how", ["cut", "flipped", "impossible"])
def test_a_record_that_cannot_be_used(base: Base, how: str, tmp_path: Path) -> None:
    """It is a miss, or the stage is made again with scripts that run; never is the root between two states."""
    recipe = base.bumped(["gzip"])
    store = tmp_path / "store"
    subprocess.run(["cp", "-a", base.store, store], check=True)
    for path in [p for p in (store / "effects").rglob("*") if p.is_file()]:
        data = path.read_bytes()
        if how == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif how == "flipped":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        else:
            memo.keep(Store(store), path.name, [impossible(e) for e in memo.load(Store(store), path.name)])
    mkroot("build", recipe, "-o", tmp_path / "known", "--follow-scripts", store=store)
    shutil.rmtree(store / "effects")
    shutil.rmtree(store / "layers")
    mkroot("build", recipe, "-o", tmp_path / "real", "--rerun-scripts", store=store)
    ours, theirs = digests(tmp_path / "known"), digests(tmp_path / "real")
    assert {k for k in ours if ours[k] != theirs.get(k)} == set() and ours.keys() == theirs.keys()


def mirrors() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.startswith(("MKROOT_MIRROR_", "MKROOT_CONFIG"))}


def impossible(effects: Effects) -> Effects:
    last = Write(Entry("nowhere/at/all", FILE, 0o644), b"x")
    return msgspec.structs.replace(effects, writes=(*effects.writes, last))


@pytest.mark.archive
@pytest.mark.counts("rebuild")
def test_an_ordinary_user(base: Base, tmp_path_factory: pytest.TempPathFactory) -> None:
    name = ordinary_user()
    if base.distro != "debian":
        pytest.skip("one distribution is enough")
    home = Path("/var/tmp") / f"mkroot-memo-{name}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    try:
        base.bumped(["gzip"])
        for file in ("base.yaml", "base.lock", "gzip.yaml", "gzip.deb"):
            shutil.copy(base.folder / file, home)
        subprocess.run(["cp", "-a", base.store / "debs", home / "debs"], check=True)
        (home / "store").mkdir()
        (home / "debs").rename(home / "store/debs")
        subprocess.run(["chown", "-R", f"{name}:", home], check=True)
        user = as_user(name, {"MKROOT_STORE": str(home / "store"), "PYTHONPATH": str(ROOT), **mirrors()})
        told = {}
        for recipe, out, words in (
            ("base.yaml", "o1", ["--follow-scripts"]),
            ("gzip.yaml", "known", ["--explain-cache"]),
            ("gzip.yaml", "real", ["--rerun-scripts"]),
        ):
            if out == "real":
                shutil.rmtree(home / "store/layers")
            command = [*user, "build", str(home / recipe), "-o", str(home / out), *words]
            done = subprocess.run(command, capture_output=True, text=True, cwd=home)
            assert done.returncode == 0, done.stderr
            told[out] = done.stderr
        assert re.search(r"effects of [1-9]\d* scripts were known", told["known"]), told["known"]
        assert digests(home / "known") == digests(home / "real")
    finally:
        shutil.rmtree(home, ignore_errors=True)
