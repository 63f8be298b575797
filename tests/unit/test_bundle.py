"""Bundles: one file that builds the same bytes anywhere; what is damaged or hostile in one never gets out of it."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mkroot.bundle.form import (
    INDEX,
    SUMS,
    Blob,
    Held,
    Index,
    Member,
    decode,
    head,
    is_bundle,
    sums,
)
from mkroot.bundle.unpack import opened
from mkroot.errors import ArtifactError, Faults, MkrootError, RecipeError
from mkroot.store.store import Store
from mkroot.tar.write import END, padding
from tests.testarchive import Archive, Content
from tests.unit.commands import Done, Program, small_archive


class Project:
    """A recipe that reaches everywhere: an extended one above it, local files, a tree with links, a local package."""

    def __init__(self, folder: Path, *, uri: str | None = None) -> None:
        self.folder = folder
        archive = small_archive(folder / "archive")
        for name in ("parts", "recipes/tree/deep"):
            (folder / name).mkdir(parents=True)
        shutil.copy(archive.keyring, folder / "parts/keys.asc")
        own = Archive(folder / "own").add("own", "3.0", content=Content(files={"usr/bin/own": b"own"}))
        shutil.copy(own.path, folder / "recipes/own.deb")
        (folder / "recipes/tree/deep/file").write_text("deep\n")
        (folder / "recipes/tree/tool").write_text("#!/bin/sh\n")
        (folder / "recipes/tree/tool").chmod(0o755)
        (folder / "recipes/tree/link").symlink_to("/etc/passwd")
        (folder / "recipes/motd").write_text("hello\n")
        base = {"keyring": "keys.asc", "mirror": uri or archive.uri, "configure": "none", "arch": ["amd64"]}
        (folder / "parts/base.yaml").write_text(json.dumps(base))
        self.data = {
            "version": 1,
            "name": "box",
            "extends": ["../parts/base.yaml"],
            "vars": {"suite": "none-such"},
            "distro": "debian",
            "suite": "${suite}",
            "packages": {"include": ["tool", "./own.deb"]},
            "config": {"files": [{"path": "/etc/motd", "from": "motd"}, {"path": "/srv", "from": "tree"}]},
            "outputs": ["tar", "oci", "cpio.zst"],
        }
        (folder / "recipes/box.yaml").write_text(json.dumps(self.data))

    def bundle(self) -> tuple[Path, Path]:
        """Return the bundle and the output of a build from the recipe itself."""
        program = Program(self.folder)
        words = ("-D", "suite=trixie")
        done = program("build", "recipes/box.yaml", *words)
        assert done.status == 0, done.err
        done = program("bundle", "recipes/box.yaml", *words, "-o", "box.mkroot.tar", "--offline", "--json")
        assert done.status == 0, done.err
        path = self.folder / "box.mkroot.tar"
        assert done.json["digest"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        assert (done.json["size"], done.json["packages"], done.json["files"]) == (path.stat().st_size, 3, 8)
        return path, self.folder / "out"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return Project(tmp_path_factory.mktemp("project")).bundle()


def same_trees(one: Path, other: Path) -> list[str]:
    """Return the paths in which two folders differ."""
    found = []
    names = [
        {os.path.relpath(os.path.join(at, f), top) for at, _, fs in os.walk(top) for f in fs} for top in (one, other)
    ]
    for name in sorted(names[0] | names[1]):
        pair = one / name, other / name
        if not all(p.exists() for p in pair) or not filecmp.cmp(*pair, shallow=False):
            found.append(name)
    return found


def elsewhere(bundle: Path, folder: Path) -> Program:
    """Return a program on a machine that has the bundle, an empty store and no mirror."""
    folder.mkdir()
    shutil.copy(bundle, folder / "it.tar")
    return Program(folder)


@pytest.mark.counts("rebuild")
def test_it_builds_the_same_bytes_with_nothing_else_at_hand(packed: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, out = packed
    program = elsewhere(bundle, tmp_path / "there")
    done = program("build", "it.tar")
    assert done.status == 0, done.err
    assert same_trees(out, tmp_path / "there/out") == []
    assert sorted(os.listdir(tmp_path / "there")) == ["it.tar", "out", "store"]
    assert os.listdir(tmp_path / "there/store/tmp") == []
    again = program("build", "it.tar")
    assert "nothing changed" in again.err


@pytest.mark.counts("rebuild")
def test_it_is_verified_and_planned_like_its_recipe(packed: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, out = packed
    program = elsewhere(bundle, tmp_path / "there")
    shutil.copytree(out, tmp_path / "there/out")
    done = program("verify", "it.tar", "--json")
    assert done.status == 0 and done.json["ok"], done.err
    plan = program("plan", "it.tar", "--json").json
    assert sorted(p["name"] for p in plan["packages"]) == ["base", "lib", "own", "tool"]
    assert program("check", "it.tar").err == "it.tar: ok\n"
    assert os.listdir(tmp_path / "there/store/tmp") == []


@pytest.mark.counts("rebuild")
def test_the_same_recipe_gives_the_same_bundle_elsewhere(packed: tuple[Path, Path], tmp_path: Path) -> None:
    """Another folder, other times of files, another umask and store: only the mirror's address stands in it."""
    first = decode_of(packed[0])
    archive = packed[0].parent / "archive/debian"
    project = Project(tmp_path / "somewhere/else", uri=f"file:{archive}")
    shutil.copy(packed[0].parent / "recipes/box.lock", tmp_path / "somewhere/else/recipes/box.lock")
    for at, _, names in os.walk(project.folder / "recipes"):
        for name in names:
            os.utime(os.path.join(at, name), (1, 1), follow_symlinks=False)
    old = os.umask(0o077)
    try:
        bundle, _ = project.bundle()
    finally:
        os.umask(old)
    second = decode_of(bundle)
    parts = {m.path: m for m in second.files} | {"parts/base.yaml": None}
    assert parts == {m.path: m for m in first.files} | {"parts/base.yaml": None}  # it names its own archive
    assert (first.debs, first.recipe, first.variables) == (second.debs, second.recipe, second.variables)
    assert str(tmp_path) not in second.recipe and second.recipe == "recipe/box.yaml"
    assert second.mirror == "", "no image of it has apt"
    shutil.copy(packed[0].parent / "parts/base.yaml", project.folder / "parts/base.yaml")
    assert project.bundle()[0].read_bytes() == packed[0].read_bytes()


