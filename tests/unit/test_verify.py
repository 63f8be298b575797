"""Verifying: the artifacts, the record of their build and a second build agree, or what does not is named."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mkroot.artifact.contrast import cpio_difference, differing, json_difference, tar_difference
from mkroot.artifact.gpt import LINUX_ROOT_X86_64, Partition, layout, write_disk
from mkroot.artifact.qcow2 import write_qcow2
from mkroot.artifact.tools import HostTools
from mkroot.artifact.whereabouts import at_offset
from mkroot.oci.build import ImageSettings
from mkroot.oci.contrast import difference
from mkroot.oci.outputs import write_build
from mkroot.tar.entry import DIR, FILE, Entry
from mkroot.tar.write import END, header, padding
from tests.testarchive import Archive, Content
from tests.unit.commands import Done, Program, small_archive
from tests.unit.test_artifact_root import FACTS, small_root

# ---- what differs first, by kind

KINDS = {
    "dir": "rootfs",
    "tar": "rootfs.tar",
    "tar.gz": "rootfs.tar.gz",
    "tar.zst": "rootfs.tar.zst",
    "cpio.zst": "rootfs.cpio.zst",
    "squashfs": "rootfs.squashfs",
    "erofs": "rootfs.erofs",
    "ext4": "rootfs.ext4",
    "oci": "oci",
    "oci-archive": "oci.tar",
    "docker-archive": "docker.tar",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    root = small_root(folder / "store")
    return write_build(root, FACTS, ImageSettings(), folder / "out", tuple(KINDS)).folder


def flip(path: Path, at: int | None = None) -> int:
    """Change one byte of a file, the middle one unless told otherwise; return its offset."""
    data = bytearray(path.read_bytes())
    at = len(data) // 2 if at is None else at
    data[at] ^= 0xFF
    path.write_bytes(data)
    return at


def copied(made: Path, name: str, to: Path) -> Path:
    target = to / name
    subprocess.run(["cp", "-a", made / name, target], check=True)
    return target


@pytest.mark.counts("fault")
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("dir", "oci")])
def test_a_changed_byte_is_placed(kind: str, made: Path, tmp_path: Path) -> None:
    """Archives name the member; images of file systems the offset, which is the byte that was changed."""
    path = copied(made, KINDS[kind], tmp_path)
    assert difference(path, made / KINDS[kind]) == ""
    at = flip(path)
    told = difference(path, made / KINDS[kind])
    if kind in ("squashfs", "erofs", "ext4"):
        assert f"from offset {at} on" in told
    else:
        assert "/" in told or f"offset {at}" in told, told
        assert any(w in told for w in ("content differs", "damaged", "other bytes", "missing", "only in")), told


@pytest.mark.counts("fault")
@pytest.mark.parametrize("codec", ["tar", "oci"])
def test_the_file_is_named(codec: str, made: Path, tmp_path: Path) -> None:
    """A byte of a file's content, changed where it stands."""
    if codec == "tar":
        path = copied(made, "rootfs.tar", tmp_path)
        flip(path, path.read_bytes().index(b"#!#!#!#!") + 5000)
        assert difference(path, made / "rootfs.tar") == "/usr/bin/sh: content differs"
    else:
        path = copied(made, "oci", tmp_path)
        layer = max((path / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
        flip(layer)
        told = difference(path, made / "oci")
        assert told.startswith("layer 1: ") and "/" in told, told


@pytest.mark.counts("fault")
@pytest.mark.parametrize("what", ["content", "mode", "time", "gone", "more", "link"])
def test_a_folder_is_compared_by_path(what: str, made: Path, tmp_path: Path) -> None:
    path = copied(made, "rootfs", tmp_path)
    su = path / "usr/bin/su"
    times = su.stat().st_atime, su.stat().st_mtime
    folder = (path / "usr/bin").stat().st_mtime
    told = {
        "content": "/usr/bin/su: content differs",
        "mode": f"/usr/bin/su: mode 0700 → {stat.S_IMODE(su.stat().st_mode):04o}",  # as this user can have it
        "time": "/usr/bin/su: time 1 → ",
        "gone": "/usr/bin/su: missing in the artifact",
        "more": "/usr/bin/aaa: only in the artifact",
        "link": "/bin: link usr/sbin → usr/bin",
    }[what]
    if what == "content":
        su.write_bytes(b"SU")
        su.chmod(0o4755)
        os.utime(su, times)
    elif what == "mode":
        su.chmod(0o700)
    elif what == "time":
        os.utime(su, (1, 1))
    elif what == "gone":
        su.unlink()
    elif what == "more":
        (path / "usr/bin/aaa").write_bytes(b"")
    else:
        (path / "bin").unlink()
        (path / "bin").symlink_to("usr/sbin")
        os.utime(path / "bin", ns=(0, (made / "rootfs/bin").lstat().st_mtime_ns), follow_symlinks=False)
        os.utime(path, ns=(0, (made / "rootfs").stat().st_mtime_ns))
    os.utime(path / "usr/bin", (folder, folder))
    assert difference(path, made / "rootfs").startswith(told)


def tar(*members: tuple[Entry, bytes]) -> Callable[[], Any]:
    data = b"".join(header(e) + c + padding(len(c)) for e, c in members) + END
    return lambda: iter([data])


def file(path: str, content: bytes = b"x", **more: Any) -> tuple[Entry, bytes]:
    return Entry(path, FILE, more.pop("mode", 0o644), size=len(content), **more), content


ROWS = {
    "same": (tar(file("a")), tar(file("a")), ""),
    "content": (tar(file("a"), file("b", b"1")), tar(file("a"), file("b", b"2")), "/b: content differs"),
    "mode": (tar(file("a", mode=0o600)), tar(file("a")), "/a: mode 0600 → 0644"),
    "owner": (tar(file("a", uid=7)), tar(file("a")), "/a: owner 7:0 → 0:0"),
    "time": (tar(file("a", mtime=7)), tar(file("a")), "/a: time 7 → 0"),
    "size": (tar(file("a", b"12")), tar(file("a")), "/a: content differs, size 2 → 1"),
    "xattr": (tar(file("a", xattrs={"user.x": b"1"})), tar(file("a")), "/a: xattrs user.x=31 → none"),
    "kind": (tar((Entry("a", DIR, 0o755), b"")), tar(file("a", mode=0o755)), "/a: kind folder → file"),
    "more": (tar(file("a"), file("b")), tar(file("a")), "/b: only in the artifact"),
    "less": (tar(file("a")), tar(file("a"), file("b")), "/b: missing in the artifact"),
    "order": (tar(file("a"), file("b")), tar(file("b"), file("a")), "/a: stands in another place"),
    "cut": (
        lambda: iter([header(file("a")[0]) + b"x"]),
        tar(file("a")),
        "damaged after /a: the tar stream is truncated",
    ),
    "control": (tar(file("a\x1b[31m")), tar(file("b")), "/a\\x1b[31m: only in the artifact"),
}


@pytest.mark.parametrize("name", ROWS)
def test_tar_streams_side_by_side(name: str) -> None:
    before, after, told = ROWS[name]
    assert tar_difference(before, after) == told


def test_a_cpio_archive_that_ends_early_is_damaged() -> None:
    assert cpio_difference(lambda: iter([b"070701"]), lambda: iter([b"070701"])).startswith("damaged at its beginning")


def test_json_documents_by_key() -> None:
    old, new = b'{"a": {"b": [1, 2]}, "c": 1}', b'{"a": {"b": [1, 3]}}'
    assert json_difference(old, new) == "`a.b[1]`: 2 → 3"
    assert json_difference(b'{"c": 1}', b"{}") == "`c`: only in the artifact"
    assert json_difference(b"{", b"{}") == "no JSON any more"


@pytest.mark.parametrize("at", [0, 1, 500, 998, 999])
def test_the_first_byte_that_differs(at: int) -> None:
    old = bytes(1000)
    new = bytes(at) + b"\1" + bytes(999 - at)
    assert differing(old, new) == at
    assert differing(old, old) == 1000


def test_the_file_at_an_offset_of_a_file_system(made: Path) -> None:
    data = (made / "rootfs.ext4").read_bytes()
    assert at_offset(made / "rootfs.ext4", data.index(b"#!#!#!#!") + 4096).endswith("/usr/bin/sh")
    assert at_offset(made / "rootfs.ext4", 1024 + 4) == "the file system's own data"
    assert at_offset(made / "rootfs.squashfs", 4096) == ""


@pytest.mark.counts("fault")
@pytest.mark.parametrize("form", ["disk.raw", "disk.qcow2"])
def test_a_changed_byte_of_a_disk_is_placed_in_its_partition(form: str, made: Path, tmp_path: Path) -> None:
    size = (made / "rootfs.ext4").stat().st_size
    root = Partition(
        name="root", kind=LINUX_ROOT_X86_64, identity=uuid.UUID(int=2), content=made / "rootfs.ext4", size=size
    )
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        write_disk(tmp_path / name / "disk.raw", layout([root]), identity=uuid.UUID(int=1))
    old, new = tmp_path / "old/disk.raw", tmp_path / "new/disk.raw"
    at = flip(old, old.read_bytes().index(b"#!#!#!#!") + 4096)
    told = f"other bytes from offset {at} on"
    if form == "disk.qcow2":
        for raw in (old, new):
            write_qcow2(raw, raw.with_suffix(".qcow2"), HostTools())
        old, new = old.with_suffix(".qcow2"), new.with_suffix(".qcow2")
    found = difference(old, new)
    assert found.startswith("partition root, ") and found.endswith(f"/usr/bin/sh: {told}"), found


# ---- the command


class Bench:
    """A recipe that was built once, and copies of its output to spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = Program(folder)
        archive = self.archive(folder)
        (folder / "keys.asc").write_bytes(archive.keyring.read_bytes())
        (folder / "motd").write_text("hello\n")
        self.recipe = archive.recipe(
            name="box",
            packages={"include": ["tool"]},
            configure="none",
            keyring="keys.asc",
            vars={"size": "4"},
            config={"files": [{"path": "/etc/motd", "from": "motd"}]},
            outputs=["dir", "tar", "tar.zst", "oci"],
        )
        done = self.program("build", self.program.recipe("r.yaml", self.recipe))
        assert done.status == 0, done.err

    @staticmethod
    def archive(folder: Path) -> Archive:
        archive = small_archive(folder / "archive")
        archive.add("aside", content=Content(files={"etc/aside": b"1"}))
        return archive

    def spoiled(self, name: str) -> tuple[Path, Path]:
        """Return an output folder, and in it the one with the artifacts."""
        shutil.copytree(self.folder / "out", self.folder / name, symlinks=True)
        return self.folder / name, self.folder / name / "box/amd64"

    def verify(self, out: Path, *words: str) -> Done:
        before = sorted(os.listdir(self.folder / "store/tmp"))
        done = self.program("verify", "r.yaml", "-o", str(out), *words)
        assert sorted(os.listdir(self.folder / "store/tmp")) == before, "the second build left something"
        assert "Traceback" not in done.err
        return done


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.counts("rebuild")
@pytest.mark.parametrize("words", [(), ("--offline",)], ids=["mirror", "store"])
def test_what_was_built_is_built_again(bench: Bench, words: tuple[str, ...]) -> None:
    done = bench.verify(bench.folder / "out", *words, "--json")
    assert done.status == 0, done.err
    assert done.json["ok"] and [a["state"] for a in done.json["builds"][0]["artifacts"]] == ["same"] * 5


@pytest.mark.counts("fault", 1)
def test_every_artifact_that_was_touched_is_named(
    bench: Bench, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    out, folder = bench.spoiled("touched")
    tar_ = folder / "rootfs.tar"
    flip(tar_, tar_.read_bytes().index(b"tool", tar_.read_bytes().index(b"usr/bin/tool") + 512))
    (folder / "rootfs.tar.zst").unlink()
    (folder / "rootfs/etc/motd").write_text("HELLO\n")
    os.utime(folder / "rootfs/etc/motd", (1, 1))
    flip(max((folder / "oci/blobs/sha256").iterdir(), key=lambda p: p.stat().st_size))
    (folder / "extra").write_text("mine")
    done = bench.verify(out)
    assert done.status == 1
    assert f"error: {folder}/rootfs.tar: changed since it was built: /usr/bin/tool: content differs" in done.err
    assert f"error: {folder}/rootfs.tar.zst: the artifact is missing" in done.err
    assert f"error: {folder}/rootfs: changed since it was built: /etc/motd: content differs" in done.err
    assert f"error: {folder}/oci: changed since it was built: layer 1: " in done.err
    assert f"error: {folder}/extra: not of this build" in done.err
    rows = {line.split()[0].rpartition("/")[2]: line.split()[-1] for line in done.out.splitlines()}
    assert rows == {
        "extra": "unknown", "manifest.json": "same", "oci": "differs", "rootfs": "differs", "rootfs.tar": "differs",
        "rootfs.tar.zst": "missing",
    }  # fmt: skip
    record_property("cases", 5)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "provenance.json"
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def definition(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = record["predicate"]["buildDefinition"]
    return found


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "subject": (
        lambda r: r["subject"][3]["digest"].update(sha256="0" * 64),
        "rootfs.tar: the record of the build names another digest than it has",
    ),
    "tree": (
        lambda r: r["subject"][2]["digest"].update(mkrootTree="0" * 64),
        "rootfs: the record of the build names another digest than it has",
    ),
    "material": (
        lambda r: definition(r)["resolvedDependencies"][-1]["digest"].update(sha256="0" * 64),
        "provenance.json: the record of the build was changed: `predicate.buildDefinition.resolvedDependencies[",
    ),
    "no-material": (
        lambda r: definition(r)["resolvedDependencies"].pop(),
        "provenance.json: the record of the build was changed: `predicate.buildDefinition.resolvedDependencies`: ",
    ),
    "recipe": (
        lambda r: definition(r)["externalParameters"]["recipe"].update(sha256="0" * 64),
        "the artifacts were built from another recipe than r.yaml is now",
    ),
    "lock": (
        lambda r: definition(r)["resolvedDependencies"][0]["digest"].update(sha256="0" * 64),
        "the artifacts were built from another lock than r.lock is now",
    ),
    "outputs": (
        lambda r: definition(r)["externalParameters"]["outputs"].pop(),
        "the artifacts were built from another recipe than r.yaml is now",
    ),
    "date": (
        lambda r: definition(r)["externalParameters"].update(sourceDateEpoch=1_000_000_000),
        "rootfs.tar: the second build gives other bytes: /",
    ),
    "version": (
        lambda r: r["predicate"]["runDetails"]["builder"]["version"].update(mkroot="0.0.1"),
        "",
    ),
}


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("name", TAMPERED)
def test_a_record_that_was_changed_is_seen(name: str, bench: Bench) -> None:
    change, told = TAMPERED[name]
    out, folder = bench.spoiled(f"record-{name}")
    rewritten(folder, change)
    done = bench.verify(out, "--offline")
    if not told:  # another version of mkroot is no fault, and is told
        assert done.status == 0, done.err
        assert "warning: built by mkroot 0.0.1, built again by " in done.err
        return
    assert done.status == 1, done.err
    assert told in done.err
    assert "error: " in done.err


@pytest.mark.counts("trust-refused")
def test_artifact_and_record_changed_together_are_seen_by_the_second_build(bench: Bench) -> None:
    import hashlib

    out, folder = bench.spoiled("together")
    tar_ = folder / "rootfs.tar"
    flip(tar_, tar_.read_bytes().index(b"hello\n"))
    digest = hashlib.sha256(tar_.read_bytes()).hexdigest()
    rewritten(folder, lambda r: r["subject"][3]["digest"].update(sha256=digest))
    done = bench.verify(out, "--offline")
    assert done.status == 1
    assert "rootfs.tar: the second build gives other bytes: /etc/motd: content differs" in done.err


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("name", ["nothing", "no-record", "damaged", "no-lock", "standard-input", "recipe", "file"])
def test_there_must_be_something_to_verify(name: str, bench: Bench) -> None:
    out, folder = bench.spoiled(f"bad-{name}")
    words, told = ("r.yaml",), ""
    if name == "nothing":
        out, told = bench.folder / "nowhere", "nothing is built there yet\nhint: run `mkroot build r.yaml` first"
    elif name == "no-record":
        (folder / "provenance.json").unlink()
        told = "the record of the build is missing"
    elif name == "damaged":
        (folder / "provenance.json").write_bytes(b"{")
        told = "the record of the build is damaged"
    elif name == "no-lock":
        words = (bench.program.recipe("unlocked.yaml", bench.recipe),)
        told = "unlocked.lock: there is no lock"
    elif name == "standard-input":
        words, told = ("-",), "a recipe from standard input has no lock"
    elif name == "recipe":
        words = (bench.program.recipe("other.yaml", {**bench.recipe, "trim": {"docs": True}}),)
        shutil.copy(bench.folder / "r.lock", bench.folder / "other.lock")
        told = "the artifacts were built from another recipe than other.yaml is now"
    else:
        (bench.folder / "motd").write_text("other\n")
        told = "`config.files[0].from`: the recipe's file is another one than when it was built"
    stdin = json.dumps(bench.recipe) if name == "standard-input" else ""
    try:
        done = bench.program("verify", *words, "-o", str(out), "--offline", stdin=stdin)
    finally:
        (bench.folder / "motd").write_text("hello\n")
    assert done.status == 1
    assert told in done.err and "Traceback" not in done.err
