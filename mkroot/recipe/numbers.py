"""Modes, sizes, levels and times of a recipe: numbers that are written as text."""

from __future__ import annotations

import re
from typing import ClassVar, Self

from mkroot.recipe.values import Refused


class Mode(int):
    """Permission bits, written in octal between quotes."""

    __slots__ = ()
    pattern: ClassVar[str] = r"0?[0-7]{3,4}"
    expected: ClassVar[str] = 'an octal mode between quotes, such as "0644"'
    numbers: ClassVar[bool] = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the permission bits that the octal digits of `text` say; raises Refused."""
        if re.fullmatch(cls.pattern, text, re.ASCII) is None or int(text, 8) > 0o7777:
            raise Refused(f"expected {cls.expected}")
        return cls(int(text, 8))

    def __str__(self) -> str:
        return f"{int(self):04o}"


class Size(int):
    """A number of bytes; K, M, G and T are powers of 1,024."""

    __slots__ = ()
    pattern: ClassVar[str] = r"[0-9]{1,15}(?:\.[0-9]{1,3})?(?:[KMGT](?:i?B)?)?"
    expected: ClassVar[str] = "a size such as `180M` or `2G` (K, M, G and T are powers of 1,024)"
    numbers: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the number of bytes that `text` says; raises Refused."""
        found = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?([KMGT]?)(?:iB)?", text, re.ASCII)
        if found is None or (found[2] and not found[3]) or (text.endswith("iB") and not found[3]):
            decimal = re.fullmatch(r"([0-9.]+) ?([kKMGT])[bB]?", text, re.ASCII)
            raise Refused(f"expected {cls.expected}", f"write `{decimal[1]}{decimal[2].upper()}`" if decimal else None)
        factor: int = 1024 ** " KMGT".index(found[3] or " ")
        fraction = found[2] or ""
        size = int(found[1] + fraction) * factor // 10 ** len(fraction)
        if not 0 < size < 1 << 60:
            raise Refused(f"expected {cls.expected}, more than nothing")
        return cls(size)

    def __str__(self) -> str:
        return str(int(self))


class DiskSize(Size):
    """The size of a disk in bytes; 0 where it is to fit what the disk holds."""

    __slots__ = ()
    pattern = rf"minimal|{Size.pattern}"
    expected = "`minimal` or a size such as `2G`"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(0) if text == "minimal" else super().parse(text)

    def __str__(self) -> str:
        return super().__str__() if self else "minimal"


class Level(int):
    """How hard a compressor tries; 0 where it is to try its hardest."""

    __slots__ = ()
    pattern: ClassVar[str] = r"best|[1-9][0-9]?"
    expected: ClassVar[str] = "`best` or a level such as `9`"
    numbers: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the level that `text` says; raises Refused."""
        if re.fullmatch(cls.pattern, text, re.ASCII) is None:
            raise Refused(f"expected {cls.expected}")
        return cls(0 if text == "best" else int(text))

    @classmethod
    def advice(cls, text: str) -> str:
        """Return what to write in place of a number that is no level."""
        return "the levels begin with 1, and `best` is the highest"

    def __str__(self) -> str:
        return str(int(self)) if self else "best"


class Duration(int):
    """A number of seconds."""

    __slots__ = ()
    pattern: ClassVar[str] = r"[0-9]{1,7}[smh]?"
    expected: ClassVar[str] = "a time in seconds such as `120`, or `90s`, `5m`, `1h`"
    numbers: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the number of seconds that `text` says; raises Refused."""
        if re.fullmatch(cls.pattern, text, re.ASCII) is None:
            raise Refused(f"expected {cls.expected}")
        seconds = int(text.rstrip("smh")) * {"m": 60, "h": 3600}.get(text[-1], 1)
        if not 0 < seconds <= 86_400:
            raise Refused("expected a time between one second and a day")
        return cls(seconds)

    def __str__(self) -> str:
        return str(int(self))
