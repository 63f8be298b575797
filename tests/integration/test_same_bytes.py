"""The same recipe and lock give the same bytes, whatever the store held, whoever builds, when, and wherever.

Five recipes, each built again under ten circumstances: every file of every output is the same. Each build but the warm
one begins with no stage in its store, so that all scripts run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.building import ROOT, as_user, mkroot, needs, needs_root, ordinary_user
from tests.testarchive import Archive, File
from tests.unit.kernels import VERSION, busybox, kernel, module
from tests.unit.parents import base_tar

EPOCH = "SOURCE_DATE_EPOCH"
SCRIPTS = """version: 1
name: same
distro: ubuntu
suite: noble
packages: {variant: essential, include: [adduser, netbase]}
config:
  users: [{name: app, uid: 10000, groups: [shadow]}]
  files: [{path: /etc/motd, content: "hi\\n"}]
  timezone: Etc/UTC
trim: {docs: true}
image: {layers: {by: source, budget: 4}}
outputs: [tar.zst, oci]
"""
STATIC = """version: 1
name: same
distro: debian
suite: trixie
packages: {variant: none, include: [base-files, base-passwd, ca-certificates, libc6, netbase]}
configure: static
trim: {docs: true, man: true, locales: [C.UTF-8]}
config: {users: [{name: nonroot, uid: 65532}]}
outputs: [tar.zst, oci-archive]
"""


class Case:
    """A recipe in a folder with its lock, what it needs beside it, and its outputs when nothing was odd.

    parent: an archive, beside the recipe, of the image that it stands on.
    """

    def __init__(self, name: str, folder: Path, *, parent: str = "") -> None:
        self.name = name
        self.folder = folder
        self.parent = parent
        self.first: dict[str, str] = {}

    def store(self, at: Path, *, packages: bool = True, stages: bool = False) -> Path:
        """Return a store with the packages as they were fetched, or all that the first build left, or with nothing."""
        if stages:
            return self.folder / "store"
        (at / "debs").parent.mkdir(parents=True)
        if packages:
            subprocess.run(["cp", "-al", self.folder / "store/debs", at / "debs"], check=True)
        return at

    def recipe(self, at: Path) -> Path:
        """Return the recipe, its lock and its files in another folder."""
        shutil.copytree(self.folder / "recipe", at, symlinks=True)
        return at / "same.yaml"


def digests(out: Path) -> dict[str, str]:
    """Return mode and digest of every file of the outputs, and the mode of every folder."""
    found = {}
    out = out / "same"  # which is made as the umask has it
    for at, names, files in os.walk(out):
        for name in (*names, *files):
            path = os.path.join(at, name)
            found[os.path.relpath(path, out)] = f"{os.stat(path).st_mode:o}"
            if name in files:
                with open(path, "rb") as f:
                    found[os.path.relpath(path, out)] += " " + hashlib.file_digest(f, "sha256").hexdigest()
    return found


def miniature(folder: Path, *, scripts: bool = False) -> Archive:
    """Make an archive with a kernel, some sources of several packages, and where asked for with scripts."""
    archive = Archive(folder)
    noted = {"postinst": "#!/bin/sh\nls / /usr/bin > /var/seen\nid -u > /var/id\nmkdir /var/made\n"}
    archive.add("base", "1.0", essential=True, files={"etc/base": b"base\n", "usr/bin/base": File(mode=0o4755)})
    for n in range(12):
        files = {f"usr/share/p{n}/{i}": bytes([n, i]) * 3000 for i in range(9)}
        archive.add(f"p{n}", f"1.{n}", source=f"s{n % 4}", files=files, scripts=noted if scripts and n == 3 else {})
    archive.add("busybox-static", "1.36", architecture="amd64", files={"usr/bin/busybox": busybox()})
    drivers = {f"drivers/{name}.ko": module(f"name={name}") for name in ("virtio_pci", "virtio_blk", "virtio_scsi")}
    files = {path: data if isinstance(data, bytes) else data.encode() for path, data in kernel(drivers).items()}
    files[f"boot/vmlinuz-{VERSION}"] = b"MZ".ljust(0x202, b"\0") + b"HdrS".ljust(4096, b"\0")
    archive.add("linux-image-mini", "6.1", architecture="amd64", files=files)
    archive.uri  # noqa: B018 -- published
    return archive


def of_archive(archive: Archive, **more: Any) -> str:
    """Return a recipe's text; the archive's own place stands only in `mirror`, which is in no lock."""
    include = {"include": [f"p{n}" for n in range(12)]}
    return json.dumps(archive.recipe(**{"name": "same", "packages": include, "keyring": "keys.asc", **more}))


BOOT = {"kernel": "linux-image-mini", "loader": "direct", "initramfs": "mkroot", "cmdline": "console=ttyS0"}
TREE = {
    "outputs": ["tar.gz", "cpio.zst", "squashfs", "erofs", "ext4", "bootfs", "disk.raw"],
    "configure": "none",
    "boot": BOOT,
}
LAYERS = {
    "outputs": ["oci", "oci-archive", "docker-archive", "tar.zst"],
    "configure": "none",
    "image": {"layers": {"by": "source", "budget": 3}, "tags": ["same:1"], "labels": {"b": "1", "a": "2"}},
    "config": {"files": [{"path": "/srv", "from": "tree"}]},
}
PARENT = {"outputs": ["tar", "oci"], "image": {"from": "parent:1"}}


@pytest.fixture(scope="module", params=["scripts", "static", "tree", "layers", "parent"])
def case(request: pytest.FixtureRequest, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each recipe with its lock and the outputs of a first build, as root where these tests run as root."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "recipe/tree").mkdir(parents=True)
    for name in ("b", "a", "c"):
        (folder / f"recipe/tree/{name}").write_text(name)
    made = Case(request.param, folder)
    if request.param in ("tree", "layers", "parent"):
        archive = miniature(folder / "archive", scripts=request.param == "parent")
        shutil.copy(archive.keyring, folder / "recipe/keys.asc")
    if request.param == "parent":
        needs("dpkg")
        base_tar(folder / "recipe/parent.tar")
        made = Case(request.param, folder, parent="parent.oci.tar")
        text = of_archive(archive, **PARENT)
    elif request.param in ("tree", "layers"):
        text = of_archive(archive, **(TREE if request.param == "tree" else LAYERS))
    else:
        text = SCRIPTS if request.param == "scripts" else STATIC
    (folder / "recipe/same.yaml").write_text(text)
    if made.parent:
        mkroot("import", folder / "recipe/parent.tar", "parent:1", store=folder / "store")
        mkroot("save", "--format", "oci-archive", "parent:1", folder / "recipe" / made.parent, store=folder / "store")
    elif request.param in ("scripts", "static"):  # what other tests have fetched needs no fetching
        (folder / "store").mkdir()
        if (store / "debs").is_dir():
            subprocess.run(["cp", "-a", store / "debs", folder / "store/debs"], check=True)
    mkroot("build", folder / "recipe/same.yaml", "-o", folder / "out", store=folder / "store")
    assert (folder / "recipe/same.lock").exists()
    made.first = digests(folder / "out")
    assert "amd64/provenance.json" in made.first and len(made.first) > 3
    return made


# Before Python has started: a clock that is years ahead, or folders whose order is another each time.
CLOCK = """import time
real, nano = time.time, time.time_ns
time.time, time.time_ns = lambda: real() + 1e8, lambda: nano() + 10**17
"""
ORDER = """import os, random
listdir, scandir = os.listdir, os.scandir
def shuffled(*a):
    found = listdir(*a)
    random.shuffle(found)
    return found
