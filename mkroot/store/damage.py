"""The error for an entry of the store that is not what it was: a disk that errs, or power that failed."""

from __future__ import annotations

from pathlib import Path

from mkroot.errors import StoreError


class DamageError(StoreError):
    """An entry cannot be used. entry: its path; whoever removes it has it fetched or made again (mkroot.mending)."""

    def __init__(self, why: object, entry: Path) -> None:
        """why: what is wrong with it, in a few words."""
        self.why = str(why)
        self.entry = entry
        super().__init__(
            f"a damaged store entry: {why}", where=str(entry), hint="run `mkroot cache verify` to find and mend it"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (DamageError, (self.why, self.entry))
