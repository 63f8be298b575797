"""Files that scripts divert, move, remove or make before a package is unpacked: the tree is the one that dpkg makes.

Every row is built in stages by mkroot, again from a store that knows the stages or what the scripts did, and over a
parent, where dpkg itself unpacks; all must agree, and with what the row says.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.archives import scripted_archive
from tests.testarchive import Archive
from tests.unit.commands import Program
from tests.unit.parents import base_tar

ADD, KEEP, UNDO = "--add --rename", "--add --no-rename", "--remove --rename"
Package = dict[str, Any]
Shown = Mapping[str, str | None]


def divert(path: str, to: str = "", how: str = ADD) -> str:
    target = "" if how == UNDO else f"--divert {to or path + '.orig'}"
    return f"dpkg-divert --quiet --package $DPKG_MAINTSCRIPT_PACKAGE {how} {target} {path}"


def package(files: Mapping[str, bytes] | None = None, **more: Any) -> Package:
    scripts = {name: f"#!/bin/sh\nset -e\n{more.pop(name)}\n" for name in ("preinst", "postinst") if name in more}
    return {"files": dict(files or {}), "scripts": scripts, **more}


class Row(NamedTuple):
    """Packages by the letter that follows the row's name. shown: by path, a file's content, `-> x`, None for nothing.

    early: of the first stage. before: of the variant. then: included.
    """

    shown: Shown
    before: Mapping[str, Package] = {}
    then: Mapping[str, Package] = {}
    early: Mapping[str, Package] = {}


def own(path: str, text: bytes = b"owner", **more: Any) -> Package:
    return package({path: text}, **more)


def one(at: str) -> str:
    return f"usr/share/{at}/x"


ROWS = {
    "taken": Row(
        {one("taken"): "taker", one("taken") + ".orig": "owner"},
        {"a": own(one("taken"))},
        {"b": own(one("taken"), b"taker", preinst=divert("/" + one("taken")))},
    ),
    "takenwave": Row(
        {one("takenwave"): "taker", one("takenwave") + ".orig": "owner"},
        then={
            "a": own(one("takenwave")),
            "b": own(one("takenwave"), b"taker", preinst=divert("/" + one("takenwave"))),
        },
    ),
    "takenfirst": Row(
        {one("takenfirst"): "taker", one("takenfirst") + ".orig": "owner"},
        then={
            "a": own(one("takenfirst"), b"taker", preinst=divert("/" + one("takenfirst"))),
            "b": own(one("takenfirst"), depends="takenfirst-a"),
        },
    ),
    "takenearly": Row(
        {one("takenearly"): "taker", one("takenearly") + ".orig": "owner"},
        early={
            "a": own(one("takenearly")),
            "b": own(one("takenearly"), b"taker", preinst=divert("/" + one("takenearly"))),
        },
    ),
    "earlythere": Row(
        {one("earlythere"): None, one("earlythere") + ".orig": "owner"},
        early={"a": own(one("earlythere")), "b": package(preinst=divert("/" + one("earlythere")))},
    ),
    "kept": Row(
        {one("kept"): "taker", one("kept") + ".orig": None},
        {"a": own(one("kept"))},
        {"b": own(one("kept"), b"taker", preinst=divert("/" + one("kept"), how=KEEP))},
    ),
    "keptwave": Row(
        {one("keptwave"): "owner", one("keptwave") + ".orig": None},
        then={"a": own(one("keptwave")), "b": package(preinst=divert("/" + one("keptwave"), how=KEEP))},
    ),
    "later": Row(
        {one("later"): None, one("later") + ".orig": "owner"},
        {"a": package(preinst=divert("/" + one("later")))},
        {"b": own(one("later"))},
    ),
    "postinst": Row(
        {one("postinst"): "-> x.orig", one("postinst") + ".orig": "owner"},
        {"a": own(one("postinst"))},
        {"b": package(postinst=f"{divert('/' + one('postinst'))}\nln -s x.orig /{one('postinst')}")},
    ),
    "postinstwave": Row(
        {one("postinstwave"): None, one("postinstwave") + ".orig": "owner"},
        then={"a": own(one("postinstwave")), "b": package(postinst=divert("/" + one("postinstwave")))},
    ),
    "postinstearly": Row(
        {one("postinstearly"): None, one("postinstearly") + ".orig": "owner"},
        early={"a": package(postinst=divert("/" + one("postinstearly")))},
        then={"b": own(one("postinstearly"))},
    ),
    "undone": Row(
        {one("undone"): "owner", one("undone") + ".orig": None},
        {"a": own(one("undone"))},
        {"b": package(preinst=divert("/" + one("undone")), postinst=divert("/" + one("undone"), how=UNDO))},
    ),
    "undonelater": Row(
        {one("undonelater"): "owner", one("undonelater") + ".orig": None},
        {"a": own(one("undonelater")), "b": package(preinst=divert("/" + one("undonelater")))},
        {"c": package(postinst=f"dpkg-divert --package undonelater-b --remove --rename /{one('undonelater')}")},
    ),
    "lifted": Row(
        {one("lifted"): "owner", one("lifted") + ".orig": None},
        {"a": package(preinst=divert("/" + one("lifted")))},
        {
            "b": package(preinst=f"dpkg-divert --package lifted-a --remove --rename /{one('lifted')}"),
            "c": own(one("lifted"), pre_depends="lifted-b"),
        },
    ),
    "conffile": Row(
        {"etc/conffile": "taker", "etc/conffile.orig": "owner"},
        {"a": own("etc/conffile", conffiles=["/etc/conffile"])},
        {"b": own("etc/conffile", b"taker", preinst=divert("/etc/conffile"))},
    ),
    "conflater": Row(
        {"etc/conflater": None, "etc/conflater.orig": "owner"},
        {"a": package(preinst=divert("/etc/conflater"))},
        {"b": own("etc/conflater", conffiles=["/etc/conflater"])},
    ),
    "edited": Row(
        {"etc/edited": "taker", "etc/edited.orig": "edited"},
        {"a": own("etc/edited", postinst="printf edited > /etc/edited")},
        {"b": own("etc/edited", b"taker", preinst=divert("/etc/edited"))},
    ),
    "link": Row(
        {one("link"): "taker", one("link") + ".orig": "-> nowhere"},
        {"a": package(symlinks={one("link"): "nowhere"})},
        {"b": own(one("link"), b"taker", preinst=divert("/" + one("link")))},
    ),
    "tolink": Row(
        {one("tolink"): "-> nowhere", one("tolink") + ".orig": "owner"},
        {"a": own(one("tolink"))},
        {"b": package(symlinks={one("tolink"): "nowhere"}, preinst=divert("/" + one("tolink")))},
    ),
    "hard": Row(
        {one("hard"): "taker", one("hard") + ".orig": "owner", "usr/share/hard/y": "owner"},
        {"a": own(one("hard"), hardlinks={"usr/share/hard/y": one("hard")})},
        {"b": own(one("hard"), b"taker", preinst=divert("/" + one("hard")))},
    ),
    "hardlater": Row(
        {one("hardlater"): "owner", "usr/share/hardlater/y": None, "usr/share/hardlater/y.orig": "owner"},
        {"a": package(preinst=divert("/usr/share/hardlater/y"))},
        {"b": own(one("hardlater"), hardlinks={"usr/share/hardlater/y": one("hardlater")})},
    ),
    "merged": Row(
        {"usr/bin/merged": "taker", "usr/bin/merged.orig": "owner"},
        {"a": own("bin/merged")},
        {"b": own("bin/merged", b"taker", preinst=divert("/bin/merged"))},
    ),
    "othername": Row(
        {"usr/bin/othername": "owner", "usr/bin/othername.orig": None},
        {"a": package(preinst=divert("/bin/othername"))},
        {"b": own("usr/bin/othername")},
    ),
    "elsewhere": Row(
        {one("elsewhere"): "taker", "usr/lib/elsewhere/there": "owner"},
        {"a": own(one("elsewhere"))},
        {
            "b": own(
                one("elsewhere"),
                b"taker",
                preinst="mkdir /usr/lib/elsewhere\n" + divert("/" + one("elsewhere"), "/usr/lib/elsewhere/there"),
            )
        },
    ),
    "wrapper": Row(
        {one("wrapper"): "made", one("wrapper") + ".orig": "owner"},
        {"a": own(one("wrapper"))},
        {"b": package(preinst=f"{divert('/' + one('wrapper'))}\nprintf made > /{one('wrapper')}")},
    ),
    "wrapperwave": Row(
        {one("wrapperwave"): "made", one("wrapperwave") + ".orig": "owner"},
        then={
            "a": package(
                preinst=f"{divert('/' + one('wrapperwave'))}\nmkdir -p /usr/share/wrapperwave\n"
                f"printf made > /{one('wrapperwave')}"
            ),
            "b": own(one("wrapperwave"), depends="wrapperwave-a"),
        },
    ),
    "wave": Row(
        {one("wave"): None, one("wave") + ".orig": "owner"},
        then={"a": package(preinst=divert("/" + one("wave"))), "b": own(one("wave"), pre_depends="wave-a")},
    ),
    "made": Row(
        {one("made"): "owner"},
        then={"a": own(one("made"), preinst=f"mkdir -p /usr/share/made\nprintf script > /{one('made')}")},
    ),
    "madebefore": Row(
        {one("madebefore"): "owner"},
        then={
            "a": package(postinst=f"mkdir -p /usr/share/madebefore\nprintf script > /{one('madebefore')}"),
            "b": own(one("madebefore"), pre_depends="madebefore-a"),
        },
    ),
    "anew": Row(
        {"usr/share/anew/old": None, "usr/share/anew/deep/old": None, "usr/share/anew/deep/new": "owner"},
        {"a": package({"usr/share/anew/old": b"old", "usr/share/anew/deep/old": b"old"})},
        {"b": own("usr/share/anew/deep/new", preinst="rm -rf /usr/share/anew")},
    ),
    "remade": Row(
        {one("remade"): "owner", "usr/share/remade/deep/y": "owner", "usr/share/remade/z": None},
        {"a": package({one("remade"): b"owner", "usr/share/remade/deep/y": b"owner", "usr/share/remade/z": b""})},
        {
            "b": package(
                postinst="cd /usr/share\ncp -a remade remade.new\nrm -rf remade remade.new/z\nmv remade.new remade"
            )
        },
    ),
    "through": Row(
        {"usr/share/through": "-> there", "usr/share/there/f": "owner"},
        then={"a": own("usr/share/through/f", preinst="mkdir /usr/share/there\nln -s there /usr/share/through")},
    ),
    "filefolder": Row(
        {"usr/share/filefolder": "/", "usr/share/filefolder/x": "owner"},
        then={"a": own(one("filefolder"), preinst="mkdir -p /usr/share\nprintf x > /usr/share/filefolder")},
    ),
    "filebefore": Row(
        {"usr/share/filebefore": "/", "usr/share/filebefore/x": "owner"},
        {"a": package(postinst="mkdir -p /usr/share\nprintf x > /usr/share/filebefore")},
        {"b": own(one("filebefore"))},
    ),
    "loose": Row(
        {"usr/share/loose": "/", "usr/share/loose/x": "owner"},
        then={"a": own(one("loose"), preinst="mkdir -p /usr/share\nln -s /nowhere /usr/share/loose")},
    ),
    "loop": Row(
        {"usr/share/loop": "/", "usr/share/loop/x": "owner"},
        then={"a": own(one("loop"), preinst="mkdir -p /usr/share\nln -s loop /usr/share/loop")},
    ),
    "folderfile": Row(
        {one("folderfile"): "owner", one("folderfile") + "/z": None},
        then={"a": own(one("folderfile"), preinst="mkdir -p /usr/share/folderfile/x/z")},
    ),
    "folderlink": Row(
        {one("folderlink"): "/"},
        then={"a": package(symlinks={one("folderlink"): "y"}, preinst="mkdir -p /usr/share/folderlink/x")},
    ),
    "replaced": Row(
        {one("replaced"): "new"},
        {"a": own(one("replaced"), postinst=f"printf edited > /{one('replaced')}")},
        {"b": own(one("replaced"), b"new", replaces="replaced-a")},
    ),
    "waiting": Row(
        {"var/waiting": "both\n"},
        {
            "a": package(
                postinst='case "$1 $2" in "triggered "*doc/waiting-b*) echo both >> /var/waiting; esac',
                control_files={
                    "triggers": b"interest-noawait /usr/share/waiting\ninterest-noawait /usr/share/doc/waiting-b\n"
                },
            )
        },
        {
            "b": own("usr/share/waiting/f"),
            "c": own("usr/share/waiting/f", b"taker", preinst=divert("/usr/share/waiting/f")),
        },
    ),
}  # fmt: skip


def add(archive: Archive, rows: Mapping[str, Row]) -> tuple[list[str], list[str]]:
    """Put the rows' packages into an archive; return those before, and those included."""
    before, then = [], []
    for name, row in rows.items():
        for packages, fields, names in (
            (row.early, {"essential": True}, before),
            (row.before, {"priority": "required"}, before),
            (row.then, {}, then),
        ):
            for letter, content in packages.items():
                # A file of its own: dpkg has a package disappear when others have all of its files.
                files = {**content["files"], f"usr/share/doc/{name}-{letter}": b""}
                archive.add(f"{name}-{letter}", "1.0", **{**fields, **content, "files": files})
                names.append(f"{name}-{letter}")
    return before, then


