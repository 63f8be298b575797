"""Images with other layers: of what was built, the bytes of a build; of any other, the same tree and config."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mkroot.errors import ImageError, MkrootError
from mkroot.oci.inherit import BASE_DIGEST, BASE_NAME
from mkroot.oci.layerfile import layer_members, write_layer
from mkroot.oci.layers import image_root
from mkroot.oci.model import CONFIG, INDEX, LAYER, MANIFEST, Descriptor, Platform
from mkroot.oci.recut import Cut
from mkroot.oci.reference import Reference
from mkroot.oci.relayer import Outcome, Relayered, Wish, relayer
from mkroot.oci.store import Image, ImageStore
from mkroot.oci.validate import verify
from mkroot.progress import Progress
from mkroot.records import recall
from mkroot.store.frame import CODECS
from mkroot.store.layer import LayerStore, frame_key
from mkroot.store.store import Store
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK, Entry, parent
from tests.testarchive import Archive, File
from tests.unit.commands import Program
from tests.unit.forked import Forked
from tests.unit.images import EPOCH, add_image, layer_names, store
from tests.unit.parents import base_tar

SINGLE, SOURCE = Cut(by="single"), Cut(by="source")
Layers = Sequence[dict[str, Any]]


class Told(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, line: str) -> None:
        self.warnings.append(line)


def made(images: ImageStore, reference: str, progress: Progress | None = None, **wish: Any) -> Outcome:
    """Make it, give it the name `new:1`, and check every digest of it."""
    with images.using():
        found = relayer(images, LayerStore(images.store), images.find(reference), Wish(**wish), progress or Progress())
        images.tag(found.descriptor, Reference.parse("new:1"))
    verify(images.layout(), found.descriptor)
    return found


def one(images: ImageStore, reference: str, **wish: Any) -> tuple[Relayered, Image]:
    found = made(images, reference, **wish).images
    assert len(found) == 1
    return found[0], images.load(found[0].descriptor)


def tree_of(images: ImageStore, descriptor: Descriptor) -> dict[str, Any]:
    """What a container of the image sees, each file's content by its digest."""
    tree = image_root(LayerStore(images.store), images, images.load(descriptor)).tree
    found: dict[str, Any] = {}
    for path, node in tree.nodes.items():
        e = tree.linked(node) if node.entry.kind == HARDLINK else node.entry
        found[path] = (e.kind, e.mode, e.uid, e.gid, e.mtime, e.size, e.sha256, e.link, e.device, dict(e.xattrs))
    return found


def documents(images: ImageStore, image: Image) -> tuple[dict[str, Any], dict[str, Any]]:
    layout = images.layout()
    return json.loads(layout.read(image.descriptor)), json.loads(layout.read(image.manifest.config))


def everything(images: ImageStore) -> dict[str, bytes]:
    """The image store's index and what blobs there are, and unfinished work."""
    root = images.layout().root
    names = "\n".join(sorted(p.name for p in (root / "blobs/sha256").iterdir()))
    left = "\n".join(p.name for p in (images.store.root / "tmp").iterdir())
    return {"index": (root / "index.json").read_bytes(), "blobs": names.encode(), "tmp": left.encode()}


# ---- what mkroot built


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Archive, ImageStore]:
    folder = tmp_path_factory.mktemp("relayer")
    program = Program(folder)
    archive = Archive(folder / "archive", architectures=("amd64", "arm64"))
    archive.add("base", "1.0", files={"etc/base.conf": b"base\n", "usr/bin/base": File(content=b"#!", mode=0o755)})
    archive.add("tool", "2.0-1", files={"usr/bin/tool": b"tool"}, depends="lib (>= 1)")
    archive.add("lib", "1.5", files={"usr/lib/lib.so": b"x" * 5000})
    archive.add("other", "1.0", depends="lib")
    archive.add("lib-data", "1.5", source="lib", files={"usr/share/newer/lib-data": b"y" * 2000})
    build(program, archive, "box")
    return program, archive, ImageStore(Store(folder / "store"))


def build(program: Program, archive: Archive, tag: str, arch: Sequence[str] = ("amd64",), **image: Any) -> None:
    packages = {"variant": "none", "include": ["base", "tool", "lib-data", "other"]}
    recipe = archive.recipe(
        name="box", arch=list(arch), outputs=["oci"], configure="none", packages=packages,
        image={"cmd": ["/usr/bin/base"], "env": {"A": "1"}, "workdir": "/srv", "tags": [f"{tag}:1"], **image},
    )  # fmt: skip
    done = program("build", program.recipe(f"{tag}.yaml", recipe), "-o", f"out-{tag}", "--no-lock")
    assert done.status == 0, done.err


