"""Where packages are unpacked for a union: in memory for the time of a build, or in the store."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec


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
        aside = Path(tempfile.mkdtemp(prefix=".new.", dir=final.parent))
        try:
            yield aside / "tree"
            with contextlib.suppress(OSError) if final.exists() else contextlib.nullcontext():
                os.rename(aside / "tree", final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
