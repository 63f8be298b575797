"""Packages that are harmless alone: together they get nowhere, and give the tree that dpkg makes of them."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from mkroot import rooting
from mkroot.errors import MkrootError, RootfsError, SandboxError
from mkroot.progress import Progress
from mkroot.rootfs.assembly import Assembly
from mkroot.rootfs.merge import diversions
from mkroot.rootfs.preinst import lend
from mkroot.rootfs.stage import Root
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.unpack import layer_key, unpack
from mkroot.store.writer import Chown
from tests.testarchive import Raw
from tests.unit.boxes import run
from tests.unit.hostile import block, device, file, folder, hard, link, package, stream
from tests.unit.judge import SECRET, Canaries, State, can_judge, dpkg, state
from tests.unit.layers import control
from tests.unit.test_hostile_packages import expected

pytestmark = pytest.mark.counts("hostile")

Rows = Sequence["Raw | bytes"]


class Together(NamedTuple):
    """Packages a, b, … in the order of unpacking; b may say that it replaces a. Else as `hostile.Case`."""

    packages: tuple[Rows, ...]
    refused: str = ""
    lenient: str = ""
    unasked: str = ""
    replaces: bool = False

    def make(self) -> list[Callable[[str], bytes]]:
        """Return what makes each package for a canary."""

        def one(number: int, rows: Rows) -> Callable[[str], bytes]:
            fields = {"Replaces": "a"} if self.replaces and number else {}
            text = control("abc"[number], **fields)
            return lambda canary: package(stream(rows, canary), text=text)

        return [one(n, rows) for n, rows in enumerate(self.packages)]


ESCAPE = "it goes where the link leads, out of the root"
LATE = "what another package has in the folder would go with it"
BOTH = "both have /x, and neither replaces"
D, X, F = folder("./d"), folder("./x"), file("./x/f", b"B")
OUT = link("./x", "CANARY.d")
UP = link("./x", "../" * 12 + "tmp")

PAIRS = {
    "a link out, a folder": Together(((OUT,), (X, F)), BOTH, ESCAPE),
    "a link out, a file below": Together(((OUT,), (F,)), "a link that leads to nothing|both have", ESCAPE),
    "a link out, a file deep below": Together(((OUT,), (X, folder("./x/deep"), file("./x/deep/passwd"))), BOTH, ESCAPE),
    "a link out, a link below": Together(((OUT,), (X, link("./x/l", "y"))), BOTH, ESCAPE),
    "a link out, a device below": Together(((OUT,), (X, device("./x/n", b"3", 1, 3))), BOTH, ESCAPE),
    "a link out, a hard link below": Together(((OUT,), (file("./g"), X, hard("./x/h", "./g"))), BOTH, ESCAPE),
    "a link to /, a folder": Together(((link("./x", "/"),), (X, file("./x/f"))), "", unasked=ESCAPE),
    "a link to / far below, etc": Together(
        ((folder("./e"), link("./e/x", "/")), (folder("./e"), folder("./e/x"), folder("./e/x/e"), file("./e/x/e/f"))),
        "",
        unasked=ESCAPE,
    ),
    "a link that climbs": Together(((UP, folder("./tmp")), (X, file("./x/f"))), "", unasked=ESCAPE),
    "a link that climbs to nothing": Together(((UP,), (X, file("./x/f"))), BOTH, "", "it might find a /tmp"),
    "a link to an absolute folder inside": Together(
        ((D, link("./x", "/d")), (X, F)), "", unasked="--root is no chroot"
    ),
    "links in a row": Together(((D, link("./x", "m"), link("./m", "d")), (X, F))),
    "links of two packages in a row": Together(((D, link("./x", "m")), (link("./m", "d"),), (X, F))),
    "links of two packages out": Together(((link("./x", "m"),), (link("./m", "CANARY.d"),), (X, F)), BOTH, ESCAPE),
    "a link in a folder that climbs inside": Together(
        ((folder("./p"), D, link("./p/x", "../d")), (folder("./p"), folder("./p/x"), file("./p/x/f")))
    ),
    "links in a circle": Together(((link("./x", "y"), link("./y", "x")), (X, F)), BOTH),
    "links in a circle, only a file": Together(((link("./x", "y"), link("./y", "x")), (F,)), "a loop of links"),
    "a link to nothing": Together(((link("./x", "none"),), (X, F)), BOTH),
    "a link to nothing, only a file": Together(((link("./x", "none"),), (F,)), "a link that leads to nothing"),
    "a link to a whiteout": Together(((link("./x", ".wh.y"),), (F,)), "a link that leads to nothing"),
    "a link to a file": Together(((file("./d"), link("./x", "d")), (X, F)), BOTH),
    "a link to a file, only a file": Together(((file("./d"), link("./x", "d")), (F,)), "is not a folder"),
    "a link to a later folder": Together(((link("./x", "d"),), (X, F, D)), BOTH),
    "a link to a folder": Together(((D, link("./x", "d")), (X, F))),
    "a link to a folder, a file of its own": Together(
        ((D, file("./d/f", b"A"), link("./x", "d")), (X, F)), "both have /d/f", "it overwrites it without a word"
    ),
    "a link to a folder, hard links": Together(
        ((D, link("./x", "d")), (X, file("./x/f", b"B"), hard("./x/g", "./x/f"))), "", unasked="one file or two"
    ),
    "a link to a folder, a device": Together(((D, link("./x", "d")), (X, device("./x/n", b"3", 1, 3)))),
    "a link to a folder, a link that climbs": Together(((D, link("./x", "d")), (X, link("./x/l", "../../etc")))),
    "the same link to a folder": Together(((D, link("./x", "d")), (link("./x", "d"),))),
    "another link to a folder": Together(((D, folder("./e"), link("./x", "d")), (link("./x", "e"),)), BOTH),
    "the same link to nothing": Together(((link("./x", "none"),), (link("./x", "none"),)), BOTH),
    "a folder, a link out": Together(((X, file("./x/f", b"A")), (OUT,))),
    "a folder, a link inside": Together(((X, file("./x/f", b"A"), D), (link("./x", "d"),))),
    "a folder, a link to nothing": Together(((X, file("./x/f", b"A")), (link("./x", "none"),))),
    "an empty folder, a link out": Together(((X,), (OUT,))),
    "a folder, a link out, a file": Together(((X, file("./x/f", b"A")), (OUT,), (X, file("./x/g", b"C")))),
    "a folder, a link inside, a file": Together(((X, D), (link("./x", "d"),), (X, file("./x/g", b"C")))),
    "a deep folder, a link in its place": Together(
        ((X, folder("./x/y"), file("./x/y/f")), (link("./x", "CANARY"),), (X, folder("./x/y"), file("./x/y/g")))
    ),
    "a folder, a file": Together(((X, file("./x/f", b"A")), (file("./x"),)), BOTH),
    "a folder, a file that replaces": Together(((X, file("./x/f", b"A")), (file("./x"),)), BOTH, LATE, replaces=True),
    "a folder, a device": Together(((X,), (device("./x", b"3", 1, 3),)), BOTH),
    "a file, a folder": Together(((file("./x", b"A"),), (X, F)), BOTH),
    "a file, a folder that replaces": Together(((file("./x", b"A"),), (X, F)), BOTH, LATE, replaces=True),
    "a file, a file below": Together(((file("./x", b"A"),), (F,)), "is not a folder"),
    "a file twice": Together(((file("./x", b"A"),), (file("./x", b"B"),)), BOTH),
    "a file twice, equal": Together(((file("./x", b"A"),), (file("./x", b"A"),)), BOTH),
    "a file that replaces": Together(((file("./x", b"A"),), (file("./x", b"B"),)), replaces=True),
    "a file by an alias": Together(
        ((folder("./bin"), file("./bin/x")), (folder("./usr"), folder("./usr/bin"), file("./usr/bin/x"))),
        "both have /usr/bin/x",
        "with /bin as a link into /usr they are one",
    ),
    "a file, a link out": Together(((file("./x", b"A"),), (OUT,)), BOTH),
    "a file, a link out that replaces": Together(((file("./x", b"A"),), (OUT,)), replaces=True),
    "a link out, a file": Together(((OUT,), (file("./x"),)), BOTH),
    "a link out, a file that replaces": Together(((OUT,), (file("./x", b"B"),)), replaces=True),
    "a file, a pipe": Together(((file("./x", b"A"),), (block("./x", b"6"),)), BOTH),
    "another's file, a hard link": Together(
        ((file("./x", b"A"),), (hard("./y", "./x"),)), "no earlier file", "it is another package's"
    ),
    "another's link out, a hard link through it": Together(((OUT,), (hard("./y", "./x/canary"),)), "no earlier file"),
    "a folder twice": Together(((folder("./d", 0o700),), (folder("./d", 0o755), file("./d/f")))),
    "/bin as a link out, a program": Together(
        ((link("./bin", "CANARY.d"),), (folder("./bin"), file("./bin/sh"))),
        "",
        unasked="a merged /usr has it in /usr/bin",
    ),
    "another's place in dpkg's database": Together(
        (
            (file("./f"),),
            (
                *(folder(f) for f in ("./var", "./var/lib", "./var/lib/dpkg", "./var/lib/dpkg/info")),
                file("./var/lib/dpkg/info/a.list", b"/etc\n"),
            ),
        ),
        "both have /var/lib/dpkg/info/a.list",
        "it reads it as its own",
    ),
}


def rooted(case: Together, folder: Path, canary: str) -> tuple[LayerStore, Root]:
    """Unpack the packages and put them together, with no script."""
    layers = LayerStore(Store(folder / "store"))
    made = []
    for number, make in enumerate(case.make()):
        data = make(canary)
        path = folder / f"{number}.deb"
        path.write_bytes(data)
        promised = expected(data)
        promised = type(promised)(promised.sha256, "abc"[number], "1", "all", 1)
        unpack(layers.store, path, promised, None, Chown())[2]()
        made.append(layers.load(layer_key(promised.sha256)))
    bare = rooting.empty_root(layers, "amd64")
    return layers, rooting.unscripted(layers, bare, made, "none", None, Progress())


def archived(layers: LayerStore, root: Root) -> bytes:
    return b"".join(Assembly(root.tree, layers, 1_800_000_000).raw())


def extracted(data: bytes, at: Path) -> State:
    """What the most trusting reader makes of an archive: nothing in it may lie below what is no folder of its own."""
    folders = {"."}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            parts = info.name.split("/")
            assert ".." not in parts and not info.name.startswith("/")
            assert not any(p.startswith(".wh.") for p in parts)
            assert (os.path.dirname(info.name) or ".") in folders, f"{info.name} has no folder"
            if info.isdir():
                folders.add(info.name)
    at.mkdir()
    subprocess.run(["tar", "-xpPf", "-", "-C", str(at)], input=data, check=True)
    return state(at)


@pytest.mark.parametrize("name", PAIRS)
def test_packages_together(name: str, tmp_path: Path) -> None:
    case = PAIRS[name]
    (tmp_path / "mine/inner").mkdir(parents=True)
    canaries = Canaries(tmp_path / "mine")
    inner = tmp_path / "mine/inner"
    tree: State | None = None
    try:
        layers, root = rooted(case, inner, str(canaries.path))
    except MkrootError as e:
        assert case.refused, e
        assert re.search(case.refused, str(e)), e
        assert re.search(r"\bb\b|\ba\b", str(e)) or "loop" in str(e), "a package is named"
    else:
        assert not case.refused, "it was taken"
        data = archived(layers, root)
        assert SECRET not in data
        if os.geteuid() == 0:
            extracted(data, inner / "out")
            tree = state(inner / "out", skip=("var",), aim=str(canaries.path))
    canaries.check(inner / "out")
    if case.unasked or not can_judge():
        return
    status, theirs, said = dpkg(tmp_path / "judge", *case.make())
    assert (status == 0) == (not case.refused or bool(case.lenient)), f"dpkg: {status}\n{said}"
    if tree is not None:
        assert tree == theirs


UNION = """
import pickle
from mkroot.progress import Progress
from mkroot.rootfs import placing, stage
from mkroot.rootfs.top import Top, chown
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot import rooting
from tests.unit import test_hostile_pairs as pairs
from pathlib import Path
wrong = []
shown = 0
for name, case in pairs.PAIRS.items():
    if case.refused:
        continue
    at = work()
    outside = at / "outside"
    outside.mkdir()
    (outside / "canary").write_text("canary")
    (outside / "canary.d").mkdir()
    (at / "inner").mkdir()
    layers, root = pairs.rooted(case, at / "inner", str(outside / "canary"))
    bare = rooting.empty_root(layers, "amd64")
    todo = stage.Stage(name="all", packages=root.packages, epoch=1)
    with Top(layers, me, Trees(at / "inner/trees")) as top:
        tree, fixed = stage.merge_stage(bare, todo)
        placing.put_right(top, tree, fixed)
        whole = stage.msgspec.structs.replace(bare, tree=tree, packages=todo.packages)
        with top.mounted(whole) as union:
            for path, node in tree.nodes.items():
                place, kind = union / path, node.entry.kind
                is_link = place.is_symlink()
                if is_link != (kind == "l") or (kind == "d") != (place.is_dir() and not is_link):
                    wrong.append((name, path, kind))
                elif is_link and os.readlink(place) != node.entry.link:
                    wrong.append((name, path, node.entry.link))
                elif kind in "fh" and place.read_bytes() != tree.read(path):
                    wrong.append((name, path, "content"))
            shown += 1
    around = sorted(str(p.relative_to(outside)) for p in outside.rglob("*"))
    if around != ["canary", "canary.d"] or (outside / "canary").read_text() != "canary":
        wrong.append((name, "it got out"))
