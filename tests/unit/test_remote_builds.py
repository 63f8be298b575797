"""Builds that share a remote store: the same bytes whatever it does, what it has not made again, the user told."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from mkroot.oci.model import Descriptor
from mkroot.remote.results import File, Result, _plain
from tests.unit.registryserver import MemoryRegistry, Request
from tests.unit.remotes import (
    REPOSITORY,
    SECRET,
    Fleet,
    big_blob,
    manifest_of,
    put,
    resealed,
    tags,
    tree,
)

HAD = "a build that it has"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for a case's store and output."""
    return re.sub(r"\W+", "-", str(request.node.name)).strip("-")


def test_a_second_store_makes_nothing(fleet: Fleet, name: str) -> None:
    with fleet.registry(full=True) as registry:
        done = fleet.build(registry, name)
        assert done.status == 0, done.err
        assert HAD in done.err and "warning" not in done.err
        assert not registry.asked("PUT") and not registry.asked("POST"), "nothing is sent again"
        assert not any("/layer-" in path for path in registry.asked("GET")), "its layers are not needed"
    assert fleet.same(name)
    assert not (fleet.program.folder / f"store-{name}" / "debs").exists()
    store = {"MKROOT_STORE": str(fleet.program.folder / f"store-{name}")}
    [image] = fleet.program("images", "--json", **store).json
    assert image["reference"] == "mini:latest"
    assert fleet.program("cache", "verify", **store).status == 0


def test_another_recipe_takes_the_packages(fleet: Fleet, name: str) -> None:
    fleet.recipe("other.yaml", outputs=["tar.gz"])
    with fleet.registry(full=True) as registry:
        done = fleet.build(registry, name, recipe="other.yaml")
        assert done.status == 0, done.err
        assert "packages: 0 fetched" in done.err
    assert not (fleet.program.folder / f"store-{name}" / "debs").exists()


def test_the_same_again_asks_nothing(fleet: Fleet, name: str) -> None:
    with fleet.registry(full=True) as registry:
        assert fleet.build(registry, name).status == 0
        registry.requests.clear()
        assert "nothing changed" in fleet.build(registry, name).err
        assert not registry.requests


def test_a_store_that_has_all_fills_an_empty_remote(fleet: Fleet) -> None:
    shutil.rmtree(fleet.program.folder / "out-first")
    with fleet.registry() as registry:
        done = fleet.build(registry, "first")
        assert done.status == 0 and "a build that the store knows" in done.err, done.err
        assert len(tags(registry, "result")) == 1
        assert "warning" not in fleet.build(registry, "filled").err
    assert fleet.same("first") and fleet.same("filled")


def test_an_image_for_several_architectures_is_one_index(tmp_path: Path, name: str) -> None:
    both = Fleet(tmp_path, architectures=("amd64", "arm64"))
    both.recipe("both.yaml", arch=["amd64", "arm64"])
    with both.registry() as registry:
        digests = []
        for store in ("one", "two"):
            done = both.build(registry, store, recipe="both.yaml")
            assert done.status == 0 and done.err.count(HAD) == 2 * (store == "two"), done.err
            [image] = both.program("images", "--json", MKROOT_STORE=str(tmp_path / f"store-{store}")).json
            digests.append(image["digest"])
        assert digests[0] == digests[1]
        assert tree(tmp_path / "out-one") == tree(tmp_path / "out-two")


def test_a_changed_recipe_keeps_what_is_new(fleet: Fleet, name: str) -> None:
    fleet.recipe("motd.yaml", config={"hostname": "box"})
    with fleet.registry(full=True) as registry:
        before = set(registry.manifests)
        assert fleet.build(registry, name, recipe="motd.yaml").status == 0
        new = {tag for _, tag in set(registry.manifests) - before if ":" not in tag}
        assert len(new) < len(tags(registry, "layer")), "the packages are there"
        assert {tag.partition("-")[0] for tag in new} == {"layer", "result"}