def decode_of(bundle: Path) -> Index:
    data = bundle.read_bytes()
    size = int(data[124:135], 8)
    return decode(data[512 : 512 + size], "it")


def test_any_tar_reads_it(packed: tuple[Path, Path]) -> None:
    import tarfile

    with tarfile.open(packed[0]) as t:
        names = t.getnames()
        line = t.extractfile(SUMS).read().decode()  # type: ignore[union-attr]
        index = t.extractfile(INDEX).read()  # type: ignore[union-attr]
    assert names[:2] == [INDEX, SUMS] and "files/recipe/box.lock" in names
    assert line == f"{hashlib.sha256(index).hexdigest()}  {INDEX}\n"


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("bundle", "-"), 2, "a recipe from standard input cannot be bundled"),
        (("bundle", "box.mkroot.tar"), 2, "`box.mkroot.tar` is a bundle already"),
        (("bundle", "recipes/absolute.yaml"), 1, "by its place on this machine"),
        (("bundle", "recipes/box.yaml", "-D", "suite=trixie", "-o", "parts"), 1, "parts: it is a folder"),
        (("bundle", "recipes/box.yaml", "-D", "suite=trixie", "-o", "no/where.tar"), 1, "there is no such file"),
        (("bundle", "recipes/none.yaml"), 1, "none.yaml"),
        (("bundle", "recipes/unlocked.yaml", "--locked"), 1, "there is no lock"),
        (("build", "box.mkroot.tar", "--no-lock"), 2, "a bundle is built from its lock"),
        (("build", "box.mkroot.tar", "--arch", "arm64"), 1, "arm64"),
        (("build", "box.mkroot.tar", "-D", "suite=sid"), 1, "stale"),
        (("build", "box.mkroot.tar", "-D", "other=sid"), 1, "the recipe declares no such variable"),
        (("lock", "box.mkroot.tar"), 1, "box.mkroot.tar"),
    ],
)
def test_what_cannot_be_is_told(words: tuple[str, ...], status: int, told: str, packed: tuple[Path, Path]) -> None:
    folder = packed[0].parent
    data = {"version": 1, "name": "a", "distro": "debian", "suite": "trixie", "mirror": f"file:{folder}/archive/debian"}
    key = {"keyring": str(folder / "parts/keys.asc"), "configure": "none"}
    (folder / "recipes/absolute.yaml").write_text(json.dumps({**data, **key}))
    (folder / "recipes/unlocked.yaml").write_text(json.dumps(data))
    done = Program(folder)(*words)
    assert (done.status, "Traceback" in done.err) == (status, False), done.err
    assert told in done.err
    assert "/store/tmp/" not in done.err, "a folder that is gone by now means nothing to anybody"
    assert os.listdir(folder / "store/tmp") == []


