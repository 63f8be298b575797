"""Images as archives: what `save` writes, and what `load` takes in or refuses."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from mkroot.errors import ImageError
from mkroot.oci.layout import as_written
from mkroot.oci.loading import load
from mkroot.oci.model import INDEX, MANIFEST, Platform
from mkroot.oci.reference import Reference
from mkroot.oci.validate import verify
from tests.unit.commands import Program
from tests.unit.images import add_image, store

BASE = {"etc/base": b"base\n", "bin": "usr/bin", "usr/bin/sh": b"\x7fELF"}
FORMATS = ("docker-archive", "oci-archive")


def tar(files: dict[str, bytes | tuple[str, str]]) -> bytes:
    """A tar archive: files as bytes, links as (kind, target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                kind = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}
                member.type, member.linkname = kind[content[0]], content[1]
                archive.addfile(member)
    return out.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def docker(layers: dict[str, bytes], *, tags: list[str] | None = None, **extra: Any) -> dict[str, Any]:
    """The members of a docker-archive with these layers by their names in it."""
    ids = ["sha256:" + digest(data) for data in layers.values()]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}, "config": {}}
    data = json.dumps(config | extra).encode()
    name = f"{digest(data)}.json"
    row = {"Config": name, "RepoTags": ["box:1"] if tags is None else tags, "Layers": list(layers)}
    return {name: data, "manifest.json": json.dumps([row]).encode(), **layers}