BY_SOURCE = {"by": "source", "budget": 3}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "source": ({"layers": {"by": "source"}}, {"cut": SOURCE}),
    "budget": ({"layers": BY_SOURCE}, {"cut": Cut(by="source", budget=3)}),
    "zstd": ({"compression": "zstd"}, {"compression": "zstd"}),
    "none": ({"compression": "none"}, {"compression": "none"}),
    "chunked": (
        {"compression": "zstd:chunked", "layers": {"by": "source"}},
        {"compression": "zstd:chunked", "cut": SOURCE},
    ),
    "stream": (
        {"compression": "zstd", "layers": {"single-stream": True}},
        {"compression": "zstd", "single_stream": True},
    ),
    "level": ({"compression": "gzip", "compression-level": 9}, {"compression": "gzip", "level": 9}),
}


@pytest.mark.counts("rebuild")
@pytest.mark.parametrize("row", ROWS)
def test_a_built_image_is_what_a_build_with_these_settings_gives(
    row: str, world: tuple[Program, Archive, ImageStore]
) -> None:
    program, archive, images = world
    settings, wish = ROWS[row]
    build(program, archive, row, **settings)
    wanted = images.find(f"{row}:1")
    found, image = one(images, "box:1", **wish)
    assert documents(images, image) == documents(images, images.load(wanted))
    assert (found.descriptor.digest, found.made_of) == (wanted.digest, "build")
    back, _ = one(images, f"{row}:1", cut=SINGLE, compression="gzip")
    assert back.descriptor.digest == images.find("box:1").digest


@pytest.mark.counts("rebuild")
def test_what_was_made_is_a_build_in_its_turn(world: tuple[Program, Archive, ImageStore]) -> None:
    _, _, images = world
    first, _ = one(images, "box:1", cut=Cut(by="source", budget=4), compression="zstd")
    record = recall(images.store, first.descriptor.digest)
    assert record is not None and record.provenance == b"", "the record of the build names the other image"
    again, _ = one(images, "new:1", cut=SINGLE, compression="gzip")
    assert (again.descriptor.digest, again.made_of) == (images.find("box:1").digest, "build")
    kept = recall(images.store, again.descriptor.digest)
    assert kept is not None and kept.provenance != b"", "the build's own record stays"


def test_an_image_that_has_a_tag_alone_is_a_build_too(world: tuple[Program, Archive, ImageStore]) -> None:
    program, archive, images = world
    packages = {"variant": "none", "include": ["base"]}
    recipe = archive.recipe(
        name="tagged", outputs=["tar"], configure="none", packages=packages, image={"tags": ["tagged:1"]}
    )
    done = program("build", program.recipe("tagged.yaml", recipe), "-o", "out-tagged", "--no-lock")
    assert done.status == 0, done.err
    assert one(images, "tagged:1", compression="zstd")[0].made_of == "build"


@pytest.mark.counts("rebuild")
def test_each_image_of_an_index_is_made_and_the_index_is_a_builds(world: tuple[Program, Archive, ImageStore]) -> None:
    program, archive, images = world
    build(program, archive, "many", ("amd64", "arm64"))
    build(program, archive, "wanted", ("amd64", "arm64"), compression="zstd", layers=BY_SOURCE)
    found = made(images, "many:1", cut=Cut(by="source", budget=3), compression="zstd")
    assert found.descriptor.media_type == INDEX and len(found.images) == 2
    assert found.descriptor.digest == images.find("wanted:1").digest


def test_a_store_that_forgot_the_build_takes_the_layers_and_says_so(
    world: tuple[Program, Archive, ImageStore], tmp_path: Path
) -> None:
    _, _, images = world
    shutil.copytree(images.store.root, tmp_path / "store")
    other = ImageStore(Store(tmp_path / "store"))
    image = other.load(other.find("box:1"))
    record = recall(other.store, image.digest)
    assert record is not None
    other.store.path("frames", frame_key(record.layers[0], "zstd")).unlink()
    told = Told()
    found = made(other, "box:1", told, cut=SOURCE).images[0]
    assert found.made_of == "layers" and "not byte for byte what a build would give" in told.warnings[0]
    assert tree_of(other, found.descriptor) == tree_of(other, image.descriptor)


def test_a_damaged_record_is_not_believed(world: tuple[Program, Archive, ImageStore], tmp_path: Path) -> None:
    _, _, images = world
    shutil.copytree(images.store.root, tmp_path / "store")
    other = ImageStore(Store(tmp_path / "store"))
    path = other.store.path("roots", other.find("box:1").hex)
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[:-9] + b"." + data[-8:])
    told = Told()
    assert made(other, "box:1", told, cut=SOURCE).images[0].made_of == "layers"
    assert "a damaged store entry" in told.warnings[0]


