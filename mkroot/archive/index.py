"""The packages of the store's indices: tables made once an index, lookups in several of them at once."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from mkroot.archive.scan import Scan, whole
from mkroot.archive.table import FORMAT, Table, blocks, damaged, encode
from mkroot.debian.package import Package
from mkroot.debian.release import Index
from mkroot.digest import sha256_file
from mkroot.errors import StoreError
from mkroot.store.store import Store

KIND = "indices"
BLOCK = 256 << 10  # bytes of text read at a time; what is made of more does not stay in a processor's cache
LARGE = 2 << 20  # bytes of an index that are worth a process
_SHARE = 8 << 20  # bytes of one that are worth another: what it has read must be handed over


def table_key(digest: str) -> str:
    """Return the key of an index's table in the store, by the digest of the text."""
    return f"{digest}.t{FORMAT}"


def open_index(store: Store, index: Index, *, processes: int | None = None) -> Table:
    """Return the table of `index`, made now where the store has none or a damaged one; raises TrustError, StoreError.

    The index's text must have been verified. Two builds that want the same table make it once.
    processes: how many may work on it; one a processor where it is None.
    """
    key = table_key(index.sha256)
    path = store.path(KIND, key)
    try:
        with contextlib.suppress(FileNotFoundError, StoreError):
            return Table(index, path)
        with store.lock(KIND, key):
            with contextlib.suppress(FileNotFoundError, StoreError):  # another build was faster
                return Table(index, path)
            path.unlink(missing_ok=True)
            keep(store, index.sha256, _scan(index, len(os.sched_getaffinity(0)) if processes is None else processes))
        return Table(index, path)
    except OSError as e:
        raise StoreError(f"an index cannot be read: {e.strerror}", where=str(e.filename or path)) from e


def keep(store: Store, digest: str, scan: Scan) -> None:
    """Put the table of the text of that digest into the store.

    A power cut may leave half of it: its sum tells, and it is made again.
    """
    data = encode(scan)
    with store.writing(KIND, table_key(digest), sync=False) as aside:
        aside.write_bytes(data)


def _scan(index: Index, processes: int) -> Scan:
    """Return what a text says; raises StoreError for one that is damaged, TrustError."""
    if sha256_file(index.path) != index.sha256:
        raise damaged(index.path)
    scan = Scan(f"{index.suite}/{index.component}/{index.architecture}")
    read_on(scan, index.path, processes)
    return scan


def read_on(scan: Scan, path: Path, processes: int) -> None:
    """Read what is left of a verified text, shared by processes where it is worth that; raises TrustError, OSError."""
    end = path.stat().st_size
    size = end - scan.end
    count = max(1, min(processes, size // _SHARE))
    middles = (_boundary(path, scan.end + size * n // count) for n in range(1, count))
    starts = [scan.end, *middles, end]
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(_beside(partial(_part, scan.where, path, *part))) for part in pairwise(starts[1:])
        ]
        _read(scan, path, starts[1])
        for after, other in zip(starts[2:], others, strict=True):
            if dumped := other():
                scan.extend(dumped)
            else:  # what it was that failed there is raised here
                _read(scan, path, after)


def _part(where: str, path: Path, start: int, end: int) -> bytes:
    scan = Scan(where, start)
    _read(scan, path, end)
    return scan.dump()


def _read(scan: Scan, path: Path, end: int) -> None:
    for piece in whole(blocks(path, BLOCK, scan.end, end)):
        scan.read(piece)


def _boundary(path: Path, near: int) -> int:
    """Return where a stanza begins at `near` or after it, the end of the text where none does."""
    at, last = near, b""
    for block in blocks(path, BLOCK, near):
        found = (last + block).find(b"\n\n")
        if found >= 0:
            return at - len(last) + found + 2
        at += len(block)
        last = block[-1:]
    return at


@contextlib.contextmanager
def _beside(work: Callable[[], bytes]) -> Iterator[Callable[[], bytes]]:
    """Run `work` in a process of its own; yield what waits for its result, b"" where it failed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(lambda: _send(write, work()))
    os.close(write)
    try:
        with open(read, "rb") as result:
            yield result.read
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _send(pipe: int, data: bytes) -> None:
    with open(pipe, "wb") as f:
        f.write(data)


def child(work: Callable[[], object]) -> None:
    """Do `work` as what a forked process is for, and end the process; never returns. What fails is told to nobody."""
    try:
        gc.disable()  # it would walk, and so copy, all that the parent has
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()
    finally:
        os._exit(0)


def prepare(store: Store, indices: Sequence[Index]) -> None:
    """Make the tables that are missing, side by side in processes of their own; what fails there is made later, aloud.

    One alone is left to `open_index`, where two processes share it.
    """
    missing = [i for i in indices if not store.has(KIND, table_key(i.sha256))]
    unique = sorted({i.sha256: i for i in missing if i.size > LARGE}.values(), key=lambda i: -i.size)
    if len(unique) < 2:
        return
    running: list[int] = []
    try:
        for index in unique:
            if len(running) >= len(os.sched_getaffinity(0)):
                os.waitpid(running[0], 0)
                del running[0]
            running.append(_fork(store, index))
        while running:
            os.waitpid(running[0], 0)
            del running[0]
    except BaseException:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise


def _fork(store: Store, index: Index) -> int:
    pid = os.fork()
    if pid == 0:
        child(lambda: open_index(store, index, processes=1))
    return pid


def _first(place: tuple[int, Table]) -> int:
    return place[0]


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


class ArchiveUniverse:
    """The packages of several indices of the store; see mkroot.resolve.universe.Universe."""

    def __init__(self, store: Store, indices: Sequence[Index]) -> None:
        """Open the indices, in the order of the sources; raises TrustError, StoreError."""
        self.indices = tuple(indices)
        prepare(store, self.indices)
        self._tables = [open_index(store, index) for index in indices]
        self._places: dict[str, list[tuple[int, Table]]] = {}
        for number, table in enumerate(self._tables):
            self._places.setdefault(table.index.architecture, []).append((number, table))

    def packages(self, name: str) -> Sequence[Package]:
        """See Universe."""
        key = _encoded(name)
        return tuple(Package.parse(stanza, t.index) for t in self._tables for stanza in t.packages(key))

    def providers(self, name: str) -> Sequence[Package]:
        """See Universe."""
        key = _encoded(name)
        return tuple(Package.parse(stanza, t.index) for t in self._tables for stanza in t.providers(key))

    def marked(self) -> Sequence[str]:
        """See Universe."""
        return list(dict.fromkeys(name.decode() for table in self._tables for name in table.marked()))

    def of_priority(self, priority: str) -> Sequence[str]:
        """See Universe."""
        key = priority.encode()
        return list(dict.fromkeys(name.decode() for table in self._tables for name in table.of_priority(key)))

    def rank(self, name: str, architecture: str) -> tuple[int, int]:
        """See Universe."""
        key = _encoded(name)
        for number, table in sorted((*self._places.get(architecture, ()), *self._places.get("all", ())), key=_first):
            if (place := table.place(key)) is not None:
                return number, place
        return len(self._tables), 0

    def names(self) -> Iterable[str]:
        """See Universe."""
        return sorted({name.decode("utf-8", "replace") for table in self._tables for name in table.names()})

    def mentioning(self, name: str) -> Sequence[Package]:
        """See Universe."""
        text = _encoded(name)
        return [Package.parse(stanza, table.index) for table in self._tables for stanza in table.containing(text)]
