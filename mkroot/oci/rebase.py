"""Puts an image's own layers on a newer parent, where nothing stands in the way of that."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from mkroot.errors import ImageError, SandboxError
from mkroot.oci.inherit import BASE_DIGEST, OTHERS, Parent, own_history, parent_of
from mkroot.oci.layerfile import LayerFile, layer_members, write_layer
from mkroot.oci.layers import image_root
from mkroot.oci.model import CONFIG, MANIFEST, Descriptor, ManifestWritten, Platform, encode, oci_layer
from mkroot.oci.store import Image, ImageStore, platforms_of
from mkroot.rootfs import dpkg
from mkroot.rootfs.capture import COARSE, Event, capture
from mkroot.rootfs.identity import SINGLE, Identity
from mkroot.rootfs.sandbox import Sandbox
from mkroot.rootfs.stage import Root
from mkroot.rootfs.top import Top
from mkroot.rootfs.transplant import Clash, Findings, examine
from mkroot.store.layer import NOW, Layer, LayerStore, contents
from mkroot.store.trees import Trees
from mkroot.tar.entry import FILE, Entry

SAFE, CONFIGURE, NO = "safe", "configure", "no"


class Outcome(Struct, frozen=True, kw_only=True):
    """The answer.

    answer: "safe", "configure" (done, with a layer more) or "no". packages: what dpkg configured. clashes, unmet: why
    not. image: the new image's descriptor.
    """

    answer: str
    packages: tuple[str, ...] = ()
    clashes: tuple[Clash, ...] = ()
    unmet: tuple[str, ...] = ()
    image: Descriptor | None = None


def former_parent(images: ImageStore, image: Image) -> Image:
    """Return the image that another one stands on: the one it names, else the one with most of its first layers.

    Raises ImageError where the store has neither.
    """
    named = image.manifest.annotations.get(BASE_DIGEST, "")
    if named:
        try:
            found = images.load(images.held(named))
        except ImageError:
            found = None  # the store has it no more, or it is of no form that it knows
        if found is not None and stands_on(image, found):
            return found
    layout = images.layout()
    best: Image | None = None
    for row in layout.index().manifests:
        for descriptor in platforms_of(layout, row):
            other = images.load(descriptor)
            count = len(other.config.rootfs.diff_ids)
            longer = best is None or count > len(best.config.rootfs.diff_ids)
            if descriptor.digest != image.digest and stands_on(image, other) and longer:
                best = other
    if best is None:
        raise ImageError(
            "no image in the store is what this one stands on",
            where=image.digest,
            hint="pull its former parent, and name it with `--from REF`",
        )
    return best


def stands_on(image: Image, parent: Image) -> bool:
    """Tell whether an image has another's layers as its first, and more."""
    chain, first = image.config.rootfs.diff_ids, parent.config.rootfs.diff_ids
    return 0 < len(first) < len(chain) and chain[: len(first)] == first


def rebase(
    images: ImageStore,
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    image: Image,
    former: Image,
    onto: Image,
    reference: str,
    epoch: int,
) -> Outcome:
    """Put the layers of `image` above `former` on `onto`; the caller tags what comes of it.

    reference: what `onto` is called. epoch: the latest time in a layer that is made, seconds. The caller holds
    `images.using`. Raises ImageError where they do not fit together, SandboxError where dpkg fails.
    """
    if not stands_on(image, former):
        raise ImageError("the image does not stand on what `--from` names", where=former.digest)
    if onto.config.architecture != image.config.architecture:
        raise ImageError(
            f"`{reference}` is for {onto.config.architecture}, the image for {image.config.architecture}",
            hint="name a parent for the same architecture",
        )
    count = len(former.manifest.layers)
    stacked = _stacked(onto, image, count)
    old, mine, theirs = (image_root(layers, images, i) for i in (former, image, onto))
    root = image_root(layers, images, stacked)
    found = examine(old.tree, mine.tree, theirs.tree, root.tree)
    if found.clashes or found.unmet:
        return Outcome(answer=NO, clashes=found.clashes, unmet=found.unmet)
    extra: LayerFile | None = None
    if found.files or found.pending:
        layer = _configured(layers, identity, trees, root, found, epoch)
        extra = _written(images, layers, layer, epoch)
    parts = [parent_of(images, i, reference) for i in (former, image, onto)]
    descriptor = _joined(images, parts, stacked, count, extra, sorted(found.pending))
    answer = CONFIGURE if extra is not None else SAFE
    return Outcome(answer=answer, packages=tuple(sorted(found.pending)), image=descriptor)


def _stacked(onto: Image, image: Image, count: int) -> Image:
    """Return the image that has the own layers over the new parent's, as far as its tree goes."""
    told = (*map(oci_layer, onto.manifest.layers), *map(oci_layer, image.manifest.layers[count:]))
    diff_ids = (*onto.config.rootfs.diff_ids, *image.config.rootfs.diff_ids[count:])
    rootfs = msgspec.structs.replace(onto.config.rootfs, diff_ids=diff_ids)
    return Image(
        descriptor=onto.descriptor,
        manifest=msgspec.structs.replace(onto.manifest, layers=told),
        config=msgspec.structs.replace(onto.config, rootfs=rootfs),
    )


def _configured(layers: LayerStore, identity: Identity, trees: Trees, root: Root, found: Findings, epoch: int) -> Layer:
    """Put the merged databases over the root and have its own dpkg run what waits; return what came of it."""
    files = dict(found.files)
    if found.pending:
        status = files.get(dpkg.STATUS) or root.tree.read(dpkg.STATUS)
        files[dpkg.STATUS] = _with_pending(status, found.pending)
    told = [[p, hashlib.sha256(d).hexdigest()] for p, d in sorted(files.items())]
    key = hashlib.sha256(json.dumps(["rebase", "1", root.key, epoch, told]).encode()).hexdigest()
    if not layers.has(key):
        with layers.store.lock("stages", key):
            if not layers.has(key):
                _run(layers, identity, trees, root, files, key, epoch)
    return layers.load(key)