def test_a_record_of_another_root_is_not_believed(world: tuple[Program, Archive, ImageStore], tmp_path: Path) -> None:
    program, archive, images = world
    recipe = archive.recipe(
        name="box", outputs=["oci"], configure="none", packages={"variant": "none", "include": ["base"]},
        image={"tags": ["less:1"]},
    )  # fmt: skip
    assert program("build", program.recipe("less.yaml", recipe), "-o", "out-less", "--no-lock").status == 0
    shutil.copytree(images.store.root, tmp_path / "store")
    other = ImageStore(Store(tmp_path / "store"))
    box, less = (other.find(f"{n}:1").digest.removeprefix("sha256:") for n in ("box", "less"))
    shutil.copy(other.store.path("roots", less), other.store.path("roots", box))
    told = Told()
    found = made(other, "box:1", told, cut=SOURCE).images[0]
    assert "does not give the image's layers" in told.warnings[0]
    assert tree_of(other, found.descriptor) == tree_of(other, other.find("box:1"))


@pytest.mark.counts("rebuild")
def test_over_a_parent_the_own_layers_are_a_builds_and_the_parents_stay(tmp_path: Path) -> None:
    program = Program(tmp_path)
    base_tar(tmp_path / "bare.tar", files={"etc/keep": b"kept"})
    assert program("import", "bare.tar", "bare:1", "--arch", "amd64").status == 0
    archive = Archive(tmp_path / "archive")
    archive.add("lib", "1.0", files={"usr/lib/newer/lib.so": b"one" * 900})
    archive.add("lib-tools", "1.0", source="lib", depends="lib", files={"usr/bin/lib-tools": b"tools"})
    archive.add("calm", "1.0", files={"usr/share/calmer/calm": b"calm" * 90})
    packages = {"include": ["lib-tools", "calm"]}
    for tag, image in (("one", {}), ("two", {"layers": {"by": "source"}, "compression": "zstd"})):
        recipe = archive.recipe(
            name="app", outputs=["oci"], packages=packages, trim={"paths": ["/etc/keep"]},
            image={"from": "bare:1", "tags": [f"{tag}:1"], **image},
        )  # fmt: skip
        done = program("build", program.recipe(f"{tag}.yaml", recipe), "-o", f"out-{tag}", "--no-lock")
        assert done.status == 0, done.err
    images = ImageStore(Store(tmp_path / "store"))
    bare = images.load(images.find("bare:1"))
    verify(images.layout(), images.find("two:1"))
    for start, goal, wish in (
        ("one:1", "two:1", {"cut": SOURCE, "compression": "zstd"}),
        ("two:1", "one:1", {"cut": SINGLE, "compression": "gzip"}),
    ):
        found, image = one(images, start, **wish)
        assert documents(images, image) == documents(images, images.load(images.find(goal)))
        assert (found.descriptor.digest, found.made_of, found.kept) == (images.find(goal).digest, "build", 1)
        assert image.manifest.layers[0] == bare.manifest.layers[0]
    whole, image = one(images, "two:1", cut=SINGLE, compression="gzip", whole=True)
    assert (whole.kept, len(whole.layers), whole.made_of) == (0, 1, "layers")
    assert BASE_DIGEST not in image.manifest.annotations and BASE_NAME not in image.manifest.annotations
    assert tree_of(images, whole.descriptor) == tree_of(images, images.find("two:1"))
    assert "etc/.wh.keep" not in layer_names(images, whole.descriptor)
    images.untag(Reference.parse("bare:1"))
    images.collect()
    with pytest.raises(ImageError, match="stands on is not in the store") as error:
        made(images, "one:1", cut=SOURCE)
    assert "`--whole`" in str(error.value)
    assert made(images, "one:1", compression="zstd", whole=True).images[0].kept == 0


# ---- any other image


def add(images: ImageStore, reference: str, layers: Layers, **more: Any) -> Descriptor:
    """Make an image of layers, each with `members` (entries with contents), `removed`, `opaque` and `kind`.

    more: `history`, `annotations`, `created`, `platform`, `config_type`, `architecture`.
    """
    layout = images.layout()
    rows, diff_ids = [], []
    for layer in layers:
        data = {e.path: d for e, d in layer["members"]}
        stream = layer_members(
            [e for e, _ in layer["members"]],
            lambda e, c=data: (c[e.path],),  # type: ignore[misc]
            removed=layer.get("removed", ()),
            opaque=layer.get("opaque", ()),
        )
        with images.aside() as aside:
            written = write_layer(aside, stream, layer.get("compression", "gzip"))
            images.adopt(aside, written.descriptor)
        kind = layer.get("kind", written.descriptor.media_type)
        rows.append({"mediaType": kind, "digest": written.descriptor.digest, "size": written.descriptor.size})
        diff_ids.append(layer.get("diff_id", written.diff_id))
    config = {
        "architecture": more.get("architecture", "amd64"),
        "os": "linux",
        "created": more.get("created", "2023-11-14T22:13:20.5Z"),
        "config": {"Cmd": ["/bin/sh"], "Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": more.get("history", [{"created_by": f"step {n}"} for n in range(len(rows))]),
        "docker_version": "x",
    }
    told = layout.put(json.dumps(config).encode(), more.get("config_type", CONFIG))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": told.media_type, "digest": told.digest, "size": told.size},
        "layers": rows,
        "annotations": more.get("annotations", {"note": "kept"}),
    }
    put = layout.put(json.dumps(manifest).encode(), MANIFEST)
    descriptor = msgspec.structs.replace(put, platform=more.get("platform", Platform(architecture="amd64")))
    if reference:
        images.tag(descriptor, Reference.parse(reference))
    return descriptor


