"""The way of an image and back: run, diff, commit, save, load, import, export, with foreign programs as judges."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.building import (
    MKROOT,
    as_user,
    build,
    differences,
    members,
    mkroot,
    needs,
    needs_root,
    ordinary_user,
)

RECIPE = "recipes/ubuntu-base.yaml"
BASE = "ubuntu:noble"
CHANGES = r"""
set -e
echo new > /etc/new; chmod 0640 /etc/new; chown 5:6 /etc/new
echo changed >> /etc/debconf.conf
rm /etc/issue
rm -r /usr/share/doc/base-files; echo file > /usr/share/doc/base-files
rm -r /usr/share/perl5; mkdir /usr/share/perl5; echo only > /usr/share/perl5/only
rm /etc/issue.net; mkdir /etc/issue.net; echo in > /etc/issue.net/in
mkdir -p /opt/a/b; ln -s ../b /opt/a/link; echo 1 > /opt/one; ln /opt/one /opt/two; ln /opt/one /opt/a/three
mkfifo /opt/pipe; truncate -s 3M /opt/sparse; echo data >> /opt/sparse
chmod 4711 /usr/bin/env; touch -d @1000000000 /opt/one; chmod 1777 /srv
mv /usr/share/zoneinfo/Europe /usr/share/zoneinfo/Elsewhere || true
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def base(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A docker-archive of the base image, built once."""
    out = tmp_path_factory.mktemp("base")
    build(RECIPE, out, store, "--output", "oci")
    mkroot("save", BASE, out / "base.tar", store=store)
    out.chmod(0o755)
    return out / "base.tar"


@pytest.fixture(params=["root", "ordinary"])
def user(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Who works, and a folder that belongs to them."""
    needs_root()
    name = "root" if request.param == "root" else ordinary_user()
    folder = Path(f"/tmp/mkroot-store-test.{os.getpid()}.{request.param}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.chown(folder, name, name)
    yield name, folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def here(user: tuple[str, Path], base: Path) -> Run:
    """The command line as this user, with a store of their own that has the base image."""
    name, folder = user
    shutil.copy(base, folder / "base.tar")
    shutil.chown(folder / "base.tar", name)

    def run(*words: str | Path, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "MKROOT_STORE": str(folder / "store"),
            "LC_ALL": "C.UTF-8",
            **environ,
        }
        program = [str(MKROOT), *map(str, words)]
        if name != "root":
            program = [*as_user(name, settings), *map(str, words)]
        done = subprocess.run(program, capture_output=True, text=True, cwd=folder, env={**os.environ, **settings})
        if check:
            assert done.returncode == 0, done.stderr
        return done

    run("load", "base.tar")
    return run


def changed(here: Run, user: tuple[str, Path]) -> None:
    done = here("run", "--name", "work", "--network", "none", BASE, "/bin/sh", "-c", CHANGES, check=False)
    if done.returncode == 125:
        pytest.skip(f"containers cannot be run here: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    if user[0] == "root":  # what no program of the image can do
        upper = next((user[1] / "store/containers").iterdir()) / "upper"
        os.setxattr(upper / "usr/bin/env", "security.capability", bytes.fromhex("01000002" + "00200000" + "00" * 12))
        os.mknod(upper / "opt/null", 0o20666, os.makedev(1, 3))


def unpacked(folder: Path, image: str, rootless: bool = False) -> Path:
    """A tar archive of what umoci unpacks."""
    bundle = folder / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    subprocess.run(
        ["umoci", "unpack", "--image", f"{folder}/store/oci:{image}", bundle], check=True, capture_output=True
    )
    out = folder / "umoci.tar"
    command = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", bundle / "rootfs", "-cf", out, "."]
    subprocess.run(command, check=True)
    return out


def no_root(found: dict[str, Any]) -> dict[str, Any]:
    """Members without the root itself, which an archive need not name."""
    return {k: v for k, v in found.items() if k}


def test_what_is_committed_is_what_the_container_showed(here: Run, user: tuple[str, Path]) -> None:
    """The container's tree, the committed image's as mkroot shows it, and as umoci unpacks it are one tree."""
    needs("umoci")
    folder = user[1]
    changed(here, user)
    here("export", "work", "container.tar")
    here("commit", "-m", "by hand", "-a", "me", "work", "mine:1")
    here("export", "mine:1", "image.tar")
    ours = no_root(members(folder / "container.tar"))
    assert differences(ours, no_root(members(folder / "image.tar")), []) == []
    assert differences(ours, no_root(members(unpacked(folder, "mine:1"))), []) == []
    assert ours["etc/new"][:4] == ("file", 0o640, 5, 6) and "etc/issue" not in ours
    assert sorted(k for k in ours if k.startswith("usr/share/perl5/")) == ["usr/share/perl5/only"]
    assert ours["usr/share/doc/base-files"][0] == "file" and ours["opt/pipe"][1] == 0o644


def test_the_parent_is_not_touched_and_the_same_tree_gives_the_same_digest(here: Run, user: tuple[str, Path]) -> None:
    changed(here, user)
    before = json.loads(here("inspect", BASE).stdout)[0]
    one = here("commit", "work", "mine:1", SOURCE_DATE_EPOCH="1700000000").stdout
    two = here("commit", "work", "mine:2", SOURCE_DATE_EPOCH="1700000000").stdout
    assert one == two
    after = json.loads(here("inspect", "mine:1").stdout)[0]
    assert json.loads(here("inspect", BASE).stdout)[0] == before
    assert after["Annotations"]["org.opencontainers.image.base.digest"] == before["Digest"]
    assert after["RootFS"]["Layers"][:-1] == before["RootFS"]["Layers"]
    rows = {r["reference"]: r for r in json.loads(here("images", "--json").stdout)}
    assert rows["mine:1"]["size"] > rows[BASE]["size"] and rows[BASE]["layers"] == 1
    assert "└── mine:1, mine:2" in here("images", "--tree").stdout
    refused = here("rmi", BASE, check=False)
    assert refused.returncode == 1 and "used by the container work" in refused.stderr
    here(
        "run",
        "--rm",
        "--network",
        "none",
        "mine:1",
        "/bin/sh",
        "-c",
        "test $(cat /etc/new) = new && test ! -e /etc/issue",
    )


def test_diff_tells_what_was_done(here: Run, user: tuple[str, Path]) -> None:
    changed(here, user)
    lines = here("diff", "work").stdout.splitlines()
    wanted = [
        "C /etc",
        "A /etc/new",
        "C /etc/debconf.conf",
        "D /etc/issue",
        "A /opt/a/link",
        "C /usr/share/doc/base-files",
    ]
    assert set(wanted) <= set(lines)
    assert any(line.startswith("D /usr/share/perl5/") for line in lines)


def test_cp_into_and_out_of_a_container_stopped_and_running(here: Run, user: tuple[str, Path]) -> None:
    folder = user[1]
    changed(here, user)
    here("cp", "work:/opt", "out")
    assert (folder / "out/one").read_text() == "1\n" and os.readlink(folder / "out/a/link") == "../b"
    assert (folder / "out/one").stat().st_ino == (folder / "out/two").stat().st_ino
    (folder / "note").write_text("note\n")
    here("cp", "note", "work:/bin/note")
    assert "A /usr/bin/note" in here("diff", "work").stdout, "/bin is a link in the root"
    here("run", "-d", "--name", "live", "--network", "none", BASE, "/bin/sleep", "60")
    try:
        here("cp", "note", "live:/srv/note")
        assert here("exec", "live", "/bin/cat", "/srv/note").stdout == "note\n"
        here("exec", "live", "/bin/sh", "-c", "echo back > /srv/back")
        here("cp", "live:/srv/.", "back")
        assert (folder / "back/back").read_text() == "back\n"
        assert (folder / "back/back").owner() == user[0]
        here("commit", "live", "live:1")
        shown = here("run", "--rm", "--network", "none", "live:1", "/bin/cat", "/srv/back").stdout
        assert shown == "back\n"
    finally:
        here("rm", "-f", "live")


def test_an_export_is_imported_again_as_the_same_tree(here: Run, user: tuple[str, Path]) -> None:
    folder = user[1]
    changed(here, user)
    here("export", "work", "flat.tar")
    here("import", "-c", 'CMD ["/bin/sh"]', "flat.tar", "flat:1")
    here("export", "flat:1", "again.tar")
    assert differences(no_root(members(folder / "flat.tar")), no_root(members(folder / "again.tar")), []) == []
    assert json.loads(here("inspect", "flat:1").stdout)[0]["Architecture"] in ("amd64", "arm64")
    assert here("run", "--rm", "--network", "none", "flat:1", "/bin/cat", "/etc/new").stdout == "new\n"


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_is_saved_and_what_it_writes_is_loaded(here: Run, user: tuple[str, Path], form: str) -> None:
    needs("skopeo")
    if user[0] != "root":
        pytest.skip("the bytes do not depend on the user")
    folder = user[1]
    changed(here, user)
    here("commit", "work", "mine:1")
    here("save", "--format", form, "mine:1", BASE, f"{form}.tar")
    copy = ["skopeo", "--insecure-policy", "copy", "-q"]
    for name in ("mine:1", BASE):
        subprocess.run(
            [*copy, f"{form}:{folder}/{form}.tar:{name}", f"dir:{folder}/{name.replace(':', '-')}"], check=True
        )
    theirs = folder / "theirs.tar"
    subprocess.run([*copy, f"oci:{folder}/store/oci:mine:1", f"{form}:{theirs}:theirs:1"], check=True)
    subprocess.run(["gzip", "-1", theirs], check=True)
    told = here("load", "theirs.tar.gz").stdout
    assert told.startswith("Loaded image: ") and told.endswith("theirs:1\n"), "skopeo puts a registry before the name"
    layers = [json.loads(here("inspect", n).stdout)[0]["RootFS"]["Layers"] for n in (told.split()[-1], "mine:1")]
    assert layers[0] == layers[1]


def test_podman_reads_what_is_saved_and_what_it_saves_is_loaded(here: Run, user: tuple[str, Path]) -> None:
    needs("podman")
    if user[0] != "root":
        pytest.skip("the bytes do not depend on the user")
    folder = user[1]
    changed(here, user)
    here("commit", "work", "mine:1")
    here("save", "mine:1", "mine.tar")
    own = [
        "podman", "--root", f"{folder}/graph", "--runroot", f"{folder}/run", "--storage-driver", "vfs",
        "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--tmpdir", f"{folder}/tmp",
    ]  # fmt: skip
    try:
        told = subprocess.run([*own, "load", "-q", "-i", folder / "mine.tar"], capture_output=True, text=True)
        assert told.returncode == 0 and "mine:1" in told.stdout, told.stderr
        command = [*own, "create", "mine:1", "/bin/sh"]
        made = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        with open(folder / "podman.tar", "wb") as out:
            subprocess.run([*own, "export", made], stdout=out, check=True)
        here("export", "mine:1", "ours.tar")
        ours, theirs = (no_root(members(folder / n)) for n in ("ours.tar", "podman.tar"))
        added = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/run/.containerenv", "/run*", "/dev*"]
        # podman's export names no attributes, and puts the kind of a file into its mode
        ours, theirs = ({k: (v[0], v[1] & 0o7777, *v[2:5]) for k, v in t.items()} for t in (ours, theirs))
        assert differences(ours, theirs, [*added, "/proc*", "/sys*"]) == []
        for form in ("docker-archive", "oci-archive"):
            saved = folder / f"{form}.tar"
            subprocess.run([*own, "save", "-q", "--format", form, "-o", saved, "mine:1"], check=True)
            told = here("load", saved)
            assert "mine:1" in told.stdout
            name = told.stdout.strip().rpartition(": ")[2]
            layers = [json.loads(here("inspect", n).stdout)[0]["RootFS"]["Layers"] for n in (name, "mine:1")]
            assert layers[0] == layers[1]
    finally:
        subprocess.run([*own, "rm", "-af"], capture_output=True, check=False)
        subprocess.run([*own, "rmi", "-af"], capture_output=True, check=False)
