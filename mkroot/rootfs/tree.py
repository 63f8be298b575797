"""The root as a value: every path, what it is, and which layer it comes from.

Layers are applied in order, as dpkg would unpack the packages and as an overlay would show the tops. Nothing here
touches a file system: links are followed in memory and never lead out of the root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from mkroot.errors import RootfsError
from mkroot.store.layer import NOW, FrameBuilder, Layer, Reader
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK, Entry, parent
from mkroot.tar.footing import check_name, check_target
from mkroot.tar.stream import Corrupt

LINK_LIMIT = 40  # links followed before a path is called a loop, as Linux does


class Node(msgspec.Struct, frozen=True, gc=False):
    """A path's entry and the index of the layer that it comes from."""

    entry: Entry
    layer: int


class Tree:
    """A root file system in memory: paths to nodes, over layers.

    Paths are relative to the root without leading slash; "" is the root itself, which is always there.
    """

    def __init__(self, read: Reader) -> None:
        self._read = read
        self.layers: list[Layer] = []
        self.nodes: dict[str, Node] = {}
        self._written: dict[str, bytes] = {}

    def copy(self) -> Tree:
        """Return a tree that can be changed without changing this one."""
        other = Tree(self._read)
        other.layers = list(self.layers)
        other.nodes = dict(self.nodes)
        other._written = dict(self._written)
        return other

    # Layers

    def add_layer(self, layer: Layer) -> int:
        """Note a layer and return its index; `apply` or the package merge puts its entries into the tree."""
        self.layers.append(layer)
        return len(self.layers) - 1

    def apply(self, layer: Layer) -> int:
        """Put a top over the tree: what it removed goes, what it wrote replaces; return its index."""
        index = self.add_layer(layer)
        nodes = self.nodes
        emptied = {*layer.opaque, *self._replaced(layer)}
        for path in layer.removed:
            node = nodes.pop(path, None)
            if node is None or node.entry.kind == DIR:
                emptied.add(path)
        if emptied:  # in one pass: a trim removes hundreds of folders
            for path in _below(nodes, emptied):
                del nodes[path]
        for entry in layer.entries:
            nodes[entry.path] = Node(entry, index)
        return index

    def _replaced(self, layer: Layer) -> Iterator[str]:
        """Yield the folders that something else takes the place of."""
        for entry in layer.entries:
            old = self.nodes.get(entry.path)
            if old is not None and old.entry.kind == DIR and entry.kind != DIR:
                yield entry.path

    def drop(self, path: str) -> None:
        """Remove a path and what is below it."""
        node = self.nodes.pop(path, None)
        if node is None or node.entry.kind == DIR:
            self.drop_below(path)

    def drop_below(self, path: str) -> None:
        """Remove what is below a folder."""
        start = path + "/" if path else ""
        for name in [n for n in self.nodes if n.startswith(start) and n]:
            del self.nodes[name]

    # Reading

    def resolve(self, path: str, *, follow: bool = True) -> str:
        """Return the path that `path` names when every link is followed inside the root.

        follow: whether a link at the end is followed too. What does not exist is kept as it is written.
        Raises RootfsError on a loop.
        """
        todo = [p for p in reversed(path.split("/")) if p not in ("", ".")]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                if done:
                    done.pop()
                continue
            done.append(part)
            node = self.nodes.get("/".join(done))
            if node is not None and node.entry.kind == SYMLINK and (todo or follow):
                links += 1
                if links > LINK_LIMIT:
                    raise RootfsError(f"a loop of links at /{path}")
                done.pop()
                if node.entry.link.startswith("/"):
                    done.clear()
                todo.extend(p for p in reversed(node.entry.link.split("/")) if p not in ("", "."))
        return "/".join(done)

    def get(self, path: str, *, follow: bool = True) -> Entry | None:
        """Return the entry at a path, links followed inside the root, or None."""
        node = self.nodes.get(self.resolve(path, follow=follow))
        return None if node is None else node.entry

    def exists(self, path: str) -> bool:
        """Tell whether the path leads to something."""
        return self.resolve(path) == "" or self.get(path) is not None

    def read(self, path: str) -> bytes:
        """Return a regular file's content, links followed inside the root; raises RootfsError where it is none."""
        place = self.resolve(path)
        node = self.nodes.get(place)
        if node is not None and node.entry.kind == HARDLINK:
            place = node.entry.link
            node = Node(self.linked(node), node.layer)
        if node is None or node.entry.kind != FILE:
            raise RootfsError(f"/{path} is not a file in the root")
        if node.layer < 0:
            return self._written[place]
        return self._read(self.layers[node.layer], node.entry)

    def content(self, layer: Layer, entry: Entry) -> bytes:
        """Return the content of a layer's FILE, wherever the tree has it; raises StoreError."""
        return self._read(layer, entry)

    def linked(self, node: Node) -> Entry:
        """Return the FILE entry of a hard link's layer that the link names."""
        for entry in self.layers[node.layer].entries if node.layer >= 0 else ():
            if entry.path == node.entry.link and entry.kind == FILE:
                return entry
        raise RootfsError(f"hard link /{node.entry.path} names nothing")

    def children(self, path: str) -> list[str]:
        """Return the names in a folder, sorted."""
        start = path + "/" if path else ""
        return sorted({n[len(start) :] for n in self.nodes if n.startswith(start) and "/" not in n[len(start) :] and n})

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern, sorted: `*` and `?` within one name, `**` across folders."""
        import re

        regex = re.compile(_glob_regex(pattern.lstrip("/")), re.DOTALL)
        return sorted(p for p in self.nodes if regex.fullmatch(p))

    # Writing: into the layer that `written` makes of it

    def make_folder(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> str:
        """Make a folder and what is missing above it (0755, root); return where it is. One that is there stays."""
        place = self.resolve(path)
        node = self.nodes.get(place)
        if place == "" or (node is not None and node.entry.kind == DIR):
            return place
        if node is not None:
            raise RootfsError(f"/{path} is not a folder in the root")
        if up := parent(place):
            self.make_folder(up)
        self._put(Entry(path=place, kind=DIR, mode=mode, uid=uid, gid=gid, mtime=NOW))
        return place

    def write(
        self, path: str, content: bytes, mode: int | None = None, uid: int | None = None, gid: int | None = None
    ) -> str:
        """Write a file, through links inside the root as a program would; return where it is.

        Where a file is there already, what is not given (mode, owner) stays as it is. Raises RootfsError where a folder
        or a device is in the way.
        """
        place = self.resolve(path)
        old = self.nodes.get(place)
        if place == "" or (old is not None and old.entry.kind not in (FILE, HARDLINK)):
            raise RootfsError(f"/{path} is there and is not a file")
        if up := parent(place):
            self.make_folder(up)
        known = None if old is None else old.entry
        self._put(
            Entry(
                path=place,
                kind=FILE,
                mode=mode if mode is not None else known.mode if known else 0o644,
                uid=uid if uid is not None else known.uid if known else 0,
                gid=gid if gid is not None else known.gid if known else 0,
                mtime=NOW,
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
        self._written[place] = content
        return place

    def symlink(self, path: str, target: str) -> str:
        """Make a symbolic link in place of a file or link that is there; raises RootfsError where a folder is."""
        up, _, name = path.rpartition("/")
        place = (self.make_folder(up) + "/" if up else "") + name
        place = place.lstrip("/")
        old = self.nodes.get(place)
        if old is not None and old.entry.kind == DIR:
            raise RootfsError(f"/{path} is a folder")
        self._put(Entry(path=place, kind=SYMLINK, mode=0o777, mtime=NOW, link=target))
        return place

    def put(self, entry: Entry, content: bytes = b"") -> None:
        """Put any entry at its own path, parents made where they are missing; the path is taken as resolved."""
        if up := parent(entry.path):
            self.make_folder(up)
        if entry.kind == FILE:
            entry = msgspec.structs.replace(
                entry, size=len(content), data=0, sha256=hashlib.sha256(content).hexdigest()
            )
            self._written[entry.path] = content
        self._put(entry)

    def set_metadata(
        self, path: str, *, mode: int | None = None, uid: int | None = None, gid: int | None = None
    ) -> None:
        """Change a path's mode or owner; raises RootfsError where there is nothing."""
        place = self.resolve(path)
        node = self.nodes.get(place)
        if node is None:
            raise RootfsError(f"/{path} does not exist in the root")
        entry = node.entry
        entry = msgspec.structs.replace(
            entry,
            mode=entry.mode if mode is None else mode,
            uid=entry.uid if uid is None else uid,
            gid=entry.gid if gid is None else gid,
        )
        if entry.kind in (FILE, HARDLINK) and node.layer >= 0:
            content = self.read(place)
            entry = msgspec.structs.replace(entry, kind=FILE, link="", size=len(content), data=0)
            self._written[place] = content
        self._put(entry)

    def remove(self, path: str) -> None:
        """Remove a path (a link itself, not what it names) and what is below it."""
        self.drop(self.resolve(path, follow=False))

    def _put(self, entry: Entry) -> None:
        check_path(entry.path)
        old = self.nodes.get(entry.path)
        if old is not None and old.entry.kind == DIR and entry.kind != DIR:
            self.drop(entry.path)
        self.nodes[entry.path] = Node(entry, -1)

    def written(self) -> tuple[list[Entry], dict[str, bytes]]:
        """Return what was written in memory since the layers: entries in order of their paths, and files' contents."""
        entries = sorted((n.entry for n in self.nodes.values() if n.layer < 0), key=lambda e: e.path)
        return entries, {e.path: self._written[e.path] for e in entries if e.kind == FILE}