def file(path: str, data: bytes = b"", mode: int = 0o644, **more: Any) -> tuple[Entry, bytes]:
    return Entry(path, FILE, mode, mtime=more.pop("mtime", EPOCH), size=len(data), **more), data


def folder(path: str, mode: int = 0o755, **more: Any) -> tuple[Entry, bytes]:
    return Entry(path, DIR, mode, mtime=EPOCH - 9, **more), b""


def link(path: str, to: str, kind: str = SYMLINK) -> tuple[Entry, bytes]:
    return Entry(path, kind, 0o777 if kind == SYMLINK else 0o644, mtime=EPOCH, link=to), b""


CAPABILITY = {"security.capability": bytes.fromhex("0100000200040000000000000000000000000000")}
ODD: Layers = (
    {
        "members": [
            folder(""), folder("a"), file("a/one", b"1"), file("a/two", b"2"), folder("b"), file("b/x", b"x"),
            folder("c", 0o1777), file("c/file", b"c"), folder("d"), file("d/gone", b"d"), folder("d/in"),
            file("d/in/deep", b"deep"), file("e", b"e"), file("first", b"linked"), link("second", "first", HARDLINK),
            link("third", "first", HARDLINK), file("ping", b"p", 0o755, xattrs=CAPABILITY), link("way", "a"),
            file("own", b"o", uid=1000, gid=70_000), file("turns", b"file"), folder("was"), file("was/in", b"w"),
        ]
    },
    {  # `b` is made anew, `e` becomes a folder, `was` a file, `turns` a link; the first name of the three goes
        "members": [
            file("a/two", b"22", mtime=EPOCH + 5), folder("b"), file("b/y", b"y"), folder("e"), file("e/in", b"in"),
            link("turns", "a/one"), file("was", b"now a file"), (Entry("pipe", "p", 0o600, mtime=EPOCH), b""),
        ],
        "removed": ["a/one", "d/in", "first"],
        "opaque": ["b"],
    },
    {"members": [folder("a"), file("a/one", b"again"), file("new", b"n", 0o4755)], "removed": ["c"]},
)  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return store(tmp_path)


@pytest.mark.parametrize("compression", sorted(CODECS))
def test_layers_are_merged_and_the_tree_is_the_same(compression: str, images: ImageStore) -> None:
    before = add(images, "odd:1", ODD)
    found, image = one(images, "odd:1", cut=SINGLE, compression=compression)
    assert len(image.manifest.layers) == 1 and found.made_of == "layers"
    tree = tree_of(images, found.descriptor)
    assert tree == tree_of(images, before)
    assert tree["second"][6] == tree["third"][6] and tree["ping"][9] == CAPABILITY and "b/x" not in tree
    names = layer_names(images, found.descriptor)
    assert not [n for n in names if ".wh." in n], "nothing is left of what the layers removed"
    assert names["third"].islnk() and names["third"].linkname == "second"
    assert one(images, "odd:1", cut=SINGLE, compression=compression)[0] == found


def test_config_and_annotations_stay_and_the_history_tells(images: ImageStore) -> None:
    before = images.load(add(images, "odd:1", ODD))
    _, image = one(images, "odd:1", cut=SINGLE)
    manifest, config = documents(images, image)
    _, old = documents(images, before)
    assert manifest["annotations"] == {"note": "kept"}
    rest = ("rootfs", "history")
    assert {k: v for k, v in config.items() if k not in rest} == {k: v for k, v in old.items() if k not in rest}
    assert config["history"] == [
        *({"created_by": f"step {n}", "empty_layer": True} for n in range(3)),
        {"created": old["created"], "created_by": "mkroot relayer: the whole root"},
    ]
    again, image = one(images, "new:1", cut=SINGLE)
    assert again.before == again.descriptor.digest, "one layer is one layer already"


@pytest.mark.parametrize("compression", sorted(CODECS))
def test_layers_are_compressed_anew_and_the_config_stays(compression: str, images: ImageStore) -> None:
    digests = set()
    for packed in ("gzip", "none", "zstd"):
        layers = [{**layer, "compression": packed} for layer in ODD]
        before = images.load(add(images, f"{packed}:1", layers))
        found, image = one(images, f"{packed}:1", compression=compression)
        assert image.id == before.id and image.config == before.config
        if packed == compression:
            assert image.manifest.layers == before.manifest.layers, "nothing to do"
        else:
            digests.add(found.descriptor.digest)
        ends = {d.media_type.removeprefix(LAYER) for d in image.manifest.layers}
        assert ends == {"" if compression == "none" else "+" + compression.partition(":")[0]}
        assert tree_of(images, found.descriptor) == tree_of(images, before.descriptor)
    assert len(digests) == 1, "it does not matter how they were compressed before"


