"""Where a path of a root comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mkroot.errors import RootfsError
from mkroot.resolve.lock import Lock, LockedPackage, LockedRoot, LockedSource, LockedSuite
from mkroot.rootfs.explain import explain, told
from mkroot.rootfs.merge import Merge
from mkroot.rootfs.tree import Tree, top_of
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.store import Store
from tests.testarchive import Content
from tests.unit.layers import deb, layer


def locked(name: str, sha256: str) -> LockedPackage:
    return LockedPackage(
        name=name, version="1", architecture="all", source=name, source_version="1", sha256=sha256, size=1,
        installed_size=1, path=f"pool/{name}.deb", origin="debian", suite="trixie", component="main", stage="include",
        why="asked for by the recipe",
    )  # fmt: skip


def lock_of(*packages: LockedPackage) -> Lock:
    suite = LockedSuite(suite="trixie", inrelease="ab" * 32, date=1_700_000_000, signer="F" * 40)
    return Lock(
        recipe="00", sources=(LockedSource(id="debian", suites=(suite,)),),
        architectures={"amd64": LockedRoot(packages=packages)},
    )  # fmt: skip


def written(store: Store, tree: Tree, name: str, origins: dict[str, str]) -> Tree:
    """The tree with what was written in it as a stored top."""
    before = Tree(tree._read)
    before.layers, before.nodes = list(tree.layers), {p: n for p, n in tree.nodes.items() if n.layer >= 0}
    top, chunks = top_of(before, tree, name, name, origins)
    LayerStore(store).save(top, chunks)
    before.apply(top)
    return before


def two_packages(tmp_path: Path) -> tuple[Store, Tree, Lock]:
    store = Store(tmp_path / "store")
    contents: dict[str, dict[str, bytes]] = {
        "one": {"usr/bin/a": b"a", "usr/share/x/one": b"1", "etc/conf": b"c"},
        "two": {"usr/share/x/two": b"2"},
    }
    tree = Tree(LayerStore(store).read)
    merge = Merge(tree, lambda new, old: False, {})
    packages = []
    for name, files in contents.items():
        made: Layer = layer(store, tmp_path, name, files=files)
        merge.add(made)
        packages.append(locked(name, deb(tmp_path, name, Content(files=files))[1].sha256))
    tree.symlink("bin", "usr/bin")
    return store, written(store, tree, "links", {"bin": "mkroot: merged /usr"}), lock_of(*packages)


def test_a_packages_file_down_to_the_key(tmp_path: Path) -> None:
    _, tree, lock = two_packages(tmp_path)
    found = explain(tree, "/bin/a", lock, "amd64")
    assert (found.place, found.kind, found.mode, found.through) == ("/usr/bin/a", "file", "0644", ("/bin -> usr/bin",))
    (step,) = found.steps
    assert (step.did, step.by) == ("brought", "one 1")
    assert step.package is not None and step.package.release is not None
    assert step.package.release.signer == "F" * 40
    text = told(found)
    for part in (
        "from package one 1",
        "pool/one.deb",
        "because asked for",
        "trixie/main",
        "2023-11-14",
        "signed by FFFF",
    ):
        assert part in text
    assert found.data()["steps"][0]["package"]["release"]["inrelease"] == "ab" * 32


def test_a_file_that_a_script_rewrote_and_one_that_the_recipe_did(tmp_path: Path) -> None:
    store, tree, lock = two_packages(tmp_path)
    tree.write("etc/conf", b"changed")
    tree.write("etc/motd", b"hi\n")
    tree = written(store, tree, "stage", {"etc/conf": "two postinst", "etc/motd": "recipe: config.files[0]"})
    found = explain(tree, "etc/conf", lock)
    assert [(s.did, s.by, s.package and s.package.name) for s in found.steps] == [
        ("wrote", "two postinst", "two"),
        ("brought", "one 1", "one"),
    ]
    assert "written by two postinst" in told(found)
    assert [s.by for s in explain(tree, "/etc/motd").steps] == ["recipe: config.files[0]"]


def test_a_removed_path_and_one_that_never_was(tmp_path: Path) -> None:
    store, tree, lock = two_packages(tmp_path)
    before = tree.copy()
    tree.remove("usr/share/x/two")
    top, chunks = top_of(before, tree, "trim", "trim", {"usr/share/x/two": "recipe: trim.paths[0]"})
    LayerStore(store).save(top, chunks)
    before.apply(top)
    found = explain(before, "/usr/share/x/two", lock)
    assert [(s.did, s.by) for s in found.steps] == [("removed", "recipe: trim.paths[0]"), ("brought", "two 1")]
    assert "not in the root" in told(found)
    with pytest.raises(RootfsError, match="no path /usr/share/x/thre") as raised:
        explain(before, "/usr/share/x/thre", lock)
    assert raised.value.hint is None or "usr/share/x" in raised.value.hint


def test_a_folder_names_all_its_packages_and_the_root_is_one(tmp_path: Path) -> None:
    _, tree, lock = two_packages(tmp_path)
    assert {s.by for s in explain(tree, "/usr/share/x", lock).steps} == {"one 1", "two 1"}
    assert explain(tree, "/").kind == "folder"


def test_without_a_lock_the_package_is_still_named(tmp_path: Path) -> None:
    _, tree, _ = two_packages(tmp_path)
    assert [(s.by, s.package) for s in explain(tree, "/usr/bin/a").steps] == [("one", None)]
