"""Recipes with each choice of the values that a command line gives: what has a lock each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.build import Options


def chosen(
    recipes: Iterable[str], given: Sequence[str], options: Options
) -> tuple[tuple[str, Options, Path | None], ...]:
    """Return each recipe once with each choice of values: its options, and where its lock stands (None: as usual).

    given: the texts of `-D`; `NAME=A,B` is a choice, as in `mkroot build`. Raises UsageError.
    """
    named = tuple(dict.fromkeys(recipes))
    if not any("," in text for text in given):
        return tuple((recipe, options, None) for recipe in named)
    from msgspec.structs import replace

    from mkroot.fleet.matrix import choices
    from mkroot.lockfile import variant_path

    every, varied = choices(given)
    return tuple(
        (
            recipe,
            replace(options, defines=values),
            variant_path(recipe, values, varied) if varied and recipe != "-" else None,
        )
        for recipe in named
        for values in every
    )