def _run(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    files: Mapping[str, bytes],
    key: str,
    epoch: int,
) -> None:
    with Top(layers, identity, trees) as top:
        start = time.clock_gettime(COARSE)
        members = [(_like(root, path, data), data) for path, data in sorted(files.items())]
        top.put(members, root.tree)
        events = [Event(start, "mkroot: dpkg's database, merged")]
        if dpkg.STATUS in files:
            architecture = root.architecture
            with top.mounted(root) as at, Sandbox(at, identity=identity, epoch=epoch, architecture=architecture) as box:
                for command in (["dpkg", "--force-unsafe-io", "--configure", "-a"], ["ldconfig"]):
                    done = box.run(command)
                    if done.returncode:
                        lines = done.output.decode("utf-8", "backslashreplace").strip().splitlines()[-12:]
                        raise SandboxError(
                            f"`{' '.join(command)}` failed in the image:\n  " + "\n  ".join(lines or [done.fault]),
                            hint="its last lines are above; nothing was changed",
                        )
                top.owners |= box.owners()
        layer, chunks = capture(
            top.upper,
            root.tree,
            key,
            "rebase",
            start,
            events,
            owners=top.owners,
            heirs=identity.kind == SINGLE,
        )
        top.keep(layer, iter(chunks))


def _like(root: Root, path: str, data: bytes) -> Entry:
    node = root.tree.nodes.get(path)
    known = node.entry if node is not None else Entry(path, FILE, 0o644)
    return Entry(path, FILE, known.mode, known.uid, known.gid, size=len(data))


def _with_pending(status: bytes, pending: Mapping[str, Sequence[str]]) -> bytes:
    from mkroot.store.unpack import control_fields, info_name

    found = []
    for stanza in dpkg.stanzas(status):
        names = pending.get(info_name(control_fields(stanza)))
        found.append(dpkg.with_pending(stanza, list(names)) if names else stanza)
    return b"\n".join(found)


def _written(images: ImageStore, layers: LayerStore, layer: Layer, epoch: int) -> LayerFile:
    """Write the layer as a blob of the image store; logs and what else no image carries are left out."""
    from mkroot.rootfs.threeway import BACKUPS

    kept = [e for e in layer.entries if not BACKUPS.fullmatch(e.path)]
    entries = [msgspec.structs.replace(e, mtime=epoch) if e.mtime == NOW else e for e in kept]
    entries.sort(key=lambda e: e.path.split("/"))
    data = {e.path: content for e, content in contents(layers, layer) if e.kind == FILE}

    def content(entry: Entry) -> Iterator[bytes]:
        yield data[entry.path]

    with images.aside() as aside:
        members = layer_members(entries, content, removed=layer.removed, opaque=layer.opaque, latest=epoch)
        made = write_layer(aside, members, "gzip")
        if not images.layout().has(made.descriptor):
            images.adopt(aside, made.descriptor)
    return made


def _joined(
    images: ImageStore, parts: Sequence[Parent], stacked: Image, count: int, extra: LayerFile | None, names: list[str]
) -> Descriptor:
    """Write config and manifest of the new image, and return its descriptor."""
    former, image, onto = parts
    created = max(str(p.document.get("created") or "") for p in (image, onto))
    history = [*onto.history, *own_history(former, image, count)]
    if extra is not None:
        comment = f"dpkg --configure: {', '.join(names)}" if names else "dpkg's database, merged"
        history.append({"created": created, "created_by": f"mkroot rebase on {onto.reference}", "comment": comment})
    layers = (*stacked.manifest.layers, *((extra.descriptor,) if extra else ()))
    diff_ids = [*stacked.config.rootfs.diff_ids, *((extra.diff_id,) if extra else ())]
    config = {k: v for k, v in image.document.items() if k not in OTHERS} | {
        "created": created,
        "config": inherited(*(p.document.get("config") or {} for p in parts)),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    }
    layout = images.layout()
    told = layout.put(encode(config), CONFIG)
    annotations = {**image.annotations, **onto.base}
    put = layout.put(encode(ManifestWritten(config=told, layers=layers, annotations=annotations or UNSET)), MANIFEST)
    of = stacked.config
    platform = Platform(architecture=of.architecture, os=of.os, variant=of.variant)
    return Descriptor(media_type=MANIFEST, digest=put.digest, size=put.size, platform=platform)


def inherited(old: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return how an image is started: what it says itself, and what it had from its parent as the new one has it."""
    found: dict[str, Any] = {}
    for key in sorted({*mine, *theirs}):
        was, wanted, there = old.get(key), mine.get(key), theirs.get(key)
        if key == "Env":
            pairs = [dict(line.partition("=")[::2] for line in lines or ()) for lines in (was, wanted, there)]
            wanted = [f"{name}={value}" for name, value in _mapping(*pairs).items()]
        elif key == "Labels":
            wanted = _mapping(was or {}, wanted or {}, there or {})
        elif wanted == was:
            wanted = there
        if wanted not in (None, "", [], {}):
            found[key] = wanted
    return found


def _mapping(old: Mapping[str, str], mine: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    names = dict.fromkeys([*theirs, *mine])
    picked = {n: (theirs if mine.get(n) == old.get(n) else mine).get(n) for n in names}
    return {n: v for n, v in picked.items() if v is not None}
