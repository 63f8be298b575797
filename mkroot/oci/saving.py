"""Writes images of the store into one archive, as `docker save` does or as an OCI layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from mkroot.errors import ImageError
from mkroot.oci.archives import ArchiveWriter, Sink
from mkroot.oci.layout import BLOBS, Layout, as_written
from mkroot.oci.model import LAYOUT, REF_NAME, Descriptor, IndexWritten, encode, named
from mkroot.oci.store import ImageStore, load_image, reachable
from mkroot.oci.validate import codec_of, unpacked

EPOCH = 0  # the time of an archive's members, so that equal images are equal bytes
_STEP = 1 << 22


class Wanted(Struct, frozen=True, kw_only=True):
    """An image to save, and the tags that it has in the archive: none where it was named by its digest or id."""

    descriptor: Descriptor
    tags: tuple[str, ...] = ()


def wanted(images: ImageStore, names: Sequence[str], architecture: str | None = None) -> list[Wanted]:
    """Return the images that names mean, each once with the tags by which it was named; raises ImageError.

    architecture: in Go's words, to choose from images for several.
    """
    found: dict[str, Wanted] = {}
    for name in names:
        descriptor = images.find(name, architecture)
        tag = images.find(name).annotations.get(REF_NAME, "") if "@" not in name and images.is_tag(name) else ""
        known = found.get(descriptor.digest, Wanted(descriptor=descriptor))
        tags = tuple(dict.fromkeys((*known.tags, *((tag,) if tag else ()))))
        found[descriptor.digest] = Wanted(descriptor=descriptor, tags=tags)
    return list(found.values())


def save_oci(images: ImageStore, saved: Sequence[Wanted], out: Sink) -> None:
    """Write an OCI layout as a tar archive; raises ImageError where a blob is damaged, OSError."""
    layout = images.layout()
    blobs: dict[str, int] = {}
    rows: list[Descriptor] = []
    for one in saved:
        blobs |= reachable(layout, one.descriptor)
        rows += [named(one.descriptor, tag) for tag in one.tags or ("",)]
    archive = ArchiveWriter(out, EPOCH)
    archive.folder("blobs")
    archive.folder(BLOBS)
    for digest in sorted(blobs):
        path = layout.path(digest)
        archive.stream(f"{BLOBS}/{path.name}", _checked(path, digest), blobs[digest])
    archive.data("index.json", encode(IndexWritten(manifests=tuple(as_written(row) for row in rows))))
    archive.data("oci-layout", LAYOUT)
    archive.end()


def save_docker(images: ImageStore, saved: Sequence[Wanted], out: Sink) -> None:
    """Write what `docker save` writes, with layers uncompressed; raises ImageError where a blob is damaged, OSError.

    A layer that several images have is there once.
    """
    layout = images.layout()
    archive = ArchiveWriter(out, EPOCH)
    done: set[str] = set()
    rows = []
    for one in saved:
        image = load_image(layout, one.descriptor)
        names = []
        for layer, diff_id in zip(image.manifest.layers, image.config.rootfs.diff_ids, strict=True):
            name = f"{diff_id.partition(':')[2]}.tar"
            names.append(name)
            if name not in done:
                done.add(name)
                size = _size(layout, layer, diff_id)
                archive.stream(name, unpacked(layout.path(layer.digest), codec_of(layer.media_type)), size)
        config = f"{image.manifest.config.hex}.json"
        if config not in done:
            done.add(config)
            archive.data(config, layout.read(image.manifest.config))
        rows.append({"Config": config, "RepoTags": list(one.tags), "Layers": names})
    archive.data("manifest.json", json.dumps(rows, sort_keys=True, separators=(",", ":")).encode())
    archive.end()


def _size(layout: Layout, layer: Descriptor, diff_id: str) -> int:
    """Return the bytes of a layer's uncompressed stream, which a tar header names first; raises ImageError."""
    plain, size = hashlib.sha256(), 0
    for piece in unpacked(layout.path(layer.digest), codec_of(layer.media_type)):
        plain.update(piece)
        size += len(piece)
    if "sha256:" + plain.hexdigest() != diff_id:
        raise _damaged(layout.path(layer.digest))
    return size


def _checked(path: Path, digest: str) -> Iterator[bytes]:
    whole = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while piece := f.read(_STEP):
            whole.update(piece)
            yield piece
    if "sha256:" + whole.hexdigest() != digest:
        raise _damaged(path)


def _damaged(path: Path) -> ImageError:
    return ImageError(
        "a damaged blob: it does not match its digest",
        where=str(path),
        hint="run `mkroot cache verify`, and build or pull the image again",
    )