# ---- damage

Contents = dict[str, bytes]


def taken_apart(bundle: Path) -> tuple[Index, Contents]:
    index, data = decode_of(bundle), bundle.read_bytes()
    at = 512 + int(data[124:135], 8)
    at += -at % 512
    at += 1024
    found = {}
    for name, blob in index.contents():
        at += len(head(name, blob.size))
        found[name] = data[at : at + blob.size]
        at += blob.size + len(padding(blob.size))
    return index, found


def put_together(path: Path, index: Index, contents: Mapping[str, bytes], text: bytes | None = None) -> Path:
    """Write a bundle as its index says, whatever that is."""
    text = index.encode() if text is None else text
    parts = []
    for name, data in ((INDEX, text), (SUMS, sums(text))):
        parts.append(head(name, len(data)) + data + padding(len(data)))
    for name, blob in index.contents():
        data = contents.get(name, b"")
        data = data[: blob.size].ljust(min(blob.size, 1 << 16), b"\0")
        parts.append(head(name, blob.size) + data + padding(len(data)))
    path.write_bytes(b"".join(parts) + END)
    return path


def refused(path: Path, tmp_path: Path, error: type[MkrootError] | tuple[type[MkrootError], ...]) -> MkrootError:
    """See that a bundle is refused, that nothing is left of it, and that it got nowhere; return what was said."""
    home = tmp_path / "refused"
    home.mkdir(exist_ok=True)
    store = Store(home / "store")
    with pytest.raises(error) as told, opened(store, str(path), {}):
        pass
    assert os.listdir(store.root / "tmp") == []
    assert os.listdir(home) == ["store"] and not Path("/tmp/mkroot-escaped").exists()
    for deb in (store.root / "debs").glob("*/*"):  # what had been checked before the fault was met
        assert hashlib.sha256(deb.read_bytes()).hexdigest() == deb.name
    return told.value


def test_a_bundle_taken_apart_and_put_together_is_itself(packed: tuple[Path, Path], tmp_path: Path) -> None:
    path = put_together(tmp_path / "it.tar", *taken_apart(packed[0]))
    assert path.read_bytes() == packed[0].read_bytes()


