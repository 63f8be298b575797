"""What a running build tells whoever watches it. The command line shows it; a library caller may leave it silent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec


class Step(msgspec.Struct, frozen=True):
    """A finished step. seconds: wall clock. cached: nothing had to be made. note: what it did, a few words."""

    name: str
    seconds: float
    cached: bool
    note: str


class Progress:
    """Receives a build's steps; this one keeps them and shows nothing."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.cached = False
        self.result = ""

    @contextmanager
    def step(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Progress]:
        """Frame a step: `with progress.step("fetch", total=bytes, unit="B") as p: … p.advance(n, item)`.

        Inside, `p.cached = True` says that the store had it, and `p.result` is a few words on what was done.
        """
        self.cached, self.result = False, ""
        self.begin(name, total, unit)
        start = time.monotonic()
        try:
            yield self
        finally:
            step = Step(name, time.monotonic() - start, self.cached, self.result)
            self.steps.append(step)
            self.end(step)

    def begin(self, name: str, total: int | None, unit: str) -> None:
        """A step begins; `total` units are to come, None where that is not known."""

    def advance(self, amount: int, item: str = "") -> None:
        """`amount` units more are done; `item` is the last one's name."""

    def end(self, step: Step) -> None:
        """A step has ended."""

    def warn(self, line: str) -> None:
        """Something that the user should know, though the build goes on."""
