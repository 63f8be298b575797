"""One recipe out of a file, the files that it extends, and its variables."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from mkroot.errors import RecipeError
from mkroot.recipe.document import (
    MAX_BYTES,
    Entry,
    Items,
    Keys,
    Node,
    Path,
    Place,
    Scalar,
    decoded,
    kind,
    parse,
    read_as,
    short,
    spelled,
)

MAX_FILES = 64
Fault = Callable[[Place, str, str | None], None]
Reader = Callable[[str], bytes]
# A command line is one value: joined with an inherited one it would be neither.
ONE_VALUE = frozenset({("image", "cmd"), ("image", "entrypoint")})
# Lists of free text, in which a hyphen at the beginning is just that.
FREE_TEXT = frozenset({("test", "expect"), ("test", "reject")})
_NAMES = ("name", "id", "path", "package", "run", "cmd")  # what tells the items of a list of maps apart
_VARIABLE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def read_file(path: str) -> bytes:
    """Return the bytes of the recipe file at `path`, or of standard input for ""; raises OSError."""
    with open(path or 0, "rb", closefd=bool(path)) as f:
        data = b""
        while len(data) <= MAX_BYTES and (more := f.read(MAX_BYTES + 1 - len(data))):
            data += more
    return data


class Composition:
    """The map of a recipe with all that it extends, the variables that were used, and every fault on the way.

    root: None where the recipe could not be read at all.
    whole: False where a file is missing from it, so that a missing key proves nothing.
    """

    def __init__(self, path: str, defines: Mapping[str, str], reader: Reader = read_file) -> None:
        self.faults: list[RecipeError] = []
        self.files: list[str] = []
        self.whole = True
        self._reader = reader
        self._done: dict[str, Keys] = {}
        self.root: Keys | None = None
        self.vars: dict[str, str] = {}
        self._filled_bytes = 0
        if not self._load(path, [], None):
            return
        maps = list(self._done.values())  # every file once, an extended one before the one that extends it
        self._declare(maps, defines)
        place = maps[-1].place
        merged = Keys(Place(path, 1, 1) if place.file == path else place, {})
        for keys in maps:
            merged = self._merged_keys(merged, self._filled_keys(keys), ())
        self.root = merged

    def fault(self, place: Place, what: str, hint: str | None = None) -> None:
        self.faults.append(RecipeError(what, where=str(place), hint=hint))

    # -- files

    def _load(self, path: str, stack: list[str], said: Place | None) -> bool:
        """Read `path` and before it what it extends; tell whether it could be read."""
        identity = os.path.realpath(path) if path else ""
        if identity in self._done:
            return True
        if identity in stack:
            chain = " → ".join(os.path.basename(name) for name in [*stack[stack.index(identity) :], identity])
            return self._lost(said or Place(path, 1, 1), f"a recipe cannot extend itself: {chain}")
        if len(self.files) >= MAX_FILES:
            return self._lost(said or Place(path, 1, 1), f"a recipe is made of at most {MAX_FILES} files")
        try:
            data = self._reader(path)
        except (OSError, ValueError) as e:
            why = e.strerror if isinstance(e, OSError) else "not a path"
            place = str(said) if said else path or "<stdin>"
            self.faults.append(RecipeError(f"`{path or '-'}` cannot be read: {why}", where=place))
            self.whole = False
            return False
        self.files.append(path)
        try:
            text = decoded(data, path)
        except RecipeError as e:
            self.faults.append(e)
            self.whole = False
            return False
        keys, faults = parse(text, path)
        self.faults += faults
        if keys is None:
            self.whole = False
            return False
        for name, at in self._extended(keys):
            self._load(os.path.join(os.path.dirname(path), name), [*stack, identity], at)
        self._done[identity] = keys
        return True

    def _lost(self, place: Place, what: str) -> bool:
        self.whole = False
        self.fault(place, what)
        return False

    def _extended(self, keys: Keys) -> list[tuple[str, Place]]:
        entry = keys.entries.pop("extends", None)
        if entry is None:
            return []
        if not isinstance(entry.node, Items):
            is_text = isinstance(entry.node, Scalar) and not entry.node.empty
            hint = f"write `extends: [{entry.node.text}]`" if is_text and isinstance(entry.node, Scalar) else None
            self.fault(entry.place, f"`extends`: expected a list of files, not {kind(entry.node)}", hint)
            self.whole = False
            return []
        found = []
        for i, node in enumerate(entry.node.nodes):
            if not isinstance(node, Scalar) or node.empty or "\0" in node.text:
                self._lost(node.place, f"`extends[{i}]`: expected a path, not {kind(node)}")
            elif "${" in node.text:
                self._lost(
                    node.place, f"`extends[{i}]`: no variable may stand here, for variables come from these files"
                )
            else:
                found.append((node.text, node.place))
        return found

    # -- variables

    def _declare(self, maps: list[Keys], defines: Mapping[str, str]) -> None:
        for keys in maps:
            entry = keys.entries.pop("vars", None)
            if entry is None or (isinstance(entry.node, Scalar) and entry.node.empty):
                continue
            if not isinstance(entry.node, Keys):
                self.fault(entry.place, f"`vars`: expected a map of names and values, not {kind(entry.node)}")
                continue
            for name, (place, _, node) in entry.node.entries.items():
                if not _VARIABLE_NAME.fullmatch(name):
                    self.fault(place, f"`{spelled(('vars', name))}`: a variable's name is letters, digits, `_` and `-`")
                elif not isinstance(node, Scalar) or node.empty:
                    self.fault(
                        place,
                        f"`{spelled(('vars', name))}`: expected text, not {kind(node)}",
                        'an empty text is written ""',
                    )
                elif "${" in node.text:
                    self.fault(place, f"`{spelled(('vars', name))}`: a variable's value holds no other variable")
                elif node.plain and (what := read_as(node.text)) and not re.fullmatch("0|[1-9][0-9]*", node.text):
                    if node.text in ("true", "false"):
                        self.vars[name] = node.text
                    else:
                        self.fault(
                            place,
                            f"`{spelled(('vars', name))}`: YAML reads `{node.text}` as {what}",
                            f'write "{node.text}"',
                        )
                else:
                    self.vars[name] = node.text
        for name, value in defines.items():
            if not value.isascii() and re.search("[\ud800-\udfff]", value):
                self.faults.append(RecipeError(f"`-D {short(name)}`: the value is not UTF-8 text"))
                continue
            if name not in self.vars and self.whole:
                known = ", ".join(f"`{var}`" for var in sorted(self.vars))
                self.faults.append(
                    RecipeError(
                        f"`-D {short(name)}`: the recipe declares no such variable under `vars`",
                        where=self.files[0] or "<stdin>",
                        hint=f"it declares {known}" if known else f"add `vars: {{{name}: …}}` to the recipe",
                    )
                )
            self.vars[name] = value

    def _filled(self, node: Node, path: Path, at: Place) -> Node:
        if isinstance(node, Scalar):
            return self._filled_scalar(node, path, at) if "${" in node.text else node
        if isinstance(node, Items):
            return Items(node.place, [self._filled(item, (*path, i), item.place) for i, item in enumerate(node.nodes)])
        return self._filled_keys(node, path)

    def _filled_keys(self, keys: Keys, path: Path = ()) -> Keys:
        entries = {}
        for name, entry in keys.entries.items():
            if "${" in name:
                self.fault(entry.place, f"`{spelled((*path, name))}`: no variable may stand in a key")
            else:
                node = self._filled(entry.node, (*path, name), entry.place)
                entries[name] = Entry(entry.place, entry.plain, node)
        return Keys(keys.place, entries)

    def _filled_scalar(self, node: Scalar, path: Path, at: Place) -> Scalar:
        refused = node.refused

        def value(found: re.Match[str]) -> str:
            nonlocal refused
            if found[0] == "$${":
                return "${"
            name = found[1]
            if name is not None and name in self.vars:
                return self.vars[name]
            refused = True
            hint = "a `${` that is no variable is written `$${`"
            if name is None or not _VARIABLE_NAME.fullmatch(name):
                self.fault(at, f"`{spelled(path)}`: `{short(found[0])}` is not the name of a variable", hint)
            elif self.whole:
                known = ", ".join(f"`{var}`" for var in sorted(self.vars)) or "none"
                hint = f"declared under `vars`: {known}; {hint}"
                self.fault(at, f"`{spelled(path)}`: no variable `{short(name)}` is declared", hint)
            return found[0]

        text = _VARIABLE.sub(value, node.text)
        self._filled_bytes += len(text)
        if self._filled_bytes > MAX_BYTES:
            if not refused:
                self.fault(
                    at, f"`{spelled(path)}`: with its variables the recipe is longer than {MAX_BYTES} characters"
                )
            text, refused = "", True
        return Scalar(node.place, text, node.plain, filled=True, refused=refused)

    # -- inheritance

    def _merged_keys(self, base: Keys, over: Keys, path: tuple[str, ...]) -> Keys:
        entries = dict(base.entries)
        for name, entry in over.entries.items():
            inherited = entries.get(name)
            here = (*path, name)
            if isinstance(entry.node, Scalar) and entry.node.empty and inherited is not None:
                del entries[name]
            else:
                node = self._merged(inherited.node if inherited else None, entry.node, here)
                entries[name] = Entry(entry.place, entry.plain, node)
        return Keys(over.place if over.entries else base.place, entries)

    def _merged(self, base: Node | None, over: Node, path: tuple[str, ...]) -> Node:
        if isinstance(over, Keys):
            return self._merged_keys(base if isinstance(base, Keys) else Keys(over.place, {}), over, path)
        if not isinstance(over, Items) or path in ONE_VALUE:
            return over
        inherited = list(base.nodes) if isinstance(base, Items) else []
        named: dict[str, list[Node]] = {}
        gone: set[int] = set()
        added = []
        for node in over.nodes:
            if not isinstance(node, Scalar) or not re.match("-.", node.text) or path in FREE_TEXT:
                added.append(node)
                continue
            if not named:
                for item in inherited:
                    for name in _identities(item):
                        named.setdefault(name, []).append(item)
            if found := named.get(node.text[1:]):
                gone.update(id(item) for item in found)
            else:
                hint = "`-name` takes an item out of a list that is inherited by `extends`"
                self.fault(node.place, f"`{spelled(path)}`: `{short(node.text)}` takes nothing out", hint)
        return Items(over.place, [item for item in inherited if id(item) not in gone] + added)


def _identities(node: Node) -> set[str]:
    """Return the names by which an item of an inherited list can be taken out."""
    if isinstance(node, Scalar):
        return {node.text, re.split(r"[=/:]", node.text)[0]} - {""}
    if isinstance(node, Keys):
        for name in _NAMES:
            if name in node.entries and isinstance(found := node.entries[name].node, Scalar):
                return {found.text}
    return set()
