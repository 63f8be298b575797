"""Entries of a remote store, found, fetched and put; a registry that is down or lies costs a bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mkroot.errors import ImageError, MkrootError, StoreError
from mkroot.oci.model import Descriptor
from mkroot.oci.registry.download import download
from mkroot.oci.registry.refusal import RefusedError, UnansweredError
from mkroot.oci.registry.registry import Registry
from mkroot.oci.registry.repository import Repository
from mkroot.oci.registry.upload import SENT, upload
from mkroot.remote.account import Settings
from mkroot.remote.seal import EMPTY, NOTHING, opened_manifest, sealed_manifest, tag_of
from mkroot.store.store import Store

ROW = 3  # entries that fail in a row before the remote store is left alone
ATTEMPTS, TIMEOUT = 2, 10.0  # of a build that can do without: tries, and seconds without a byte
PATIENCE = 60.0  # seconds that a strict build waits for a registry to come back
PAUSE = 2.0  # seconds between its attempts
SAME = 3  # times that an entry is put whose blobs are there, and then are not;
SHORT = 0.5  # … seconds between them
READ, WRITE = "read", "written"
T = TypeVar("T")


class Remote:
    """The entries of one repository. Safe to use from several threads.

    tell: called with a line where an entry cannot be used, and once more where the remote store is left alone.
    moved: when a byte or an entry last went over the wire, by the monotonic clock.
    """

    def __init__(
        self, settings: Settings, store: Store, environ: Mapping[str, str], tell: Callable[[str], None]
    ) -> None:
        """Set it up, without a request. store: where what is on its way lies."""
        self.settings = settings
        self.name = settings.name
        self.stop = threading.Event()
        self.moved = time.monotonic()
        self._store = store
        self.tell = tell
        self._lock = threading.Lock()
        self._failed = {READ: 0, WRITE: 0}  # in a row
        self._since: float | None = None  # when it stopped answering
        self._off: set[str] = set()
        self._told: set[str] = set()
        self._nothing, self._first = False, threading.Lock()
        if settings.strict:
            self._registry = Registry(settings.host, environ, stop=self.stop)
        else:
            self._registry = Registry(settings.host, environ, stop=self.stop, attempts=ATTEMPTS, timeout=TIMEOUT)
        self._reading = Repository(self._registry, settings.path)
        self._writing = Repository(self._registry, settings.path, "pull,push")

    def close(self) -> None:
        """Have every transfer give up, and close the connections."""
        self.stop.set()
        self._registry.close()

    def usable(self, way: str) -> bool:
        """Tell whether it is not left alone yet. way: READ or WRITE."""
        return way not in self._off and not self.stop.is_set()

    # With patience

    def trying(self, way: str, shown: str, work: Callable[[], T], *, must: bool = False) -> T | None:
        """Return what `work` returns, None where the remote store fails, of which the user is told.

        way: READ or WRITE. shown: the entry. must: a failure is an error. Raises StoreError, also for faults of this
        machine, and OSError.
        """
        while must or self.usable(way):
            reached = False
            try:
                reached = bool(self._registry.base)
                found = work()
            except ImageError as e:
                if self._waits(e):
                    self.stop.wait(PAUSE)
                    continue
                if must:
                    raise self.refused(e) from e
                self._failure(way, shown, e, reached)
                return None
            with self._lock:
                self._failed[way], self._since = 0, None
                self.moved = time.monotonic()
            return found
        return None

    def _waits(self, error: ImageError) -> bool:
        """Tell whether a strict build waits for the registry to come back."""
        if not self.settings.strict or not trouble(error) or self.stop.is_set():
            return False
        with self._lock:
            now = time.monotonic()
            self._since = self._since or now
            return now - self._since < PATIENCE

    def _failure(self, way: str, shown: str, error: ImageError, reached: bool) -> None:
        """Count a failure, and tell of it: of the first ones each, and of the one that ends it."""
        line = ""
        with self._lock:
            self._failed[way] += 1
            if not self.usable(way):  # another thread was faster
                return
            if not reached or _final(error) or self._failed[way] >= ROW:
                self._off |= {way} if reached else {READ, WRITE}
                line = f"the remote store {self.name} cannot be {way if reached else 'reached'}: {told(error)}"
                line += "; this build goes on without it"
            elif shown not in self._told:
                self._told.add(shown)
                line = f"the remote store {self.name}: {shown} cannot be {way}: {told(error)}"
        if line:
            self.tell(line)

    # Reading

    def find(self, kind: str, key: str) -> tuple[Descriptor, ...] | None:
        """Return the blobs of an entry, None where there is none; raises EntryError, ImageError."""
        document = self._reading.find(tag_of(kind, key))
        return None if document is None else opened_manifest(self.settings.secret, kind, key, document.data)

    def fetch(self, blob: Descriptor, aside: Path, *, sync: bool = False) -> None:
        """Write a blob to a new file, checked against its digest and size; raises ImageError, OSError."""
        try:
            download(self._reading, blob, aside, self._advance, sync=sync)
        finally:
            self.moved = time.monotonic()

    # Writing

    def has(self, kind: str, key: str) -> bool:
        """Tell whether an entry is there, whatever it holds; raises ImageError."""
        return bool(self._writing.digest(tag_of(kind, key)))

    def put(
        self, kind: str, key: str, blobs: Sequence[tuple[Descriptor, Path]], sources: Mapping[str, Sequence[str]] = {}
    ) -> int:
        """Put an entry there, its manifest last, and return the bytes that were sent; raises ImageError.

        sources: other repositories of the registry that may have a blob, by its digest.
        """
        also = {path for paths in sources.values() for path in paths}
        repository = Repository(self._registry, self.settings.path, "pull,push", also) if also else self._writing
        document = sealed_manifest(self.settings.secret, kind, key, [blob for blob, _ in blobs])
        sent, again = 0, SAME
        while True:
            for blob, path in blobs:
                how = upload(repository, blob, path, list(sources.get(blob.digest, ())), self._advance)
                sent += blob.size if how == SENT else 0
            self._put_nothing()
            try:
                repository.put(document, tag_of(kind, key))
                return sent
            except RefusedError as e:
                # docker-registry moves a blob to its place over the one that is there: where another machine sends the
                # same at this moment, it is gone for a moment.
                again -= 1
                if not again or not any("BLOB_UNKNOWN" in code for code in e.codes) or self.stop.wait(SHORT):
                    raise
                self._nothing = False

    def _put_nothing(self) -> None:
        """Put the blob there that all manifests name in the place of a config; one thread does it for all."""
        with self._first:
            if not self._nothing:
                with self._store.workshop("remote.") as folder:
                    (folder / "empty").write_bytes(EMPTY)
                    upload(self._writing, NOTHING, folder / "empty", [], self._advance)
                self._nothing = True

    def refused(self, error: ImageError) -> StoreError:
        """Return the error for a remote store that must be written and cannot be."""
        status = error.status if isinstance(error, RefusedError) else 0
        hint = error.hint
        if status in (401, 403, 405):
            hint = f"log in with rights to push: `mkroot login {self.settings.host}`"
        elif status in (413, 507) or "space" in error.what:
            hint = "make room there: remove old tags, and have the registry collect what nothing names"
        return StoreError(f"the remote store {self.name} cannot be written: {error.what}", where=self.name, hint=hint)

    def _advance(self, n: int) -> None:
        self.moved = time.monotonic()


def trouble(error: ImageError) -> bool:
    """Tell whether an error may pass: the registry does not answer, or has trouble of its own."""
    if isinstance(error, RefusedError):
        return error.status in (408, 425, 429) or (error.status >= 500 and error.status != 507)
    return isinstance(error, UnansweredError)


def _final(error: ImageError) -> bool:
    """Tell whether there is no use in another entry: no rights, or no room."""
    return isinstance(error, RefusedError) and error.status in (401, 403, 405, 507)


def told(error: MkrootError) -> str:
    """Return an error as the end of a line."""
    return error.what + (f" ({error.hint})" if error.hint else "")