def test_bytes_do_not_depend_on_how_a_big_layer_was_read(images: ImageStore) -> None:
    big = random.Random(7).randbytes(5 << 20)
    digests = set()
    for packed in ("gzip", "none"):
        add(images, f"{packed}:1", [{"members": [file("big", big)], "compression": packed}])
        digests.add(one(images, f"{packed}:1", compression="zstd")[1].manifest.layers[0].digest)
    assert len(digests) == 1


def test_dockers_kinds_become_those_of_oci(images: ImageStore) -> None:
    kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    layers = [{**layer, "kind": kind} for layer in ODD[:2]]
    add(images, "docker:1", layers, config_type="application/vnd.docker.container.image.v1+json")
    _, image = one(images, "docker:1", compression="gzip")
    assert {d.media_type for d in image.manifest.layers} == {LAYER + "+gzip"}
    assert image.manifest.config.media_type == CONFIG and image.manifest.media_type == MANIFEST


def package(name: str, source: str, paths: dict[str, bytes]) -> tuple[str, list[tuple[Entry, bytes]], bytes]:
    """A package's members, with dpkg's list of them, and its stanza."""
    told = [p for path in paths for p in (*reversed(list(above(path))), path)]
    told += ["usr/bin/third-linked"] if name == "third" else []
    names = "".join(f"/{p}\n" for p in dict.fromkeys(["", *told])).encode()
    members = [file(path, data) for path, data in paths.items()]
    members.append(file(f"var/lib/dpkg/info/{name}.list", names))
    stanza = f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\nSource: {source} (1)\n"
    return name, members, stanza.encode()


def above(path: str) -> Iterator[str]:
    while path := parent(path):
        yield path


def layer_of(members: list[tuple[Entry, bytes]], stanzas: list[bytes], late: int = 0) -> dict[str, Any]:
    found = {e.path: (e, d) for e, d in members}
    found["var/lib/dpkg/status"] = file("var/lib/dpkg/status", b"\n".join(stanzas))
    for path in list(found):
        for up in above(path):
            entry, _ = folder(up)
            found.setdefault(up, (msgspec.structs.replace(entry, mtime=entry.mtime + late), b""))
    found[""] = folder("")
    return {"members": [found[p] for p in sorted(found, key=lambda p: p.split("/"))]}


def debian(extra: dict[str, bytes] | None = None) -> list[dict[str, Any]]:
    """Two layers of a root with packages, the second with an upgrade of one of them and what nobody owns."""
    big = package("big", "big", {"usr/lib/big/lib.so": b"B" * 9000, "bin/big": b"b"})
    small = package("small", "tiny", {"usr/bin/small": b"s", "usr/share/doc/small/copyright": b"c"})
    doc = package("small-doc", "tiny", {"usr/share/doc/small/manual": b"m" * 500})
    third = package("third", "third", {"usr/bin/third": b"t" * 50})
    every = [p for _, members, _ in (big, small, doc, third) for p in members]
    stanzas = [big[2], small[2], doc[2], third[2]]
    upgrade = package("third", "third", {"usr/bin/third": b"T" * 60, "usr/bin/third-more": b"+"})
    rest = [*upgrade[1], file("etc/mine", b"mine"), *(file(p, d) for p, d in (extra or {}).items())]
    rest.append(link("usr/bin/third-linked", "etc/mine", HARDLINK))  # a package's path, a file of nobody's
    every.append(link("usr/bin/small-linked", "usr/bin/small", HARDLINK))  # a package's file, a path of nobody's
    return [layer_of(every, stanzas), layer_of(rest, stanzas, len(extra or {}))]


def test_each_package_is_in_the_layer_of_its_source(images: ImageStore) -> None:
    before = add(images, "deb:1", debian())
    found, image = one(images, "deb:1", cut=Cut(by="source", budget=4))
    names = [set(layer_names(images, found.descriptor, n)) for n in range(len(found.layers))]
    assert len(names) == 4
    assert {"usr/lib/big/lib.so", "bin/big", "var/lib/dpkg/info/big.list", "var/lib/dpkg/status"} <= names[0]
    assert {"usr/bin/small", "usr/share/doc/small/manual", "var/lib/dpkg/info/small-doc.list"} <= names[1]
    assert "usr/bin/small-linked" in names[1] and "usr/bin/third-linked" in names[3]
    assert {"usr/bin/third", "usr/bin/third-more"} <= names[2]
    assert "etc/mine" in names[3] and "var/lib/dpkg/status" in names[3]
    files = [p for p in tree_of(images, before) if p.startswith(("usr/bin/", "bin/", "etc/"))]
    assert all(sum(p in layer for layer in names) == 1 for p in files)
    assert tree_of(images, found.descriptor) == tree_of(images, before)
    told = [(h.created_by, h.comment) for h in image.config.history if not h.empty_layer]
    assert told[1] == ("mkroot relayer: source package tiny", "small, small-doc")
    assert told[3][0] == "mkroot relayer: what belongs to no package"


