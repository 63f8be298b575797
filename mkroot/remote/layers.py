"""The layers of a store on its second floor: brought when a build lacks them, kept there when it made them."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from mkroot.errors import ImageError, MkrootError
from mkroot.oci.registry.push import counted
from mkroot.progress import Progress
from mkroot.remote.account import Settings
from mkroot.remote.crew import each
from mkroot.remote.entries import READ, WRITE, Remote, told, trouble
from mkroot.remote.parcel import packed, unpacked
from mkroot.remote.seal import LAYER, EntryError, tag_of
from mkroot.store.layer import frame_key
from mkroot.store.store import Store

READERS = 16  # entries that are fetched at once
WRITERS = 4  # … and kept
GRACE = 0.5  # seconds that threads get to end where all is given up
SILENCE = 30.0  # seconds without a byte after which a build that can do without waits no longer


class RemoteLayers:
    """A store's second floor (mkroot.store.beyond); `close` it in any case. Safe to use from several threads.

    remote: its entries. damaged: keys of those that are there, and sealed with our key, but whose blobs the registry
    has spoilt: they are put there anew.
    """

    def __init__(self, store: Store, settings: Settings, environ: Mapping[str, str], progress: Progress) -> None:
        self.remote = Remote(settings, store, environ, progress.warn)
        self._store = store
        self._progress = progress
        self._pid = os.getpid()
        self._absent: set[str] = set()  # not there, or not to be used
        self._missing: set[str] = set()  # for sure
        self._there: set[str] = set()
        self.damaged: set[str] = set()
        self._waiting: deque[str] = deque()
        self._seen: set[str] = set()  # offered before
        self._threads: list[threading.Thread] = []
        self._begun = False
        self._lock = threading.Lock()

    # Bringing

    def bring(self, keys: Iterable[str]) -> None:
        """See Beyond."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._absent and not self._has(key)]
        if not wanted or not self.remote.usable(READ) or os.getpid() != self._pid:
            return
        if len(wanted) == 1:  # a look for one is part of somebody's step
            with self._store.workshop("remote.") as folder:
                self._bring(folder, wanted[0])
            return
        with self._progress.step("remote store", len(wanted), "layers") as step:
            advance = counted(step)("")

            def one(key: str) -> None:
                self._bring(folder, key)
                advance(1)

            with self._store.workshop("remote.") as folder:
                each(wanted, one, READERS)
            found = sum(key in self._there for key in wanted)
            step.cached, step.result = found == len(wanted), f"{found} of {len(wanted)} layers"

    def _has(self, key: str) -> bool:
        return self._store.has("layers", key) and self._store.has("frames", frame_key(key, "zstd"))

    def _bring(self, folder: Path, key: str) -> None:
        found = self.remote.trying(READ, tag_of(LAYER, key), partial(self._fetched, folder, key))
        if found:
            self._there.add(key)
            return
        self._absent.add(key)
        if found is not None:
            self._missing.add(key)

    def _fetched(self, folder: Path, key: str) -> bool:
        """Fetch a layer and put it into the store; return False where there is none. Raises ImageError."""
        start = time.monotonic()
        with self._store.lock("remote", key):  # two builds on one store fetch it once
            if self._has(key):
                return True
            blobs = self.remote.find(LAYER, key)
            if blobs is None:
                return False
            aside = folder / key
            aside.unlink(missing_ok=True)  # of an attempt that broke off
            try:
                if len(blobs) != 1:
                    raise EntryError(f"a layer is one blob, not {len(blobs)}", where=tag_of(LAYER, key))
                self.remote.fetch(blobs[0], aside)
                name, record = unpacked(aside, key)
            except ImageError as e:
                if not trouble(e):
                    self.damaged.add(key)
                raise
            with self._store.writing("frames", frame_key(key, "zstd"), sync=False) as place:
                os.rename(aside, place)
            with self._store.writing("layers", key, sync=False) as place:
                place.write_bytes(record)
            if self._progress.spans is not None:
                self._progress.spans.note("network", "fetch", name, start, blobs[0].size)
            return True

    # Keeping

    def offer(self, keys: Iterable[str]) -> None:
        """See Beyond."""
        with self._lock:
            fresh = [key for key in dict.fromkeys(keys) if key not in self._seen and key not in self._there]
            self._seen.update(fresh)
            self._waiting.extend(fresh)
        if self._begun:
            self._start()

    def begin(self) -> None:
        """See Beyond."""
        self._begun = True
        self._start()

    def rest(self) -> None:
        """See Beyond."""
        self._begun = False
        self._wait()

    def flush(self) -> None:
        """Wait until what was offered is there, or the remote store has failed, of which the user is told."""
        while True:
            self.begin()
            self._wait()
            if not self._waiting or not self.remote.usable(WRITE):
                return

    def close(self) -> None:
        """Give up what is under way; a thread that waits for a silent registry ends a little later."""
        self._begun = False
        self.remote.close()
        self._wait()

    def _start(self) -> None:
        with self._lock:
            if os.getpid() != self._pid or not self.remote.usable(WRITE):
                return
            self._threads = [t for t in self._threads if t.is_alive()]
            for _ in range(min(WRITERS - len(self._threads), len(self._waiting))):
                thread = threading.Thread(target=self._keep_all, daemon=True, name="mkroot-keep")
                self._threads.append(thread)
                thread.start()

    def _wait(self) -> None:
        """Wait until no thread is at work: while bytes go out, and for a moment after all was given up."""
        self.remote.moved = time.monotonic()
        while any(thread.is_alive() for thread in self._threads):
            for thread in self._threads:
                thread.join(0.1)
            silent = time.monotonic() - self.remote.moved
            if self.remote.stop.is_set():
                if silent > GRACE:
                    return
            elif silent > SILENCE and not self.remote.settings.strict:
                self._progress.warn(
                    f"the remote store {self.remote.name} takes nothing for {SILENCE:.0f} s; "
                    "this build goes on without it"
                )
                self.remote.stop.set()

    def _keep_all(self) -> None:
        while self._begun and self.remote.usable(WRITE):
            try:
                key = self._waiting.popleft()
            except IndexError:
                return
            try:
                self.remote.trying(WRITE, tag_of(LAYER, key), partial(self._keep, key))
            except Exception as e:  # of this machine, or of mkroot; the build can do without
                why = told(e) if isinstance(e, MkrootError) else f"{type(e).__name__}: {e}"
                self._progress.warn(f"a layer is not kept in the remote store {self.remote.name}: {why}")

    def _keep(self, key: str) -> None:
        """Keep one layer; raises ImageError, StoreError, OSError."""
        if key not in self.damaged and key not in self._missing and self.remote.has(LAYER, key):
            self._there.add(key)
            return
        if not self._has(key):  # it was removed meanwhile
            return
        with self._store.workshop("remote.") as folder:
            path = folder / "layer"
            blob = packed(self._store, key, path, salted=key in self.damaged)
            self.remote.put(LAYER, key, [(blob, path)])
        self.damaged.discard(key)
        self._there.add(key)
