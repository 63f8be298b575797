"""The root in memory: merging packages as dpkg would, links that never lead out, writes that become a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mkroot.errors import RootfsError
from mkroot.rootfs.merge import Diversion, Merge
from mkroot.rootfs.placing import replaces
from mkroot.rootfs.tree import Tree, top_of
from mkroot.store.frame import pieces_of
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.store import Store
from tests.unit.layers import layer, line


@pytest.fixture
def make(tmp_path: Path) -> Any:
    store = Store(tmp_path / "store")

    def one(name: str, **content: Any) -> Layer:
        return layer(store, tmp_path, name, **content)

    one.store = store  # type: ignore[attr-defined]
    return one


def merged(make: Any, *layers: Layer, diverted: Any = None) -> tuple[Tree, Merge]:
    tree = Tree(LayerStore(make.store).read)
    merge = Merge(tree, replaces(layers), diverted or {})
    for one in layers:
        merge.add(one)
    return tree, merge


def test_two_packages_with_one_path_are_both_named(make: Any) -> None:
    with pytest.raises(RootfsError, match=r"packages a and b both have /usr/bin/tool"):
        merged(make, make("a", files={"bin/tool": b""}), make("b", files={"usr/bin/tool": b""}))


def test_replaces_takes_over_in_either_order(make: Any) -> None:
    old = make("a", files={"x": b"old"})
    new = make("b", files={"x": b"new"}, fields={"Replaces": "a (<< 2)"})
    for order in ((old, new), (new, old)):
        tree, _ = merged(make, *order)
        assert tree.read("x") == b"new"


def test_replaces_of_another_version_does_not_count(make: Any) -> None:
    with pytest.raises(RootfsError):
        merged(make, make("a", files={"x": b""}), make("b", files={"x": b""}, fields={"Replaces": "a (<< 1)"}))


@pytest.mark.counts("hostile")
def test_files_below_another_packages_link_land_inside_the_root(make: Any) -> None:
    link = make("a", symlinks={"x": "/etc"}, dirs={"etc": 0o755})
    tree, merge = merged(make, link, make("b", files={"x/passwd": b"mine"}))
    assert tree.nodes["x"].entry.kind == "l"
    assert tree.read("etc/passwd") == b"mine"
    assert {"x", "etc/passwd"} <= merge.fixed


@pytest.mark.counts("hostile")
def test_links_that_climb_end_at_the_root(make: Any) -> None:
    tree, _ = merged(make, make("a", symlinks={"x": "../../../../etc"}, files={"etc/f": b"in"}))
    assert tree.resolve("x/f") == "etc/f"
    assert tree.read("x/f") == b"in"


@pytest.mark.counts("hostile")
def test_a_loop_of_links_is_an_error(make: Any) -> None:
    tree, _ = merged(make, make("a", symlinks={"x": "y", "y": "x"}))
    with pytest.raises(RootfsError, match="loop"):
        tree.resolve("x/z")


def test_a_diverted_file_goes_where_the_diversion_says(make: Any) -> None:
    diverted = {"x": Diversion("x", "x.distrib", "other")}
    tree, merge = merged(make, make("a", files={"x": b"1"}), diverted=diverted)
    assert "x" not in tree.nodes and tree.nodes["x.distrib"].entry.kind == "f"
    assert merge.fixed == {"x", "x.distrib"}


def test_the_first_packages_word_on_a_folder_stays(make: Any) -> None:
    tree, _ = merged(make, make("a", dirs={"d": 0o700}), make("b", dirs={"d": 0o755}))
    assert tree.nodes["d"].entry.mode == 0o700


def test_what_is_written_becomes_a_layer_with_what_was_removed(make: Any) -> None:
    before, _ = merged(make, make("a", files={"etc/a": b"1", "etc/b": b"2", "d/e/f": b"3"}))
    after = before.copy()
    after.write("etc/a", b"changed")
    after.write("new/deep/file", b"n", mode=0o600, uid=5, gid=6)
    after.symlink("etc/l", "/x")
    after.remove("d")
    top, chunks = top_of(before, after, "k" * 8, "recipe", {})
    assert top.removed == ("d",)
    assert [line(e) for e in top.entries] == [
        "f 644 0:0 /etc/a",
        "l 777 0:0 /etc/l -> /x",
        "d 755 0:0 /new",
        "d 755 0:0 /new/deep",
        "f 600 5:6 /new/deep/file",
    ]
    layers = LayerStore(make.store)
    layers.save(top, pieces_of(chunks))
    again = before.copy()
    again.apply(layers.load(top.key))
    assert again.read("etc/a") == b"changed"
    assert "d/e/f" not in again.nodes and "d" not in again.nodes


@pytest.mark.counts("hostile")
def test_writes_follow_links_inside_the_root(make: Any) -> None:
    tree, _ = merged(make, make("a", symlinks={"etc/x": "../../../usr/y"}, dirs={"usr": 0o755}))
    assert tree.write("etc/x", b"1") == "usr/y"
    with pytest.raises(RootfsError):
        tree.write("usr", b"")


def test_globs() -> None:
    tree = Tree(lambda layer, entry: b"")
    for path in ("usr/share/x/a", "usr/share/x/b/c", "usr/share/xy"):
        tree.write(path, b"")
    assert tree.glob("/usr/share/x/**") == ["usr/share/x/a", "usr/share/x/b", "usr/share/x/b/c"]
    assert tree.glob("/usr/share/x*") == ["usr/share/x", "usr/share/xy"]
    assert tree.glob("/usr/**/c") == ["usr/share/x/b/c"]
