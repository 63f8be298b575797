"""What image a recipe's root is, or stands on."""

from __future__ import annotations

from mkroot.recipe.model import Recipe


def stands_on(recipe: Recipe) -> bool:
    """Tell whether a recipe installs on top of an image."""
    return str(recipe.image.parent) != "none"


def reference_of(recipe: Recipe) -> str:
    """Return the reference of the image that the recipe's root is or stands on; "" where it is made of packages."""
    if stands_on(recipe):
        return str(recipe.image.parent)
    root = "own" if recipe.boot is None else str(recipe.boot.rootfs)
    return "" if root == "own" else root.removeprefix("image:")


def key_of(recipe: Recipe) -> str:
    """Return the key of the recipe that names the image."""
    return "image.from" if stands_on(recipe) else "boot.rootfs"


def installs(recipe: Recipe) -> bool:
    """Tell whether a recipe asks for any package."""
    return recipe.packages.variant != "none" or bool(recipe.packages.include) or recipe.boot is not None
