"""Images on a parent, on the real archive: what is installed is what apt-get installs, and so is the tree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests.integration.building import (
    ROOT,
    as_user,
    build,
    differences,
    in_chroot,
    members,
    mkroot,
    needs,
    needs_root,
    ordinary_user,
    unpacked,
)
from tests.integration.test_same_tree import explained, sources

pytestmark = pytest.mark.archive
OLD = "ubuntu:parent-old"  # of the release pocket alone, so that everything has an upgrade
REQUESTS = (
    ("libssl-dev", "vim-tiny"),
    ("openssh-server",),
    ("systemd", "dbus"),
    ("build-essential",),
    ("apt",),
)
BIG = ("build-essential", "openssh-server", "systemd", "libssl-dev", "vim")
EXPLAINED = (
    "/etc/apt/sources.list.d/*",  # of the chroot alone: all pockets
    "/etc/resolv.conf",
    "/usr/sbin/policy-rc.d",
    "/var/lib/apt/lists/*",
    "/var/cache/apt/*",
    "/run/*",
    # what `mkroot.rootfs.scrub` takes out: identities, and logs with times
    "/etc/machine-id",
    "/etc/ssh/ssh_host_*",
    "/etc/systemd/system/*mkroot-ssh-host-keys.service",
    "/var/cache/ldconfig/aux-cache",
    "/var/log/*",
)


def parent_recipe() -> str:
    text = (ROOT / "recipes/ubuntu-base.yaml").read_text()
    text = text.replace("ubuntu:noble", OLD).replace("outputs: [tar.zst, oci]", "outputs: [tar, oci]")
    return re.sub(r"^(components: .*)$", r"\1\npockets: []", text, flags=re.MULTILINE)


def on_it(folder: Path, name: str, include: tuple[str, ...], more: str = "") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        f"version: 1\nname: {name}\ndistro: ubuntu\nsuite: noble\narch: [amd64]\ncomponents: [main, universe]\n"
        f"packages: {{include: [{', '.join(include)}]}}\nimage: {{from: '{OLD}', tags: ['{name}:1']}}\n"
        f"outputs: [oci, tar]\n{more}"
    )
    return path


@pytest.fixture(scope="module")
def parent(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the parent's build."""
    folder = tmp_path_factory.mktemp("parent")
    (folder / "old.yaml").write_text(parent_recipe())
    build(folder / "old.yaml", folder / "out", store)
    return folder / "out/ubuntu-base/amd64"


