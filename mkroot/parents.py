"""The image that a recipe's root is, or stands on: found by its reference, pinned in the lock by its digest."""

from __future__ import annotations

from datetime import datetime

from mkroot.errors import ImageError, LockError
from mkroot.oci.build import platform_of
from mkroot.oci.model import INDEXES, Descriptor
from mkroot.oci.store import Image, ImageStore, platforms_of
from mkroot.recipe.model import Recipe
from mkroot.store.store import Store

KEY = "boot.rootfs"


def reference_of(recipe: Recipe) -> str:
    """Return the reference of the image that the recipe's root is; "" where it is made of packages."""
    root = "own" if recipe.boot is None else str(recipe.boot.rootfs)
    return "" if root == "own" else root.removeprefix("image:")


def parent(store: Store, recipe: Recipe, architecture: str) -> Image | None:
    """Return the image that the recipe names, as it is now; raises ImageError where the store has none."""
    reference = reference_of(recipe)
    if not reference:
        return None
    images = ImageStore(store)
    try:
        found = images.find(reference, platform_of(architecture).architecture)
    except ImageError as e:
        raise ImageError(
            e.what, where=KEY, hint="`mkroot images` lists the images that there are; pull, load or build it first"
        ) from None
    return _fitting(images.load(found), reference, architecture)


def pinned(store: Store, recipe: Recipe, architecture: str, digest: str) -> Image:
    """Return the image of a digest that a lock names; raises LockError where the store has it not any more."""
    images = ImageStore(store)
    layout = images.layout()
    named: list[Descriptor] = []
    for descriptor in layout.index().manifests:
        if descriptor.digest == digest or descriptor.media_type in INDEXES:
            named += [d for d in platforms_of(layout, descriptor) if d.digest == digest]
    if not named:
        raise LockError(
            f"the image store has no image {digest} any more, which the lock names",
            where=KEY,
            hint="pull or build it again, or run `mkroot lock RECIPE` to take the image as it is now",
        )
    return _fitting(images.load(named[0]), reference_of(recipe), architecture)


def _fitting(image: Image, reference: str, architecture: str) -> Image:
    if image.config.architecture != platform_of(architecture).architecture:
        raise ImageError(
            f"the image `{reference}` is for {image.config.architecture}, not for {architecture}", where=KEY
        )
    return image


def created(image: Image) -> int:
    """Return when an image was made, in seconds since 1970; 0 where it does not tell."""
    try:
        return max(0, int(datetime.fromisoformat(image.config.created).timestamp()))
    except (ValueError, OverflowError):
        return 0
