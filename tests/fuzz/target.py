"""What a fuzz target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mkroot.errors import MESSAGE_LIMIT, MkrootError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parser under test.

    name: of the parser and of its folder of the corpus. run: takes any bytes; raises MkrootError for what it refuses.
    words: what the format is made of, for mutations. longest: bytes of an input.
    """

    name: str
    run: Callable[[bytes], None]
    words: tuple[bytes, ...] = ()
    longest: int = 4096

    def __call__(self, data: bytes) -> bool:
        """Run it; tell whether the parser took the input. Anything but a refusal gets through."""
        try:
            self.run(data)
        except MkrootError as e:
            assert e.what.strip(), "a refusal without a word"
            assert len(str(e)) <= MESSAGE_LIMIT + 4000
            assert e.what.replace("\n", "").replace("\t", "").isprintable(), "raw control characters in a message"
            return False
        return True
