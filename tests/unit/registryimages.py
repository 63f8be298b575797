"""Images for the tests of the registry client: a few layers of any bytes, in a store of the test's own."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

from mkroot.oci.model import CONFIG, LAYER, MANIFEST, Descriptor, Platform, encode
from mkroot.oci.reference import Reference
from mkroot.oci.registry.pull import Pulled, Wanted, pull
from mkroot.oci.registry.push import Pushed, push
from mkroot.oci.registry.registry import Registry
from mkroot.oci.store import ImageStore
from mkroot.progress import Progress
from mkroot.store.store import Store

AMD64 = Wanted(architecture="amd64")
BIG = random.Random(7).randbytes(3_000_000)  # bytes of a layer that takes several reads


def a_store(folder: Path) -> ImageStore:
    return ImageStore(Store(folder))


def an_image(
    images: ImageStore,
    reference: str = "",
    layers: tuple[bytes, ...] = (b"first", BIG),
    architecture: str = "amd64",
    diff_ids: int | None = None,
    layer_type: str = LAYER,
    config_type: str = CONFIG,
    manifest_type: str = MANIFEST,
) -> Descriptor:
    """Put an image into the store. diff_ids: how many the config names, where that is not the truth."""
    layout = images.layout()
    found = tuple(layout.put(data, layer_type) for data in layers)
    ids = ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]
    ids = ids if diff_ids is None else (ids * 3)[:diff_ids]
    rootfs = {"type": "layers", "diff_ids": ids}
    config = layout.put(encode({"architecture": architecture, "os": "linux", "rootfs": rootfs}), config_type)
    document = {"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": found}
    # Not in mkroot's own form: the bytes must survive.
    data = json.dumps(json.loads(encode(document)), indent=3).encode()
    one = layout.put(data, manifest_type)
    descriptor = Descriptor(
        media_type=one.media_type, digest=one.digest, size=one.size, platform=Platform(architecture, "linux")
    )
    if reference:
        images.tag(descriptor, Reference.parse(reference))
    return descriptor


def pushed(images: ImageStore, reference: str, descriptor: Descriptor | None = None) -> Pushed:
    wanted = Reference.parse(reference)
    with Registry(wanted.host, environ(images), backoff=0.001) as registry:
        return push(images.store, descriptor or images.find(reference), wanted, registry, Progress())


def pulled(images: ImageStore, reference: str, wanted: Wanted = AMD64) -> Pulled:
    place = Reference.parse(reference)
    with Registry(place.host, environ(images), backoff=0.001) as registry:
        return pull(images.store, place, registry, wanted, Progress())


def environ(images: ImageStore) -> dict[str, str]:
    """A user with a home of his own, without a login."""
    return {"HOME": str(images.store.root / "home"), "PATH": os.environ["PATH"]}


def blobs(images: ImageStore) -> set[str]:
    return {"sha256:" + p.name for p in (images.layout().root / "blobs/sha256").iterdir()}


def nothing_kept(images: ImageStore) -> bool:
    """Whether the store has neither blob, tag nor unfinished work."""
    return (
        not blobs(images) and not images.layout().index().manifests and not list((images.store.root / "tmp").iterdir())
    )
