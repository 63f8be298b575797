"""One pass over the text of a `Packages` index: what its table is made of.

Speed decides how this is written: an index has a million lines, and what Python does for each of them costs more than
to unpack it. So one expression finds the fields of a whole chunk, and dictionaries, sorting and joining do the rest.
"""

from __future__ import annotations

import marshal
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

from mkroot.debian.package import PRIORITIES
from mkroot.errors import TrustError
from mkroot.resolve.universe import MENTIONS

NAMED_PRIORITIES = tuple(p.encode() for p in PRIORITIES[:3])

# The fields that count, in the order in which apt reads them. The name of one that follows an empty line begins with
# a newline; an empty line before anything else is found as an empty name.
_NAMES = ("Package", *(name.title() for name in MENTIONS), "Essential", "Protected", "Important", "Priority")
_WANTED = {
    **dict.fromkeys(_NAMES, ""),
    **dict.fromkeys(("Essential", "Protected", "Important"), "(?=: yes)"),
    "Priority": rf"(?=: [^\S\n]{{0,3}}(?:{'|'.join(PRIORITIES[:3])}))",
}
_FIELD = re.compile(
    rf"\n(?:(\n?+(?:{'|'.join(name + more for name, more in _WANTED.items())})):(.*+(?:\n[ \t].*+)*+)|(?=\n))".encode()
)
_BLOCK = 4 << 10  # bytes that a block of stanzas has at least
_ROOM = 16  # numbers that a stanza's fields have
_PROVIDES, _MARK, _PRIORITY, _NOTHING = len(MENTIONS), len(MENTIONS) + 1, len(MENTIONS) + 4, _ROOM - 1
_NUMBERS = {
    **{name.encode(): n for n, name in enumerate(_NAMES)},
    **{b"\n" + name.encode(): _ROOM + n for n, name in enumerate(_NAMES)},
    b"": _ROOM + _NOTHING,
}
_TARGET = re.compile(rb"(?:^|[,|])[ \t\n]*([^ \t\n,|(\[<]+)")
_EQUAL = bytes.maketrans(b"|\t\n", b",  ")  # what means the same to _TARGET; then an expression with a fixed start,
_SIMPLE_TARGET = re.compile(rb", *([^ ,(\[<]+)")  # which is found three times as fast, finds the same
_SPACE = b" \t\r\v\f"
_PLAIN_NAMES = re.compile(rb"(?:[^ \t\n,|(\[<]++,)*+")


