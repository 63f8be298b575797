"""Images: their documents, their blobs, the archives, the image store and its verifier."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mkroot.artifact.inventory import read_tar
from mkroot.errors import Faults, ImageError, MkrootError
from mkroot.oci.build import ImageSettings
from mkroot.oci.inventory import is_image_archive, read_archive, read_image, sole_image
from mkroot.oci.layout import Layout
from mkroot.oci.model import REF_NAME, Descriptor, Platform
from mkroot.oci.outputs import write_build
from mkroot.oci.reference import Reference
from mkroot.oci.store import ImageStore
from mkroot.oci.validate import verify
from mkroot.store.store import Store
from tests.unit.test_artifact_root import FACTS, small_root

SETTINGS = ImageSettings(
    cmd=("/bin/sh",),
    env={"LANG": "C.UTF-8"},
    user="1000",
    workdir="/srv",
    labels={"org.opencontainers.image.title": "mine", "a": "b"},
    tags=("box:trixie",),
)


def made(tmp_path: Path, *kinds: str, images: ImageStore | None = None, name: str = "out", **changes: Any) -> Path:
    root = small_root(tmp_path / "store")
    settings = msgspec.structs.replace(SETTINGS, **changes)
    return write_build(root, FACTS, settings, tmp_path / name, kinds, images=images).folder


def store(tmp_path: Path) -> ImageStore:
    return ImageStore(Store(tmp_path / "store"))


def documents(layout: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Index, manifest and config as any JSON reader sees them."""
    index = json.loads((layout / "index.json").read_bytes())

    def blob(descriptor: dict[str, Any]) -> Any:
        data = (layout / "blobs/sha256" / descriptor["digest"][7:]).read_bytes()
        assert len(data) == descriptor["size"] and hashlib.sha256(data).hexdigest() == descriptor["digest"][7:]
        return json.loads(data)

    manifest = blob(index["manifests"][0])
    return index, manifest, blob(manifest["config"])


