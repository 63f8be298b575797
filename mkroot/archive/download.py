"""Gets packages into the store, several at once, each handed on when it is there and verified."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from mkroot.archive.address import Address
from mkroot.archive.answer import CancelledError, NotFoundError, WrongSizeError
from mkroot.archive.http import Http
from mkroot.archive.parallel import each
from mkroot.digest import is_sha256, sha256_file
from mkroot.errors import MirrorError, PackageError, StoreError, TrustError
from mkroot.store.store import Store

KIND = "debs"
WORKERS = 8  # at once: enough to hide the latency of small packages, few enough for a mirror not to mind
POLL = 0.05  # seconds between two looks at whether another build has fetched a package
TELL = 2.0  # seconds after which the user is told of the waiting
_DROPPED = (
    "mirrors keep the newest versions alone; `mkroot lock RECIPE --update` takes those, "
    "and a recipe's `snapshot` keeps what there was"
)
LIMIT = 8 << 30  # bytes of a package, local ones included; Debian's largest has 1.5 GB


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A package to get.

    name: for messages: "bash 5.2.37-2 amd64".
    address: where it is.
    sha256, size: what the signed index or the lock promises.
    """

    name: str
    address: Address
    sha256: str
    size: int


Progress = Callable[[Wanted, int], None]  # the package, and how many bytes of it have arrived since the last call


class Arrival(msgspec.Struct, frozen=True):
    """A package that is there. fetched: it was not before. begin: when work on it began, by the monotonic clock."""

    wanted: Wanted
    fetched: bool
    begin: float


def fetch(
    store: Store,
    wanted: Sequence[Wanted],
    *,
    http: Http,
    offline: bool = False,
    progress: Progress | None = None,
    arrived: Callable[[Arrival], None] | None = None,
    workers: int = WORKERS,
) -> Iterator[tuple[Wanted, Path]]:
    """Yield each package with its path in the store as soon as it is there, the largest ones begun first.

    What the store has is checked against its digest and used; a damaged entry is fetched anew. A package appears in
    the store whole and verified, or not at all. progress and arrived are called from several threads; progress for a
    package that the store had once with its size, arrived once for each.

    Raises MirrorError where a package cannot be had (or with `offline` is not in the store), TrustError where its
    bytes are not the promised ones, StoreError. On an error, and when the iteration is given up, transfers under
    way end and leave nothing behind.
    """
    unique = {w.sha256: w for w in wanted}
    jobs = sorted(unique.values(), key=lambda w: (-w.size, w.sha256))
    with _folder(store) as folder:

        def one(job: Wanted) -> Path:
            begin = time.monotonic()
            path, fetched = _one(store, job, http, offline, progress, folder)
            if arrived is not None:
                arrived(Arrival(job, fetched, begin))
            return path

        yield from each(jobs, one, workers=workers, stop=http.stop)


@contextlib.contextmanager
def _folder(store: Store) -> Iterator[Path]:
    """A folder for unfinished downloads, gone afterwards."""
    folder = store.folder("debs.")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _one(
    store: Store, job: Wanted, http: Http, offline: bool, progress: Progress | None, folder: Path
) -> tuple[Path, bool]:
    """Return where a package is, and whether it had to be fetched."""
    if not is_sha256(job.sha256):
        raise TrustError(f"it is promised with the SHA-256 {job.sha256[:80]!r}, which is none", where=job.name)
    if not 0 < job.size <= LIMIT:
        raise TrustError(f"it is promised to have {job.size} bytes, and 1 to {LIMIT} are taken", where=job.name)
    try:
        path = store.path(KIND, job.sha256)
        if not _whole(path, job):
            if offline:
                raise MirrorError(f"the store does not have {job.name}", hint="run once without `--offline`")
            with _turn(store, job, http):
                if not _whole(path, job):
                    return _transferred(store, job, http, progress, folder), True
        if progress:
            progress(job, job.size)
        return path, False
    except OSError as e:
        raise StoreError(
            f"{job.name} cannot be stored: {e.strerror}",
            where=str(store.root),
            hint="is there room left? `mkroot cache prune` makes some",
        ) from None


