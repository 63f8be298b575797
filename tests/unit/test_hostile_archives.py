"""Hostile layers, archives of roots and of images, and what `cp` takes from a pipe: none reads or writes elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from mkroot.container.copying import extract
from mkroot.errors import ContainerError, ImageError, MkrootError, RootfsError
from mkroot.oci.importing import Import, import_root
from mkroot.oci.layers import image_root
from mkroot.oci.loading import load
from mkroot.oci.model import INDEX, MANIFEST, Platform
from mkroot.rootfs.assembly import Assembly
from mkroot.rootfs.capture import capture
from mkroot.rootfs.top import top_tree
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.upper import read_upper
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from tests.testarchive import Raw
from tests.unit.boxes import run
from tests.unit.hostile import base256, block, device, file, folder, hard, link, long_name, pax, stream
from tests.unit.images import add_image
from tests.unit.images import store as image_store
from tests.unit.judge import SECRET, Canaries
from tests.unit.test_hostile_pairs import extracted
from tests.unit.test_image_layers import HERE, image
from tests.unit.test_oci_archives import docker
from tests.unit.test_oci_archives import tar as archive_of

pytestmark = pytest.mark.counts("hostile")

Rows = Sequence["Raw | bytes"]
DOTS, BELOW, NONE = "`..` component", "lies below 'x'", "no earlier"
WH, OUT = "another meaning", link("./x", "CANARY.d")
CP_LINK = "cannot be written to|where a folder goes"
BAD = "that is empty, or that another header contradicts"


class Three(NamedTuple):
    """Members, and what says no to them: a layer's reader, an import, and `cp` from a pipe; "" where it takes them."""

    rows: Rows
    layer: str = ""
    root: str = ""
    cp: str = ""


def all_three(*rows: Raw | bytes, said: str) -> Three:
    return Three(rows, said, said, said)


