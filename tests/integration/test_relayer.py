"""Images with other layers, as others see them: umoci unpacks the same tree, podman runs it, skopeo reads it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mkroot.tar.entry import DIR, FILE, SYMLINK
from tests.integration.building import mkroot, needs, needs_root
from tests.integration.registries import served
from tests.integration.test_oci_clients import alone, place, run, shell_members
from tests.unit.test_artifact_root import EPOCH
from tests.unit.test_relayer import debian
from tests.unit.test_relayer import folder as folder_entry

__all__ = ["place"]
FOREIGN = "foreign:1"


def snapshot(root: Path) -> dict[str, Any]:
    """Everything that a tree says of itself: owners, modes, times, links, contents and attributes."""
    found: dict[str, Any] = {}
    names: dict[int, str] = {}
    for at, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(at, name)
            s = path.lstat()
            attributes = {n: os.getxattr(path, n, follow_symlinks=False) for n in _listed(path)}
            content: object = ""
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            first = names.setdefault(s.st_ino, str(path.relative_to(root))) if not path.is_dir() else ""
            found[str(path.relative_to(root))] = (
                s.st_mode, s.st_uid, s.st_gid, int(s.st_mtime), content, first, attributes,
            )  # fmt: skip
    return found


def _listed(path: Path) -> list[str]:
    return [n for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("security.selinux")]


def unpacked(image: str, at: Path) -> dict[str, Any]:
    """What umoci makes of an image of a layout; 0.4.7 knows no zstd, so skopeo hands it the layers in gzip."""
    run("skopeo", "--insecure-policy", "copy", "-q", "--dest-compress-format", "gzip", image, f"oci:{at}.oci:x")
    run("umoci", "unpack", "--image", f"{at}.oci:x", at)
    return snapshot(at / "rootfs")


@pytest.fixture
def foreign(place: Path) -> Iterator[Path]:
    """A store with an image that umoci made: Debian's database, then layers that change, hide and remove."""
    needs("umoci", "skopeo")
    needs_root()
    layout = place / "layout"
    run("umoci", "init", "--layout", layout)
    image = f"{layout}:x"
    run("umoci", "new", "--image", image)
    run("umoci", "unpack", "--image", image, place / "bundle")
    tree = place / "bundle/rootfs"
    for layer in debian():
        for entry, data in [*layer["members"], folder_entry("srv"), folder_entry("srv/in")]:
            path = tree / entry.path
            if entry.kind == DIR:
                path.mkdir(mode=entry.mode, parents=True, exist_ok=True)
            elif entry.kind == FILE:
                path.write_bytes(data)
    (tree / "srv/in/one").write_bytes(b"1")
    os.link(tree / "srv/in/one", tree / "srv/in/two")
    os.chown(tree / "srv/in/one", 1000, 1001)
    os.setxattr(tree / "srv/in/one", "user.note", b"kept")
    os.setxattr(tree / "srv/in", "user.note", b"kept, too")
    for path in tree.rglob("*"):
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    run("umoci", "repack", "--refresh-bundle", "--image", image, place / "bundle")
    (tree / "usr/bin/small").unlink()
    shutil.rmtree(tree / "usr/share/doc")
    (tree / "etc/mine").unlink()
    (tree / "etc/mine").mkdir()
    (tree / "etc/mine/in").write_bytes(b"in")
    run("umoci", "repack", "--refresh-bundle", "--image", image, place / "bundle")
    (tree / "usr/bin/small").write_bytes(b"again")
    run("umoci", "repack", "--image", image, place / "bundle")
    run("umoci", "config", "--image", image, "--config.cmd", "/bin/sh", "--config.label", "a=b")
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{image}", f"oci-archive:{place}/foreign.tar:{FOREIGN}")
    mkroot("load", place / "foreign.tar", store=place / "store")
    yield place


