"""Targets of what a user writes, and of what mkroot wrote for itself: recipes, locks, stores."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import msgspec

from mkroot.archive import aptsources
from mkroot.errors import Faults
from mkroot.recipe.load import load
from mkroot.recipe.normal import digest
from mkroot.resolve.lock import decode_lock
from mkroot.store.frame import Frame, decompressor, open_frame, raw_pieces, write_frame
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.store import Store
from tests.fuzz.target import Target

RAWS = (b"one" * 100, b"", b"two" * 50, bytes(1000))


def recipe(data: bytes) -> None:
    """A recipe: every fault has its place; a good one has a digest."""

    def reader(path: str) -> bytes:
        if path == "r.yaml":
            return data
        raise FileNotFoundError(2, "No such file or directory", path)

    try:
        found = load("r.yaml", {}, files=False, reader=reader)
    except Faults as e:
        assert e.faults
        *placed, last = e.faults
        assert all(fault.where and fault.where.startswith("r.yaml") for fault in placed)
        assert last.where or "more faults" in last.what
        raise
    assert len(digest(found)) == 64


def lock(data: bytes) -> None:
    """A lock: what is read is written to the same lock, and names no path outside the mirror."""
    found = decode_lock(data, "r.lock")
    assert decode_lock(found.encode(), "r.lock") == found
    for root in found.architectures.values():
        for package in (*root.packages, *root.beside):
            assert not package.origin or ".." not in package.path.split("/")


def frame(data: bytes) -> None:
    """A stored frame with bytes changed: three a change, place and value. It is told, or all bytes are right."""
    good = _frame()
    bad = bytearray(good)
    for at in range(0, len(data) - 2, 3):
        bad[int.from_bytes(data[at : at + 2], "big") % len(bad)] = data[at + 2]
    cut = len(bad) - (data[-1] if len(data) % 3 == 1 else 0)
    place = _folder() / "frame"
    place.write_bytes(bad[:cut])
    found = open_frame(place)
    pieces = list(raw_pieces(found, "zstd"))
    assert tuple(pieces) == RAWS, "other bytes than were stored"
    assert found.raw == sum(map(len, RAWS))


@cache
def _frame() -> bytes:
    place = _folder() / "good"
    write_frame(place, "zstd", iter(RAWS))
    return place.read_bytes()


def table(data: bytes) -> None:
    """A frame file of any bytes."""
    place = _folder() / "table"
    place.write_bytes(data)
    found: Frame = open_frame(place)
    assert found.size <= len(data)
    for codec in ("zstd", "gzip", "none"):
        assert decompressor(codec)
    for piece in found.pieces:
        assert 0 <= piece.offset <= piece.offset + piece.size <= len(data) and piece.raw >= 0


def record(data: bytes) -> None:
    """A layer's record, its digest right and its content anything."""
    import hashlib

    layers = _layers()
    place = layers.store.path("layers", "0" * 64)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(hashlib.sha256(data).digest() + data)
    found = layers.load("0" * 64)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Layer) == found


@cache
def _layers() -> LayerStore:
    return LayerStore(Store(_folder() / "store"))


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="mkroot-fuzz."))


def sources(data: bytes) -> None:
    """The host's apt sources, in both forms; what cannot be read is passed over."""
    root = _folder() / "host"
    (root / "etc/apt/sources.list.d").mkdir(parents=True, exist_ok=True)
    for name in ("sources.list", "sources.list.d/a.list", "sources.list.d/b.sources"):
        (root / "etc/apt" / name).write_bytes(data)
    for entry in aptsources.read(root):
        assert entry.uri


_YAML = (
    b"version: 1\n",
    b"name: ",
    b"distro: debian\n",
    b"suite: trixie\n",
    b"packages: {include: [",
    b"extends: [",
    b"vars: {",
    b"${a}",
    b"&a ",
    b"*a",
    b"!!str ",
    b"config:\n  users:\n",
    b"\n  - ",
    b"image: {",
    b"outputs: [tar]\n",
    b"<<: ",
    b"---\n",
    b"%YAML 1.2\n",
    b"? ",
    b"|\n",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\t",
)
_LOCK = (
    b'"version":1',
    b'"recipe":"',
    b'"sources":[',
    b'"architectures":{"amd64":{"packages":[',
    b'"sha256":"',
    b'"path":"pool/',
)

TARGETS = (
    Target(name="recipe", run=recipe, words=_YAML, longest=2048),
    Target(name="lock", run=lock, words=_LOCK, longest=4096),
    Target(name="frame", run=frame, longest=64),
    Target(name="frame-table", run=table, words=(b"mkframe1", b"mkframe2"), longest=512),
    Target(name="layer-record", run=record, longest=512),
    Target(name="apt-sources", run=sources, words=(b"deb ", b"Types: deb\n", b"URIs: ", b"Suites: ", b"[signed-by=")),
)
