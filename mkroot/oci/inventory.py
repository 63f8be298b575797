"""What is in an image: its layers applied in memory, from a layout, an archive or the image store."""

from __future__ import annotations

import json
from pathlib import Path

from mkroot.artifact.inventory import Collector, Inventory, unpacked, unpacked_file
from mkroot.errors import ImageError
from mkroot.oci.layout import Layout
from mkroot.oci.members import archive_members
from mkroot.oci.model import Descriptor, decode_index, decode_manifest
from mkroot.oci.store import load_image, platforms_of
from mkroot.tar.stream import Corrupt


def read_image(layout: Layout, descriptor: Descriptor, architecture: str | None = None) -> Inventory:
    """Return what a container of the image sees; raises ImageError, ArtifactError.

    architecture: in Go's words, to choose from an image for several.
    """
    children = platforms_of(layout, descriptor)
    fitting = [d for d in children if d.platform and d.platform.architecture == architecture] or children
    if not fitting:
        raise ImageError("an index without images", where=descriptor.digest)
    image = load_image(layout, fitting[0])
    collector = Collector()
    for layer in image.manifest.layers:
        collector.add_tar(unpacked_file(layout.path(layer.digest)), layer.digest, whiteouts=True)
    return collector.inventory()


def sole_image(layout: Layout, reference: str = "") -> Descriptor:
    """Return the layout's image of a name, or the only one that it has; raises ImageError."""
    from mkroot.oci.model import REF_NAME

    found = [d for d in layout.index().manifests if not reference or d.annotations.get(REF_NAME) == reference]
    if len({d.digest for d in found}) != 1:
        names = ", ".join(sorted(d.annotations.get(REF_NAME, "?") for d in layout.index().manifests)) or "none"
        raise ImageError("a layout that has not one image", where=str(layout.root), hint=f"it has: {names}")
    return found[0]


def is_image_archive(path: Path) -> bool:
    """Tell whether a tar archive is an image: an OCI layout, or what `docker save` writes."""
    try:
        with archive_members(path) as members:
            return "oci-layout" in members or "manifest.json" in members
    except (OSError, Corrupt, ValueError):
        return False


def read_archive(path: Path) -> Inventory:
    """Return what is in an image archive (oci-archive or docker-archive, not compressed); raises ImageError."""
    try:
        with archive_members(path) as members:
            collector = Collector()
            for view, where in layers_of(members, str(path)):
                collector.add_tar(unpacked(view, where), where, whiteouts=True)
            return collector.inventory()
    except (OSError, Corrupt) as e:
        raise ImageError(f"the archive cannot be read: {e}", where=str(path)) from e


def layers_of(members: dict[str, memoryview], where: str) -> list[tuple[memoryview, str]]:
    """Return the layers of an image archive's files, compressed as they are, with their names; raises ImageError."""

    def blob(descriptor: Descriptor) -> memoryview:
        name = f"blobs/sha256/{descriptor.hex}"
        if name not in members:
            raise ImageError(f"the archive lacks {name}", where=where)
        return members[name]

    if "index.json" in members:
        index = decode_index(bytes(members["index.json"]), where)
        if len({d.digest for d in index.manifests}) != 1:
            raise ImageError("an archive that has not one image", where=where)
        manifest = decode_manifest(bytes(blob(index.manifests[0])), where)
        return [(blob(layer), layer.digest) for layer in manifest.layers]
    try:
        names = json.loads(bytes(members["manifest.json"]))[0]["Layers"]
        return [(members[name], f"{where}: {name}") for name in names]
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise ImageError(f"not what `docker save` writes: {e}", where=where) from None