def test_the_documents_say_what_the_recipe_says_and_nothing_untrue(tmp_path: Path) -> None:
    layout = made(tmp_path, "oci") / "oci"
    index, manifest, config = documents(layout)
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert index["schemaVersion"] == manifest["schemaVersion"] == 2
    assert index["manifests"][0]["annotations"] == {REF_NAME: "box:trixie"}
    assert index["manifests"][0]["platform"] == {"architecture": "amd64", "os": "linux"}
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert [layer["mediaType"] for layer in manifest["layers"]] == ["application/vnd.oci.image.layer.v1.tar+gzip"]
    assert (config["architecture"], config["os"], config["created"]) == ("amd64", "linux", "2023-11-14T22:13:20Z")
    assert "variant" not in config
    assert config["config"] == {
        "Cmd": ["/bin/sh"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
        "Labels": {
            "a": "b",
            "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
            "org.opencontainers.image.title": "mine",
            "org.opencontainers.image.version": "13",
        },
        "User": "1000",
        "WorkingDir": "/srv",
    }
    filled = [h for h in config["history"] if not h.get("empty_layer")]
    assert len(filled) == len(manifest["layers"]) == len(config["rootfs"]["diff_ids"])
    assert all(h["created"] == config["created"] and h["created_by"] for h in config["history"])
    assert config["history"][-1]["created_by"] == 'CMD ["/bin/sh"]'


def test_an_own_path_replaces_the_default_and_an_empty_config_says_nothing(tmp_path: Path) -> None:
    _, _, config = documents(made(tmp_path, "oci", env={"PATH": "/bin"}) / "oci")
    assert config["config"]["Env"] == ["PATH=/bin"]
    bare = {"cmd": (), "env": {}, "user": "", "workdir": "", "labels": {}}
    _, _, config = documents(made(tmp_path, "oci", **bare) / "oci")
    assert sorted(config["config"]) == ["Env", "Labels"]
    assert len(config["history"]) == 1


@pytest.mark.parametrize("codec", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("by", ["single", "source"])
@pytest.mark.parametrize("single_stream", [False, True])
def test_every_form_holds_the_root_and_verifies(tmp_path: Path, codec: str, by: str, single_stream: bool) -> None:
    changes = {"compression": codec, "by": by, "budget": 3, "single_stream": single_stream}
    folder = made(tmp_path, "oci", "oci-archive", "docker-archive", "tar", **changes)
    layout = Layout.open(folder / "oci")
    descriptor = sole_image(layout, "box:trixie")
    verify(layout, descriptor)
    expected = read_tar(folder / "rootfs.tar")
    assert read_image(layout, descriptor) == expected
    for name in ("oci.tar", "docker.tar"):
        assert is_image_archive(folder / name)
        assert read_archive(folder / name) == expected
    assert not is_image_archive(folder / "rootfs.tar")
    _, manifest, _ = documents(folder / "oci")
    assert len(manifest["layers"]) == (1 if by == "single" else 2)


def test_bytes_do_not_depend_on_umask_folder_or_what_else_is_made(tmp_path: Path) -> None:
    kinds = ("oci-archive", "docker-archive", "oci")
    first = made(tmp_path, *kinds)
    old = os.umask(0o077)
    try:
        second = made(tmp_path, "tar.gz", *reversed(kinds), name="another folder")
    finally:
        os.umask(old)
    for name in ("oci.tar", "docker.tar", "oci/index.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert sorted(os.listdir(first / "oci/blobs/sha256")) == sorted(os.listdir(second / "oci/blobs/sha256"))
    assert {p.stat().st_mode & 0o777 for p in second.rglob("*") if p.is_file()} == {0o644}


def test_the_docker_archive_is_what_docker_load_reads(tmp_path: Path) -> None:
    folder = made(tmp_path, "docker-archive", tags=("box:trixie", "box"))
    with tarfile.open(folder / "docker.tar") as archive:

        def content(name: str) -> bytes:
            found = archive.extractfile(name)
            assert found is not None
            return found.read()

        (image,) = json.loads(content("manifest.json"))
        assert image["RepoTags"] == ["box:trixie", "box:latest"]
        config = content(image["Config"])
        assert image["Config"] == hashlib.sha256(config).hexdigest() + ".json"
        diff_ids = ["sha256:" + hashlib.sha256(content(name)).hexdigest() for name in image["Layers"]]
        assert diff_ids == json.loads(config)["rootfs"]["diff_ids"]
        assert {m.mtime for m in archive} == {1_700_000_000} and {(m.uid, m.gid, m.uname) for m in archive} == {
            (0, 0, "")
        }


@pytest.mark.parametrize(
    ("debian", "platform"),
    [("arm64", ("arm64", "v8")), ("armhf", ("arm", "v7")), ("i386", ("386", "")), ("ppc64el", ("ppc64le", ""))],
)
def test_architectures_have_gos_names(tmp_path: Path, debian: str, platform: tuple[str, str]) -> None:
    facts = msgspec.structs.replace(FACTS, architecture=debian)
    folder = write_build(small_root(tmp_path / "store"), facts, SETTINGS, tmp_path / "out", ["oci"]).folder
    index, _, config = documents(folder / "oci")
    assert (config["architecture"], config.get("variant", "")) == platform
    assert index["manifests"][0]["platform"]["architecture"] == platform[0]


# The image store


def test_a_build_fills_the_store_with_the_same_image_once(tmp_path: Path) -> None:
    images = store(tmp_path)
    folder = made(tmp_path, "oci", images=images, tags=("box:trixie", "box", "127.0.0.1:5000/team/box:1"))
    index, _, _ = documents(folder / "oci")
    digest = index["manifests"][0]["digest"]
    rows = images.images()
    assert [r.reference for r in rows] == ["127.0.0.1:5000/team/box:1", "box:latest", "box:trixie"]
    assert {r.digest for r in rows} == {digest}
    assert len(os.listdir(images.root / "blobs/sha256")) == 3
    blobs = [images.root / "blobs/sha256" / name for name in os.listdir(images.root / "blobs/sha256")]
    assert {b.stat().st_nlink for b in blobs} == {1}, "an output that is edited must not change the store"
    config = images.load(images.find("box")).id
    for name in ("box", "box:trixie", digest, digest[7:19], config, config[7:15], f"box@{digest}"):
        assert images.find(name).digest == digest, name
    assert rows[0].size == rows[0].unique > 0 and rows[0].shared == 0 and rows[0].layers == 1
    verify(images.layout(), images.find("box"))


def test_tags_alone_fill_the_store_and_nothing_does_without_either(tmp_path: Path) -> None:
    images = store(tmp_path)
    made(tmp_path, "tar", images=images, tags=())
    assert images.images() == []
    made(tmp_path, "tar", images=images)
    assert [r.reference for r in images.images()] == ["box:trixie"]


def test_a_build_that_fails_leaves_no_tag(tmp_path: Path) -> None:
    images = store(tmp_path)
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(MkrootError):
        made(tmp_path, "oci", images=images)
    assert images.images() == []


def test_sizes_are_told_by_what_images_share(tmp_path: Path) -> None:
    images = store(tmp_path)
    made(tmp_path, images=images, by="source", budget=3)
    made(tmp_path, images=images, by="source", budget=3, tags=("box:two",), cmd=("/bin/other",))
    one, two = images.images()
    assert one.digest != two.digest and one.unique == two.unique == 0 and one.shared == one.size == two.size
    made(tmp_path, images=images, compression="zstd", tags=("box:three",))
    three = images.images()[0]
    assert three.reference == "box:three" and three.unique == three.size


def test_a_tag_that_moves_leaves_what_collect_removes(tmp_path: Path) -> None:
    images = store(tmp_path)
    made(tmp_path, images=images)
    old = images.find("box:trixie")
    made(tmp_path, images=images, cmd=("/bin/other",))
    assert images.find("box:trixie").digest != old.digest
    assert len(images.images()) == 1
    layers = images.load(images.find("box:trixie")).manifest.layers
    assert images.collect(keep=[old]) == 0
    assert images.collect() > 0
    assert not images.layout().has(old)
    assert all(images.layout().has(layer) for layer in layers), "shared layers stay"
    images.untag(Reference.parse("box:trixie"))
    with pytest.raises(ImageError, match="no image"):
        images.untag(Reference.parse("box:trixie"))
    images.collect()
    assert os.listdir(images.root / "blobs/sha256") == []


def test_collect_waits_for_a_build_that_has_blobs_without_a_tag(tmp_path: Path) -> None:
    images = store(tmp_path)
    made(tmp_path, images=images)
    done = threading.Event()

    def collect() -> None:
        ImageStore(Store(tmp_path / "store")).collect()
        done.set()

    with images.using():
        images.layout().put(b"{}", "application/json")
        thread = threading.Thread(target=collect)
        thread.start()
        assert not done.wait(0.2)
    thread.join(10)
    assert done.is_set() and len(os.listdir(images.root / "blobs/sha256")) == 3


def test_many_writers_lose_no_tag(tmp_path: Path) -> None:
    images = store(tmp_path)
    made(tmp_path, images=images)
    descriptor = images.find("box:trixie")

    def tag(number: int) -> None:
        own = ImageStore(Store(tmp_path / "store"))
        for n in range(10):
            own.tag(descriptor, Reference.parse(f"box:{number}-{n}"))

    threads = [threading.Thread(target=tag, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images.images()) == 61
    assert sorted(os.listdir(images.root)) == ["blobs", "index.json", "oci-layout"]


def test_a_tag_needs_every_blob(tmp_path: Path) -> None:
    images = store(tmp_path)
    made(tmp_path, images=images)
    descriptor = images.find("box:trixie")
    layer = images.load(descriptor).manifest.layers[0]
    images.layout().path(layer.digest).unlink()
    with pytest.raises(ImageError, match="lacks a blob"):
        images.tag(descriptor, Reference.parse("other"))


def test_an_image_for_several_platforms(tmp_path: Path) -> None:
    images = store(tmp_path)
    made(tmp_path, images=images)
    amd64 = images.find("box:trixie")
    facts = msgspec.structs.replace(FACTS, architecture="arm64")
    write_build(small_root(tmp_path / "store"), facts, SETTINGS, tmp_path / "out", (), images=images)
    arm64 = images.find("box:trixie")
    tagged = images.tag_platforms([arm64, amd64], Reference.parse("box:trixie"))
    again = images.tag_platforms([amd64, arm64], Reference.parse("box:trixie"))
    assert tagged.digest == again.digest, "the order of the platforms is of no account"
    assert images.find("box:trixie", "amd64").digest == amd64.digest
    assert images.find("box:trixie", "arm64").digest == arm64.digest
    with pytest.raises(ImageError, match="s390x"):
        images.find("box:trixie", "s390x")
    verify(images.layout(), images.find("box:trixie"))
    images.collect()
    verify(images.layout(), images.find("box:trixie"))


def test_a_build_for_several_architectures_tags_them_together(tmp_path: Path) -> None:
    images = store(tmp_path)
    siblings: list[Descriptor] = []
    for architecture in ("amd64", "arm64"):
        facts = msgspec.structs.replace(FACTS, architecture=architecture)
        root = small_root(tmp_path / "store")
        write_build(root, facts, SETTINGS, tmp_path / "out", ["oci"], images=images, siblings=siblings)
    (row,) = images.images()
    assert row.reference == "box:trixie" and row.layers == 1
    for architecture in ("amd64", "arm64"):
        index, _, _ = documents(tmp_path / "out/box" / architecture / "oci")
        assert images.find("box:trixie", architecture).digest == index["manifests"][0]["digest"]
    images.collect()
    verify(images.layout(), images.find("box:trixie"))


def test_unknown_and_ambiguous_names_are_told(tmp_path: Path) -> None:
    images = store(tmp_path)
    for name in ("nothing", "abcd", "sha256:" + "0" * 64):
        with pytest.raises(ImageError, match="no image"):
            images.find(name)
    with pytest.raises(ImageError, match="write `box:trixie`") as caught:
        images.find("Box:trixie")
    assert "lower case" in str(caught.value)


# The verifier


def damaged(tmp_path: Path, what: str) -> tuple[Layout, Descriptor]:
    layout = Layout.open(made(tmp_path, "oci") / "oci")
    index, manifest, config = documents(layout.root)
    path = layout.path(manifest["layers"][0]["digest"])
    data = path.read_bytes()
    if what == "layer":
        path.write_bytes(data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])
    elif what == "short":
        path.write_bytes(data[:-1])
    elif what == "gone":
        path.unlink()
    elif what == "config":
        layout.path(manifest["config"]["digest"]).write_bytes(b"{}")
    else:
        if what == "diff-id":
            config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
        elif what == "history":
            config["history"] += [{"created_by": "more"}]
        elif what == "count":
            config["rootfs"]["diff_ids"] *= 2
        elif what == "platform":
            config["architecture"] = "arm64"
        new = layout.put(json.dumps(config).encode(), manifest["config"]["mediaType"])
        manifest["config"] = {"mediaType": new.media_type, "digest": new.digest, "size": new.size}
        new = layout.put(json.dumps(manifest).encode(), index["manifests"][0]["mediaType"])
        layout.write_index([msgspec.structs.replace(new, platform=Platform("amd64"))])
    return layout, layout.index().manifests[0]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("layer", "digest|damaged"),
        ("short", "bytes"),
        ("gone", "missing"),
        ("config", "does not match its digest"),
        ("diff-id", "diff-id"),
        ("history", "history tells of 2"),
        ("count", "names 2 layers"),
        ("platform", "different architectures"),
    ],
)
def test_the_verifier_sees_each_damage(tmp_path: Path, what: str, words: str) -> None:
    layout, descriptor = damaged(tmp_path, what)
    with pytest.raises(Faults, match=words):
        verify(layout, descriptor)


def test_a_descriptor_cannot_name_a_path(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path / "layout")
    for digest in ("sha256:../../../etc/passwd", "md5:" + "0" * 32, "sha256:" + "0" * 63, ""):
        with pytest.raises(ImageError, match="not sha256"):
            layout.path(digest)
    with pytest.raises(ImageError, match="not an OCI image layout"):
        Layout.open(tmp_path)