@pytest.fixture(scope="module")
def chroot(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parent's tree with apt's lists of all pockets."""
    needs_root()
    at = unpacked(parent / "rootfs.tar", tmp_path_factory.mktemp("chroot") / "root")
    for old in (at / "etc/apt/sources.list.d").iterdir():
        old.unlink()
    lines = [re.sub(r" main$", " main universe", line) for line in sources("ubuntu", "noble")]
    (at / "etc/apt/sources.list.d/all.list").write_text("\n".join(lines) + "\n")
    shutil.copyfile("/etc/resolv.conf", at / "etc/resolv.conf")
    try:
        in_chroot(at, "apt-get update -o Acquire::Retries=2")
    except AssertionError as e:
        pytest.skip(f"the archive does not answer: {str(e)[-300:]}")
    (at / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (at / "usr/sbin/policy-rc.d").chmod(0o755)
    return at


@pytest.mark.parametrize("recommends", [False, True], ids=["bare", "recommends"])
def test_resolution_is_what_apt_says_in_the_parent(
    recommends: bool, parent: Path, chroot: Path, store: Path, tmp_path: Path
) -> None:
    upgrades = 0
    option = "--install-recommends" if recommends else "--no-install-recommends"
    for include in REQUESTS:
        said = in_chroot(chroot, f"apt-get -s {option} install {' '.join(include)}")
        theirs = dict(re.findall(r"^Inst ([^\s:]+)\S* (?:\[\S+\] )?\((\S+) ", said, re.MULTILINE))
        recipe = on_it(tmp_path, "plan", include)
        if recommends:
            recipe.write_text(recipe.read_text().replace("packages: {", "packages: {recommends: true, "))
        done = mkroot("plan", "--no-lock", "--json", recipe, store=store)
        rows = json.loads(done.stdout)["packages"]
        assert {p["name"]: p["version"] for p in rows} == theirs, include
        old = dict(re.findall(r"^Inst ([^\s:]+)\S* \[(\S+)\]", said, re.MULTILINE))
        assert {p["name"]: p["upgrades"] for p in rows if "upgrades" in p} == old, include
        upgrades += len(old)
    assert upgrades > 10


def test_tree_is_what_apt_get_install_leaves(parent: Path, chroot: Path, store: Path, tmp_path: Path) -> None:
    build(on_it(tmp_path, "big", BIG), tmp_path / "out", store)
    ours = tmp_path / "out/big/amd64"
    epoch = json.loads((ours / "manifest.json").read_text())["epoch"]
    theirs = tmp_path / "theirs"
    subprocess.run(["cp", "-a", chroot, theirs], check=True)
    words = f"SOURCE_DATE_EPOCH={epoch} DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends"
    in_chroot(theirs, "mount -t proc proc /proc", f"{words} {' '.join(BIG)}", "umount /proc")
    tar = tmp_path / "theirs.tar"
    subprocess.run(["tar", "--numeric-owner", "--xattrs", "-C", theirs, "-cf", tar, "."], check=True)
    left = differences(members(ours / "rootfs.tar"), members(tar), (*explained(), *EXPLAINED))
    assert left == []


def layers(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    index = json.loads((path / "index.json").read_text())
    manifest = json.loads((path / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    return manifest, json.loads((path / "blobs/sha256" / manifest["config"]["digest"][7:]).read_text())


def test_the_parents_layers_stay_and_foreign_tools_read_it(parent: Path, store: Path, tmp_path: Path) -> None:
    more = "trim: {man: true}\n"
    build(on_it(tmp_path, "dev", ("libssl-dev",), more), tmp_path / "out", store)
    at = tmp_path / "out/dev/amd64"
    below, config = layers(parent / "oci")
    above, told = layers(at / "oci")
    assert above["layers"][:-1] == below["layers"]
    assert told["rootfs"]["diff_ids"][:-1] == config["rootfs"]["diff_ids"]
    assert told["history"][: len(config["history"])] == config["history"]
    with tarfile.open(at / "oci/blobs/sha256" / above["layers"][-1]["digest"][7:]) as tar:
        names = set(tar.getnames())
    assert any(n.rpartition("/")[2].startswith(".wh.") for n in names)
    assert "usr/lib/x86_64-linux-gnu/libssl.so.3" in names and "usr/bin/bash" not in names
    assert not any(n.startswith("etc/apt/sources") for n in names)  # the parent's own stay
    needs("skopeo", "umoci")
    needs_root()
    copy = tmp_path / "copy"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{at / 'oci'}:dev:1", f"oci:{copy}:a"], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{copy}:a", tmp_path / "bundle"], check=True, capture_output=True)
    tar = tmp_path / "bundle.tar"
    subprocess.run(["tar", "--numeric-owner", "-C", tmp_path / "bundle/rootfs", "-cf", tar, "."], check=True)
    assert differences(members(at / "rootfs.tar"), members(tar), ()) == []


@pytest.mark.parametrize("kind", ["mapped", "single"])
def test_an_ordinary_user_makes_the_same_image(kind: str, parent: Path, store: Path, tmp_path: Path) -> None:
    user = ordinary_user()
    recipe = on_it(tmp_path, "same", ("libssl-dev", "openssh-client"))
    build(recipe, tmp_path / "out", store)
    mkroot("lock", recipe, store=store)
    mkroot("save", OLD, tmp_path / "old.tar", "--format", "oci-archive", store=store)
    home = Path(f"~{user}").expanduser() / f"parent-{kind}"
    words = as_user(user, {"MKROOT_STORE": str(home / "store")})
    try:
        home.mkdir()
        for path in (recipe, recipe.with_suffix(".lock"), tmp_path / "old.tar"):
            shutil.copy(path, home)
            (home / path.name).chmod(0o644)
        shutil.chown(home, user)
        if kind == "single":  # without newuidmap there is one id
            words = ["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /usr/bin/newuidmap && exec "$@"', "-", *words]
        for more in (("load", "old.tar"), ("build", "same.yaml", "--locked", "-o", "out")):
            done = subprocess.run([*words, *more], capture_output=True, text=True, cwd=home)
            assert done.returncode == 0, done.stderr
        ours, theirs = (
            {a["name"]: a["digest"] for a in json.loads((at / "same/amd64/manifest.json").read_text())["artifacts"]}
            for at in (tmp_path / "out", home / "out")
        )
        assert theirs == ours
    finally:
        subprocess.run(["rm", "-rf", home], check=True)


REBASED = (  # what may differ from an image that is built on the new parent
    "/etc/ld.so.cache",  # made at another moment: it may have a library's name for linking
    "/etc/*-",
    "/var/lib/dpkg/status-old",
    "/var/cache/debconf/*",  # what a package told debconf in its old version stays known
)


def test_rebased_is_what_is_built_on_the_new_parent(parent: Path, store: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text((ROOT / "recipes/ubuntu-base.yaml").read_text().replace("ubuntu:noble", "ubuntu:parent-new"))
    build(new, tmp_path / "out", store)
    include = ("openssh-server", "libssl-dev", "vim-tiny")
    build(on_it(tmp_path, "moving", include), tmp_path / "out", store)
    reference = on_it(tmp_path, "reference", include)
    reference.write_text(reference.read_text().replace(OLD, "ubuntu:parent-new"))
    build(reference, tmp_path / "out", store)
    words = ("rebase", "moving:1", "--onto", "ubuntu:parent-new", "--tag", "moved:1", "--json")
    answer = json.loads(mkroot(*words, store=store).stdout)
    assert (answer["answer"], answer["clashes"], answer["unmet"]) == ("configure", [], [])
    assert "libc-bin" in answer["packages"]
    lines = mkroot("diff", "reference:1", "moved:1", store=store, check=False).stdout.splitlines()
    paths = [line.split()[1].rstrip(":") for line in lines if line.startswith("  ")]
    assert [p for p in paths if not any(fnmatchcase(p, glob) for glob in REBASED)] == []
    assert json.loads(mkroot(*words, store=store).stdout)["digest"] == answer["digest"]
