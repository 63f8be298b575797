"""Where packages are unpacked for a union: in memory for the time of a build, or in the store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mkroot.store.store import clear, put


class Trees(msgspec.Struct, frozen=True):
    """A folder of unpacked trees by the key of their layer; each is there whole or not at all.

    kept: it outlives the build. In memory it does not, and what a later build needs is made from the frames again.
    """

    folder: Path
    kept: bool = True

    def path(self, key: str) -> Path:
        """Return where a layer's tree is, or would be."""
        return self.folder / key[:2] / key

    def has(self, key: str) -> bool:
        """Tell whether it is there."""
        return self.path(key).exists()

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield a new folder's path; what the caller makes there becomes the tree on a clean exit."""
        final = self.path(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = final.parent / f".new.{os.urandom(8).hex()}"
        try:
            yield aside
            put(aside, final)
        finally:
            clear(aside)
