"""Roots for the tests of artifacts and images: made of entries, or of a tar archive, in a store of the test's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from mkroot.artifact.manifest import Facts, PackageFacts
from mkroot.rootfs.assembly import Assembly
from mkroot.rootfs.tree import Node, Tree
from mkroot.store.frame import pieces_of
from mkroot.store.layer import FrameBuilder, Layer, LayerStore
from mkroot.store.store import Store
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from mkroot.tar.read import entries as tar_entries
from mkroot.tar.stream import Stream

EPOCH = 1_700_000_000
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_raw=ep, version 2
PACKAGE = PackageFacts(
    name="a",
    version="1:2.0-1+b1",
    architecture="amd64",
    source="src-a",
    source_version="1:2.0-1",
    sha256="ab" * 32,
    size=9,
)
FACTS = Facts(
    name="box",
    architecture="amd64",
    distro="debian",
    suite="trixie",
    lock="11" * 32,
    recipe="22" * 32,
    packages=(PACKAGE,),
)
STATUS = (
    b"Package: a\nStatus: install ok installed\nVersion: 1:2.0-1+b1\nArchitecture: amd64\nSource: src-a (1:2.0-1)\n\n"
)
Members = Iterable[tuple[Entry, bytes]]


def file(
    path: str, content: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0, **more: dict[str, bytes]
) -> tuple[Entry, bytes]:
    return Entry(path, FILE, mode, uid, gid, EPOCH - 100, len(content), **more), content  # type: ignore[arg-type]


def folder(path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> tuple[Entry, bytes]:
    return Entry(path, DIR, mode, uid, gid, EPOCH - 50), b""


def package_members() -> list[tuple[Entry, bytes]]:
    return [
        folder(""),
        folder("etc"),
        folder("usr"),
        folder("usr/bin"),
        file("usr/bin/sh", b"#!" * 70_000, 0o755),
        file("usr/bin/su", b"su", 0o4755),
        file("usr/bin/ping", b"ping", 0o755, xattrs={"security.capability": CAPABILITY}),
        (Entry("usr/bin/dash", HARDLINK, 0o755, mtime=EPOCH - 100, link="usr/bin/sh"), b""),
        (Entry("bin", SYMLINK, 0o777, mtime=EPOCH - 7, link="usr/bin"), b""),
        (Entry("long", SYMLINK, 0o777, mtime=EPOCH - 7, link="/a" * 60), b""),
        folder("srv", 0o2775, 1000, 70_000),
        file("srv/empty", b"", 0o600, 1000, 1000),
        folder("tmp", 0o1777),
        folder("var"),
        folder("var/lib"),
        folder("var/lib/dpkg"),
    ]


def top_members() -> list[tuple[Entry, bytes]]:
    return [
        folder("dev"),
        (Entry("dev/null", CHAR, 0o666, mtime=EPOCH, device=(1, 3)), b""),
        (Entry("dev/big", BLOCK, 0o660, 0, 6, EPOCH, device=(259, 70_000)), b""),
        (Entry("dev/pipe", FIFO, 0o600, mtime=EPOCH), b""),
        folder("usr/share"),
        file('usr/share/a "quoted" <7> näme', b"odd"),
        folder("usr/share/" + "d" * 120),
        file("usr/share/" + "d" * 120 + "/" + "f" * 100, b"deep"),
        file("var/lib/dpkg/status", STATUS),
        file("etc/os-release", b'ID=debian\nVERSION_ID="13"\n'),
    ]


def add_layer(tree: Tree, layers: LayerStore, name: str, members: Members, control: dict[str, bytes]) -> None:
    builder = FrameBuilder()
    chunks = [builder.add(entry, content) for entry, content in members]
    key = hashlib.sha256(name.encode()).hexdigest()
    layer = Layer(key=key, name=name, entries=tuple(builder.entries), control=control)
    layers.save(layer, pieces_of(c for c in chunks if c))
    index = tree.add_layer(layers.load(key))
    for entry in tree.layers[index].entries:
        tree.nodes[entry.path] = Node(entry, index)


def small_root(store: Path, epoch: int = EPOCH) -> Assembly:
    layers = LayerStore(Store(store))
    tree = Tree(layers.read)
    add_layer(tree, layers, "a", package_members(), {"control": b"Package: a\n"})
    add_layer(tree, layers, "top", top_members(), {})
    return Assembly(tree, layers, epoch, {"a": "src-a"})


def root_of_tar(tar: Path, store: Path, epoch: int = EPOCH) -> Assembly:
    """The root that a tar archive holds, as one layer."""

    def chunks() -> Iterator[bytes]:
        with open(tar, "rb") as f:
            while data := f.read(1 << 20):
                yield data

    def members() -> Iterator[tuple[Entry, bytes]]:
        stream = Stream(chunks())
        for entry, _ in tar_entries(stream, pax=True):
            yield entry, stream.read(entry.size) if entry.kind == FILE else b""

    layers = LayerStore(Store(store))
    tree = Tree(layers.read)
    add_layer(tree, layers, "a", members(), {"control": b"Package: a\n"})
    return Assembly(tree, layers, epoch)


def test_the_root_has_every_kind(tmp_path: Path) -> None:
    root = small_root(tmp_path)
    assert {e.kind for e in root.entries()} == {FILE, DIR, SYMLINK, HARDLINK, CHAR, BLOCK, FIFO}
