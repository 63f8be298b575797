"""Commit: what a container wrote becomes a layer, exactly, over layers that stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mkroot.container.commit import Words, commit
from mkroot.container.record import Container, Containers, new_id
from mkroot.errors import ContainerError, ImageError, UsageError
from mkroot.oci.instructions import changed
from mkroot.oci.model import DOCKER_LAYER, DOCKER_MANIFEST, Descriptor
from mkroot.oci.reference import Reference
from mkroot.oci.validate import verify
from mkroot.rootfs.identity import Identity
from tests.unit.commands import Program
from tests.unit.images import EPOCH, add_image, layer_names, store

BASE = {"etc/base": b"base\n", "etc/old": b"old\n", "srv/a/x": b"x", "usr/bin/sh": b"\x7fELF"}
HERE = Identity("root", "here")
NOW = 1_700_000_100


class Box:
    """A store with an image `box:1` and a container that stands on it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.images = store(folder)
        self.parent = add_image(self.images, "box:1", [BASE], **changes)
        self.containers = Containers(self.images.store)
        self.container = Container(
            id=new_id(),
            name="brave_one",
            image=self.parent.digest,
            reference="box:1",
            created=EPOCH,
            command=("/bin/sh", "-c", "true"),
            identity="here",
        )
        self.containers.create(self.container)
        self.upper = self.containers.upper(self.container)

    def file(self, path: str, content: bytes = b"", mode: int = 0o644, mtime: int = EPOCH + 5) -> Path:
        place = self.upper / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(mode)
        os.utime(place, (mtime, mtime))
        return place

    def hide(self, path: str) -> None:
        (self.upper / path).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(self.upper / path, stat.S_IFCHR, os.makedev(0, 0))

    def commit(self, name: str = "box:2", **words: Any) -> Descriptor:
        given = {"created": NOW, **words}
        with self.images.using():
            made, _ = commit(self.images, self.containers, self.container, HERE, Words(**given))
            self.images.tag(made, Reference.parse(name))
        return made

    def config(self, image: Descriptor) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.images.layout().read(self.images.load(image).manifest.config))
        return found


