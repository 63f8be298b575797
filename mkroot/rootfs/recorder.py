"""Writes into a tree and notes what each path owes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mkroot.errors import MkrootError, RecipeError, RootfsError
from mkroot.rootfs.tree import Tree
from mkroot.tar.entry import DIR, HARDLINK, SYMLINK, Entry, parent


class Recorder:
    """A tree with a diary: `origins` maps each path that was written or removed to what asked for it.

    The origin is that of the innermost `at`. A fault of the tree below `at` becomes one that names the recipe's key.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.origins: dict[str, str] = {}
        self.notes: list[str] = []
        self._origin = "mkroot"

    @contextmanager
    def at(self, origin: str, *, key: str | None = None) -> Iterator[None]:
        """Note `origin` for what is written meanwhile; a RootfsError is told of the recipe's `key`."""
        before, self._origin = self._origin, origin
        try:
            yield
        except RootfsError as e:
            if key is None:
                raise
            raise RecipeError(e.what, where=key, hint=e.hint) from e
        finally:
            self._origin = before

    def note(self, text: str) -> None:
        """Keep something that the user should know and that is no error."""
        self.notes.append(text)

    def folder(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> str:
        """Make a folder and what is missing above it; return where it is. An existing one is left alone."""
        place = self.tree.resolve(path)
        self._note_parents(place)
        if place and place not in self.tree.nodes:
            self.origins[place] = self._origin
        return self.tree.make_folder(place, mode, uid, gid)

    def _note_parents(self, place: str) -> None:
        while (place := parent(place)) and place not in self.tree.nodes:
            self.origins[place] = self._origin

    def write(
        self, path: str, content: bytes, mode: int | None = None, uid: int | None = None, gid: int | None = None
    ) -> str:
        """Write a file through links inside the root; return where it is. Equal content and metadata leave no trace."""
        place = self.tree.resolve(path)
        old = self.tree.nodes.get(place)
        if old is not None and old.entry.kind not in (DIR, SYMLINK, HARDLINK) and old.entry.size == len(content):
            e = old.entry
            if (mode, uid, gid) in (
                (None, None, None),
                (e.mode, e.uid, e.gid),
                (e.mode, None, None),
            ) and self.tree.read(place) == content:
                return place
        self._note_parents(place)
        self.tree.write(place, content, mode, uid, gid)
        self.origins[place] = self._origin
        return place

    def link(self, path: str, target: str, uid: int = 0, gid: int = 0) -> str:
        """Make a symbolic link in place of a file or link that is there; return where it is."""
        place = self.place(path)
        old = self.tree.nodes.get(place)
        if old is not None and old.entry.kind == DIR:
            raise RootfsError(f"/{path.lstrip('/')} is a folder, no link can take its place")
        if old is not None and (old.entry.kind, old.entry.link, old.entry.uid, old.entry.gid) == (
            SYMLINK,
            target,
            uid,
            gid,
        ):
            return place
        self._note_parents(place)
        self.tree.symlink(place, target)
        if uid or gid:
            self.tree.put(Entry(path=place, kind=SYMLINK, mode=0o777, uid=uid, gid=gid, mtime=-1, link=target))
        self.origins[place] = self._origin
        return place

    def place(self, path: str) -> str:
        """Return where a name is: its parents' links followed, its own not."""
        up, _, name = path.strip("/").rpartition("/")
        above = self.tree.resolve(up)
        return f"{above}/{name}" if above else name

    def metadata(self, path: str, *, mode: int | None = None, uid: int | None = None, gid: int | None = None) -> None:
        """Change a path's mode or owner."""
        place = self.tree.resolve(path)
        old = self.tree.nodes.get(place)
        if old is not None:
            e = old.entry
            wanted = (e.mode if mode is None else mode, e.uid if uid is None else uid, e.gid if gid is None else gid)
            if wanted == (e.mode, e.uid, e.gid):
                return
        self.tree.set_metadata(place, mode=mode, uid=uid, gid=gid)
        self.origins[place] = self._origin

    def remove(self, path: str) -> bool:
        """Remove a path, a link itself and not what it names; tell whether there was something."""
        place = self.place(path)
        if place not in self.tree.nodes:
            return False
        self.tree.drop(place)
        self.origins[place] = self._origin
        return True


@contextmanager
def collecting(faults: list[MkrootError]) -> Iterator[None]:
    """Put an error that comes up into `faults`, so that all of a recipe's faults are told together."""
    try:
        yield
    except MkrootError as e:
        faults.append(e)
