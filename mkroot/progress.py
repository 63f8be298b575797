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


class Span(msgspec.Struct, frozen=True):
    """A piece of work. lane: who did it. kind: what work it was; name: upon what. size: bytes, 0 where it has none.

    begin, end: seconds by the monotonic clock, which is one for all processes of a machine.
    """

    lane: str
    kind: str
    name: str
    begin: float
    end: float
    size: int = 0


class Spans(list[Span]):
    """Collects spans, from several threads."""

    def note(self, lane: str, kind: str, name: str, begin: float, size: int = 0) -> None:
        """Add one that ends now."""
        self.append(Span(lane, kind, name, begin, time.monotonic(), size))


class Following:
    """Follows scripts that run one after the other: called with what begins, and with "" when the last one has ended.

    A step that counts packages counts those whose last script begins: `NAME postinst` and `NAME triggers`.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._what = ""
        self._begin = 0.0

    def __call__(self, what: str) -> None:
        """Note that a script begins, and that the one before has ended."""
        if self._what and self._progress.spans is not None:
            self._progress.spans.note("scripts", "script", self._what, self._begin)
        self._what, self._begin = what, time.monotonic()
        if what:
            self._progress.advance(int(what.endswith((" postinst", " triggers"))), what)


class Progress:
    """Receives a build's steps; this one keeps them and shows nothing.

    spans: set before a build begins, takes what was done when; None, as by default: nobody measures it. arrived: bytes
    of each package that was fetched.
    """

    MAIN = "main"  # the lane of the process that builds

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.spans: Spans | None = None
        self.arrived: list[int] = []
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
            if self.spans is not None:
                self.spans.note(self.MAIN, "step", name, start)
            self.end(step)

    @contextmanager
    def timed(self, kind: str, name: str, lane: str = MAIN) -> Iterator[None]:
        """Frame a piece of work that is no step of its own, for `spans`."""
        start = time.monotonic()
        try:
            yield
        finally:
            if self.spans is not None:
                self.spans.note(lane, kind, name, start)

    def begin(self, name: str, total: int | None, unit: str) -> None:
        """A step begins; `total` units are to come, None where that is not known."""

    def advance(self, amount: int, item: str = "") -> None:
        """`amount` units more are done; `item` is the last one's name."""

    def end(self, step: Step) -> None:
        """A step has ended."""

    def warn(self, line: str) -> None:
        """Something that the user should know, though the build goes on."""
