"""YAML text as a tree of nodes that know their places: YAML 1.2's core, strictly, and nothing of YAML 1.1's surprises.

No value is resolved to a type here: a scalar keeps its text and whether it was quoted, and the key that takes it
decides what it is.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mkroot.errors import RecipeError

MAX_BYTES = 1 << 20  # of a recipe file
MAX_NODES = 50_000  # after aliases are expanded
MAX_DEPTH = 40
_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_CORE + kind for kind in ("str", "int", "float", "bool", "null"))
# YAML 1.2.2, [1] c-printable, less U+FEFF, which is a mark at the beginning and nothing elsewhere
_UNPRINTABLE = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_LINES = str.maketrans("", "", "\t\n\r")

Path = tuple[str | int, ...]  # the keys and numbers that lead to a value


class Place(NamedTuple):
    """Where something stands: a file as it is opened, line and column from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file or '<stdin>'}:{self.line}:{self.column}"


class Scalar:
    """Text.

    plain: not quoted, so that it may mean a number, a truth value or nothing.
    filled: a variable stood in it.
    refused: a fault of it is noted already, and nothing more can be said of it.
    """

    __slots__ = ("filled", "place", "plain", "refused", "text")
    weight = 1  # values that it stands for, with aliases expanded
    height = 0  # levels below it

    def __init__(self, place: Place, text: str, plain: bool, filled: bool = False, refused: bool = False) -> None:
        self.place = place
        self.text = text
        self.plain = plain
        self.filled = filled
        self.refused = refused

    @property
    def empty(self) -> bool:
        """Tell whether it stands for nothing (YAML 1.2.2, 10.2.1.1)."""
        return self.plain and not (self.filled or self.refused) and self.text in ("", "~", "null", "Null", "NULL")


class Items:
    """A list."""

    __slots__ = ("height", "nodes", "place", "weight")

    def __init__(self, place: Place, nodes: list[Node]) -> None:
        self.place = place
        self.nodes = nodes
        self.weight = 1
        self.height = 1


class Entry(NamedTuple):
    """A key of a map and its value. `plain`: the key was not quoted."""

    place: Place
    plain: bool
    node: Node


class Keys:
    """A map."""

    __slots__ = ("entries", "height", "place", "weight")

    def __init__(self, place: Place, entries: dict[str, Entry]) -> None:
        self.place = place
        self.entries = entries
        self.weight = 1
        self.height = 1


Node = Scalar | Items | Keys


