"""Images on a parent: its own dpkg installs and upgrades over it, its layers stay, and the rest is one more layer."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mkroot.oci.reference import Reference
from mkroot.oci.store import Image, ImageStore
from mkroot.store.store import Store
from tests.testarchive import Archive, File
from tests.unit.commands import Program
from tests.unit.images import layer_names
from tests.unit.parents import base_tar, installed

LOG = "echo {name} {script} $* >> /var/log.txt\n"


def scripts(name: str) -> dict[str, str]:
    return {s: "#!/bin/sh\n" + LOG.format(name=name, script=s) for s in ("preinst", "postinst", "prerm", "postrm")}


def archive_of(folder: Path) -> Archive:
    archive = Archive(folder)
    archive.add(
        "lib",
        "1.0",
        files={"usr/lib/lib.so": b"one", "usr/lib/gone.so": b"old", "etc/lib.conf": b"default 1\n"},
        conffiles=["/etc/lib.conf"],
        scripts=scripts("lib"),
    )
    archive.add("lib-tools", "1.0", source="lib", depends="lib (>= 1)", files={"usr/bin/lib-tools": b"tools 1"})
    archive.add("calm", "1.0", files={"usr/bin/calm": b"calm 1"})
    archive.add("tool", "1.0", depends="lib", files={"usr/bin/tool": File(content=b"tool", mode=0o755)})
    archive.uri  # noqa: B018 -- published
    return archive


def more(archive: Archive) -> None:
    """What the archive has later."""
    archive.add(
        "lib",
        "2.0",
        files={"usr/lib/lib.so": b"two", "usr/lib/new.so": b"new", "etc/lib.conf": b"default 2\n"},
        conffiles=["/etc/lib.conf"],
        scripts=scripts("lib"),
    )
    archive.add("lib-tools", "2.0", source="lib", depends="lib (>= 1)", files={"usr/bin/lib-tools": b"tools 2"})
    archive.add("calm", "2.0", files={"usr/bin/calm": b"calm 2"})
    archive.add("app", "1.0", depends="lib (>= 2)", files={"usr/share/app": b"app"}, scripts=scripts("app"))
    archive.add("thief", "1.0", files={"usr/bin/calm": b"mine"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Archive]:
    """A store with the image `mid:1`, on which lib, lib-tools and calm are in version 1, and a newer archive."""
    folder = tmp_path_factory.mktemp("parents")
    program = Program(folder)
    base_tar(folder / "bare.tar", files={"etc/keep": b"kept"})
    done = program("import", "bare.tar", "bare:1", "-c", "ENV A=1 B=2", "-c", 'CMD ["/bin/sh"]', "--arch", "amd64")
    assert done.status == 0, done.err
    archive = archive_of(folder / "archive")
    made = build(program, archive, "mid", "bare:1", ["lib", "lib-tools", "calm"])
    assert made.status == 0, made.err
    more(archive)
    return program, archive


@pytest.fixture(scope="module")
def upgraded(world: tuple[Program, Archive]) -> Any:
    """What the build of `up:1` said: `mid:1` with app, which needs lib in version 2."""
    return build(*world, "up", "mid:1", ["app"])


def recipe(archive: Archive, name: str, parent: str, include: list[str], **extra: Any) -> dict[str, Any]:
    image = {"from": parent, "tags": [f"{name}:1"], **extra.pop("image", {})}
    packages = {"packages": {"include": include}} if include else {}
    return archive.recipe(name=name, outputs=["oci"], image=image, **packages, **extra)


def build(program: Program, archive: Archive, name: str, parent: str, include: list[str], **extra: Any) -> Any:
    environ = extra.pop("environ", {})
    program.recipe(f"{name}.yaml", recipe(archive, name, parent, include, **extra))
    return program("build", f"{name}.yaml", "-o", "out", "--no-lock", **environ)


def image_of(program: Program, reference: str) -> tuple[ImageStore, Image]:
    images = ImageStore(Store(program.folder / "store"))
    return images, images.load(images.find(reference))


def own(program: Program, reference: str) -> dict[str, Any]:
    images, image = image_of(program, reference)
    return dict(layer_names(images, image.descriptor))


def text(program: Program, reference: str, path: str) -> str:
    done = program("export", reference, "text.tar")
    assert done.status == 0, done.err
    with tarfile.open(program.folder / "text.tar") as tar:
        return tar.extractfile(path).read().decode()  # type: ignore[union-attr]


MOTD = {"files": [{"path": "/etc/motd", "content": "hi"}]}


def strange(program: Program, reference: str, arch: str = "amd64") -> None:
    """Import an image without a dpkg database."""
    with tarfile.open(program.folder / "strange.tar", "w") as tar:
        info = tarfile.TarInfo("etc/os-release")
        info.size = len(b"ID=strange\n")
        tar.addfile(info, io.BytesIO(b"ID=strange\n"))
    done = program("import", "strange.tar", reference, "--arch", arch)
    assert done.status == 0, done.err


def test_new_packages_make_one_layer_and_the_parents_stay(world: tuple[Program, Archive]) -> None:
    program, archive = world
    done = build(program, archive, "plain", "mid:1", ["tool"])
    assert done.status == 0, done.err
    _, parent = image_of(program, "mid:1")
    _, image = image_of(program, "plain:1")
    assert image.manifest.layers[:-1] == parent.manifest.layers
    assert image.config.rootfs.diff_ids[:-1] == parent.config.rootfs.diff_ids
    assert image.config.history[: len(parent.config.history)] == parent.config.history
    assert image.manifest.annotations["org.opencontainers.image.base.digest"] == parent.digest
    assert image.manifest.annotations["org.opencontainers.image.base.name"] == "mid:1"
    names = own(program, "plain:1")
    assert "usr/bin/tool" in names and "usr/lib/lib.so" not in names and "usr/bin/dpkg" not in names
    assert not any(".packages" in n for n in names)
    assert installed(program, "plain:1") == dict.fromkeys(("lib", "lib-tools", "calm", "tool"), ("installed", "1.0"))


def test_an_upgrade_is_dpkgs_own(world: tuple[Program, Archive], upgraded: Any) -> None:
    program, _ = world
    assert upgraded.status == 0, upgraded.err
    found = installed(program, "up:1")
    assert found == {
        "app": ("installed", "1.0"),
        "calm": ("installed", "1.0"),
        "lib": ("installed", "2.0"),
        "lib-tools": ("installed", "2.0"),  # of the same source, as apt has it
    }
    names = own(program, "up:1")
    assert {"usr/lib/.wh.gone.so", "usr/lib/lib.so", "usr/lib/new.so"} <= set(names)
    assert "usr/lib/gone.so" not in names and "usr/bin/calm" not in names
    log = text(program, "up:1", "var/log.txt").splitlines()
    for line in ("lib prerm upgrade 2.0", "lib preinst upgrade 1.0 2.0", "lib postrm upgrade 2.0"):
        assert line in log
    assert log[-2:] == ["lib postinst configure 1.0", "app postinst configure"]


def test_a_conffile_that_was_changed_stays(world: tuple[Program, Archive], upgraded: Any) -> None:
    program, archive = world
    files = {"files": [{"path": "/etc/lib.conf", "content": "mine\n"}]}
    assert build(program, archive, "changed", "mid:1", [], config=files).status == 0
    done = build(program, archive, "kept", "changed:1", ["app"])
    assert (done.status, upgraded.status) == (0, 0), done.err + upgraded.err
    assert text(program, "kept:1", "etc/lib.conf") == "mine\n"
    assert text(program, "up:1", "etc/lib.conf") == "default 2\n"


def test_plan_tells_new_and_upgraded(world: tuple[Program, Archive]) -> None:
    program, archive = world
    program.recipe("p.yaml", recipe(archive, "p", "mid:1", ["app"]))
    rows = {p["name"]: p for p in program("plan", "p.yaml", "--json").json["packages"]}
    assert set(rows) == {"lib", "lib-tools", "app"}
    assert (rows["lib"]["upgrades"], rows["lib"]["why"]) == ("1.0", "app depends on lib (>= 2)")
    assert rows["lib-tools"]["why"] == "upgrade with lib, of the same source"
    assert "upgrades" not in rows["app"]
    told = program("plan", "p.yaml")
    assert "1.0 → 2.0" in told.out and "3 packages (2 upgraded)" in told.err


def test_an_include_that_is_there_is_upgraded(world: tuple[Program, Archive]) -> None:
    program, archive = world
    program.recipe("named.yaml", recipe(archive, "named", "mid:1", ["calm"]))
    found = {p["name"]: p["version"] for p in program("plan", "named.yaml", "--json").json["packages"]}
    assert found == {"calm": "2.0"}
    program.recipe("same.yaml", recipe(archive, "same", "mid:1", ["calm=1.0"]))
    assert program("plan", "same.yaml", "--json").json["packages"] == []


def test_a_file_of_the_parents_package_is_refused_as_dpkg_does(world: tuple[Program, Archive]) -> None:
    program, archive = world
    done = build(program, archive, "conflict", "mid:1", ["thief"])
    assert done.status == 1
    assert "trying to overwrite" in done.err and "calm" in done.err
    assert "Traceback" not in done.err
    assert not (program.folder / "out/conflict").exists()


def test_the_config_is_inherited(world: tuple[Program, Archive]) -> None:
    program, archive = world
    image = {"env": {"B": "3", "C": "4"}, "user": "0", "workdir": "/tmp", "labels": {"x": "y"}}
    assert build(program, archive, "heir", "mid:1", [], image=image).status == 0
    _, found = image_of(program, "heir:1")
    assert found.config.config is not None
    assert found.config.config.env == ("A=1", "B=3", "C=4")
    assert found.config.config.cmd == ("/bin/sh",)
    assert (found.config.config.user, found.config.config.working_dir) == ("0", "/tmp")
    assert found.config.config.labels is not None and found.config.config.labels["x"] == "y"
    assert build(program, archive, "entry", "mid:1", [], image={"entrypoint": ["/bin/tar"]}).status == 0
    _, entry = image_of(program, "entry:1")
    assert entry.config.config is not None
    assert (entry.config.config.entrypoint, entry.config.config.cmd) == (("/bin/tar",), None)


def test_trim_of_the_parents_files_is_whiteouts(world: tuple[Program, Archive]) -> None:
    program, archive = world
    assert build(program, archive, "cut", "mid:1", ["tool"], trim={"paths": ["/etc/keep"]}).status == 0
    names = own(program, "cut:1")
    assert "etc/.wh.keep" in names and "etc" in names
    assert names["etc/.wh.keep"].size == 0


def test_by_source_gives_the_same_tree(world: tuple[Program, Archive], upgraded: Any) -> None:
    program, archive = world
    assert upgraded.status == 0, upgraded.err
    layers = {"layers": {"by": "source", "budget": 4}}
    assert build(program, archive, "parts", "mid:1", ["app"], image=layers).status == 0
    images, image = image_of(program, "parts:1")
    _, parent = image_of(program, "mid:1")
    first, count = len(parent.manifest.layers), len(image.manifest.layers)
    above = [layer_names(images, image.descriptor, n) for n in range(first, count)]
    assert 2 < len(above) <= 4
    assert any("usr/lib/lib.so" in names and "usr/share/app" not in names for names in above)
    assert program("diff", "up:1", "parts:1").out == ""


def test_the_same_bytes_from_a_cold_store_and_whatever_the_date(world: tuple[Program, Archive], tmp_path: Path) -> None:
    program, archive = world
    store = {"MKROOT_STORE": str(tmp_path / "store")}
    assert program("save", "mid:1", "mid.tar", "--format", "oci-archive").status == 0
    assert program("load", "mid.tar", **store).status == 0
    digests = []
    for environ in ({}, store):
        done = build(program, archive, "up", "mid:1", ["app"], environ=environ)
        assert done.status == 0, done.err
        digests.append(done.out.split()[-1])
    assert digests[0] == digests[1]
    old = build(program, archive, "early", "mid:1", ["app"], environ={"SOURCE_DATE_EPOCH": "1"})
    assert old.status == 0, old.err
    _, image = image_of(program, "early:1")
    _, parent = image_of(program, "mid:1")
    count = len(parent.config.history)
    assert image.config.history[:count] == parent.config.history
    assert image.manifest.layers[:-1] == parent.manifest.layers
    assert image.config.created == "1970-01-01T00:00:01Z"


def test_the_lock_pins_the_parent(world: tuple[Program, Archive]) -> None:
    program, archive = world
    assert build(program, archive, "moving", "mid:1", []).status == 0
    program.recipe("pinned.yaml", recipe(archive, "pinned", "moving:1", ["tool"]))
    assert program("lock", "pinned.yaml").status == 0
    lock = json.loads((program.folder / "pinned.lock").read_text())
    _, before = image_of(program, "moving:1")
    assert lock["architectures"]["amd64"]["parent"] == before.digest
    program.recipe("pinned.yaml", recipe(archive, "pinned", "mid:1", ["tool"]))
    stale = program("build", "pinned.yaml", "-o", "out")
    assert stale.status == 1 and "stale" in stale.err
    program.recipe("pinned.yaml", recipe(archive, "pinned", "moving:1", ["tool"]))
    files = {"files": [{"path": "/etc/new", "content": "new"}]}
    assert build(program, archive, "moving", "mid:1", [], config=files).status == 0
    gone = program("build", "pinned.yaml", "-o", "out")
    assert gone.status == 1
    assert "which the lock names" in gone.err and "mkroot lock" in gone.err


@pytest.mark.parametrize(
    ("parent", "extra", "told"),
    [
        ("nid:1", {}, "there is no image `nid:1`"),
        ("mid:1", {"arch": ["arm64"]}, "not for arm64"),
        ("strange:1", {}, "it has no dpkg database"),
        ("half:1", {}, "broken is `unpacked`"),
        ("mid:1", {"configure": "static"}, "its own dpkg installs packages"),
    ],
)
def test_what_cannot_be_a_parent(world: tuple[Program, Archive], parent: str, extra: dict[str, Any], told: str) -> None:
    program, archive = world
    if parent == "strange:1":
        strange(program, parent)
    if parent == "half:1":
        status = "Package: broken\nStatus: install ok unpacked\nVersion: 1\nArchitecture: all\nDescription: x\n"
        base_tar(program.folder / "half.tar", status)
        assert program("import", "half.tar", parent, "--arch", "amd64").status == 0
    done = build(program, archive, "refused", parent, ["tool"], **extra)
    assert done.status == 1
    assert told in done.err
    assert "image.from" in done.err or "configure" in done.err
    assert "Traceback" not in done.err


def test_a_strange_parent_takes_files(world: tuple[Program, Archive]) -> None:
    program, archive = world
    strange(program, "other:1")
    done = build(program, archive, "files", "other:1", [], config=MOTD)
    assert done.status == 0, done.err
    assert text(program, "files:1", "etc/motd") == "hi"


def test_each_architecture_stands_on_its_own_entry_of_an_index(world: tuple[Program, Archive]) -> None:
    program, archive = world
    for arch in ("amd64", "arm64"):
        strange(program, f"{arch}:1", arch)
    images = ImageStore(Store(program.folder / "store"))
    images.tag_platforms([images.find(f"{a}:1") for a in ("amd64", "arm64")], Reference.parse("both:1"))
    program.recipe("several.yaml", recipe(archive, "several", "both:1", [], config=MOTD) | {"arch": ["amd64", "arm64"]})
    done = program("build", "several.yaml", "-o", "out")
    assert done.status == 0, done.err
    lock = json.loads((program.folder / "several.lock").read_text())
    for arch in ("amd64", "arm64"):
        below, above = (images.load(images.find(r, arch)) for r in ("both:1", "several:1"))
        assert lock["architectures"][arch]["parent"] == below.digest
        assert above.manifest.layers[:-1] == below.manifest.layers
        assert above.config.architecture == below.config.architecture == arch
    again = program("build", "several.yaml", "-o", "out")
    assert again.status == 0 and again.out == done.out


def test_a_damaged_layer_of_the_parent_is_told(world: tuple[Program, Archive]) -> None:
    program, archive = world
    files = {"files": [{"path": "/etc/x", "content": "x"}]}
    assert build(program, archive, "victim", "mid:1", [], config=files).status == 0
    images, image = image_of(program, "victim:1")
    path = images.layout().path(image.manifest.layers[-1].digest)
    data = path.read_bytes()
    assert build(program, archive, "onvictim", "victim:1", ["tool"]).status == 0
    path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    try:
        done = build(program, archive, "again", "victim:1", ["tool"])
        assert done.status == 1
        assert "does not match its digest" in done.err
    finally:
        path.write_bytes(data)
