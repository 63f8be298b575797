"""`mkroot build --timings FILE`: whether the page can be written is told before anything is built."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mkroot.cli.page import checked, write
from mkroot.cli.timeline import PAGE, page
from mkroot.progress import Progress, Spans
from mkroot.timings import Section, sections, waits


class Timings:
    """The times of the builds of one command."""

    def __init__(self, given: str, out: Path, progress: Progress) -> None:
        """Have `progress` take times for the page `given`; raises UsageError, ArtifactError where it cannot be one.

        out: the output folder.
        """
        self.path = checked(PAGE, given, out)
        self.sections: list[Section] = []
        self._spans = progress.spans = Spans()

    @contextmanager
    def of(self, recipe: str) -> Iterator[list[Section]]:
        """Frame the builds of a recipe, failed ones too; the list yielded has its sections afterwards."""
        begin, first = time.monotonic(), len(self._spans)
        found: list[Section] = []
        note = ""
        try:
            yield found
        except Exception as e:
            note = f"failed: {getattr(e, 'what', None) or e or type(e).__name__}"
            raise
        finally:
            found += sections(recipe, begin, time.monotonic(), self._spans[first:], note)
            self.sections += found

    def write(self) -> None:
        """Write the page, whole or not at all; raises ArtifactError."""
        write(PAGE, self.path, page(self.sections))


def described(section: Section) -> dict[str, object]:
    """Return a section for JSON: seconds from its begin on."""
    return {
        "seconds": round(section.seconds, 6),
        "waited": [{"for": what, "seconds": round(n, 6)} for what, n in waits(section)],
        "spans": [
            {
                "lane": s.lane,
                "kind": s.kind,
                "name": s.name,
                "begin": round(s.begin - section.begin, 6),
                "end": round(s.end - section.begin, 6),
                "bytes": s.size,
            }
            for s in sorted(section.spans, key=lambda s: (s.begin, s.end))
        ],
    }
