"""A layer's file is on disk once and in the page cache once, however many containers stand on it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.building import needs_root
from tests.integration.containers import Host, box, container_user, make_host
from tests.unit.images import add_image, store

SIZE = 16 << 20


@pytest.fixture(params=["root", "ordinary user"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    needs_root()  # to be the ordinary user as well
    folder = Path(tempfile.mkdtemp(prefix="mkroot-host."))
    folder.chmod(0o755)
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    host = make_host(folder, "" if request.param == "root" else container_user(), "own")
    layers, config = box()
    add_image(store(folder), "big:latest", [*layers, {"srv/big": os.urandom(SIZE)}], config=config)
    host.take_over()
    yield host
    host("rm", "-f", "--all")


def read_by(host: Host, name: str) -> tuple[int, str]:
    """Read the file in a container of the image; return the bytes that came from the disk for it, and its inode."""
    script = "cat /srv/big >/dev/null; stat -c 'inode %i' /srv/big"
    said = host.good("run", "--name", name, "big", "sh", "-c", f"{script}; grep read_bytes /proc/$$/io")
    return int(re.findall(r"read_bytes: (\d+)", said)[-1]), re.findall(r"inode (\d+)", said)[0]


def test_the_second_container_reads_nothing_from_disk(host: Host) -> None:
    host.good("run", "--rm", "big", "true")  # unpacks the layers
    (tree,) = host.store.glob("trees-*/*/*/srv/big")
    fd = os.open(tree, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    first, inode = read_by(host, "first")
    if not first:
        pytest.skip("the file system of the temporary folder has no disk below it")
    assert first >= SIZE
    second, other = read_by(host, "second")
    assert second == 0
    assert inode == other == str(tree.stat().st_ino)
