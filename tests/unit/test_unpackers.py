"""Processes that unpack packages: in which order, and what they answer of packages that the store knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mkroot.store.damage import DamageError
from mkroot.store.layer import LayerStore, frame_key
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.store.unpack import layer_key, unpack
from mkroot.store.workers import Job, Unpackers
from mkroot.store.writer import Chown
from tests.testarchive import Content
from tests.unit.layers import deb


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path / "trees")


@pytest.fixture
def alone(store: Store) -> Iterator[Unpackers]:
    """One process, whose answers come in the order of its work."""
    pool = Unpackers(store, Chown(), 1)
    try:
        yield pool
    finally:
        pool.stop()


def job(store: Store, folder: Path, trees: Trees, name: str, *, known: bool, rank: int = 0) -> Job:
    path, expected = deb(folder, name, Content(files={f"usr/share/{name}": name.encode()}))
    if known:
        unpack(store, path, expected, None, Chown())[2]()
    return Job(expected, None if known else path, trees, rank=rank)


def answers(pool: Unpackers) -> list[tuple[str, bool]]:
    found = []
    while pool.busy:
        found += [(digest, layer is None) for digest, layer in pool.done(None)]
    return found


def test_a_known_package_gets_its_tree_and_is_not_told_again(
    store: Store, tmp_path: Path, trees: Trees, alone: Unpackers
) -> None:
    known, new = (job(store, tmp_path, trees, name, known=name == "known") for name in ("known", "new"))
    alone.put(known)
    alone.put(new)
    assert answers(alone) == [(known.expected.sha256, True), (new.expected.sha256, False)]
    for one, name in ((known, "known"), (new, "new")):
        assert (trees.path(layer_key(one.expected.sha256)) / "usr/share" / name).read_text() == name


def test_what_is_needed_first_is_unpacked_first_however_late_it_arrives(
    store: Store, tmp_path: Path, trees: Trees, alone: Unpackers
) -> None:
    ranks = [5, 5, 5, 5, 3, 0, 5, 3, 0]
    jobs = [
        job(store, tmp_path, trees, f"p{number}", known=rank % 2 == 1, rank=rank) for number, rank in enumerate(ranks)
    ]
    for one in jobs:
        alone.put(one)
    order = [one.expected.sha256 for one in jobs]
    place = [order.index(digest) for digest, _ in answers(alone)]
    assert place == [0, 1, 2, 5, 8, 4, 7, 3, 6]  # three were handed out before the others came


def test_a_damaged_frame_is_named_where_its_tree_is_to_be_made(
    store: Store, tmp_path: Path, trees: Trees, alone: Unpackers
) -> None:
    known = job(store, tmp_path, trees, "known", known=True)
    key = layer_key(known.expected.sha256)
    path = LayerStore(store).base(LayerStore(store).load(key)).path
    assert path == store.path("frames", frame_key(key, "zstd"))
    data = bytearray(path.read_bytes())
    data[4] ^= 1
    path.write_bytes(data)
    alone.put(known)
    with pytest.raises(DamageError) as caught:
        answers(alone)
    assert caught.value.entry == path
    assert not trees.has(key)