def test_small_sources_share_a_layer_within_the_budget(images: ImageStore) -> None:
    before = add(images, "deb:1", debian())
    found, image = one(images, "deb:1", cut=Cut(by="source", budget=3))
    assert [h.created_by for h in image.config.history if not h.empty_layer] == [
        "mkroot relayer: source package big",
        "mkroot relayer: 3 other packages",
        "mkroot relayer: what belongs to no package",
    ]
    assert tree_of(images, found.descriptor) == tree_of(images, before)
    back, _ = one(images, "new:1", cut=SINGLE)
    assert tree_of(images, back.descriptor) == tree_of(images, before)


def test_what_did_not_change_is_the_same_layer(images: ImageStore) -> None:
    add(images, "deb:1", debian())
    add(images, "more:1", debian({"usr/lib/mine": b"mine", "etc/other": b"o"}))
    first, second = (one(images, r, cut=SOURCE)[0].layers for r in ("deb:1", "more:1"))
    assert first[:-1] == second[:-1] and first[-1] != second[-1]


def standing(images: ImageStore) -> Descriptor:
    """An image of two layers over `below:1`, which it names."""
    below = add(images, "below:1", debian()[:1], history=[{"created_by": "below"}])
    return add(
        images, "above:1", [*debian(), {"members": [file("etc/mine", b"changed")], "removed": ["usr/bin/small"]}],
        history=[{"created_by": "below"}, {"created_by": "ENV x", "empty_layer": True}, {"created_by": "one"},
                 {"created_by": "two"}],
        annotations={BASE_DIGEST: below.digest, BASE_NAME: "below:1"},
    )  # fmt: skip


@pytest.mark.parametrize("cut", [SINGLE, SOURCE], ids=["single", "source"])
def test_the_layers_of_what_it_stands_on_stay(cut: Cut, images: ImageStore) -> None:
    before = standing(images)
    below = images.load(images.find("below:1"))
    found, image = one(images, "above:1", cut=cut, compression="zstd")
    assert found.kept == 1 and image.manifest.layers[0] == below.manifest.layers[0]
    assert image.manifest.annotations[BASE_DIGEST] == below.digest
    assert tree_of(images, found.descriptor) == tree_of(images, before)
    assert image.config.history[0].created_by == "below" and not image.config.history[0].empty_layer
    assert [h.created_by for h in image.config.history[1:4]] == ["ENV x", "one", "two"]
    assert all(h.empty_layer for h in image.config.history[1:4])
    top = layer_names(images, found.descriptor)
    assert "usr/bin/.wh.small" in top and "usr/lib/big/lib.so" not in top
    _, image = one(images, "above:1", compression="zstd")
    assert image.manifest.layers[0] == below.manifest.layers[0] and image.id == images.load(before).id
    _, image = one(images, "above:1", compression="zstd", whole=True)
    assert {d.media_type for d in image.manifest.layers} == {LAYER + "+zstd"} and image.id == images.load(before).id


def test_what_it_stands_on_can_be_named(images: ImageStore) -> None:
    add(images, "below:1", debian()[:1])
    add(images, "above:1", debian())
    add(images, "alien:1", ODD)
    assert one(images, "above:1", cut=SINGLE)[0].kept == 0
    assert one(images, "above:1", cut=SINGLE, former="below:1")[0].kept == 1
    with pytest.raises(ImageError, match="does not stand on `alien:1`"):
        made(images, "above:1", cut=SINGLE, former="alien:1")
    with pytest.raises(ImageError, match="no layer above"):
        made(images, "below:1", cut=SINGLE, former="below:1")


def test_an_image_that_was_merged_names_a_parent_and_has_none(images: ImageStore) -> None:
    alien = add(images, "alien:1", ODD)
    before = add(images, "deb:1", debian(), annotations={BASE_DIGEST: alien.digest})
    found, _ = one(images, "deb:1", cut=SINGLE)
    assert found.kept == 0 and tree_of(images, found.descriptor) == tree_of(images, before)


def test_an_index_stays_without_what_was_said_of_its_images(images: ImageStore) -> None:
    arm = Platform(architecture="arm64", variant="v8")
    rows = [add(images, "", ODD), add(images, "", debian(), architecture="arm64", platform=arm)]
    about = add(images, "", ODD[:1], architecture="unknown")
    told = [
        {"mediaType": d.media_type, "digest": d.digest, "size": d.size, "platform": p, "annotations": {"row": p["os"]}}
        for d, p in (
            (rows[0], {"architecture": "amd64", "os": "linux"}),
            (rows[1], {"architecture": "arm64", "os": "linux", "variant": "v8"}),
            (about, {"architecture": "unknown", "os": "unknown"}),
        )
    ]
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": told, "annotations": {"index": "kept"}}
    images.tag(images.layout().put(json.dumps(document).encode(), INDEX), Reference.parse("many:1"))
    found = made(images, "many:1", cut=SINGLE, compression="zstd")
    new = json.loads(images.layout().read(found.descriptor))
    assert new["annotations"] == {"index": "kept"} and found.left_out == 1
    assert [r["platform"] for r in new["manifests"]] == [r["platform"] for r in told[:2]]
    assert [r["annotations"] for r in new["manifests"]] == [{"row": "linux"}] * 2
    assert [i.before for i in found.images] == [d.digest for d in rows]
    for old, image in zip(rows, found.images, strict=True):
        assert tree_of(images, image.descriptor) == tree_of(images, old)