def decoded(data: bytes, file: str) -> str:
    """Return the text of a recipe file; raises RecipeError where it is no UTF-8 or holds control characters."""
    if len(data) > MAX_BYTES:
        raise RecipeError(
            f"a recipe has at most {MAX_BYTES} bytes", where=str(Place(file, 1, 1)), hint="put large content into files"
        )
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as e:
        before = e.object[: e.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        where = Place(file, before.count(b"\n") + 1, column)
        raise RecipeError("a recipe is UTF-8 text, and this is not", where=str(where)) from None
    plain = text.isascii() and text.translate(_LINES).isprintable()  # without compiling what follows
    if not plain and (found := re.search(_UNPRINTABLE, text)):
        before_text = text[: found.start()]
        where = Place(file, before_text.count("\n") + 1, found.start() - (before_text.rfind("\n") + 1) + 1)
        raise RecipeError(
            f"a recipe holds no control character, and here is U+{ord(found[0]):04X}",
            where=str(where),
            hint='inside "double quotes" it is written as an escape such as \\x1b',
        )
    return text


def parse(text: str, file: str) -> tuple[Keys | None, list[RecipeError]]:
    """Return the map that the YAML `text` of `file` is, as far as it could be read, and all faults found."""
    import yaml

    loader = getattr(yaml, "CLoader", yaml.SafeLoader)(text)
    composer = _Composer(file, loader)
    try:
        return composer.document(), composer.faults
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        said = ", ".join(part for part in (e.context, e.problem) if part)
        line = text.split("\n")[place.line - 1 : place.line]
        tab = bool(line) and re.match(r" *\t", line[0])
        composer.fault(place, f"this is not YAML: {said}", "indent by spaces, not by tabs" if tab else None)
    except yaml.YAMLError as e:
        composer.fault(Place(file, 1, 1), f"this is not YAML: {e}")
    except _Stop:
        pass
    finally:
        loader.dispose()
    return None, composer.faults


class _Stop(Exception):
    """The rest of the document is not worth reading."""


class _Composer:
    """Makes nodes of the parser's events."""

    def __init__(self, file: str, loader: Any) -> None:
        self.file = file
        self.next = loader.get_event
        self.faults: list[RecipeError] = []
        self.anchors: dict[str, Node | None] = {}

    def fault(self, place: Place, what: str, hint: str | None = None) -> None:
        self.faults.append(RecipeError(what, where=str(place), hint=hint))

    def place(self, event: Any) -> Place:
        mark = event.start_mark
        return Place(self.file, mark.line + 1, mark.column + 1)

    def document(self) -> Keys | None:
        self.next()  # the stream's start
        event = self.next()
        if type(event).__name__ == "StreamEndEvent":
            self.fault(Place(self.file, 1, 1), "the recipe is empty", "`mkroot schema` describes what may stand in it")
            return None
        if event.tags:
            self.fault(self.place(event), "a recipe declares no tags")
        root = self.node(self.next(), 0)
        self.next()  # the document's end
        after = self.next()
        if type(after).__name__ != "StreamEndEvent":
            self.fault(self.place(after), "a recipe is one YAML document, and here a second one begins")
        if isinstance(root, Keys):
            return root
        if root is not None:
            self.fault(root.place, f"a recipe is a map of keys, and this is {kind(root)}")
        return None

    def node(self, event: Any, depth: int) -> Node:
        name = type(event).__name__
        place = self.place(event)
        if name == "AliasEvent":
            return self.alias(event, place)
        if depth > MAX_DEPTH:
            self.too_deep(place)
        if event.anchor:
            self.anchors[event.anchor] = None
        node: Node
        if name == "ScalarEvent":
            known = self.tag(event, place, _SCALAR_TAGS, "scalar")
            plain = not event.style and (event.tag is None or event.tag != _CORE + "str")
            node = Scalar(place, event.value, plain, refused=not known)
        elif name == "SequenceStartEvent":
            self.tag(event, place, {_CORE + "seq"}, "list")
            node = self.items(place, depth)
        else:
            self.tag(event, place, {_CORE + "map"}, "map")
            node = self.keys(place, depth)
        if node.weight > MAX_NODES:
            self.fault(place, f"the aliases of a recipe expand to at most {MAX_NODES} values")
            raise _Stop
        if node.height > MAX_DEPTH:
            self.too_deep(place)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def too_deep(self, place: Place) -> None:
        self.fault(place, f"nothing in a recipe nests deeper than {MAX_DEPTH}")
        raise _Stop

    def tag(self, event: Any, place: Place, known: frozenset[str] | set[str], what: str) -> bool:
        if event.tag is None or event.tag in known:
            return True
        tag = event.tag.replace(_CORE, "!!")
        self.fault(place, f"the tag `{tag}` has no meaning on a {what} of a recipe", "leave the tag out")
        return False

    def alias(self, event: Any, place: Place) -> Node:
        if event.anchor not in self.anchors:
            self.fault(place, f"`*{event.anchor}` stands for nothing: no `&{event.anchor}` comes before it")
            return Scalar(place, "", plain=True, refused=True)
        node = self.anchors[event.anchor]
        if node is None:
            self.fault(place, f"`*{event.anchor}` contains itself")
            raise _Stop
        return node

    def items(self, place: Place, depth: int) -> Items:
        result = Items(place, [])
        while type(event := self.next()).__name__ != "SequenceEndEvent":
            node = self.node(event, depth + 1)
            result.nodes.append(node)
            result.weight += node.weight
            result.height = max(result.height, node.height + 1)
        return result

    def keys(self, place: Place, depth: int) -> Keys:
        result = Keys(place, {})
        while type(event := self.next()).__name__ != "MappingEndEvent":
            key_place = self.place(event)
            key = self.node(event, depth + 1)
            node = self.node(self.next(), depth + 1)
            result.weight += node.weight + 1
            result.height = max(result.height, node.height + 1)
            if not isinstance(key, Scalar):
                self.fault(key_place, f"a key is text, and this is {kind(key)}")
            elif key.text in result.entries:
                first = result.entries[key.text].place.line
                self.fault(key_place, f"the key `{key.text}` stands twice, first in line {first}")
            else:
                result.entries[key.text] = Entry(key_place, key.plain, node)
        return result


# What YAML 1.1 (and so most programs that read YAML) makes of text without quotes, and YAML 1.2 where it differs
_NOTHING = frozenset(("", "~", "null", "Null", "NULL"))
_TRUTH = frozenset(
    form
    for word in ("y", "yes", "n", "no", "true", "false", "on", "off")
    for form in (word, word.title(), word.upper())
)
_NUMBERS = (
    ("a number", r"[-+]?(?:0b[01_]+|0o[0-7]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)"),
    ("a number", r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*\.[0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"),
    ("a number", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
    ("a number to base 60", r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"),
    ("a date", r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}.*)?"),
)


def read_as(text: str) -> str | None:
    """Return what YAML reads in `text` where it is not quoted, or None where that is the text itself."""
    if text in _NOTHING:
        return "nothing"
    if text in _TRUTH:
        return "a truth value"
    if text[0] in "0123456789+-.":
        for what, pattern in _NUMBERS:
            if re.fullmatch(pattern, text):
                return what
    return None


def kind(node: Node) -> str:
    """Return what `node` is, in words for a message."""
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Keys):
        return "a map"
    if not node.plain or node.filled:
        return "text"
    return read_as(node.text) or "text"


def spelled(path: Path) -> str:
    """Return a key's path as people write it: `config.users[2].uid`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.endswith("[]"):
            text += f".{part}" if text else part
        else:
            plain = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += (f".{part}" if text else part) if plain else f'["{short(part)}"]'
    return text


def short(text: str, limit: int = 60) -> str:
    """Return `text` on one line of at most `limit` characters, for a message."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.replace("\n", "\\n").replace("\t", "\\t")
