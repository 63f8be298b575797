"""Files that a command writes whole or not at all, and `-` for standard input and output."""

from __future__ import annotations

import contextlib
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mkroot.errors import UsageError
from mkroot.store.replaced import replacing


class Whole:
    """A file that takes every byte that it is given."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`, which an unbuffered file may take in parts; raises OSError."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        return len(data)


@contextlib.contextmanager
def target(path: str) -> Iterator[Whole]:
    """Yield what is written to a file, or to standard output for `-`; raises UsageError for a terminal, OSError.

    A file takes its name when it is complete and on disk; until then an older one stands. A pipe or a device is written
    to as it is.
    """
    if path == "-":
        if sys.stdout.isatty():
            raise UsageError("an archive is not written to a terminal", hint="name a file, or send it to a program")
        sys.stdout.flush()
        yield Whole(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    if not path:
        raise UsageError("the name of the file is empty", hint="`-` is standard output")
    place = Path(path)
    if place.exists() and not stat.S_ISREG(place.stat().st_mode) and not place.is_dir():
        with open(place, "wb", buffering=0) as device:
            yield Whole(device)
        return
    if place.is_dir():
        raise IsADirectoryError(21, "it is a folder", path)
    with replacing(place.resolve()) as f:
        yield Whole(f)
