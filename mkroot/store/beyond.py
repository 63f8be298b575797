"""Where else a store's layers may be had, and be kept: its second floor, which is not on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Beyond(Protocol):
    """A second floor. It may fail at any time, of which the user is told; what it gives out is right, or not given."""

    def bring(self, keys: Iterable[str]) -> None:
        """Have those of the layers in the store that it lacks and the second floor has; raises StoreError."""
        ...

    def offer(self, keys: Iterable[str]) -> None:
        """Take note of layers of the store that are to be kept there, too; returns at once."""
        ...

    def begin(self) -> None:
        """Let threads keep there what was offered, and what will be."""
        ...

    def rest(self) -> None:
        """Let no thread be at work until `begin` is called: processes are about to be forked."""
        ...