def test_a_folder_with_owners_is_no_result(fleet: Fleet, name: str) -> None:
    fleet.recipe("dir.yaml", outputs=["dir"])
    with fleet.registry() as registry:
        done = fleet.build(registry, name, recipe="dir.yaml")
        assert done.status == 0, done.err
        assert tags(registry, "layer") and not tags(registry, "result")


def test_verify_builds_for_itself(fleet: Fleet, name: str) -> None:
    fleet.recipe("verified.yaml")
    with fleet.registry(full=True) as registry:
        given = {
            "MKROOT_STORE": str(fleet.program.folder / f"store-{name}"),
            "MKROOT_STORE_REMOTE": f"{registry.host}/{REPOSITORY}",
            "MKROOT_STORE_KEY": SECRET.hex(),
        }
        assert fleet.program("build", "verified.yaml", "-o", f"out-{name}", **given).status == 0
        registry.requests.clear()
        done = fleet.program("verify", "verified.yaml", "-o", f"out-{name}", **given)
        assert done.status == 0, done.err
        assert not registry.requests


def test_explain_works_on_what_was_fetched(fleet: Fleet, name: str) -> None:
    with fleet.registry(full=True) as registry:
        assert fleet.build(registry, name).status == 0
        given = {
            "MKROOT_STORE": str(fleet.program.folder / f"store-{name}"),
            "MKROOT_STORE_REMOTE": f"{registry.host}/{REPOSITORY}",
            "MKROOT_STORE_KEY": SECRET.hex(),
        }
        done = fleet.program("explain", f"out-{name}/mini/amd64", "/usr/bin/tool", **given)
        assert done.status == 0, done.err
        assert "tool" in done.out and "2.0-1" in done.out


def test_a_result_says_who_made_it_and_of_which_steps(fleet: Fleet, name: str) -> None:
    with fleet.registry(full=True) as registry, fleet.registry() as empty:
        assert fleet.build(empty, name).status == 0
        records = []
        for one, store in ((registry, "store-first"), (empty, f"store-{name}")):
            [tag] = tags(one, "result")
            records.append(msgspec.msgpack.decode(blobs_of(one, tag)[0], type=Result))
            assert records[-1].builder == (fleet.program.folder / store / "machine").read_text().strip()
        first, second = records
    assert first.builder != second.builder
    assert first.steps == second.steps and {"base", "tool", "config"} <= {step.name for step in first.steps}
    assert all(len(step.record) == len(step.frame) == 64 for step in first.steps)
    assert len({(step.key, step.record) for step in first.steps}) == len(first.steps)


def test_its_entries_can_be_counted(fleet: Fleet) -> None:
    key = {"MKROOT_STORE_KEY": SECRET.hex()}
    with fleet.registry(full=True) as registry:
        given = key | {"MKROOT_STORE_REMOTE": f"{registry.host}/{REPOSITORY}"}
        counted = {"layer": len(tags(registry, "layer")), "result": 1}
        found = fleet.program("cache", "remote", "--json", **given)
        assert found.json == {"remote": given["MKROOT_STORE_REMOTE"], "entries": counted}
        assert "whole builds" in fleet.program("cache", "remote", **given).out
        registry.manifests.clear()
        assert fleet.program("cache", "remote", "--json", **given).json["entries"] == {"layer": 0, "result": 0}
    gone = fleet.program("cache", "remote", **given)
    assert gone.status == 1 and "cannot be read: the registry does not answer" in gone.err
    none = fleet.program("cache", "remote")
    assert none.status == 1 and "no remote store is configured" in none.err and "[store]" in none.err


def test_offline_asks_no_registry(fleet: Fleet, name: str) -> None:
    with fleet.registry(full=True) as registry:
        done = fleet.build(registry, name, "--offline")
        assert not registry.requests and done.status == 1, "the archive is not asked either"