LAYER = tar({"etc/motd": b"hi\n"})


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_saved_is_loaded_again_with_tags_and_layers(tmp_path: Path, form: str) -> None:
    program = Program(tmp_path)
    images = store(tmp_path)
    base = add_image(images, "box:1", [BASE])
    top = add_image(images, "box:2", [BASE, {"new": b"n" * 100_000}], compression="zstd")
    assert program("tag", "box:2", "127.0.0.1:5000/team/box:2").status == 0
    done = program("save", "--format", form, "box:1", "box:2", "127.0.0.1:5000/team/box:2", "out.tar")
    assert (done.status, done.out, done.err) == (0, "", "")
    assert (
        program("save", "--format", form, "-o", "again.tar", "box:1", "box:2", "127.0.0.1:5000/team/box:2").status == 0
    )
    assert (tmp_path / "out.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    ids = [images.load(d).id for d in (base, top)]
    program("rmi", "--all")
    assert os.listdir(images.root / "blobs/sha256") == []
    done = program("load", "out.tar")
    names = ["box:1", "127.0.0.1:5000/team/box:2", "box:2"]
    assert sorted(done.out.splitlines()) == sorted(f"Loaded image: {n}" for n in names), done.err
    for name in names:
        verify(images.layout(), images.find(name))
    assert [images.load(images.find(n)).id for n in ("box:1", "box:2")] == ids
    if form == "oci-archive":
        assert images.find("box:2").digest == top.digest, "the same manifest, byte for byte"


def test_what_the_store_has_already_is_not_kept_twice(tmp_path: Path) -> None:
    program = Program(tmp_path)
    images = store(tmp_path)
    image = add_image(images, "box:1", [BASE], compression="zstd")
    other = add_image(images, "box:2", [BASE, {"new": b"n"}], compression="zstd")
    assert program("save", "box:1", "box:2", "out.tar").status == 0
    program("rmi", "box:2")
    before = set(os.listdir(images.root / "blobs/sha256"))
    assert program("load", "-i", "out.tar").status == 0
    assert images.find("box:1").digest == image.digest
    loaded = images.load(images.find("box:2"))
    assert loaded.id == images.load(images.find("box:2")).id and loaded.digest != other.digest
    assert loaded.manifest.layers[0] == images.load(image).manifest.layers[0]
    assert len(set(os.listdir(images.root / "blobs/sha256")) - before) == 3


def test_pipes_on_both_sides(tmp_path: Path) -> None:
    import subprocess

    from tests.unit.commands import PROGRAM

    program = Program(tmp_path)
    add_image(store(tmp_path), "box:1", [BASE])
    saved = subprocess.run([*PROGRAM, "save", "box:1", "-"], env=program.environ, capture_output=True, check=True)
    program("rmi", "box:1")
    done = subprocess.run([*PROGRAM, "load"], env=program.environ, input=saved.stdout, capture_output=True, check=True)
    assert done.stdout == b"Loaded image: box:1\n"
    assert os.listdir(tmp_path / "store/tmp") == []


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, lzma.compress, bz2.compress, zstandard.ZstdCompressor().compress],
    ids=["gzip", "xz", "bzip2", "zstd"],
)
def test_compressed_archives(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a").write_bytes(pack(tar(docker({"a.tar": LAYER}))))
    images = store(tmp_path)
    assert [one.reference for one in load(images, tmp_path / "a")] == ["box:1"]
    assert images.load(images.find("box:1")).config.rootfs.diff_ids == ("sha256:" + digest(LAYER),)
    assert os.listdir(images.store.root / "tmp") == []


def test_old_forms_of_docker_archives(tmp_path: Path) -> None:
    """Docker up to 24 wrote a folder a layer, and a link where two images share one; 25 and later, an OCI layout."""
    other = tar({"etc/other": b"o"})
    old = docker({"aaaa/layer.tar": LAYER, "bbbb/layer.tar": other}, tags=["old:1"])
    old["bbbb/layer.tar"] = ("link", "../cccc/layer.tar")
    old |= {"cccc/layer.tar": other, "cccc/VERSION": b"1.0", "cccc/json": b"{}", "repositories": b"{}"}
    new = docker({f"blobs/sha256/{digest(LAYER)}": LAYER}, tags=["new:1"])
    config = next(n for n in new if n.endswith(".json") and n != "manifest.json")
    new[f"blobs/sha256/{config[:-5]}"] = new.pop(config)
    new["manifest.json"] = new["manifest.json"].replace(config.encode(), b"blobs/sha256/" + config[:-5].encode())
    new |= {"index.json": b"{}", "oci-layout": b"{}"}
    packed = docker({"a.tar": LAYER}, tags=["packed:1"])
    packed["a.tar"] = gzip.compress(LAYER)
    images = store(tmp_path)
    for members in (old, new, packed):
        (tmp_path / "a").write_bytes(tar(members))
        load(images, tmp_path / "a")
    assert [r.reference for r in images.images()] == ["new:1", "old:1", "packed:1"]
    assert images.load(images.find("old:1")).config.rootfs.diff_ids[1] == "sha256:" + digest(other)


def test_an_image_without_a_tag_is_kept_and_named_by_its_id(tmp_path: Path) -> None:
    members = docker({"a.tar": LAYER}, tags=[])
    (tmp_path / "a").write_bytes(tar(members))
    done = Program(tmp_path)("load", "a")
    identity = next(n for n in members if n.endswith(".json") and n != "manifest.json")[:-5]
    assert done.out == f"Loaded image ID: sha256:{identity}\n"
    images = store(tmp_path)
    images.collect()
    assert images.load(images.find(identity[:12])).id == "sha256:" + identity


def test_a_layout_as_a_folder_and_an_index_for_several_platforms(tmp_path: Path) -> None:
    images = store(tmp_path)
    one, two = add_image(images, "one:1", [BASE]), add_image(images, "two:1", [{"a": b"1"}])
    images.tag_platforms([one, two], Reference.parse("both:1"))
    program = Program(tmp_path)
    assert program("save", "--format", "oci-archive", "both:1", "out.tar").status == 0
    both = images.find("both:1").digest
    elsewhere = store(tmp_path / "else")
    load(elsewhere, tmp_path / "out.tar")
    assert elsewhere.find("both:1").digest == both
    verify(elsewhere.layout(), elsewhere.find("both:1"))
    third = store(tmp_path / "third")
    load(third, images.root)
    assert sorted(r.reference for r in third.images()) == ["both:1", "one:1", "two:1"]


def test_what_an_index_or_a_layout_holds_besides_images(tmp_path: Path) -> None:
    """An attestation goes along with its index, and no list of images trips over it; a lone artifact is left out."""
    images = store(tmp_path)
    image = add_image(images, "box:1", [BASE])
    layout = images.layout()
    note = layout.put(b'{"note": 1}', "application/vnd.in-toto+json")
    empty = layout.put(b"{}", "application/vnd.oci.empty.v1+json")
    manifest = {"schemaVersion": 2, "artifactType": "application/x-note", "mediaType": MANIFEST}
    manifest |= {"config": as_written(empty), "layers": [as_written(note)]}
    artifact = layout.put(json.dumps(manifest).encode(), MANIFEST)
    nowhere = msgspec.structs.replace(artifact, platform=Platform(architecture="unknown", os="unknown"))
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [as_written(image), as_written(nowhere)]}
    both = layout.put(json.dumps(index).encode(), INDEX)
    images.tag(both, Reference.parse("both:1"))
    program = Program(tmp_path)
    assert program("save", "--format", "oci-archive", "both:1", "out.tar").status == 0
    layout.write_index([*layout.index().manifests, artifact])
    for number, source in enumerate((tmp_path / "out.tar", images.root)):
        other = store(tmp_path / str(number))
        load(other, source)
        assert other.find("both:1").digest == both.digest and other.layout().has(note)
        assert {r.digest for r in other.images()} <= {both.digest, image.digest}
        verify(other.layout(), other.find("both:1"))


