"""A map of nodes made into the recipe's types, every fault noted and none of them the last."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import inspect
from msgspec.inspect import CustomType, DictType, Field, IntType, LiteralType, StructType, VarTupleType

from mkroot.errors import RecipeError, masked_address
from mkroot.recipe.compose import ONE_VALUE
from mkroot.recipe.document import Items, Keys, Node, Path, Place, Scalar, kind, read_as, short, spelled
from mkroot.recipe.model import Recipe
from mkroot.recipe.values import AptMirror, Refused, Url
from mkroot.recipe.wants import LocalPath, Want


class _Bad:
    """Stands where a value was refused; the fault is noted."""


BAD = _Bad()
MAX_FAULTS = 100  # told at once
_STAND_IN = {"version": 1, "name": "x", "distro": "debian", "suite": "x"}  # of a recipe that lacks what it needs


@cache
def schema() -> StructType:
    """Return the recipe's keys and types, as msgspec describes them."""
    found = inspect.type_info(Recipe)
    assert isinstance(found, StructType)
    return found


def bare(kind: inspect.Type) -> inspect.Type:
    """Return a type without its description and without `None`, which only says that the key may be left out."""
    if isinstance(kind, inspect.Metadata):
        return bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        return bare(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
    return kind


class Converter:
    """Converts one composition. `places` has every key and list item that was given."""

    def __init__(self, base: str, whole: bool) -> None:
        self.base = base  # the folder of the recipe itself
        self.whole = whole
        self.places: dict[Path, Place] = {}
        self.faults: list[RecipeError] = []

    def fault(self, place: Place, path: Path, what: str, hint: str | None = None) -> None:
        where = f"`{spelled(path)}`: " if path else ""
        self.faults.append(RecipeError(where + what, where=str(place), hint=hint and short(hint, 300)))

    def value(self, node: Node, info: inspect.Type, path: Path, place: Place) -> Any:
        """Return what `node` is as the type `info`, or BAD; `place` is where a fault of it is reported."""
        info = bare(info)
        if isinstance(node, Scalar) and node.refused:
            return BAD
        if isinstance(node, Scalar) and node.empty:
            self.fault(place, path, "nothing stands here", "give a value, or leave the key out")
            return BAD
        if isinstance(info, StructType):
            return self.struct(node, info, path, place)
        if isinstance(info, VarTupleType):
            return self.items(node, info, path, place)
        if isinstance(info, DictType):
            return self.mapping(node, info, path, place)
        return self.scalar(node, info, path, place)

    def struct(self, node: Node, info: StructType, path: Path, place: Place) -> Any:
        if not isinstance(node, Keys):
            known = ", ".join(f"`{f.encode_name}`" for f in info.fields[:6])
            self.fault(place, path, f"expected a map with keys such as {known}, not {kind(node)}")
            return BAD
        fields = {f.encode_name: f for f in info.fields}
        given: dict[str, Any] = {}
        for name, entry in node.entries.items():
            here = (*path, name)
            self.places[here] = entry.place
            if (field := fields.get(name)) is None:
                hint = nearest(name, list(fields)) if len(self.faults) < MAX_FAULTS else None  # a search of its own
                self.fault(entry.place, here, "unknown key", hint)
            else:
                given[field.name] = self.value(entry.node, field.type, here, entry.place)
        missing = [f.encode_name for f in info.fields if f.required and f.encode_name not in node.entries]
        if missing and self.whole:
            keys = ", ".join(f"`{name}`" for name in missing)
            self.fault(place, path, f"{'a key is' if len(missing) == 1 else 'keys are'} missing: {keys}")
        # What can be made without the refused values is made, so that the rules find what else is wrong.
        given = {name: v for name, v in given.items() if v is not BAD}
        if not path:
            given = {**_STAND_IN, **given}
        return info.cls(**given) if all(f.name in given for f in info.fields if f.required) else BAD

    def items(self, node: Node, info: VarTupleType, path: Path, place: Place) -> Any:
        if not isinstance(node, Items):
            text = isinstance(node, Scalar) and f"write `[{short(node.text)}]`"
            self.fault(place, path, f"expected a list, not {kind(node)}", text or None)
            return BAD
        values: list[Any] = []
        seen: set[Any] = set()
        # What stands twice in a list of names counts once; an item of a command line or a map is always its own.
        names = not isinstance(bare(info.item_type), StructType) and path not in ONE_VALUE
        for i, item in enumerate(node.nodes):
            self.places[(*path, len(values))] = item.place  # by its number in the result
            value = self.value(item, info.item_type, (*path, i), item.place)
            if value is BAD or not names or value not in seen:
                values.append(value)
            if names and value is not BAD:
                seen.add(value)
        if len(values) < (info.min_length or 0):
            self.fault(place, path, "expected a list of at least one item")
            return BAD
        return tuple(values)  # with BAD in it, so that places keep their numbers

    def mapping(self, node: Node, info: DictType, path: Path, place: Place) -> Any:
        if not isinstance(node, Keys):
            self.fault(place, path, f"expected a map of names and values, not {kind(node)}")
            return BAD
        values: dict[Any, Any] = {}
        for name, entry in node.entries.items():
            here = (*path, name)
            self.places[here] = entry.place
            key = self.scalar(Scalar(entry.place, name, entry.plain), info.key_type, here, entry.place)
            values[key] = self.value(entry.node, info.value_type, here, entry.place)
        return {k: v for k, v in values.items() if k is not BAD and v is not BAD}

    def scalar(self, node: Node, info: inspect.Type, path: Path, place: Place) -> Any:
        if not isinstance(node, Scalar):
            self.fault(place, path, f"expected {expected(info)}, not {kind(node)}")
            return BAD
        if isinstance(info, CustomType):
            return self.custom(node, info.cls, path, place)
        if isinstance(info, LiteralType):
            return self.literal(node, info, path, place)
        if isinstance(info, IntType):
            if not (node.plain or node.filled) or not re.fullmatch(r"-?(?:0|[1-9][0-9]{0,18})", node.text):
                hint = f"write {int(node.text)}" if re.fullmatch(r"[0-9]{1,18}", node.text) else None
                self.fault(place, path, f"expected {expected(info)}, not {self._said(node)}", hint)
                return BAD
            number = int(node.text)
            if not (-(1 << 62) if info.ge is None else info.ge) <= number <= (1 << 62 if info.le is None else info.le):
                self.fault(place, path, f"expected {expected(info)}, not {number}")
                return BAD
            return number
        if not (node.plain or node.filled) or node.text not in ("true", "false"):
            self.fault(place, path, f"expected {expected(info)}, not {self._said(node)}")
            return BAD
        return node.text == "true"

    def literal(self, node: Scalar, info: LiteralType, path: Path, place: Place) -> Any:
        for value in info.values:
            if node.text == str(value) and (node.plain or node.filled or isinstance(value, str)):
                return value
        words = [str(value) for value in info.values]
        near = nearest(node.text, words, "") if node.plain or isinstance(info.values[0], str) else None
        self.fault(place, path, f"expected {expected(info)}, not {self._said(node)}", near)
        return BAD

    def custom(self, node: Scalar, cls: Any, path: Path, place: Place) -> Any:
        what = read_as(node.text) if node.plain and not node.filled else None
        number = cls.numbers and re.fullmatch(r"0|[1-9][0-9]*|[0-9]+(?:\.[0-9]+)?[KMGT]", node.text)
        if what and not number:
            said = f"`{short(node.text)}`"
            hint = (cls.advice(node.text) if hasattr(cls, "advice") else None) or f'write "{node.text}"'
            self.fault(place, path, f"expected {cls.expected}, but YAML reads {said} as {what}", hint)
            return BAD
        try:
            if issubclass(cls, (LocalPath, Want)):
                return cls.parse(node.text, os.path.dirname(node.place.file), self.base)
            return cls.parse(node.text)
        except Refused as e:
            self.fault(place, path, f"{e}, not {self._said(node, secret=issubclass(cls, (Url, AptMirror)))}", e.hint)
            return BAD

    def _said(self, node: Scalar, *, secret: bool = False) -> str:
        text = short(masked_address(node.text) if secret else node.text)
        return f'"{text}"' if not node.plain or not text else f"`{text}`"


def expected(info: inspect.Type) -> str:
    """Return what a value of the type is, in words."""
    if isinstance(info, LiteralType):
        return " | ".join(f"`{value}`" for value in info.values)
    if isinstance(info, CustomType):
        return str(info.cls.expected)  # type: ignore[attr-defined]
    if isinstance(info, IntType):
        if info.ge is not None and info.le is not None:
            return f"a number from {info.ge} to {info.le}"
        return "a number"
    return "`true` or `false`"


def nearest(name: str, known: list[str], otherwise: str | None = None) -> str | None:
    """Return the hint that names the word of `known` nearest to `name`, or where else the key stands."""
    import difflib

    if otherwise is None and (homes := [spelled(path) for path, _ in all_fields(schema()) if path[-1] == name]):
        return f"`{name}` stands elsewhere: {', '.join(f'`{home}`' for home in homes[:3])}"
    close = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.6)
    if close or (close := difflib.get_close_matches(name, known, n=1, cutoff=0.6)):
        return f"did you mean `{close[0]}`?"
    if otherwise is not None:
        return otherwise or None
    return "known here: " + ", ".join(f"`{key}`" for key in known)


def all_fields(info: StructType, path: Path = ()) -> Iterator[tuple[Path, Field]]:
    """Yield every key below a type with its path, in the order of the model."""
    for field in info.fields:
        here = (*path, field.encode_name)
        yield here, field
        inner = bare(field.type)
        if isinstance(inner, VarTupleType):
            inner, here = bare(inner.item_type), (*here[:-1], f"{field.encode_name}[]")
        if isinstance(inner, StructType):
            yield from all_fields(inner, here)
