"""Makes an image of a container: its image's layers as they are, and one more of what it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from msgspec import Struct

from mkroot.container.record import RUNNING, Container, Containers
from mkroot.errors import ContainerError, ImageError
from mkroot.oci.inherit import BASE_DIGEST, BASE_NAME, OTHERS
from mkroot.oci.instructions import changed
from mkroot.oci.layerfile import WHITEOUT, LayerFile, layer_members, write_layer
from mkroot.oci.model import (
    CONFIG,
    MANIFEST,
    Descriptor,
    ManifestWritten,
    Platform,
    encode,
    oci_layer,
    timestamp,
)
from mkroot.oci.store import Image, ImageStore
from mkroot.rootfs.identity import Identity
from mkroot.rootfs.upper import Changes, read_upper
from mkroot.tar.entry import Entry

_STEP = 4 << 20


class Words(Struct, frozen=True, kw_only=True):
    """What the user says of the new image.

    changes: of its config, as `mkroot.oci.instructions` reads them. created: seconds since 1970. latest: no time in the
    layer is later, where SOURCE_DATE_EPOCH is set.
    """

    message: str = ""
    author: str = ""
    changes: tuple[str, ...] = ()
    created: int
    latest: int | None = None
    compression: str = "gzip"


def commit(
    images: ImageStore, containers: Containers, container: Container, identity: Identity, words: Words
) -> tuple[Descriptor, str]:
    """Put an image of the container into the store; return its descriptor and its id. The caller tags it.

    No layer of the container's image is read, and none is changed. A container that runs may change a file meanwhile:
    what is told then is an error, never a layer of half of it. The caller holds `images.using` until the image has a
    tag. Raises ContainerError, ImageError, RootfsError, StoreError, UsageError.
    """
    if container.identity != identity.tag:
        raise ContainerError(
            f"the container {container.name} belongs to another user, or was made with other ids",
            hint="commit it as the one who made it",
        )
    parent = images.load(images.held(container.image))
    document = json.loads(images.layout().read(parent.manifest.config))
    execution = changed(document.get("config") or {}, words.changes)
    with nullcontext() if container.status == RUNNING else containers.lock(container):
        changes = read_upper(containers.upper(container), owners=container.owners)
        layer = None if empty(changes) else _write(images, changes, words)
    config = _config(document, execution, parent, container, layer, words)
    told = images.put(encode(config), CONFIG)
    layers = (*map(oci_layer, parent.manifest.layers), *((layer.descriptor,) if layer else ()))
    annotations = {k: v for k, v in parent.manifest.annotations.items() if k != BASE_NAME}
    annotations[BASE_DIGEST] = parent.digest  # what it stands on, for rebase; the name would depend on how one ran it
    put = images.put(encode(ManifestWritten(config=told, layers=layers, annotations=annotations)), MANIFEST)
    platform = Platform(architecture=parent.config.architecture, os=parent.config.os, variant=parent.config.variant)
    return Descriptor(media_type=MANIFEST, digest=put.digest, size=put.size, platform=platform), told.digest


def empty(changes: Changes) -> bool:
    """Tell whether a container has changed nothing."""
    return not (changes.entries or changes.removed or changes.opaque)


def _write(images: ImageStore, changes: Changes, words: Words) -> LayerFile:
    for entry in changes.entries:
        if entry.path.rpartition("/")[2].startswith(WHITEOUT):
            raise ImageError(
                f"/{entry.path} cannot be in an image: a layer says by such a name that a file is gone",
                hint="remove or rename it in the container",
            )
    with images.aside() as aside:
        members = layer_members(
            changes.entries,
            lambda entry: _content(changes, entry),
            removed=changes.removed,
            opaque=changes.opaque,
            latest=words.latest,
        )
        layer = write_layer(aside, members, words.compression, quick=True)
        if not images.layout().has(layer.descriptor):
            images.adopt(aside, layer.descriptor)
    return layer


def _content(changes: Changes, entry: Entry) -> Iterator[bytes]:
    """Yield a file's content, no more of it than its entry says."""
    try:
        fd = changes.open(entry)
    except FileNotFoundError:
        raise ImageError(
            f"/{entry.path} was removed while it was read", hint="stop what writes to it, and do it once more"
        ) from None
    with open(fd, "rb", buffering=0) as f:
        left = entry.size
        while left and (piece := f.read(min(left, _STEP))):
            left -= len(piece)
            yield piece


def _config(
    document: dict[str, Any],
    execution: dict[str, Any],
    parent: Image,
    container: Container,
    layer: LayerFile | None,
    words: Words,
) -> dict[str, Any]:
    """Return the new image's config: the parent's, what mkroot knows nothing of included, with what is new."""
    created = timestamp(words.created)
    step = {"created": created, "created_by": " ".join(container.command)}
    step |= {"author": words.author} if words.author else {}
    step |= {"comment": words.message} if words.message else {}
    history = document.get("history") or [{} for _ in parent.manifest.layers]
    diff_ids = [*parent.config.rootfs.diff_ids, *((layer.diff_id,) if layer else ())]
    config = {k: v for k, v in document.items() if k not in OTHERS}
    config |= {
        "created": created,
        "config": execution,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [*history, step if layer else {**step, "empty_layer": True}],
    }
    return config | ({"author": words.author} if words.author else {})