def test_the_layer_is_what_was_written_and_removed(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.file("etc/new", b"new\n", 0o640)
    box.file("opt/deep/er/run", b"#!", 0o4755)
    os.link(box.upper / "etc/new", box.upper / "etc/same")
    os.symlink("../etc/new", box.upper / "opt/link")
    os.mkfifo(box.upper / "opt/pipe", 0o600)
    box.hide("etc/old")
    box.hide("gone")
    box.file("srv/a/y", b"y")
    os.setxattr(box.upper / "srv/a", "user.overlay.opaque", b"y")
    with contextlib.chdir(box.upper), socket.socket(socket.AF_UNIX) as listener:  # a socket's path must be short
        listener.bind("sock")
    with open(box.upper / "sparse", "wb") as f:
        f.truncate(3_000_000)
        f.seek(1_000_000)
        f.write(b"data")
    image = box.commit()
    members = layer_names(box.images, image)
    assert list(members) == [
        ".wh.gone", "etc", "etc/.wh.old", "etc/new", "etc/same", "opt", "opt/deep", "opt/deep/er", "opt/deep/er/run",
        "opt/link", "opt/pipe", "sparse", "srv", "srv/a", "srv/a/.wh..wh..opq", "srv/a/y",
    ]  # fmt: skip
    assert members["etc/same"].islnk() and members["etc/same"].linkname == "etc/new"
    assert (members["etc/new"].mode, members["etc/new"].size, members["etc/new"].mtime) == (0o640, 4, EPOCH + 5)
    assert members["opt/deep/er/run"].mode == 0o4755 and members["opt/pipe"].isfifo()
    assert members["opt/link"].linkname == "../etc/new" and members["sparse"].size == 3_000_000
    assert not any("xattr" in key for m in members.values() for key in m.pax_headers)
    verify(box.images.layout(), image)


def test_attributes_and_a_files_capabilities_come_along(tmp_path: Path) -> None:
    box = Box(tmp_path)
    place = box.file("usr/bin/ping", b"ping", 0o755)
    os.setxattr(place, "user.note", b"kept")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    if os.geteuid() == 0:
        os.setxattr(place, "security.capability", capability)
    member = layer_names(box.images, box.commit())["usr/bin/ping"]
    assert member.pax_headers["SCHILY.xattr.user.note"] == "kept"
    if os.geteuid() == 0:
        value = member.pax_headers["SCHILY.xattr.security.capability"]
        assert value.encode("utf-8", "surrogateescape") == capability


def test_devices_are_kept(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root makes devices")
    box = Box(tmp_path)
    os.mknod(box.upper / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    member = layer_names(box.images, box.commit())["null"]
    assert member.ischr() and (member.devmajor, member.devminor) == (1, 3)


def test_the_parent_is_kept_and_history_tells_of_the_new_layer(tmp_path: Path) -> None:
    box = Box(tmp_path, config={"Env": ["PATH=/bin", "A=1"], "Healthcheck": {"Test": ["NONE"]}, "User": "app"})
    before = box.config(box.parent)
    box.file("new", b"n")
    image = box.commit(message="add vim", author="me <me@box.example>")
    old, new = box.images.load(box.parent), box.images.load(image)
    assert new.manifest.layers[:-1] == old.manifest.layers
    assert new.config.rootfs.diff_ids[:-1] == old.config.rootfs.diff_ids
    after = box.config(image)
    assert after["config"] == before["config"], "what mkroot knows nothing of is kept, too"
    assert after["history"][:-1] == before["history"]
    assert after["history"][-1] == {
        "created": "2023-11-14T22:15:00Z",
        "created_by": "/bin/sh -c true",
        "author": "me <me@box.example>",
        "comment": "add vim",
    }
    assert after["author"] == "me <me@box.example>" and after["created"] == "2023-11-14T22:15:00Z"
    assert box.images.find("box:1").digest == box.parent.digest


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_the_same_tree_gives_the_same_digest_under_an_epoch(tmp_path: Path, compression: str) -> None:
    digests = []
    for number in range(2):
        box = Box(tmp_path / str(number))
        for n in range(30):
            box.file(f"d/{n:03}", bytes([n]) * 400_000, mtime=EPOCH + number * 1000 + n)
        os.utime(box.upper / "d", (EPOCH + number, EPOCH + number))
        digests.append(box.commit(created=EPOCH, latest=EPOCH, compression=compression).digest)
        assert {m.mtime for m in layer_names(box.images, box.images.find("box:2")).values()} == {EPOCH}
        verify(box.images.layout(), box.images.find("box:2"))
    assert digests[0] == digests[1]


def test_older_times_are_kept_under_an_epoch(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.file("old", b"", mtime=1000)
    assert layer_names(box.images, box.commit(latest=EPOCH))["old"].mtime == 1000


def test_a_container_that_wrote_nothing_gives_no_layer(tmp_path: Path) -> None:
    box = Box(tmp_path)
    image = box.commit(message="just a config", changes=('CMD ["x"]',))
    assert box.images.load(image).manifest.layers == box.images.load(box.parent).manifest.layers
    assert box.config(image)["history"][-1]["empty_layer"] is True
    verify(box.images.layout(), image)


def test_a_parent_in_dockers_words_becomes_an_image_of_one_kind(tmp_path: Path) -> None:
    box = Box(tmp_path)
    old = box.images.load(box.parent)
    document = json.loads(box.images.layout().read(box.parent))
    document["mediaType"] = DOCKER_MANIFEST
    document["layers"][0]["mediaType"] = DOCKER_LAYER + ".gzip"
    put = box.images.layout().put(json.dumps(document).encode(), DOCKER_MANIFEST)
    box.images.tag(put, Reference.parse("box:docker"))
    box.container = msgspec.structs.replace(box.container, image=put.digest)
    box.file("new", b"n")
    new = box.images.load(box.commit())
    assert [d.digest for d in new.manifest.layers[:-1]] == [d.digest for d in old.manifest.layers]
    assert {d.media_type for d in new.manifest.layers} == {"application/vnd.oci.image.layer.v1.tar+gzip"}


def test_owners_that_a_single_id_cannot_give_come_from_the_record(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.file("srv/b", b"b")
    os.setxattr(box.upper / "srv/b", "user.mkroot.owner", b"33:34")
    os.symlink("b", box.upper / "srv/l")
    box.container = msgspec.structs.replace(box.container, owners={"srv/l": (5, 6)})
    members = layer_names(box.images, box.commit())
    assert (members["srv/b"].uid, members["srv/b"].gid) == (33, 34)
    assert (members["srv/l"].uid, members["srv/l"].gid) == (5, 6)


def test_a_container_of_other_ids_and_one_without_its_image_are_refused(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.container = msgspec.structs.replace(box.container, identity="u100000")
    with pytest.raises(ContainerError, match="belongs to another user"):
        box.commit()
    box.container = msgspec.structs.replace(box.container, identity="here", image="sha256:" + "0" * 64)
    with pytest.raises(ImageError, match="not in the store any more"):
        box.commit()


def test_a_name_that_means_a_removal_is_refused(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.file("etc/.wh.passwd", b"x")
    with pytest.raises(ImageError, match=r"/etc/\.wh\.passwd cannot be in an image"):
        box.commit()


def test_a_file_that_shrinks_under_way_is_told_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mkroot.container import commit as module

    box = Box(tmp_path)
    place = box.file("log", b"x" * 1000)
    read = module.read_upper

    def later(*words: Any, **more: Any) -> Any:
        found = read(*words, **more)
        place.write_bytes(b"short")
        return found

    monkeypatch.setattr(module, "read_upper", later)
    before = sorted(os.listdir(box.images.root / "blobs/sha256"))
    with pytest.raises(ImageError, match="/log was changed while it was read"):
        box.commit()
    assert sorted(os.listdir(box.images.root / "blobs/sha256")) == before
    assert os.listdir(box.images.store.root / "tmp") == []


# The command


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("brave_one", "MyUbuntu"), 1, "write `myubuntu`"),
        (("brave_on", "box:2"), 1, "did you mean `brave_one`?"),
        (("ffffffff", "box:2"), 1, "there is no container"),
        (("-c", "RUN ls", "brave_one", "box:2"), 2, "known are CMD, ENTRYPOINT"),
        (("-c", "EXPOSE many", "brave_one", "box:2"), 2, "not a port"),
        (("brave_one", f"box@sha256:{'0' * 64}"), 1, "has a digest"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, words: tuple[str, ...], status: int, said: str) -> None:
    box = Box(tmp_path)
    done = Program(tmp_path)("commit", *words)
    assert done.status == status and said in done.err, done.err
    assert [r.reference for r in box.images.images()] == ["box:1"]


def test_the_command_commits_by_the_beginning_of_an_id(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("as an ordinary user the identity is another than this test gives the container")
    box = Box(tmp_path)
    box.containers.save(msgspec.structs.replace(box.container, identity="root"))
    box.file("new", b"n", mtime=EPOCH + 1000)
    program = Program(tmp_path)
    change = ("-c", "ENV EDITOR=vim", "-c", "WORKDIR /srv")
    done = program(
        "commit", "-m", "add vim", "-a", "me", *change, box.container.id[:6], "box:2", SOURCE_DATE_EPOCH=str(EPOCH)
    )
    image = box.images.load(box.images.find("box:2"))
    assert (done.status, done.out) == (0, image.id + "\n"), done.err
    again = program("commit", "-m", "add vim", "-a", "me", *change, "brave_one", "box:3", SOURCE_DATE_EPOCH=str(EPOCH))
    assert again.out == done.out
    assert image.config.config is not None and image.config.config.env == ("PATH=/bin", "EDITOR=vim")
    told = program("history", "--json", "box:2").json
    assert (told[0]["comment"], told[0]["author"], told[0]["created"]) == ("add vim", "me", "2023-11-14T22:13:20Z")


# Changes of the config


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (['CMD ["vim", "-R"]'], {"Cmd": ["vim", "-R"]}),
        (["CMD vim -R $HOME"], {"Cmd": ["/bin/sh", "-c", "vim -R $HOME"]}),
        (["cmd []"], {"Cmd": []}),
        (['ENTRYPOINT ["a"]'], {"Cmd": None, "Entrypoint": ["a"]}),
        (['ENTRYPOINT ["a"]', 'CMD ["b"]'], {"Cmd": ["b"], "Entrypoint": ["a"]}),
        (["ENV A=2 B='x y' C=\"$A-${A}\\\"\""], {"Env": ["PATH=/bin", "A=2", "B=x y", 'C=1-1"']}),
        (["ENV D some words here"], {"Env": ["PATH=/bin", "A=1", "D=some words here"]}),
        (["ENV PATH=$PATH:/opt E='$A'"], {"Env": ["PATH=/bin:/opt", "A=1", "E=$A"]}),
        (["WORKDIR srv", "WORKDIR ../opt/$A"], {"WorkingDir": "/opt/1"}),
        (["USER app:app"], {"User": "app:app"}),
        (["EXPOSE 80 53/UDP"], {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        (["EXPOSE 80-82/sctp"], {"ExposedPorts": {"80/sctp": {}, "81/sctp": {}, "82/sctp": {}}}),
        (['VOLUME ["/data", "/x y"]', "VOLUME /z"], {"Volumes": {"/data": {}, "/x y": {}, "/z": {}}}),
        (["LABEL a=b c='d e'"], {"Labels": {"k": "v", "a": "b", "c": "d e"}}),
        (["STOPSIGNAL SIGINT"], {"StopSignal": "SIGINT"}),
    ],
)  # fmt: skip
def test_changes_of_the_config(texts: list[str], expected: dict[str, Any]) -> None:
    before = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "A=1"], "Labels": {"k": "v"}, "Healthcheck": {"Test": ["NONE"]}}
    wanted = {k: v for k, v in {**before, **expected}.items() if v is not None}
    assert changed(before, texts) == wanted


@pytest.mark.parametrize(
    "text", ["", "CMD", "ENV A", "ENV =x", "ENV 1A=x", "EXPOSE 0", "EXPOSE 9-8", "EXPOSE 70000", "LABEL 'a", "USER a b"]
)
def test_faulty_changes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        changed({}, [text])


def test_the_layers_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.file("new", os.urandom(9_000_000))
    layer = box.images.load(box.commit()).manifest.layers[-1]
    data = box.images.layout().path(layer.digest).read_bytes()
    assert (len(data), "sha256:" + hashlib.sha256(data).hexdigest()) == (layer.size, layer.digest)