def test_no_time_is_later_than_source_date_epoch(images: ImageStore) -> None:
    add(images, "odd:1", ODD)
    found, image = one(images, "odd:1", cut=SINGLE, latest=EPOCH - 20)
    assert image.config.created == "2023-11-14T22:13:00Z" == image.config.history[-1].created
    assert max(m.mtime for m in layer_names(images, found.descriptor).values()) == EPOCH - 20
    later, image = one(images, "odd:1", cut=SINGLE, latest=EPOCH + 99)
    assert image.config.created == "2023-11-14T22:13:20.5Z"
    assert tree_of(images, later.descriptor) == tree_of(images, images.find("odd:1"))
    assert one(images, "odd:1", compression="zstd", latest=1)[1].id == images.load(images.find("odd:1")).id


# ---- what cannot be


def rejected(images: ImageStore, reference: str, told: str, **wish: Any) -> str:
    before = everything(images)
    with pytest.raises(MkrootError) as error:
        made(images, reference, **wish)
    assert told in str(error.value)
    assert everything(images) == before, "nothing is left of it"
    return str(error.value)


WISHES = {"single": {"cut": SINGLE}, "source": {"cut": SOURCE}, "compression": {"compression": "zstd"}}


@pytest.mark.counts("fault")
@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("fault", ["missing", "cut", "flipped", "diff-id"])
def test_a_layer_that_is_not_what_it_was_is_named(fault: str, wish: str, images: ImageStore) -> None:
    layers = debian()
    if fault == "diff-id":
        layers[0]["diff_id"] = "sha256:" + "0" * 64
    layer = images.load(add(images, "deb:1", layers)).manifest.layers[0]
    path = images.layout().path(layer.digest)
    data = path.read_bytes()
    if fault == "missing":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif fault == "flipped":
        path.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    told = rejected(images, "deb:1", "layer" if fault != "flipped" else "", **WISHES[wish])
    assert layer.hex in told


@pytest.mark.counts("fault")
def test_a_damaged_entry_of_the_store_is_made_again(tmp_path: Path) -> None:
    images = store(tmp_path)
    before = tree_of(images, add(images, "deb:1", debian()))
    digest = made(images, "deb:1", cut=SOURCE).descriptor.digest
    frames = [p for p in (images.store.root / "frames").rglob("*") if p.is_file()]
    for path in frames:
        data = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    done = Program(tmp_path)("relayer", "deb:1", "again:1", "--by", "source")
    assert done.status == 0 and "made again" in done.err, done.err
    assert images.find("again:1").digest == digest
    assert tree_of(images, images.find("again:1")) == before


KINDS = {
    "encrypted": (LAYER + "+gzip+encrypted", "a layer is encrypted"),
    "nondistributable": ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "its owner alone"),
    "foreign": ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "its owner alone"),
    "unknown": ("application/vnd.in-toto+json", "a layer of an unknown kind"),
}


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_may_not_be_made_again_is_refused(kind: str, wish: str, images: ImageStore) -> None:
    media_type, told = KINDS[kind]
    first, second = debian()
    add(images, "deb:1", [first, {**second, "kind": media_type}])
    rejected(images, "deb:1", told, **WISHES[wish])


@pytest.mark.counts("bad-input")
def test_what_is_no_image_is_refused(images: ImageStore) -> None:
    add(images, "about:1", ODD[:1], architecture="unknown")
    rejected(images, "about:1", "no image that a container could have", compression="zstd")
    add(images, "empty:1", [])
    rejected(images, "empty:1", "the image has no layers", cut=SINGLE)
    add(images, "chart:1", ODD[:1], config_type="application/vnd.example.chart+json")
    rejected(images, "chart:1", "no image that a container could have", compression="zstd")


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("case", ["none", "damaged", "link"])
def test_by_source_needs_a_database(case: str, images: ImageStore) -> None:
    layers = list(ODD[:1])
    if case == "damaged":
        layers = debian()[:1]
        layers[0] = layer_of([m for m in layers[0]["members"] if m[0].kind == FILE], [b"Package: \n"])
    elif case == "link":
        layers = [layer_of([link("var/lib/dpkg/status-old", "status")], [])]
        for n, (entry, _) in enumerate(layers[0]["members"]):
            if entry.path == "var/lib/dpkg/status":
                layers[0]["members"][n] = link(entry.path, "status")
    add(images, "x:1", layers)
    told = {"none": "no dpkg database", "damaged": "database is damaged", "link": "a loop of links"}
    rejected(images, "x:1", told[case], cut=SOURCE)