@pytest.mark.parametrize(
    "words",
    [
        ("--by", "single"),
        ("--by", "source", "--budget", "3", "--compression", "zstd"),
        ("--by", "source", "--compression", "zstd:chunked"),
        ("--compression", "zstd"),
        ("--compression", "none"),
        ("--compression", "gzip", "--single-stream"),
    ],
    ids=" ".join,
)
def test_umoci_unpacks_the_same_tree(words: tuple[str, ...], foreign: Path) -> None:
    store = foreign / "store"
    done = mkroot("relayer", FOREIGN, "new:1", *words, "--json", store=store)
    count = len(json.loads(done.stdout)["images"][0]["layers"])
    mkroot("inspect", "--verify", "new:1", store=store)
    before = unpacked(f"oci:{store}/oci:{FOREIGN}", foreign / "before")
    after = unpacked(f"oci:{store}/oci:new:1", foreign / "after")
    assert before.keys() == after.keys()
    assert {p: (before[p], after[p]) for p in before if before[p] != after[p]} == {}
    assert "usr/share/doc/small" not in before and before["srv/in/two"][5] == "srv/in/one"
    old, new = (
        json.loads(run("skopeo", "inspect", "--config", f"oci:{store}/oci:{name}")) for name in (FOREIGN, "new:1")
    )
    assert new["config"] == old["config"]
    assert len([h for h in new["history"] if not h.get("empty_layer")]) == len(new["rootfs"]["diff_ids"]) == count
    assert mkroot("relayer", FOREIGN, "new:2", *words, store=store).stdout.split("@")[1] == (
        json.loads(done.stdout)["digest"] + "\n"
    )


def test_a_registry_gets_the_layers_as_they_are_wanted(foreign: Path) -> None:
    store = foreign / "store"
    with served(foreign / "registry") as registry:
        remote = f"{registry.host}/team/foreign:1"
        mkroot("tag", FOREIGN, remote, store=store)
        mkroot("push", remote, "--compression", "zstd", store=store)
        told = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{remote}"))
        assert {layer["mediaType"].rpartition("+")[2] for layer in told["layers"]} == {"zstd"}
        mine = json.loads(mkroot("inspect", FOREIGN, store=store).stdout)[0]
        assert {layer["MediaType"].rpartition("+")[2] for layer in mine["Layers"]} == {"gzip"}, "the image itself stays"
        assert told["config"]["digest"] == mine["Id"]
        after = unpacked(f"oci:{store}/oci:{FOREIGN}", foreign / "before")
        run("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{remote}",
            f"oci:{foreign}/back:x")  # fmt: skip
        assert unpacked(f"oci:{foreign}/back:x", foreign / "after") == after


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount namespace of root's")
def test_podman_runs_what_was_merged(place: Path) -> None:
    needs("podman", "skopeo")
    import io
    import tarfile

    with tarfile.open(place / "root.tar", "w") as tar:
        for entry, data in shell_members():
            info = tarfile.TarInfo(entry.path or ".")
            info.mode, info.mtime, info.size, info.linkname = entry.mode, entry.mtime, len(data), entry.link
            info.type = {DIR: tarfile.DIRTYPE, SYMLINK: tarfile.SYMTYPE}.get(entry.kind, tarfile.REGTYPE)
            tar.addfile(info, io.BytesIO(data))
    store = place / "store"
    mkroot("import", place / "root.tar", "shell:1", "-c", 'CMD ["/bin/sh"]', store=store)
    mkroot("relayer", "shell:1", "--by", "source", "--compression", "zstd", store=store)
    own = [
        "podman", "--root", str(place / "graph"), "--runroot", str(place / "run"), "--storage-driver", "vfs",
        "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--tmpdir", str(place / "tmp"),
    ]  # fmt: skip
    limits = ["--network", "none", "--cgroups", "disabled", "--log-driver", "none"]
    limits += ["--ulimit", "nofile=256:256", "--ulimit", "nproc=256:256"]
    try:
        image = run(*own, "pull", "-q", f"oci:{store}/oci:shell:1").strip()
        command = alone([*own, "run", "--rm", *limits, image, "/bin/sh", "-c", "true && echo ran"])
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 126 or "operation not permitted" in done.stderr.lower():
            pytest.skip(f"podman cannot run containers here: {done.stderr.strip()[-200:]}")
        assert done.stdout == "ran\n", done.stderr
    finally:
        subprocess.run([*own, "rmi", "-af"], capture_output=True, check=False)
