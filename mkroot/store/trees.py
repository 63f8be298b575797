"""Where packages are unpacked for a union: in memory for the time of a build, or in the store."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mkroot.store.damage import DamageError
from mkroot.store.layer import Layer
from mkroot.store.store import clear, put
from mkroot.tar.entry import DIR, FILE, SYMLINK


class Trees(msgspec.Struct, frozen=True):
    """A folder of unpacked trees by the key of their layer; each is there whole or not at all.

    kept: they outlive the build. In memory they do not, and what a later build needs is made from the frames again.
    aside: a folder on the same file system in which they are made; None: among them. sound: keys of those that were
    compared with their layers by this process.
    """

    folder: Path
    kept: bool = True
    aside: Path | None = None
    sound: set[str] = msgspec.field(default_factory=set)

    @property
    def workshop(self) -> Path:
        """Where what is not whole yet is made."""
        return self.aside or self.folder

    def make(self) -> None:
        """Make the folder where there is none; raises OSError.

        It is for its user alone: a set-user-id program of a package would be the host's root's for everybody else.
        """
        with contextlib.suppress(FileExistsError):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700)
        if self.kept:
            with contextlib.suppress(PermissionError):
                self.folder.chmod(0o700)

    def path(self, key: str) -> Path:
        """Return where a layer's tree is, or would be."""
        return self.folder / key[:2] / key

    def has(self, key: str) -> bool:
        """Tell whether it is there."""
        return self.path(key).exists()

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield a new folder's path; what the caller makes there becomes the tree on a clean exit."""
        self.make()
        final = self.path(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix="tree.", dir=self.workshop))
        try:
            yield aside / "new"
            put(aside / "new", final)
            self.sound.add(key)
        finally:
            clear(aside)


def checked(trees: Trees, layer: Layer) -> Path:
    """Return the path of a layer's tree, compared with the layer where an earlier process has made it.

    A bit that flipped in a file that a script reads would come into an output, and nobody would know. Raises
    DamageError.
    """
    path = trees.path(layer.key)
    if trees.kept and layer.key not in trees.sound:
        if fault := fault_of(path, layer):
            raise DamageError(fault, path)
        trees.sound.add(layer.key)
    return path


def fault_of(tree: Path, layer: Layer) -> str:
    """Compare an unpacked tree with its layer; return what is wrong with it, "" for nothing. Raises OSError.

    What is compared: kinds, sizes and contents of files, targets of links, nothing more.
    """
    expected = {""}
    for entry in layer.entries:
        path = entry.path
        expected.add(path)
        while path := path.rpartition("/")[0]:
            expected.add(path)
        place = tree / entry.path
        try:
            s = os.lstat(place)
        except FileNotFoundError:
            return f"{entry.path} is missing"
        if entry.kind == FILE:
            if not stat.S_ISREG(s.st_mode) or s.st_size != entry.size:
                return f"{entry.path} is not the file that it was"
            if hashlib.sha256(place.read_bytes()).hexdigest() != entry.sha256:
                return f"{entry.path} has another content"
        elif entry.kind == SYMLINK and (not stat.S_ISLNK(s.st_mode) or os.readlink(place) != entry.link):
            return f"{entry.path} is not the link that it was"
        elif entry.kind == DIR and not stat.S_ISDIR(s.st_mode):
            return f"{entry.path} is not a folder any more"
    for at, names, files in os.walk(tree) if layer.control else ():  # a stage's also has marks of what it removed
        for name in (*names, *files):
            path = os.path.relpath(os.path.join(at, name), tree)
            if path not in expected:
                return f"{path} does not belong there"
    return ""
