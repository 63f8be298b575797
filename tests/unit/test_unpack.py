"""A .deb in, a layer and a tree out; hostile ones refused, nothing of them left."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from mkroot.errors import PackageError
from mkroot.rootfs.dpkg import unpacked_stanza
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.store.unpack import Expected, layer_key, unpack
from mkroot.store.writer import Chown, make_tree
from tests.testarchive import MTIME, Content, File, Raw, ar, compress, member, tar
from tests.unit.layers import control, deb, layer, shown


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize("compression", ["xz", "gz", "zst", "none"])
def test_members_come_out_as_they_went_in(store: Store, tmp_path: Path, compression: str) -> None:
    made = layer(
        store,
        tmp_path,
        "a",
        files={"usr/bin/x": File(content=b"x" * 70000, mode=0o4755), "etc/c": b"conf"},
        symlinks={"usr/bin/y": "x"},
        hardlinks={"usr/bin/z": "usr/bin/x"},
        dirs={"srv/d": 0o1777},
        conffiles=["/etc/c"],
        compression=compression,
    )
    assert shown(made) == [
        "d 755 0:0 /",
        "d 755 0:0 /etc",
        "f 644 0:0 /etc/c",
        "d 755 0:0 /srv",
        "d 1777 0:0 /srv/d",
        "d 755 0:0 /usr",
        "d 755 0:0 /usr/bin",
        "f 4755 0:0 /usr/bin/x",
        "l 777 0:0 /usr/bin/y -> x",
        "h 4755 0:0 /usr/bin/z -> usr/bin/x",
        "d 755 0:0 /var",
    ]
    layers = LayerStore(store)
    files = {e.path: e for e in made.entries if e.kind == "f"}
    assert layers.read(made, files["usr/bin/x"]) == b"x" * 70000
    assert made.conffiles == (("/etc/c", hashlib.md5(b"conf").hexdigest()),)
    assert layers.read(made, files["var/lib/dpkg/info/a.list"]).splitlines()[:3] == [b"/.", b"/etc", b"/etc/c"]
    assert layers.read(made, files["var/lib/dpkg/info/a.conffiles"]) == b"/etc/c\n"


def test_a_tree_is_the_same_whether_unpacked_or_made_from_the_frame(store: Store, tmp_path: Path) -> None:
    content = {
        "files": {"bin/x": File(content=b"1", mode=0o2755), "usr/share/doc/a/b": b"2"},
        "symlinks": {"usr/l": "/etc"},
        "hardlinks": {"bin/y": "bin/x"},
        "fifos": ["srv/p"],
    }
    made = layer(store, tmp_path, "a", trees=Trees(tmp_path / "one"), **content)
    other = make_tree(LayerStore(store), made, Trees(tmp_path / "two"), Chown())

    def state(root: Path) -> list[object]:
        found = []
        for folder, names, files in os.walk(root):
            for name in sorted(names + files):
                s = os.lstat(os.path.join(folder, name))
                found.append((os.path.relpath(folder, root), name, s.st_mode, s.st_nlink, int(s.st_mtime), s.st_size))
        return sorted(found)

    first = Trees(tmp_path / "one").path(made.key)
    assert state(first) == state(other)
    assert (first / "usr/bin/x").stat().st_mtime == MTIME
    assert not (first / "bin").exists()  # a merged /usr has it in usr/bin


def test_umask_has_no_influence(store: Store, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        made = layer(store, tmp_path, "a", trees=Trees(tmp_path / "t"), files={"usr/x": b""}, dirs={"usr/d": 0o775})
    finally:
        os.umask(old)
    root = Trees(tmp_path / "t").path(made.key)
    assert (root / "usr/x").stat().st_mode & 0o777 == 0o644
    assert (root / "usr/d").stat().st_mode & 0o777 == 0o775


def test_big_files_are_cut_into_pieces_and_read_back(store: Store, tmp_path: Path) -> None:
    big = os.urandom(1 << 20) * 20
    made = layer(store, tmp_path, "a", files={"a": big, "b": b"after"}, compression="none")
    layers = LayerStore(store)
    assert len(layers.base(made).pieces) > 1
    files = {e.path: e for e in made.entries if e.kind == "f"}
    assert layers.read(made, files["a"]) == big
    assert layers.read(made, files["b"]) == b"after"


HOSTILE = {
    "dot-dot": [Raw(member("./../x"), b"")],
    "dot-dot inside": [Raw(member("./a/../b"), b"")],
    "newline": [Raw(member("./a\nb"), b"")],
    "whiteout": [Raw(member("./usr/.wh.x"), b"")],
    "overlay whiteout": [Raw(member("./x", tarfile.CHRTYPE, devmajor=0, devminor=0))],
    "below a link": [Raw(member("./x", tarfile.SYMTYPE, linkname="/etc")), Raw(member("./x/passwd"), b"")],
    "below a file": [Raw(member("./x"), b""), Raw(member("./x/y"), b"")],
    "twice": [Raw(member("./x"), b"1"), Raw(member("./x"), b"2")],
    "twice by alias": [Raw(member("./bin/x"), b"1"), Raw(member("./usr/bin/x"), b"2")],
    "hard link out": [Raw(member("./x", tarfile.LNKTYPE, linkname="../../etc/shadow"))],
    "hard link to nothing": [Raw(member("./x", tarfile.LNKTYPE, linkname="./etc/shadow"))],
    "hard link to a folder": [
        Raw(member("./d", tarfile.DIRTYPE)),
        Raw(member("./x", tarfile.LNKTYPE, linkname="./d")),
    ],
    "database": [Raw(member("./var/lib/dpkg/info/a.postinst"), b"")],
    "database is a link": [Raw(member("./var/lib/dpkg", tarfile.SYMTYPE, linkname="/tmp"))],
    "unknown kind": [Raw(member("./x", b"Z"))],
}


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members_are_refused_and_leave_nothing(store: Store, tmp_path: Path, case: str) -> None:
    path, expected = deb(tmp_path, "a", Content(raw=HOSTILE[case], scripts={"postinst": "#!/bin/sh\n"}))
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(PackageError) as e:
        unpack(store, path, expected, Trees(tmp_path / "t"), Chown())
    assert "a 1" in str(e.value)
    left = [p for p in tmp_path.rglob("*") if p not in before and p.is_file() and p.name != "format"]
    assert left == []


def _data(raw: bytes) -> Content:
    return Content(data_member=compress(raw, "xz"))


def _pax() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        t.addfile(member("./" + "x" * 300))
    return out.getvalue()


GOOD = tar([Raw(member("./", tarfile.DIRTYPE)), Raw(member("./x"), b"x" * 2000)])
MALFORMED = {
    "pax": _pax(),
    "no end": GOOD[:1024],
    "cut in content": GOOD[:2000],
    "cut in header": GOOD[:700],
    "garbage after": GOOD + b"x",
    "checksum": GOOD[:148] + b"0000000\0" + GOOD[156:],
    "empty": b"",
    "negative size": GOOD[:636] + b"\xff" * 12 + GOOD[648:],
}


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_streams_are_refused(store: Store, tmp_path: Path, case: str) -> None:
    path, expected = deb(tmp_path, "a", _data(MALFORMED[case]))
    with pytest.raises(PackageError):
        unpack(store, path, expected, Trees(tmp_path / "t"), Chown())


def test_good_stream_is_accepted(store: Store, tmp_path: Path) -> None:
    path, expected = deb(tmp_path, "a", _data(GOOD + bytes(10240)))
    unpack(store, path, expected, Trees(tmp_path / "t"), Chown())[2]()
    assert LayerStore(store).has(layer_key(expected.sha256))


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_compressed_streams_are_read_whole_or_refused(store: Store, tmp_path: Path, kind: str) -> None:
    suffix = {"xz": ".xz", "gz": ".gz", "zst": ".zst"}[kind]
    two = compress(GOOD[:1024], kind) + compress(GOOD[1024:], kind)

    def package(data: bytes) -> tuple[Path, Expected]:
        inner = compress(Content().control_tar(control("a")), kind)
        blob = ar([("debian-binary", b"2.0\n"), (f"control.tar{suffix}", inner), (f"data.tar{suffix}", data)])
        (tmp_path / "p.deb").write_bytes(blob)
        return tmp_path / "p.deb", Expected(hashlib.sha256(blob).hexdigest(), "a", "1", "all")

    path, expected = package(two)
    unpack(store, path, expected, None, Chown())[2]()
    assert "x" in {e.path for e in LayerStore(store).load(layer_key(expected.sha256)).entries}
    for bad in (two[:-3], two + b"garbage", two[:40] + b"\0\0\0\0" + two[44:]):
        path, expected = package(bad)
        with pytest.raises(PackageError):
            unpack(store, path, expected, None, Chown())


@pytest.mark.counts("hostile")
def test_a_bomb_is_refused(store: Store, tmp_path: Path) -> None:
    path, expected = deb(tmp_path, "a", Content(files={"z": bytes(80 << 20)}))
    small = Expected(expected.sha256, "a", "1", "all", 1)
    with pytest.raises(PackageError, match="more than"):
        unpack(store, path, small, None, Chown())


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("field", ["name", "version", "architecture"])
def test_a_control_file_that_lies_is_refused(store: Store, tmp_path: Path, field: str) -> None:
    path, expected = deb(tmp_path, "a", Content())
    values = {"name": "a", "version": "1", "architecture": "all", field: "other"}
    with pytest.raises(PackageError, match="promised 'other'"):
        unpack(store, path, Expected(expected.sha256, **values), None, Chown())


@pytest.mark.counts("hostile")
@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"!<arch>\n", b"!<arch>\nshort", ar([("debian-binary", b"3.0\n")]), ar([("other", b"")])],
)
def test_what_is_no_package_is_refused(store: Store, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(data)
    with pytest.raises(PackageError):
        unpack(store, path, Expected("0" * 64, "", "", ""), None, Chown())


def test_a_conffile_that_is_no_more_stays_in_dpkgs_database(store: Store, tmp_path: Path) -> None:
    names = ["/etc/b", "remove-on-upgrade /etc/old", "/etc/a"]
    made = layer(store, tmp_path, "a", files={"etc/a": b"1", "etc/b": b"2"}, conffiles=names)
    one, two = (hashlib.md5(text).hexdigest() for text in (b"1", b"2"))
    assert unpacked_stanza(made).decode().partition("Conffiles:\n")[2].splitlines() == [
        f" /etc/b {two}",
        " /etc/old newconffile remove-on-upgrade",
        f" /etc/a {one}",
    ]
