"""Scripts' effects: what stands for a script is what the script would have done, or it runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mkroot.rootfs import memo
from mkroot.rootfs.effects import Effects, Write, put
from mkroot.rootfs.foreign import native
from mkroot.store.store import Store
from mkroot.store.verify import verify
from mkroot.tar.entry import DIR, FILE, Entry
from tests.unit import boxes
from tests.unit.oddscripts import CASES

TOOLS = [*boxes.TOOLS, "chroot", "env"]


MAPPED = [
    name for name in CASES if any(word in name for word in ("owner", "copies", "group", "moves", "lists", "pipe"))
]
ROWS = [("root", name) for name in CASES] + [("mapped", name) for name in MAPPED]


@pytest.fixture(scope="module")
def found() -> Callable[[str], dict[str, Any]]:
    """Return the function that runs all cases as one identity, in one process and once."""
    kept: dict[str, dict[str, Any]] = {}

    def outcomes(kind: str) -> dict[str, Any]:
        if kind not in kept:
            kept[kind] = {}
            names = [name for of, name in ROWS if of == kind]
            code = f"""
signal.alarm(280)
from tests.unit.oddscripts import outcomes
tools = make_root(base / f"tools-{{me.tag}}", {TOOLS!r})
emit(cases=outcomes(me, work(), tools, {names!r}))
"""
            kept[kind] = boxes.run(kind, code, timeout=280)["cases"]
        assert kept[kind], "the first case tells why"
        return kept[kind]

    return outcomes


@pytest.mark.counts("rebuild")
@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_what_stands_for_a_script_is_what_it_does(found: Callable[[str], dict[str, Any]], kind: str, name: str) -> None:
    one = found(kind)[name]
    assert one["differs"] == [[], [], []], one
    assert (one["same"], one["changed"]) == CASES[name][2:], one["told"]


@pytest.mark.counts("hostile")
@pytest.mark.parametrize(
    "path", ["out/x", "../x", "etc/..", "out", "etc/../../x", "/x", "deep/out/x"], ids=lambda p: p.replace("/", "|")
)
def test_nothing_is_put_outside_of_the_root(path: str, tmp_path: Path) -> None:
    """Whatever a record says, and wherever the root's links lead."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "etc", root / "deep", outside):
        folder.mkdir(parents=True)
    (root / "out").symlink_to(outside)
    (root / "deep/out").symlink_to("../../outside")
    (outside / "kept").write_text("kept")
    at = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        for write in (
            Write(Entry(path, FILE, 0o644, size=1), b"x"),
            Write(Entry(path, DIR, 0o755)),
            Write(Entry(path, FILE, 0), gone=True),
        ):
            with contextlib.suppress(OSError):  # what can be done is done inside
                put(effects(write), at)
    finally:
        os.close(at)
    assert [p.name for p in outside.iterdir()] == ["kept"] and sorted(os.listdir(tmp_path)) == ["outside", "root"]


def effects(*writes: Write) -> Effects:
    return Effects(argv=("x",), environment=(), volatile=(), reads=(), writes=writes, parents=())


@pytest.mark.counts("fault")
@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_damaged_record_is_none(cut: int, tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = effects(Write(Entry("etc/x", FILE, 0o644, size=1), b"x"))
    key = memo.script_key(b"#!/bin/sh\n", "root")
    memo.keep(store, key, [one])
    assert memo.load(store, key) == (one,)
    assert not [c for c in verify(store) if c.fault]
    path = store.path(memo.KIND, key)
    path.write_bytes(path.read_bytes()[:cut])
    assert memo.load(store, key) == ()
    assert [c.item.kind for c in verify(store) if c.fault] == ["effects"]


def test_where_scripts_cannot_be_followed_they_run() -> None:
    assert not memo.can_follow("single", native())
    assert memo.can_follow("root", native()) == (os.uname().machine == "x86_64")
    assert not memo.can_follow("root", "i386")
    assert not memo.can_follow("root", "arm64")


def test_another_identity_or_script_has_other_records() -> None:
    keys = {memo.script_key(script, kind) for script in (b"a", b"b") for kind in ("root", "mapped")}
    assert len(keys) == 4
