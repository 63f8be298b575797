"""Gets a lock's packages into the store, fetched and unpacked side by side, while their first ones are configured."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from mkroot.archive.address import Address
from mkroot.archive.download import Arrival, Wanted, fetch
from mkroot.archive.http import Http
from mkroot.progress import Progress
from mkroot.store.layer import Layer, LayerStore, frame_key
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.store.unpack import Expected, layer_key
from mkroot.store.workers import Job, Unpackers
from mkroot.store.writer import Chown


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A package to have in the store.

    address: where it is; None for a local one, which is in the store already. first: needed before the others; soon:
    needed next, for the stage that is configured while the rest is unpacked.
    """

    expected: Expected
    address: Address | None
    size: int
    first: bool = False
    soon: bool = False

    @property
    def sha256(self) -> str:
        """The .deb's digest."""
        return self.expected.sha256

    @property
    def shown(self) -> str:
        """What to call it in messages."""
        return f"{self.expected.name} {self.expected.version} {self.expected.architecture}"


def absent(store: Store, items: Iterable[Item], trees: Trees | None) -> list[Item]:
    """Return the items of which the store has no layer, or, where trees are wanted, these have none.

    Layers that the store's second floor has are brought before, all at once. Raises StoreError.
    """
    if store.beyond is not None:
        items = list(items)
        store.beyond.bring(layer_key(i.sha256) for i in items)
    return [i for i in items if not _has_layer(store, i) or (trees and not trees.has(layer_key(i.sha256)))]


def _has_layer(store: Store, item: Item) -> bool:
    key = layer_key(item.sha256)
    return store.has("layers", key) and store.has("frames", frame_key(key, "zstd"))


class Supply:
    """Fetches and unpacks packages in the background.

    Its processes are forked when it is made, so make it before there are threads. `wait` for what is needed next;
    `finish` for everything, frames included; `stop` gives up and leaves nothing half-made.
    """

    def __init__(
        self,
        layers: LayerStore,
        items: Sequence[Item],
        *,
        trees: Trees | None,
        codecs: tuple[str, ...],
        chown: Chown,
        http: Http,
        offline: bool,
        progress: Progress,
    ) -> None:
        self._layers = layers
        self._store = layers.store
        self._items = list(items)
        self._trees = trees
        self._codecs = codecs
        self._http = http
        self._offline = offline
        self._progress = progress
        self._ready: dict[str, Layer] = {}
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._counting = False
        self._done = not self._items
        self._new = [i for i in self._items if not _has_layer(self._store, i)]
        if self._store.beyond is not None:
            self._store.beyond.begin() if self._done else self._store.beyond.rest()
        if self._done:
            return
        count = min(len(self._items), len(os.sched_getaffinity(0)))
        self._pool = Unpackers(self._store, chown, count, timing=progress.spans)
        layers.missing = self.finish
        self._thread = threading.Thread(target=self._run, daemon=True, name="mkroot-supply")
        self._thread.start()

    def _run(self) -> None:
        try:
            by_digest = {i.sha256: i for i in self._items}
            new = {i.sha256 for i in self._new}
            for item in self._items:
                if item.sha256 in new:
                    continue
                if self._trees is None:  # another build was faster
                    self._note([(item.sha256, self._layers.load(layer_key(item.sha256)))])
                else:
                    self._put(item, None)
            for turn in ((True, False), (False, True), (False, False)):
                group = [i for i in self._new if (i.first, i.soon) == turn]
                wanted = []
                for item in group:
                    if item.address is None:
                        self._put(item, self._store.path("debs", item.sha256))
                    else:
                        wanted.append(Wanted(name=item.shown, address=item.address, sha256=item.sha256, size=item.size))
                arrived = partial(_arrived, self._progress)
                for job, path in fetch(self._store, wanted, http=self._http, offline=self._offline, arrived=arrived):
                    if self._counting:
                        self._progress.advance(job.size, job.name)
                    self._put(by_digest[job.sha256], path)
            while self._pool.busy:
                self._note(self._pool.done(None))
        except BaseException as e:  # raised again by whoever waits
            with self._changed:
                self._error = e
                self._changed.notify_all()

    def _put(self, item: Item, deb: Path | None) -> None:
        if deb is not None:
            key = layer_key(item.sha256)
            self._layers.made.update(frame_key(key, codec) for codec in ("zstd", *self._codecs))
        rank = 2 * (0 if item.first else 1 if item.soon else 2) + (deb is None)  # what is new takes longest
        self._pool.put(Job(item.expected, deb, self._trees, self._codecs, rank))
        self._note(self._pool.done(0))

    def _note(self, layers: Iterable[tuple[str, Layer | None]]) -> None:
        for digest, layer in layers:
            layer = layer or self._layers.load(layer_key(digest))
            with self._changed:
                self._ready[digest] = layer
                self._changed.notify_all()

    def first(self, items: Sequence[Item]) -> None:
        """Wait for the items as a step of its own, which shows the bytes that arrive."""
        if self._done:
            return
        total = sum(i.size for i in self._new)
        with self._progress.step("fetch and unpack", total, "B") as step:
            known = len(self._items) - len(self._new)
            step.result = f"{len(self._new)} packages" + (f", {known} known ones unpacked again" if known else "")
            self._counting = True
            try:
                self.wait(items)
            finally:
                self._counting = False

    def wait(self, items: Iterable[Item]) -> None:
        """Wait until the items' trees are complete; raises what went wrong in the background."""
        wanted = {i.sha256 for i in items} & {i.sha256 for i in self._items}
        with self._changed:
            while not wanted <= self._ready.keys() and self._error is None:
                self._changed.wait(0.2)
            if self._error is not None:
                raise self._error

    def layers(self, items: Iterable[Item]) -> list[Layer]:
        """Return the items' layers, in order; `wait` for them first. Raises StoreError."""
        return [self._ready.get(i.sha256) or self._layers.load(layer_key(i.sha256)) for i in items]

    def finish(self) -> None:
        """Wait for everything, then end the processes."""
        if self._done:
            return
        self.wait(self._items)
        self._thread.join()
        self._pool.finish()
        self._layers.missing = None
        self._done = True
        if self._store.beyond is not None:
            self._store.beyond.offer(layer_key(i.sha256) for i in self._items)
            self._store.beyond.begin()

    def stop(self) -> None:
        """Give up: transfers and processes end, and leave nothing."""
        self._layers.missing = None
        if not self._done:
            self._http.stop.set()
            self._pool.stop()


