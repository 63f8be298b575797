"""A layer's compression level: what is kept under which name, what it holds, and that it decides nothing else."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mkroot.assembling import _codecs
from mkroot.oci.inventory import read_image, sole_image
from mkroot.oci.layout import Layout
from mkroot.oci.model import Descriptor
from mkroot.recipe.load import load
from mkroot.recipe.normal import digest
from mkroot.recipe.rules import MOST
from mkroot.store.frame import BEST, CODECS, compressor, every_codec, levelled
from mkroot.store.layer import Layer, LayerStore, frame_key
from mkroot.store.prune import forget
from mkroot.store.store import Store
from tests.unit.test_assembly import plain, small_root, written
from tests.unit.test_oci_images import documents, made

HEAD = "version: 1\nname: x\ndistro: debian\nsuite: trixie\n"
WORDS = " ".join(random.Random(7).choices(["layer", "frame", "store", "root", "member", "tree"], k=20_000)).encode()


def recipe(tmp_path: Path, image: str, more: str = "outputs: [oci]\n") -> Any:
    path = tmp_path / "x.yaml"
    path.write_text(f"{HEAD}image: {{{image}}}\n{more}")
    return load(str(path), {})


def test_the_default_level_has_no_name_of_its_own() -> None:
    for codec, said in CODECS.items():
        assert levelled(codec, None) == codec
        if said != "none":
            default = int(said.rpartition("-")[2])
            assert levelled(codec, default) == codec
            assert levelled(codec, default + 1) == f"{codec}-{default + 1}"
    assert [levelled(c, 0) for c in ("gzip", "zstd", "none")] == ["gzip-12", "zstd-19", "none"]


def test_each_level_has_a_key_of_its_own_and_the_default_keeps_that_of_older_stores() -> None:
    names = list(every_codec())
    assert len({frame_key("k", name) for name in names}) == len(names) > 30
    assert frame_key("k", "gzip") == hashlib.sha256(b"frame 3 gzip-5 k").hexdigest()
    assert frame_key("k", "zstd") == hashlib.sha256(b"frame 3 zstd-3 k").hexdigest()
    assert frame_key("k", "gzip-12") == hashlib.sha256(b"frame 3 gzip-12 k").hexdigest()


@pytest.mark.parametrize("name", [c for c in every_codec() if c.startswith(("gzip", "zstd"))])
def test_every_level_is_plain_gzip_or_zstd(name: str) -> None:
    data = compressor(name)(WORDS)
    back = gzip.decompress(data) if name.startswith("gzip") else zstandard.ZstdDecompressor().decompress(data)
    assert back == WORDS


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_the_best_level_makes_fewer_bytes(codec: str) -> None:
    sizes = [len(compressor(levelled(codec, level))(WORDS)) for level in (1, None, 0)]
    assert sizes[0] > sizes[2] < sizes[1]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("single_stream", [False, True])
def test_a_level_changes_the_bytes_and_not_the_stream(tmp_path: Path, codec: str, single_stream: bool) -> None:
    root = small_root(tmp_path)
    raw = b"".join(root.raw())
    default, _ = written(root, codec, single_stream=single_stream)
    data, blob = written(root, levelled(codec, 0), single_stream=single_stream)
    assert data != default and plain(data, codec) == raw
    assert blob.diff_id == "sha256:" + hashlib.sha256(raw).hexdigest()
    again, _ = written(root, codec, single_stream=single_stream)
    assert again == default, "frames of one level stand for those of another"


def test_an_image_at_a_level_is_the_same_image_in_other_bytes(tmp_path: Path) -> None:
    quick = made(tmp_path, "oci", name="a", compression="gzip") / "oci"
    best = made(tmp_path, "oci", name="b", compression="gzip", level=0) / "oci"
    (_, one, config), (_, two, other) = documents(quick), documents(best)
    assert config == other
    assert one["layers"][0]["mediaType"] == two["layers"][0]["mediaType"]
    assert one["layers"][0]["digest"] != two["layers"][0]["digest"]
    assert contents(quick) == contents(best)
    same = made(tmp_path, "oci", name="c", compression="gzip", level=5) / "oci"
    assert documents(same)[1] == one, "the default level, written out"


def contents(path: Path) -> Any:
    layout = Layout.open(path)
    image: Descriptor = sole_image(layout, "box:trixie")
    return read_image(layout, image)


def test_a_recipe_says_a_level_and_one_without_keeps_its_digest(tmp_path: Path) -> None:
    before = digest(recipe(tmp_path, "compression: gzip"))
    best = recipe(tmp_path, "compression: gzip, compression-level: best")
    nine = recipe(tmp_path, 'compression: gzip, compression-level: "9"')
    assert (best.image.level, str(best.image.level), nine.image.level) == (0, "best", 9)
    assert len({before, digest(best), digest(nine)}) == 3
    assert digest(recipe(tmp_path, "")) == before
    assert digest(recipe(tmp_path, "compression-level: 9")) == digest(nine)


@pytest.mark.parametrize(
    ("image", "outputs", "expected"),
    [
        ("", "[oci]", ("gzip",)),
        ("compression-level: best", "[oci]", ("gzip-12",)),
        ("compression-level: 9", "[tar.gz, oci]", ("gzip", "gzip-9")),
        ("compression-level: 9", "[tar.gz]", ("gzip",)),
        ("compression: zstd", "[oci]", ()),
        ("compression: zstd, compression-level: 3", "[oci]", ()),
        ("compression: zstd, compression-level: 12", "[oci]", ("zstd-12",)),
        ("compression: none", "[oci]", ()),
    ],
)
def test_what_is_compressed_while_scripts_run(
    tmp_path: Path, image: str, outputs: str, expected: tuple[str, ...]
) -> None:
    assert _codecs(recipe(tmp_path, image, f"outputs: {outputs}\n")) == expected


def test_what_is_forgotten_goes_in_every_level(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    layers = LayerStore(store)
    layer = Layer(key="0" * 64, name="x", entries=())
    layers.save(layer, iter([WORDS]))
    for codec in ("gzip", "gzip-12", "zstd-19"):
        layers.save_frame(layer, iter([WORDS]), codec)
    keys = [frame_key(layer.key, codec) for codec in ("zstd", "gzip", "gzip-12", "zstd-19")]
    assert all(store.has("frames", key) for key in keys)
    forget(store, [layer.key])
    assert not any(store.has("frames", key) for key in keys)


def test_a_recipe_may_ask_for_what_the_compressors_have() -> None:
    assert MOST == BEST
