"""An image's root as a value: its layers, each taken into the layer store once, one over the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from mkroot.errors import ImageError, RootfsError
from mkroot.oci.model import PLATFORMS, Descriptor
from mkroot.oci.store import Image, ImageStore
from mkroot.oci.validate import codec_of, hashed, unpacked
from mkroot.rootfs.stage import Root
from mkroot.rootfs.tree import Node, Tree
from mkroot.store.frame import pieces_of
from mkroot.store.layer import FrameBuilder, Layer, LayerStore, contents
from mkroot.tar.entry import BLOCK, CHAR, DIR, FILE, HARDLINK, SYMLINK, Entry, parent
from mkroot.tar.footing import Footing, check_name
from mkroot.tar.read import entries
from mkroot.tar.stream import Corrupt, Stream
from mkroot.tar.write import header, padding

FORMAT = "1"  # of how a layer is taken; part of every key below
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"  # image-spec, layer.md
EXPANSION = 2000  # a layer may unpack to this many times its size,
ALLOWANCE = 64 << 20  # … and this many bytes, before it is called a bomb
_STEP = 4 << 20
_KEPT = ("user.", "system.posix_acl_")
_MARKS = ("trusted.overlay.", "user.overlay.", "user.mkroot.")


def image_root(layers: LayerStore, images: ImageStore, image: Image) -> Root:
    """Return the root that a container of the image sees: no packages, a top for each of its layers.

    What is not in the layer store yet is read, checked against digest and diff-id, and kept. Raises ImageError,
    StoreError.
    """
    tree = Tree(layers.read)
    key = "image"
    tops = []
    for descriptor, diff_id in zip(image.manifest.layers, image.config.rootfs.diff_ids, strict=True):
        layer = _settled(layers, take_layer(layers, images, descriptor, diff_id), tree, key)
        _complete(tree, tree.apply(layer))
        tops.append(layer)
        key = hashlib.sha256(f"image {FORMAT} {key} {layer.key}".encode()).hexdigest()
    return Root(key=key, tree=tree, tops=tuple(tops), architecture=debian_architecture(image))


def debian_architecture(image: Image) -> str:
    """Return an image's architecture as Debian names it; Go's word where Debian has none."""
    config = image.config
    fitting = [d for d, (name, _) in PLATFORMS.items() if name == config.architecture]
    exact = [d for d in fitting if PLATFORMS[d][1] == config.variant]
    return (exact or fitting or [config.architecture])[0]


def layer_key(diff_id: str) -> str:
    """Return the layer store's key of an image's layer."""
    return hashlib.sha256(f"image layer {FORMAT} {diff_id}".encode()).hexdigest()


def take_layer(layers: LayerStore, images: ImageStore, descriptor: Descriptor, diff_id: str) -> Layer:
    """Return a layer of the image store from the layer store, put there where it is not; raises ImageError."""
    key = layer_key(diff_id)
    if not layers.has(key):
        with layers.store.lock("layers", key):
            if not layers.has(key):
                _Reading(layers, images, descriptor, diff_id).keep(key)
    return layers.load(key)


class _Reading:
    """One pass over a layer's stream: what it holds becomes entries, whiteouts become removals."""

    def __init__(self, layers: LayerStore, images: ImageStore, descriptor: Descriptor, diff_id: str) -> None:
        self._layers, self._descriptor, self._diff_id = layers, descriptor, diff_id
        self._path = images.layout().path(descriptor.digest)
        self._footing = Footing()
        self._entries: dict[str, Entry] = {}
        self._removed: set[str] = set()
        self._opaque: set[str] = set()
        self._offset = 0

    def keep(self, key: str) -> None:
        """Write frame and record; nothing is kept of a layer that is refused."""
        _save_frame(self._layers, key, self._chunks())
        self._layers.save(
            Layer(
                key=key,
                name=f"layer {self._diff_id.partition(':')[2][:12]}",
                entries=tuple(self._entries.values()),
                removed=tuple(sorted(self._removed)),
                opaque=tuple(sorted(self._opaque)),
            ),
            iter(()),
        )

    def _refuse(self, what: str) -> ImageError:
        return ImageError(
            f"a layer of the image is refused: {what}",
            where=self._descriptor.digest,
            hint="have the image made again by its owner; nothing of it was unpacked",
        )

    def _chunks(self) -> Iterator[bytes]:
        packed, plain = hashlib.sha256(), hashlib.sha256()
        codec = codec_of(self._descriptor.media_type)
        stream = Stream(self._bounded(hashed(unpacked(self._path, codec, packed), plain)))
        try:
            for entry, name in entries(stream, pax=True):
                yield from self._member(entry, name, stream)
            self._end()
        except Corrupt as e:
            raise self._refuse(str(e)) from e
        while stream.read(_STEP):
            pass
        if "sha256:" + packed.hexdigest() != self._descriptor.digest:
            raise ImageError(
                "a damaged blob: it does not match its digest",
                where=str(self._path),
                hint="run `mkroot cache verify`, or pull the image again",
            )
        if "sha256:" + plain.hexdigest() != self._diff_id:
            raise self._refuse(f"its content does not match its diff-id {self._diff_id}")

    def _bounded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        left = self._descriptor.size * EXPANSION + ALLOWANCE
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise self._refuse(f"it unpacks to more than {EXPANSION} times its size")
            yield piece

    def _member(self, entry: Entry, name: str, stream: Stream) -> Iterator[bytes]:
        if (gone := removal(entry.path)) is not None:
            self._whiteout(*gone)
            return
        entry = self._checked(entry, name)
        if entry.kind == DIR:
            self._entries[entry.path] = entry
            return
        head = header(entry, None)
        data = self._offset + len(head)
        yield head
        self._offset = data
        if entry.kind == FILE:
            digest, left = hashlib.sha256(), entry.size
            while left:
                piece = stream.read(min(left, _STEP))
                if not piece:
                    raise Corrupt("the tar stream is truncated")
                digest.update(piece)
                left -= len(piece)
                yield piece if left else piece + padding(entry.size)
            self._offset += entry.size + len(padding(entry.size))
            entry = msgspec.structs.replace(entry, data=data, sha256=digest.hexdigest())
        self._entries[entry.path] = entry

    def _whiteout(self, folder: str, name: str) -> None:
        if not name:
            self._opaque.add(folder)
        elif not name.startswith(WHITEOUT):  # AUFS's own files begin with it twice
            self._removed.add(f"{folder}/{name}" if folder else name)

    def _checked(self, entry: Entry, name: str) -> Entry:
        """Return an entry that may stand in a tree; raises ImageError."""
        path = entry.path
        if entry.kind in (CHAR, BLOCK) and entry.device == (0, 0):
            raise self._refuse(f"member {name!r} is device 0:0, which a union reads as a removal")
        known = self._entries.get(path)
        if known is not None and not known.kind == entry.kind == DIR:
            raise self._refuse(f"member {name!r} stands in it twice")
        self._footing.add(entry)
        if entry.kind == HARDLINK:
            target = self._entries.get(entry.link)
            if target is not None and target.kind == HARDLINK:
                entry = msgspec.structs.replace(entry, link=target.link)
                target = self._entries.get(target.link)
            if target is None or target.kind == DIR:
                raise self._refuse(f"hard link {name!r} names {entry.link!r}, which is no earlier file of it")
            if target.kind == SYMLINK:
                return msgspec.structs.replace(target, path=path)
        if any(n.startswith(_MARKS) for n in entry.xattrs):
            raise self._refuse(f"member {name!r} has an attribute by which a union marks its own files")
        kept = {n: v for n, v in entry.xattrs.items() if n.startswith(_KEPT) or n == "security.capability"}
        kept = {n: v for n, v in kept.items() if n.isprintable()}
        return msgspec.structs.replace(entry, xattrs=kept) if kept != entry.xattrs else entry

    def _end(self) -> None:
        """Settle what the layer removes and does not bring again; a folder that it makes anew becomes opaque."""
        gone = set()
        for path in self._removed:
            anew = self._entries.get(path)
            if anew is None and self._footing.is_folder(path):  # something stands below it
                anew = self._entries[path] = Entry(path, DIR, 0o755)
            if anew is not None:
                self._opaque |= {path} if anew.kind == DIR else set()
            elif not any(up in self._removed and up not in self._entries for up in _above(path)):
                gone.add(path)
        for path in sorted(gone):
            self._footing.enter(parent(path), path)
        for path in sorted(self._opaque):
            self._footing.enter(path, path)
        self._removed = gone


