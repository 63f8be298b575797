"""Makes an image of the same tree and config with other layers, or others' compression, and builds nothing."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import msgspec
from msgspec import Struct

from mkroot import records
from mkroot.errors import ImageError, LockError, StoreError
from mkroot.oci.build import BUILT, cut_names, layer_history
from mkroot.oci.inherit import BASE_DIGEST, BASE_NAME, own_history, parent_of
from mkroot.oci.model import (
    CODECS,
    CONFIG,
    INDEX,
    INDEXES,
    LAYER,
    MANIFEST,
    Descriptor,
    Platform,
    decode_index,
    encode,
    oci_layer,
    seconds,
    timestamp,
)
from mkroot.oci.recompress import recompress
from mkroot.oci.recut import Cut, Recut, former_cut, from_build, from_layers
from mkroot.oci.store import Image, ImageStore
from mkroot.oci.validate import compression_of
from mkroot.progress import Progress
from mkroot.store.frame import CHUNKED, family, levelled
from mkroot.store.layer import LayerStore

MARK = "mkroot relayer"  # how the history of a merged layer begins
UNKNOWN = "unknown"  # the architecture of what is a statement about an image (BuildKit's attestations)
BUILD, LAYERS = "build", "layers"
_LATEST = 1 << 62
_CONFIGS = (CONFIG, "application/vnd.docker.container.image.v1+json")


class Wish(Struct, frozen=True, kw_only=True):
    """How the new layers shall be.

    cut: None leaves them as they are cut. compression: "" leaves it as it is. level: of the compression; None is its
    default, 0 the highest. single_stream: each compressed as one stream. whole: the layers of what an image stands on
    are made anew, too. former: a reference of that; "" is what the image names. latest: no time in the layers that are
    cut is later, seconds, where SOURCE_DATE_EPOCH is set.
    """

    cut: Cut | None = None
    compression: str = ""
    level: int | None = None
    single_stream: bool = False
    whole: bool = False
    former: str = ""
    latest: int | None = None

    @property
    def as_it_was(self) -> bool:
        """Whether a layer that has the compression already stays as it is."""
        return self.level is None and not self.single_stream


class Relayered(Struct, frozen=True, kw_only=True):
    """An image that was made.

    before: the digest of the one that it was made of. made_of: "build", the stored frames of the build, which gives the
    bytes that a build with such layers would; or "layers", what the layers hold. kept: how many of the layers, from the
    bottom up, are those of its parent.
    """

    before: str
    descriptor: Descriptor
    layers: tuple[Descriptor, ...]
    made_of: str
    kept: int


class Outcome(Struct, frozen=True, kw_only=True):
    """What was made: an image, or an index of `images`. left_out: statements of the former index about its images."""

    descriptor: Descriptor
    images: tuple[Relayered, ...]
    left_out: int = 0


def relayer(images: ImageStore, layers: LayerStore, descriptor: Descriptor, wish: Wish, progress: Progress) -> Outcome:
    """Make an image, or each of an index, with other layers, and put it into the store; the caller tags it.

    The same image and wish give the same bytes. Trees, configs, annotations and platforms stay; the history tells of
    the new layers. The caller holds `images.using`. Raises ImageError, StoreError.
    """
    if descriptor.media_type not in INDEXES:
        made = _Making(images, layers, wish, progress).image(descriptor)
        return Outcome(descriptor=made.descriptor, images=(made,))
    layout = images.layout()
    data = layout.read(descriptor)
    document = json.loads(data)
    found: list[Relayered] = []
    rows = []
    left_out = 0
    for row, child in zip(document["manifests"], decode_index(data, descriptor.digest).manifests, strict=True):
        if child.platform is not None and child.platform.architecture == UNKNOWN:
            left_out += 1  # it is about an image that this index has no more
            continue
        one = relayer(images, layers, child, wish, progress)
        found += one.images
        left_out += one.left_out
        new = one.descriptor
        told = {"mediaType": new.media_type, "digest": new.digest, "size": new.size}
        rows.append({k: v for k, v in row.items() if k not in ("data", "urls")} | told)
    if not rows:
        raise ImageError("the index names no image", where=descriptor.digest)
    whole = document | {"schemaVersion": 2, "mediaType": INDEX, "manifests": rows}
    put = images.put(encode(whole), INDEX)
    made_index = msgspec.structs.replace(put, platform=descriptor.platform)
    return Outcome(descriptor=made_index, images=tuple(found), left_out=left_out)


class _Making:
    """One image's layers and documents."""

    def __init__(self, images: ImageStore, layers: LayerStore, wish: Wish, progress: Progress) -> None:
        self._images, self._layers, self._wish, self._progress = images, layers, wish, progress

    def image(self, descriptor: Descriptor) -> Relayered:
        image = self._images.load(descriptor)
        parent = self._parent(image)
        kept = 0 if parent is None else len(parent.manifest.layers)
        own = image.manifest.layers[kept:]
        if not image.manifest.layers:
            raise ImageError("the image has no layers", where=image.digest)
        if not own:
            raise ImageError(
                "the image has no layer above the one that it stands on",
                where=image.digest,
                hint="with `--whole` all its layers are made anew",
            )
        _check(image, own)
        wanted = self._wish.compression or _common(own)
        if self._wish.single_stream and wanted == CHUNKED:
            wanted = "zstd"  # a chunked layer's files have streams of their own
        codec = levelled(wanted, self._wish.level)
        recut, record = self._recut(image, parent, own)
        with self._progress.step("write layers", sum(layer.size for layer in own), "B") as step:
            if recut is None:
                there = image.config.rootfs.diff_ids[kept:]
                made = tuple(self._recompressed(la, d, wanted, codec) for la, d in zip(own, there, strict=True))
                diff_ids, lines = there, None
            else:
                blobs = [self._written(recut, number, codec) for number in range(len(recut.groups))]
                made = tuple(layer for layer, _ in blobs)
                diff_ids = tuple(diff_id for _, diff_id in blobs)
                lines = self._history(image, parent, recut, built=record is not None)
            step.result = f"{len(own)} → {len(made)}"
        below = tuple(map(oci_layer, image.manifest.layers[:kept]))
        new = self._documents(image, (*below, *made), (*image.config.rootfs.diff_ids[:kept], *diff_ids), lines)
        if record is not None:
            records.pass_on(self._images.store, record, new.digest)
        return Relayered(
            before=image.digest,
            descriptor=new,
            layers=(*below, *made),
            made_of=LAYERS if record is None else BUILD,
            kept=kept,
        )

    # What the new layers are made of

    def _parent(self, image: Image) -> Image | None:
        """Return the image whose layers stay; raises ImageError where it is not to be found."""
        wish, named = self._wish, image.manifest.annotations.get(BASE_DIGEST, "")
        if wish.whole or not (wish.former or named):
            return None
        chain = image.config.rootfs.diff_ids
        if wish.former:
            found = self._images.load(self._images.find(wish.former, image.config.architecture))
        else:
            try:
                found = self._images.load(self._images.held(named))
            except ImageError:
                raise ImageError(
                    "the image that this one stands on is not in the store",
                    where=named[:100],
                    hint="pull it, name it with `--from REF`, or have all layers made anew with `--whole`",
                ) from None
        first = found.config.rootfs.diff_ids
        if first and chain[: len(first)] == first:
            return found
        if wish.former:
            raise ImageError(f"the image does not stand on `{wish.former}`", where=image.digest)
        return None  # it was merged with what it once stood on

    def _recut(
        self, image: Image, parent: Image | None, own: tuple[Descriptor, ...]
    ) -> tuple[Recut | None, records.Record | None]:
        """Return what new layers are cut from, None where they stay as they are; and the record where it served."""
        wish, cut = self._wish, self._wish.cut
        stands = bool(image.manifest.annotations.get(BASE_DIGEST))
        try:
            record = None if wish.whole and stands else records.recall(self._images.store, image.digest)
            if record is not None:
                to = cut or former_cut(tuple(layer.digest for layer in own))
                latest = _LATEST if wish.latest is None or cut is None else wish.latest
                return from_build(self._layers, self._images, image, parent, record, to, latest), record
        except (StoreError, LockError) as e:
            self._progress.warn(
                f"{e.what}: the image is made of its layers, and not byte for byte what a build would give"
            )
        merged = cut is not None and cut.by == "single" and len(own) == 1 and wish.latest is None
        if cut is None or merged:
            return None, None
        return from_layers(self._layers, self._images, image, parent, cut, wish.latest), None

    # Layers

    def _recompressed(self, layer: Descriptor, diff_id: str, wanted: str, codec: str) -> Descriptor:
        if self._wish.as_it_was and compression_of(layer) == wanted:
            return oci_layer(layer)
        made = recompress(self._images, layer, diff_id, codec, single_stream=self._wish.single_stream)
        self._progress.advance(layer.size, layer.hex[:12])
        return made

    def _written(self, recut: Recut, number: int, codec: str) -> tuple[Descriptor, str]:
        """Write a group as a blob of the store; return it and its diff-id."""
        group = recut.groups[number]
        with self._images.aside() as aside:
            with open(aside, "xb", buffering=0) as out:
                os.fchmod(out.fileno(), 0o644)
                blob = recut.assembly.write(out, codec, group, single_stream=self._wish.single_stream)
            layer = Descriptor(
                media_type=LAYER + CODECS[family(codec)],
                digest=blob.digest,
                size=blob.size,
                annotations=dict(blob.annotations),
            )
            if not self._images.layout().has(layer):
                self._images.adopt(aside, layer)
        self._progress.advance(blob.size, group.name)
        return layer, blob.diff_id

    # Documents

    def _history(self, image: Image, parent: Image | None, recut: Recut, *, built: bool) -> list[dict[str, Any]]:
        """Return the history with a line for each new layer: a build's as the build writes them, else behind its own.

        What made the former layers is still told, as lines without a layer.
        """
        told = parent_of(self._images, image, "")
        below = [] if parent is None else parent_of(self._images, parent, "").history
        own = (
            told.history
            if parent is None
            else own_history(parent_of(self._images, parent, ""), told, len(parent.manifest.layers))
        )
        created = self._created(told.document.get("created"))
        if built:
            name = next((m[1] for line in own if (m := _NAME.match(str(line.get("created_by"))))), "")
            new = [msgspec.to_builtins(layer_history(name, group, created)) for group in recut.groups]
            return [*below, *new, *(line for line in own if line.get("empty_layer"))]
        former = [
            {**line, "empty_layer": True} for line in own if line and not str(line.get("created_by")).startswith(MARK)
        ]
        dated = {"created": created} if created else {}
        lines = [
            dated
            | {"created_by": f"{MARK}: {group.comment}"}
            | ({"comment": cut_names(group.packages)} if group.packages else {})
            for group in recut.groups
        ]
        return [*below, *former, *lines]

    def _created(self, created: Any) -> str:
        """Return an image's time, no later than the latest."""
        latest = self._wish.latest
        text = created if isinstance(created, str) else ""
        return timestamp(latest) if latest is not None and text and seconds(text) > latest else text

    def _documents(
        self,
        image: Image,
        layers: tuple[Descriptor, ...],
        diff_ids: tuple[str, ...],
        history: list[dict[str, Any]] | None,
    ) -> Descriptor:
        """Write config and manifest; a config stays as it is where the uncompressed layers are the same."""
        layout = self._images.layout()
        config = msgspec.structs.replace(image.manifest.config, media_type=CONFIG)
        if history is not None and diff_ids != image.config.rootfs.diff_ids:
            document = json.loads(layout.read(image.manifest.config))
            document |= {"rootfs": {**document["rootfs"], "diff_ids": diff_ids}, "history": history}
            if created := self._created(document.get("created")):
                document["created"] = created
            config = self._images.put(encode(document), CONFIG)
        manifest = json.loads(layout.read(image.descriptor))
        manifest |= {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        if self._wish.whole and self._wish.cut is not None:  # it stands on nothing any more
            annotations = {k: v for k, v in image.manifest.annotations.items() if k not in (BASE_DIGEST, BASE_NAME)}
            manifest.pop("annotations", None)
            manifest |= {"annotations": annotations} if annotations else {}
        put = self._images.put(encode(manifest), MANIFEST)
        of = image.config
        platform = image.descriptor.platform or Platform(architecture=of.architecture, os=of.os, variant=of.variant)
        return msgspec.structs.replace(put, platform=platform)


_NAME = re.compile(re.escape(BUILT) + r" ([^:\s]+): ")


def _common(own: tuple[Descriptor, ...]) -> str:
    """Return how the layers are compressed; gzip, which every reader knows, where they are not all alike."""
    found = {compression_of(layer) for layer in own}
    return found.pop() if len(found) == 1 else "gzip"


def _check(image: Image, own: tuple[Descriptor, ...]) -> None:
    """Raise ImageError for what is no image, and for layers that cannot or may not be made again."""
    if image.config.architecture == UNKNOWN or image.manifest.config.media_type not in _CONFIGS:
        raise ImageError(
            "this is no image that a container could have, but a statement about one, or another artifact",
            where=image.digest,
        )
    for layer in own:
        kind = layer.media_type
        if "encrypted" in kind:
            raise ImageError(
                f"a layer is encrypted: `{kind}`", where=layer.digest, hint="have it decrypted by who encrypted it"
            )
        if "nondistributable" in kind or ".foreign." in kind:
            raise ImageError(f"a layer that its owner alone may give away: `{kind}`", where=layer.digest)
        compression_of(layer)
