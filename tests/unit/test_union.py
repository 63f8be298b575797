"""Overlay mounts of many lower folders, and what is read back from the writable one."""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

import pytest

from mkroot.errors import RootfsError
from mkroot.rootfs.upper import read_upper
from mkroot.tar.entry import DIR, FIFO, FILE, HARDLINK, SYMLINK
from tests.unit.boxes import KINDS, run

LAYERS = """
def layers(count, place):
    for n in range(count):
        folder = place / f"layer {n},a:b\\\\c" / "etc"
        folder.mkdir(parents=True)
        (folder / "same").write_text(str(n))
        (folder / f"own{n}").write_text(str(n))
    return [place / f"layer {n},a:b\\\\c" for n in range(count)]
place = work()
"""
CHANGES = """
changes = upper.read_upper(made.upper)
union.unmount(made)
emit(entries=[[e.path, e.kind, e.link] for e in changes.entries], removed=changes.removed, opaque=changes.opaque)
"""


@KINDS
def test_the_first_lower_is_on_top_whatever_its_name(kind: str) -> None:
    code = "made = union_of(*layers(3, place))\n"
    code += "emit(same=(made.at / 'etc/same').read_text(), names=sorted(os.listdir(made.at / 'etc')))"
    assert run(kind, LAYERS + code) == {"same": "0", "names": ["own0", "own1", "own2", "same"]}


@pytest.mark.parametrize(("kind", "count"), [("root", 1500), ("mapped", 600), ("single", 600)])
def test_many_layers(kind: str, count: int) -> None:
    code = f"""
all = layers({count}, place)
begin = time.monotonic()
made = union_of(*all)
took = time.monotonic() - begin
names = os.listdir(made.at / "etc")
os.unlink(made.at / "etc/own{count - 1}")
(made.at / "etc/same").write_text("new")
gone = not (made.at / "etc/own{count - 1}").exists()
changes = upper.read_upper(made.upper)
union.unmount(made)
emit(n=len(names), removed=changes.removed, changed=[e.path for e in changes.entries], gone=gone, took=took,
     left=[str(p) for p in place.rglob("group*")] + [l for l in open("/proc/self/mounts") if str(made.at) in l])
"""
    got = run(kind, LAYERS + code)
    assert got["n"] == count + 1
    assert got["removed"] == [f"etc/own{count - 1}"]
    assert got["changed"] == ["etc", "etc/same"]
    assert got["gone"]
    assert got["left"] == []
    assert got["took"] < 2


def test_a_top_among_many_layers_still_hides() -> None:
    code = """
all = layers(1000, place)
made = union_of(*all[500:])
(made.at / "etc/own700").unlink()
shutil.rmtree(made.at / "etc/")
(made.at / "etc").mkdir()
union.unmount(made)
top = made.upper
again = place / "again"
made = union.mount_union(again / "at", [*all[:500], top, *all[500:]], again / "up", again / "work",
                         namespaced=me.namespaced, tops=[top])
names = os.listdir(made.at / "etc")
emit(n=len(names), hidden=[n for n in names if n.startswith("own") and int(n[3:]) >= 500])
"""
    assert run("user", LAYERS + code) == {"n": 501, "hidden": []}


@KINDS
@pytest.mark.parametrize("old", [False, True], ids=["fsopen", "mount"])
def test_what_was_written_removed_and_replaced(kind: str, old: bool) -> None:
    code = f"old = {old}\n"
    code += """
if old:
    def no(*_):
        raise OSError(38, "not there")
    linux.fsopen = no
made = union_of(*layers(3, place))
etc = made.at / "etc"
(etc / "own0").unlink()
(made.at / "var").mkdir()
(made.at / "var/x").write_text("x")
os.link(made.at / "var/x", made.at / "var/a")
os.symlink("../etc", made.at / "var/l")
os.mkfifo(made.at / "var/p")
import socket
socket.socket(socket.AF_UNIX).bind(str(made.at / "var/s"))
"""
    got = run(kind, LAYERS + code + CHANGES)
    assert got["entries"] == [
        ["etc", DIR, ""],
        ["var", DIR, ""],
        ["var/a", FILE, ""],
        ["var/l", SYMLINK, "../etc"],
        ["var/p", FIFO, ""],
        ["var/x", HARDLINK, "var/a"],
    ]
    assert got["removed"] == ["etc/own0"]
    assert got["opaque"] == []


@KINDS
def test_a_folder_made_anew_is_opaque(kind: str) -> None:
    code = "made = union_of(*layers(2, place))\nshutil.rmtree(made.at / 'etc')\n(made.at / 'etc').mkdir()\n"
    code += "(made.at / 'etc/own0').write_text('new')\n"
    got = run(kind, LAYERS + code + CHANGES)
    assert got["entries"] == [["etc", DIR, ""], ["etc/own0", FILE, ""]]
    assert got["removed"] == []
    assert got["opaque"] == ["etc"]