emit(wrong=wrong, shown=shown)
"""


@pytest.mark.parametrize("kind", ["root", "mapped"])
def test_the_union_on_disk_shows_what_the_tree_says(kind: str) -> None:
    got = run(kind, UNION)
    assert got["wrong"] == []
    assert got["shown"] == sum(not case.refused for case in PAIRS.values())


# What scripts leave behind for a later stage

DIVERTED = {
    "out": b"/x\n/../../etc/passwd\na\n",
    "out, from there": b"/../x\n/y\na\n",
    "dots inside": b"/x\n/d/../../../y\na\n",
    "relative": b"/x\ny\na\n",
    "the root": b"/x\n/\na\n",
    "a slash too many": b"/x\n//y\na\n",
    "a whiteout": b"/x\n/d/.wh.y\na\n",
    "not UTF-8": b"/x\n/\xff\na\n",
    "a name too long": b"/x\n/" + b"n" * 300 + b"\na\n",
}


@pytest.mark.parametrize("name", DIVERTED)
def test_a_diversion_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(RootfsError, match=r"diversions have the impossible path|another meaning|UTF-8|longer name"):
        diversions(DIVERTED[name])


def test_what_stands_in_the_top_is_put_inside(tmp_path: Path) -> None:
    code = """
from mkroot.rootfs.top import Top
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.tar.entry import Entry
from mkroot.errors import RootfsError
at = work()
said = []
with Top(LayerStore(Store(at / "store")), me, Trees(at / "trees")) as top:
    for path in ("../x", "a/../../x", "..", "a/..", "", "a//b", "./x", "a/./b"):
        try:
            top.put([(Entry(path, "f", 0o644, size=1), b"x")], Tree(lambda layer, entry: b""))
        except RootfsError as e:
            said.append(str(e))
    left = os.listdir(top.upper)