def broken(what: str) -> bytes:
    """An archive with one fault."""
    members = docker({"a.tar": LAYER})
    name = next(n for n in members if n.endswith(".json") and n != "manifest.json")
    if what == "content":
        members["a.tar"] = tar({"etc/motd": b"ho\n"})
    elif what == "config":
        members[name] += b" "
    elif what == "gone":
        del members["a.tar"]
    elif what == "count":
        members["manifest.json"] = members["manifest.json"].replace(b'["a.tar"]', b'["a.tar", "a.tar"]')
    elif what == "json":
        members["manifest.json"] = b"[{}]"
    elif what == "upper case":
        members["manifest.json"] = members["manifest.json"].replace(b"box:1", b"Box:1")
    elif what == "no image":
        members = {"etc/passwd": b""}
    elif what == "empty":
        members["manifest.json"] = b"[]"
    elif what == "outside":
        members["a.tar"] = ("link", "../../../../etc/shadow")
    elif what == "old":
        members = {"repositories": b"{}"}
    elif what == "fifo":
        members["a.tar"] = ("fifo", "")
    elif what == "truncated":
        return tar(members)[:-9000]
    elif what == "damaged":
        data = gzip.compress(tar(members))
        return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
    elif what == "bomb":
        return zstandard.ZstdCompressor().compress(bytes(400_000_000))
    return tar(members)


@pytest.mark.counts("hostile")
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("content", "does not match its diff-id"),
        ("config", "does not match the digest that is its name"),
        ("gone", "lacks a.tar"),
        ("count", "names 1 layers, the manifest 2"),
        ("json", "manifest.json"),
        ("upper case", "write `box:1`"),
        ("no image", "neither a docker-archive"),
        ("empty", "there is no image"),
        ("outside", "leads out of the archive"),
        ("old", "older than 1.10"),
        ("fifo", "neither a file nor a folder"),
        ("truncated", "truncated|end mark"),
        ("damaged", "damaged|truncated"),
        ("bomb", "200 times its size"),
    ],
)
def test_faulty_archives_are_refused_whole(tmp_path: Path, what: str, said: str) -> None:
    images = store(tmp_path)
    add_image(images, "here:1", [BASE])
    before = sorted(os.listdir(images.root / "blobs/sha256"))
    (tmp_path / "a").write_bytes(broken(what))
    with pytest.raises(ImageError) as caught:
        load(images, tmp_path / "a")
    assert re.search(said, str(caught.value)), caught.value
    assert sorted(os.listdir(images.root / "blobs/sha256")) == before
    assert [r.reference for r in images.images()] == ["here:1"] and os.listdir(images.store.root / "tmp") == []