class Scan:
    def __init__(self, *a):
        with scandir(*a) as found:
            self.rows = list(found)
        random.shuffle(self.rows)
    def __iter__(self): return iter(self.rows)
    def __next__(self):
        if not self.rows: raise StopIteration
        return self.rows.pop()
    def __enter__(self): return self
    def __exit__(self, *a): pass
    def close(self): pass
os.listdir, os.scandir = shuffled, Scan
"""


class How:
    """A circumstance: what stands before the command, in its environment, and in its Python."""

    def __init__(
        self,
        *before: str,
        packages: bool = True,
        stages: bool = False,
        umask: int = 0o022,
        python: str = "",
        deep: bool = False,
        **environ: str,
    ) -> None:
        self.before, self.packages, self.stages = before, packages, stages
        self.umask, self.python, self.deep, self.environ = umask, python, deep, environ


ODD = {
    "an-empty-store": How(packages=False),
    "a-warm-store": How(stages=True),
    "umask-077": How(umask=0o077),
    "another-time": How(python=CLOCK, TZ="Pacific/Kiritimati"),
    "another-language": How(LC_ALL="tr_TR.UTF-8", LANG="tr_TR.UTF-8", LANGUAGE="tr", PYTHONUTF8="0"),
    "another-host": How("unshare", "-u", "sh", "-c", 'hostname elsewhere && exec "$@"', "-"),
    "another-folder": How(deep=True, PYTHONPATH="COPY"),
    "another-order-of-folders": How(python=ORDER, PYTHONHASHSEED="7"),
    "one-processor": How("taskset", "-c", "0"),
}


@pytest.mark.archive
@pytest.mark.counts("rebuild")
@pytest.mark.parametrize("name", [*ODD, "another-user"])
def test_the_same_bytes(case: Case, name: str, tmp_path: Path) -> None:
    if name == "another-user":
        assert told(as_somebody_else(case, tmp_path), case.first) == ""
        return
    how = ODD[name]
    if how.before:
        needs(how.before[0])
    if name == "another-host":
        needs_root()
    at = tmp_path / ("a folder/with \u00e9/in it" if how.deep else "there")
    at.mkdir(parents=True)
    environ = {"HOME": str(at / "home"), "TMPDIR": str(at), **how.environ}
    if how.python:
        (at / "python").mkdir()
        (at / "python/sitecustomize.py").write_text(how.python)
        environ["PYTHONPATH"] = str(at / "python")
    if how.deep:  # another copy of the program, too
        shutil.copytree(ROOT / "mkroot", at / "program/mkroot", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "qemu", at / "program/qemu")
        environ["PYTHONPATH"] = str(at / "program")
    recipe, store = case.recipe(at / "recipe"), case.store(at / "store", packages=how.packages, stages=how.stages)
    if case.parent and not how.stages:
        mkroot("load", recipe.parent / case.parent, store=store)
    offline = ("--offline",) if how.packages else ()
    done = mkroot(
        "build", recipe, "-o", at / "out", "--locked", "--json", *offline,
        store=store, env=environ, before=how.before, umask=how.umask,
    )  # fmt: skip
    if how.stages:
        steps = {s["name"]: s["cached"] for s in json.loads(done.stdout)["builds"][0]["steps"]}
        assert all(cached for step, cached in steps.items() if step.startswith("configure")), steps
    assert told(digests(at / "out"), case.first) == ""


def told(found: dict[str, str], first: dict[str, str]) -> str:
    """Return the names of what differs: two digests alone would help nobody."""
    return ", ".join(sorted(name for name in found.keys() | first.keys() if found.get(name) != first.get(name)))


def as_somebody_else(case: Case, tmp_path: Path, *before: str, PATH: str = "/usr/bin:/bin") -> dict[str, str]:
    """Build as an ordinary user with subordinate ids, in the home folder, and return the digests."""
    user = ordinary_user()
    home = Path(f"~{user}").expanduser() / f"same-{tmp_path.parent.name}-{case.folder.name}"
    shutil.rmtree(home, ignore_errors=True)
    try:
        recipe = case.recipe(home / "recipe")
        (home / "store").mkdir()
        subprocess.run(["cp", "-r", case.folder / "store/debs", home / "store/debs"], check=True)
        subprocess.run(["chown", "-R", user, home], check=True)
        command = [*before, *as_user(user, {"PATH": PATH, "MKROOT_STORE": f"{home}/store"})]
        for words in (
            *([("load", str(recipe.parent / case.parent))] if case.parent else []),
            ("build", str(recipe), "--locked", "--offline", "-o", f"{home}/out"),
        ):
            done = subprocess.run([*command, *words], capture_output=True, text=True, cwd="/")
            assert done.returncode == 0, done.stderr
        return digests(home / "out")
    finally:
        subprocess.run(["rm", "-rf", home], check=True)


@pytest.mark.archive
@pytest.mark.counts("rebuild")
def test_a_user_with_a_single_id(case: Case, tmp_path: Path) -> None:
    """Without newuidmap there is one id; an ACL that names another, as systemd's tmpfiles sets, cannot be had then."""
    if case.name != "scripts":
        pytest.skip("one recipe with maintainer scripts is enough")
    hide = 'mount --bind /dev/null /usr/bin/newuidmap && exec "$@"'
    found = as_somebody_else(case, tmp_path, "unshare", "-m", "sh", "-c", hide, "-", PATH="/nowhere")
    assert told(found, case.first) == ""