MARK = "SCHILY_xattr_trusted_overlay_redirect"
THREE = {
    "dots": all_three(file("../x"), said=DOTS),
    "dots inside": all_three(folder("d"), file("d/../../x"), said=DOTS),
    "dots in a link's folder": all_three(link("d/../x", "CANARY"), said=DOTS),
    "absolute": Three((file("/x"),)),
    "the canary's own name": Three((file("CANARY"),)),
    "a newline": all_three(block("a\nb"), said="newline"),
    "the root as a file": Three((block(".", b"0", b"x"),), "stands where the root is", "stands where the root is"),
    "the root as a link": Three((block(".", b"2", link="CANARY.d"),), "where the root is", "where the root is"),
    "a link out": Three((link("x", "CANARY"), link("y", "../../../outside/canary"))),
    "below a link out": Three((OUT, file("x/f")), BELOW, BELOW, CP_LINK),
    "deep below a link out": Three((OUT, file("x/a/b/f")), BELOW, BELOW, CP_LINK),
    "a folder below a link out": Three((OUT, folder("x/d")), BELOW, BELOW, CP_LINK),
    "a link below a link out": Three((OUT, link("x/l", "y")), BELOW, BELOW, CP_LINK),
    "a device below a link out": Three((OUT, device("x/n", b"3", 1, 3)), BELOW, BELOW, CP_LINK),
    "below links in a row": Three((link("x", "y"), link("y", "CANARY.d"), file("x/f")), BELOW, BELOW, CP_LINK),
    "a folder in place of a link out": Three((OUT, folder("x"), file("x/f")), "stands in it twice", "", CP_LINK),
    "a file in place of a link out": Three((link("x", "CANARY"), file("x", b"mine")), "stands in it twice"),
    "a link in place of a folder": Three(
        (folder("x"), file("x/f"), OUT), "twice|stands where", "replaces a folder", "a folder cannot be replaced"
    ),
    "a link in place of an implied folder": Three(
        (file("x/f"), OUT), "stands where a folder is", "stands where a folder is", "a folder cannot be replaced"
    ),
    "a link in place of a deep implied folder": Three(
        (file("w/x/y/f"), link("w/x", "CANARY.d")), "stands where a folder is", "stands where", "cannot be replaced"
    ),
    "below a file": Three((file("x"), file("x/f")), BELOW, BELOW, CP_LINK),
    "a file twice": Three((file("x", b"1"), file("x", b"2")), "stands in it twice"),
    "a hard link out": Three((hard("y", "CANARY"), file("z")), NONE, NONE, "cannot be written"),
    "a hard link out by dots": all_three(hard("y", "../outside/canary"), said=DOTS),
    "a hard link through a link out": Three((OUT, hard("y", "x/passwd")), NONE, NONE, "cannot be written"),
    "a hard link to a folder": Three((folder("d"), hard("y", "d")), NONE, NONE, "cannot be written"),
    "a hard link to a later file": Three((hard("y", "z"), file("z")), NONE, NONE, "cannot be written"),
    "a hard link to a link out, then a file": Three(
        (link("x", "CANARY"), hard("y", "x"), file("y", b"mine")), "stands in it twice"
    ),
    "a hard link with data": all_three(file("f"), block("y", b"1", b"d" * 9, link="f"), said="checksum|unreadable"),
    "device 0:0": all_three(device("x", b"3", 0, 0), said="device 0:0"),
    "a device beyond all": all_three(
        block("x", b"3", major=base256(1 << 54, 8), minor="0000001"), said="impossible device number"
    ),
    "a contiguous file": Three((block("x", b"7", b"c"),)),
    "a sparse file": all_three(block("x", b"S", b"c"), said="unknown kind"),
    "a sparse file of pax": all_three(
        pax(GNU_sparse_major="1", GNU_sparse_minor="0"), block("x"), said="sparse member"
    ),
    "a sparse file of GNU's 0.0": all_three(pax(GNU_sparse_size="1"), block("x"), said="sparse member"),
    "another volume": all_three(block("x", b"M"), said="unknown kind"),
    "a whiteout": Three((file(".wh.x"), file("y")), "", WH),
    "a whiteout of nothing": Three((file(".wh."), file("y")), "removes nothing that has a name", WH),
    "a whiteout of the folder": Three((file(".wh.."), file("y")), "removes nothing that has a name", WH),
    "a whiteout of what is above": Three((file(".wh..."), file("y")), "removes nothing that has a name", WH),
    "a whiteout of a whiteout": Three((file(".wh..wh.x"), file("y")), "", WH),
    "a whiteout with more behind": Three((file(".wh..wh..opq.x"), file("y")), "", WH),
    "a whiteout as a folder": Three((folder(".wh.d"), file(".wh.d/f")), WH, WH),
    "a whiteout that is implied": Three((file("d/.wh.e/f"),), WH, WH),
    "a whiteout in a whiteout": Three((file(".wh.d/.wh.e"),), WH, WH),
    "a whiteout that is a link out": Three((link(".wh.x", "CANARY"), file("y")), "", WH),
    "a whiteout below a link out": Three((OUT, file("x/.wh.passwd")), BELOW, WH, CP_LINK),
    "a whiteout, then a link out above it": Three(
        (file("x/.wh.passwd"), OUT), BELOW, WH, "a folder cannot be replaced"
    ),
    "all hidden below a link out": Three((OUT, file("x/.wh..wh..opq")), BELOW, WH, CP_LINK),
    "a whiteout below a file": Three((file("x"), file("x/.wh.y")), BELOW, WH, CP_LINK),
    "Latin-1": Three((block(b"x\xe9"),), "not UTF-8", "not UTF-8"),
    "a target in Latin-1": Three((block("x", b"2", link=b"\xe9"), file("y")), "not UTF-8", "not UTF-8"),
    "a name too long": Three((long_name("n" * 300), block("n")), "longer name", "longer name", "cannot be written"),
    "too deep": all_three(long_name("d/" * 300 + "f"), block("d"), said="folders deep"),
    "no target": Three((block("x", b"2"), file("y")), "no target", "no target", "cannot be written"),
    "pax: a path with dots": all_three(pax(path="../x"), block("y"), said=DOTS),
    "pax: a path with a zero byte": all_three(pax(path="a\0b"), block("y"), said="newline or NUL"),
    "pax: no path": all_three(pax(path=""), block("y"), said=BAD),
    "pax: a path, and GNU's": all_three(long_name("z"), pax(path="y"), block("x"), said=BAD),
    "pax: one path, GNU's as well": Three((long_name("y"), pax(path="y"), block("x"))),
    "pax: a target, and GNU's": all_three(
        long_name("z", b"K"), pax(linkpath="CANARY"), block("x", b"2", link="y"), said=BAD
    ),
    "pax: a target with a zero byte": Three(
        (pax(linkpath="a\0b"), block("x", b"2", link="y")), "no target", "no target", "null byte"
    ),
    "pax: no target": all_three(pax(linkpath=""), block("x", b"2", link="y"), said=BAD),
    "pax: a hard link's target with dots": all_three(pax(linkpath="../x"), block("y", b"1", link="f"), said=DOTS),
    "pax: a size below zero": all_three(pax(size="-1"), block("x", b"0", b"c"), said="malformed pax size"),
    "pax: a size beyond all": all_three(pax(size="9" * 19), block("x", b"0", b"c"), said="impossible pax size"),
    "pax: a size beyond the archive": all_three(pax(size="99999"), block("x", b"0", b"c"), said="truncated"),
    "pax: a size with a mark": all_three(pax(size="1_0"), block("x", b"0", b"c" * 10), said="malformed pax size"),
    "pax: a size with a point": all_three(pax(size="1.0"), block("x", b"0", b"c"), said="malformed pax size"),
    "pax: a size of letters": all_three(pax(size="one"), block("x", b"0", b"c"), said="malformed pax size"),
    "pax: a time without end": all_three(pax(mtime="1.e400"), block("x"), said="malformed pax mtime"),
    "pax: a time that is none": all_three(pax(mtime="nan."), block("x"), said="malformed pax mtime"),
    "pax: an owner that is nobody": all_three(pax(uid="4294967295"), block("x"), said="impossible owner"),
    "pax: for all, a path": all_three(pax(b"g", path="../x"), block("y"), said="global pax header"),
    "pax: for all, a size": all_three(pax(b"g", size="0"), block("y"), said="global pax header"),
    "pax: for all, a comment": Three((pax(b"g", comment="c"), block("y"))),
    "pax: a record that is too long": all_three(block("p", b"x", b"99 path=x\n"), block("y"), said="malformed pax"),
    "pax: a record that is too short": all_three(block("p", b"x", b"6 path=x\n"), block("y"), said="malformed pax"),
    "pax: a record without length": all_three(block("p", b"x", b"path=x\n"), block("y"), said="malformed pax"),
    "pax: a header that is too long": all_three(block("p", b"x", b"x" * 70_000), block("y"), said="more than 64 KiB"),
    "pax: a union's mark": all_three(pax(**{MARK: "/etc"}), block("x"), said="marks its own files"),
    "pax: another union's mark": all_three(
        pax(SCHILY_xattr_user_overlay_opaque="y"), block("d", b"5"), said="marks its own files"
    ),
    "pax: mkroot's own mark": all_three(pax(SCHILY_xattr_user_mkroot_owner="0:0"), block("x"), said="marks its own"),
}


