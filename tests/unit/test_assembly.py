"""A root's tar stream, joined from frames: what a tar reader sees, and the same bytes again."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mkroot.errors import StoreError
from mkroot.rootfs.assembly import Assembly
from mkroot.rootfs.merge import Merge
from mkroot.rootfs.tree import Tree, top_of
from mkroot.store.frame import pieces_of
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from tests.testarchive import File
from tests.unit.layers import layer


def small_root(tmp_path: Path, name: str = "store") -> Assembly:
    store = Store(tmp_path / name)
    layers = LayerStore(store)
    tree = Tree(layers.read)
    merge = Merge(tree, lambda a, b: False, {})
    a = {
        "files": {"etc/a": b"1", "usr/bin/x": File(content=b"x" * 9000, mode=0o4755)},
        "hardlinks": {"usr/y": "usr/bin/x"},
    }
    b = {"files": {"usr/lib/b": b"b" * 100}, "symlinks": {"usr/l": "bin/x"}, "dirs": {"srv": 0o1777}}
    for package, content in (("a", a), ("b", b)):
        merge.add(layer(store, tmp_path, package, **content))
    after = tree.copy()
    after.write("etc/a", b"changed")
    after.write("var/lib/dpkg/status", b"Package: a\nVersion: 1\n\nPackage: b\nVersion: 1\n")
    after.remove("usr/bin/x")
    top, chunks = top_of(tree, after, "0" * 64, "recipe", {})
    layers.save(top, pieces_of(chunks))
    tree.apply(layers.load(top.key))
    return Assembly(tree, layers, 1_800_000_000, {"a": "src-a", "b": "src-b"})


def written(root: Assembly, codec: str, **more: Any) -> tuple[bytes, Any]:
    out = io.BytesIO()
    blob = root.write(out, codec, **more)
    return out.getvalue(), blob


def plain(data: bytes, codec: str) -> bytes:
    if codec == "gzip":
        return gzip.decompress(data)
    if codec == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    return data


def members(data: bytes) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        for m in t:
            assert m.name not in found, f"{m.name} twice"
            content = t.extractfile(m).read() if m.isreg() else b""  # type: ignore[union-attr]
            found[m.name] = (m.type, m.mode, m.uid, m.gid, m.linkname, m.mtime, content)
    return found


@pytest.mark.parametrize("codec", ["zstd", "gzip", "none"])
@pytest.mark.parametrize("single_stream", [False, True])
def test_every_codec_holds_the_same_stream(tmp_path: Path, codec: str, single_stream: bool) -> None:
    root = small_root(tmp_path)
    data, blob = written(root, codec, single_stream=single_stream)
    raw = plain(data, codec)
    assert raw == b"".join(root.raw())
    assert blob.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert blob.diff_id == "sha256:" + hashlib.sha256(raw).hexdigest()
    assert (blob.size, blob.raw) == (len(data), len(raw))
    found = members(raw)
    assert found["etc/a"][6] == b"changed"
    assert found["etc/a"][5] == 1_800_000_000
    assert "usr/bin/x" not in found
    assert found["usr/y"][:2] == (tarfile.REGTYPE, 0o4755) and found["usr/y"][6] == b"x" * 9000
    assert found["usr/l"][4] == "bin/x"
    names = list(found)
    folders = [n for n in names if found[n][0] == tarfile.DIRTYPE]
    assert names[: len(folders)] == folders and folders[0] == "."


def test_entries_and_files_tell_the_same_as_the_stream(tmp_path: Path) -> None:
    root = small_root(tmp_path)
    found = members(b"".join(root.raw()))
    assert {e.path or "." for e in root.entries()} == set(found)
    contents = {e.path: c for e, c in root.files() if e.kind == "f"}
    assert contents == {n: v[6] for n, v in found.items() if v[0] == tarfile.REGTYPE}


def test_a_warm_store_gives_the_same_bytes_and_answer(tmp_path: Path) -> None:
    first, again = small_root(tmp_path, "one"), small_root(tmp_path, "two")
    assert written(first, "zstd") == written(first, "zstd") == written(again, "zstd")


def test_times_are_cut_at_the_epoch(tmp_path: Path) -> None:
    root = small_root(tmp_path)
    early = Assembly(root.tree, root.layers, 1000)
    assert {v[5] for v in members(b"".join(early.raw())).values()} == {1000}


def test_groups_add_up_to_the_root_and_depend_on_their_own_packages_only(tmp_path: Path) -> None:
    root = small_root(tmp_path)
    groups = root.groups("source", 3)
    assert [g.name for g in groups] == ["src-a", "src-b", "written"]
    whole: dict[str, tuple[Any, ...]] = {}
    for group in groups:
        part = members(b"".join(root.raw(group)))
        for name in part:
            if "/" in name:
                assert name.rpartition("/")[0] in {*part, *whole}, f"{name} without its folder"
        whole.update(part)
    assert whole == members(b"".join(root.raw()))
    part = members(b"".join(root.raw(groups[1])))
    assert part["var/lib/dpkg/status"][6] == b"Package: b\nVersion: 1\n\n"


@pytest.mark.parametrize("known", [False, True])
def test_a_damaged_frame_is_noticed(tmp_path: Path, known: bool) -> None:
    root = small_root(tmp_path)
    if known:
        written(root, "gzip")
    frame = root.layers.frame(root.tree.layers[1], "gzip", None, root.epoch)
    data = bytearray(frame.path.read_bytes())
    data[frame.size // 2] ^= 1
    frame.path.chmod(0o644)
    frame.path.write_bytes(data)
    with pytest.raises(StoreError, match="digest"):
        written(root, "gzip")


def test_a_damaged_record_of_digests_is_not_believed(tmp_path: Path) -> None:
    root = small_root(tmp_path)
    first = written(root, "gzip")
    for path in (tmp_path / "store/joined").glob("*/*"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert written(root, "gzip") == first


def test_a_file_that_takes_a_part_at_a_time_gets_everything(tmp_path: Path) -> None:
    class Slow(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:1000])

    root = small_root(tmp_path)
    out = Slow()
    root.write(out, "gzip")
    assert out.getvalue() == written(root, "gzip")[0]
