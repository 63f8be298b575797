"""The layers that an image has above its parent, cut anew: from what it was built of, or from what they hold."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from mkroot.errors import ImageError, PackageError, StoreError
from mkroot.oci.layers import image_root
from mkroot.oci.model import seconds
from mkroot.oci.store import Image, ImageStore
from mkroot.records import Record, tree_of
from mkroot.resolve.lock import decode_lock
from mkroot.rootfs import dpkg
from mkroot.rootfs.assembly import Assembly, Group, ranking
from mkroot.rootfs.parts import cut, listed, split
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import LayerStore, frame_key

GONE = ("not-installed", "config-files")  # states of packages that are not there (dpkg(1))


class Recut(Struct, frozen=True, kw_only=True):
    """What new layers are written from. groups: one for each layer, from the bottom up."""

    assembly: Assembly
    groups: list[Group]


class Cut(Struct, frozen=True, kw_only=True):
    """How layers shall be cut. by: "single" or "source". budget: the most layers, of those by source."""

    by: str
    budget: int = 10


def from_build(
    layers: LayerStore, images: ImageStore, image: Image, parent: Image | None, record: Record, to: Cut, latest: int
) -> Recut:
    """Return an image's own layers as a build of the same would cut them.

    parent: what the image stands on. record: what it was made of. latest: no time is later, seconds. The record is
    believed only after the layers that the image has came out of it. Raises StoreError where the store does not have
    all that the image was made of any more, or the record is not this image's.
    """
    root = decode_lock(record.lock, "the record of the image").root(record.architecture)
    sources = {p.name: p.source for p in root.packages}
    below = None if parent is None else image_root(layers, images, parent).tree
    tree = tree_of(layers, record) if below is None else _over(layers, below, record)
    for layer in tree.layers:
        if not layers.store.has("frames", frame_key(layer.key, "zstd")):
            raise StoreError(f"the content of {layer.name} is not in the store any more")
    epoch = seconds(image.config.created)

    def assembly(by: str, epoch: int) -> Assembly:
        first = 0 if below is None else len(below.layers)
        parts = by == "source" and below is not None and len(tree.layers) > first
        return Assembly(cut(layers, tree, first, sources) if parts else tree, layers, epoch, sources, below)

    there = image.config.rootfs.diff_ids[0 if parent is None else len(parent.manifest.layers) :]
    former = former_cut(there)
    before = assembly(former.by, epoch)
    if tuple(map(before.diff_id, before.groups(former.by, former.budget))) != there:
        raise StoreError("what the store keeps of the build does not give the image's layers")
    after = assembly(to.by, min(epoch, latest))
    return Recut(assembly=after, groups=after.groups(to.by, to.budget))


def former_cut(own: tuple[str, ...]) -> Cut:
    """Return how a build cut these layers: their number is a budget that gives as many."""
    return Cut(by="single" if len(own) < 2 else "source", budget=max(len(own), 2))


def _over(layers: LayerStore, below: Tree, record: Record) -> Tree:
    if record.layers[: len(below.layers)] != tuple(layer.key for layer in below.layers):
        raise StoreError("what the store keeps of the build stands on another image")
    tree = below.copy()
    for key in record.layers[len(below.layers) :]:
        tree.apply(layers.load(key))
    return tree


def from_layers(
    layers: LayerStore, images: ImageStore, image: Image, parent: Image | None, to: Cut, latest: int | None
) -> Recut:
    """Return an image's own layers merged into one, or cut by source package as its own dpkg database tells.

    latest: no time is later, seconds; None leaves the files' times as they are. Raises ImageError, StoreError.
    """
    tree = image_root(layers, images, image).tree
    below = None if parent is None else image_root(layers, images, parent).tree
    first = 0 if below is None else len(below.layers)
    newest = max((n.entry.mtime for n in tree.nodes.values() if n.layer >= first), default=0)
    epoch = max(newest, seconds(image.config.created)) if latest is None else latest
    if to.by == "single":
        merged = Assembly(tree, layers, epoch, below=below)
        return Recut(assembly=merged, groups=merged.groups("single"))
    tree, groups = _by_source(layers, tree, first, to.budget)
    return Recut(assembly=Assembly(tree, layers, epoch, below=below), groups=groups)


def _by_source(layers: LayerStore, tree: Tree, first: int, budget: int) -> tuple[Tree, list[Group]]:
    """Return the tree with the layers from `first` on in parts by source package, and the groups of these."""
    sources = source_packages(tree)
    owners = listed(tree, sources)
    count = len(tree.layers)
    sizes: dict[str, int] = {}
    members: dict[str, set[str]] = {}
    for path, node in tree.nodes.items():
        package = owners.get(path)
        if package is not None and node.layer >= first:
            source = sources[package]
            sizes[source] = sizes.get(source, 0) + node.entry.size
            members.setdefault(source, set()).add(package)
    ranked, own = ranking(sizes, budget)
    names = {s: f"source package {s}" if s in own else "others" for s in ranked}
    wanted = {path: names[sources[p]] for path, p in owners.items() if sources[p] in names}
    for index in range(first, count):
        tree = split(layers, tree, index, wanted)
    places: dict[str, list[int]] = {}
    for index in range(count, len(tree.layers)):
        places.setdefault(tree.layers[index].name, []).append(index)
    groups = [
        Group(s, tuple(sorted(members[s])), tuple(places[names[s]]), names[s], False) for s in own if names[s] in places
    ]
    if "others" in places:
        others = sorted(p for s in ranked if names[s] == "others" for p in members[s])
        groups.append(Group("others", tuple(others), tuple(places["others"]), f"{len(others)} other packages", False))
    return tree, [*groups, Group("rest", (), tuple(range(first, count)), "what belongs to no package", True)]


def source_packages(tree: Tree) -> Mapping[str, str]:
    """Return the source of each package that a root's dpkg database has; raises ImageError where there is none."""
    if tree.get(dpkg.STATUS) is None:
        raise ImageError(
            "the image has no dpkg database that tells which file is of which package",
            hint="write `--by single`, or leave `--by` out",
        )
    from mkroot.debian.package import Package

    found = {}
    for stanza in dpkg.stanzas(tree.read(dpkg.STATUS)):
        try:
            package = Package.parse(stanza)
        except PackageError as e:
            raise ImageError(f"the image's dpkg database is damaged: {e.what}", where="/" + dpkg.STATUS) from None
        if package.fields.get("status", "").rpartition(" ")[2] not in GONE:
            found[package.name] = package.source
    return found
