"""Artifacts: every kind holds the same root, bytes depend on the root alone, and an output is whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mkroot.artifact.folder import output_folder, remove
from mkroot.artifact.inventory import Inventory, Item, read_folder, read_tar
from mkroot.artifact.kinds import makers
from mkroot.artifact.manifest import Made, read_manifest
from mkroot.artifact.outputs import Bench, Outputs, tree_digest, write_outputs
from mkroot.artifact.tools import HostTools
from mkroot.digest import sha256_file
from mkroot.errors import ArtifactError, MkrootError
from mkroot.progress import Progress
from mkroot.tar.entry import FILE, HARDLINK
from tests.unit.test_artifact_root import CAPABILITY, FACTS, small_root

NAMES = {
    "tar": "rootfs.tar",
    "tar.gz": "rootfs.tar.gz",
    "tar.zst": "rootfs.tar.zst",
    "cpio.zst": "rootfs.cpio.zst",
    "squashfs": "rootfs.squashfs",
    "erofs": "rootfs.erofs",
    "ext4": "rootfs.ext4",
}
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root can write any owner and become another user")


class Watched(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, line: str) -> None:
        self.warnings.append(line)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users may enter: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def wanted(*tools: str) -> None:
    for tool in tools:
        try:
            HostTools().find(tool)
        except ArtifactError as e:
            pytest.skip(str(e))


def made(tmp_path: Path, *kinds: str, out: str = "out", progress: Progress | None = None) -> Outputs:
    root = small_root(tmp_path / "store")
    return write_outputs(root, FACTS, tmp_path / out, kinds, makers(), progress=progress)


def in_child(action: Callable[[], None]) -> None:
    """Run `action` in a process of its own, which may change user, umask and the like."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException as e:
            print(e)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def expected(tmp_path: Path) -> dict[str, Item]:
    """What the root holds, by an inventory's words: a hard link is a file."""
    found = {}
    entries = {e.path: e for e in small_root(tmp_path / "again").entries()}
    for path, e in entries.items():
        e = entries[e.link] if e.kind == HARDLINK else e
        mode = 0o777 if e.kind == "l" else e.mode
        found[path] = Item(e.kind, mode, e.uid, e.gid, e.size, e.sha256, e.link, e.device, e.xattrs)
    return found


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.zst"])
def test_an_archive_holds_the_root(tmp_path: Path, kind: str) -> None:
    outputs = made(tmp_path, kind)
    found = read_tar(outputs.folder / NAMES[kind])
    assert found.files == expected(tmp_path)
    assert [p.version for p in found.packages.values()] == ["1:2.0-1+b1"]


