"""From a recipe's path to the recipe: read, compose, convert, check; all faults of it together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import msgspec

from mkroot.errors import MESSAGE_LIMIT, Faults, RecipeError
from mkroot.recipe.compose import Composition, Reader, read_file
from mkroot.recipe.convert import MAX_FAULTS, Converter, schema
from mkroot.recipe.document import Entry, Keys, Scalar, spelled
from mkroot.recipe.model import Recipe
from mkroot.recipe.rules import Rules, missing_files


def load(
    source: str | os.PathLike[str],
    defines: Mapping[str, str] | None = None,
    *,
    files: bool = True,
    reader: Reader = read_file,
) -> Recipe:
    """Return the recipe at the path `source`; `-` is standard input, whose paths are relative to the current folder.

    defines: values of variables, as `-D NAME=VALUE` gives them.
    files: see that the local files which the recipe names are there.
    Raises Faults with every fault that can be found without the network, in the order of their places.
    """
    path = os.fspath(source)
    if not path:  # an unset variable of a script, not a wish to read standard input
        raise Faults((RecipeError("the name of the recipe is empty", hint="`-` reads standard input"),))
    path = "" if path == "-" else path
    composition = Composition(path, defines or {}, reader)
    faults = composition.faults
    recipe = None
    if composition.root is not None:
        _complete(composition.root)
        converter = Converter(os.path.dirname(path), composition.whole)
        converter.places[()] = composition.root.place
        recipe = converter.value(composition.root, schema(), (), composition.root.place)
        faults += converter.faults
        if isinstance(recipe, Recipe):
            faults += Rules(recipe, converter.places).faults
            faults += missing_files(recipe, converter.places) if files else []
    if faults or not isinstance(recipe, Recipe):
        raise Faults(_ordered(faults, composition.files))
    return msgspec.structs.replace(recipe, vars=composition.vars)


def locate(source: str | os.PathLike[str], key: str, defines: Mapping[str, str] | None = None) -> str | None:
    """Return `file:line:column` of a key of a recipe that was loaded before, or of what holds it; None for none.

    key: its path, as in `config.users[0].shell`. Standard input cannot be read twice and has no answer.
    """
    path = os.fspath(source)
    if path == "-":
        return None
    composition = Composition(path, defines or {}, read_file)
    if composition.root is None:
        return None
    _complete(composition.root)
    converter = Converter(os.path.dirname(path), composition.whole)
    converter.value(composition.root, schema(), (), composition.root.place)
    places = {spelled(p): place for p, place in converter.places.items()}
    while key and key not in places:
        key = key.rpartition("[" if key.endswith("]") else ".")[0]
    return str(places[key]) if key else None


def _complete(root: Keys) -> None:
    """Give the defaults that depend on other keys."""
    if _text(root, "image", "from") not in (None, "none"):
        _default(root, "packages", "variant", "none")
        _default(root, "apt", "mirror", "none")
    if (_text(root, "boot", "rootfs") or "own") != "own":
        _default(root, "packages", "variant", "none")
    if _text(root, "boot", "firmware") == "bios":
        _default(root, "boot", "loader", "grub")
    if _text(root, "disk", "root") in ("squashfs", "erofs"):
        _default(root, "disk", "overlay", "true")


def _text(root: Keys, section: str, key: str) -> str | None:
    entry = root.entries.get(section)
    if entry is None or not isinstance(entry.node, Keys) or key not in entry.node.entries:
        return None
    node = entry.node.entries[key].node
    return node.text if isinstance(node, Scalar) else None


def _default(root: Keys, section: str, key: str, value: str) -> None:
    entry = root.entries.setdefault(section, Entry(root.place, False, Keys(root.place, {})))
    if isinstance(entry.node, Keys) and key not in entry.node.entries:
        entry.node.entries[key] = Entry(entry.place, False, Scalar(entry.place, value, plain=True))


def _ordered(faults: list[RecipeError], files: list[str]) -> list[RecipeError]:
    """Return each fault once, the recipe's own first, then those of the files it extends, from top to bottom."""
    order = {path or "<stdin>": i for i, path in enumerate(files)}

    def key(fault: RecipeError) -> tuple[int, int, int, str]:
        found = re.fullmatch(r"(.*):(\d+):(\d+)", fault.where or "", re.DOTALL)
        if found is None:
            return (-1, 0, 0, fault.what)
        return (order.get(found[1], len(order)), int(found[2]), int(found[3]), fault.what)

    unique = {(fault.where, fault.what): fault for fault in faults}
    ordered = sorted(unique.values(), key=key)
    told = ordered[:MAX_FAULTS]
    while len(told) > 1 and sum(len(str(fault)) + 1 for fault in told) > MESSAGE_LIMIT - 200:
        told.pop()
    more = len(ordered) - len(told)
    return [*told, RecipeError(f"and {more} more fault{'s' if more > 1 else ''}")] if more else told
