"""A recipe in its normal form: what its digest is made of, and which local files it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from mkroot.digest import sha256
from mkroot.recipe.model import Recipe
from mkroot.recipe.numbers import Duration, Mode, Size
from mkroot.recipe.rules import local_files
from mkroot.recipe.values import Url
from mkroot.recipe.wants import LocalPath

# How the recipe came to be, and where this build fetches from: neither changes what is locked.
_NOT_IN_DIGEST = ("extends", "vars", "mirror")


def plain(value: Any) -> Any:
    """Return a value of the model as JSON has it: keys as in a recipe, without those that hold their default.

    A key that a later mkroot adds thus leaves the digest of older recipes as it is.
    """
    if isinstance(value, msgspec.Struct):
        found = {}
        for field in _fields(type(value)):
            item = getattr(value, field.name)
            if field.required or item != _default(field):
                found[field.encode_name] = plain(item)
        return found
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Url):
        return value.bare()
    if isinstance(value, (Size, Duration)):
        return int(value)
    return int(value) if isinstance(value, int) and not isinstance(value, Mode) else str(value)


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a kind of value, which take longer to find out than all else here."""
    return msgspec.structs.fields(kind)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def normalised(recipe: Recipe) -> bytes:
    """Return the recipe's normal form: JSON with sorted keys, all text as it stands, no space between."""
    whole = {key: value for key, value in plain(recipe).items() if key not in _NOT_IN_DIGEST}
    return json.dumps(whole, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def digest(recipe: Recipe) -> str:
    """Return the SHA-256 of the recipe's normal form, as hexadecimal digits.

    It is the same for any order of keys, comments, quoting, use of `extends` and `vars`, folder and mirror. Local
    files count by their relative path; their content is for the build to look at (see `inputs`).
    """
    return sha256(normalised(recipe))


def inputs(recipe: Recipe) -> tuple[LocalPath, ...]:
    """Return the local files and folders that a build of `recipe` reads, each once, by their relative path."""
    found = {local.relative: local for _, local in local_files(recipe)}
    return tuple(found[relative] for relative in sorted(found))
