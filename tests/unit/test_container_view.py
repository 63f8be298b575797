"""A union read without mounting it shows what overlayfs would, and follows no link out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mkroot.container.union import Place, places, scaffold
from mkroot.container.view import View
from mkroot.errors import ContainerError


@pytest.fixture
def view(tmp_path: Path) -> View:
    """A top over a middle over a bottom."""
    top, middle, bottom = (tmp_path / name for name in ("top", "middle", "bottom"))
    for path, content in (
        (bottom / "etc/passwd", "bottom"),
        (bottom / "etc/group", "bottom"),
        (bottom / "var/run/x", "hidden by a link"),
        (bottom / "opaque/below", "hidden"),
        (middle / "etc/passwd", "middle"),
        (middle / "run/y", "y"),
        (top / "opaque/own", "own"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (middle / "var").mkdir()
    (middle / "var/run").symlink_to("/run")
    (middle / "host").symlink_to("/../../../etc")
    (middle / "rel").symlink_to("../../run")
    (middle / "loop").symlink_to("loop")
    (bottom / "out").symlink_to("/etc")
    (middle / "out").mkdir()  # a folder over a link that leaves the tree
    os.setxattr(top / "opaque", "user.overlay.opaque", b"y")
    return View([str(top), str(middle), str(bottom)])


def test_the_topmost_file_is_read(view: View) -> None:
    assert view.read("etc/passwd") == b"middle"
    assert view.read("/etc/group") == b"bottom"
    assert view.read("etc/shadow") == view.read("etc") == b""
    assert view.read("etc/passwd", 3) == b"mid"


def test_links_stay_inside(view: View) -> None:
    assert view.resolve("var/run/y") == "run/y"
    assert view.read("var/run/y") == b"y"
    assert view.resolve("host/passwd") == "etc/passwd"
    assert view.read("host/passwd") == b"middle"
    assert view.resolve("rel/new/../z") == "run/z"
    assert view.resolve("../../x") == "x"
    with pytest.raises(OSError, match="symbolic"):
        view.resolve("loop/x")
    assert view.read("loop") == b""


def test_what_is_hidden_is_not_there(view: View) -> None:
    assert view.lstat("var/run/x") is None  # its folder is a link in the layer above
    assert view.lstat("opaque/below") is None
    assert view.read("opaque/own") == b"own"
    assert view.lstat("out/passwd") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes whiteouts outside of a user namespace")
def test_a_whiteout_hides_what_is_below(tmp_path: Path, view: View) -> None:
    os.mknod(tmp_path / "middle/etc/group", stat.S_IFCHR, os.makedev(0, 0))
    assert view.lstat("etc/group") is None
    os.mkdir(tmp_path / "top/etc")
    (tmp_path / "top/etc/group").write_text("again")
    assert view.read("etc/group") == b"again"


def test_mounts_have_places_that_are_like_the_image(tmp_path: Path, view: View) -> None:
    (tmp_path / "middle/etc/resolv.conf").symlink_to("/run/stub")
    os.chmod(tmp_path / "middle/etc", 0o751)
    os.utime(tmp_path / "middle/etc", (5, 5))
    wanted, targets = places(view, [("/var/run/sock", False), ("/data/in", True), ("/etc/hosts", False)])
    assert targets == ["run/sock", "data/in", "etc/hosts"]
    at = scaffold(tmp_path / "scaffold", view, wanted)
    found = sorted(str(p.relative_to(at)) for p in at.rglob("*"))
    assert found == [
        "data", "data/in", "dev", "etc", "etc/hostname", "etc/hosts", "etc/resolv.conf", "proc", "run", "run/sock",
        "sys",
    ]  # fmt: skip
    assert (at / "etc/resolv.conf").is_file()
    assert not (at / "etc/resolv.conf").is_symlink()
    assert (at / "data/in").is_dir()
    st = (at / "etc").stat()
    assert (stat.S_IMODE(st.st_mode), int(st.st_mtime)) == (0o751, 5)
    scaffold(at, view, [Place("dev")])
    assert os.listdir(at) == ["dev"]


@pytest.mark.parametrize("volume", [("/etc", False), ("/etc/passwd", True), ("/loop", True), ("/dev", True)])
def test_what_cannot_be_mounted_upon(view: View, volume: tuple[str, bool]) -> None:
    with pytest.raises(ContainerError, match="cannot be mounted upon"):
        places(view, [volume])


def test_a_file_on_the_way_is_refused(tmp_path: Path, view: View) -> None:
    wanted, _ = places(view, [("/etc/passwd/x", True)])
    with pytest.raises(ContainerError, match="not a folder"):
        scaffold(tmp_path / "scaffold", view, wanted)