@pytest.mark.archive
def test_source_date_epoch_wins(case: Case, tmp_path: Path) -> None:
    if case.name != "layers":
        pytest.skip("one recipe is enough")
    shutil.copytree(case.folder / "recipe", tmp_path / "recipe")
    recipe, out = tmp_path / "recipe/same.yaml", tmp_path / "out"
    mkroot("build", recipe, "-o", out, "--locked", "--offline", store=case.folder / "store", env={EPOCH: "1700000000"})
    assert json.loads((out / "same/amd64/manifest.json").read_text())["epoch"] == 1700000000
    assert told(digests(out), case.first)
    done = mkroot("verify", recipe, "-o", out, "--offline", store=case.folder / "store")
    assert "the same bytes" in done.stderr, "the record says which date was asked for"


@pytest.mark.archive
def test_the_lock_tells_nothing_of_the_machine(case: Case) -> None:
    text = (case.folder / "recipe/same.lock").read_text()
    assert "://" not in text and str(case.folder) not in text and str(ROOT) not in text
    assert text.endswith("\n")


@pytest.mark.archive
@pytest.mark.counts("rebuild")
def test_a_bundle_on_a_machine_without_a_network(case: Case, tmp_path: Path) -> None:
    """An empty store, no network, no configuration, no mirror: the same bytes, and nothing but them."""
    needs("unshare")
    needs_root()
    bundle = tmp_path / "it.tar"
    mkroot("bundle", case.folder / "recipe/same.yaml", "-o", bundle, "--offline", store=case.folder / "store")
    out, store = tmp_path / "out", tmp_path / "store"
    environ = {"HOME": str(tmp_path / "home"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    mkroot("build", bundle, "-o", out, store=store, env=environ, before=("unshare", "-n"), cwd=tmp_path)
    assert told(digests(out), case.first) == ""
    assert os.listdir(store / "tmp") == []
