"""Images made from a few words, in an image store of the test's own."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mkroot.oci.layerfile import layer_members, write_layer
from mkroot.oci.model import CONFIG, MANIFEST, Descriptor, Platform
from mkroot.oci.reference import Reference
from mkroot.oci.store import ImageStore
from mkroot.store.store import Store
from mkroot.tar.entry import DIR, FILE, SYMLINK, Entry, parent

EPOCH = 1_700_000_000
Files = Mapping[str, "bytes | str | tuple[bytes, int]"]
"""Files by path: content, content and mode, or a link's target as text."""


def store(folder: Path) -> ImageStore:
    return ImageStore(Store(folder / "store"))


def members(files: Files) -> tuple[list[Entry], dict[str, bytes]]:
    """The entries of a tree with these files, folders and all."""
    folders: set[str] = set()
    for path in files:
        while path := parent(path):
            folders.add(path)
    entries = [Entry(f, DIR, 0o755, mtime=EPOCH) for f in folders]
    contents = {}
    for path, content in files.items():
        if isinstance(content, str):
            entries.append(Entry(path, SYMLINK, 0o777, mtime=EPOCH, link=content))
            continue
        data, mode = (content, 0o644) if isinstance(content, bytes) else content
        entries.append(Entry(path, FILE, mode, mtime=EPOCH, size=len(data)))
        contents[path] = data
    return sorted(entries, key=lambda e: e.path.split("/")), contents


def add_image(
    images: ImageStore,
    reference: str,
    layers: Sequence[Files],
    *,
    config: Mapping[str, Any] | None = None,
    compression: str = "gzip",
    removed: Sequence[str] = (),
    created: str = "2023-11-14T22:13:20Z",
) -> Descriptor:
    """Make an image of these layers, bottom first, and tag it; `removed` are whiteouts of the last."""
    layout = images.layout()
    descriptors, diff_ids = [], []
    with images.using():
        for number, files in enumerate(layers):
            entries, contents = members(files)
            gone = removed if number == len(layers) - 1 else ()
            with images.aside() as aside:
                stream = layer_members(entries, lambda e, c=contents: (c[e.path],), removed=gone)  # type: ignore[misc]
                made = write_layer(aside, stream, compression)
                images.adopt(aside, made.descriptor)
            descriptors.append(made.descriptor)
            diff_ids.append(made.diff_id)
        document = {
            "created": created,
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": created, "created_by": f"layer {n}"} for n in range(len(layers))],
        }
        told = layout.put(json.dumps(document).encode(), CONFIG)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": told.digest, "size": told.size},
            "layers": [
                {"mediaType": d.media_type, "digest": d.digest, "size": d.size}
                | ({"annotations": d.annotations} if d.annotations else {})
                for d in descriptors
            ],
        }
        put = layout.put(json.dumps(manifest).encode(), MANIFEST)
        descriptor = Descriptor(
            media_type=MANIFEST, digest=put.digest, size=put.size, platform=Platform(architecture="amd64")
        )
        images.tag(descriptor, Reference.parse(reference))
    return descriptor


def layer_names(images: ImageStore, descriptor: Descriptor, index: int = -1) -> dict[str, tarfile.TarInfo]:
    """The members of an image's layer, as Python's tarfile reads them."""
    from mkroot.oci.validate import codec_of, unpacked

    layer = images.load(descriptor).manifest.layers[index]
    data = b"".join(unpacked(images.layout().path(layer.digest), codec_of(layer.media_type)))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {m.name: m for m in archive}
