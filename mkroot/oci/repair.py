"""Puts an image store right whose index or blobs are damaged: images that are not whole lose their tags."""

from __future__ import annotations

from pathlib import Path

from mkroot.errors import ImageError
from mkroot.oci.layout import INDEX_FILE
from mkroot.oci.store import ImageStore
from mkroot.oci.validate import verify
from mkroot.store.use import remove


def index_fault(images: ImageStore) -> tuple[Path, str]:
    """Return the path of the index and what is wrong with it: it cannot be read, or names what is not there."""
    path = images.root / INDEX_FILE
    try:
        layout = images.layout()
        for descriptor in layout.index().manifests:
            if not layout.path(descriptor.digest).exists():
                return path, f"it names {descriptor.digest}, which is not there"
    except ImageError as e:
        return path, e.what
    return path, ""


def repair(images: ImageStore) -> tuple[str, ...]:
    """Take the tags off images that are not whole, all of them where the index cannot be read; return their names.

    Another build of their recipes, or another pull, makes them again. Raises ImageError, StoreError.
    """
    gone: list[str] = []
    layout = images.layout()
    try:
        manifests = layout.index().manifests
    except ImageError:
        remove(images.root / INDEX_FILE)
        return ("every tag",)
    for descriptor in manifests:
        try:
            verify(layout, descriptor)
        except ImageError:
            gone.append(", ".join(images.references(descriptor.digest)) or descriptor.digest)
            images.remove(descriptor.digest)
    return tuple(dict.fromkeys(gone))