def refused(canaries: Canaries, said: str, work: Any, error: type[MkrootError]) -> bool:
    """Do something that a hostile archive would spoil; tell whether it was refused, as `said` wants it."""
    try:
        work()
    except error as e:
        assert said, e
        assert re.search(said, str(e)), e
        result = True
    else:
        assert not said, "it was taken"
        result = False
    canaries.check()
    return result


@pytest.fixture
def canaries(tmp_path: Path) -> Canaries:
    (tmp_path / "inner").mkdir()
    return Canaries(tmp_path)


@pytest.mark.parametrize("name", THREE)
def test_a_hostile_layer(name: str, tmp_path: Path, canaries: Canaries) -> None:
    case, inner = THREE[name], tmp_path / "inner"
    raw = stream(case.rows, str(canaries.path), b"")
    layers = LayerStore(Store(inner / "store"))

    def work() -> None:
        root = image_root(layers, *image(layers.store, raw))
        data = b"".join(Assembly(root.tree, layers, 1_800_000_000).raw())
        assert SECRET not in data
        if os.geteuid() == 0:
            extracted(data, inner / "out")
            for top in root.tops:
                top_tree(layers, top, HERE, Trees(inner / "trees"), root.tree)

    if refused(canaries, case.layer, work, ImageError):
        assert not list((inner / "store/layers").rglob("*/*")) and not os.listdir(inner / "store/tmp")


