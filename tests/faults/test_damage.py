"""What a power cut or an erring disk leaves in the store: a build ends right or says so, `cache verify` mends.

Every kind of entry × every kind of damage, with the file's times put back as they were.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.works import World, said_once

pytestmark = pytest.mark.counts("fault")


def _flip(part: float) -> Callable[[bytes], bytes]:
    def flipped(data: bytes) -> bytes:
        at = int((len(data) - 1) * part)
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    return flipped


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut-short": lambda data: data[: len(data) // 2],
    "zeros-at-the-end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "bit-at-the-start": _flip(0),
    "bit-at-the-end": _flip(1),
}
KINDS = {  # kind: which files of the store
    "debs": "debs/*/*",
    "layers": "layers/*/*",
    "frames": "frames/*/*",
    "joined": "joined/*/*",
    "indices": "indices/*/" + "?" * 64,
    "tables": "indices/*/*.t*",
    "releases": "releases/*/*",
    "seen": "seen/*/*",
    "built": "built/*/*",
    "roots": "roots/*/*",
    "decided": "decided/*/*",
    "blobs": "oci/blobs/sha256/*",
}
TOLD = ("seen", "blobs")  # what a build cannot make again by itself: it says so, or does not need it


@pytest.fixture(scope="module")
def stored(static: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the store of an undisturbed build, whose world's outputs and lock are gone."""
    static.fresh()
    static.heals()
    at = tmp_path_factory.mktemp("stored") / "store"
    shutil.copytree(static.site.store, at, symlinks=True)
    yield at


def put_back(world: World, stored: Path, *, outputs: bool = False) -> None:
    world.site.clear()
    shutil.copytree(stored, world.site.store, symlinks=True)


def victim(world: World, pattern: str) -> Path:
    """Return the biggest file of a kind: it has a middle."""
    return max(world.site.store.glob(pattern), key=lambda p: (p.stat().st_size, p.name))


def spoil(path: Path, damage: str) -> None:
    s = path.stat()
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_entry(static: World, stored: Path, kind: str, damage: str) -> None:
    put_back(static, stored)
    site = static.site
    path = victim(static, KINDS[kind])
    spoil(path, damage)
    checked = site.run("cache", "verify", "--dry-run")
    assert checked.status == 1
    assert f"error: {path}: " in checked.err
    ended = site.build()
    if ended.status:
        assert kind in TOLD, ended.err
        assert str(path) in said_once(ended)
        assert "hint: " in ended.err and "`mkroot cache verify`" in ended.err
        mended = site.run("cache", "verify")
        assert mended.status == 1 and str(path) in mended.err
        assert not path.exists()
    static.heals()
    site.run("cache", "verify")  # what the build had no need to read
    assert site.run("cache", "verify").status == 0
    if kind in ("layers", "frames"):
        assert f"warning: {path}: " in ended.err, "that an entry was made again is not kept from the user"


@pytest.mark.parametrize("damage", ["empty", "cut-short", "bit-at-the-start", "bit-at-the-end"])
def test_a_damaged_index_of_images(static: World, stored: Path, damage: str) -> None:
    put_back(static, stored)
    path = static.site.store / "oci" / "index.json"
    spoil(path, damage)
    ended = static.site.build()
    assert str(path) in said_once(ended)
    assert "`mkroot cache verify`" in ended.err
    mended = static.site.run("cache", "verify")
    assert mended.status == 1 and "build or pull it again" in mended.err
    static.heals()
    assert static.site.run("cache", "verify").status == 0
    assert '"mini' in static.site.run("images", "--json").out


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["oci/oci-layout", "format"])
def test_a_mark_is_made_again(static: World, stored: Path, name: str, damage: str) -> None:
    put_back(static, stored)
    spoil(static.site.store / name, damage)
    if name == "format" and damage.startswith("bit"):  # it may be another mkroot's: the user is asked
        assert "the store has format" in said_once(static.site.build())
        shutil.copy(stored / name, static.site.store / name)
    static.heals()
    assert (static.site.store / name).read_bytes() == (stored / name).read_bytes()


@pytest.mark.parametrize(
    "folder", ["tmp", "locks", "debs", "layers", "frames", "joined", "indices", "releases", "seen", "roots", "oci"]
)
def test_a_folder_that_is_gone(static: World, stored: Path, folder: str) -> None:
    put_back(static, stored)
    shutil.rmtree(static.site.store / folder)
    static.heals()
    static.site.run("cache", "verify")
    assert static.site.run("cache", "verify").status == 0


def test_everything_that_was_written_last_is_empty(static: World, stored: Path) -> None:
    """As after a power cut on a file system that gives names before contents."""
    put_back(static, stored)
    emptied = 0
    for kind in ("debs", "layers", "frames", "joined", "indices", "releases", "built", "roots"):
        for path in (static.site.store / kind).glob("*/*"):
            path.write_bytes(b"")
            emptied += 1
    assert emptied > 20
    assert "made again" in static.heals().err


def test_unfinished_work_of_the_dead_goes(static: World, stored: Path) -> None:
    put_back(static, stored)
    site = static.site
    (site.store / "tmp" / "tree.1" / "new" / "usr").mkdir(parents=True)
    (site.store / "tmp" / "debs.2").mkdir()
    (site.store / "tmp" / "debs.2" / "part").write_bytes(b"half a package")
    (site.store / "oci" / ".index.json.new").write_bytes(b"half an index")
    (site.folder / ".r.lock.new").write_bytes(b"half a lock")
    (site.out / ".mini.amd64.newdead" / "out").mkdir(parents=True)
    static.heals()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_memory_of_releases_is_told_where_it_is_asked(static: World, stored: Path, damage: str) -> None:
    """An older Release could pass for new: the user decides, by `cache verify`."""
    put_back(static, stored)
    path = victim(static, KINDS["seen"])
    spoil(path, damage)
    ended = static.site.build("--no-lock")
    assert f"{path}: what the store remembers" in said_once(ended)
    assert "`mkroot cache verify` removes it" in ended.err
    assert static.site.run("cache", "verify").status == 1
    static.heals()
