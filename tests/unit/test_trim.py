"""What is left out of a root, and what its dpkg is told."""

from __future__ import annotations

from pathlib import Path

from mkroot.recipe.model import Trim
from mkroot.recipe.values import Locale, PathGlob
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.trim import FILTER, forms, trim
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from tests.unit.layers import layer
from tests.unit.roots import tree_of

FILES: dict[str, str | bytes] = {
    "usr/bin/dpkg": "x!",
    "usr/share/doc/a/copyright": "c",
    "usr/share/doc/a/README": "r",
    "usr/share/doc/a/examples/x": "x",
    "usr/share/doc/b": "-> a",
    "usr/share/doc/gone/x": "x",
    "usr/share/doc/dead": "-> gone",
    "usr/share/info/a.info": "i",
    "usr/share/man/man1/a.1": "m",
    "usr/share/man/man1/alt.1": "-> /etc/alternatives/alt.1",
    "usr/share/man/de/man1/a.1": "m",
    "usr/share/man/pt_BR/man1/a.1": "m",
    "etc/alternatives/alt.1": "-> /usr/share/man/man1/a.1",
    "etc/hint": "-> ../usr/share/doc/a/README",
    "usr/share/locale/locale.alias": "l",
    "usr/share/locale/de/LC_MESSAGES/a.mo": "de",
    "usr/share/locale/de_AT/LC_MESSAGES/a.mo": "de",
    "usr/share/locale/fr/LC_MESSAGES/a.mo": "fr",
    "usr/share/x/y/z": "z",
    "usr/share/x/w": "w",
    "usr/lib/q.a": "q",
    "usr/lib/sub/q.a": "q",
}


def left(tmp_path: Path, wanted: Trim) -> tuple[Tree, set[str]]:
    tree = tree_of(tmp_path, FILES)
    before = set(tree.nodes)
    trim(tree, wanted)
    return tree, before - set(tree.nodes)


def test_docs_go_and_copyright_stays(tmp_path: Path) -> None:
    tree, gone = left(tmp_path, Trim(docs=True))
    assert gone == {
        "usr/share/doc/a/README", "usr/share/doc/a/examples", "usr/share/doc/a/examples/x", "usr/share/doc/gone",
        "usr/share/doc/gone/x", "usr/share/doc/dead", "usr/share/info/a.info",
    }  # fmt: skip
    assert tree.read(FILTER).decode().splitlines()[1:] == [
        "path-exclude=/usr/share/doc/*", "path-exclude=/usr/share/doc-base/*", "path-exclude=/usr/share/info/*",
        "path-exclude=/usr/share/gtk-doc/*", "path-exclude=/usr/share/help/*", "path-exclude=/usr/share/lintian/*",
        "path-exclude=/usr/share/linda/*", "path-include=/usr/share/doc/*/copyright",
    ]  # fmt: skip


def test_manual_pages_go_with_their_alternatives(tmp_path: Path) -> None:
    tree, gone = left(tmp_path, Trim(man=True))
    assert "etc/alternatives/alt.1" in gone
    assert {p for p in tree.nodes if p.startswith("usr/share/man/")} == {"usr/share/man/man1"}


def test_translations_of_other_languages_go(tmp_path: Path) -> None:
    tree, gone = left(tmp_path, Trim(locales=(Locale("de_DE.UTF-8"), Locale("C.UTF-8"))))
    assert gone == {
        "usr/share/man/pt_BR", "usr/share/man/pt_BR/man1", "usr/share/man/pt_BR/man1/a.1",
        "usr/share/locale/de_AT", "usr/share/locale/de_AT/LC_MESSAGES", "usr/share/locale/de_AT/LC_MESSAGES/a.mo",
        "usr/share/locale/fr", "usr/share/locale/fr/LC_MESSAGES", "usr/share/locale/fr/LC_MESSAGES/a.mo",
    }  # fmt: skip
    assert tree.exists("usr/share/man/man1/a.1")


def test_no_language_is_kept_by_an_empty_list(tmp_path: Path) -> None:
    tree, _ = left(tmp_path, Trim(locales=()))
    assert {p for p in tree.nodes if p.startswith("usr/share/locale/")} == {"usr/share/locale/locale.alias"}


def test_paths_are_globs_within_a_name_or_across(tmp_path: Path) -> None:
    tree, gone = left(tmp_path, Trim(paths=(PathGlob("/usr/share/x/**"), PathGlob("/usr/lib/*.a"))))
    assert gone == {"usr/share/x/y", "usr/share/x/y/z", "usr/share/x/w", "usr/lib/q.a"}
    said = tree.read(FILTER).decode()
    assert "path-exclude=/usr/share/x/*\n" in said
    assert "/usr/lib/" not in said  # dpkg's `*` would take usr/lib/sub/q.a as well


def test_a_folder_goes_with_what_is_in_it(tmp_path: Path) -> None:
    _, gone = left(tmp_path, Trim(paths=(PathGlob("/usr/share/x"), PathGlob("/usr/share/doc"))))
    assert "usr/share/x" in gone and "usr/share/x/y/z" in gone
    assert "usr/share/doc/a/README" in gone and "usr/share/doc/a/copyright" not in gone


def test_links_left_dangling_are_told(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, FILES)
    assert trim(tree, Trim(docs=True)).notes == ("links that lead to nothing after the trim: /etc/hint",)


def test_nothing_is_done_where_nothing_is_asked(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, FILES)
    before = dict(tree.nodes)
    assert trim(tree, Trim()).origins == {}
    assert tree.nodes == before


def test_dpkgs_database_no_longer_misses_what_went(tmp_path: Path) -> None:
    """Files leave lists, md5sums and Conffiles: `dpkg --verify` of Debian 13 misses each of them and every folder."""
    store = Store(tmp_path / "store")
    made = layer(
        store,
        tmp_path,
        "p",
        files=dict.fromkeys(("usr/share/doc/p/README", "bin/p", "etc/p/a.conf", "etc/p/b.conf"), b"x"),
        conffiles=("/etc/p/a.conf", "/etc/p/b.conf"),
    )
    tree = Tree(LayerStore(store).read)
    tree.apply(made)
    tree.write("var/lib/dpkg/status", b"Package: p\nConffiles:\n /etc/p/a.conf 00\n /etc/p/b.conf 11\nDescription: x\n")
    done = trim(tree, Trim(docs=True, paths=(PathGlob("/etc/p/a*"),)))
    sums = tree.read("var/lib/dpkg/info/p.md5sums").decode()
    assert [line.split()[1] for line in sums.splitlines()] == ["bin/p", "etc/p/b.conf"]
    names = tree.read("var/lib/dpkg/info/p.list").decode().split()
    assert "/bin/p" in names and "/etc/p/b.conf" in names
    assert not {"/usr/share/doc/p/README", "/usr/share/doc/p", "/etc/p/a.conf"} & set(names)
    assert tree.read("var/lib/dpkg/status") == b"Package: p\nConffiles:\n /etc/p/b.conf 11\nDescription: x\n"
    assert done.origins["etc/p/a.conf"] == "recipe: trim.paths[0]"
    assert not tree.exists(FILTER)  # there is no dpkg in this image


def test_where_gettext_looks() -> None:
    assert forms("sr_RS.UTF-8@latin") == ["sr_RS.UTF-8@latin", "sr_RS.UTF-8", "sr_RS@latin", "sr_RS", "sr@latin", "sr"]
    assert forms("C.UTF-8") == []