class World:
    """An archive with some rows, and a program with a parent image of dpkg alone."""

    def __init__(self, folder: Path, rows: Mapping[str, Row]) -> None:
        self.program = Program(folder)
        self.archive = scripted_archive(folder / "archive")
        self.before, self.then = add(self.archive, rows)
        base_tar(folder / "bare.tar")
        done = self.program("import", "bare.tar", "bare:1", "--arch", "amd64")
        assert done.status == 0, done.err

    def build(self, name: str, *words: str, **more: Any) -> Any:
        wanted = self.archive.recipe(name=name, outputs=["tar", "oci"], **more)
        self.program.recipe(f"{name}.yaml", wanted)
        return self.program("build", f"{name}.yaml", "-o", "out", "--no-lock", *words)

    def stages(self, name: str, *words: str) -> Any:
        """Build in stages."""
        return self.build(name, *words, packages={"variant": "required", "include": self.then})

    def over(self, name: str, known: bool = False) -> Any:
        """Build with dpkg over a parent, and again over what that makes; `known`: that is there."""
        if self.before and not known:
            image = {"from": "bare:1", "tags": ["mid:1"]}
            done = self.build(f"{name}-mid", image=image, packages={"include": self.before})
            assert done.status == 0, done.err
        image = {"from": "mid:1" if self.before else "bare:1", "tags": ["top:1"]}
        return self.build(name, image=image, packages={"include": self.then})

    def tree(self, name: str) -> dict[str, str]:
        """Return what a build's root holds: files' contents, links as `-> x`, folders as `/`."""
        found = {}
        with tarfile.open(self.program.folder / f"out/{name}/amd64/rootfs.tar") as tar:
            for m in tar:
                path = m.name.removeprefix("./")
                if m.issym():
                    found[path] = f"-> {m.linkname}"
                elif m.isdir():
                    found[path] = "/"
                else:
                    found[path] = tar.extractfile(m).read().decode("latin-1")  # type: ignore[union-attr]
        return found


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """All rows in one root: in stages, from known stages, by dpkg, with scripts followed, and with known effects."""
    world = World(tmp_path_factory.mktemp("diversions"), ROWS)
    done = world.stages("cold")
    assert done.status == 0, done.err
    again = world.stages("warm")
    assert again.status == 0 and "configure include" in again.err, again.err
    assert [line for line in again.err.splitlines() if "configure" in line and "cached" not in line] == []
    done = world.over("dpkg")
    assert done.status == 0, done.err
    for name, words in (("followed", ["--follow-scripts"]), ("effects", ["--explain-cache"])):
        shutil.rmtree(world.program.folder / "store/layers")
        done = world.stages(name, *words)
        assert done.status == 0, done.err
    return {name: world.tree(name) for name in ("cold", "warm", "dpkg", "followed", "effects")}