@pytest.mark.counts("fault")
def test_no_byte_can_be_changed(
    packed: tuple[Path, Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Flipped bits: in the headers, the index, the contents, the padding, the end."""
    data = packed[0].read_bytes()
    start = 512 + int(data[124:135], 8)
    places = {0, 50, 130, 156, 257, 400, 520, 600, start - 3, start + 5, len(data) - 1, len(data) - 1023}
    places |= set(range(700, len(data), len(data) // 40))
    for at in sorted(places):
        path = tmp_path / "flipped.tar"
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x04]) + data[at + 1 :])
        if at < len(INDEX) + 1:
            assert not is_bundle(str(path))
        told = refused(path, tmp_path, ArtifactError)
        assert "the bundle is damaged" in told.what or "a bundle of form" in told.what, (at, told)
    record_property("cases", len(places))


@pytest.mark.counts("fault")
def test_no_byte_can_be_missing_or_follow(
    packed: tuple[Path, Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    data = packed[0].read_bytes()
    cuts = [len(INDEX) + 1, 511, 512, 700, 3000, *range(5000, len(data), len(data) // 10), len(data) - 1]
    for length in cuts:
        path = tmp_path / "cut.tar"
        path.write_bytes(data[:length])
        assert "the bundle is damaged" in refused(path, tmp_path, ArtifactError).what
    for more in (b"\0", b"x" * 512):
        path.write_bytes(data + more)
        assert "its index promises" in refused(path, tmp_path, ArtifactError).what
    record_property("cases", len(cuts) + 2)


# ---- hostile ones


def named(path: str, content: bytes = b"x") -> tuple[Member, bytes]:
    return Member(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest()), content


def with_files(bundle: Path, *more: tuple[Member, bytes]) -> tuple[Index, Contents]:
    """Return a bundle with files added or replaced, in order."""
    index, contents = taken_apart(bundle)
    files = {m.path: m for m in index.files} | {m.path: m for m, _ in more}
    contents |= {f"files/{m.path}": data for m, data in more}
    return msgspec.structs.replace(index, files=tuple(files[p] for p in sorted(files))), contents


NAMES = [
    "../mkroot-escaped", "/tmp/mkroot-escaped", "recipe/../../x", "./x", "a//b", "a/./b", "a/..", "..", ".", "",
    "recipe/", "x\0y", "x\ny", "x" * 256, "d/" * 2500 + "x", "recipe/tree/link/passwd", "recipe/motd/below",
]  # fmt: skip


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("name", NAMES, ids=[repr(n[:30]) for n in NAMES])
def test_no_name_leads_out(name: str, packed: tuple[Path, Path], tmp_path: Path) -> None:
    path = put_together(tmp_path / "it.tar", *with_files(packed[0], named(name)))
    told = refused(path, tmp_path, ArtifactError)
    assert "has a name that no bundle takes" in told.what or "has too long a name" in told.what or "below" in told.what


def recipe_of(bundle: Path, **more: Any) -> tuple[Member, bytes]:
    _, contents = taken_apart(bundle)
    data = json.loads(contents["files/recipe/box.yaml"])
    return named("recipe/box.yaml", json.dumps({**data, **more}).encode())


READS: dict[str, dict[str, Any]] = {
    "absolute": {"config": {"files": [{"path": "/x", "from": "/etc/passwd"}]}},
    "above": {"config": {"files": [{"path": "/x", "from": "../../../../../../../etc/passwd"}]}},
    "through-a-link": {"config": {"files": [{"path": "/x", "from": "tree/link"}]}},
    "hook": {"hooks": [{"at": "unpacked", "run": "/etc/passwd"}]},
    "keyring": {"keyring": "/etc/passwd"},
    "key": {
        "sources": [{"id": "t", "uri": "http://mirror.example/t", "suites": ["s"], "key": {"file": "/etc/passwd"}}]
    },
    "ssh-key": {"config": {"users": [{"name": "me", "ssh_keys": ["../../../../etc/passwd"]}]}},
    "package": {"packages": {"include": ["/etc/passwd.deb"]}},
    "variable": {"vars": {"suite": "trixie", "x": "/etc"}, "keyring": "${x}/passwd"},
}


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("name", READS)
def test_its_recipe_reads_nothing_but_what_came_with_it(name: str, packed: tuple[Path, Path], tmp_path: Path) -> None:
    path = put_together(tmp_path / "it.tar", *with_files(packed[0], recipe_of(packed[0], **READS[name])))
    told = refused(path, tmp_path, RecipeError)
    assert ("which did not come with it" in told.what and str(path) in str(told)) or "reads `/etc" in told.what


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("where", ["/etc/passwd", "../../../../../../../../etc/passwd", "tree/link"])
def test_its_recipe_extends_nothing_but_what_came_with_it(
    where: str, packed: tuple[Path, Path], tmp_path: Path
) -> None:
    path = put_together(tmp_path / "it.tar", *with_files(packed[0], recipe_of(packed[0], extends=[where])))
    told = refused(path, tmp_path, (RecipeError, Faults))
    assert "which did not come with it" in str(told), told


def changed(**more: Any) -> Callable[[Index], Index]:
    return lambda index: msgspec.structs.replace(index, **more)


def first_file(index: Index, **more: Any) -> Index:
    one, *rest = index.files
    return msgspec.structs.replace(index, files=(msgspec.structs.replace(one, **more), *rest))


LIES: dict[str, tuple[Callable[[Index], Index], str]] = {
    "no-recipe": (changed(recipe="recipe/none.yaml"), "it has no file"),
    "recipe-outside": (changed(recipe="../../etc/passwd"), "it has no file"),
    "recipe-is-a-folder": (changed(recipe="recipe/tree"), "it has no file"),
    "file-twice": (lambda i: msgspec.structs.replace(i, files=(i.files[0], *i.files)), "listed twice"),
    "out-of-order": (lambda i: msgspec.structs.replace(i, files=i.files[::-1]), "out of order"),
    "folder-with-content": (lambda i: first_file(i, kind="d"), "is not described as its kind is"),
    "link-without-target": (lambda i: first_file(i, kind="l", size=0, sha256=""), "is not described as its kind is"),
    "device": (lambda i: first_file(i, kind="c"), "malformed"),
    "huge": (lambda i: first_file(i, size=(1 << 30) + 1), "its files take more than"),
    "negative": (lambda i: first_file(i, size=-1), "malformed"),
    "no-digest": (lambda i: first_file(i, sha256=""), "is not described as its kind is"),
    "bad-digest": (lambda i: first_file(i, sha256="../../x"), "malformed"),
    "package-less": (lambda i: msgspec.structs.replace(i, debs=i.debs[1:]), "it lacks the package"),
    "package-size": (
        lambda i: msgspec.structs.replace(i, debs=(msgspec.structs.replace(i.debs[0], size=5), *i.debs[1:])),
        "it lacks the package",
    ),
    "package-twice": (lambda i: msgspec.structs.replace(i, debs=(i.debs[0], *i.debs)), "listed twice"),
    "package-more": (
        lambda i: msgspec.structs.replace(i, debs=(Blob(sha256="0" * 64, size=0), *i.debs)),
        "a package that its lock does not name",
    ),
    "image-more": (
        changed(images=(Held(media_type="x", sha256="0" * 64, size=0),), blobs=(Blob(sha256="0" * 64, size=0),)),
        "its parent images are not those of its lock",
    ),
    "image-without-blob": (changed(images=(Held(media_type="x", sha256="0" * 64, size=0),)), "it lacks the image"),
    "architecture": (changed(architectures=("riscv64",)), "the lock has no packages for `riscv64`"),
    "form": (changed(version=2), "a bundle of form 2; this mkroot reads form 1"),
}


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("name", LIES)
def test_an_index_that_lies_is_refused(name: str, packed: tuple[Path, Path], tmp_path: Path) -> None:
    change, told = LIES[name]
    index, contents = taken_apart(packed[0])
    if name == "image-more":
        contents["blobs/sha256/" + "0" * 64] = b""
    path = put_together(tmp_path / "it.tar", change(index), contents)
    assert told in str(refused(path, tmp_path, MkrootError))


TEXTS = {
    "empty": b"",
    "no-json": b"{",
    "no-version": b"{}",
    "deep": b"[" * 200_000,
    "not-utf-8": b'{"version": 1, "recipe": "\xff"}',
    "unknown-key": b'{"version": 1, "more": 1}',
    "version-text": b'{"version": "1"}',
}


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("name", [*TEXTS, "not-canonical", "key-twice"])
def test_an_index_in_another_form_is_refused(name: str, packed: tuple[Path, Path], tmp_path: Path) -> None:
    index, contents = taken_apart(packed[0])
    whole = index.encode()
    more = {"not-canonical": whole + b"\n", "key-twice": whole.replace(b'"debs"', b'"mirror": "",\n "debs"', 1)}
    path = put_together(tmp_path / "it.tar", index, contents, {**TEXTS, **more}[name])
    assert "the bundle is damaged: its index is" in refused(path, tmp_path, ArtifactError).what


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("name", ["deb", "file", "lock"])
def test_contents_that_are_not_what_the_index_says(name: str, packed: tuple[Path, Path], tmp_path: Path) -> None:
    index, contents = taken_apart(packed[0])
    key = {"deb": f"debs/{index.debs[0].sha256}.deb", "file": "files/recipe/motd", "lock": "files/recipe/box.lock"}[
        name
    ]
    contents[key] = b"y" * len(contents[key])
    path = put_together(tmp_path / "it.tar", index, contents)
    assert f"{key} has not the digest that its index names" in refused(path, tmp_path, ArtifactError).what


def test_a_package_that_lies_in_a_bundle_whose_lock_lies_too_is_still_read_as_a_package(
    packed: tuple[Path, Path], tmp_path: Path
) -> None:
    """A bundle can hold any package, as a recipe can name any archive: its reader judges it all the same."""
    index, contents = taken_apart(packed[0])
    lock = json.loads(contents["files/recipe/box.lock"])
    bad = b"!<arch>\nnot a package at all"
    digest = hashlib.sha256(bad).hexdigest()
    one = next(p for p in lock["architectures"]["amd64"]["packages"] if p["name"] == "lib")
    old = one["sha256"]
    one |= {"sha256": digest, "size": len(bad)}
    member, text = named("recipe/box.lock", json.dumps(lock, sort_keys=True).encode())
    files = tuple(member if m.path == member.path else m for m in index.files)
    debs = sorted(
        [d for d in index.debs if d.sha256 != old] + [Blob(sha256=digest, size=len(bad))], key=lambda b: b.sha256
    )
    index = msgspec.structs.replace(index, files=files, debs=tuple(debs))
    contents |= {"files/recipe/box.lock": text, f"debs/{digest}.deb": bad}
    program = elsewhere(put_together(tmp_path / "it.tar", index, contents), tmp_path / "there")
    done: Done = program("build", "it.tar")
    assert done.status == 1 and "Traceback" not in done.err
    assert "lib" in done.err and not (tmp_path / "there/out/box").exists()


@pytest.mark.counts("fault")
def test_a_damaged_package_in_the_store_is_replaced(packed: tuple[Path, Path], tmp_path: Path) -> None:
    program = elsewhere(packed[0], tmp_path / "there")
    store = Store(tmp_path / "there/store")
    digest = decode_of(packed[0]).debs[0].sha256
    path = store.path("debs", digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    done = program("build", "it.tar")
    assert done.status == 0, done.err
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