def test_a_build_without_one_imports_nothing_of_it() -> None:
    code = "import sys, mkroot.build; print(sorted(m for m in sys.modules if 'remote' in m or 'registry' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    light = {"mkroot.remote", *(f"mkroot.remote.{m}" for m in ("account", "attaching", "machine", "probe"))}
    assert set(eval(done.stdout)) == light


@pytest.mark.counts("bad-input")
def test_a_wrong_setting_is_told_before_anything_is_made(fleet: Fleet, name: str) -> None:
    done = fleet.build("me:s3cret@127.0.0.1:1", name)
    assert done.status == 1 and "has a login or a digest in its name" in done.err and "s3cret" not in done.err
    assert not (fleet.program.folder / f"out-{name}").exists()


# A registry that lies


def flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def spoil(registry: MemoryRegistry, tag: str, change: Callable[[bytes], bytes | None]) -> None:
    """Change an entry's biggest blob under its digest."""
    digest = big_blob(registry, tag)
    blobs = registry.blobs[REPOSITORY]
    new = change(blobs[digest])
    if new is None:
        del blobs[digest]
    else:
        blobs[digest] = new


def edited(registry: MemoryRegistry, tag: str, **changes: object) -> None:
    put(registry, tag, json.dumps(manifest_of(registry, tag) | changes).encode())


def other(registry: MemoryRegistry, tag: str) -> str:
    return next(t for t in tags(registry, "layer") if t != tag)


def blobs_of(registry: MemoryRegistry, tag: str) -> list[bytes]:
    return [registry.blobs[REPOSITORY][layer["digest"]] for layer in manifest_of(registry, tag)["layers"]]


LIES: dict[str, tuple[Callable[[MemoryRegistry, str], None], str]] = {
    "a blob with another bit": (lambda r, t: spoil(r, t, flip), "the registry sends something else"),
    "a blob cut off": (lambda r, t: spoil(r, t, lambda d: d[:-1000]), "bytes where"),
    "a blob that is longer": (lambda r, t: spoil(r, t, lambda d: d + b"x"), "bytes where"),
    "an empty blob": (lambda r, t: spoil(r, t, lambda d: b""), "bytes where"),
    "a blob that is gone": (lambda r, t: spoil(r, t, lambda d: None), "does not have a blob that its manifest names"),
    "no seal": (lambda r, t: edited(r, t, annotations={}), "it has no seal"),
    "a seal that is none": (lambda r, t: edited(r, t, annotations={"mkroot.seal": "ü"}), "not of this store's key"),
    "a seal of another key": (lambda r, t: resealed(r, t, b"x" * 32, blobs_of(r, t)), "not of this store's key"),
    "a seal of another entry": (
        lambda r, t: resealed(r, t, SECRET, blobs_of(r, t), key="0" * 64),
        "not of this store's key",
    ),
    "a seal of another kind": (
        lambda r, t: resealed(r, t, SECRET, blobs_of(r, t), kind="probe"),
        "not of this store's key",
    ),
    "the manifest of another entry": (
        lambda r, t: put(r, t, r.manifests[REPOSITORY, other(r, t)][1]),
        "not of this store's key",
    ),
    "other blobs under the seal": (
        lambda r, t: edited(r, t, layers=manifest_of(r, other(r, t))["layers"]),
        "not of this store's key",
    ),
    "another size under the seal": (
        lambda r, t: edited(r, t, layers=[{**layer, "size": 1 << 50} for layer in manifest_of(r, t)["layers"]]),
        "not of this store's key",
    ),
    "no layers": (lambda r, t: edited(r, t, layers=[]), "not of this store's key"),
    "a manifest that is not JSON": (lambda r, t: put(r, t, b"<html>"), "not JSON"),
    "a manifest of nothing": (lambda r, t: put(r, t, b"{}"), "neither a manifest nor an index"),
    "a manifest without an end": (lambda r, t: put(r, t, b" " * (5 << 20)), "a manifest of more than"),
}  # fmt: skip


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("kind", ["result", "layer"])
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_costs_time_and_no_wrong_byte(fleet: Fleet, name: str, kind: str, lie: str) -> None:
    spoilt, said = LIES[lie]
    with fleet.registry(full=True) as registry:
        if kind == "result":
            [tag] = tags(registry, "result")
        else:
            for result in tags(registry, "result"):
                del registry.manifests[REPOSITORY, result]
            tag = max(tags(registry, "layer"), key=lambda t: manifest_of(registry, t)["layers"][0]["size"])
        spoilt(registry, tag)
        done = fleet.build(registry, name)
        assert done.status == 0, done.err
        assert said in done.err and tag in done.err and f"{registry.host}/{REPOSITORY}" in done.err
        assert done.err.count("warning") == 1, "told once"
    assert HAD not in done.err
    assert fleet.same(name)


