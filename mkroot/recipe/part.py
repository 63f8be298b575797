"""What every part of the recipe's model is made of."""

# No `from __future__ import annotations`: see mkroot.recipe.model.
from typing import Any

from msgspec import Meta, Struct


def doc(description: str, *examples: Any) -> Meta:
    """Return what the documentation and the schema say of a key."""
    return Meta(description=description, examples=list(examples) or None)


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the recipe: a map with known keys."""