@pytest.mark.parametrize("name", THREE)
def test_a_hostile_root_to_import(name: str, tmp_path: Path, canaries: Canaries) -> None:
    case, inner = THREE[name], tmp_path / "inner"
    (inner / "root.tar").write_bytes(stream((file("bin/sh", b"#!"), *case.rows), str(canaries.path), b""))
    images = image_store(inner)
    words = Import(created=1, machine=Platform(architecture="amd64"), compression="none")
    made = []

    def work() -> None:
        with images.using():
            made.append(import_root(images, inner / "root.tar", "root.tar", words))

    if refused(canaries, case.root, work, ImageError):
        assert images.images() == [] and os.listdir(images.root / "blobs/sha256") == []
    else:
        data = images.layout().path(images.load(made[0]).manifest.layers[0].digest).read_bytes()
        assert SECRET not in data
        if os.geteuid() == 0:
            extracted(_with_root(data), inner / "out")
    assert os.listdir(inner / "store/tmp") == []


def _with_root(data: bytes) -> bytes:
    """An archive that names its root."""
    return stream([], first=block("./", b"5"))[:512] + data


@pytest.mark.parametrize("name", THREE)
def test_a_hostile_archive_to_copy(name: str, tmp_path: Path, canaries: Canaries) -> None:
    case, into = THREE[name], tmp_path / "inner/into"
    into.mkdir()
    fd = os.open(into, os.O_PATH | os.O_DIRECTORY)
    try:
        work = [stream(case.rows, str(canaries.path), b"")]
        refused(canaries, case.cp, lambda: extract(work, fd, owners=os.geteuid() == 0), ContainerError)
    finally:
        os.close(fd)
    canaries.check(into)


class Over(NamedTuple):
    """A layer over another: what says no, or what is there afterwards; None for what is not."""

    below: Rows
    above: Rows
    refused: str = ""
    there: Mapping[str, str | None] = MappingProxyType({})


