"""Remembers which repositories of a registry had which blobs, to mount them from there; a hint, which may be wrong."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable

import msgspec

from mkroot.decoding import from_json
from mkroot.errors import StoreError
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store

KIND = "registries"
BLOBS = 5000  # remembered of a registry, the newest
REPOSITORIES = 3  # of a blob


class Seen:
    """What is remembered of one registry."""

    def __init__(self, store: Store, host: str) -> None:
        """Read it; what cannot be read was not worth much."""
        self._store = store
        self._path = store.path(KIND, hashlib.sha256(host.encode()).hexdigest())
        self._blobs: dict[str, list[str]] = {}
        with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
            self._blobs = from_json(opened(self._path.read_bytes()), dict[str, list[str]])

    def elsewhere(self, digest: str, repository: str) -> list[str]:
        """Return other repositories that had a blob, the newest first."""
        return [r for r in reversed(self._blobs.get(digest, ())) if r != repository]

    def remember(self, repository: str, digests: Iterable[str]) -> None:
        """Note that a repository has these blobs."""
        for digest in digests:
            known = [r for r in self._blobs.pop(digest, ()) if r != repository]
            self._blobs[digest] = [*known, repository][-REPOSITORIES:]
        for digest in list(self._blobs)[:-BLOBS]:
            del self._blobs[digest]
        data = sealed(msgspec.json.encode(self._blobs))
        with contextlib.suppress(OSError, StoreError), self._store.writing(KIND, self._path.name, sync=False) as aside:
            aside.write_bytes(data)
            self._path.unlink(missing_ok=True)
