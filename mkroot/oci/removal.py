"""Removes images: tags first, and the image with its last tag, unless a container stands on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct

from mkroot.errors import ImageError
from mkroot.oci.layers import layer_key
from mkroot.oci.layout import Layout
from mkroot.oci.model import REF_NAME, Descriptor
from mkroot.oci.store import ImageStore, load_image, platforms_of
from mkroot.store.prune import forget

Users = Mapping[str, Sequence[str]]
"""The names of the containers that stand on an image, by the manifest's digest."""


class Removed(Struct, frozen=True, kw_only=True):
    """What went. untagged: references. deleted: digests of images and layers. size: bytes won."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    size: int


def untag(images: ImageStore, text: str, users: Users, *, force: bool = False) -> tuple[Descriptor, tuple[str, ...]]:
    """Remove the tag that `text` names, or every tag of the image that it names otherwise; return image and tags.

    The blobs go with `sweep`. Raises ImageError where there is no such image, where it is named by its digest or id and
    has several tags, and where the last tag of an image would go on which containers stand; `force` does it then.
    """
    found = images.find(text)
    tags = images.references(found.digest)
    name = found.annotations.get(REF_NAME, "")
    by_tag = "@" not in text and images.is_tag(text)
    going = (name,) if by_tag else tags
    if not force:
        if len(going) > 1:
            raise ImageError(
                f"the image `{text}` has {len(going)} tags: {', '.join(going)}",
                hint="name the tag that shall go, or take them all off with `-f`",
            )
        if len(tags) <= len(going) and (names := _users(images.layout(), found, users)):
            raise ImageError(
                f"the image `{text}` is used by {_listed(names)}",
                hint=f"remove what uses it (`mkroot rm {names[0]}`), or take its tag off with `-f`",
            )
    if by_tag:
        images.drop(lambda d: d.annotations.get(REF_NAME) == name)
    else:
        images.remove(found.digest)
    return found, going


def untag_all(images: ImageStore) -> tuple[tuple[Descriptor, ...], tuple[str, ...]]:
    """Remove every tag; return the images and the tags. What containers need stays with `sweep`."""
    found = images.layout().index().manifests
    images.drop(lambda _: True)
    return found, tuple(sorted({d.annotations.get(REF_NAME, "") for d in found} - {""}))


def sweep(
    images: ImageStore, gone: Sequence[Descriptor], untagged: Sequence[str], users: Callable[[], Users]
) -> Removed:
    """Remove the blobs that neither a tagged image nor a container's has, and tell what of `gone` went.

    What was unpacked of a layer that no image has any more goes too, unless the store is in use: then `cache prune`
    finds it. users: is asked when nobody can make a container any more. Raises ImageError, StoreError.
    """
    layout = images.layout()
    blobs: dict[str, None] = {}
    unpacked: set[str] = set()
    for descriptor in gone:
        for digest in _told(layout, descriptor):
            blobs.setdefault(digest)
        unpacked |= _layer_keys(layout, descriptor)
    there = [digest for digest in blobs if layout.path(digest).exists()]
    size = images.collect(keep=standing(images, users))
    if unpacked:
        for descriptor in (*layout.index().manifests, *standing(images, users)):
            unpacked -= _layer_keys(layout, descriptor)
        size += forget(images.store, unpacked)
    deleted = tuple(digest for digest in there if not layout.path(digest).exists())
    return Removed(untagged=tuple(untagged), deleted=deleted, size=size)


def standing(images: ImageStore, users: Callable[[], Users]) -> Iterator[Descriptor]:
    """Yield the images on which containers stand, as far as they are in the store.

    Nothing is asked before the first is wanted: `ImageStore.collect` does so when it has its locks.
    """
    for digest in sorted(users()):
        with contextlib.suppress(ImageError):  # the container's image is gone; there is nothing to keep
            yield images.held(digest)


def _told(layout: Layout, descriptor: Descriptor) -> list[str]:
    """Return the digests of images and layers that are told of when they go."""
    found = []
    try:
        children = platforms_of(layout, descriptor)
    except ImageError:
        return [descriptor.digest]
    for child in children:
        found.append(child.digest)
        try:
            found += [layer.digest for layer in reversed(load_image(layout, child).manifest.layers)]
        except ImageError:
            continue
    return found if descriptor.digest in found else [descriptor.digest, *found]


def _layer_keys(layout: Layout, descriptor: Descriptor) -> set[str]:
    """Return the keys under which the layers of an image are unpacked, where its documents can be read."""
    found: set[str] = set()
    with contextlib.suppress(ImageError):
        for child in platforms_of(layout, descriptor):
            found.update(layer_key(diff_id) for diff_id in load_image(layout, child).config.rootfs.diff_ids)
    return found


def _users(layout: Layout, descriptor: Descriptor, users: Users) -> list[str]:
    digests = {descriptor.digest, *(d.digest for d in platforms_of(layout, descriptor))} if users else set()
    return sorted({name for digest in digests for name in users.get(digest, ())})


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"the container {text}" if len(names) == 1 else f"the containers {text}"
