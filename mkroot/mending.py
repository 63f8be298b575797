"""A build that meets a damaged entry of the store removes it and begins again: it is fetched or made anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mkroot.progress import Progress
from mkroot.store.damage import DamageError
from mkroot.store.store import Store

T = TypeVar("T")
LIMIT = 50  # entries that one build mends: with more of them the disk is not to be trusted


def mending(store: Store, progress: Progress, work: Callable[[], T]) -> T:
    """Return what `work` returns, which is done again where it met a damaged entry; raises what it raises.

    The first time, every entry that cannot even be opened goes: power that failed leaves many. An entry that is damaged
    again at once stays an error, for then the disk is at fault.
    """
    met: list[DamageError] = []
    while True:
        try:
            return work()
        except DamageError as e:
            from mkroot.store.verify import discard, torn

            if len(met) >= LIMIT or any(e.entry == before.entry for before in met):
                raise
            if not met:
                for checked in torn(store):
                    discard(store, checked.item.kind, checked.item.path)
            met.append(e)
            discard(store, e.entry.relative_to(store.root).parts[0], e.entry)
            progress.warn(f"{e.entry}: {e.why}; it is removed, and made again")