@pytest.mark.counts("hostile")
@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (tar({"../../etc/passwd": b""}), "`..`"),
        (tar({"x": ("link", "/etc"), "x/passwd": b""}), "lies below"),
        (tar({"x": ("hard", "../etc/passwd")}), "`..`"),
        (tar({"x": ("hard", "etc/passwd")}), "no earlier member"),
        (tar({"x": b""})[:700], "end mark|truncated"),
        (b"no tar" * 200, "checksum|unreadable"),
        (zstandard.ZstdCompressor().compress(bytes(600_000_000)), "times its size"),
    ],
    ids=["dots", "below a link", "hard link out", "hard link to nothing", "cut", "no tar", "bomb"],
)
def test_hostile_layers_are_refused(tmp_path: Path, layer: bytes, said: str) -> None:
    images = store(tmp_path)
    images.layout()
    (tmp_path / "a").write_bytes(tar(docker({"a.tar": layer})))
    with pytest.raises(ImageError) as caught:
        load(images, tmp_path / "a")
    assert re.search(said, str(caught.value)), caught.value
    assert os.listdir(images.root / "blobs/sha256") == []


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("what", ["layer", "manifest", "size", "gone", "media type"])
def test_lying_blobs_of_a_layout_are_refused(tmp_path: Path, what: str) -> None:
    images = store(tmp_path)
    image = add_image(images, "box:1", [BASE])
    layer = images.load(image).manifest.layers[0]
    layout = images.root
    blob = layout / "blobs/sha256" / (image.hex if what == "manifest" else layer.hex)
    if what == "gone":
        blob.unlink()
    elif what == "size":
        blob.write_bytes(blob.read_bytes() + b"x")
    elif what == "media type":
        manifest = (layout / "blobs/sha256" / image.hex).read_bytes().replace(b"tar+gzip", b"tar+zstd")
        (layout / "blobs/sha256" / digest(manifest)).write_bytes(manifest)
        index = json.loads((layout / "index.json").read_bytes())
        index["manifests"][0] |= {"digest": "sha256:" + digest(manifest), "size": len(manifest)}
        (layout / "index.json").write_text(json.dumps(index))
    else:
        data = blob.read_bytes()
        blob.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elsewhere = store(tmp_path / "else")
    with pytest.raises(ImageError, match=r"digest|lacks|bytes|compressed as"):
        load(elsewhere, layout)
    assert elsewhere.images() == []


def test_a_damaged_store_gives_no_archive_and_an_older_one_stays(tmp_path: Path) -> None:
    images = store(tmp_path)
    image = add_image(images, "box:1", [BASE])
    blob = images.layout().path(images.load(image).manifest.layers[0].digest)
    data = blob.read_bytes()
    blob.write_bytes(data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])
    (tmp_path / "out.tar").write_text("older")
    for form in FORMATS:
        done = Program(tmp_path)("save", "--format", form, "box:1", "out.tar")
        assert done.status == 1 and "damaged" in done.err
    assert (tmp_path / "out.tar").read_text() == "older"
    assert sorted(os.listdir(tmp_path)) == ["out.tar", "store"]


def test_wrong_command_lines(tmp_path: Path) -> None:
    program = Program(tmp_path)
    assert program("save", "box:1").status == 2
    assert program("save").status == 2
    done = program("load", "nowhere.tar")
    assert done.status == 1 and "nowhere.tar" in done.err
    (tmp_path / "folder").mkdir()
    done = program("load", "folder")
    assert done.status == 1 and "not an OCI image layout" in done.err
