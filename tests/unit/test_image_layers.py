"""An image's layers, taken into the layer store: the tree that they make, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mkroot.errors import ImageError
from mkroot.oci.layers import image_root, layer_key
from mkroot.oci.model import CONFIG, LAYER, MANIFEST, Config, ManifestWritten, RootFS, encode
from mkroot.oci.reference import Reference
from mkroot.oci.store import Image, ImageStore
from mkroot.rootfs import identity
from mkroot.rootfs.stage import Root
from mkroot.rootfs.top import top_tree
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees

Member = tuple[str, str] | tuple[str, str, dict[str, Any]]
HERE = identity.Identity(identity.NONE, "test", uids=((0, 0, 1),), gids=((0, 0, 1),))


def tar(members: Sequence[Member]) -> bytes:
    """A layer from rows `(name, content)`: `NAME/` is a folder, content `-> T` a link, `=> T` a hard link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as f:
        for name, content, *more in members:
            info = tarfile.TarInfo(name.rstrip("/") or ".")
            info.mode = 0o755 if name.endswith("/") else 0o644
            data = b""
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            elif content.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, content[3:]
            elif content.startswith("=> "):
                info.type, info.linkname = tarfile.LNKTYPE, content[3:]
            else:
                data = content.encode()
            for key, value in (more[0] if more else {}).items():
                setattr(info, key, value)
            info.size = len(data)
            f.addfile(info, io.BytesIO(data))
    return out.getvalue()


def image(store: Store, *layers: Sequence[Member] | bytes, diff_id: str = "") -> tuple[ImageStore, Image]:
    """An image of layers in the store."""
    images = ImageStore(store)
    layout = images.layout()
    raws = [layer if isinstance(layer, bytes) else tar(layer) for layer in layers]
    blobs = [layout.put(gzip.compress(raw, mtime=0), LAYER + "+gzip") for raw in raws]
    ids = tuple(diff_id or "sha256:" + hashlib.sha256(raw).hexdigest() for raw in raws)
    config = layout.put(encode(Config(architecture="amd64", os="linux", rootfs=RootFS("layers", ids))), CONFIG)
    manifest = layout.put(encode(ManifestWritten(config=config, layers=tuple(blobs))), MANIFEST)
    images.tag(manifest, Reference.parse("box:1"))
    return images, images.load(images.find("box:1"))


def root_of(tmp_path: Path, *layers: Sequence[Member] | bytes) -> Root:
    store = Store(tmp_path / "store")
    return image_root(LayerStore(store), *image(store, *layers))


def shown(root: Root) -> dict[str, str]:
    """What is in the tree: content of files, targets of links, `/` for folders."""
    found = {}
    for path, node in sorted(root.tree.nodes.items()):
        kind = node.entry.kind
        found[path] = "/" if kind == "d" else f"-> {node.entry.link}" if kind == "l" else root.tree.read(path).decode()
    return found


BASE: Sequence[Member] = (
    ("etc/", ""),
    ("etc/a", "a"),
    ("etc/b", "b"),
    ("usr/", ""),
    ("usr/bin/", ""),
    ("usr/bin/sh", "shell"),
    ("bin", "-> usr/bin"),
    ("srv/", ""),
    ("srv/x/", ""),
    ("srv/x/one", "1"),
)

TREES: dict[str, tuple[Sequence[Member], dict[str, str | None]]] = {
    "a file is replaced": ([("etc/a", "new")], {"etc/a": "new", "etc/b": "b"}),
    "a file is removed": ([("etc/.wh.a", "")], {"etc/a": None, "etc/b": "b"}),
    "a folder is removed": ([("srv/.wh.x", "")], {"srv/x": None, "srv/x/one": None, "srv": "/"}),
    "a folder hides what is below": (
        [("srv/x/", ""), ("srv/x/.wh..wh..opq", ""), ("srv/x/two", "2")],
        {"srv/x/one": None, "srv/x/two": "2"},
    ),
    "an opaque folder that is named nowhere else": ([("srv/.wh..wh..opq", "")], {"srv": "/", "srv/x": None}),
    "a removal and a new file of one name": ([("etc/.wh.a", ""), ("etc/a", "new")], {"etc/a": "new"}),
    "a removal and a new folder of one name": (
        [("srv/.wh.x", ""), ("srv/x/", ""), ("srv/x/two", "2")],
        {"srv/x/one": None, "srv/x/two": "2"},
    ),
    "a removal and a member below": ([("srv/.wh.x", ""), ("srv/x/two", "2")], {"srv/x/one": None, "srv/x/two": "2"}),
    "a file in place of a folder": ([("srv/x", "file")], {"srv/x": "file", "srv/x/one": None}),
    "a folder in place of a link": (
        [("bin/", ""), ("bin/sh", "s")],
        {"bin": "/", "bin/sh": "s", "usr/bin/sh": "shell"},
    ),
    "below a link": ([("bin/ls", "list")], {"bin": "-> usr/bin", "bin/ls": None, "usr/bin/ls": "list"}),
    "a removal below a link": ([("bin/.wh.sh", "")], {"usr/bin/sh": None, "bin": "-> usr/bin"}),
    "a hard link": ([("etc/c", "c"), ("etc/d", "=> etc/c")], {"etc/d": "c"}),
    "a hard link below a link": ([("bin/c", "c"), ("bin/d", "=> bin/c")], {"usr/bin/d": "c", "bin/d": None}),
    "no folder stands before": ([("opt/deep/er/f", "f")], {"opt/deep/er/f": "f"}),
    "the root is hidden": ([(".wh..wh..opq", ""), ("only", "1")], {"etc": None, "only": "1"}),
    "AUFS's own files": ([(".wh..wh.aufs", ""), ("new", "1")], {"new": "1", ".wh..wh.aufs": None}),
}