def removal(path: str) -> tuple[str, str] | None:
    """Return the folder and the name that a whiteout removes, "" for all that is in it; None for another member.

    A name that begins with WHITEOUT is one of AUFS's own. Raises Corrupt where it removes nothing that has a name.
    """
    folder, _, base = path.rpartition("/")
    if not base.startswith(WHITEOUT):
        return None
    check_name(folder)
    if base == OPAQUE:
        return folder, ""
    name = base.removeprefix(WHITEOUT)
    if name in ("", ".", ".."):
        raise Corrupt(f"member {path[:200]!r} removes nothing that has a name")
    check_name(name.removeprefix(WHITEOUT))
    return folder, name


def _save_frame(layers: LayerStore, key: str, chunks: Iterator[bytes]) -> None:
    """Write a frame; the chunks are read to their end even where it is there already, for their maker learns by it."""
    pieces = pieces_of(chunks)
    layers.save_frame(Layer(key=key, name="", entries=()), pieces, "zstd")
    for _ in pieces:
        pass


def _above(path: str) -> Iterator[str]:
    while path := parent(path):
        yield path


def _complete(tree: Tree, layer: int) -> None:
    """Put the folders into the tree that a layer's members need and nobody brings."""
    for entry in tree.layers[layer].entries:
        for up in _above(entry.path):
            if up in tree.nodes:
                break
            tree.nodes[up] = Node(Entry(up, DIR, 0o755), layer)