def whole(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the text of `blocks` in pieces that end where a stanza ends; newlines alone are left out at the end."""
    parts: list[bytes] = []
    for block in blocks:
        end = block.rfind(b"\n\n") + 2
        if end == 1:
            end = int(bool(parts) and parts[-1].endswith(b"\n") and block.startswith(b"\n"))
        if end:
            yield b"".join([*parts, block[:end]])
            parts = []
        if len(block) > end:
            parts.append(block[end:])
    rest = b"".join(parts)
    if rest.strip(b"\n"):
        yield rest


class Scan:
    """What is known of the stanzas read so far, which are numbered from 0.

    names: of each stanza's package. provided, providers: the names that Provides fields have, and by whose stanza, in
    the text's order. heard: the names in the order in which they are first mentioned. marked: those with a stanza that
    is Essential, Protected or Important. priorities: those with a stanza of each of the first three priorities.
    starts, firsts, sums: of each block of stanzas the offset in the text, the first stanza, and the CRC-32; a block
    ends where the next begins, the last one at `end`.
    """

    def __init__(self, where: str, offset: int = 0) -> None:
        """Begin at byte `offset` of the index that errors call `where`."""
        self.where = where
        self.names: list[bytes] = []
        self.provided: list[bytes] = []
        self.providers = array("I")
        self.heard: dict[bytes, None] = {}
        self.marked: dict[bytes, None] = {}
        self.priorities: dict[bytes, dict[bytes, None]] = {p: {} for p in NAMED_PRIORITIES}
        self.starts, self.firsts, self.sums = array("I"), array("I"), array("I")
        self.end = offset

    def read(self, text: bytes) -> None:
        """Take in the text that follows, which ends where a stanza ends; raises TrustError for one without a name."""
        fields: dict[int, bytes] = {}
        at = 0
        for name, value in _FIELD.findall(b"\n\n" + text):
            number = at + _NUMBERS[name]
            at = number & -_ROOM
            if number not in fields:  # of a field given twice the first one counts
                fields[number] = value
        first = [n for n in range(0, at + _ROOM, _ROOM) if n in fields]
        if at // _ROOM == len(first) + text.endswith(b"\n\n"):
            self._blocks(text)
        else:  # a stanza without a name, or more newlines than need be
            self._oddly(text)
        start = len(self.names)
        names = [fields[n].strip(_SPACE) for n in first]
        joined = b",".join([*names, b""])
        plain = joined.count(b",") == len(names) and _PLAIN_NAMES.fullmatch(joined) is not None
        if not plain:
            names = [fields[n].partition(b"\n")[0].strip() for n in first]
        fields.update(zip(first, names, strict=True))
        self.names += names
        order = sorted(fields)
        for number in [n for n in order if n % _ROOM >= _PROVIDES]:
            self._note(number % _ROOM, fields[number], start + bisect_right(first, number) - 1)
            if number % _ROOM != _PROVIDES:
                fields[number] = b""
        self.heard.update(dict.fromkeys(_mentions(fields, order, plain)))

    def _blocks(self, text: bytes) -> None:
        """Note where the stanzas of a text lie that has two newlines between any two."""
        at, stanza = 0, len(self.names)
        while at < len(text):
            after = text.find(b"\n\n", at + _BLOCK) + 2
            after = len(text) if after == 1 else after
            self._block(stanza, at, text[at:after])
            stanza += text.count(b"\n\n", at, after)
            at = after
        self.end += len(text)

    def _oddly(self, text: bytes) -> None:
        """Note where the stanzas of any text lie."""
        at, stanza, blocks = 0, len(self.names), [0]
        for part in text.split(b"\n\n"):
            if bare := part.strip(b"\n"):
                if b"\nPackage:" not in b"\n" + bare:
                    offset = self.end + at + part.index(bare[:1])
                    raise TrustError(f"a stanza at byte {offset} of the index names no package", where=self.where)
                blocks.append(at)
            at += len(part) + 2
        del blocks[1:2]  # what comes before the first stanza belongs to its block
        for start, after in pairwise([*blocks, len(text)]):
            self._block(stanza, start, text[start:after])
            stanza += 1
        self.end += len(text)

    def _block(self, stanza: int, at: int, text: bytes) -> None:
        self.starts.append(self.end + at)
        self.firsts.append(stanza)
        self.sums.append(zlib.crc32(text))

    def _note(self, kind: int, value: bytes, number: int) -> None:
        if kind == _PROVIDES:
            found = [name.partition(b":")[0] for name in dict.fromkeys(_TARGET.findall(value))]
            self.provided += found
            self.providers.extend([number] * len(found))
        elif kind == _PRIORITY:
            word = value[1:11].partition(b"\n")[0].strip()
            if word in self.priorities:
                self.priorities[word][self.names[number]] = None
        elif kind != _NOTHING:
            self.marked[self.names[number]] = None

    def dump(self) -> bytes:
        """Return it for `extend` in another process."""
        arrays = (self.starts, self.firsts, self.sums, self.providers)
        named = (self.names, self.provided, list(self.heard), list(self.marked))
        priorities = [list(self.priorities[p]) for p in NAMED_PRIORITIES]
        return marshal.dumps((*(a.tobytes() for a in arrays), *named, priorities, self.end))

    def extend(self, dumped: bytes) -> None:
        """Take in what another process read of the text that follows."""
        starts, firsts, sums, providers, names, provided, heard, marked, priorities, self.end = marshal.loads(dumped)
        number = len(self.names)
        self.starts.frombytes(starts)
        self.firsts.extend([number + n for n in array("I", firsts)])
        self.sums.frombytes(sums)
        self.providers.extend([number + n for n in array("I", providers)])
        self.names += names
        self.provided += provided
        self.heard.update(dict.fromkeys(heard))
        self.marked.update(dict.fromkeys(marked))
        for priority, theirs in zip(NAMED_PRIORITIES, priorities, strict=True):
            self.priorities[priority].update(dict.fromkeys(theirs))


def _mentions(fields: dict[int, bytes], order: list[int], plain: bool) -> list[bytes]:
    """Return the names that the stanzas mention, in apt's order: a stanza's own first, then those of its relations.

    plain: the stanzas' own names have nothing that means something in a relation.
    """
    if plain:
        return _SIMPLE_TARGET.findall(b",".join([b"", *map(fields.__getitem__, order)]).translate(_EQUAL))
    wild: list[bytes] = []  # a name that is none is to be taken as it is written
    for number in order:
        wild += _TARGET.findall(fields[number]) if number % _ROOM else [fields[number]]
    return wild
