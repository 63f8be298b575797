"""An image's own layers on a newer parent: done, done after a run of dpkg, or told what stands in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mkroot.oci.rebase import inherited
from mkroot.rootfs import bonds, threeway
from mkroot.rootfs.transplant import examine
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import Layer
from mkroot.tar.entry import DIR, FILE, Entry
from tests.testarchive import Archive
from tests.unit.commands import Program
from tests.unit.parents import base_tar, installed
from tests.unit.test_parent import build, image_of, own, text

OTHER = {"files": [{"path": "/etc/other", "content": "other\n"}]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Archive]:
    """A store with `old:1` (lib and calm 1.0) and what stands on it: `app:1`, `fussy:1`, `conf:1`, `calmer:1`."""
    folder = tmp_path_factory.mktemp("rebase")
    program = Program(folder)
    base_tar(folder / "bare.tar", files={"etc/app.conf": b"default\n", "etc/shells": b"/bin/sh\n"})
    assert program("import", "bare.tar", "bare:1", "--arch", "amd64", "-c", "ENV A=1 B=1").status == 0
    archive = Archive(folder / "archive")
    archive.add(
        "lib", "1.0", files={"usr/lib/lib.so": b"one"}, control_files={"triggers": b"interest /usr/share/app\n"}
    )
    archive.add("calm", "1.0", files={"usr/bin/calm": b"calm 1"})
    archive.add("app", "1.0", depends="lib", files={"usr/share/app/app": b"app"})
    archive.add("fussy", "1.0", depends="lib (<< 2)", files={"usr/bin/fussy": b"f"})
    make(program, archive, "old", "bare:1", ["lib", "calm"])
    make(program, archive, "app", "old:1", ["app"], image={"env": {"C": "3"}})
    make(program, archive, "fussy", "old:1", ["fussy"])
    make(program, archive, "conf", "old:1", [], config={"files": [{"path": "/etc/app.conf", "content": "mine\n"}]})
    archive.add("calm", "2.0", files={"usr/bin/calm": b"calm 2"})
    make(program, archive, "calmer", "old:1", ["calm"])
    archive.add(
        "lib",
        "2.0",
        files={"usr/lib/lib.so": b"two"},
        control_files={"triggers": b"interest /usr/share/app\n"},
        scripts={"postinst": '#!/bin/sh\nif [ "$1" = triggered ]; then echo "$2" > /var/lib/lib.done; fi\n'},
    )
    archive.add("calm", "3.0", files={"usr/bin/calm": b"calm 3"})
    return program, archive


def make(program: Program, archive: Archive, name: str, parent: str, include: list[str], **more: Any) -> None:
    done = build(program, archive, name, parent, include, **more)
    assert done.status == 0, done.err


def rebase(program: Program, *words: str, status: int = 0) -> Any:
    done = program("rebase", *words, "--json")
    assert done.status == status, done.err
    assert "Traceback" not in done.err
    return done.json


def test_safe_where_the_new_parent_touches_nothing_of_it(world: tuple[Program, Archive]) -> None:
    program, archive = world
    make(program, archive, "filed", "old:1", [], config=OTHER)
    answer = rebase(program, "app:1", "--onto", "filed:1", "--tag", "safe:1")
    assert (answer["answer"], answer["packages"], answer["clashes"]) == ("safe", [], [])
    _, before = image_of(program, "app:1")
    _, parent = image_of(program, "filed:1")
    _, after = image_of(program, "safe:1")
    assert after.digest == answer["digest"]
    assert after.manifest.layers == (*parent.manifest.layers, before.manifest.layers[-1])
    assert after.config.history[: len(parent.config.history)] == parent.config.history
    assert after.config.history[-1] == before.config.history[-1]
    assert after.manifest.annotations["org.opencontainers.image.base.digest"] == parent.digest
    assert after.config.config is not None and set(after.config.config.env or ()) == {"A=1", "B=1", "C=3"}
    assert text(program, "safe:1", "etc/other") == "other\n"
    assert text(program, "safe:1", "usr/share/app/app") == "app"


def test_databases_are_merged_and_triggers_run(world: tuple[Program, Archive]) -> None:
    program, archive = world
    make(program, archive, "new", "old:1", ["lib"])
    answer = rebase(program, "app:1", "--onto", "new:1", "--tag", "moved:1")
    assert (answer["answer"], answer["packages"]) == ("configure", ["lib"])
    assert installed(program, "moved:1") == {
        "app": ("installed", "1.0"),
        "calm": ("installed", "1.0"),
        "lib": ("installed", "2.0"),
    }
    assert text(program, "moved:1", "var/lib/lib.done") == "/usr/share/app\n"
    assert text(program, "moved:1", "usr/lib/lib.so") == "two"
    names = own(program, "moved:1")
    assert "var/lib/dpkg/status" in names and "usr/lib/lib.so" not in names and "usr/share/app/app" not in names
    again = rebase(program, "app:1", "--onto", "new:1", "--tag", "moved:2")
    assert again["digest"] == answer["digest"]


def test_a_file_that_both_changed_is_a_clash(world: tuple[Program, Archive]) -> None:
    program, archive = world
    make(program, archive, "theirs", "old:1", [], config={"files": [{"path": "/etc/app.conf", "content": "theirs\n"}]})
    answer = rebase(program, "conf:1", "--onto", "theirs:1", "--tag", "never:1", status=1)
    assert (answer["answer"], answer["digest"]) == ("no", None)
    assert answer["clashes"] == [{"path": "etc/app.conf", "why": "changed by the layer and the parent"}]
    told = program("rebase", "conf:1", "--onto", "theirs:1", "--tag", "never:1")
    assert told.status == 1 and "/etc/app.conf" in told.out and "nothing was changed" in told.err
    assert program("inspect", "never:1").status == 1
    make(program, archive, "agrees", "old:1", [], config={"files": [{"path": "/etc/app.conf", "content": "mine\n"}]})
    assert rebase(program, "conf:1", "--onto", "agrees:1", "--tag", "agreed:1")["answer"] == "safe"


def test_a_dependency_that_would_not_hold_is_told(world: tuple[Program, Archive]) -> None:
    program, archive = world
    make(program, archive, "new", "old:1", ["lib"])
    answer = rebase(program, "fussy:1", "--onto", "new:1", "--tag", "never:1", status=1)
    assert answer["unmet"] == ["fussy 1.0 depends on lib (<< 2), and there is lib 2.0"]


def test_a_package_in_two_versions_is_a_clash(world: tuple[Program, Archive]) -> None:
    program, archive = world
    make(program, archive, "calm3", "old:1", ["calm"])
    answer = rebase(program, "calmer:1", "--onto", "calm3:1", "--tag", "never:1", status=1)
    assert {"path": "package calm", "why": "2.0 in the layer, 3.0 in the new parent"} in answer["clashes"]


def test_the_former_parent_is_named_found_or_given(world: tuple[Program, Archive]) -> None:
    program, archive = world
    make(program, archive, "filed", "old:1", [], config=OTHER)
    _, old = image_of(program, "old:1")
    answer = rebase(program, "app:1", "--onto", "filed:1", "--tag", "a:1")
    assert answer["from"] == old.digest
    _, bare = image_of(program, "bare:1")
    given = rebase(program, "app:1", "--from", "bare:1", "--onto", "bare:1", "--tag", "a:2")
    assert (given["from"], given["answer"]) == (bare.digest, "safe")
    wrong = program("rebase", "old:1", "--from", "app:1", "--onto", "bare:1", "--tag", "a:3")
    assert wrong.status == 1 and "does not stand on" in wrong.err
    lonely = program("rebase", "bare:1", "--onto", "old:1", "--tag", "a:4")
    assert lonely.status == 1 and "--from REF" in lonely.err


def test_without_a_tag_the_name_moves(world: tuple[Program, Archive]) -> None:
    program, archive = world
    make(program, archive, "filed", "old:1", [], config=OTHER)
    assert program("tag", "app:1", "moving:1").status == 0
    answer = rebase(program, "moving:1", "--onto", "filed:1")
    assert image_of(program, "moving:1")[1].digest == answer["digest"]
    _, image = image_of(program, "app:1")
    assert program("rebase", image.digest, "--onto", "filed:1").status == 2


STANZAS = "Package: {}\nVersion: {}\nArchitecture: all\n"


def status(**versions: int) -> bytes:
    return "\n".join(STANZAS.format(n, v) for n, v in versions.items()).encode()


def test_stanzas_are_merged_by_package() -> None:
    done = threeway.merge("var/lib/dpkg/status", status(a=1, b=1), status(a=1, b=1, c=1), status(a=2, b=1, d=1))
    assert done is not None and done.conflicts == ()
    assert done.data.decode().strip("\n").split("\n\n") == [
        STANZAS.format(n, v).strip("\n") for n, v in {"a": 2, "b": 1, "c": 1, "d": 1}.items()
    ]
    both = threeway.merge("var/lib/dpkg/status", status(a=1), status(a=2), status(a=3))
    assert both is not None and both.conflicts == ("a:all",)
    gone = threeway.merge("var/lib/dpkg/status", status(a=1, b=1), status(a=1), status(a=2, b=1))
    assert gone is not None and b"Package: b" not in gone.data


def test_accounts_and_lines_are_merged_by_name() -> None:
    done = threeway.merge("etc/passwd", b"root:x\n", b"root:x\nsshd:x\n", b"root:x\n_apt:x\n")
    assert done is not None and done.data == b"root:x\n_apt:x\nsshd:x\n"
    shadow = threeway.merge("etc/shadow", b"root:*:1\n", b"root:*:1\nsshd:!:9\n", b"root:*:2\n")
    assert shadow is not None and shadow.data == b"root:*:2\nsshd:!:9\n"
    diverted = threeway.merge("var/lib/dpkg/diversions", b"", b"/a\n/a.x\np\n", b"/b\n/b.x\nq\n")
    assert diverted is not None and diverted.data == b"/b\n/b.x\nq\n/a\n/a.x\np\n"
    assert threeway.merge("etc/motd", b"", b"a", b"b") is None


def test_dpkgs_order_has_a_name_before_its_longer_ones() -> None:
    both = b"Package: libc6\nArchitecture: amd64\n\nPackage: libc6-dev\nArchitecture: amd64\n"
    done = threeway.merge("var/lib/dpkg/status", b"", both, b"")
    assert done is not None and done.data.index(b"libc6\n") < done.data.index(b"libc6-dev\n")


def test_relations_that_do_not_hold() -> None:
    text = (
        b"Package: a\nStatus: install ok installed\nVersion: 1\nDepends: b (>= 2) | c, d\nBreaks: e (<< 2)\n\n"
        b"Package: b\nStatus: install ok installed\nVersion: 1\nProvides: d\n\n"
        b"Package: e\nStatus: install ok installed\nVersion: 1\n\n"
        b"Package: c\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    packages = bonds.present(text.replace(b"\nVersion", b"\nArchitecture: all\nVersion"))
    assert bonds.unmet(packages) == {
        "a 1 depends on b (>= 2) | c, and there is b 1",
        "a 1 breaks e (<< 2), and e 1 is there",
    }


def test_what_an_image_says_itself_wins_and_the_rest_is_the_new_parents() -> None:
    found = inherited(
        {"Env": ["A=1", "B=1"], "Cmd": ["sh"], "Labels": {"v": "1"}},
        {"Env": ["A=1", "B=2"], "Cmd": ["sh"], "Labels": {"v": "1", "own": "x"}, "User": "app"},
        {"Env": ["A=9", "B=1", "N=1"], "Cmd": ["bash"], "Labels": {"v": "2"}},
    )
    assert found == {
        "Cmd": ["bash"],
        "Env": ["A=9", "B=2", "N=1"],
        "Labels": {"v": "2", "own": "x"},
        "User": "app",
    }


def tree(*layers: Layer) -> Tree:
    found = Tree(lambda layer, entry: b"")
    for one in layers:
        found.apply(one)
    return found


def layer(*paths: str, opaque: tuple[str, ...] = (), removed: tuple[str, ...] = ()) -> Layer:
    """A layer of files (with the path as their digest) and, where a path ends in a slash, folders."""
    entries = [Entry(p.rstrip("/"), DIR, 0o755) if p.endswith("/") else Entry(p, FILE, 0o644, sha256=p) for p in paths]
    return Layer(key="".join(paths), name="l", entries=tuple(entries), opaque=opaque, removed=removed)


def test_what_a_folder_made_anew_would_hide_is_a_clash_and_what_was_removed_stays_gone() -> None:
    old, new = layer("d/", "d/a", "e/", "e/x"), layer("d/", "d/a", "d/new", "e/", "e/x")
    own = layer("d/", "d/mine", opaque=("d",), removed=("e",))
    found = examine(tree(old), tree(old, own), tree(new), tree(new, own))
    assert [(c.path, c.why) for c in found.clashes] == [
        ("d/new", "new in the new parent, in a folder that the layer made anew")
    ]
    gone = layer(removed=("e",))
    assert examine(tree(old), tree(old, gone), tree(new), tree(new, gone)).clashes == ()


def test_a_folder_over_a_file_of_the_new_parent_is_a_clash() -> None:
    old, new, own = layer("a/"), layer("a/", "a/b"), layer("a/", "a/b/", "a/b/c")
    found = examine(tree(old), tree(old, own), tree(new), tree(new, own))
    assert [c.path for c in found.clashes] == ["a/b"]


def test_a_store_is_left_as_it_was_by_a_no(world: tuple[Program, Archive], tmp_path: Path) -> None:
    program, archive = world
    make(program, archive, "new", "old:1", ["lib"])
    before = program("images", "--json").out
    rebase(program, "fussy:1", "--onto", "new:1", status=1)
    assert program("images", "--json").out == before