TO_ROOT, ETC = link("a", "/"), (folder("etc"), file("etc/passwd", b"old"), file("etc/group", b"old"))
OVER = {
    "below a link out": Over((link("a", "CANARY.d"),), (file("a/passwd", b"new"),), "", {"a": "-> CANARY.d"}),
    "below a link that climbs": Over((link("a", "../../.."),), (file("a/x", b"new"),), "", {"x": "new"}),
    "below a link to /": Over((TO_ROOT, *ETC), (file("a/etc/passwd", b"new"),), "", {"etc/passwd": "new"}),
    "a whiteout below a link to /": Over((TO_ROOT, *ETC), (file("a/.wh.etc"),), "", {"etc": None, "etc/passwd": None}),
    "a whiteout far below a link to /": Over(
        (TO_ROOT, *ETC), (file("a/etc/.wh.passwd"),), "", {"etc/passwd": None, "etc/group": "old"}
    ),
    "a whiteout below a link out": Over(
        (link("a", "CANARY.d"), *ETC), (file("a/.wh.passwd"),), "", {"etc/passwd": "old"}
    ),
    "all hidden below a link": Over(
        (link("a", "etc"), *ETC), (file("a/.wh..wh..opq"),), "", {"etc": "/", "etc/passwd": None}
    ),
    "all hidden below a link to /": Over((TO_ROOT, *ETC), (file("a/.wh..wh..opq"), file("new")), "", {"etc": None}),
    "all hidden below a link out": Over((link("a", "CANARY.d"),), (file("a/.wh..wh..opq"),), "", {"a": "-> CANARY.d"}),
    "all hidden below a file": Over(ETC, (file("etc/passwd/.wh..wh..opq"),), "no folder in the layers below", {}),
    "a whiteout below a file": Over(ETC, (file("etc/passwd/.wh.x"),), "no folder in the layers below", {}),
    "a whiteout of nothing that is there": Over(ETC, (file("no/such/.wh.x"),), "", {"no": None, "etc/passwd": "old"}),
    "a file below a file": Over(ETC, (file("etc/passwd/x"),), "no folder in the layers below"),
    "a file below a link to a file": Over((link("a", "etc/passwd"), *ETC), (file("a/x"),), "no folder in the layers"),
    "a file below a link to itself": Over((link("a", "a"),), (file("a/x"),), "loop of links"),
    "a file below links in a circle": Over((link("a", "b"), link("b", "a")), (file("a/x"),), "loop of links"),
    "a file below a link to a whiteout": Over((link("a", ".wh.etc"), *ETC), (file("a/x"),), WH),
    "a file below a link into a whiteout": Over((link("a", "etc/.wh.b/c"), *ETC), (file("a/x"),), WH),
    "a link in place of a folder": Over(
        ETC, (link("etc", "CANARY.d"),), "", {"etc": "-> CANARY.d", "etc/passwd": None}
    ),
    "a folder in place of a link": Over(
        (link("a", "CANARY.d"),), (folder("a"), file("a/passwd", b"new")), "", {"a": "/", "a/passwd": "new"}
    ),
    "a link removed, a file in its place": Over(
        (link("a", "CANARY.d"),), (file(".wh.a"), file("a/passwd", b"new")), "", {"a": "/", "a/passwd": "new"}
    ),
    "a file where a link leads, and one below": Over(
        (link("bin", "usr/bin"), folder("usr"), folder("usr/bin")), (file("usr/bin"), file("bin/x")), "lies below"
    ),
    "a link where a link leads, and one below": Over(
        (link("bin", "usr/bin"), folder("usr"), folder("usr/bin")),
        (link("usr/bin", "CANARY.d"), file("bin/x")),
        "lies below",
    ),
    "a hard link below a link": Over(
        (link("a", "etc"), *ETC), (file("a/x", b"new"), hard("a/y", "a/x")), "", {"etc/x": "new", "etc/y": "new"}
    ),
    "a hard link to the layer below": Over(ETC, (hard("x", "etc/passwd"),), "no earlier file"),
}


@pytest.mark.parametrize("name", OVER)
def test_a_layer_over_another_gets_nowhere_else(name: str, tmp_path: Path, canaries: Canaries) -> None:
    case, inner = OVER[name], tmp_path / "inner"
    raws = [stream(rows, str(canaries.path), b"") for rows in (case.below, case.above)]
    layers = LayerStore(Store(inner / "store"))
    found: dict[str, str] = {}

    def work() -> None:
        root = image_root(layers, *image(layers.store, *raws))
        for path, node in root.tree.nodes.items():
            kind, target = node.entry.kind, node.entry.link.replace(str(canaries.path), "CANARY")
            found[path] = "/" if kind == "d" else f"-> {target}" if kind == "l" else root.tree.read(path).decode()
        data = b"".join(Assembly(root.tree, layers, 1_800_000_000).raw())
        assert SECRET not in data
        if os.geteuid() == 0:
            extracted(data, inner / "out")
            for top in root.tops:
                top_tree(layers, top, HERE, Trees(inner / "trees"), root.tree)

    if not refused(canaries, case.refused, work, MkrootError):
        assert {path: found.get(path) for path in case.there} == case.there


# Images in archives and folders


def _blob(folder: Path, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (folder / "blobs/sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _layout(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": list(rows)}))
    return folder


def _index(folder: Path, *rows: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(rows)}).encode()
    return {"mediaType": INDEX} | _blob(folder, data)


