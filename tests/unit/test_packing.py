"""A package's stream on its way into a frame: the same bytes whatever is held, and nothing left of a refusal."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from pathlib import Path

import pytest

from mkroot.errors import PackageError
from mkroot.store.frame import HARD, SOFT, open_frame, pieces_of, raw_pieces, write_frame
from mkroot.store.layer import LARGE, FrameBuilder, LayerStore, contents, frame_key
from mkroot.store.packing import HELD, Packing
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.store.unpack import Expected, unpack
from mkroot.store.writer import Chown, make_tree
from mkroot.tar.entry import Entry
from mkroot.tar.write import padding
from tests.testarchive import Content, Raw, ar, compress, member, tar
from tests.unit.layers import control, deb

OWNERS = Chown(0)


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes of which no piece is like another, quickly made."""
    block = random.Random(seed).randbytes(64 << 10)
    return b"".join(b"%08d" % n + block for n in range(size // len(block) + 1))[:size]


def files(sizes: list[int]) -> list[tuple[Entry, bytes]]:
    return [(Entry(f"f{n}", "f", 0o644, size=s), noise(s, n)) for n, s in enumerate(sizes)]


@pytest.mark.parametrize(
    "sizes",
    [
        [0, 1, 511, 512, 513],
        [SOFT, 1, SOFT - 512, 7],
        [HARD - 512, HARD - 1024, HARD - 1025, HARD + 1],
        [3 * HARD + 5, 0, SOFT],
    ],
    ids=["small", "soft ends", "hard ends", "several pieces"],
)
@pytest.mark.parametrize("step", [LARGE, 1 << 20, 100_001], ids=str)
def test_a_file_in_parts_makes_the_frame_that_it_makes_as_a_whole(tmp_path: Path, sizes: list[int], step: int) -> None:
    whole, parts = FrameBuilder(), FrameBuilder()
    write_frame(tmp_path / "whole", "zstd", pieces_of(whole.add(e, c) for e, c in files(sizes)))
    layers = LayerStore(Store(tmp_path / "store"))
    with Packing(layers, "0" * 64) as packing:
        for entry, content in files(sizes):
            packing.add(parts.begin(entry))
            for at in range(0, entry.size, step):
                packing.add(content[at : at + step])
            packing.add(padding(entry.size))
            packing.ended()
            parts.end(hashlib.sha256(content).hexdigest())
        packing.complete()
    assert parts.entries == whole.entries
    packing.save(_layer(parts))
    made = layers.store.path("frames", frame_key("0" * 64, "zstd"))
    assert made.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.counts("rebuild")
def test_a_further_codec_that_is_made_later_is_cut_alike(tmp_path: Path) -> None:
    """A store that made zstd first gives the gzip bytes of one that made both at once; the header fills a piece."""
    made = []
    for name, codecs in (("both", ("gzip",)), ("later", ())):
        builder, layers = FrameBuilder(), LayerStore(Store(tmp_path / name))
        with Packing(layers, "0" * 64) as packing:
            for entry, content in files([SOFT - 1024, 700, 5 << 20, 9]):
                packing.add(builder.add(entry, content))
                packing.ended()
            packing.complete()
        layer = _layer(builder)
        packing.save(layer, codecs)
        made.append(layers.frame(layer, "gzip", None, 1 << 40).path.read_bytes())
    assert made[0] == made[1]


def _layer(builder: FrameBuilder):  # type: ignore[no-untyped-def]
    from mkroot.store.layer import Layer

    return Layer(key="0" * 64, name="a", entries=tuple(builder.entries))


@pytest.mark.parametrize("count", [1, 9], ids=["one large file", "many files"])
def test_a_large_package_is_not_held(tmp_path: Path, count: int) -> None:
    content = {f"usr/lib/f{n}": noise(1 << 20, n) * (48 // count) for n in range(count)}
    path, expected = deb(tmp_path, "big", Content(files=content, compression="none"))
    store = Store(tmp_path / "store")
    size = sum(map(len, content.values()))
    assert size > HELD
    tracemalloc.start()
    try:
        layer, held, finish = unpack(store, path, expected, Trees(tmp_path / "trees"), OWNERS, ("gzip",))
        finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held == 0
    assert peak < HELD + 2 * HARD + (12 << 20)  # what may be held, a piece and its parts, and a file that is not large
    layers = LayerStore(store)
    assert {e.path: c for e, c in contents(layers, layer) if e.path in content} == content
    packed = open_frame(store.path("frames", frame_key(layer.key, "gzip")))
    assert list(raw_pieces(packed, "gzip")) == list(raw_pieces(layers.base(layer), "zstd"))


def test_a_large_file_is_not_held_when_its_tree_is_made_again(tmp_path: Path) -> None:
    content = noise(48 << 20)
    path, expected = deb(tmp_path, "big", Content(files={"usr/lib/f": content, "usr/lib/g": b"g"}, compression="none"))
    store = Store(tmp_path / "store")
    layer, _, finish = unpack(store, path, expected, None, OWNERS)
    finish()
    tracemalloc.start()
    try:
        tree = make_tree(LayerStore(store), layer, Trees(tmp_path / "trees"), OWNERS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * HARD  # a piece, packed and not, and the next
    assert (tree / "usr/lib/f").read_bytes() == content
    assert (tree / "usr/lib/g").read_bytes() == b"g"


def test_a_small_package_is_held_until_there_is_time(tmp_path: Path) -> None:
    path, expected = deb(tmp_path, "small", Content(files={"usr/lib/f": noise(SOFT + 1)}, compression="none"))
    store = Store(tmp_path / "store")
    layer, held, finish = unpack(store, path, expected, None, OWNERS)
    assert held >= SOFT
    assert not store.has("frames", frame_key(layer.key, "zstd"))
    finish()
    assert LayerStore(store).load(layer.key) == layer


def test_what_a_small_package_holds_is_all_counted(tmp_path: Path) -> None:
    path, expected = deb(tmp_path, "tiny", Content(files={f"usr/lib/f{n}": noise(9000, n) for n in range(20)}))
    _, held, _ = unpack(Store(tmp_path / "store"), path, expected, None, OWNERS)
    assert held >= 20 * 9216  # each in whole blocks of the stream


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("cut", [HELD + 2 * HARD, HELD + 2 * HARD + LARGE], ids=["between files", "in a large file"])
def test_nothing_is_left_of_a_large_package_that_breaks_off(tmp_path: Path, cut: int) -> None:
    size = 2 * LARGE
    members = [Raw(member(f"./f{n}", size=size), bytes(size)) for n in range((HELD + 3 * HARD) // size)]
    data = tar(members)[:cut]
    whole = ar(
        [
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", compress(Content().control_tar(control("bad")), "xz")),
            ("data.tar", data),
        ]
    )
    path = tmp_path / "bad.deb"
    path.write_bytes(whole)
    store = Store(tmp_path / "store")
    expected = Expected(hashlib.sha256(whole).hexdigest(), "bad", "1", "all", 1 << 20)
    with pytest.raises(PackageError, match="malformed") as refused:
        unpack(store, path, expected, Trees(tmp_path / "trees"), OWNERS)
    assert refused.traceback  # held: what is left must not be what only the collector removes
    left = [p for folder in ("store", "trees") for p in (tmp_path / folder).rglob("*") if not p.is_dir()]
    assert [p.name for p in left if p.parent.name != "locks"] == ["format"]