@pytest.mark.parametrize("name", TREES)
def test_a_layer_over_another(name: str, tmp_path: Path) -> None:
    members, wanted = TREES[name]
    found = shown(root_of(tmp_path, BASE, members))
    assert {path: found.get(path) for path in wanted} == wanted


@pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts on disk are made by root, or in a user namespace")
@pytest.mark.parametrize("name", TREES)
def test_the_layers_on_disk_hold_what_the_tree_says(name: str, tmp_path: Path) -> None:
    """Each layer's folder, read as overlayfs reads it, gives the tree again."""
    from mkroot.rootfs.tree import Tree
    from mkroot.rootfs.upper import read_upper
    from mkroot.store.layer import Layer

    root = root_of(tmp_path, BASE, TREES[name][0])
    layers, trees = LayerStore(Store(tmp_path / "store")), Trees(tmp_path / "trees")
    again = Tree(layers.read)
    for top in root.tops:
        at = top_tree(layers, top, HERE, trees, root.tree)
        if ".wh..wh..opq" in [m[0] for m in TREES[name][0]]:
            assert os.getxattr(at, "trusted.overlay.opaque") == b"y" if top is root.tops[-1] else True
        changes = read_upper(at)
        opaque = (*changes.opaque, "") if "" in top.opaque else changes.opaque
        again.apply(
            Layer(key="", name="", entries=changes.entries, removed=changes.removed, opaque=opaque),
        )
    assert {p: n.entry.kind for p, n in again.nodes.items()} == {
        p: n.entry.kind for p, n in root.tree.nodes.items() if p
    }


REFUSED: dict[str, tuple[Sequence[Member], str]] = {
    "a name that leaves the root": ([("../x", "x")], "`..`|leaves|\\.\\."),
    "a hard link to nothing": ([("a", "=> nothing")], "names 'nothing', which is no earlier file"),
    "a file twice": ([("a", "1"), ("a", "2")], "stands in it twice"),
    "below a file": ([("a", "1"), ("a/b", "2")], "lies below 'a', which is not a folder"),
    "below its own link": ([("a", "-> /etc"), ("a/b", "2")], "lies below 'a', which is not a folder"),
    "a device that removes": (
        [("a", "", {"type": tarfile.CHRTYPE, "devmajor": 0, "devminor": 0})],
        "device 0:0, which a union reads as a removal",
    ),
    "a union's mark": (
        [("a/", "", {"pax_headers": {"SCHILY.xattr.trusted.overlay.redirect": "/etc"}})],
        "an attribute by which a union marks its own files",
    ),
    "a whiteout of nothing": ([(".wh...", "")], "removes nothing that has a name"),
}


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_is_refused(name: str, tmp_path: Path) -> None:
    members, reason = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as caught:
        root_of(tmp_path, members)
    assert caught.value.where and caught.value.where.startswith("sha256:")
    assert not list((tmp_path / "store" / "layers").rglob("*/*"))


@pytest.mark.counts("hostile")
def test_a_layer_that_lies_about_its_content_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    images, found = image(store, BASE, diff_id="sha256:" + "0" * 64)
    with pytest.raises(ImageError, match="does not match its diff-id"):
        image_root(LayerStore(store), images, found)
    assert not LayerStore(store).has(layer_key("sha256:" + "0" * 64))


@pytest.mark.counts("hostile")
def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mkroot.oci.layers as module

    monkeypatch.setattr(module, "ALLOWANCE", 1 << 20)
    monkeypatch.setattr(module, "EXPANSION", 10)
    with pytest.raises(ImageError, match="more than 10 times its size"):
        root_of(tmp_path, [("zeros", "0" * (4 << 20))])


def test_a_damaged_blob_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    images, found = image(store, BASE)
    path = images.layout().path(found.manifest.layers[0].digest)
    data = bytearray(path.read_bytes())
    data[4] ^= 1  # the time in gzip's head, which changes nothing of the content
    path.write_bytes(data)
    with pytest.raises(ImageError, match="does not match its digest") as caught:
        image_root(LayerStore(store), images, found)
    assert str(path) in str(caught.value)


def test_a_layer_is_taken_once_and_what_was_left_half_way_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    images, found = image(store, BASE, [("bin/ls", "list")])
    first = image_root(LayerStore(store), images, found)
    records = sorted((tmp_path / "store" / "layers").rglob("*/*"))
    assert len(records) == 3  # the second once as it is, once below the link
    for record in records:
        record.unlink()  # as if it had been stopped between frame and record
    again = image_root(LayerStore(store), images, found)
    assert (again.key, shown(again)) == (first.key, shown(first))
    images.layout().path(found.manifest.layers[0].digest).unlink()
    assert shown(image_root(LayerStore(store), images, found)) == shown(first)
