"""The recipe reference and the schema beside it, made from the model: `python -m mkroot.recipe.reference [FOLDER]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from msgspec import inspect
from msgspec.inspect import CustomType, DictType, StructType, VarTupleType

from mkroot.recipe.convert import bare, expected, schema
from mkroot.recipe.schema import default_of, described, json_schema

_INTRODUCTION = """\
# Recipe reference

<!-- Made by `python -m mkroot.recipe.reference docs`; change mkroot/recipe/model.py, not this file. -->

A recipe is one YAML file. A key that is not listed here is an error, and so is a value of another kind;
`mkroot check RECIPE` tells every fault of a recipe at once. `mkroot schema` prints the JSON Schema, which an editor
finds by the first line of a recipe:

```yaml
# yaml-language-server: $schema=../docs/recipe.schema.json
version: 1
name: example
distro: debian
suite: trixie
packages:
  include: [nano]
outputs: [tar.zst, oci]
```

## How values are written

- YAML 1.2's core, strictly. Where text is expected, text that YAML would read as a number, a date, a truth value or
  nothing must be quoted: `suite: "12"`, `env: {DEBUG: "yes"}`. Truth values are `true` and `false`.
- No key stands twice; a file is one document of at most 1 MiB, and has no tags of its own. Anchors and aliases work.
- Paths of the building machine (`keyring`, `from`, `run`, `ssh_keys`, `key.file`, local packages) are relative to
  the file that names them. In a recipe read from standard input (`-`) they are relative to the current folder.
- `vars` declares variables with their values. `${name}` stands for one in any value, also in the files that are
  extended; `-D name=value` gives another value. `$${` is a `${` itself. What a variable
  makes may be a number or a truth value where the key takes one, whether it is quoted or not; inside `{…}` and `[…]`
  YAML needs the quotes.

## How recipes are composed

`extends` names recipes to start from, the later over the earlier and this file over all:

- maps are merged key by key, and `key: null` takes an inherited key out;
- lists are joined; `-name` takes an inherited item out. An item is named by its text, by the package's name, or by
  the `name`, `id`, `path`, `package`, `run` or `cmd` of a map. Taking out what is not there is an error;
- `image.cmd` and `image.entrypoint` are one value each, and are replaced as a whole;
- in `test.expect` and `test.reject` a hyphen at the beginning is part of the text;
- a file that is reached in two ways counts once, before everything that extends it.

"""


def reference() -> str:
    """Return docs/recipe.md."""
    lines = [_INTRODUCTION + "## Keys\n"]
    _table(schema(), lines)
    for field in schema().fields:
        inner = _struct_of(field.type)
        if inner is not None:
            _section(field.encode_name, field.type, inner, lines)
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, info: inspect.Type, struct: StructType, lines: list[str]) -> None:
    doc = (struct.cls.__doc__ or "").strip()
    lines.append(f"## `{name}`\n\n{doc}\n")
    if example := described(info).get("examples"):
        lines.append(f"Example: `{name}: {_flow(example[0])}`\n")
    _table(struct, lines)
    for field in struct.fields:
        if (inner := _struct_of(field.type)) is not None:
            _section(f"{name}.{field.encode_name}", field.type, inner, lines)


def _struct_of(info: inspect.Type) -> StructType | None:
    inner = bare(info)
    if isinstance(inner, VarTupleType):
        inner = bare(inner.item_type)
    return inner if isinstance(inner, StructType) else None


def _table(struct: StructType, lines: list[str]) -> None:
    lines.append("| key | takes | default | meaning |\n|---|---|---|---|")
    for field in struct.fields:
        about = described(field.type)
        meaning = about["description"]
        examples = [e for e in about.get("examples") or () if not isinstance(e, dict)]
        if examples and _struct_of(field.type) is None:
            shown = ", ".join(f"`{_flow(example)}`" for example in examples)
            meaning += f" For example {shown}."
        if field.required:
            default = "**needed**"
        else:
            value = default_of(field)
            default = "" if value in (None, {}, "") else f"`{_flow(value)}`"
        cells = (f"`{field.encode_name}`", _takes(field.type), default, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines.append("")


def _takes(info: inspect.Type) -> str:
    info = bare(info)
    if isinstance(info, StructType):
        return "a map, see below"
    if isinstance(info, VarTupleType):
        inner = bare(info.item_type)
        return "a list of maps, see below" if isinstance(inner, StructType) else f"a list; each {_takes(inner)}"
    if isinstance(info, DictType):
        return "a map of names and values"
    if isinstance(info, CustomType):
        return expected(info)
    return expected(info).replace(" | ", ", ")


def _flow(value: Any) -> str:
    """Return a value as YAML's flow style writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    quoted = isinstance(value, str) and (text.isdigit() or "\n" in text or text[:1] in "*&" or "*" in text)
    return json.dumps(text) if quoted else text


def schema_text() -> str:
    """Return docs/recipe.schema.json."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.md").write_text(reference(), encoding="utf-8")
    (folder / "recipe.schema.json").write_text(schema_text(), encoding="utf-8")
