"""Looks at the archives of many recipes, at each of them once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from mkroot.archive.http import Http
from mkroot.archive.source import Source
from mkroot.errors import MirrorError
from mkroot.origins import Origin
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe
from mkroot.sources import Archive, local_packages, look
from mkroot.store.store import Store


class Looking(Protocol):
    """What `mkroot.sources.look` does."""

    def __call__(
        self,
        store: Store,
        recipe: Recipe,
        found: Origin,
        *,
        http: Http,
        offline: bool,
        allow_expired: bool,
        not_before: dict[tuple[str, str], int],
        environ: Mapping[str, str],
        progress: Progress,
    ) -> Archive:
        """See `mkroot.sources.look`."""
        ...


class Looks:
    """What the archives had when they were asked first, for as long as a run lasts.

    One that did not answer is not asked again either: thirty recipes wait for a silent mirror once. What is not to be
    trusted may be so for one lock alone, which knows better, and is asked for again.
    """

    def __init__(self) -> None:
        self._known: dict[object, Archive | MirrorError] = {}

    def __call__(
        self,
        store: Store,
        recipe: Recipe,
        found: Origin,
        *,
        http: Http,
        offline: bool,
        allow_expired: bool,
        not_before: dict[tuple[str, str], int],
        environ: Mapping[str, str],
        progress: Progress,
    ) -> Archive:
        """Return what `mkroot.sources.look` does, with the same arguments, and raise what it raises."""

        def ask() -> Archive:
            return look(
                store,
                recipe,
                found,
                http=http,
                offline=offline,
                allow_expired=allow_expired,
                not_before=not_before,
                environ=environ,
                progress=progress,
            )

        key = (str(recipe.snapshot or ""), offline, allow_expired, *map(_place, found.sources))
        known = self._known.get(key)
        if known is None:
            try:
                known = ask()
            except MirrorError as e:
                known = e
            self._known[key] = known
        if not isinstance(known, Archive):
            raise known
        if any(s.date < not_before.get((s.source, s.suite), 0) for s in known.suites):
            return ask()  # tells it, unless the mirror has caught up meanwhile
        return msgspec.structs.replace(known, local=tuple(local_packages(store, recipe)))


def _place(source: Source) -> object:
    """Return all that decides what a look at a source gives."""
    ring = source.keyring
    keys = None if ring is None else (ring.name, tuple(c.fingerprint for c in ring.certificates))
    suites = tuple((s.name, s.archive.url, s.archive.user, s.archive.password, s.base) for s in source.suites)
    return source.id, suites, source.components, source.architectures, keys
