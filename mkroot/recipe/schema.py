"""The recipe's JSON Schema (draft 2020-12), made from the model for editors."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect
from msgspec.inspect import CustomType, DictType, IntType, LiteralType, Metadata, StructType, VarTupleType

from mkroot.recipe.compose import FREE_TEXT, ONE_VALUE
from mkroot.recipe.convert import bare, schema
from mkroot.recipe.document import Path
from mkroot.recipe.normal import plain

_VARIABLE: dict[str, Any] = {"type": "string", "pattern": r"\$\{[A-Za-z_]"}
# A list's item that takes an inherited one out
_REMOVAL: dict[str, Any] = {"type": "string", "pattern": "^-."}


def json_schema() -> dict[str, Any]:
    """Return the schema of a recipe file; `${name}` is allowed wherever a value is, for it is filled in later."""
    whole = _struct(schema(), ())
    required = whole.pop("required")
    parts = {
        name: {"required": part.pop("required")} for name, part in whole["properties"].items() if "required" in part
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mkroot recipe",
        **whole,
        # What a recipe that extends others lacks may stand in those.
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": required, "properties": parts},
    }


def _struct(info: StructType, path: Path) -> dict[str, Any]:
    properties = {}
    for field in info.fields:
        entry = _value(field.type, (*path, field.encode_name))
        entry = {**described(field.type), **entry}
        default = default_of(field)
        if default not in (None, {}, [], False, ""):
            entry["default"] = default
        properties[field.encode_name] = entry
    result: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required := [field.encode_name for field in info.fields if field.required]:
        result["required"] = required
    return result


def described(info: inspect.Type) -> dict[str, Any]:
    """Return the description and examples that stand at a key of the model."""
    while isinstance(info, inspect.UnionType):
        info = info.types[0]
    return dict(info.extra_json_schema or {}) if isinstance(info, Metadata) else {}


def default_of(field: inspect.Field) -> Any:
    """Return a key's default as a recipe would write it; None where there is none."""
    if field.default is not msgspec.NODEFAULT:
        return plain(field.default)
    return plain(field.default_factory()) if callable(field.default_factory) else None


def _value(info: inspect.Type, path: Path) -> dict[str, Any]:
    info = bare(info)
    if isinstance(info, StructType):
        return _struct(info, path)
    if isinstance(info, VarTupleType):
        item = _value(info.item_type, path)
        if path not in ONE_VALUE | FREE_TEXT:
            item = {"anyOf": [item, _REMOVAL]}
        return {"type": "array", "items": item} | ({"minItems": info.min_length} if info.min_length else {})
    if isinstance(info, DictType):
        names = {"propertyNames": {"pattern": f"^(?:{info.key_type.cls.pattern})$"}}  # type: ignore[attr-defined]
        return {"type": "object", "additionalProperties": _value(info.value_type, path), **names}
    if isinstance(info, LiteralType):
        return {"anyOf": [{"enum": list(info.values)}, _VARIABLE]}
    if isinstance(info, CustomType):
        cls: Any = info.cls
        text = {"type": "string", "pattern": f"^(?:{cls.pattern})$|\\$\\{{"}
        return {"anyOf": [text, {"type": "integer", "minimum": 0}]} if cls.numbers else text
    if isinstance(info, IntType):
        bounds = {"minimum": info.ge, "maximum": info.le}
        return {"anyOf": [{"type": "integer", **{k: v for k, v in bounds.items() if v is not None}}, _VARIABLE]}
    return {"anyOf": [{"type": "boolean"}, _VARIABLE]}
