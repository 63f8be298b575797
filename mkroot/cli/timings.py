"""`mkroot build --timings FILE`: whether the page can be written is told before anything is built."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mkroot.cli.timeline import START, page
from mkroot.errors import ArtifactError, UsageError
from mkroot.progress import Progress, Spans
from mkroot.store.replaced import replace
from mkroot.timings import Section, sections, waits


class Timings:
    """The times of the builds of one command."""

    def __init__(self, given: str, out: Path, progress: Progress) -> None:
        """Have `progress` take times for the page `given`; raises UsageError, ArtifactError where it cannot be one.

        out: the output folder.
        """
        self.path = checked(given, out)
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
        try:
            replace(self.path, page(self.sections).encode(), sync=False)
        except OSError as e:
            raise _unwritable(e.strerror or str(e), self.path) from e


def checked(given: str, out: Path) -> Path:
    """Return the path of a page that may be written.

    A file that is there already is replaced only if it is such a page: a slip of the hand must not cost a recipe.
    """
    path = Path(os.path.realpath(given))
    if given == "-":
        raise UsageError("`--timings -`: the page is a file", hint="name one, such as `--timings timings.html`")
    within = Path(os.path.realpath(out))
    if len(path.parts) > len(within.parts) + 1 and path.is_relative_to(within):
        raise UsageError(
            f"`--timings {given}` lies in a folder of outputs, which a build replaces as a whole",
            hint=f"name a file elsewhere, such as {out / path.name}",
        )
    try:
        foreign = path.exists() and not _replaceable(path)
    except OSError as e:
        raise _unwritable(e.strerror or str(e), Path(given)) from e
    if foreign:
        raise ArtifactError(
            "it is there already and is not a page of timings: it is not replaced",
            where=given,
            hint="name another file with `--timings FILE`",
        )
    if not path.parent.is_dir() and path.parent != within:
        raise _unwritable("its folder is not there", Path(given))
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unwritable("its folder cannot be written to", Path(given))
    return path


def _replaceable(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as f:
        head = f.read(len(START))
    return not head or head == START.encode()


def _unwritable(why: str, where: Path) -> ArtifactError:
    return ArtifactError(
        f"the page of timings cannot be written: {why}",
        where=str(where),
        hint="name another file with `--timings FILE`",
    )


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
