"""One hostile package: refused with nothing left of it, or unpacked to exactly what dpkg makes of it."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from mkroot.errors import PackageError
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.store.unpack import Expected, layer_key, unpack
from mkroot.store.writer import Chown, make_tree
from tests.unit.hostile import PACKAGES, Case
from tests.unit.judge import Canaries, can_judge, dpkg, left, state

pytestmark = pytest.mark.counts("hostile")

OWNERS = Chown() if os.geteuid() == 0 else Chown(0)  # those that this user can give


def expected(data: bytes) -> Expected:
    return Expected(hashlib.sha256(data).hexdigest(), "a", "1", "all", 1)


def taken(case: Case, folder: Path) -> Path | None:
    """Unpack a case's package with and without a tree; return the tree, or None where it is refused as it should be."""
    canaries_at = folder / "mine"
    (canaries_at / "inner").mkdir(parents=True)
    canaries = Canaries(canaries_at)
    inner = canaries_at / "inner"
    data = case.make(str(canaries.path))
    (inner / "a.deb").write_bytes(data)
    trees = Trees(inner / "trees")
    found = []
    for store, where in ((Store(inner / "one"), trees), (Store(inner / "two"), None)):
        try:
            unpack(store, inner / "a.deb", expected(data), where, OWNERS)[2]()
        except PackageError as e:
            assert case.refused, e
            assert re.search(case.refused, e.what), e
            assert e.where and "a 1" in e.where
            assert left(store.root) == []
            found.append(None)
        else:
            assert not case.refused, "it was taken"
            found.append(LayerStore(store).load(layer_key(expected(data).sha256)))
    assert found[0] == found[1], "a package is the same with and without a tree"
    made = trees.path(layer_key(expected(data).sha256))
    canaries.check(inner / "trees")
    if found[0] is None:
        assert not list(inner.glob("trees/*/*"))
        return None
    again = make_tree(LayerStore(Store(inner / "two")), found[0], Trees(inner / "again"), OWNERS)
    assert state(again) == state(made), "the tree is the same from the frame"
    canaries.check(inner / "again")
    return made


@pytest.mark.parametrize("name", PACKAGES)
def test_a_hostile_package(name: str, tmp_path: Path) -> None:
    case = PACKAGES[name]
    made = taken(case, tmp_path)
    if case.unasked or not can_judge():
        return
    status, tree, said = dpkg(tmp_path / "judge", case.make)
    if made is None:
        assert (status == 0) == bool(case.lenient), f"dpkg: {status}\n{said}"
    else:
        assert status == 0, said
        mine = state(made, skip=("var",), aim=str(tmp_path / "mine/outside/canary"))
        assert {p: v for p, v in mine.items() if p != "usr" or "usr" in tree} == tree
