"""A store with its second floor, for the time of some work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mkroot.archive import config
from mkroot.remote.account import settings

if TYPE_CHECKING:
    from mkroot.progress import Progress
    from mkroot.remote.layers import RemoteLayers
    from mkroot.remote.results import Result
    from mkroot.store.store import Store


@contextmanager
def attached(store: Store, environ: Mapping[str, str], progress: Progress) -> Iterator[None]:
    """Have a store ask the remote store that is configured for what it lacks, and keep there what is made.

    On a clean end it waits until all is there, or the remote store has failed; on an error it waits for nothing.
    Without a configured one, and in a store that has one already, it does nothing. Raises StoreError where it is
    configured wrongly, RecipeError for a wrong configuration.
    """
    found = settings(environ, config.load(environ), progress.warn) if store.beyond is None else None
    if found is None:
        yield
        return
    from mkroot.remote.layers import RemoteLayers

    floor = RemoteLayers(store, found, environ, progress)
    store.beyond = floor
    try:
        yield
        floor.flush()
    finally:
        store.beyond = None
        floor.close()


def remote_of(store: Store) -> RemoteLayers | None:
    """Return a store's second floor, None where it has none."""
    if store.beyond is None:
        return None
    from mkroot.remote.layers import RemoteLayers

    return store.beyond if isinstance(store.beyond, RemoteLayers) else None


def result(store: Store, key: str) -> Result | None:
    """Return the record of the build with these inputs, None where the store's second floor has none.

    key: as `mkroot.making` has it. The store has its second floor (`attached`).
    """
    floor = remote_of(store)
    if floor is None:
        return None
    from mkroot.remote.restoring import look

    found = look(floor, store, key)
    return None if found is None else found.result
