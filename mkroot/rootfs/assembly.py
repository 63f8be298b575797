"""A finished root, and its tar stream joined from frames that are ready.

The stream holds all folders first, then each package's members in the packages' order, then what was written: by the
configuration stages and by the recipe.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import BinaryIO

import msgspec

from mkroot.errors import RootfsError
from mkroot.rootfs.joined import Blob, join, stream_digest, write_plain, write_single
from mkroot.rootfs.tree import Tree
from mkroot.store.chunked import cut, packed, spans
from mkroot.store.contents import Table, Tail, add_members
from mkroot.store.damage import DamageError
from mkroot.store.frame import CHUNKED, Frame, compressor, family, pieces_of, raw_pieces
from mkroot.store.layer import NOW, LayerStore, contents, derived_key, survivors
from mkroot.tar.entry import DIR, FILE, Entry, parent
from mkroot.tar.write import END, header, padding


class Group(msgspec.Struct, frozen=True):
    """The layers of a root that go into one tar stream.

    name: the source package, or what else it holds. packages: names. layers: indices into the tree's layers.
    comment: a sentence for an image's history. rest: whether it also carries what no other group has.
    """

    name: str
    packages: tuple[str, ...]
    layers: tuple[int, ...]
    comment: str
    rest: bool


class Assembly:
    """A finished root: tree, contents and epoch. Everything it gives out depends on these alone.

    epoch: seconds; no member's mtime is later. sources: source package by the name of the binary package.
    below: the tree of the parent that it stands on, whose layers are the first; groups hold what is above it only.
    """

    def __init__(
        self,
        tree: Tree,
        layers: LayerStore,
        epoch: int,
        sources: Mapping[str, str] | None = None,
        below: Tree | None = None,
    ) -> None:
        self.tree = tree
        self.layers = layers
        self.epoch = epoch
        self.sources = dict(sources or {})
        self.below = below
        self._first = 0 if below is None else len(below.layers)
        if any(node.layer < 0 for node in tree.nodes.values()):
            raise RootfsError("a root with unsaved writes cannot be assembled")
        keep: list[set[str]] = [set() for _ in tree.layers]
        for path, node in tree.nodes.items():
            keep[node.layer].add(path)
        self._keep = keep

    def _kept(self, index: int) -> set[str] | None:
        layer, keep = self.tree.layers[index], self._keep[index]
        return None if all(e.path in keep for e in layer.entries if e.kind != DIR) else keep

    def _time(self, entry: Entry) -> Entry:
        mtime = self.epoch if entry.mtime == NOW else min(entry.mtime, self.epoch)
        return entry if mtime == entry.mtime else msgspec.structs.replace(entry, mtime=mtime)

    def entries(self) -> list[Entry]:
        """Return every path of the root in order, with final times and hard links that name a file of the root."""
        found = [self._time(n.entry) for n in self.tree.nodes.values() if n.entry.kind == DIR]
        for index, layer in enumerate(self.tree.layers):
            found.extend(self._time(entry) for entry, _ in survivors(layer, self._keep[index]))
        found.sort(key=lambda e: e.path.replace("/", "\0"))  # folders before what they hold
        return found

    def read(self, path: str) -> bytes:
        """Return a regular file's content, links followed inside the root; raises RootfsError."""
        return self.tree.read(path)

    def files(self) -> Iterator[tuple[Entry, bytes]]:
        """Yield every entry with its content (empty where it has none): folders first, then layer by layer."""
        for path in sorted(self.tree.nodes):
            entry = self.tree.nodes[path].entry
            if entry.kind == DIR:
                yield self._time(entry), b""
        for index, layer in enumerate(self.tree.layers):
            keep = self._keep[index]
            held: dict[str, bytes] = {}
            wanted = {
                source.path: entry for entry, source in survivors(layer, keep) if source and source.path != entry.path
            }
            for entry, content in contents(self.layers, layer):
                if entry.kind == FILE and entry.path in wanted:
                    held[entry.path] = content
                elif entry.kind == FILE and entry.path in keep:
                    yield self._time(entry), content
            for entry, source in survivors(layer, keep):
                if source is None or source.path != entry.path:
                    yield self._time(entry), held[source.path] if source else b""

    def groups(self, by: str, budget: int | None = None) -> list[Group]:
        """Return the groups of layers that become an image's layers, at most `budget` of them.

        by: "single", or "source": one group for each of the biggest source packages, one for the other packages, and
        last what was written.
        """
        layers = self.tree.layers
        everything = tuple(range(self._first, len(layers)))
        packages = tuple(layers[i].name for i in everything if layers[i].control)
        comment = "the whole root" if self.below is None else "what is new over the parent"
        if by == "single":
            return [Group("root", packages, everything, comment, True)]
        budget = 10 if budget is None else budget
        by_source: dict[str, list[int]] = {}
        for index in everything:
            if layers[index].control:
                by_source.setdefault(self.sources.get(layers[index].name, layers[index].name), []).append(index)
        size = {s: sum(e.size for i in found for e in layers[i].entries) for s, found in by_source.items()}
        ranked, own = ranking(size, budget)
        groups = [
            Group(s, tuple(layers[i].name for i in by_source[s]), tuple(by_source[s]), f"source package {s}", False)
            for s in own
        ]
        if others := sorted(i for s in ranked[len(own) :] for i in by_source[s]):
            names = tuple(layers[i].name for i in others)
            groups.append(Group("others", names, tuple(others), f"{len(others)} other packages", False))
        if budget < 2:
            return [Group("root", packages, everything, comment, True)]
        tops = tuple(i for i in everything if not layers[i].control)
        return [*groups, Group("written", (), tops, "configuration", True)]

    def whole(self, group: Group | None) -> bool:
        """Tell whether a group is the whole root, with no parent below it."""
        return group is None or (self.below is None and len(group.layers) == len(self.tree.layers))

    def _folders(self, group: Group | None) -> list[Entry]:
        nodes = self.tree.nodes
        if group is None or self.whole(group):
            return [self._time(nodes[p].entry) for p in sorted(nodes) if nodes[p].entry.kind == DIR]
        if not group.rest:
            return self._own_folders(group.layers)
        below = tuple(i for i in range(len(self.tree.layers)) if i not in group.layers)
        shown = {e.path: e for e in self._own_folders(below)}
        if self.below is not None:
            shown = {p: n.entry for p, n in self.below.nodes.items() if n.entry.kind == DIR} | {
                e.path: e for e in self._own_folders(tuple(i for i in below if i >= self._first))
            }
        marks = [e.path for e in self._whiteouts(group)]
        needed = {p for path in chain(marks, *(self._keep[i] for i in group.layers)) for p in _above(path)}
        return [
            entry
            for p in sorted(nodes)
            if nodes[p].entry.kind == DIR and ((entry := self._folder_time(p)) != shown.get(p) or p in needed)
        ]

    def _folder_time(self, path: str) -> Entry:
        """Return a folder's entry; one that is the parent's keeps its time, whatever the epoch."""
        node = self.tree.nodes[path]
        return node.entry if node.layer < self._first else self._time(node.entry)

    def _whiteouts(self, group: Group | None) -> list[Entry]:
        """Return the marks of what the parent has and the root has not (image-spec, layer.md, \"Whiteouts\")."""
        if self.below is None or group is None or not group.rest:
            return []
        nodes = self.tree.nodes
        gone = [
            p for p in self.below.nodes
            if p and p not in nodes and (not parent(p) or ((up := nodes.get(parent(p))) and up.entry.kind == DIR))
        ]  # fmt: skip
        return [Entry(f"{parent(p)}/.wh.{p.rpartition('/')[2]}".lstrip("/"), FILE, 0o644) for p in sorted(gone)]

    def _own_folders(self, layers: tuple[int, ...]) -> list[Entry]:
        """Return the folders that these packages bring, the first one's word for each: nothing of other layers."""
        found: dict[str, Entry] = {}
        for index in layers:
            for e in self.tree.layers[index].entries:
                node = self.tree.nodes.get(e.path)
                if e.kind == DIR and node is not None and node.entry.kind == DIR:
                    found.setdefault(e.path, self._time(e))
        return [found[p] for p in sorted(found)]

    def _status_part(self, group: Group | None) -> list[tuple[Entry, bytes]]:
        """Return a group's own part of dpkg's database, which the last group's whole one replaces."""
        if group is None or group.rest or "var/lib/dpkg/status" not in self.tree.nodes:
            return []
        names = {n.encode() for n in group.packages}
        stanzas = self.tree.read("var/lib/dpkg/status").split(b"\n\n")
        mine = [s for s in stanzas if s.partition(b"\n")[0].removeprefix(b"Package: ") in names]
        content = b"".join(s.strip(b"\n") + b"\n\n" for s in mine)
        entry = Entry("var/lib/dpkg/status", FILE, 0o644, mtime=self.epoch, size=len(content))
        return [(entry, content)]

    def _head_members(self, group: Group | None) -> list[tuple[Entry, bytes]]:
        """Return what stands before the frames: folders, marks, and a part of dpkg's database."""
        empty = [(entry, b"") for entry in chain(self._folders(group), self._whiteouts(group))]
        return [*empty, *self._status_part(group)]

    def _head(self, group: Group | None) -> bytes:
        return _stream(self._head_members(group))

    def _indices(self, group: Group | None) -> tuple[int, ...]:
        return tuple(range(len(self.tree.layers))) if group is None else group.layers

    def raw(self, group: Group | None = None) -> Iterator[bytes]:
        """Yield the uncompressed tar stream, its end mark included."""
        yield self._head(group)
        for index in self._indices(group):
            yield from raw_pieces(self._frame(index, "zstd"), "zstd")
        yield END

    def _frame(self, index: int, codec: str) -> Frame:
        return self.layers.frame(self.tree.layers[index], codec, self._kept(index), self.epoch)

    def write(self, out: BinaryIO, codec: str, group: Group | None = None, *, single_stream: bool = False) -> Blob:
        """Write a group's tar stream (the whole root: None) and return what it is.

        codec: "zstd", "zstd:chunked", "gzip" or "none". single_stream: one compressed stream instead of joined frames.
        Raises StoreError where the store is damaged, OSError where `out` cannot be written.
        """
        if codec == "none":
            return write_plain(out, self.raw(group))
        if single_stream:
            return write_single(out, codec, self.raw(group))
        if family(codec) == CHUNKED:
            return self._write_chunked(out, codec, group)
        compress = compressor(codec)
        head = [(compress(p), len(p)) for p in pieces_of(iter((self._head(group),))) if p]
        frames = self._frames(group, codec)
        end = compress(END)
        return join(
            self.layers.store, out, codec, head, frames, end,
            stream=lambda: self._stream_key(group), timing=self.layers.timing,
        )  # fmt: skip

    def _frames(self, group: Group | None, codec: str) -> list[Frame]:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # the codecs run without the GIL
            return list(pool.map(lambda i: self._frame(i, codec), self._indices(group)))

    def _write_chunked(self, out: BinaryIO, codec: str, group: Group | None) -> Blob:
        """Write frames in which each file can be found, and behind them the table that tells where."""
        members = self._head_members(group)
        compress = compressor(codec)
        head = list(packed(cut((_stream(members),), spans(entry for entry, _ in members)), compress))
        frames = self._frames(group, codec)
        end = compress(END)

        def tail() -> Tail:
            table = Table()
            add_members(table, (entry for entry, _ in members), [chunk for _, chunk in head], 0)
            offset = sum(chunk.size for _, chunk in head)
            for index, frame in zip(self._indices(group), frames, strict=True):
                layer = self.tree.layers[index]
                kept = (self._time(entry) for entry, _ in survivors(layer, self._kept(index)))
                try:
                    add_members(table, kept, frame.pieces, offset)
                except ValueError as e:
                    raise DamageError(e, frame.path) from None
                offset += frame.size
            return table.tail(offset + len(end))

        return join(
            self.layers.store, out, codec, [(data, chunk.raw) for data, chunk in head], frames, end,
            stream=lambda: self._stream_key(group), tail=tail, timing=self.layers.timing,
        )  # fmt: skip

    def diff_id(self, group: Group | None = None) -> str:
        """Return the digest of a group's uncompressed stream, known from an earlier write or made now.

        Raises StoreError.
        """
        return stream_digest(self.layers.store, self._stream_key(group), lambda: self.raw(group))

    def _stream_key(self, group: Group | None) -> str:
        """Return a key for the uncompressed stream of a group: it is the same in every codec."""
        h = hashlib.sha256(b"stream " + self._head(group))
        for index in self._indices(group):
            h.update(derived_key(self.tree.layers[index], "none", self._kept(index), self.epoch).encode())
        return h.hexdigest()


def ranking(sizes: Mapping[str, int], budget: int) -> tuple[list[str], list[str]]:
    """Return sources by their bytes, the biggest first, and those of them that get a layer of their own.

    Of at most `budget` layers one is for what belongs to no source, and one for the sources that get none.
    """
    ranked = sorted(sizes, key=lambda s: (-sizes[s], s))
    return ranked, ranked if len(ranked) <= budget - 1 else ranked[: max(budget - 2, 0)]


def _stream(members: Iterable[tuple[Entry, bytes]]) -> bytes:
    """Return the tar stream of some members with their contents, without an end mark."""
    return b"".join(part for entry, data in members for part in (header(entry), data, padding(len(data))))


def _above(path: str) -> Iterator[str]:
    while path := parent(path):
        yield path