def test_the_manifest_tells_size_and_digest_of_every_artifact(tmp_path: Path) -> None:
    wanted("sqfstar", "mkfs.erofs", "mke2fs", "debugfs")
    outputs = made(tmp_path, "dir", *NAMES)
    manifest = read_manifest(outputs.folder / "manifest.json")
    assert manifest == outputs.manifest
    assert sorted(p.name for p in outputs.folder.iterdir()) == sorted([*NAMES.values(), "manifest.json", "rootfs"])
    for artifact in manifest.artifacts:
        path = outputs.folder / artifact.name
        if artifact.kind != "dir":
            assert (artifact.size, artifact.digest) == (path.stat().st_size, "sha256:" + sha256_file(path))
    text = (outputs.folder / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    assert str(tmp_path) not in text and os.uname().nodename not in text
    assert os.listdir(tmp_path / "out") == ["box"], "something is left beside the output"


def test_an_output_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted("sqfstar", "mkfs.erofs", "mke2fs", "debugfs")
    first = made(tmp_path, *NAMES)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    root = small_root(tmp_path / "store")
    second = write_outputs(root, FACTS, Path("out"), tuple(NAMES), makers())
    assert second.folder == Path("out/box/amd64") and second.manifest == first.manifest


def test_the_order_in_which_a_file_system_lists_names_is_of_no_account(tmp_path: Path) -> None:
    """tmpfs lists the newest name first, ext4 by a hash that each file system has of its own."""
    wanted("sqfstar", "mkfs.erofs", "mke2fs", "debugfs")
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    first = made(tmp_path, *NAMES)
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        assert made(Path(folder), *NAMES).manifest == first.manifest


@needs_root
def test_the_same_bytes_for_any_user_umask_zone_and_path(open_path: Path) -> None:
    wanted("sqfstar", "mkfs.erofs", "mke2fs", "debugfs")
    kinds = tuple(NAMES)
    first = made(open_path, *kinds)
    other = open_path / "a longer path"
    other.mkdir()
    os.chown(other, 65534, 65534)

    def build() -> None:
        os.umask(0o077)
        os.environ.update(TZ="Pacific/Kiritimati", LANG="tr_TR.UTF-8", SOURCE_DATE_EPOCH="7", MKE2FS_CONFIG="/nowhere")
        time.tzset()
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        made(other, *reversed(kinds))

    in_child(build)
    folder = other / "out" / "box" / "amd64"
    for kind in kinds:
        a, b = first.folder / NAMES[kind], folder / NAMES[kind]
        assert sha256_file(a) == sha256_file(b), f"{kind} differs"
        assert stat.S_IMODE(b.stat().st_mode) == 0o644
    assert (first.folder / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


def test_the_tree_digest_sees_every_kind_of_change(tmp_path: Path) -> None:
    import msgspec

    entries = small_root(tmp_path).entries()
    number = next(i for i, e in enumerate(entries) if e.kind == FILE)
    changes = {
        "mode": 0o600,
        "uid": 5,
        "gid": 5,
        "mtime": 1,
        "sha256": "0" * 64,
        "path": "z",
        "xattrs": {"user.a": b"b"},
    }
    digests = {tree_digest(entries)}
    for name, value in changes.items():
        changed = [*entries]
        changed[number] = msgspec.structs.replace(entries[number], **{name: value})
        digests.add(tree_digest(changed))
    assert len(digests) == len(changes) + 1


@needs_root
def test_a_folder_has_owners_modes_devices_links_and_capabilities(tmp_path: Path) -> None:
    progress = Watched()
    outputs = made(tmp_path, "dir", progress=progress)
    assert read_folder(outputs.folder / "rootfs").files == expected(tmp_path)
    root = outputs.folder / "rootfs"
    assert (root / "usr/bin/sh").stat().st_ino == (root / "usr/bin/dash").stat().st_ino
    times = {e.path: e.mtime for e in small_root(tmp_path / "again").entries()}
    assert {p: int((root / p).lstat().st_mtime) for p in times} == times
    assert progress.warnings == []


@needs_root
def test_a_folder_of_an_ordinary_user_says_what_it_lacks_and_is_not_dangerous(open_path: Path) -> None:
    out = open_path / "theirs"
    out.mkdir()
    os.chown(out, 65534, 65534)
    root = small_root(open_path / "store")
    progress = Watched()
    with output_folder(out, "box", "amd64") as folder:
        os.chown(folder, 65534, 65534)
        os.chown(folder.parent, 65534, 65534)
        bench = Bench(root, FACTS, folder, HostTools(), progress)
        os.setegid(65534)
        os.seteuid(65534)
        try:
            makers()["dir"](bench)
        finally:
            os.seteuid(0)
            os.setegid(0)
    told = "\n".join(progress.warnings)
    assert "device nodes" in told and "owners" in told and "extended attributes" in told
    su = (out / "box/amd64/rootfs/usr/bin/su").stat()
    assert su.st_uid == 65534 and not su.st_mode & 0o6000


def newc(data: bytes) -> list[tuple[str, list[int], bytes]]:
    """Read a newc archive as cpio(5) describes it."""
    found, at = [], 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode("utf-8", "surrogateescape")
        start = at + (110 + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found.append((name, fields, data[start : start + fields[6]]))
        at = start + (fields[6] + 3) // 4 * 4


def test_cpio_holds_links_devices_and_content_with_the_last_name(tmp_path: Path) -> None:
    import zstandard

    progress = Watched()
    outputs = made(tmp_path, "cpio.zst", progress=progress)
    data = (outputs.folder / "rootfs.cpio.zst").read_bytes()
    frame = zstandard.ZstdDecompressor().decompressobj()
    plain = frame.decompress(data)
    assert frame.eof and not frame.unused_data, "Linux wants one frame"
    members = newc(plain)
    by_name = {name: (fields, content) for name, fields, content in members}
    entries = {e.path or ".": e for e in small_root(tmp_path / "again").entries()}
    assert set(by_name) == set(entries)
    names = [name for name, _, _ in members]
    for name in names:
        assert "/" not in name or name.rpartition("/")[0] in names[: names.index(name)]
    sh, dash = by_name["usr/bin/sh"], by_name["usr/bin/dash"]
    assert sh[0][0] == dash[0][0] and sh[0][4] == dash[0][4] == 2
    assert names.index("usr/bin/dash") < names.index("usr/bin/sh") and dash[1] == b"" and len(sh[1]) == 140_000
    assert by_name["dev/big"][0][9:11] == [259, 70_000] and by_name["dev/big"][0][1] == stat.S_IFBLK | 0o660
    assert by_name["long"][1] == b"/a" * 60
    inodes = [fields[0] for _, fields, _ in members]
    assert sorted(set(inodes)) == list(range(1, len(set(inodes)) + 1))
    assert ["extended attributes" in w for w in progress.warnings] == [True]


def test_zstd_workers_do_not_change_the_bytes() -> None:
    import zstandard

    data = b"".join(i.to_bytes(4, "little") * 7 for i in range(400_000))
    packed = {zstandard.ZstdCompressor(level=9, threads=n).compress(data) for n in (1, 2, 4)}
    assert len(packed) == 1


def test_squashfs_holds_the_root_whatever_the_number_of_processors(tmp_path: Path) -> None:
    wanted("sqfstar", "unsquashfs")
    outputs = made(tmp_path, "squashfs")
    image = outputs.folder / "rootfs.squashfs"
    listed = subprocess.run(["unsquashfs", "-lln", image], capture_output=True, text=True, check=True).stdout
    rows = {
        line.split("squashfs-root", 1)[1].split(" -> ")[0]: line.split()
        for line in listed.splitlines()
        if "squashfs-root" in line
    }
    assert rows[""][:2] == ["drwxr-xr-x", "0/0"]
    assert rows["/usr/bin/su"][0] == "-rwsr-xr-x"
    assert rows["/srv"][:2] == ["drwxrwsr-x", "1000/70000"]
    assert rows["/dev/null"][:3] == ["crw-rw-rw-", "0/0", "1,"]
    assert len(rows) == len(expected(tmp_path))
    one = subprocess.run(["unsquashfs", "-cat", image, "usr/bin/ping"], capture_output=True, check=True).stdout
    assert one == b"ping"

    class OneProcessor(HostTools):
        def run(self, name, arguments, **more):  # type: ignore[no-untyped-def]
            return super().run(name, ["-processors", "1", *arguments] if name == "sqfstar" else arguments, **more)

    again = write_outputs(
        small_root(tmp_path / "store"), FACTS, tmp_path / "one", ["squashfs"], makers(), tools=OneProcessor()
    )
    assert again.manifest == outputs.manifest


def debugfs(image: Path, command: str) -> str:
    return subprocess.run(
        [HostTools().find("debugfs"), "-R", command, image], capture_output=True, text=True, check=True
    ).stdout


def test_ext4_is_clean_and_holds_the_root(tmp_path: Path) -> None:
    wanted("mke2fs", "debugfs", "e2fsck")
    outputs = made(tmp_path, "ext4")
    image = outputs.folder / "rootfs.ext4"
    check = subprocess.run([HostTools().find("e2fsck"), "-fn", image], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    for path, item in expected(tmp_path).items():
        quoted = '"/' + path.replace('"', '""') + '"'
        told = debugfs(image, f"stat {quoted}")
        assert int(told.split("Mode:")[1].split()[0], 8) == item.mode, path
        owner = told.split("User:")[1].split("Project")[0].replace("Group:", " ").split()
        assert owner == [str(item.uid), str(item.gid)], path
        if item.kind == FILE:
            dumped = tmp_path / "dumped"
            debugfs(image, f"dump {quoted} {dumped}")
            assert sha256_file(dumped) == item.sha256, path
        if item.kind in "cb":
            assert f"Device major/minor number: {item.device[0]:02d}:{item.device[1]:02d}" in told, told
    assert 'Fast link dest: "usr/bin"' in debugfs(image, "stat /bin")
    assert debugfs(image, "cat /long") == "/a" * 60
    dumped = tmp_path / "value"
    debugfs(image, f"ea_get -f {dumped} /usr/bin/ping security.capability")
    assert dumped.read_bytes() == CAPABILITY
    assert "Links: 2" in debugfs(image, "stat /usr/bin/sh")


def test_erofs_holds_the_root(tmp_path: Path) -> None:
    wanted("mkfs.erofs", "fsck.erofs", "dump.erofs")
    outputs = made(tmp_path, "erofs")
    image = outputs.folder / "rootfs.erofs"
    extracted = tmp_path / "extracted"
    subprocess.run(["fsck.erofs", f"--extract={extracted}", "--no-preserve", image], capture_output=True, check=False)
    subprocess.run(["fsck.erofs", image], capture_output=True, check=True)
    letters = {"f": "regular", "d": "directory", "l": "symlink", "c": "char dev", "b": "block dev", "p": "FIFO"}
    for path, item in expected(tmp_path).items():
        told = subprocess.run(
            ["dump.erofs", f"--path=/{path}", image], capture_output=True, text=True, check=True
        ).stdout
        assert f"Access: {item.mode & 0o777:04o}/" in told, path
        assert f"Uid: {item.uid}   Gid: {item.gid} " in told, path
        assert letters[item.kind].lower() in told.lower(), (path, told)


def test_an_earlier_output_is_replaced_as_a_whole(tmp_path: Path) -> None:
    made(tmp_path, "tar", "dir")
    outputs = made(tmp_path, "tar.zst")
    assert sorted(os.listdir(outputs.folder)) == ["manifest.json", "rootfs.tar.zst"]
    assert os.listdir(tmp_path / "out") == ["box"]


@pytest.mark.parametrize("error", [ArtifactError("no"), KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_a_failure_leaves_the_earlier_output_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    before = made(tmp_path, "tar")
    inode = before.folder.stat().st_ino

    def failing(bench: Bench) -> Made:
        (bench.folder / "half").write_text("half")
        raise error

    with pytest.raises((MkrootError, KeyboardInterrupt)):
        write_outputs(small_root(tmp_path / "store"), FACTS, tmp_path / "out", ["x"], {"x": failing})
    assert before.folder.stat().st_ino == inode
    assert os.listdir(tmp_path / "out") == ["box"]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    def full(bench: Bench) -> Made:
        with open("/dev/full", "wb", buffering=0) as f:
            f.write(b"x")
        raise AssertionError("it fitted")

    with pytest.raises(ArtifactError, match="disk is full") as caught:
        write_outputs(small_root(tmp_path / "store"), FACTS, tmp_path / "out", ["x"], {"x": full})
    assert caught.value.hint and caught.value.where == str(tmp_path / "out/box/amd64")
    assert os.listdir(tmp_path / "out") == []


def test_a_disk_that_a_tool_fills_is_told() -> None:
    with pytest.raises(ArtifactError, match="disk is full: dd"):
        HostTools().run("dd", ["if=/dev/zero", "of=/dev/full", "count=1"])


def test_builds_at_once_into_one_folder_leave_one_whole_output(tmp_path: Path) -> None:
    made(tmp_path, "tar", "tar.zst")
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(8):
                    made(tmp_path, "tar", "tar.zst")
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    folder = tmp_path / "out/box/amd64"
    for artifact in read_manifest(folder / "manifest.json").artifacts:
        assert artifact.digest == "sha256:" + sha256_file(folder / artifact.name)
    assert os.listdir(tmp_path / "out") == ["box"]


def test_an_output_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ArtifactError, match="is a file"):
        made(tmp_path, "tar")
    assert (tmp_path / "out").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/box").write_text("mine")
    with pytest.raises(ArtifactError, match="is a file"):
        made(tmp_path, "tar", out="other")
    assert os.listdir(tmp_path / "other") == ["box"]


def test_a_folder_that_mkroot_did_not_make_is_not_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "out/box/amd64/mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ArtifactError, match="not an output of mkroot"):
        made(tmp_path, "tar")
    assert mine.read_text() == "mine"


@needs_root
def test_an_output_folder_that_is_not_writable_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    root = small_root(tmp_path / "store")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        with pytest.raises(ArtifactError, match="cannot be written") as caught:
            write_outputs(root, FACTS, tmp_path / "out", ["tar"], makers())
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert caught.value.hint


def test_what_a_killed_build_left_is_removed_and_a_living_one_is_let_alone(tmp_path: Path) -> None:
    import fcntl

    dead, alive = tmp_path / "out/.box.amd64.newdead", tmp_path / "out/.box.amd64.newalive"
    (dead / "out/sub").mkdir(parents=True)
    (dead / "out/sub").chmod(0)
    alive.mkdir(parents=True)
    fd = os.open(alive, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        made(tmp_path, "tar")
        assert not dead.exists() and alive.exists()
    finally:
        os.close(fd)


@needs_root
def test_a_root_with_closed_folders_is_removed_by_its_ordinary_owner(open_path: Path) -> None:
    root = open_path / "root"
    (root / "closed/deep").mkdir(parents=True)
    (root / "closed/deep/file").write_text("x")
    (root / "link").symlink_to("/etc")
    for path in (root / "closed/deep/file", root / "closed/deep", root / "closed", root, open_path):
        os.chown(path, 65534, 65534)
    (root / "closed/deep").chmod(0o500)
    (root / "closed").chmod(0)

    def as_owner() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        remove(root)

    in_child(as_owner)
    assert not root.exists() and os.listdir("/etc")


@pytest.mark.parametrize(
    ("kind", "package"), [("squashfs", "squashfs-tools"), ("erofs", "erofs-utils"), ("ext4", "e2fsprogs")]
)
def test_a_missing_tool_names_its_package(tmp_path: Path, kind: str, package: str) -> None:
    root = small_root(tmp_path / "store")
    with pytest.raises(ArtifactError, match="not installed") as caught:
        write_outputs(root, FACTS, tmp_path / "out", [kind], makers(), tools=HostTools(path=str(tmp_path)))
    assert caught.value.hint and package in caught.value.hint
    assert os.listdir(tmp_path / "out") == []


def test_a_tool_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"mke2fs failed with status \d+: .*nowhere"):
        wanted("mke2fs")
        HostTools().run("mke2fs", ["-q", "/nowhere/at/all"])


def test_a_tool_that_stops_reading_ends_with_its_own_words() -> None:
    with pytest.raises(ArtifactError, match="false failed"):
        HostTools().run("false", [], stdin=(bytes(1 << 20) for _ in range(8)))


def test_an_unknown_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not built yet"):
        made(tmp_path, "disk.raw")


def test_an_inventory_of_a_folder_opens_no_pipe_and_follows_no_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc")
    found: Inventory = read_folder(tmp_path)
    assert found.files is not None and sorted(found.files) == ["", "link", "pipe"]


def test_python_reads_the_plain_archive(tmp_path: Path) -> None:
    outputs = made(tmp_path, "tar")
    with tarfile.open(outputs.folder / "rootfs.tar") as archive:
        assert archive.getmember("usr/bin/dash").linkname == "usr/bin/sh"
    assert (
        shutil.which("tar") is None
        or subprocess.run(["tar", "-tf", outputs.folder / "rootfs.tar"], capture_output=True).returncode == 0
    )