def _nested(folder: Path, canary: Path, width: int, depth: int) -> None:
    add_image(image_store(folder / "from"), "box:1", [{"a": b"1"}])
    images = image_store(folder / "from")
    row: dict[str, Any] = {
        "mediaType": MANIFEST,
        "digest": images.find("box:1").digest,
        "size": images.find("box:1").size,
    }
    os.rename(images.root, folder / "layout")
    for _ in range(depth):
        row = _index(folder / "layout", *[row] * width)
    _layout(folder / "layout", row | {"annotations": {"org.opencontainers.image.ref.name": "box:2"}})


def _dots(folder: Path, canary: Path) -> None:
    row = {"mediaType": MANIFEST, "digest": f"sha256:../../../../outside/{canary.name}", "size": len(SECRET)}
    _layout(folder / "layout")
    _layout(folder / "layout", _index(folder / "layout", row))


def _dots_at_top(folder: Path, canary: Path) -> None:
    _layout(folder / "layout", {"mediaType": MANIFEST, "digest": "sha256:../../../../outside/canary", "size": 9})


def _pipe(folder: Path, canary: Path) -> None:
    _layout(folder / "layout", {"mediaType": MANIFEST, "digest": "sha256:" + "a" * 64, "size": 9})
    os.mkfifo(folder / "layout/blobs/sha256" / ("a" * 64))


def _linked(folder: Path, canary: Path) -> None:
    digest = hashlib.sha256(SECRET).hexdigest()
    _layout(folder / "layout", {"mediaType": MANIFEST, "digest": f"sha256:{digest}", "size": len(SECRET)})
    (folder / "layout/blobs/sha256" / digest).symlink_to(canary)


def _index_pipe(folder: Path, canary: Path) -> None:
    _layout(folder / "layout")
    (folder / "layout/index.json").unlink()
    os.mkfifo(folder / "layout/index.json")


def _index_linked(folder: Path, canary: Path) -> None:
    _layout(folder / "layout")
    (folder / "layout/index.json").unlink()
    (folder / "layout/index.json").symlink_to("/dev/zero")


def _index_in_itself(folder: Path, canary: Path) -> None:
    _layout(folder / "layout")
    (folder / "layout/index.json").write_text("[" * 100_000)


