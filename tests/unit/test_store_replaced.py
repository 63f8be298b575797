"""A file is given new content whole or not at all, whoever else does so and however it ends."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from mkroot.store.replaced import replace, replacing
from mkroot.store.seal import opened, sealed

pytestmark = pytest.mark.counts("fault")


def test_what_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    replace(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as f:
        f.write(b"half of the n")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("after", ["open", "flock"])
def test_a_signal_as_the_file_is_made_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """Python raises it when the call is over and nobody has its result yet."""
    module = os if after == "open" else fcntl
    call = getattr(module, after)
    left = [KeyboardInterrupt]

    def interrupted(*given: object) -> object:
        found = call(*given)
        if left:
            raise left.pop()
        return found

    monkeypatch.setattr(module, after, interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace(tmp_path / "f", b"new")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "f"
    pid = os.fork()
    if pid == 0:
        with replacing(path) as f:
            f.write(b"x" * 1000)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not path.exists() and len(os.listdir(tmp_path)) == 1
    replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]


def test_many_at_once_leave_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "f"
    contents = [bytes([n]) * 5000 for n in range(24)]
    threads = [threading.Thread(target=replace, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while any(t.is_alive() for t in threads) and time.monotonic() < until:
        if path.exists():
            assert path.read_bytes() in contents
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "one waits for ever"
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize(("mode", "umask", "wanted"), [(None, 0o027, 0o640), (0o644, 0o077, 0o644), (0o600, 0, 0o600)])
def test_modes(tmp_path: Path, mode: int | None, umask: int, wanted: int) -> None:
    old = os.umask(umask)
    try:
        replace(tmp_path / "f", b"", mode)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == wanted


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".f.new").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"):
        replace(tmp_path / "f", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("at", range(0, 64, 9))
def test_a_seal_shows_every_bit(at: int) -> None:
    blob = sealed(b"the content of a record, 32 byte")
    assert opened(blob) == blob[32:]
    for bit in range(8):
        changed = bytearray(blob)
        changed[at] ^= 1 << bit
        with pytest.raises(ValueError, match="digest"):
            opened(bytes(changed))
    with pytest.raises(ValueError, match="digest"):
        opened(blob[:at])