def _arrived(progress: Progress, one: Arrival) -> None:
    """Count what was fetched; called from several threads, so in a way that no thread can come between."""
    if one.fetched:
        progress.arrived.append(one.wanted.size)
    if progress.spans is not None:
        kind = "fetch" if one.fetched else "check"
        progress.spans.note("network", kind, one.wanted.name.partition(" ")[0], one.begin, one.wanted.size)


@contextlib.contextmanager
def supplied(
    layers: LayerStore,
    items: Sequence[Item],
    trees: Trees | None,
    codecs: tuple[str, ...],
    chown: Chown,
    environ: Mapping[str, str],
    offline: bool,
    progress: Progress,
) -> Iterator[Supply]:
    """Yield the supply of what the store lacks; an error on the way ends it."""
    http = Http(environ, tell=progress.warn)
    supply = Supply(
        layers, items, trees=trees, codecs=codecs, chown=chown, http=http, offline=offline, progress=progress
    )
    try:
        yield supply
    finally:
        supply.stop()
        http.close()


def files(
    store: Store, items: Sequence[Item], environ: Mapping[str, str], offline: bool, progress: Progress
) -> list[Path]:
    """Return the items' own files, fetched where the store has them not, each checked against its digest.

    Raises MirrorError, TrustError, StoreError.
    """
    wanted = [
        Wanted(name=i.shown, address=i.address, sha256=i.sha256, size=i.size) for i in items if i.address is not None
    ]
    http = Http(environ, tell=progress.warn)
    try:
        with progress.step("fetch", sum(i.size for i in items), "B") as step:
            step.result = f"{len(items)} packages"
            for job, _ in fetch(store, wanted, http=http, offline=offline, arrived=partial(_arrived, progress)):
                progress.advance(job.size, job.name)
    finally:
        http.close()
    return [store.path("debs", i.sha256) for i in items]


def load(layers: LayerStore, items: Iterable[Item]) -> list[Layer]:
    """Return the layers of packages that the store has, named as the lock names them; raises StoreError."""
    return [layers.load(layer_key(i.sha256)) for i in items]
