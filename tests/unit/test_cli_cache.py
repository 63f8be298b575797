"""`mkroot cache`: what it counts, removes and finds damaged; and that a build makes it good again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mkroot.errors import StoreError
from mkroot.store.prune import prune, usage
from mkroot.store.store import Store
from mkroot.store.use import using
from tests.unit.commands import Program, small_archive

RECIPE = {"packages": {"variant": "none", "include": ["tool"]}, "configure": "none", "outputs": ["tar", "oci"]}


@pytest.fixture
def program(tmp_path: Path) -> Program:
    program = Program(tmp_path)
    program.recipe("r.yaml", small_archive(tmp_path / "archive").recipe(**RECIPE))
    done = program("build", "r.yaml", "-o", "out")
    assert done.status == 0, done.err
    return program


def kinds(program: Program) -> dict[str, int]:
    return {row["kind"]: row["entries"] for row in program("cache", "size", "--json").json["kinds"]}


def output(program: Program) -> bytes:
    return (program.folder / "out/mini/amd64/rootfs.tar").read_bytes()


def rebuilt(program: Program) -> bytes:
    import shutil

    shutil.rmtree(program.folder / "out")
    done = program("build", "r.yaml", "-o", "out")
    assert done.status == 0, done.err
    return output(program)


def test_list_and_size(program: Program) -> None:
    counted = kinds(program)
    assert counted["debs"] == 2
    listed = program("cache", "list", "--json").json
    assert {kind: sum(i["kind"] == kind for i in listed) for kind in counted} == counted
    assert program("cache", "list", "debs").out.count("\n") == 2
    assert "in all" in program("cache", "size").out


@pytest.mark.counts("fault")
@pytest.mark.parametrize("kind", ["debs", "layers", "frames", "oci", "indices", "releases"])
def test_verify_finds_a_flipped_bit_and_the_next_build_makes_it_good(program: Program, kind: str) -> None:
    before = output(program)
    assert program("cache", "verify").status == 0
    folder = program.folder / "store" / kind
    victim = max((p for p in folder.rglob("*") if len(p.name) == 64), key=lambda p: (p.stat().st_size, p.name))
    data = bytearray(victim.read_bytes())
    data[len(data) // 3] ^= 1
    times = victim.stat()
    victim.write_bytes(data)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = program("cache", "verify", "--dry-run", "--json")
    assert done.status == 1
    assert str(victim) in [d["path"] for d in done.json["damaged"]]
    assert victim.exists()
    done = program("cache", "verify")
    assert done.status == 1, done.err
    assert str(victim) in done.err
    assert not victim.exists()
    assert rebuilt(program) == before
    done = program("cache", "verify")
    assert done.status == 0, done.err
    if kind == "oci":
        assert program("inspect", "mini:latest", "--verify").status == 0


def test_prune_takes_what_is_old_and_nothing_else(program: Program) -> None:
    before = output(program)
    counted = kinds(program)
    assert program("cache", "prune", "--json").json["entries"] == []
    old = time.time() - 90 * 24 * 3600
    for path in (program.folder / "store" / "debs").rglob("*"):
        os.utime(path, (old, old))
    assert {e["kind"] for e in program("cache", "prune", "--dry-run", "--json").json["entries"]} == {"debs"}
    assert kinds(program) == counted
    assert program("cache", "prune").status == 0
    assert kinds(program) == {k: n for k, n in counted.items() if k != "debs"}
    assert rebuilt(program) == before


def test_prune_all_keeps_images_and_the_memory_of_releases(program: Program) -> None:
    before = output(program)
    assert program("cache", "prune", "--all").status == 0
    assert set(kinds(program)) == {"oci", "seen"}
    assert program("inspect", "mini:latest", "--verify").status == 0
    assert rebuilt(program) == before


@pytest.mark.counts("fault")
def test_a_layer_used_lately_keeps_its_frame(tmp_path: Path) -> None:
    from mkroot.store.layer import Layer, LayerStore, frame_key

    store = Store(tmp_path)
    layers = LayerStore(store)
    key = "a" * 64
    layers.save(Layer(key=key, name="x", entries=()), iter([b"content"]))
    frame = store.path("frames", frame_key(key, "zstd"))
    now = time.time()
    os.utime(frame, (now - 1000, now - 1000))
    assert prune(store, before=now - 500, now=now) == []
    os.utime(store.path("layers", key), (now - 1000, now - 1000))
    assert [i.kind for i in prune(store, before=now - 500, now=now)] == ["layers", "frames"]
    assert not frame.exists()
    assert usage(store) == []


@pytest.mark.counts("fault")
def test_prune_waits_for_no_build_and_takes_nothing_from_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with using(store), using(store), pytest.raises(StoreError, match="a build is using the store"):
        prune(store, before=float("inf"), now=time.time())
    assert prune(store, before=float("inf"), now=time.time()) == []


@pytest.mark.counts("fault")
def test_unfinished_work_of_the_dead_is_swept_and_that_of_others_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = tmp_path / "tmp" / "left"
    left.mkdir()
    with using(store):
        assert not left.exists()
        left.mkdir()
        with using(store):
            assert left.exists()
        assert left.exists()
    assert not left.exists()


@pytest.mark.counts("fault")
def test_unfinished_work_goes_after_a_day(tmp_path: Path) -> None:
    store = Store(tmp_path)
    now = time.time()
    (tmp_path / "tmp" / "left").mkdir()
    (tmp_path / "tmp" / "left" / "part").write_text("x")
    assert prune(store, before=float("inf"), now=now) == []
    assert [i.key for i in prune(store, before=0, now=now + 2 * 24 * 3600)] == ["left"]
    assert list((tmp_path / "tmp").iterdir()) == []