def _settled(layers: LayerStore, layer: Layer, tree: Tree, below: str) -> Layer:
    """Return the layer with its members where an unpacker puts them: below a link, where that leads inside the root.

    A layer may have `bin/x` where the one below has `bin` as a link to `usr/bin`. What it removes that is not there is
    left out. below: the key of what is below. Raises ImageError where a member's folder is no folder.
    """
    own = {e.path for e in layer.entries if e.kind == DIR}
    moves: dict[str, str] = {}
    footing = Footing()

    def moved(path: str) -> str:
        place = moves.get(parent(path))
        return path if place is None else f"{place}/{path.rpartition('/')[2]}".lstrip("/")

    try:
        for up in {*(parent(p) for p in (*(e.path for e in layer.entries), *layer.removed)), *layer.opaque}:
            if up and up not in own and not own.issuperset((up, *_above(up))):
                place = _place(tree, own, up)
                if place != up:
                    moves[up] = place
        for entry in layer.entries if moves else ():
            footing.add(msgspec.structs.replace(entry, path=moved(entry.path)))
    except (Corrupt, RootfsError) as e:
        raise ImageError(f"a layer of the image is refused: {e}", where=layer.name) from None
    removed = tuple(sorted({p for p in map(moved, layer.removed) if p in tree.nodes}))
    hidden = {moves.get(p, p) for p in layer.opaque}
    opaque = tuple(sorted(p for p in hidden if p in own or ((n := tree.nodes.get(p)) and n.entry.kind == DIR) or not p))
    if not moves and (removed, opaque) == (layer.removed, layer.opaque):
        return layer
    key = hashlib.sha256(f"image layer {FORMAT} {layer.key} over {below}".encode()).hexdigest()
    if not layers.has(key):
        builder = FrameBuilder()

        def chunks() -> Iterator[bytes]:
            for entry, content in contents(layers, layer):
                link = moved(entry.link) if entry.kind == HARDLINK else entry.link
                if chunk := builder.add(msgspec.structs.replace(entry, path=moved(entry.path), link=link), content):
                    yield chunk

        _save_frame(layers, key, chunks())
        new = msgspec.structs.replace(layer, key=key, entries=tuple(builder.entries), removed=removed, opaque=opaque)
        layers.save(new, iter(()))
    return layers.load(key)


def _place(tree: Tree, own: set[str], path: str) -> str:
    """Return where a folder is that the layer does not bring itself; the folders that it brings are its own.

    Raises Corrupt where something else is there, RootfsError on a loop of links.
    """
    parts = path.split("/")
    for count in range(len(parts), 0, -1):
        head = "/".join(parts[:count])
        if head in own:
            return path  # what the layer brings takes the place of a link
        node = tree.nodes.get(head)
        if node is None:
            continue
        place = path
        if node.entry.kind == SYMLINK:
            place = "/".join([tree.resolve(head), *parts[count:]]).strip("/")
        at = place
        while at and at not in own:
            node = tree.nodes.get(at)
            if node is not None and node.entry.kind != DIR:
                raise Corrupt(f"it has something below {at[:200]!r}, which is no folder in the layers below it")
            at = parent(at)
        return place
    return path