@pytest.mark.counts("hostile")
def test_a_bomb_is_refused(images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mkroot.oci.recompress.EXPANSION", 2)
    monkeypatch.setattr("mkroot.oci.recompress.ALLOWANCE", 1000)
    add(images, "bomb:1", [{"members": [file("zero", bytes(1 << 20))]}])
    rejected(images, "bomb:1", "more than 2 times its size", compression="zstd")


# ---- the command


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, ImageStore]]:
    folder = tmp_path_factory.mktemp("command")
    images = store(folder)
    add(images, "deb:1", debian())
    add_image(images, "other:1", [{"etc/a": b"a"}])
    program = Forked(folder)
    yield program, images
    program.close()


USAGE = {
    "nothing": ([], 2, "nothing is to be made anew"),
    "by": (["--by", "package"], 2, "invalid choice: 'package'"),
    "budget alone": (["--budget", "5"], 2, "nothing is to be made anew"),
    "budget of one layer": (["--by", "single", "--budget", "5"], 2, "a budget is for layers by source package"),
    "budget too small": (["--by", "source", "--budget", "1"], 2, "from 2 to 120 layers"),
    "budget too big": (["--by", "source", "--budget", "121"], 2, "from 2 to 120 layers"),
    "budget no number": (["--by", "source", "--budget", "x"], 2, "invalid int value: 'x'"),
    "compression": (["--compression", "xz"], 2, "invalid choice: 'xz'"),
    "stream of none": (["--compression", "none", "--single-stream"], 2, "have no streams"),
    "stream of chunked": (["--compression", "zstd:chunked", "--single-stream"], 2, "a stream of its own"),
    "level alone": (["--compression-level", "9"], 2, "a level is of a compression"),
    "level of none": (["--compression", "none", "--compression-level", "9"], 2, "a level is of a compression"),
    "level too high": (["--compression", "gzip", "--compression-level", "13"], 2, "gzip has the levels 1 to 12"),
    "level no number": (["--compression", "zstd", "--compression-level", "much"], 2, "zstd has the levels 1 to 19"),
    "whole and from": (["--by", "single", "--whole", "--from", "other:1"], 2, "leave one of them out"),
    "upper case": (["New:1", "--by", "single"], 1, "names are lower case"),
    "tag with a digest": (["--tag", "new:1@sha256:" + "0" * 64, "--by", "single"], 1, "which is not given"),
    "empty": (["", "--by", "single"], 2, "NEW is empty"),
    "architecture": (["new:1", "--arch", "z80", "--by", "single"], 1, "no such architecture"),
    "from unknown": (["new:1", "--from", "nothing:1", "--by", "single"], 1, "there is no image `nothing:1`"),
    "epoch": (["new:1", "--by", "single"], 2, "SOURCE_DATE_EPOCH"),
}


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_command_line_is_told(case: str, command: tuple[Program, ImageStore]) -> None:
    program, images = command
    words, status, told = USAGE[case]
    before = everything(images)
    done = program("relayer", "deb:1", *words, **({"SOURCE_DATE_EPOCH": "soon"} if case == "epoch" else {}))
    assert done.status == status, done.err
    assert told in done.err and "Traceback" not in done.err and done.out == ""
    assert everything(images) == before


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("reference", "told", "status"),
    [
        ("nothing:1", "there is no image `nothing:1`", 1),
        ("Deb:1", "names are lower case", 1),
        ("sha256:{digest}", "is no tag that could be moved", 2),
    ],
    ids=["unknown", "upper case", "digest"],
)
def test_a_reference_that_cannot_serve_is_told(
    reference: str, told: str, status: int, command: tuple[Program, ImageStore]
) -> None:
    program, images = command
    done = program("relayer", reference.format(digest=images.find("deb:1").hex), "--by", "single")
    assert (done.status, done.out) == (status, "") and told in done.err


def test_names_move_as_tags_do(command: tuple[Program, ImageStore]) -> None:
    program, images = command
    old = images.find("deb:1").digest
    done = program("relayer", "deb:1", "other:1", "--by", "source", "--tag", "more:1", "--tag", "other:1")
    new = images.find("other:1").digest
    assert done.status == 0 and done.out == f"other:1@{new}\nmore:1@{new}\n", done.err
    assert images.find("more:1").digest == new and images.find("deb:1").digest == old
    answer = program("relayer", "deb:1", "--compression", "zstd", "--json").json
    assert answer["references"] == ["deb:1"] and answer["images"][0]["before"] == old
    assert images.find("deb:1").digest == answer["digest"] == answer["images"][0]["digest"] != old
    assert len(answer["images"][0]["layers"]) == 2 and answer["images"][0]["made_of"] == "layers"
