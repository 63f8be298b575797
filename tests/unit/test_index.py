"""The table of an index answers what its text says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkroot.archive import index as index_module
from mkroot.archive.index import KIND, ArchiveUniverse, open_index
from mkroot.debian.release import Index
from mkroot.errors import StoreError, TrustError
from mkroot.resolve.request import Request
from mkroot.resolve.resolver import resolve
from mkroot.resolve.universe import TextUniverse
from mkroot.store.store import Store
from tests.resolve_cases import cases

TEXT = """Package: bash
Version: 5
Architecture: amd64
Essential: yes
Priority: required
Pre-Depends: libc6 (>= 2.36)
Depends: base-files (>= 2.1), debianutils
Provides: sh (= 1), shell
Description: a
 Package: not-one

Package: shim
Version: 1
Architecture: amd64
Protected: yes
Priority: optional
Depends: a,
 b | c:any

Package: dash
Version: 1
Architecture: amd64
Priority: important
Provides: shell

Package: bash
Version: 6
Architecture: amd64
"""


def make(folder: Path, text: str, *, suite: str = "stable", architecture: str = "amd64") -> Index:
    """Return an index of `text` on disk."""
    data = text.encode("utf-8", "surrogateescape")
    path = folder / f"{suite}-{architecture}"
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return Index(source="main", suite=suite, codename=suite, architecture=architecture, path=path, sha256=digest)


def test_lookups(tmp_path: Path) -> None:
    universe = ArchiveUniverse(Store(tmp_path / "store"), [make(tmp_path, TEXT)])
    assert [p.version for p in universe.packages("bash")] == ["5", "6"]
    assert universe.packages("bash")[0].fields["description"] == "a\n Package: not-one"
    assert not universe.packages("not-one") and not universe.packages("sh")
    assert [p.name for p in universe.providers("shell")] == ["bash", "dash"]
    assert [p.name for p in universe.providers("sh")] == ["bash"]
    assert list(universe.marked()) == ["bash", "shim"]
    assert [list(universe.of_priority(p)) for p in ("required", "important", "standard")] == [["bash"], ["dash"], []]
    assert list(universe.names()) == ["bash", "dash", "shim"]
    assert [p.name for p in universe.mentioning("debianutils")] == ["bash"]


def test_ranks_are_the_order_of_mentions(tmp_path: Path) -> None:
    universe = ArchiveUniverse(Store(tmp_path / "store"), [make(tmp_path, TEXT)])
    names = ["bash", "libc6", "base-files", "debianutils", "sh", "shell", "shim", "a", "b", "c:any", "dash"]
    assert [universe.rank(n, "amd64") for n in names] == [(0, n) for n in range(len(names))]
    assert universe.rank("c", "amd64") == (1, 0)
    assert universe.rank("bash", "i386") == (1, 0)


@pytest.mark.parametrize("size", [1, 7, 64, 300])
def test_the_size_of_chunks_changes_nothing(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    found = make(tmp_path, TEXT)
    open_index(store, found)
    table = store.path(KIND, f"{found.sha256}.t{index_module.FORMAT}").read_bytes()
    monkeypatch.setattr(index_module, "_CHUNK", size)
    other = Store(tmp_path / "other")
    open_index(other, found)
    assert other.path(KIND, f"{found.sha256}.t{index_module.FORMAT}").read_bytes() == table


def test_an_empty_index(tmp_path: Path) -> None:
    universe = ArchiveUniverse(Store(tmp_path / "store"), [make(tmp_path, "")])
    assert not universe.packages("a")
    assert list(universe.names()) == []


def test_a_stanza_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="names no package"):
        open_index(Store(tmp_path / "store"), make(tmp_path, "Version: 1\n"))
    assert not list((tmp_path / "store" / KIND).glob("*/*")) if (tmp_path / "store" / KIND).exists() else True


@pytest.mark.parametrize("damage", [b"", b"x" * 40, b"mkrtidx"])
def test_a_damaged_table_is_made_again(tmp_path: Path, damage: bytes) -> None:
    store, found = Store(tmp_path / "store"), make(tmp_path, TEXT)
    open_index(store, found)
    path = store.path(KIND, f"{found.sha256}.t{index_module.FORMAT}")
    good = path.read_bytes()
    path.write_bytes(damage)
    assert list(open_index(store, found).stanzas(b"pdash"))
    assert path.read_bytes() == good


def test_every_flipped_byte_of_a_table_is_noticed(tmp_path: Path) -> None:
    store, found = Store(tmp_path / "store"), make(tmp_path, "Package: a\nVersion: 1\nArchitecture: all\nDepends: b\n")
    open_index(store, found)
    path = store.path(KIND, f"{found.sha256}.t{index_module.FORMAT}")
    good = path.read_bytes()
    for n in range(len(good)):
        path.write_bytes(good[:n] + bytes([good[n] ^ 1]) + good[n + 1 :])
        open_index(store, found)
        assert path.read_bytes() == good


def test_a_damaged_text_is_noticed(tmp_path: Path) -> None:
    store, found = Store(tmp_path / "store"), make(tmp_path, TEXT)
    open_index(store, found)
    found.path.write_text(TEXT.replace("Version: 6", "Version: 7"))
    assert [p.version for p in ArchiveUniverse(store, [found]).packages("dash")] == ["1"]
    with pytest.raises(StoreError, match="damaged"):
        ArchiveUniverse(store, [found]).packages("bash")
    with pytest.raises(StoreError, match="damaged"):
        open_index(Store(tmp_path / "other"), found)


def test_cases_have_the_same_answers_from_tables(tmp_path: Path) -> None:
    for case in (c for c in cases() if c.expect):
        folder = tmp_path / case.name
        folder.mkdir()
        indices = []
        for index, text in case.texts(case.stanzas):
            path = folder / index.path
            path.write_text(text)
            indices.append(Index(**{f: getattr(index, f) for f in index.__struct_fields__ if f != "path"}, path=path))
        stored = resolve(ArchiveUniverse(Store(tmp_path / "store"), indices), case.request)
        plain = resolve(case.universe(), case.request)
        assert [(p.id, p.version, p.why) for p in stored.packages] == [(p.id, p.version, p.why) for p in plain.packages]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["", "Depends: b, x | c\n", "Provides: v (= 1), a\n"])),
        max_size=8,
    )
)
def test_as_the_plain_universe(tmp_path_factory: pytest.TempPathFactory, stanzas: list[tuple[str, str]]) -> None:
    text = "\n".join(f"Package: {n}\nVersion: {k}\nArchitecture: all\n{f}" for k, (n, f) in enumerate(stanzas))
    folder = tmp_path_factory.mktemp("index")
    stored = ArchiveUniverse(Store(folder / "store"), [make(folder, text)])
    plain = TextUniverse.of(text)
    for name in "abcvxz":
        assert [p.fields for p in stored.packages(name)] == [p.fields for p in plain.packages(name)]
        assert [p.fields for p in stored.providers(name)] == [p.fields for p in plain.providers(name)]
        assert stored.rank(name, "amd64") == plain.rank(name, "amd64")
    assert resolve(stored, Request(architecture="amd64", variant="none")).packages == ()
