"""A file's own word on its owner or device is taken where it makes sense, and passed over where it does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mkroot.rootfs.upper import read_upper
from mkroot.store import marks
from mkroot.tar.entry import CHAR, FILE


def read(folder: Path, attribute: str, value: bytes) -> tuple[str, int, int, tuple[int, int]]:
    (folder / "file").write_bytes(b"")
    try:
        os.setxattr(folder / "file", attribute, value)
    except OSError:
        pytest.skip("no extended attributes here")
    (entry,) = read_upper(folder).entries
    assert attribute not in entry.xattrs
    return entry.kind, entry.uid, entry.gid, entry.device


def test_marks_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, marks.OWNER, b"7:4294967294") == (FILE, 7, 4294967294, (0, 0))
    os.removexattr(tmp_path / "file", marks.OWNER)
    assert read(tmp_path, marks.DEVICE, b"c:1:3:666")[::3] == (CHAR, (1, 3))


@pytest.mark.counts("hostile")
@pytest.mark.parametrize(
    "value", [b"", b"garbage", b"1", b"1:2:3", b"-1:0", b"4294967295:0", b"0:99999999999", b"\xff:\xff", b"1_0:0"]
)
def test_owners_that_make_no_sense(tmp_path: Path, value: bytes) -> None:
    assert read(tmp_path, marks.OWNER, value)[1:3] == (os.getuid(), os.getgid())


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("value", [b"", b"c", b"c:1:3", b"x:1:3:666", b"c:1:3:999", b"c:-1:3:666", b"c:1:3:77777"])
def test_devices_that_make_no_sense(tmp_path: Path, value: bytes) -> None:
    assert read(tmp_path, marks.DEVICE, value)[::3] == (FILE, (0, 0))
