"""Disks that are really full: small file systems in memory for the store, the output and TMPDIR, of several sizes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.works import Site, World, said_once
from tests.unit.boxes import own_kind

pytestmark = pytest.mark.counts("fault")


@contextmanager
def small_disk(at: Path, kib: int) -> Iterator[None]:
    """Mount a file system of so many KiB; skip where this user may not."""
    new = not at.exists()
    at.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(at)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        if new:
            at.rmdir()
        pytest.skip(f"no file system can be mounted here ({own_kind()}): {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.mark.parametrize("kib", [4, 12, 24, 40, 64, 96, 128, 160])
@pytest.mark.parametrize("place", ["store", "out"])
def test_a_build_on_a_full_disk(static: World, place: str, kib: int) -> None:
    site = static.fresh()
    with small_disk(site.folder / place, kib):
        ended = site.build()
        if ended.status == 0:
            assert site.made() == static.right
        else:
            said = said_once(ended)
            assert "the disk is full" in said or "No space left" in said
            assert str(site.folder / place) in said, "it names the disk that is full"
            assert "hint: " in ended.err
            assert [r for r in site.rubbish() if not r.startswith("mount")] == []
    static.heals()


def test_a_full_tmpdir_does_not_matter(static: World) -> None:
    """What is unfinished lies beside what it will be."""
    site = static.fresh()
    with small_disk(site.tmp, 4):
        _leave(site.tmp, 0)
        ended = site.build()
        assert ended.status == 0, ended.err
    assert site.made() == static.right


COMMANDS = {
    "save": ("save", "mini:latest", "full/image.tar"),
    "export": ("export", "mini:latest", "full/root.tar"),
    "sbom": ("sbom", "r.yaml", "-o", "full/bill.json"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_writes_is_whole_or_not_there(static: World, name: str) -> None:
    site = static.fresh()
    static.heals()
    with small_disk(site.folder / "full", 64):
        _leave(site.folder / "full", 0)
        ended = site.run(*COMMANDS[name])
        said = said_once(ended)
        assert "full" in said or "No space left" in said
        assert [p.name for p in (site.folder / "full").iterdir()] == ["rest"]
    (site.folder / "full").rmdir()


@pytest.mark.parametrize("kib", [4, 20, 60])
@pytest.mark.parametrize("command", ["load", "import", "commit"])
def test_an_image_comes_whole_or_not_at_all(scripted: World, command: str, kib: int) -> None:
    """The store lies on a disk that has only so much room left."""
    site = scripted.fresh()
    scripted.heals()
    assert site.run("export", "mini:latest", "root.tar").status == 0
    assert site.run("save", "mini:latest", "image.tar").status == 0
    words = {
        "load": ("load", "image.tar"),
        "import": ("import", "root.tar", "new:1"),
        "commit": ("commit", "-m", "x", "-a", "y <y@mail.example>", "box", "new:1"),
    }[command]
    kept = site.folder / "kept"
    if command == "commit":
        made = site.run("run", "--name", "box", "mini:latest", "sh", "-c", "cat /usr/bin/* > /big")
        assert made.status == 0, made.err
        site.store.rename(kept)
    try:
        with small_disk(site.store if command == "commit" else _empty(site), 1 << 17):
            if command == "commit":
                subprocess.run(["cp", "-a", f"{kept}/.", str(site.store)], check=True)
            _leave(site.store, kib)
            ended = site.run(*words)
            said = said_once(ended)
            assert "full" in said or "No space left" in said, said
            (site.store / "rest").unlink()
            assert [r for r in site.rubbish() if r.startswith(("tmp", "oci", "TMPDIR"))] == []
            assert '"new' not in site.run("images", "--json").out
            assert site.run(*words).status == 0
            checked = site.run("cache", "verify")
            assert checked.status == 0, checked.err
    finally:
        for path in (site.folder / "root.tar", site.folder / "image.tar"):
            path.unlink()
        shutil.rmtree(kept, ignore_errors=True)


def _empty(site: Site) -> Path:
    shutil.rmtree(site.store)
    return site.store


def _leave(folder: Path, kib: int) -> None:
    """Fill a file system but for so many KiB."""
    with open(folder / "rest", "wb", buffering=0) as rest:
        while True:
            try:
                rest.write(bytes(1 << 12))
            except OSError:
                break
        rest.truncate(rest.tell() - kib * 1024)
