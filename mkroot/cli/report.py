"""`mkroot build --report FILE`: the page is written however the run ends."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

import mkroot
from mkroot.cli.failure import tell
from mkroot.cli.page import checked, write
from mkroot.cli.reportpage import PAGE, Run, page
from mkroot.errors import MkrootError
from mkroot.fleet.model import Row


class Report:
    """The rows of one run, and the page of them: `with Report(…) as report: … report.change(index, row)`.

    The page is written at the end, of a run that failed or was interrupted too. failed: it could not be; that was told.
    """

    def __init__(self, given: str, out: Path) -> None:
        """Have the page at the path `given`; raises UsageError, ArtifactError where it cannot be one.

        out: the output folder.
        """
        self.path = checked(PAGE, given, out)
        self.failed = False
        self._rows: dict[int, Row] = {}
        self._begin, self._clock = time.time(), time.monotonic()

    def __enter__(self) -> Report:
        return self

    def change(self, index: int, row: Row) -> None:
        """Take note of what became of a row."""
        self._rows[index] = row

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the page, whole or not at all."""
        run = Run(
            begin=self._begin,
            seconds=time.monotonic() - self._clock,
            version=mkroot.__version__,
            ended="" if error is None else _why(error),
        )
        try:
            write(PAGE, self.path, page([self._rows[n] for n in sorted(self._rows)], run))
        except MkrootError as e:
            tell(e)
            self.failed = True


def _why(error: BaseException) -> str:
    if isinstance(error, MkrootError):
        return f"{error.where}: {error.what}" if error.where else error.what
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else "it was interrupted"