def check_path(path: str, link: str = "") -> None:
    """Raise RootfsError for a path, as a link or a script may make one, or a link's target, that no root can hold."""
    try:
        check_name(path)
        if link:
            check_target(path, link)
    except Corrupt as e:
        raise RootfsError(str(e)) from None


def _below(paths: Iterable[str], folders: set[str]) -> list[str]:
    """Return the paths that lie somewhere below one of the folders; each folder above them is looked at once."""
    known = {"": "" in folders}

    def inside(folder: str) -> bool:
        found = known.get(folder)
        if found is None:
            found = known[folder] = folder in folders or inside(folder.rpartition("/")[0])
        return found

    return [p for p in paths if p and inside(p.rpartition("/")[0])]


def _glob_regex(pattern: str) -> str:
    import re

    out = []
    i = 0
    while i < len(pattern):
        if pattern.startswith("/**", i) and i + 3 == len(pattern):
            out.append("/.*")
            i += 3
        elif pattern.startswith("**/", i):
            out.append("(?:.*/)?")
            i += 3
        elif pattern.startswith("**", i):
            out.append(".*")
            i += 2
        else:
            c = pattern[i]
            out.append("[^/]*" if c == "*" else "[^/]" if c == "?" else re.escape(c))
            i += 1
    return "".join(out)


def top_of(before: Tree, after: Tree, key: str, name: str, origins: dict[str, str]) -> tuple[Layer, Iterator[bytes]]:
    """Return what was written into `after` since `before` as a layer, with the chunks of its tar stream.

    key: the layer's key in the store. origins: which part of the recipe wrote each path.
    """
    entries, contents = after.written()
    gone = before.nodes.keys() - after.nodes.keys()
    removed = [p for p in gone if parent(p) not in gone]
    builder = FrameBuilder()
    chunks = [builder.add(e, contents.get(e.path, b"")) for e in entries]
    layer = Layer(key=key, name=name, entries=tuple(builder.entries), removed=tuple(sorted(removed)), origins=origins)
    return layer, (c for c in chunks if c)
