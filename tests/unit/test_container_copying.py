"""What a container changed, and docker cp's rules between two folders that stand for roots."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from mkroot.container.changes import changed_paths
from mkroot.container.copying import Side, extract, pack, source, target
from mkroot.errors import ContainerError
from mkroot.rootfs.upper import read_upper
from mkroot.tar.write import END
from tests.unit.commands import Program
from tests.unit.test_commit import Box


def tree(root: Path, *lines: str) -> Path:
    """Make a tree: `path`, `path/`, `path=content`, `path -> target`."""
    root.mkdir(parents=True, exist_ok=True)
    for line in lines:
        path, arrow, link = line.partition(" -> ")
        name, _, content = path.partition("=")
        place = root / name.strip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            place.symlink_to(link)
        elif name.endswith("/"):
            place.mkdir(exist_ok=True)
        else:
            place.write_text(content)
    return root


def shown(root: Path) -> list[str]:
    lines = []
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            lines.append(f"{name} -> {os.readlink(path)}")
        else:
            lines.append(f"{name}/" if path.is_dir() else f"{name}={path.read_text()}")
    return lines


def copy(here: Path, there: Path, path: str, dest: str, *, follow: bool = False) -> None:
    """Copy as `mkroot cp` does, from one root to another."""
    fds = [os.open(root, os.O_PATH | os.O_DIRECTORY) for root in (here, there)]
    try:
        outside = Side(root=fds[0], path=path, shown=path)
        inside = Side(root=fds[1], path=dest, shown=dest)
        with source(outside, follow=follow) as found, target(inside, found, outside.name) as (into, name):
            extract([*pack(found, name), END], into)
    finally:
        for fd in fds:
            os.close(fd)


HERE = ("file=1", "dir/a=a", "dir/sub/b=b", "link -> dir/a", "folder -> dir", "loop -> loop")
THERE = ("etc/conf=old", "srv/", "var -> /srv", "out -> ../../../outside", "gone -> nowhere")


@pytest.mark.parametrize(
    ("path", "dest", "new"),
    [
        ("/file", "/srv", ["srv/file=1"]),
        ("/file", "/srv/", ["srv/file=1"]),
        ("/file", "/srv/other", ["srv/other=1"]),
        ("/file", "/var/other", ["srv/other=1"]),
        ("/file", "/", ["file=1"]),
        ("/dir", "/srv", ["srv/dir/", "srv/dir/a=a", "srv/dir/sub/", "srv/dir/sub/b=b"]),
        ("/dir/.", "/srv", ["srv/a=a", "srv/sub/", "srv/sub/b=b"]),
        ("/dir", "/srv/new", ["srv/new/", "srv/new/a=a", "srv/new/sub/", "srv/new/sub/b=b"]),
        ("/dir/.", "/srv/new", ["srv/new/", "srv/new/a=a", "srv/new/sub/", "srv/new/sub/b=b"]),
        ("/dir/", "/srv/new/", ["srv/new/", "srv/new/a=a", "srv/new/sub/", "srv/new/sub/b=b"]),
        ("/link", "/srv", ["srv/link -> dir/a"]),
        ("/folder/a", "/srv", ["srv/a=a"]),
        ("/../../file", "/srv/../../srv", ["srv/file=1"]),
    ],
)
def test_where_things_go(tmp_path: Path, path: str, dest: str, new: list[str]) -> None:
    here, there = tree(tmp_path / "here", *HERE), tree(tmp_path / "there", *THERE)
    before = shown(there)
    copy(here, there, path, dest)
    assert [line for line in shown(there) if line not in before] == new


def test_links_are_followed_where_that_is_wanted(tmp_path: Path) -> None:
    here, there = tree(tmp_path / "here", *HERE), tree(tmp_path / "there", "srv/")
    copy(here, there, "/link", "/srv", follow=True)
    copy(here, there, "/folder/", "/srv")
    assert {"srv/link=a", "srv/folder/a=a"} <= set(shown(there)), "what is copied keeps the link's name"


def test_a_file_replaces_a_file_and_a_link_to_one_is_written_through(tmp_path: Path) -> None:
    here, there = tree(tmp_path / "here", *HERE), tree(tmp_path / "there", *THERE, "conf -> etc/conf")
    copy(here, there, "/file", "/conf")
    assert {"conf -> etc/conf", "etc/conf=1"} <= set(shown(there))


@pytest.mark.parametrize(
    ("path", "dest", "said"),
    [
        ("/nothing", "/srv", "no such file"),
        ("/file/", "/srv", "not a directory"),
        ("/loop/x", "/srv", "symbolic links"),
        ("/file", "/none/file", "folder above it is not there"),
        ("/file", "/none/", "is not a folder"),
        ("/dir", "/etc/conf", "is a file"),
        ("/file", "/gone/", "is not a folder"),
        ("/dir", "/full", "cannot be replaced|file is where"),
    ],
)
def test_what_cannot_be_copied(tmp_path: Path, path: str, dest: str, said: str) -> None:
    here, there = tree(tmp_path / "here", *HERE), tree(tmp_path / "there", *THERE, "full/dir=a file")
    before = shown(there)
    with pytest.raises(ContainerError, match=said):
        copy(here, there, path, dest)
    assert shown(there) == before


@pytest.mark.counts("hostile")
def test_nothing_leads_out_of_a_root(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", "secret=s")
    here = tree(tmp_path / "here", "out -> ../outside", f"abs -> {outside}", "file=1")
    there = tree(tmp_path / "there", "out -> ../outside", f"abs -> {outside}", "srv/")
    for path in ("/out/secret", "/abs/secret", "/../outside/secret"):
        with pytest.raises(ContainerError, match="no such file"):
            copy(here, there, path, "/srv")
        with pytest.raises(ContainerError):
            copy(here, there, "/file", path.replace("secret", "new/x"))
    assert shown(outside) == ["secret=s"]


def packed(*members: tuple[str, str | tuple[bytes, str]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, tuple):
                info.type, info.linkname = what
                archive.addfile(info)
            else:
                info.size = len(what)
                archive.addfile(info, io.BytesIO(what.encode()))
    return out.getvalue()


@pytest.mark.counts("hostile")
@pytest.mark.parametrize(
    "members",
    [
        (("../x", "1"),),
        (("l", (tarfile.SYMTYPE, "/etc")), ("l/x", "1")),
        (("l", (tarfile.SYMTYPE, "..")), ("l/x", "1")),
        (("h", (tarfile.LNKTYPE, "../outside/secret")),),
    ],
)
def test_hostile_archives_write_nothing_elsewhere(tmp_path: Path, members: tuple[tuple[str, str], ...]) -> None:
    outside = tree(tmp_path / "outside", "secret=s")
    into = tree(tmp_path / "into")
    fd = os.open(into, os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(ContainerError):
            extract([packed(*members)], fd)
    finally:
        os.close(fd)
    assert shown(outside) == ["secret=s"] and sorted(os.listdir(tmp_path)) == ["into", "outside"]


def test_an_archive_makes_the_folders_that_it_does_not_name(tmp_path: Path) -> None:
    into = tree(tmp_path / "into", "a/old=o")
    fd = os.open(into, os.O_PATH | os.O_DIRECTORY)
    extract([packed(("a/b/c", "1"), ("a/old", "n"))], fd)
    os.close(fd)
    assert shown(into) == ["a/", "a/b/", "a/b/c=1", "a/old=n"]


def test_modes_times_hard_links_and_sparse_files_arrive(tmp_path: Path) -> None:
    here, there = tree(tmp_path / "here", "d/one=1", "d/x/y=2"), tree(tmp_path / "there", "srv/")
    os.link(here / "d/one", here / "d/two")
    os.chmod(here / "d/one", 0o4711)
    os.chmod(here / "d/x", 0o700)
    os.utime(here / "d/one", (1000, 1000))
    os.utime(here / "d/x", (2000, 2000))
    copy(here, there, "/d", "/srv")
    one, two = (there / "srv/d/one").stat(), (there / "srv/d/two").stat()
    assert one.st_ino == two.st_ino and stat.S_IMODE(one.st_mode) == 0o4711 and one.st_mtime == 1000
    folder = (there / "srv/d/x").stat()
    assert stat.S_IMODE(folder.st_mode) == 0o700 and folder.st_mtime == 2000


# diff


def test_added_changed_and_deleted_as_docker_tells_them(tmp_path: Path) -> None:
    low = tree(tmp_path / "low", "etc/a=1", "etc/b=1", "opt/old/x=1", "opt/old/y=1", "usr/bin/sh=s", "hidden=1")
    mid = tree(tmp_path / "mid", "etc/c=1", "opt/old/z=1")
    os.mknod(mid / "hidden", stat.S_IFCHR, os.makedev(0, 0))
    upper = tree(tmp_path / "upper", "etc/a=2", "etc/new=n", "opt/old/y=new", "srv/deep/er=1", "hidden=again")
    for gone in ("etc/b", "etc/c", "never"):
        os.mknod(upper / gone, stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(upper / "opt/old", "user.overlay.opaque", b"y")
    lines = [f"{c.kind} {c.path}" for c in changed_paths(read_upper(upper), [mid, low])]
    assert lines == [
        "C /etc", "C /etc/a", "D /etc/b", "D /etc/c", "A /etc/new", "A /hidden", "C /opt", "C /opt/old",
        "D /opt/old/x", "C /opt/old/y", "D /opt/old/z", "A /srv", "A /srv/deep", "A /srv/deep/er",
    ]  # fmt: skip
    assert changed_paths(read_upper(tree(tmp_path / "empty")), [low]) == []


# The commands


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("cp", "a", "b"), 2, "one of SRC and DEST is in a container"),
        (("cp", "one:/a", "two:/b"), 2, "one of SRC and DEST is in a container"),
        (("cp", "nobody:/a", "."), 1, "there is no container `nobody`"),
        (("export", "nobody", "out.tar"), 1, "there is no image `nobody`"),
        (("diff", "brave_on"), 1, "did you mean `brave_one`?"),
        (("inspect", "--type", "container", "box:1"), 1, "there is no container `box:1`"),
        (("inspect", "nobody"), 1, "there is no image `nobody`"),
    ],
)
def test_what_the_commands_refuse(tmp_path: Path, words: tuple[str, ...], status: int, said: str) -> None:
    Box(tmp_path)
    done = Program(tmp_path)(*words)
    assert done.status == status and said in done.err, done.err
    assert "out.tar" not in os.listdir(tmp_path)


def test_inspect_shows_a_container_in_dockers_words(tmp_path: Path) -> None:
    box = Box(tmp_path)
    (found,) = Program(tmp_path)("inspect", "brave_one").json
    assert (found["Id"], found["Name"], found["Image"]) == (box.container.id, "brave_one", box.parent.digest)
    assert (found["Path"], found["Args"]) == ("/bin/sh", ["-c", "true"])
    assert found["State"]["Status"] == "created" and found["Config"]["Image"] == "box:1"
    both = Program(tmp_path)("inspect", box.container.id[:8], "box:1").json
    assert [one.get("Name", one.get("RepoTags")) for one in both] == ["brave_one", ["box:1"]]