@pytest.mark.parametrize("name", ROWS)
def test_the_tree_is_dpkgs(trees: dict[str, dict[str, str]], name: str) -> None:
    for how, tree in trees.items():
        assert {p: tree.get(p) for p in ROWS[name].shown} == ROWS[name].shown, how


@pytest.mark.counts("rebuild")
def test_nothing_else_differs(trees: dict[str, dict[str, str]], record_property: Any) -> None:
    """But for records of the order in which things were done, from dpkg's."""
    cold, warm, dpkg, *others = ({p: text for p, text in tree.items() if p != "."} for tree in trees.values())
    for other in (warm, *others):
        assert {p: (cold.get(p), other.get(p)) for p in {*cold, *other} if cold.get(p) != other.get(p)} == {}
    record_property("cases", 4)
    explained = ("var/log", "var/cache", "var/lib/dpkg", "etc/", "usr/bin/", "usr/lib", "usr/sbin", "bin", "run")
    paths = {p for p in (*cold, *dpkg) if p.startswith("usr/share/") or not p.startswith(explained)}
    ours, theirs = ({p: tree.get(p) for p in paths} for tree in (cold, dpkg))
    assert {p: (ours[p], theirs[p]) for p in paths if ours[p] != theirs[p]} == {}
    assert diversions(cold) == diversions(dpkg)


