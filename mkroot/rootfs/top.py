"""The writable top of a union while scripts run: what is put there before, and the folder that is kept afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mkroot.errors import RootfsError, SandboxError
from mkroot.rootfs import linux
from mkroot.rootfs.identity import MAPPED, ROOT, Identity
from mkroot.rootfs.sandbox import scaffold
from mkroot.rootfs.union import mount_union, unmount
from mkroot.store import marks
from mkroot.store.frame import pieces_of
from mkroot.store.layer import Layer, LayerStore, contents
from mkroot.store.store import Store
from mkroot.store.trees import Trees, checked
from mkroot.store.writer import Chown, TreeWriter, make_tree
from mkroot.tar.entry import BLOCK, CHAR, DIR, FILE, SYMLINK, Entry

if TYPE_CHECKING:
    from mkroot.rootfs.stage import Root
    from mkroot.rootfs.tree import Tree

OPAQUE = {False: "trusted.overlay.opaque", True: "user.overlay.opaque"}  # the mark of a folder that hides what is below
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Top:
    """A fresh upper folder; a context manager that leaves nothing behind but what `keep` kept.

    trees: where the layers' trees are, and this one's will be; the upper folder is on the same file system.
    """

    def __init__(self, layers: LayerStore, identity: Identity, trees: Trees) -> None:
        self.layers = layers
        self.identity = identity
        self.trees = trees
        self.owners: dict[str, tuple[int, int]] = {}  # what a sandbox recorded, by path; see Sandbox.owners

    def __enter__(self) -> Top:
        self.trees.make()
        self.folder = Path(tempfile.mkdtemp(prefix="top.", dir=self.trees.workshop))
        self.upper = self.folder / "upper"
        for name in ("upper", "at"):
            (self.folder / name).mkdir(mode=0o755)
        os.chmod(self.upper, 0o755)
        scaffold(self.folder / "scaffold")
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self.folder)

    # Before scripts run

    def put(self, members: Sequence[tuple[Entry, bytes]], tree: Tree) -> None:
        """Put entries with their contents into the upper folder; `tree` tells what the folders above them are like."""
        for entry, content in members:
            up, _, name = entry.path.rpartition("/")
            if name in ("", ".", ".."):
                raise RootfsError(f"a path that leads elsewhere: {entry.path[:200]!r}")
            folder = self._folder(up, tree)
            try:
                self._put(folder, name, entry, content)
            finally:
                os.close(folder)

    def _put(self, folder: int, name: str, entry: Entry, content: bytes) -> None:
        if entry.kind == DIR:
            try:
                os.mkdir(name, 0o755, dir_fd=folder)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    # a whiteout, or what a script put there; what that hid stays hidden
                    os.unlink(name, dir_fd=folder)
                    os.mkdir(name, 0o755, dir_fd=folder)
                    os.setxattr(f"/proc/self/fd/{folder}/{name}", OPAQUE[self.identity.namespaced], b"y")
        else:
            with contextlib.suppress(FileNotFoundError):
                try:
                    os.unlink(name, dir_fd=folder)
                except IsADirectoryError:
                    shutil.rmtree(name, dir_fd=folder)
            if entry.kind == SYMLINK:
                os.symlink(entry.link, name, dir_fd=folder)
            elif entry.kind == FILE:
                fd = os.open(
                    name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
                )
                with os.fdopen(fd, "wb") as f:
                    f.write(content)
            else:
                kind = stat.S_IFCHR if entry.kind == CHAR else stat.S_IFBLK if entry.kind == BLOCK else stat.S_IFIFO
                try:
                    os.mknod(name, 0o600 | kind, os.makedev(*entry.device), dir_fd=folder)
                except PermissionError:  # in a user namespace
                    if entry.device == (0, 0):
                        raise
                    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))
                    mark = f"{entry.kind}:{entry.device[0]}:{entry.device[1]}:{entry.mode:o}"
                    os.setxattr(f"/proc/self/fd/{folder}/{name}", marks.DEVICE, mark.encode())
        if not self.identity.can_chown(entry.uid, entry.gid):
            self.owners[entry.path] = (entry.uid, entry.gid)
        else:
            os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
        if entry.kind != SYMLINK:
            os.chmod(name, entry.mode, dir_fd=folder)

    def hide(self, path: str, tree: Tree) -> None:
        """Put a whiteout: what the layers below have at the path is not seen (Linux overlayfs documentation)."""
        self.put([(Entry(path, CHAR, 0, device=(0, 0)), b"")], tree)

    def _folder(self, path: str, tree: Tree) -> int:
        """Return a descriptor of a folder in the upper, made like the tree's own where it is missing."""
        parts = path.split("/") if path else []
        if {"", ".", ".."} & set(parts):
            raise RootfsError(f"a path that leads elsewhere: {path[:200]!r}")
        fd = os.open(self.upper, _FOLDER)
        done = ""
        for part in parts:
            done = f"{done}/{part}" if done else part
            try:
                below = os.open(part, _FOLDER, dir_fd=fd)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=fd)
                below = os.open(part, _FOLDER, dir_fd=fd)
                node = tree.nodes.get(done)
                known = node.entry if node is not None and node.entry.kind == DIR else Entry(done, DIR, 0o755)
                if self.identity.can_chown(known.uid, known.gid):
                    os.fchown(below, known.uid, known.gid)
                os.fchmod(below, known.mode)  # whatever the umask is
            finally:
                os.close(fd)
            fd = below
        return fd

    def read(self, path: str) -> bytes | None:
        """Return what the upper folder has at a path, or None where it has no regular file there."""
        try:
            up, _, name = path.rpartition("/")
            fd = os.open(self.upper, _FOLDER)
            for part in up.split("/"):
                below = os.open(part, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = below
            try:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
            finally:
                os.close(fd)
        except OSError:
            return None
        with os.fdopen(file, "rb") as f:
            return f.read() if stat.S_ISREG(os.fstat(f.fileno()).st_mode) else None

    # While they run

    @contextlib.contextmanager
    def mounted(self, root: Root) -> Iterator[Path]:
        """Mount the union of the root's layers below this top; yield where."""
        for top in root.tops:
            top_tree(self.layers, top, self.identity, self.trees, root.tree)
        for package in root.packages:
            make_tree(self.layers, package, self.trees, chown(self.identity))
        lowers = [checked(self.trees, layer) for layer in (*reversed(root.tops), *root.packages)]
        lowers.append(self.folder / "scaffold")
        tops = lowers[: len(root.tops)]
        at, work = self.folder / "at", self.folder / "work"
        namespaced = self.identity.namespaced
        union = mount_union(at, lowers, self.upper, work, namespaced=namespaced, tops=tops)
        if not union.mounted or union.in_memory:
            unmount(union)
            why = union.why_not or "the store lies on a file system that no overlay can write to"
            raise SandboxError(
                f"maintainer scripts cannot run here: {why}",
                hint="`mkroot doctor` says what this host lacks; `configure: static` and `none` need no mounts",
            )
        try:
            yield at
        finally:
            unmount(union)

    # Afterwards

    def keep(self, layer: Layer, chunks: Iterator[bytes]) -> None:
        """Store the layer that was captured, and the upper folder as its tree."""
        with self.trees.writing(layer.key) as aside:
            os.rename(self.upper, aside)
        self.layers.save(layer, pieces_of(chunks))


def cannot_be_upper(folder: Path) -> bool:
    """Tell whether a folder lies on a file system that overlayfs does not write to, such as an overlay itself."""
    best = ("", "")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields, _, rest = line.partition(" - ")
            at = fields.split()[4]
            if folder.is_relative_to(at) and len(at) >= len(best[0]):
                best = (at, rest.split()[0])
    return best[1].startswith(("overlay", "nfs", "cifs", "smb", "fuse", "9p", "vfat", "exfat", "ntfs"))


def chown(identity: Identity) -> Chown:
    """Return which owners an identity can give to files: 0 and what its id ranges hold."""
    return Chown(min(sum(r[2] for r in identity.uids), sum(r[2] for r in identity.gids)))


def top_tree(layers: LayerStore, layer: Layer, identity: Identity, trees: Trees, tree: Tree) -> Path:
    """Return a top's folder in the form that overlayfs reads: whiteouts and opaque folders included.

    tree: what its folders are like that it does not have itself; the union shows the topmost one's mode and owner.
    """

    def above(path: str) -> Entry | None:
        node = tree.nodes.get(path)
        return node.entry if node is not None and node.entry.kind == DIR else None

    if not trees.has(layer.key):
        with trees.writing(layer.key) as aside:
            aside.mkdir(mode=0o755)
            with TreeWriter(aside, chown(identity), above=above, now=int(time.time())) as writer:
                for entry, content in contents(layers, layer):
                    writer.add(entry, content)
                for gone in layer.removed:
                    writer.add(Entry(gone, CHAR, 0, device=(0, 0)), b"")
                for folder in layer.opaque:
                    writer.make(folder)
            for folder in layer.opaque:
                os.setxattr(aside / folder, OPAQUE[identity.namespaced], b"y")
    return trees.path(layer.key)


@contextlib.contextmanager
def scratch(store: Store, identity: Identity, size: int) -> Iterator[Trees]:
    """Yield where the trees of `size` bytes of packages go: in memory while there is plenty, else in the store.

    A file system in memory makes files several times faster than a disk with a journal. It is not for an identity with
    one id, whose files need extended attributes of the user's, nor where a store on disk could take an upper folder
    and memory could not.
    """
    at = store.folder("trees.")
    try:
        if identity.kind in (ROOT, MAPPED) and (size < _plenty() or cannot_be_upper(store.root)):
            linux.mount("tmpfs", str(at), "tmpfs", linux.MS_NODEV, "mode=755")
            try:
                if _takes_attributes(at, identity):
                    yield Trees(at, kept=False)
                    return
            finally:
                linux.umount(str(at))
        yield Trees(store.root / f"trees-{identity.tag}", aside=store.root / "tmp")
    finally:
        _remove(at)


def _plenty() -> int:
    """Return how many bytes of unpacked packages may stand in memory: a quarter of what is free."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024 // 4


def _takes_attributes(at: Path, identity: Identity) -> bool:
    """Tell whether a file system holds the marks of overlayfs: user attributes in memory are new in Linux 6.6."""
    try:
        os.setxattr(at, OPAQUE[identity.namespaced], b"n")
        os.removexattr(at, OPAQUE[identity.namespaced])
    except OSError:
        return False
    return True


def _remove(folder: Path) -> None:
    """Remove a working folder; what is in the way of that is made removable first, and a failure is no error."""

    def again(function: object, path: str, error: object) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)
            os.chmod(path, 0o700)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)

    shutil.rmtree(folder, onerror=again)
