"""Version numbers, ordered exactly as dpkg orders them."""

from __future__ import annotations

import functools
import re

from mkroot.errors import PackageError

_FORM = re.compile(r"(?:(\d+):)?(\d[A-Za-z0-9.+~:-]*?)(?:-([A-Za-z0-9.+~]+))?", re.ASCII)
_PART = re.compile(r"(\D*)(\d*)", re.ASCII)
_EPOCH_LIMIT = 2**31 - 1  # dpkg keeps the epoch in an int
_END = "\x02"  # sorts after "~" and before every other character


def _weights() -> dict[int, str]:
    """Map each character so that plain comparison gives Policy's order: `~`, end, letters, everything else."""
    table = {code: chr(0x100 + code) for code in range(0x21, 0x7F) if not chr(code).isalpha()}
    return table | {ord("~"): "\x01"}


_WEIGHTS = _weights()

PartKey = tuple[str | int, ...]
Key = tuple[int, PartKey, PartKey]


def _part_key(text: str) -> PartKey:
    key: list[str | int] = []
    for letters, digits in _PART.findall(text or "0"):  # an empty part equals "0" (deb-version(7))
        if letters or digits:
            key += (letters.translate(_WEIGHTS) + _END, int(digits[:4000] or 0))
    key.append(_END)
    return tuple(key)


@functools.lru_cache(maxsize=1 << 17)
def version_key(text: str) -> Key:
    """Return a key that sorts as dpkg sorts versions (Policy 5.6.12), of any text, valid version or not."""
    epoch, colon, rest = text.partition(":")
    number = 0
    if colon and epoch.isascii() and epoch.isdigit():
        number = int(epoch.lstrip("0")[:20] or 0)
    else:
        rest = text
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return number, _part_key(upstream), _part_key(revision)


def compare(a: str, b: str) -> int:
    """Return -1, 0 or 1 as version `a` is older than, equal to or newer than `b`."""
    if a == b:
        return 0
    left, right = version_key(a), version_key(b)
    return (left > right) - (left < right)


@functools.total_ordering
class Version:
    """A valid version number (Policy 5.6.12): comparable and hashable by dpkg's order, `str()` gives it as written."""

    __slots__ = ("_key", "text")

    text: str

    def __init__(self, text: str) -> None:
        """Read `text`; raises PackageError where it is no version."""
        match = _FORM.fullmatch(text)
        if match is None or text.endswith("-") or len(text) > 4000 or int(match[1] or 0) > _EPOCH_LIMIT:
            raise PackageError(
                f"not a version number: {text[:200]!r}",
                hint="a version is [epoch:]upstream[-revision], where upstream starts with a digit (Policy 5.6.12)",
            )
        if match[1] is None and ":" in match[2]:
            raise PackageError(f"not a version number, its epoch is no number: {text[:200]!r}")
        if match[3] is None and "-" in match[2]:  # what follows the last hyphen is a revision, and this is none
            raise PackageError(f"not a version number, its revision has other characters: {text[:200]!r}")
        self.text = text
        self._key = version_key(text)

    @property
    def epoch(self) -> int:
        """The epoch, 0 where none is written."""
        return self._key[0]

    @property
    def upstream(self) -> str:
        """The upstream version, without epoch and revision."""
        rest = self.text.partition(":")[2] if ":" in self.text else self.text
        return rest.rpartition("-")[0] if "-" in rest else rest

    @property
    def revision(self) -> str:
        """The Debian revision, "" where there is none."""
        return self.text.rpartition("-")[2] if "-" in self.text else ""

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Version({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Version) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._key < other._key if isinstance(other, Version) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)
