"""Which of many builds the remote store has: asked before anything is begun for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from mkroot.archive import config
from mkroot.remote.account import settings

if TYPE_CHECKING:
    from mkroot.store.store import Store

ASKED = 16  # builds that are asked for at once


def known(store: Store, environ: Mapping[str, str], keys: Iterable[str], warn: Callable[[str], None]) -> set[str]:
    """Return those of the builds with these inputs that the remote store says it has; none where there is no such.

    keys: as `mkroot.making` has them. warn: called with a line where the remote store cannot be asked. What it says is
    no promise: whoever brings such a build makes it where not all of it is there. Raises StoreError and RecipeError for
    a remote store that is configured wrongly.
    """
    wanted = list(dict.fromkeys(keys))
    found = settings(environ, config.load(environ), warn) if wanted else None
    if found is None:
        return set()
    from mkroot.remote.crew import each
    from mkroot.remote.entries import READ, Remote
    from mkroot.remote.seal import RESULT, tag_of

    remote = Remote(found, store, environ, warn)
    there: set[str] = set()

    def ask(key: str) -> None:
        if remote.trying(READ, tag_of(RESULT, key), lambda: remote.find(RESULT, key)) is not None:
            there.add(key)

    try:
        each(wanted, ask, ASKED)
    finally:
        remote.close()
    return there