def record_with(registry: MemoryRegistry, tag: str, **changes: object) -> None:
    """Seal, with the right key, a record that says something else; `files` and `folders` are more of them."""
    blobs = blobs_of(registry, tag)
    result = msgspec.msgpack.decode(blobs[0], type=Result)
    for part in ("files", "folders"):
        changes[part] = (*getattr(result, part), *changes.get(part, ()))  # type: ignore[misc]
    resealed(registry, tag, SECRET, [msgspec.msgpack.encode(msgspec.structs.replace(result, **changes)), *blobs[1:]])


def file_at(path: str) -> tuple[File, ...]:
    return (File(path, 0o644, hashlib.sha256(b"x").hexdigest(), 1, data=b"x"),)


RECORDS: dict[str, tuple[dict[str, object], str]] = {
    "of another build": ({"key": "1" * 64}, "it is of another one"),
    "a path that leads out": ({"files": file_at("../../../escaped")}, "the path '../../../escaped'"),
    "a path inside that leads out": ({"files": file_at("oci/../../escaped")}, "the path 'oci/../../escaped'"),
    "an absolute path": ({"files": file_at("/tmp/escaped-remote")}, "the path '/tmp/escaped-remote'"),
    "a folder that leads out": ({"folders": ("../escaped",)}, "the path '../escaped'"),
    "a folder that is the one above": ({"folders": ("..",)}, "the path '..'"),
    "a path through the folder above": (
        {"folders": ("oci/..",), "files": file_at("oci/../escaped")},
        "the path 'oci/..'",
    ),
    "a path with a zero": ({"files": file_at("a\0b")}, "the path 'a"),
    "the folder itself": ({"files": file_at(".")}, "the path '.'"),
    "a file without its folder": ({"files": file_at("nowhere/file")}, "no folder for 'nowhere/file'"),
    "a path twice": ({"files": file_at("x") + file_at("x")}, "a path that is there twice"),
    "a file and a folder of one name": ({"files": file_at("oci")}, "a path that is there twice"),
    "a file whose blob is not there": (
        {"files": (File("x", 0o644, "0" * 64, 9, "sha256:" + "0" * 64),)},
        "no blob for 'x'",
    ),
    "a size that is not the data's": ({"files": (File("x", 0o644, "0" * 64, 9, data=b"x"),)}, "the size of 'x'"),
    "an image without its blobs": (
        {"blobs": (Descriptor(media_type="x/y", digest="sha256:" + "0" * 64, size=1),)},
        "an image without its blobs",
    ),
    "a mode that is none": ({"files": (File("x", "rwx", "", 0),)}, "not the record of a build"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("case", RECORDS)
def test_a_record_is_looked_at_before_it_is_followed(fleet: Fleet, name: str, case: str) -> None:
    with fleet.registry(full=True) as registry:
        [tag] = tags(registry, "result")
        changes, said = RECORDS[case]
        record_with(registry, tag, **changes)
        done = fleet.build(registry, name)
        assert done.status == 0, done.err
        assert "not the record of" in done.err and said in done.err
    assert fleet.same(name)
    assert not list(fleet.program.folder.rglob("escaped*")) and not Path("/tmp/escaped-remote").exists()


def test_what_a_registry_spoilt_is_put_there_anew(fleet: Fleet, name: str) -> None:
    with fleet.registry(full=True) as registry:
        for tag in [*tags(registry, "result"), *tags(registry, "layer")][:3]:
            spoil(registry, tag, flip)
        done = fleet.build(registry, name)
        assert done.status == 0 and "something else" in done.err, done.err
        again = fleet.build(registry, f"{name}-again")
        assert HAD in again.err and "warning" not in again.err, again.err
        for tag in tags(registry, "result"):
            del registry.manifests[REPOSITORY, tag]
        layers = fleet.build(registry, f"{name}-layers")
        assert "warning" not in layers.err and "packages: 0 fetched" in layers.err, layers.err
    assert fleet.same(name) and fleet.same(f"{name}-again") and fleet.same(f"{name}-layers")


def test_a_spoilt_record_is_put_there_anew(fleet: Fleet, name: str) -> None:
    """One whose files all stand in it: the same record would be the same blob, which a registry does not take again."""
    fleet.recipe("small.yaml", outputs=["tar.zst"], packages={"variant": "none", "include": ["base"]})
    machine = [fleet.program.folder / f"store-{name}-{n}" / "machine" for n in range(2)]
    with fleet.registry() as registry:
        for n, spoilt in enumerate((False, True, False)):
            if spoilt:
                [tag] = tags(registry, "result")
                assert len(manifest_of(registry, tag)["layers"]) == 1
                spoil(registry, tag, flip)
                machine[1].parent.mkdir()
                shutil.copy(*machine)
            done = fleet.build(registry, f"{name}-{n}", recipe="small.yaml")
            assert done.status == 0 and ("something else" in done.err) == spoilt and (HAD in done.err) == (n == 2)


# A registry in trouble


def status(number: int, code: str = "UNKNOWN") -> Callable[[Request], None]:
    def deal(request: Request) -> None:
        request.body()
        request.refuse(number, code)

    return deal


def cut_off(request: Request) -> None:
    request.body(100)
    request.cut()


TROUBLE: dict[str, tuple[str, str, Callable[[Request], None], str]] = {
    "reading: 500": ("GET", "/manifests/", status(500), "cannot be read"),
    "reading: 404 with a web page": ("GET", "/manifests/", lambda r: r.answer(200, b"<html>"), "not JSON"),
    "reading: no login": ("GET", "/manifests/", status(401), "wants a login"),
    "reading: no rights": ("GET", "/manifests/", status(403), "wants a login"),
    "reading: the connection breaks": ("GET", "/manifests/", cut_off, "broke off"),
    "blobs: 500": ("GET", "/blobs/", status(500), "status 500"),
    "blobs: the connection breaks": ("GET", "/blobs/", cut_off, "broke off"),
    "no registry": ("GET", "/v2/", status(404), "cannot be reached"),
}  # fmt: skip


@pytest.mark.counts("fault")
@pytest.mark.parametrize("case", TROUBLE)
def test_trouble_with_reading_costs_a_warning(fleet: Fleet, name: str, case: str) -> None:
    method, part, deal, said = TROUBLE[case]
    with fleet.registry(full=True) as registry:
        registry.once(method, part, deal, times=10**6)
        done = fleet.build(registry, name)
        assert done.status == 0, done.err
        assert said in done.err and done.err.count("warning") <= 4, done.err
    assert fleet.same(name)


WRITING: dict[str, tuple[str, str, Callable[[Request], None], str]] = {
    "no login": ("POST", "/blobs/uploads/", status(401, "UNAUTHORIZED"), "wants a login"),
    "read-only": ("POST", "/blobs/uploads/", status(403, "DENIED"), "wants a login"),
    "no uploads": ("POST", "/blobs/uploads/", status(405, "UNSUPPORTED"), "takes no upload"),
    "full": ("PUT", "/blobs/uploads/", status(507), "status 507"),
    "blobs too large": ("PUT", "/blobs/uploads/", status(413, "SIZE_INVALID"), "no blob of this size"),
    "no manifests": ("PUT", "/manifests/", status(403, "DENIED"), "wants a login"),
    "a manifest refused": ("PUT", "/manifests/", status(400, "MANIFEST_INVALID"), "the manifest cannot be stored"),
    "uploads break off": ("PUT", "/blobs/uploads/", cut_off, "no luck after 2 attempts"),
    "manifests break off": ("PUT", "/manifests/", cut_off, "no luck after 2 attempts"),
}  # fmt: skip


@pytest.mark.counts("fault")
@pytest.mark.parametrize("case", WRITING)
def test_a_remote_that_cannot_be_written_costs_a_warning(fleet: Fleet, name: str, case: str) -> None:
    method, part, deal, said = WRITING[case]
    with fleet.registry() as registry:
        registry.once(method, part, deal, times=10**6)
        done = fleet.build(registry, name)
        assert done.status == 0, done.err
        assert said in done.err and "cannot be written" in done.err and done.err.count("warning") <= 4, done.err
        assert not registry.manifests, "nothing is named that is not whole"
    assert fleet.same(name)


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("case", "hint"),
    [
        ("no login", "log in with rights to push: `mkroot login 127.0.0.1"),
        ("read-only", "log in with rights to push: `mkroot login 127.0.0.1"),
        ("no uploads", "log in with rights to push"),
        ("no manifests", "log in with rights to push"),
        ("full", "make room there"),
        ("blobs too large", "make room there"),
        ("a manifest refused", ""),
    ],
)
def test_a_strict_build_fails_where_its_result_cannot_be_kept(fleet: Fleet, name: str, case: str, hint: str) -> None:
    method, part, deal, _ = WRITING[case]
    with fleet.registry() as registry:
        registry.once(method, part, deal, times=10**6)
        done = fleet.build(registry, name, MKROOT_STORE_REMOTE_STRICT="1")
        assert done.status == 1
        assert (
            f"error: {registry.host}/{REPOSITORY}: the remote store {registry.host}/{REPOSITORY} cannot be written: "
            in done.err
        )
        assert hint in done.err
        assert not registry.manifests


def test_a_strict_build_that_stands_there_is_kept_all_the_same(fleet: Fleet, name: str) -> None:
    """Whoever gave a worker this step waits for the result in the remote store, whatever the worker has of it."""
    fleet.recipe("squash.yaml", outputs=["squashfs"])  # which the store cannot give out again by itself
    for recipe in ("r.yaml", "squash.yaml"):
        with fleet.registry() as registry:
            build = partial(fleet.build, registry, name, recipe=recipe)
            registry.once("PUT", "/manifests/result-", status(400, "MANIFEST_INVALID"))
            assert build(MKROOT_STORE_REMOTE_STRICT="1").status == 1
            assert build(MKROOT_STORE_REMOTE_STRICT="1").status == 0 and len(tags(registry, "result")) == 1
            registry.manifests.clear()
            assert "nothing changed" in build().err and not registry.manifests
            assert build(MKROOT_STORE_REMOTE_STRICT="1").status == 0 and len(tags(registry, "result")) == 1
            other = fleet.build(registry, f"{name}-{recipe}", recipe=recipe)
            assert HAD in other.err and "nothing changed" not in other.err, other.err


@pytest.mark.counts("fault")
@pytest.mark.parametrize("damage", ["gone", "bit"])
def test_a_damaged_record_of_the_root_costs_nothing_else(fleet: Fleet, name: str, damage: str) -> None:
    with fleet.registry() as registry:
        assert fleet.build(registry, name, MKROOT_STORE_REMOTE="").status == 0
        for path in (fleet.program.folder / f"store-{name}" / "roots").rglob("*/*"):
            path.write_bytes(flip(path.read_bytes())) if damage == "bit" else path.unlink()
        shutil.rmtree(fleet.program.folder / f"out-{name}")
        done = fleet.build(registry, name)
        assert done.status == 0 and len(tags(registry, "result")) == 1, done.err
    assert fleet.same(name)


@pytest.mark.counts("fault")
def test_an_output_with_links_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").touch()
    assert _plain(tmp_path)
    for name, target in (("file-link", "sub/file"), ("folder-link", "sub"), ("dead-link", "nowhere")):
        (tmp_path / name).symlink_to(target)
        assert not _plain(tmp_path)
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / "pipe")
    assert not _plain(tmp_path)