@KINDS
def test_attributes_and_capabilities_are_read_back(kind: str) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep (linux/capability.h)
    code = f"""
made = union_of(*layers(2, place))
p = made.at / "etc/own0"
os.setxattr(p, "user.note", b"hi")
os.setxattr(p, "security.capability", {capability!r})
os.chmod(p, 0o4711)
os.utime(p, (5, 5))
e = next(e for e in upper.read_upper(made.upper).entries if e.path == "etc/own0")
emit(xattrs={{k: v.hex() for k, v in e.xattrs.items()}}, mode=e.mode, mtime=e.mtime, size=e.size)
"""
    got = run(kind, LAYERS + code)
    assert got == {
        "xattrs": {"security.capability": capability.hex(), "user.note": b"hi".hex()},
        "mode": 0o4711,
        "mtime": 5,
        "size": 1,
    }


@KINDS
def test_an_upper_that_cannot_serve_is_replaced_by_memory(kind: str) -> None:
    code = """
first = union_of(*layers(2, place))
inner = first.at / "inside"
inner.mkdir()
lower = place / "layer 0,a:b\\\\c"
made = union.mount_union(place / "at", [lower], inner / "up", inner / "work", namespaced=me.namespaced)
ok = made.mounted
(made.at / "etc/new").write_text("x")
changed = [e.path for e in upper.read_upper(made.upper).entries]
memory = made.in_memory
union.unmount(made)
emit(ok=ok, memory=memory, changed=changed)
"""
    assert run(kind, LAYERS + code) == {"ok": True, "memory": True, "changed": ["etc", "etc/new"]}


@KINDS
def test_no_host_path_in_the_mount_table(kind: str) -> None:
    code = "made = union_of(*layers(3, place))\n"
    code += "line = next(l for l in open('/proc/self/mounts') if l.split()[1] == str(made.at))\n"
    code += "emit(options=line.split()[3], place=str(place))\n"
    got = run(kind, LAYERS + code)
    assert got["place"] not in got["options"]


def test_no_overlayfs_is_an_answer_and_not_an_error() -> None:
    code = """
def no(*_, **__):
    raise OSError(19, "No such device")
linux.fsopen = linux.mount = no
at = work()
made = union.mount_union(at / "at", [place], at / "upper", at / "work", namespaced=me.namespaced)
union.unmount(made)
emit(mounted=made.mounted, why=made.why_not)
"""
    got = run("user", LAYERS + code)
    assert not got["mounted"]
    assert "No such device" in got["why"]


def test_a_missing_layer_is_named() -> None:
    code = "try:\n    union_of(place / 'gone')\nexcept SandboxError as e:\n    emit(where=e.where)\n"
    assert run("user", LAYERS + code)["where"].endswith("/gone")


def test_a_plain_tree_is_read_in_order_and_fast(tmp_path: Path) -> None:
    for n in range(20):
        (tmp_path / f"d{n}").mkdir()
        for m in range(50):
            (tmp_path / f"d{n}/{m}").write_text("x")
    (tmp_path / "d1.x").touch()
    with socket.socket(socket.AF_UNIX) as s:
        old = os.getcwd()
        os.chdir(tmp_path)
        s.bind("sock")
        os.chdir(old)
    best = 9.0
    for _ in range(5):
        begin = time.perf_counter()
        changes = read_upper(tmp_path)
        best = min(best, time.perf_counter() - begin)
    paths = [e.path for e in changes.entries]
    assert len(paths) == 1021
    assert paths == sorted(paths, key=lambda p: p.split("/"))
    assert best < 0.1


@pytest.mark.counts("hostile")
def test_content_is_opened_through_no_symlink(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/f").write_text("inside")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/f").write_text("outside")
    changes = read_upper(tmp_path, ignored=["secret"])
    entry = changes.entries[1]
    assert entry.path == "a/f"
    fd = changes.open(entry)
    assert os.read(fd, 9) == b"inside"
    os.close(fd)
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").symlink_to("secret")
    with pytest.raises(OSError):
        changes.open(entry)


def test_a_missing_upper_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RootfsError, match="cannot be read"):
        read_upper(tmp_path / "none")


def test_owners_by_path_and_by_mark(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    os.setxattr(tmp_path / "b", "user.mkroot.owner", b"33:34")
    (tmp_path / "n").touch()
    os.setxattr(tmp_path / "n", "user.mkroot.device", b"c:1:3:666")
    a, b, n = read_upper(tmp_path, owners={"a": (7, 8)}).entries
    assert [(e.uid, e.gid) for e in (a, b)] == [(7, 8), (33, 34)]
    assert (n.kind, n.mode, n.device, n.xattrs) == ("c", 0o666, (1, 3), {})
