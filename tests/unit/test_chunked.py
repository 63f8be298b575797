"""`compression: zstd:chunked`: ordinary zstd to every reader, and to one that reads by ranges each file alone."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from mkroot.artifact.inventory import read_tar
from mkroot.errors import ImageError, StoreError
from mkroot.oci.inventory import read_archive, read_image, sole_image
from mkroot.oci.layerfile import LayerFile, layer_members, write_layer
from mkroot.oci.layers import image_root
from mkroot.oci.layout import Layout
from mkroot.oci.validate import verify
from mkroot.rootfs.assembly import Assembly
from mkroot.rootfs.tree import Tree
from mkroot.store.chunked import CHUNK
from mkroot.store.layer import NOW, LayerStore
from mkroot.store.store import Store
from mkroot.store.verify import verify as verify_store
from mkroot.tar.crc64 import crc64
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK, Entry
from tests.unit import partial
from tests.unit.commands import Program
from tests.unit.images import EPOCH, add_image, store
from tests.unit.partial import Partial, Wrong, of_file, unzstd
from tests.unit.test_artifact_root import add_layer, file, folder, small_root
from tests.unit.test_commit import Box
from tests.unit.test_oci_images import documents, made
from tests.unit.test_oci_importing import ROOT, imported, member, tar

CHUNKED = "zstd:chunked"
CATALOGUED = 0xB90956C775A41001  # CRC-64/GO-ISO of "123456789", as catalogues of checksums have it


def read(path: Path, layer: dict[str, Any] | Any) -> tuple[Partial, bytes]:
    """A layer's table, and its whole stream as any reader of zstd sees it."""
    annotations = layer["annotations"] if isinstance(layer, dict) else layer.annotations
    return of_file(str(path), annotations), unzstd(path.read_bytes())


def layers_of(layout: Path) -> list[tuple[Path, dict[str, Any], str]]:
    """The blobs of a layout's image, with descriptor and diff-id."""
    _, manifest, config = documents(layout)
    rows = zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
    return [(layout / "blobs/sha256" / layer["digest"][7:], layer, diff_id) for layer, diff_id in rows]


