"""Tags and what goes with them: tag, rmi, nearest names, inheritance, and what a collection leaves."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mkroot.container.record import Container, Containers, new_id
from mkroot.errors import ImageError
from mkroot.oci.descent import descent
from mkroot.oci.layers import image_root
from mkroot.oci.reference import Reference
from mkroot.oci.removal import sweep, untag
from mkroot.store.layer import LayerStore, frame_key
from tests.unit.commands import Program
from tests.unit.images import add_image, store

BASE = {"etc/base": b"base\n"}


def container(folder: Path, digest: str, name: str, layers: tuple[str, ...] = ()) -> Container:
    made = Container(
        id=new_id(), name=name, image=digest, reference="box:1", created=1, command=("/bin/sh",), layers=layers
    )
    Containers(store(folder).store).create(made)
    return made


def blobs(folder: Path) -> list[str]:
    return os.listdir(folder / "store/oci/blobs/sha256")


def test_tag_gives_a_second_name_and_moves_one(tmp_path: Path) -> None:
    program = Program(tmp_path)
    images = store(tmp_path)
    one = add_image(images, "box:1", [BASE])
    two = add_image(images, "box:2", [BASE, {"new": b""}])
    assert program("tag", "box:1", "127.0.0.1:5000/team/box").status == 0
    assert images.references(one.digest) == ("127.0.0.1:5000/team/box:latest", "box:1")
    assert program("tag", two.hex[:12], "box:1").status == 0
    assert images.references(two.digest) == ("box:1", "box:2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tag", "box:1", "MyBox:1"), "write `mybox:1`"),
        (("tag", "box:1", f"box@sha256:{'0' * 64}"), "has a digest"),
        (("tag", "box", "other"), "did you mean `box:1`?"),
        (("tag", "bax:1", "other"), "did you mean `box:1`?"),
        (("rmi", "boxx"), "did you mean `box:1`?"),
        (("rmi", "MyBox"), "write `mybox`"),
        (("inspect", "team/box:1"), "did you mean `box:1`?"),
    ],
)
def test_wrong_names_are_answered_with_right_ones(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    add_image(store(tmp_path), "box:1", [BASE])
    done = Program(tmp_path)(*words)
    assert done.status == 1 and said in done.err, done.err
    assert [r.reference for r in store(tmp_path).images()] == ["box:1"]


def test_an_image_goes_with_its_last_tag_and_leaves_what_others_have(tmp_path: Path) -> None:
    program = Program(tmp_path)
    images = store(tmp_path)
    base = add_image(images, "box:1", [BASE])
    upper = add_image(images, "box:2", [BASE, {"new": b"n"}])
    program("tag", "box:2", "other:2")
    done = program("rmi", "box:2")
    assert (done.status, done.out) == (0, "Untagged: box:2\n"), done.err
    assert len(blobs(tmp_path)) == 6
    top = images.load(upper).manifest.layers[1]
    done = program("rmi", "other:2")
    assert done.out == f"Untagged: other:2\nDeleted: {upper.digest}\nDeleted: {top.digest}\n"
    assert len(blobs(tmp_path)) == 3 and images.layout().has(images.load(base).manifest.layers[0])


def test_a_digest_or_id_names_all_tags_and_several_need_force(tmp_path: Path) -> None:
    program = Program(tmp_path)
    image = add_image(store(tmp_path), "box:1", [BASE])
    program("tag", "box:1", "box:2")
    for name in (image.digest, image.hex[:12], f"box@{image.digest}"):
        done = program("rmi", name)
        assert done.status == 1 and "has 2 tags: box:1, box:2" in done.err
    done = program("rmi", "-f", image.hex[:12])
    assert done.out.startswith(f"Untagged: box:1\nUntagged: box:2\nDeleted: {image.digest}\n")
    assert blobs(tmp_path) == []


def test_a_used_image_is_refused_and_with_force_only_its_tag_goes(tmp_path: Path) -> None:
    program = Program(tmp_path)
    image = add_image(store(tmp_path), "box:1", [BASE])
    made = container(tmp_path, image.digest, "brave_one")
    done = program("rmi", "box:1")
    assert done.status == 1 and "used by the container brave_one" in done.err and "mkroot rm brave_one" in done.err
    program("tag", "box:1", "box:2")
    assert program("rmi", "box:1").out == "Untagged: box:1\n", "another tag stays, so nothing is lost"
    assert program("rmi", "-f", "box:2").out == "Untagged: box:2\n"
    assert store(tmp_path).load(store(tmp_path).held(image.digest)).digest == image.digest
    program("cache", "prune", "--all")
    assert len(blobs(tmp_path)) == 3
    assert Containers(store(tmp_path).store).get(made.id) == made, "pruning leaves containers alone"
    Containers(store(tmp_path).store).remove(made)
    program("cache", "prune", "--all")
    assert blobs(tmp_path) == []


def test_pruning_leaves_the_layers_on_which_containers_stand(tmp_path: Path) -> None:
    images = store(tmp_path)
    layers = LayerStore(images.store)
    one, two = add_image(images, "box:1", [BASE]), add_image(images, "box:2", [{"new": b"n"}])
    (used,) = (layer.key for layer in image_root(layers, images, images.load(one)).tops)
    (idle,) = (layer.key for layer in image_root(layers, images, images.load(two)).tops)
    container(tmp_path, one.digest, "brave_one", (used,))
    Program(tmp_path)("cache", "prune", "--all")
    assert (layers.has(used), layers.has(idle)) == (True, False)
    assert images.store.has("frames", frame_key(used, "zstd"))


def test_one_refusal_does_not_keep_the_others(tmp_path: Path) -> None:
    images = store(tmp_path)
    add_image(images, "box:1", [BASE])
    add_image(images, "box:2", [{"a": b"1"}])
    done = Program(tmp_path)("rmi", "box:2", "nothing:1", "box:1")
    assert done.status == 1 and done.out.count("Untagged") == 2 and "nothing:1" in done.err
    assert images.images() == []


def test_all_takes_every_tag_and_keeps_what_containers_need(tmp_path: Path) -> None:
    images = store(tmp_path)
    used = add_image(images, "box:1", [BASE])
    add_image(images, "box:2", [{"a": b"1"}])
    container(tmp_path, used.digest, "one")
    done = Program(tmp_path)("rmi", "--all")
    assert done.status == 0 and done.out.startswith("Untagged: box:1\nUntagged: box:2\nDeleted: ")
    assert images.images() == [] and len(blobs(tmp_path)) == 3
    assert Program(tmp_path)("rmi").status == Program(tmp_path)("rmi", "--all", "box:1").status == 2


def test_an_index_is_used_when_one_of_its_images_is(tmp_path: Path) -> None:
    images = store(tmp_path)
    one = add_image(images, "one:1", [BASE])
    two = add_image(images, "two:1", [{"a": b"1"}])
    images.tag_platforms([one, two], Reference.parse("both:1"))
    with pytest.raises(ImageError, match="used by the containers a, b"):
        untag(images, "both:1", {two.digest: ["b", "a"]})
    gone, tags = untag(images, "both:1", {two.digest: ["b", "a"]}, force=True)
    images.untag(Reference.parse("one:1"))
    images.untag(Reference.parse("two:1"))
    removed = sweep(images, [gone], tags, lambda: {two.digest: ["b"]})
    assert one.digest in removed.deleted and two.digest not in removed.deleted and removed.size > 0


def test_a_container_made_while_the_collection_waited_keeps_its_image(tmp_path: Path) -> None:
    images = store(tmp_path)
    image = add_image(images, "box:1", [BASE])
    started, done = threading.Event(), threading.Event()

    def remove() -> None:
        started.set()
        gone, tags = untag(images, "box:1", {})
        sweep(images, [gone], tags, lambda: {c.image: [c.name] for c in Containers(images.store).list()})
        done.set()

    with images.using():
        thread = threading.Thread(target=remove)
        thread.start()
        assert started.wait(5) and not done.wait(0.2)
        container(tmp_path, image.digest, "late")
    thread.join(10)
    assert done.is_set() and len(blobs(tmp_path)) == 3


def test_what_was_unpacked_of_an_image_goes_with_it(tmp_path: Path) -> None:
    images = store(tmp_path)
    layers = LayerStore(images.store)
    one, two = add_image(images, "box:1", [BASE]), add_image(images, "box:2", [BASE, {"new": b"n"}])
    keys = [layer.key for layer in image_root(layers, images, images.load(two)).tops]
    tree = images.store.root / "trees-here" / keys[1][:2] / keys[1]
    tree.mkdir(parents=True)
    with images.store.lock("store", "in-use", shared=True):  # a build
        gone, tags = untag(images, "box:2", {})
        sweep(images, [gone], tags, dict)
    assert [layers.has(key) for key in keys] == [True, True] and tree.exists()
    images.tag_platforms([one], Reference.parse("box:3"))
    two = add_image(images, "box:2", [BASE, {"new": b"n"}])
    gone, tags = untag(images, "box:2", {})
    assert sweep(images, [gone], tags, dict).size > 0
    assert [layers.has(key) for key in keys] == [True, False] and not tree.exists()
    assert len(os.listdir(images.store.root / "frames" / frame_key(keys[0], "zstd")[:2])) == 1
    assert not images.store.has("frames", frame_key(keys[1], "zstd"))


def test_an_untagged_image_gets_a_tag_and_no_second_row(tmp_path: Path) -> None:
    images = store(tmp_path)
    image = add_image(images, "box:1", [BASE])
    images.untag(Reference.parse("box:1"))
    images.keep(image)
    images.keep(image)
    assert [r.reference for r in images.images()] == [""]
    images.tag(image, Reference.parse("box:2"))
    assert [r.reference for r in images.images()] == ["box:2"]


def test_the_tree_draws_which_image_stands_on_which(tmp_path: Path) -> None:
    images = store(tmp_path)
    add_image(images, "base:1", [BASE])
    add_image(images, "app:1", [BASE, {"app": b"1"}])
    add_image(images, "app:2", [BASE, {"app": b"1"}, {"more": b"2"}])
    add_image(images, "app:cmd", [BASE, {"app": b"1"}], config={"Cmd": ["x"]}, created="2023-11-15T00:00:00Z")
    add_image(images, "tool:1", [BASE, {"tool": b"1"}])
    add_image(images, "alone:1", [{"alone": b"1"}])
    program = Program(tmp_path)
    names = [line.split("   ")[0] for line in program("images", "--tree").out.replace("│   ", "│...").splitlines()[1:]]
    assert names == ["alone:1", "base:1", "├── app:1", "│...├── app:2", "│...└── app:cmd", "└── tool:1"]
    base = descent(images)[1]
    assert base.own == base.size > 0
    assert base.children[1].own == base.children[1].size - base.size
    assert program("images", "--tree", "--json").json[1]["references"] == ["base:1"]
    assert program("images", "--tree", "base").status == 2


def test_images_in_short_and_in_full(tmp_path: Path) -> None:
    image = add_image(store(tmp_path), "box:1", [BASE])
    program = Program(tmp_path)
    program("tag", "box:1", "other:1")
    assert program("images", "-q").out == image.hex[:12] + "\n"
    assert program("images", "-q", "--no-trunc").out == image.digest + "\n"
    assert image.digest in program("images", "--digests").out
    assert program("images", "other").out.count("box:1") == 0
    assert set(program("images", "--json").json[0]) == {
        "reference", "digest", "size", "unique", "shared", "created", "layers"
    }  # fmt: skip
