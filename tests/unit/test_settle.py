"""What is waited for until it is on the disk: a file, or all of a folder, whatever stands in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mkroot.artifact.files import settle
from tests.unit.test_artifact_outputs import in_child


def test_links_pipes_and_folders_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_text("x")
    (tmp_path / "a/link").symlink_to("/nonexistent")
    (tmp_path / "a/loop").symlink_to("loop")
    os.mkfifo(tmp_path / "a/pipe")  # to open it would wait for a writer
    settle(tmp_path / "a")
    settle(tmp_path / "a/file")


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        settle(tmp_path / "gone")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_root_s_files_that_its_owner_may_not_read_are_written_out_all_the_same() -> None:
    def child() -> None:
        import tempfile

        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            shut = Path(folder, "rootfs", "shut")
            shut.mkdir(parents=True)
            (shut / "shadow").write_text("x")
            (shut / "shadow").chmod(0)
            with pytest.raises(PermissionError):
                (shut / "shadow").read_text()
            settle(Path(folder, "rootfs"))
            shut.chmod(0)
            settle(Path(folder, "rootfs"))
            shut.chmod(0o700)

    in_child(child)
