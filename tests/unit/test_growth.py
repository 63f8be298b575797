"""What must not grow faster than a root does: looked at once a layer, not once a path and layer."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mkroot.rootfs import dpkg
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.store import Store
from mkroot.tar.entry import Entry
from tests.bench import curves, growth
from tests.bench.measure import Contender


def package(name: str, *paths: str, triggers: str = "") -> Layer:
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\n".encode()
    entries = tuple(Entry(path, "f", 0o644) for path in paths)
    return Layer(key=name, name=name, entries=entries, control={"control": control, "triggers": triggers.encode()})


@pytest.mark.parametrize(
    ("paths", "hit"),
    [
        (["usr/share/icons"], True),
        (["usr/share/icons/a/b"], True),
        (["usr/share/icons-more/x", "usr/share/icons.d/y"], False),
        (["usr/share/icons-more/x", "usr/share/icons/z"], True),
        (["usr/share"], False),
        (["usr/share/icon", "usr/share/iconsx"], False),
        ([], False),
    ],
    ids=["itself", "below", "beside", "below and beside", "above", "another name", "nothing"],
)
def test_a_path_trigger_is_activated_by_what_is_at_or_below_it(paths: list[str], hit: bool) -> None:
    waiting = [dpkg.Interest("/usr/share/icons", "theme", noawait=True)]
    found = dpkg.activated([package("a", "bin/x", *paths), package("b", "zz")], waiting)
    assert found == ({"theme": ["/usr/share/icons"]} if hit else {})


def test_an_explicit_trigger_is_activated_by_its_directive_alone() -> None:
    waiting = [dpkg.Interest("ldconfig", "libc-bin", noawait=False), dpkg.Interest("other", "b", noawait=False)]
    found = dpkg.activated([package("a", "ldconfig", triggers="activate-noawait ldconfig\n")], waiting)
    assert found == {"libc-bin": ["ldconfig"]}


def test_what_lies_below_what_a_top_removed_is_gone_and_nothing_else(tmp_path: Path) -> None:
    names = ("a", "a-b", "b")
    paths = ["/".join(p) for n in (1, 2, 3) for p in itertools.product(names, repeat=n)]
    for removed in (("a",), ("a/b", "b/a-b"), ("a-b", "a/a", "b/b/b")):
        tree = Tree(LayerStore(Store(tmp_path / "store")).read)
        tree.apply(Layer(key="one", name="one", entries=tuple(Entry(p, "d", 0o755) for p in ("", *paths))))
        tree.apply(Layer(key="two", name="two", entries=(Entry("new", "d", 0o755),), removed=removed))
        kept = [p for p in paths if not any(p == r or p.startswith(r + "/") for r in removed)]
        assert list(tree.nodes) == ["", *kept, "new"]


@pytest.mark.parametrize(
    ("opaque", "kept"),
    [(("",), ["", "a"]), (("a",), ["", "a", "b", "b/c"])],
    ids=["the root", "a folder"],
)
def test_an_opaque_folder_stays_and_is_empty(tmp_path: Path, opaque: tuple[str, ...], kept: list[str]) -> None:
    tree = Tree(LayerStore(Store(tmp_path / "store")).read)
    tree.apply(Layer(key="1", name="1", entries=tuple(Entry(p, "d", 0o755) for p in ("", "a", "a/x", "b", "b/c"))))
    tree.apply(Layer(key="2", name="2", entries=(Entry("a", "d", 0o755),), opaque=opaque))
    assert list(tree.nodes) == kept


def grown(packages: int, seconds: float) -> growth.Grown:
    made = [
        Contender(n, [], seconds=[seconds * i], memory=[packages << 18])
        for i, n in enumerate(("plan", "cold", "warm", "same"), 1)
    ]
    return growth.Grown(packages, packages << 21, packages << 20, *made)


def test_the_table_of_growth_says_what_is_missed_and_is_drawn() -> None:
    sizes = [grown(90, 0.1), grown(1510, 1.5)]
    text = "\n".join([*growth.table(sizes), "", *growth.verdicts(sizes)])
    assert "1510 packages, plan, indices known: 1.50 s (goal: 1 s, missed)" in text
    assert "1510 packages, warm build: 4.50 s (goal: 6 s, met)" in text
    assert "1510 packages, memory of the biggest process: 378 MiB (goal: 500 MiB, met)" in text
    assert "unpacked bytes 16.8 ×, cold 15.0 ×" in text
    assert [row[0] for row in curves.rows(text)] == [90, 1510]
    assert curves.curves(text).count("<circle") == 2 * len(curves.LINES)