def test_a_registry_that_is_not_there(fleet: Fleet, name: str) -> None:
    with fleet.registry() as registry:
        host = registry.host
    done = fleet.build(host, name)
    assert done.status == 0, done.err
    assert done.err.count("warning") == 1 and f"the remote store {host}/{REPOSITORY} cannot be reached" in done.err
    assert fleet.same(name)


def test_a_push_that_broke_off_is_never_used(fleet: Fleet, name: str) -> None:
    with fleet.registry() as registry:
        registry.once("PUT", "/manifests/result-", cut_off, times=10**6)
        assert fleet.build(registry, name).status == 0
        assert tags(registry, "layer") and not tags(registry, "result")
        registry.faults.clear()
        done = fleet.build(registry, f"{name}-next")
        assert done.status == 0 and HAD not in done.err and "packages: 0 fetched" in done.err
        assert len(tags(registry, "result")) == 1
    assert fleet.same(f"{name}-next")


def test_damage_of_the_store_does_not_get_out(fleet: Fleet, name: str) -> None:
    fleet.recipe("tar.yaml", outputs=["tar"])
    with fleet.registry() as empty:
        assert fleet.build(empty, name, recipe="tar.yaml", MKROOT_STORE_REMOTE="").status == 0
        assert not empty.requests, "an empty name is none"
    frames = list((fleet.program.folder / f"store-{name}" / "frames").rglob("*/*"))
    biggest = max((f for f in frames if f.is_file()), key=lambda f: f.stat().st_size)
    biggest.write_bytes(flip(biggest.read_bytes()))
    fleet.recipe("tar.yaml", outputs=["tar"], config={"hostname": "box"})
    with fleet.registry() as registry:
        assert fleet.build(registry, name, recipe="tar.yaml").status == 0
        kept = dict(registry.blobs[REPOSITORY])
        clean = fleet.build(registry, f"{name}-clean", recipe="tar.yaml")
        assert clean.status == 0 and "warning" not in clean.err
        assert registry.blobs[REPOSITORY] == kept
    assert tree(fleet.program.folder / f"out-{name}") == tree(fleet.program.folder / f"out-{name}-clean")


@pytest.mark.counts("fault")
def test_an_interrupt_does_not_wait_for_a_silent_registry(fleet: Fleet, name: str) -> None:
    silent = threading.Event()

    def stall(request: Request) -> None:
        silent.set()
        request.connection.recv(1)

    with fleet.registry() as registry:
        registry.once("POST", "/uploads/", stall, times=10**6)
        store = fleet.program.folder / f"store-{name}"
        given = {
            "MKROOT_STORE": str(store),
            "MKROOT_STORE_REMOTE": f"{registry.host}/{REPOSITORY}",
            "MKROOT_STORE_KEY": SECRET.hex(),
        }
        with fleet.program.started("build", "r.yaml", "-o", f"out-{name}", "--no-lock", **given) as process:
            assert silent.wait(20)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            process.wait(20)
            assert time.monotonic() - begin < 3
        assert process.returncode and not list((store / "tmp").iterdir())
