"""A build that meets a damaged entry of the store removes it and begins again, within reason."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mkroot.errors import StoreError
from mkroot.mending import LIMIT, mending
from mkroot.progress import Progress
from mkroot.store.damage import DamageError
from mkroot.store.layer import LayerStore, frame_key
from mkroot.store.store import Store
from mkroot.store.trees import Trees, checked
from mkroot.store.writer import Chown, make_tree
from tests.unit.layers import layer

pytestmark = pytest.mark.counts("fault")


class Told(Progress):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def test_an_entry_is_removed_and_the_work_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = layer(store, tmp_path, "a", files={"usr/x": b"x"})
    record = store.path("layers", made.key)
    record.write_bytes(b"")
    progress = Told()
    runs = []

    def work() -> str:
        runs.append(record.exists())
        if not record.exists():
            layer(store, tmp_path, "a", files={"usr/x": b"x"})
        return LayerStore(store).load(made.key).name

    assert mending(store, progress, work) == "a"
    assert runs == [True, False]
    (line,) = progress.lines
    assert str(record) in line and "made again" in line


def test_a_frame_goes_with_its_record(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = layer(store, tmp_path, "a", files={"usr/x": b"x"})
    frame = store.path("frames", frame_key(made.key, "zstd"))
    frame.write_bytes(frame.read_bytes()[:-1])

    def work() -> bool:
        if frame.exists():
            LayerStore(store).base(made)
        return store.has("layers", made.key)

    assert mending(store, Told(), work) is False


def test_an_entry_that_is_damaged_again_at_once_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = store.path("frames", "ab" * 32)
    runs = []

    def work() -> None:
        runs.append(1)
        raise DamageError("no end mark", entry)

    with pytest.raises(DamageError, match="no end mark"):
        mending(store, Told(), work)
    assert len(runs) == 2


def test_a_disk_that_loses_one_entry_after_the_other_is_not_trusted(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        raise DamageError("no end mark", store.path("frames", f"{len(runs):064x}"))

    with pytest.raises(StoreError, match="no end mark"):
        mending(store, Told(), work)
    assert len(runs) == LIMIT + 1


def test_an_error_of_a_process_that_unpacks_keeps_its_entry(tmp_path: Path) -> None:
    error = pickle.loads(pickle.dumps(DamageError("no end mark", tmp_path / "x\n")))
    assert (error.entry, error.what) == (tmp_path / "x\n", "a damaged store entry: no end mark")


@pytest.mark.parametrize("damage", ["bit", "gone", "link", "more"])
def test_a_tree_that_scripts_would_read_is_compared_first(tmp_path: Path, damage: str) -> None:
    """Its files are what maintainer scripts copy from: a flipped bit would come into an output."""
    store = Store(tmp_path / "store")
    layers = LayerStore(store)
    made = layer(store, tmp_path, "a", files={"usr/x": b"content"}, symlinks={"usr/l": "x"})
    make_tree(layers, made, Trees(tmp_path / "trees"), Chown())
    place = Trees(tmp_path / "trees").path(made.key) / "usr"
    if damage == "bit":
        (place / "x").write_bytes(b"contend")
    elif damage == "more":
        (place / "y").write_bytes(b"")
    else:
        (place / "x").unlink() if damage == "gone" else (place / "l").unlink()
        if damage == "link":
            (place / "l").symlink_to("y")
    with pytest.raises(DamageError) as caught:
        checked(Trees(tmp_path / "trees"), made)
    assert caught.value.entry == Trees(tmp_path / "trees").path(made.key)


def test_what_this_process_made_or_saw_is_not_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = layer(store, tmp_path, "a", files={"usr/x": b"content"})
    trees = Trees(tmp_path / "trees")
    path = make_tree(LayerStore(store), made, trees, Chown())
    (path / "usr" / "x").unlink()
    assert checked(trees, made) == path