def _whole(path: Path, job: Wanted) -> bool:
    """Tell whether the entry is there and what it must be; a damaged one is replaced by what is fetched."""
    try:
        return path.stat().st_size == job.size and sha256_file(path) == job.sha256
    except FileNotFoundError:
        return False
    except OSError as e:
        raise StoreError(f"a package cannot be read: {e.strerror}", where=str(path)) from None


@contextlib.contextmanager
def _turn(store: Store, job: Wanted, http: Http) -> Iterator[None]:
    """Wait for the right to fetch a package: of several builds that want it, one fetches it and the others take it."""
    waited = 0.0
    while True:
        with store.lock_if_free(KIND, job.sha256) as mine:
            if mine:
                yield
                return
        if http.stop.wait(POLL):
            raise CancelledError("given up", where=str(job.address))
        waited += POLL
        if TELL <= waited < TELL + POLL:
            http.tell(f"{job.name}: another build is fetching it; waiting")


def _transferred(store: Store, job: Wanted, http: Http, progress: Progress | None, folder: Path) -> Path:
    aside = folder / job.sha256
    fault = ""
    # The second time past caches: a proxy that kept a broken copy is more common than a broken mirror.
    for fresh in (False, True):
        try:
            fault = _transfer(job, aside, http, progress, fresh)
        except WrongSizeError as e:
            fault = e.what
        except NotFoundError as e:
            raise NotFoundError(e.what, where=e.where, hint=_DROPPED) from None
        if not fault:
            final = store.path(KIND, job.sha256)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.rename(aside, final)
            return final
        if job.address.scheme == "file":
            break
    raise TrustError(
        f"{job.name} is not what the signed index promises: {fault}",
        where=str(job.address),
        hint="the mirror, or a cache on the way to it, has another file there; name another mirror with `--mirror`",
    )


def _transfer(job: Wanted, aside: Path, http: Http, progress: Progress | None, fresh: bool) -> str:
    """Write the package to `aside`; return what is wrong with it, "" for nothing."""
    hasher = hashlib.sha256()
    done = 0
    if http.stop.is_set():
        raise CancelledError("given up", where=str(job.address))
    with open(aside, "wb", buffering=0) as f:
        for chunk in http.stream(job.address, limit=job.size, size=job.size, fresh=fresh):
            f.write(chunk)
            hasher.update(chunk)
            done += len(chunk)
            if progress:
                progress(job, len(chunk))
    if done != job.size:
        return f"{done} bytes instead of {job.size}"
    if hasher.hexdigest() != job.sha256:
        return f"the digest is sha256:{hasher.hexdigest()}, not sha256:{job.sha256}"
    return ""


class LocalDeb(msgspec.Struct, frozen=True, kw_only=True):
    """A package file of the user's own, in the store."""

    path: Path
    sha256: str
    size: int


def local_deb(store: Store, file: Path) -> LocalDeb:
    """Copy a local .deb into the store and return it; raises PackageError where it is none, StoreError.

    Only its outer form is looked at here; the package reader judges the rest.
    """
    hasher = hashlib.sha256()
    size = 0
    with _folder(store) as folder:
        aside = folder / "local"
        try:
            with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as f:
                head = f.read(8)
                if head != b"!<arch>\n":
                    raise PackageError("not a .deb package", where=str(file))
                with open(aside, "wb", buffering=0) as out:
                    while head:
                        size += len(head)
                        if size > LIMIT:
                            raise PackageError(f"a package larger than {LIMIT} bytes", where=str(file))
                        hasher.update(head)
                        out.write(head)
                        head = f.read(1 << 20)
        except OSError as e:
            raise PackageError(f"the package cannot be read: {e.strerror}", where=str(file)) from None
        digest = hasher.hexdigest()
        path = store.path(KIND, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(aside, path)
    return LocalDeb(path=path, sha256=digest, size=size)