def checked(layout: Path, count: int = 1) -> list[Partial]:
    """Read every layer by ranges and as a whole, and compare; return the tables."""
    found = []
    for path, layer, diff_id in layers_of(layout):
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"
        table, stream = read(path, layer)
        assert "sha256:" + hashlib.sha256(stream).hexdigest() == diff_id
        table.check(stream)
        found.append(table)
    assert len(found) == count
    return found


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 65, 512, 4095, 70_001])
def test_the_checksum_is_the_one_that_go_has(size: int) -> None:
    data = os.urandom(size)
    assert crc64(data) == partial.crc64(data)
    for at in {0, 1, size // 2, size}:
        assert crc64(data[at:], crc64(data[:at])) == partial.crc64(data)


def test_the_checksum_of_the_catalogue() -> None:
    assert crc64(b"123456789") == CATALOGUED
    block = bytes(range(256)) * 1200  # more than is folded at a time
    assert crc64(block) == crc64(block[262_144:], crc64(block[:262_144])) == partial.crc64(block)


@pytest.mark.parametrize("by", ["single", "source"])
def test_each_file_can_be_fetched_alone_and_all_of_it_read_as_zstd(tmp_path: Path, by: str) -> None:
    changes = {"compression": CHUNKED, "by": by, "budget": 3}
    out = made(tmp_path, "oci", "oci-archive", "docker-archive", "tar", **changes)
    tables = checked(out / "oci", 1 if by == "single" else 2)
    layout = Layout.open(out / "oci")
    descriptor = sole_image(layout, "box:trixie")
    verify(layout, descriptor)
    expected = read_tar(out / "rootfs.tar")
    assert read_image(layout, descriptor) == expected
    assert read_archive(out / "oci.tar") == expected == read_archive(out / "docker.tar")
    told = {e["name"]: e for table in tables for e in table.entries}
    assert {e["type"] for e in told.values()} == {"reg", "dir", "symlink", "hardlink", "char", "block", "fifo"}
    assert (told["dev/big"]["devMajor"], told["dev/big"]["devMinor"]) == (259, 70_000)
    assert list(told["usr/bin/ping"]["xattrs"]) == ["security.capability"]
    assert told["usr/bin/su"]["mode"] == 0o4755 and told["srv/"]["gid"] == 70_000
    assert "digest" not in told["srv/empty"] and "offset" not in told["srv/empty"]
    assert {e["modtime"] for e in tables[0].entries if e["name"] == "usr/bin/sh"} == {"2023-11-14T22:11:40Z"}
    plain = made(tmp_path, "oci", **{**changes, "compression": "zstd"}, name="plain")
    assert [d for _, _, d in layers_of(plain / "oci")] == [d for _, _, d in layers_of(out / "oci")]
    assert all("annotations" not in layer for _, layer, _ in layers_of(plain / "oci"))


def test_cold_or_warm_the_bytes_are_the_same_and_what_is_kept_verifies(tmp_path: Path) -> None:
    first = made(tmp_path, "oci", compression=CHUNKED)
    kept = Store(tmp_path / "store")
    tails = list((kept.root / "tails").rglob("*/*"))
    assert len(tails) == 1
    assert [c.fault for c in verify_store(kept) if c.fault] == []
    warm = made(tmp_path, "oci", compression=CHUNKED, name="warm")
    tails[0].write_bytes(tails[0].read_bytes()[:-1] + b"?")
    assert [c.item.kind for c in verify_store(kept) if c.fault] == ["tails"]
    mended = made(tmp_path, "oci", compression=CHUNKED, name="mended")
    assert [c.fault for c in verify_store(kept) if c.fault] == []
    cold = tmp_path / "cold"
    cold.mkdir()
    for other in (warm, mended, made(cold, "oci", compression=CHUNKED)):
        assert sorted(os.listdir(other / "oci/blobs/sha256")) == sorted(os.listdir(first / "oci/blobs/sha256"))


def test_a_damaged_frame_is_told(tmp_path: Path) -> None:
    out = made(tmp_path, "oci", compression=CHUNKED)
    ((path, layer, _),) = layers_of(out / "oci")
    table, _ = read(path, layer)
    entry = next(e for e in table.entries if e["name"] == "usr/bin/sh")
    frame = table.fetch(entry["offset"], entry["endOffset"] - entry["offset"])
    (kept,) = [p for p in (tmp_path / "store/frames").rglob("*/*") if frame in p.read_bytes()]
    data = bytearray(kept.read_bytes())
    data[data.index(frame) + len(frame) // 2] ^= 1
    kept.write_bytes(data)
    with pytest.raises(StoreError, match="a piece does not match its digest"):
        made(tmp_path, "oci", compression=CHUNKED, name="again")
    assert not list((tmp_path / "again").rglob("oci"))


def root(at: Path, members: list[tuple[Entry, bytes]], epoch: int = EPOCH) -> Assembly:
    layers = LayerStore(Store(at))
    tree = Tree(layers.read)
    add_layer(tree, layers, "a", members, {"control": b"Package: a\n"})
    return Assembly(tree, layers, epoch)


def written(assembly: Assembly, path: Path, codec: str = CHUNKED) -> tuple[Partial, bytes]:
    with open(path, "xb", buffering=0) as out:
        blob = assembly.write(out, codec)
    assert blob.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    table, stream = of_file(str(path), dict(blob.annotations)), unzstd(path.read_bytes())
    assert blob.diff_id == "sha256:" + hashlib.sha256(stream).hexdigest() and blob.raw == len(stream)
    return table, stream


def test_a_large_file_has_several_chunks(tmp_path: Path) -> None:
    large = bytes(range(256)) * (CHUNK // 256) + b"the end"
    exact = b"x" * 512
    table, stream = written(root(tmp_path / "store", [folder(""), file("a", exact), file("b", large)]), tmp_path / "b")
    table.check(stream)
    chunks = {entry["name"]: rows for entry, rows in table.files()}
    assert [size for _, _, size, _ in chunks["b"]] == [CHUNK, 7]
    first, last = (e for e in table.entries if e["name"] == "b")
    assert first["endOffset"] == last["endOffset"] and last["chunkOffset"] == CHUNK and first["size"] == len(large)
    assert "chunkSize" not in table.entries[1], "what is one chunk is only told once"
    for key, wrong in (
        ("chunkDigest", first["chunkDigest"]),
        ("chunkOffset", CHUNK - 1),
        ("chunkSize", 8),
        ("offset", first["offset"]),
    ):
        right, last[key] = last[key], wrong
        with pytest.raises((Wrong, zstandard.ZstdError)):
            for entry, rows in table.files():
                table.content(entry, rows)
        last[key] = right


def test_times_are_those_of_the_headers(tmp_path: Path) -> None:
    """What was written while the build ran has the epoch, and nothing is later."""
    members = [
        folder(""),
        (Entry("now", FILE, 0o644, mtime=NOW, size=1), b"x"),
        (Entry("late", FILE, 0o644, mtime=EPOCH + 999, size=1), b"y"),
        (Entry("zero", FILE, 0o644, mtime=0, size=1), b"z"),
    ]
    table, stream = written(root(tmp_path / "store", members), tmp_path / "b")
    table.check(stream)
    told = {e["name"]: e["modtime"] for e in table.entries}
    assert told["now"] == told["late"] == "2023-11-14T22:13:20Z" and told["zero"] == "1970-01-01T00:00:00Z"


def test_a_hard_link_whose_file_is_gone_takes_its_place(tmp_path: Path) -> None:
    """The tree has a link whose first name another layer took: the content comes from elsewhere in the stream."""
    layers = LayerStore(Store(tmp_path / "store"))
    tree = Tree(layers.read)
    members = [
        folder(""),
        file("a", b"the content"),
        (Entry("z", HARDLINK, 0o644, mtime=EPOCH - 100, link="a"), b""),
        (Entry("zz", HARDLINK, 0o644, mtime=EPOCH - 100, link="a"), b""),
        file("m", b"between"),
    ]
    add_layer(tree, layers, "a", members, {"control": b"Package: a\n"})
    add_layer(tree, layers, "top", [file("a", b"another")], {})
    table, stream = written(Assembly(tree, layers, EPOCH), tmp_path / "b")
    table.check(stream)
    found = {e["name"]: (e["type"], table.content(e, chunks), e.get("linkName")) for e, chunks in table.files()}
    assert found["z"] == ("reg", b"the content", None) and found["zz"] == ("hardlink", b"", "z")
    assert found["a"] == ("reg", b"another", None)


def test_levels_change_the_frames_and_not_the_files(tmp_path: Path) -> None:
    quick, best = (written(small_root(tmp_path / "s"), tmp_path / c, c) for c in (CHUNKED, CHUNKED + "-19"))
    assert quick[1] == best[1] and quick[0].digests() == best[0].digests()
    best[0].check(best[1])
    assert (tmp_path / CHUNKED).read_bytes() != (tmp_path / f"{CHUNKED}-19").read_bytes()


@pytest.mark.parametrize(
    "entry", [Entry("caf\udce9", FILE, 0o644), Entry("link", SYMLINK, 0o777, link="to/\udce9")], ids=["name", "target"]
)
def test_a_name_that_the_table_cannot_hold_is_told(tmp_path: Path, entry: Entry) -> None:
    path = tmp_path / "layer"
    with pytest.raises(ImageError, match="a name in it is not UTF-8") as raised:
        write_layer(path, layer_members([entry], lambda _: ()), CHUNKED)
    assert "compression: zstd" in str(raised.value.hint)


# Each names a place of the table or of tar-split, and what a wrong maker could have put there.
WRONG: dict[str, Callable[[list[dict[str, Any]], list[dict[str, Any]]], None]] = {
    "offset": lambda toc, _: _of(toc, "usr/bin/sh").update(offset=_of(toc, "usr/bin/sh")["offset"] + 1),
    "offset-of-another": lambda toc, _: _of(toc, "usr/bin/su").update(offset=_of(toc, "usr/bin/sh")["offset"]),
    "end": lambda toc, _: _of(toc, "usr/bin/sh").update(endOffset=_of(toc, "usr/bin/sh")["endOffset"] - 1),
    "digest": lambda toc, _: _of(toc, "usr/bin/su").update(digest=_of(toc, "usr/bin/sh")["digest"]),
    "no-digest": lambda toc, _: _of(toc, "usr/bin/su").pop("digest"),
    "size": lambda toc, _: _of(toc, "usr/bin/su").update(size=3),
    "mode": lambda toc, _: _of(toc, "usr/bin/su").update(mode=0o755),
    "owner": lambda toc, _: _of(toc, "srv/").update(uid=0),
    "group": lambda toc, _: _of(toc, "srv/").pop("gid"),
    "time": lambda toc, _: _of(toc, "usr/bin/su").update(modtime="2023-11-14T22:13:21Z"),
    "type": lambda toc, _: _of(toc, "dev/null").update(type="block"),
    "device": lambda toc, _: _of(toc, "dev/big").update(devMinor=1),
    "link": lambda toc, _: _of(toc, "usr/bin/dash").update(linkName="usr/bin/su"),
    "attribute": lambda toc, _: _of(toc, "usr/bin/ping").pop("xattrs"),
    "missing": lambda toc, _: toc.remove(_of(toc, "srv/empty")),
    "twice": lambda toc, _: toc.append(_of(toc, "srv/empty")),
    "order": lambda toc, _: toc.reverse(),
    "sum-of-a-file": lambda _, split: _of(split, "usr/bin/sh").update(payload="AAAAAAAAAAA="),
    "header": lambda _, split: split[0].update(payload=split[2]["payload"]),
    "no-end": lambda _, split: split.pop(),
    "position": lambda _, split: split[3].update(position=7),
}


def _of(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row.get("name") == name)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, str]]:
    at = tmp_path_factory.mktemp("chunked")
    path, told, _ = layers_of(made(at, "oci", compression=CHUNKED) / "oci")[0]
    return path.read_bytes(), told["annotations"]


def opened(blob: bytes, annotations: dict[str, str] | None = None) -> Partial:
    return Partial(lambda at, size: blob[at : at + size], len(blob), annotations)


@pytest.mark.parametrize("name", [None, *WRONG])
def test_a_wrong_table_would_be_noticed(layer: tuple[bytes, dict[str, str]], name: str | None) -> None:
    """The reader that the other tests trust finds each of these; what is only written again is right."""
    blob, _ = layer
    table = opened(blob)
    stream = unzstd(blob)
    entries, split = table.entries, table.split
    if name is not None:
        WRONG[name](entries, split)
    lines = b"".join(json.dumps(line).encode() + b"\n" for line in split)
    packed = zstandard.compress(lines)
    digest = "sha256:" + hashlib.sha256(packed).hexdigest()
    toc = json.dumps({"version": 1, "entries": entries, "tarSplitDigest": digest}).encode()
    tail, at = b"", table.at - 8
    places = []
    for data, raw in ((zstandard.compress(toc), len(toc)), (packed, len(lines))):
        places.append((at + len(tail) + 8, len(data), raw))
        tail += partial.SKIPPABLE + struct.pack("<I", len(data)) + data
    footer = struct.pack("<7Q", *places[0], 1, *places[1]) + partial.MAGIC
    again = blob[:at] + tail + partial.SKIPPABLE + struct.pack("<I", 64) + footer
    assert unzstd(again) == stream, "no reader of zstd sees the table"
    if name is None:
        opened(again).check(stream)
        return
    with pytest.raises((Wrong, zstandard.ZstdError, KeyError)):
        opened(again).check(stream)


@pytest.mark.parametrize("name", ["checksum", "position", "tarsplit"])
def test_the_annotations_are_those_of_the_footer(layer: tuple[bytes, dict[str, str]], name: str) -> None:
    blob, annotations = layer
    opened(blob, annotations)
    key = next(k for k in annotations if name in k)
    with pytest.raises(Wrong):
        opened(blob, annotations | {key: annotations[key].replace("1", "2")})


def test_one_who_has_the_old_image_fetches_what_is_new(tmp_path: Path) -> None:
    members = [folder(""), *(file(f"f{n}", os.urandom(4000)) for n in range(20))]
    old, _ = written(root(tmp_path / "s", members), tmp_path / "old")
    new, stream = written(root(tmp_path / "t", [*members, file("more", os.urandom(3000))]), tmp_path / "new")
    new.check(stream)
    want, have = new.missing(old.digests())
    assert 3000 <= want < 3100 and have > 80_000


def test_an_import_can_be_chunked(tmp_path: Path) -> None:
    done = imported(tmp_path, tar(*ROOT), "--compression", CHUNKED)
    assert done.status == 0, done.err
    images = store(tmp_path)
    image = images.load(images.find("tiny:1"))
    verify(images.layout(), image.descriptor)
    (told,) = image.manifest.layers
    table, stream = read(images.layout().path(told.digest), told)
    table.check(stream)
    assert [e["name"] for e in table.entries][:2] == ["./", "bin"]
    plain = imported(tmp_path, tar(*ROOT), "--compression", "zstd")
    assert images.load(images.find("tiny:1")).config.rootfs == image.config.rootfs and plain.out != ""


def test_a_commit_can_be_chunked_and_the_parents_tables_stay(tmp_path: Path) -> None:
    box = Box(tmp_path, compression=CHUNKED)
    box.file("etc/new", b"new\n" * 5000, 0o600)
    box.file("srv/empty")
    if not os.geteuid():
        box.hide("etc/old")
    image = box.images.load(box.commit(compression=CHUNKED))
    verify(box.images.layout(), image.descriptor)
    first = image.manifest.layers[0]
    assert first == box.images.load(box.parent).manifest.layers[0] and first.annotations
    for told, diff_id in zip(image.manifest.layers, image.config.rootfs.diff_ids, strict=True):
        table, stream = read(box.images.layout().path(told.digest), told)
        table.check(stream)
        assert "sha256:" + hashlib.sha256(stream).hexdigest() == diff_id
    names = [e["name"] for e in table.entries]
    assert "etc/new" in names and ("etc/.wh.old" in names) == (not os.geteuid())


def test_a_large_file_that_is_imported_has_its_digest(tmp_path: Path) -> None:
    large = bytes(range(255)) * (CHUNK // 250)
    entries = [Entry("a", FILE, 0o644, size=3), Entry("large", FILE, 0o600, size=len(large)), Entry("z", FILE, 0o644)]
    path = tmp_path / "layer"
    stream = layer_members(entries, lambda e: (b"abc",) if e.path == "a" else (large[:99], large[99:]))
    table, raw = read(path, write_layer(path, stream, CHUNKED).descriptor)
    table.check(raw)
    assert [len(chunks) for _, chunks in table.files()] == [1, 2, 0]


def test_whiteouts_stand_in_the_table(tmp_path: Path) -> None:
    entries = [Entry("etc", DIR, 0o755), Entry("etc/a", FILE, 0o644, size=3), Entry("srv", DIR, 0o755)]
    path = tmp_path / "layer"
    stream = layer_members(entries, lambda _: (b"abc",), removed=("etc/gone", "old"), opaque=("srv",))
    made: LayerFile = write_layer(path, stream, CHUNKED)
    table, raw = read(path, made.descriptor)
    table.check(raw)
    names = {e["name"] for e in table.entries}
    assert {"etc/.wh.gone", ".wh.old", "srv/.wh..wh..opq"} <= names
    assert made.diff_id == "sha256:" + hashlib.sha256(raw).hexdigest() and made.raw == len(raw)


@pytest.mark.parametrize(
    "stream", [tar(member("./etc/x", b"x", uid=3)), tar(member("a", b"x"), member("b", b"y", pax={"comment": "hi"}))]
)
def test_a_layer_that_another_program_wrote_is_not_changed_unasked(tmp_path: Path, stream: bytes) -> None:
    """Its diff-id would be another, or podman would find that headers and table differ."""
    with pytest.raises(ImageError, match="another program wrote the header of"):
        write_layer(tmp_path / "layer", [stream], CHUNKED, ended=True)


def test_our_own_readers_take_it(tmp_path: Path) -> None:
    """An image of two such layers becomes a root, and a parent; inspect tells what it is."""
    images = store(tmp_path)
    files = [{"etc/a": b"a" * 5000, "etc/b": b"b"}, {"etc/b": b"c" * 700, "bin": "usr/bin"}]
    add_image(images, "box:1", files, compression=CHUNKED, removed=("etc/a",))
    image = images.load(images.find("box:1"))
    found = image_root(LayerStore(images.store), images, image)
    assert found.tree.read("etc/b") == b"c" * 700 and "etc/a" not in found.tree.nodes
    program = Program(tmp_path)
    (told,) = program("inspect", "--verify", "box:1").json
    assert [layer["Compression"] for layer in told["Layers"]] == [CHUNKED, CHUNKED]
    assert told["Layers"][0]["MediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"
    assert told["Layers"][0]["Annotations"] == image.manifest.layers[0].annotations != {}
    add_image(images, "box:2", files, compression="zstd")
    assert [layer["Compression"] for layer in program("inspect", "box:2").json[0]["Layers"]] == ["zstd"] * 2
    assert program("save", "--format", "oci-archive", "box:1", "box.tar").status == 0
    other = {"MKROOT_STORE": str(tmp_path / "other")}
    done = program("load", "box.tar", **other)
    assert done.status == 0, done.err
    (again,) = program("inspect", "--verify", "box:1", **other).json
    assert msgspec.json.encode(again["Layers"]) == msgspec.json.encode(told["Layers"])
