"""Any root's tar archive becomes an image with one layer, or is refused."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mkroot.oci.validate import verify
from tests.unit.commands import PROGRAM, Done, Program
from tests.unit.images import EPOCH, layer_names, store

AMD64, ARM64 = (b"\x7fELF\x02\x01\x01" + bytes(11) + bytes([m, 0]) + bytes(44) for m in (62, 183))


class Member(tarfile.TarInfo):
    """A member with its content."""

    content = b""


def member(name: str, what: Any = b"", mode: int = 0o755, mtime: int = EPOCH, **more: Any) -> Member:
    """A member: content, or ("link", target) and its like."""
    info = Member(name)
    info.mode, info.mtime, info.uid = mode, mtime, more.get("uid", 0)
    info.pax_headers = more.get("pax", {})
    if isinstance(what, bytes):
        info.size = len(what)
        info.content = what
    else:
        kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "dir": tarfile.DIRTYPE, "char": tarfile.CHRTYPE}
        info.type = kinds[what[0]]
        if what[0] == "char":
            info.devmajor, info.devminor = what[1]
        else:
            info.linkname = what[1]
    return info


def tar(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(info.content))
    return out.getvalue()


ROOT = (
    member("./", ("dir", ""), 0o755),
    member("./etc/", ("dir", ""), 0o750, uid=7),
    member("./etc/os-release", b"ID=tiny\n", 0o644, EPOCH + 500),
    member("./bin", ("link", "usr/bin")),
    member("./usr/bin/busybox", AMD64, 0o4755),
    member("./usr/bin/sh", ("hard", "./usr/bin/busybox")),
    member("./dev/null", ("char", (1, 3)), 0o666),
    member("./tmp/", ("dir", ""), 0o1777),
)


def imported(folder: Path, data: bytes, *words: str, **environ: str) -> Done:
    (folder / "root.tar").write_bytes(data)
    return Program(folder)("import", *words, "root.tar", "tiny:1", **environ)


def test_a_root_becomes_a_layer_in_canonical_order(tmp_path: Path) -> None:
    done = imported(tmp_path, tar(*ROOT), "-m", "from afar", "-c", 'CMD ["/bin/sh"]', "-c", "ENV A=b")
    images = store(tmp_path)
    image = images.load(images.find("tiny:1"))
    assert (done.status, done.out) == (0, image.id + "\n"), done.err
    members = layer_names(images, image.descriptor)
    assert list(members) == [
        ".", "bin", "dev", "dev/null", "etc", "etc/os-release", "tmp", "usr", "usr/bin", "usr/bin/busybox", "usr/bin/sh"
    ]  # fmt: skip
    assert members["usr/bin/sh"].islnk() and members["usr/bin/sh"].linkname == "usr/bin/busybox"
    assert (members["etc"].mode, members["etc"].uid) == (0o750, 7) and members["usr/bin/busybox"].mode == 0o4755
    assert members["dev/null"].ischr() and members["tmp"].mode == 0o1777
    assert image.config.config is not None and image.config.config.cmd == ("/bin/sh",)
    assert image.config.config.env == ("A=b",) and image.config.architecture == "amd64"
    assert [h.comment for h in image.config.history] == ["from afar"]
    verify(images.layout(), image.descriptor)


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["plain", "gzip", "xz", "zstd"],
)
def test_the_digest_is_the_trees_whatever_the_archive_looks_like(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    turned = [member("usr/bin/sh", AMD64, 0o4755), member("usr/bin/busybox", ("hard", "usr/bin/sh"))]
    rest = [m for m in ROOT if "usr" not in m.name]
    digests = set()
    for number, members in enumerate(([*ROOT], [*turned, *reversed(rest)], [member("etc/os-release"), *ROOT])):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = imported(folder, pack(tar(*members)), SOURCE_DATE_EPOCH=str(EPOCH))
        assert done.status == 0, done.err
        digests.add(store(folder).find("tiny:1").digest)
        assert max(m.mtime for m in layer_names(store(folder), store(folder).find("tiny:1")).values()) == EPOCH
    assert len(digests) == 1


def test_attributes_that_mean_something_are_kept(tmp_path: Path) -> None:
    pax = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.security.selinux": "label", "SCHILY.xattr.trusted.x": "2"}
    assert imported(tmp_path, tar(*ROOT, member("x", b"", pax=pax))).status == 0
    found = layer_names(store(tmp_path), store(tmp_path).find("tiny:1"))["x"].pax_headers
    assert found == {"SCHILY.xattr.user.a": "1"}


LINKED = (
    member("bin", ("link", "usr/bin")),
    member("usr/bin/sh", ("link", "/usr/bin/dash")),
    member("usr/bin/dash", ARM64),
)


@pytest.mark.parametrize(
    ("members", "words", "expected"),
    [
        ((member("bin/sh", ARM64),), (), ("arm64", "v8")),
        (LINKED, (), ("arm64", "v8")),
        ((member("bin/sh", b"#!"), member("sbin/init", ARM64)), (), ("arm64", "v8")),
        ((member("bin/sh", ARM64),), ("--arch", "riscv64"), ("riscv64", "")),
    ],
    ids=["shell", "links", "init", "said"],
)  # fmt: skip
def test_the_architecture_is_read_from_a_program(
    tmp_path: Path, members: tuple[Member, ...], words: tuple[str, ...], expected: tuple[str, str]
) -> None:
    assert imported(tmp_path, tar(*members), *words).status == 0
    image = store(tmp_path).load(store(tmp_path).find("tiny:1"))
    assert (image.config.architecture, image.config.variant) == expected
    index = json.loads((store(tmp_path).root / "index.json").read_bytes())
    assert index["manifests"][0]["platform"]["architecture"] == expected[0]


def test_standard_input_and_no_name(tmp_path: Path) -> None:
    import subprocess

    environ = Program(tmp_path).environ
    done = subprocess.run([*PROGRAM, "import", "-"], input=tar(*ROOT), env=environ, capture_output=True, check=True)
    images = store(tmp_path)
    assert images.load(images.find(done.stdout.decode().strip())).id == done.stdout.decode().strip()
    assert os.listdir(tmp_path / "store/tmp") == []


LAYER_MARK = {"SCHILY.xattr.trusted.overlay.opaque": "y"}


@pytest.mark.counts("hostile")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tar(*ROOT, member("../../etc/passwd")), "`..`"),
        (tar(*ROOT, member("bin/x")), "lies below 'bin'"),
        (tar(*ROOT, member("etc/os-release/x")), "lies below"),
        (tar(*ROOT, member("etc/.wh.passwd")), "another meaning"),
        (tar(*ROOT, member("x", ("char", (0, 0)))), "device 0:0"),
        (tar(*ROOT, member("x", ("hard", "nothing"))), "no earlier file"),
        (tar(*ROOT, member("x", ("hard", "../etc/shadow"))), "`..`"),
        (tar(*ROOT, member("x", pax=LAYER_MARK)), "marks its own files"),
        (tar(*ROOT, member("etc", b"")), "replaces a folder"),
        (tar(*ROOT, member("usr/bin/busybox", b"other")), "hard link"),
        (tar(*ROOT)[:3000], "truncated|end mark"),
        (tar(*ROOT) + b"more", "after the end"),
        (tar(member("etc/", ("dir", ""))), "no file"),
        (b"", "empty"),
        (b"this is no archive" * 100, "checksum|unreadable"),
        (gzip.compress(tar(*ROOT))[:-30], "truncated|damaged"),
        (zstandard.ZstdCompressor().compress(bytes(400_000_000)), "200 times its size"),
    ],
    ids=range(17),
)
def test_what_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    import re

    done = imported(tmp_path, data)
    assert done.status == 1 and re.search(said, done.err) and "Traceback" not in done.err, done.err
    images = store(tmp_path)
    assert images.images() == [] and os.listdir(images.root / "blobs/sha256") == []
    assert os.listdir(tmp_path / "store/tmp") == []


def test_wrong_command_lines(tmp_path: Path) -> None:
    program = Program(tmp_path)
    (tmp_path / "root.tar").write_bytes(tar(*ROOT))
    done = program("import", "root.tar", "Tiny:1")
    assert done.status == 1 and "write `tiny:1`" in done.err
    assert program("import", "-c", "RUN x", "root.tar", "tiny:1").status == 2
    assert program("import", "--arch", "z80", "root.tar", "tiny:1").status == 1
    done = program("import", "nowhere.tar", "tiny:1")
    assert done.status == 1 and "nowhere.tar" in done.err
