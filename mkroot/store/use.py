"""Who works in a store at this moment, and who must wait until nobody does; unfinished work that was left in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mkroot.errors import StoreError
from mkroot.store.store import Store


@contextlib.contextmanager
def using(store: Store) -> Iterator[None]:
    """Keep `prune` and `sweep` away while the store is worked in; those who work in it do not wait for each other.

    What killed or interrupted work left in `tmp/` is removed, before and after, unless somebody else is at work.
    """
    sweep(store)
    try:
        with store.lock("store", "in-use", shared=True):
            yield
    finally:
        sweep(store)


def sweep(store: Store) -> None:
    """Remove unfinished work where nobody uses the store; what cannot be removed stays for `prune` to tell."""
    with contextlib.suppress(StoreError, OSError):
        left = os.listdir(store.root / "tmp")
        if left:
            with alone(store):
                for name in left:
                    remove(store.root / "tmp" / name)


def remove(path: Path) -> None:
    """Remove an entry; raises StoreError."""
    try:
        if path.is_dir() and not path.is_symlink():
            import shutil

            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as e:
        raise StoreError(
            f"a store entry cannot be removed: {e.strerror}",
            where=str(e.filename or path),
            hint="it may belong to another user; run mkroot as the one who made it",
        ) from e


def idle(store: Store) -> bool:
    """Tell whether nobody uses the store at this moment; raises OSError."""
    try:
        with alone(store):
            return True
    except StoreError:
        return False


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """Hold off builds; raises StoreError where one is running."""
    with store.lock_if_free("store", "in-use") as mine:
        if not mine:
            raise StoreError(
                "a build is using the store", where=str(store.root), hint="try again when the build has ended"
            )
        yield
