"""Reads what `docker save` writes (moby's image-spec v1.2, "Combined Image JSON + Filesystem Changeset Format")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from mkroot.decoding import from_json
from mkroot.errors import ImageError
from mkroot.oci.layerfile import write_layer
from mkroot.oci.layerform import check_form, plain_layer
from mkroot.oci.model import (
    CONFIG,
    DOCUMENT_LIMIT,
    MANIFEST,
    Config,
    Descriptor,
    ManifestWritten,
    Platform,
    decode_config,
    encode,
    oci_layer,
)
from mkroot.oci.reference import Reference
from mkroot.oci.store import Image, ImageStore, load_image, platforms_of
from mkroot.tar.stream import Stream

_PIECE = 4 << 20  # bytes of a layer's stream that are compressed together, however they came
_CONFIG_NAME = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")


class _Row(Struct, frozen=True, rename="pascal"):
    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


class DockerImage(Struct, frozen=True, kw_only=True):
    """An image of an archive: its config as it is written there, its layers' files, and its tags."""

    config: Config
    config_data: bytes
    layers: tuple[memoryview, ...]
    tags: tuple[Reference, ...]


def docker_images(members: dict[str, memoryview], where: str) -> list[DockerImage]:
    """Return an archive's images, their layers checked against the diff-ids; raises ImageError.

    members: its files by name.
    """
    try:
        rows = from_json(bytes(members["manifest.json"][:DOCUMENT_LIMIT]), list[_Row])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise ImageError(f"not what `docker save` writes: manifest.json: {e}", where=where) from None
    checked: set[str] = set()
    found = []
    for row in rows:
        data = bytes(_member(members, row.config, where)[:DOCUMENT_LIMIT])
        claimed = _CONFIG_NAME.fullmatch(row.config)
        if claimed and claimed[1] != hashlib.sha256(data).hexdigest():
            raise ImageError("a config does not match the digest that is its name", where=f"{where}: {row.config}")
        config = decode_config(data, f"{where}: {row.config}")
        if len(config.rootfs.diff_ids) != len(row.layers):
            raise ImageError(
                f"the config names {len(config.rootfs.diff_ids)} layers, the manifest {len(row.layers)}",
                where=f"{where}: {row.config}",
            )
        layers = tuple(_member(members, name, where) for name in row.layers)
        for name, view, diff_id in zip(row.layers, layers, config.rootfs.diff_ids, strict=True):
            if diff_id not in checked:
                check_form(view, None, diff_id, f"{where}: {name}")
                checked.add(diff_id)
        tags = tuple(Reference.parse(tag) for tag in row.repo_tags or ())
        found.append(DockerImage(config=config, config_data=data, layers=layers, tags=tags))
    return found


def _member(members: dict[str, memoryview], name: str, where: str) -> memoryview:
    path = "/".join(part for part in name.split("/") if part not in ("", "."))
    if path not in members:
        raise ImageError(f"the archive lacks {name[:200]}", where=where)
    return members[path]


def load_docker(
    images: ImageStore, found: Iterable[DockerImage], where: str
) -> Iterator[tuple[Descriptor, str, tuple[str, ...]]]:
    """Take the images into the store; yield each one's descriptor, id and tags. Raises ImageError, StoreError.

    The archive knows no compressed layers. A layer that the store has already, of whatever compression, is used as it
    is; another is compressed. An image that the store has already gets the tags. The caller holds `images.using`.
    """
    known = _Known(images)
    for one in found:
        image_id = "sha256:" + hashlib.sha256(one.config_data).hexdigest()
        descriptor = known.images.get(image_id) or _take(images, one, known, where)
        names = []
        for tag in one.tags:
            images.tag(descriptor, tag)
            names.append(tag.tagged)
        if not names:
            images.keep(descriptor)
        yield descriptor, image_id, tuple(names)


class _Known:
    """What the store has: images by their id, layers by their diff-id."""

    def __init__(self, images: ImageStore) -> None:
        self.images: dict[str, Descriptor] = {}
        self.layers: dict[str, Descriptor] = {}
        layout = images.layout()
        for descriptor in layout.index().manifests:
            for child in platforms_of(layout, descriptor):
                try:
                    image: Image = load_image(layout, child)
                except ImageError:
                    continue  # a damaged one is of no use here
                pairs = zip(image.manifest.layers, image.config.rootfs.diff_ids, strict=True)
                whole = {diff_id: layer for layer, diff_id in pairs if layout.has(layer)}
                self.layers |= whole
                if len(whole) == len(set(image.config.rootfs.diff_ids)):
                    self.images[image.id] = child


def _take(images: ImageStore, one: DockerImage, known: _Known, where: str) -> Descriptor:
    layers = []
    for view, diff_id in zip(one.layers, one.config.rootfs.diff_ids, strict=True):
        if diff_id not in known.layers:
            with images.aside() as aside:
                made = write_layer(aside, _pieces(view, where), "gzip", ended=True)
                if made.diff_id != diff_id:
                    raise ImageError("a layer was changed while it was read", where=where)
                images.adopt(aside, made.descriptor)
            known.layers[diff_id] = made.descriptor
        layers.append(known.layers[diff_id])
    config = images.put(one.config_data, CONFIG)
    manifest = images.put(encode(ManifestWritten(config=config, layers=tuple(map(oci_layer, layers)))), MANIFEST)
    platform = Platform(architecture=one.config.architecture, os=one.config.os, variant=one.config.variant)
    return Descriptor(media_type=MANIFEST, digest=manifest.digest, size=manifest.size, platform=platform)


def _pieces(view: memoryview, where: str) -> Iterator[bytes]:
    stream = Stream(plain_layer(view, where))
    while piece := stream.read(_PIECE):
        yield piece