emit(said=said, left=left, around=sorted(os.listdir(at)))
"""
    got = run("user", code)
    assert len(got["said"]) == 8 and all("leads elsewhere" in s for s in got["said"])
    assert set(got["left"]) <= {"a"} and got["around"] == ["store", "trees"]


def _links(root: Path, canaries: Canaries, what: str) -> None:
    """Leave dpkg's folder as an earlier script may have left it."""
    admin = root / "var/lib/dpkg"
    if what == "the folder":
        shutil.rmtree(admin)
        admin.symlink_to(canaries.folder)
    elif what == "above it":
        shutil.rmtree(root / "var")
        (root / "var").symlink_to(canaries.folder)
    elif what == "what dpkg makes in it":
        (admin / "tmp.ci").symlink_to(canaries.folder)
    elif what == "the script":
        (admin / "tmp.ci").mkdir()
        (admin / "tmp.ci/preinst").symlink_to(canaries.path)
    elif what == "a file":
        (admin / "tmp.ci").write_text("")
    else:
        shutil.rmtree(admin)


@pytest.mark.parametrize("what", ["the folder", "above it", "what dpkg makes in it", "the script", "a file", "nothing"])
def test_a_preinst_is_lent_through_no_link_of_an_earlier_script(what: str, tmp_path: Path) -> None:
    root = tmp_path / "inner/root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    canaries = Canaries(tmp_path)
    _links(root, canaries, what)
    with pytest.raises(SandboxError, match=r"preinst script cannot be put into /var/lib/dpkg/tmp.ci"):
        lend(root, b"#!/bin/sh\n")
    canaries.check()


def test_a_preinst_is_lent_and_taken_away(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    lend(tmp_path, b"#!/bin/sh\n")
    script = tmp_path / "var/lib/dpkg/tmp.ci/preinst"
    assert script.read_bytes() == b"#!/bin/sh\n" and script.stat().st_mode & 0o7777 == 0o755
    lend(tmp_path, None)
    assert os.listdir(tmp_path / "var/lib/dpkg") == []