def diversions(tree: dict[str, str]) -> set[tuple[str, ...]]:
    lines = tree["var/lib/dpkg/diversions"].splitlines()
    return set(zip(lines[0::3], lines[1::3], lines[2::3], strict=True))


REFUSED = {
    "nobody diverts it": Row({}, {"a": own(one("r"))}, {"b": own(one("r"))}),
    "a third one diverts it": Row(
        {}, {"a": own(one("r")), "b": package(preinst=divert("/" + one("r")))}, {"c": own(one("r"))}
    ),
    "another name is diverted": Row({}, {"a": own("usr/bin/r")}, {"b": own("usr/bin/r", preinst=divert("/bin/r"))}),
    "a script changed it": Row({}, {"a": own(one("r"), postinst=f"printf edited > /{one('r')}")}, {"b": own(one("r"))}),
    "a script removed it": Row({}, {"a": own(one("r"), postinst=f"rm /{one('r')}")}, {"b": own(one("r"))}),
    "the preinst removed it": Row({}, {"a": own(one("r"))}, {"b": own(one("r"), preinst=f"rm /{one('r')}")}),
    "early, and nobody diverts it": Row({}, early={"a": own(one("r")), "b": own(one("r"))}),
    "early, another is diverted": Row(
        {}, early={"a": own(one("r")), "b": own(one("r"), preinst=divert("/usr/share/r/other"))}
    ),
}


