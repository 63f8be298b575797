"""What tools made is kept: the same bytes come back, and nothing but the same parts brings them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mkroot.artifact.kept import KIND, kept_bytes, kept_file
from mkroot.store.store import Store

CONTENTS = {
    "empty": b"",
    "short": b"abc",
    "zeros": bytes(1 << 20),
    "a hole between": b"a" * 70000 + bytes(1 << 20) + b"b" * 5,
    "zeros at the end of an odd size": b"x" * (5 << 20) + bytes(100_003),
    "several pieces": os.urandom(9 << 20),
}


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    store, data = Store(tmp_path / "store"), CONTENTS[name]
    first, second = tmp_path / "first", tmp_path / "second"
    kept_file(store, ["kind", 1], first, lambda: put(first, data))
    kept_file(store, ["kind", 1], second, lambda: pytest.fail("it is made again"))
    assert first.read_bytes() == second.read_bytes() == data
    assert second.stat().st_mode & 0o777 == 0o644
    if name == "zeros":
        assert second.stat().st_blocks == 0, "zeros take room"


def test_other_parts_are_another_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = []

    def make() -> bytes:
        made.append(1)
        return b"%d" % len(made)

    assert [kept_bytes(store, parts, make) for parts in (["a"], ["b"], ["a"], ["a", 1])] == [b"1", b"2", b"1", b"3"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_entry_is_made_again(damage: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    out = tmp_path / "out"
    kept_file(store, ["kind"], out, lambda: put(out, b"right" * 1000))
    (entry,) = (p for p in (tmp_path / "store" / KIND).rglob("*") if p.is_file())
    data = bytearray(entry.read_bytes())
    data[5] ^= 1
    entry.write_bytes({"flipped": bytes(data), "cut": bytes(data[:-9]), "emptied": b""}[damage])
    for _ in range(2):
        out.unlink()
        kept_file(store, ["kind"], out, lambda: put(out, b"right" * 1000))
        assert out.read_bytes() == b"right" * 1000
    out.unlink()
    kept_file(store, ["kind"], out, lambda: pytest.fail("it is made again"))


def test_what_fails_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def fail() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        kept_file(store, ["kind"], tmp_path / "out", fail)
    assert not (tmp_path / "store" / KIND).exists()