LAYOUTS = {
    "indices twelve deep": (lambda f, c: _nested(f, c, 1, 12), "more than 8 indices deep"),
    "one image a million times": (lambda f, c: _nested(f, c, 8, 7), "names more than 1000 images"),
    "a digest with dots": (_dots, "lacks"),
    "a digest with dots at the top": (_dots_at_top, "lacks|digest"),
    "a pipe for a blob": (_pipe, "lacks the blob"),
    "a link out for a blob": (_linked, "lacks the blob"),
    "a pipe for an index": (_index_pipe, "it is no file"),
    "a link to a device for an index": (_index_linked, "cannot be read"),
    "an index of brackets": (_index_in_itself, "not an image index"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_hostile_layout(name: str, tmp_path: Path, canaries: Canaries) -> None:
    make, said = LAYOUTS[name]
    make(tmp_path / "inner", canaries.path)
    images = image_store(tmp_path / "inner/to")
    assert refused(canaries, said, lambda: load(images, tmp_path / "inner/layout"), ImageError)
    assert images.images() == []


def test_a_layer_under_another_images_name_is_refused(tmp_path: Path) -> None:
    """Two images of one blob, of which the second says that it is something else when unpacked."""
    images = image_store(tmp_path / "from")
    one, other = (add_image(images, f"box:{n}", [{"a": n.encode()}]) for n in "12")
    layout = images.layout()
    config = json.loads(layout.read(images.load(one).manifest.config))
    config["rootfs"]["diff_ids"] = list(images.load(other).config.rootfs.diff_ids)
    told = layout.put(json.dumps(config).encode(), images.load(one).manifest.config.media_type)
    manifest = json.loads(layout.read(one))
    manifest["config"] |= {"digest": told.digest, "size": told.size}
    liar = layout.put(json.dumps(manifest).encode(), MANIFEST)
    layout.write_index([*layout.index().manifests, liar])
    to = image_store(tmp_path / "to")
    with pytest.raises(ImageError, match="does not match its diff-id"):
        load(to, images.root)
    assert to.images() == [] and os.listdir(to.root / "blobs/sha256") == []


MEMBERS: dict[str, tuple[Any, str]] = {
    "a link to the canary": (("link", "CANARY"), "lacks a.tar"),
    "a link out by dots": (("link", "../../../outside/canary"), "leads out of the archive"),
    "a hard link out": (("hard", "CANARY"), "lacks a.tar"),
    "a link to itself": (("link", "a.tar"), "lacks a.tar"),
    "a link to a folder": (("link", "."), "lacks a.tar"),
    "a pipe": (("fifo", ""), "neither a file nor a folder"),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_hostile_archive_of_images(name: str, tmp_path: Path, canaries: Canaries) -> None:
    (kind, target), said = MEMBERS[name]
    members = docker({"a.tar": archive_of({"etc/motd": b"hi\n"})})
    members["a.tar"] = (kind, target.replace("CANARY", str(canaries.path)))
    (tmp_path / "inner/a").write_bytes(archive_of(members))
    images = image_store(tmp_path / "inner")
    assert refused(canaries, said, lambda: load(images, tmp_path / "inner/a"), ImageError)
    assert images.images() == [] and os.listdir(images.store.root / "tmp") == []


NAMED = {
    "dots in a layer's name": ("Layers", ["../../outside/canary"]),
    "the canary's name": ("Layers", ["CANARY"]),
    "dots in the config's name": ("Config", "../../outside/canary"),
    "a config that is the layer": ("Config", "a.tar"),
    "a number for a layer": ("Layers", [1]),
    "no layers": ("Layers", None),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_manifest_names_nothing_outside_of_its_archive(name: str, tmp_path: Path, canaries: Canaries) -> None:
    field, value = NAMED[name]
    members = docker({"a.tar": archive_of({"etc/motd": b"hi\n"})})
    rows = json.loads(members["manifest.json"])
    rows[0][field] = json.loads(json.dumps(value).replace("CANARY", str(canaries.path)))
    members["manifest.json"] = json.dumps(rows).encode()
    (tmp_path / "inner/a").write_bytes(archive_of(members))
    images = image_store(tmp_path / "inner")
    assert refused(
        canaries, "lacks|not an image config|manifest.json", lambda: load(images, tmp_path / "inner/a"), ImageError
    )
    assert images.images() == []


# What scripts leave in the writable folder


def _deep(at: Path, count: int) -> None:
    fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(count):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


LEFT = {
    "a whiteout's name": (lambda at, c: (at / ".wh.passwd").touch(), WH),
    "a whiteout's name for a folder": (lambda at, c: (at / "d/.wh.e").mkdir(parents=True), WH),
    "an opaque mark": (lambda at, c: (at / ".wh..wh..opq").touch(), WH),
    "not UTF-8": (lambda at, c: open(os.fsencode(at) + b"/\xff", "w").close(), "not UTF-8"),
    "a target that is not UTF-8": (lambda at, c: os.symlink(b"\xff", os.fsencode(at) + b"/l"), "not UTF-8"),
    "folders in one another": (lambda at, c: _deep(at, 600), "folders deep"),
    "a link out": (lambda at, c: (at / "l").symlink_to(c), ""),
    "a link out for a folder": (lambda at, c: (at / "l").symlink_to(c.parent), ""),
    "a pipe": (lambda at, c: os.mkfifo(at / "p"), ""),
    "a mark of an owner that is none": (lambda at, c: _marked(at, "owner", b"root:root"), ""),
    "a mark of an owner beyond all": (lambda at, c: _marked(at, "owner", b"99999999999:0"), ""),
    "a mark of a removal": (lambda at, c: _marked(at, "device", b"c:0:0:644"), ""),
    "a mark of a device beyond all": (lambda at, c: _marked(at, "device", b"c:9999999:1:644"), ""),
    "a mark of another kind": (lambda at, c: _marked(at, "device", b"l:1:3:644"), ""),
}


def _marked(at: Path, what: str, value: bytes) -> None:
    (at / "f").touch()
    os.setxattr(at / "f", f"user.mkroot.{what}", value)


@pytest.mark.parametrize("name", LEFT)
def test_what_a_script_left_is_read_inside(name: str, tmp_path: Path, canaries: Canaries) -> None:
    make, said = LEFT[name]
    upper = tmp_path / "inner/upper"
    upper.mkdir()
    make(upper, canaries.path)
    made: list[Any] = []

    def work() -> None:
        made.extend(capture(upper, Tree(lambda layer, entry: b""), "0" * 64, "scripts", 0.0, []))
        LayerStore(Store(tmp_path / "inner/store")).save(made[0], iter(made[1]))

    if not refused(canaries, said, work, RootfsError):
        data = b"".join(made[1])
        assert SECRET not in data
        with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as archive:
            assert [m.type for m in archive] == [
                tarfile.SYMTYPE if "link" in name else tarfile.FIFOTYPE if "pipe" in name else tarfile.REGTYPE
            ]
        assert [(e.uid, e.gid) for e in made[0].entries] == [(os.geteuid(), os.getegid())]
    if name == "folders in one another":
        os.system(f"rm -rf {upper}")


def test_the_recipes_files_stay_inside_whatever_links_packages_have(tmp_path: Path) -> None:
    tree = Tree(lambda layer, entry: b"")
    tree.symlink("out", "/../../../../tmp")
    tree.symlink("up", "../../../../etc")
    tree.symlink("wh", ".wh.etc")
    assert tree.write("out/f", b"1") == "tmp/f" and tree.write("up/passwd", b"1") == "etc/passwd"
    assert tree.write("../../../x", b"1") == "x" and tree.make_folder("up/../../../y") == "y"
    for path in ("wh/f", "wh"):
        with pytest.raises(RootfsError, match=WH):
            tree.write(path, b"1")
    with pytest.raises(RootfsError, match=WH):
        tree.make_folder("wh/d")


def test_a_container_that_runs_cannot_turn_a_copy_to_something_else(tmp_path: Path, canaries: Canaries) -> None:
    """Owner, mode and attributes are set on what was written, though a link stands there by then."""
    from mkroot.container import copying
    from mkroot.tar.entry import FILE, Entry

    os.chmod(canaries.path, 0o600)
    (tmp_path / "inner/x").symlink_to(tmp_path / "outside/canary")
    fd = os.open(tmp_path / "inner", os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError):
            copying._dress(fd, "x", Entry("x", FILE, 0o4777), owners=False)
    finally:
        os.close(fd)
    assert (tmp_path / "outside/canary").stat().st_mode & 0o7777 == 0o600


def test_attributes_that_no_file_can_have_are_told(tmp_path: Path) -> None:
    raw = stream([pax(SCHILY_xattr_security_capability="nonsense"), block("x")], first=b"")
    layers = LayerStore(Store(tmp_path / "store"))
    root = image_root(layers, *image(layers.store, raw))
    if os.geteuid() == 0:
        with pytest.raises(RootfsError, match=r"/x has an attribute security.capability that cannot be set"):
            top_tree(layers, root.tops[0], HERE, Trees(tmp_path / "trees"), root.tree)


def test_deep_folders_of_a_plain_tree_are_told(tmp_path: Path) -> None:
    _deep(tmp_path, 300)
    with pytest.raises(RootfsError, match="folders deep"):
        read_upper(tmp_path)


def test_a_layer_of_zstd_gives_little_at_once() -> None:
    from tests.unit.test_hostile_control import blocks_of_zstd

    assert run("user", f"""
import io, resource
from mkroot.oci.validate import unpacked
path = work() / "layer"
path.write_bytes({blocks_of_zstd(100)!r}.replace({blocks_of_zstd(1)[6:10]!r}, {blocks_of_zstd(1)[6:10]!r} * 300))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(len(piece) for piece in unpacked(path, "zstd"))
emit(total=total, grew=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 << 10)
""") == {"total": 30_000 * (128 << 10) + 1, "grew": True}  # fmt: skip