@pytest.fixture(scope="module")
def conflicts(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What the late ones begin with, in one root: which rows of REFUSED include is each test's."""
    late = {f"r{n}": row for n, row in enumerate(REFUSED.values()) if row.then}
    world = World(tmp_path_factory.mktemp("conflicts"), {n: placed(row, n) for n, row in late.items()})
    world.then = []
    done = world.over("mid")
    assert done.status == 0, done.err
    return world


def placed(row: Row, name: str) -> Row:
    """Return a row whose paths are of this name."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed(k): renamed(v) for k, v in value.items()}
        return value.replace("/r/", f"/{name}/").replace("bin/r", f"bin/{name}") if isinstance(value, str) else value

    return Row({}, *map(renamed, (row.before, row.then, row.early)))


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("name", [name for name, row in REFUSED.items() if row.then])
def test_a_conflict_stays_one(conflicts: World, name: str) -> None:
    number = list(REFUSED).index(name)
    conflicts.then = [f"r{number}-{letter}" for letter in REFUSED[name].then]
    theirs = conflicts.over(f"theirs{number}", known=True)
    assert theirs.status == 1 and "trying to overwrite" in theirs.err, theirs.err
    refused(conflicts, f"ours{number}", f"r{number}-a")


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("name", [name for name, row in REFUSED.items() if row.early])
def test_an_early_conflict_stays_one(name: str, tmp_path: Path) -> None:
    refused(World(tmp_path, {"r": REFUSED[name]}), "ours", "r-a")


def refused(world: World, name: str, package: str) -> None:
    done = world.stages(name)
    assert done.status == 1 and "neither replaces the other's files" in done.err, done.err
    assert package in done.err and "Traceback" not in done.err
    assert not (world.program.folder / "out" / name).exists()
    assert list((world.program.folder / "store/tmp").iterdir()) == []
