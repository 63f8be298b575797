"""The table of an index answers what its text says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkroot.archive import index as index_module
from mkroot.archive import scan as scan_module
from mkroot.archive.index import KIND, ArchiveUniverse, open_index, prepare, table_key
from mkroot.archive.table import Table
from mkroot.debian.release import Index
from mkroot.errors import StoreError, TrustError
from mkroot.resolve.request import Request
from mkroot.resolve.resolver import resolve
from mkroot.resolve.universe import MENTIONS, TextUniverse
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


def test_foreign_architectures(tmp_path: Path) -> None:
    indices = [
        make(tmp_path, "Package: a\nVersion: 1\nArchitecture: amd64\nDepends: x\n"),
        make(tmp_path, "Package: b\nVersion: 1\nArchitecture: i386\nProvides: a\n", architecture="i386"),
        make(tmp_path, "Package: x\nVersion: 1\nArchitecture: all\n", architecture="all"),
        make(tmp_path, "Package: a\nVersion: 2\nArchitecture: amd64\n", suite="updates"),
    ]
    universe = ArchiveUniverse(Store(tmp_path / "store"), indices)
    assert [(p.version, p.origin and p.origin.suite) for p in universe.packages("a")] == [
        ("1", "stable"),
        ("2", "updates"),
    ]
    assert [p.architecture for p in universe.providers("a")] == ["i386"]
    assert [universe.rank(n, "amd64") for n in ("a", "x", "b")] == [(0, 0), (0, 1), (4, 0)]
    assert [universe.rank(n, "i386") for n in ("a", "x", "b")] == [(1, 1), (2, 0), (1, 0)]
    assert list(universe.names()) == ["a", "b", "x"]


class Plain:
    """The answers of a slow reader, one stanza and one field after the other."""

    def __init__(self, text: bytes) -> None:
        self.packages: dict[bytes, list[bytes]] = {}
        self.providers: dict[bytes, list[bytes]] = {}
        self.heard: dict[bytes, None] = {}
        self.marked: dict[bytes, None] = {}
        for bare in (part.strip(b"\n") for part in text.split(b"\n\n")):
            if bare:
                self.read(bare)

    def read(self, bare: bytes) -> None:
        stanza = b"\n" + bare
        if b"\nPackage:" not in stanza:
            raise ValueError
        name = re.search(rb"\nPackage:(.*)", stanza)[1].strip()  # type: ignore[index]
        self.packages.setdefault(name, []).append(bare)
        self.heard[name] = None
        for field in MENTIONS:
            if found := re.search(rb"\n%b:(.*(?:\n[ \t].*)*)" % field.title().encode(), stanza):
                names = [re.split(rb"[ \t\n(\[<]", c.lstrip(b" \t\n"))[0] for c in re.split(rb"[,|]", found[1])]
                self.heard |= dict.fromkeys(filter(None, names))
                for provided in dict.fromkeys(filter(None, names)) if field == "provides" else ():
                    self.providers.setdefault(provided.partition(b":")[0], []).append(bare)
        if re.search(rb"\n(Essential|Protected|Important): yes", stanza):
            self.marked[name] = None


LINES = st.sampled_from(
    [
        *["", "", "", "Package: a", "Package: b", "Package: c1"],
        *[
            "Package:  bash \t",
            "Package: a\n b",
            "Package:\n b",
            "Package:",
            "Package: an odd (name), x",
            "Package: a\r",
            "\r",
        ],
        *["Depends: x", "Depends: c (>= 1), b [amd64] <!nocheck> | a:any,\n d\n\t| e,,", "Pre-Depends: p", "Depends:"],
        *["Conflicts: k", "Breaks: k", "Recommends: r|s", "Suggests:t", "Replaces: k\t(<< 2)", "Enhances: b\n , q"],
        *["Provides: v (= 1), a:any, a, w", "Provides: v", "Provides: u:native", "X-Depends: no", "depends: no"],
        *[
            "Essential: yes",
            "Essential: no",
            "Protected: yes",
            "Important: yes",
            "Description: d",
            " Package: no",
            "\tx",
        ],
        *["Version: 1", "Architecture: amd64", "Tag: a::b,\n c::d", "Filename: p/x.deb", "ü: \udcff"],
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(LINES, max_size=40), st.sampled_from([1, 3, 50, 100_000]), st.sampled_from([1, 30, 4096]), st.booleans()
)
def test_odd_texts(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], piece: int, block: int, shared: bool
) -> None:
    text = "\n".join(lines) + "\n"
    folder = tmp_path_factory.mktemp("odd")
    found = make(folder, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "BLOCK", piece)
        patch.setattr(scan_module, "_BLOCK", block)
        patch.setattr(index_module, "_SHARE", 40 if shared else 1 << 30)
        try:
            plain = Plain(found.path.read_bytes())
        except ValueError:
            with pytest.raises(TrustError, match="names no package"):
                open_index(Store(folder / "store"), found, processes=3)
            return
        table = open_index(Store(folder / "store"), found, processes=3)
    same(table, plain)


def same(table: Table, plain: Plain) -> None:
    """Demand that both give the same answers."""
    for name in (*plain.heard, *plain.providers, b"never"):
        assert list(table.packages(name)) == plain.packages.get(name, [])
        assert list(table.providers(name)) == plain.providers.get(name, [])
    assert [table.place(name) for name in plain.heard] == list(range(len(plain.heard)))
    assert table.place(b"never") is None
    assert list(dict.fromkeys(table.names())) == sorted(plain.packages)
    assert table.marked() == [name for name in plain.marked if name]


def test_many_stanzas(tmp_path: Path) -> None:
    text = "\n".join(
        f"Package: p{n * 7919 % 1000}\nVersion: {n}\nDepends: p{n % 17}, d{n}\nProvides: v{n % 3}, v (= {n})\n"
        for n in range(3000)
    )
    found = make(tmp_path, text)
    plain = Plain(found.path.read_bytes())
    same(open_index(Store(tmp_path / "store"), found, processes=1), plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_SHARE", 10_000)
        same(open_index(Store(tmp_path / "other"), found, processes=4), plain)


def test_tables_made_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "LARGE", 0)
    store = Store(tmp_path / "store")
    indices = [make(tmp_path, TEXT.replace("bash", f"bash{n}"), suite=f"s{n}") for n in range(4)]
    broken = make(tmp_path, "Version: 1\n", suite="broken")
    sized = [msgspec.structs.replace(i, size=i.path.stat().st_size) for i in (*indices, broken)]
    prepare(store, sized)
    assert [store.has(KIND, table_key(i.sha256)) for i in sized] == [True] * 4 + [False]
    with pytest.raises(TrustError, match="names no package"):
        ArchiveUniverse(store, sized)
    assert [len(ArchiveUniverse(store, sized[:4]).packages(f"bash{n}")) for n in range(4)] == [2] * 4


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
    path = store.path(KIND, table_key(found.sha256))
    good = path.read_bytes()
    path.write_bytes(damage)
    assert list(open_index(store, found).packages(b"dash"))
    assert path.read_bytes() == good


def test_every_flipped_byte_of_a_table_is_noticed(tmp_path: Path) -> None:
    store, found = Store(tmp_path / "store"), make(tmp_path, "Package: a\nVersion: 1\nArchitecture: all\nDepends: b\n")
    open_index(store, found)
    path = store.path(KIND, table_key(found.sha256))
    good = path.read_bytes()
    for n in range(len(good)):
        path.write_bytes(good[:n] + bytes([good[n] ^ 1]) + good[n + 1 :])
        open_index(store, found)
        assert path.read_bytes() == good


def test_a_damaged_text_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    padding = "\n".join(f"Package: p{n}\nVersion: 1\nArchitecture: all\nDescription: {'x' * 900}\n" for n in range(20))
    text = f"{padding}\n{TEXT}"
    found = make(tmp_path, text)
    open_index(store, found)
    found.path.write_text(text.replace("Version: 6", "Version: 7"))
    assert [p.version for p in ArchiveUniverse(store, [found]).packages("p3")] == ["1"]
    for _ in range(2):
        with pytest.raises(StoreError, match="damaged"):
            ArchiveUniverse(store, [found]).packages("bash")
    with pytest.raises(StoreError, match="damaged"):
        open_index(Store(tmp_path / "other"), found)
    found.path.write_text(text[: len(padding)])
    with pytest.raises(StoreError, match="damaged"):
        ArchiveUniverse(store, [found]).providers("shell")


def test_no_flipped_bit_of_a_text_passes(tmp_path: Path) -> None:
    store, found = Store(tmp_path / "store"), make(tmp_path, TEXT)
    open_index(store, found)
    good = found.path.read_bytes()
    for at in range(0, len(good), 5):
        found.path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(StoreError, match="damaged"):
            ArchiveUniverse(store, [found]).packages("bash")


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
