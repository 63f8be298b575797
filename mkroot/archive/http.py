"""Reads files from archives by http, https and file: pooled, resumed, retried with patience, never past its size.

urllib3 is used directly, not through requests: half the import time, a third less work a request, and it takes the
system's certificate authorities, which is where a company puts its own. Redirects are followed here, because
neither library refuses one from https to http.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mkroot
from mkroot.archive import pace, proxy, redirect
from mkroot.archive.address import Address, basic
from mkroot.archive.answer import (
    Again,
    CancelledError,
    Meta,
    NotFoundError,
    WrongSizeError,
    check_size,
    check_status,
    echoed,
    length_of,
    offset_of,
    pass_over,
)
from mkroot.errors import MirrorError, masked

CHUNK = 1 << 18  # bytes read at a time
ATTEMPTS = 4  # in a row without one new byte
CONNECTS = 3  # of these when there is not even a connection: a host that is down stays down for longer than a build
TIMEOUT = 20.0  # seconds without a byte
CONNECT_TIMEOUT = 10.0  # seconds
MAX_WAIT = 30.0  # seconds between two attempts, whatever the server asks for


class Http:
    """A pool of connections. Safe to use from several threads.

    tell: called with a line of text whenever it waits before another attempt.
    stop: set to make every transfer end with CancelledError. An error or a break in work on several files sets it
        too: an Http whose work was given up is spent, make another one.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        tell: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
        attempts: int = ATTEMPTS,
        timeout: float = TIMEOUT,
        backoff: float = 0.5,
        connections: int = 8,
    ) -> None:
        self.environ = os.environ if environ is None else environ
        self.tell = tell or (lambda _: None)
        self.stop = stop or threading.Event()
        self.attempts = attempts
        self.timeout = timeout
        self.backoff = backoff
        self.connections = connections
        self._pools: dict[str, Any] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()

    def read(self, address: Address, limit: int, *, condition: Meta | None = None) -> tuple[bytes, Meta]:
        """Return a small file whole, at most `limit` bytes; raises MirrorError (NotFoundError where there is none).

        With `condition`, the Meta of an earlier answer, the result may be b"" and a Meta that says `unchanged`.
        """
        meta: list[Meta] = []
        data = b"".join(
            bytes(chunk) for chunk in self.stream(address, limit=limit, condition=condition, meta=meta.append)
        )
        return data, meta[-1]

    def stream(
        self,
        address: Address,
        *,
        limit: int,
        size: int | None = None,
        fresh: bool = False,
        condition: Meta | None = None,
        meta: Callable[[Meta], None] | None = None,
    ) -> Iterator[memoryview]:
        """Yield a file's bytes in order, each chunk valid until the next is asked for; raises MirrorError.

        A transfer that breaks is taken up where it broke, by a Range request, or from the start with the bytes that
        were already given out passed over. The reader checks the digest; a file that changed between two attempts
        does not survive that.

        limit: bytes; a longer file is refused, before it is read where the server tells its size.
        size: bytes that the file must have; a different one is refused likewise.
        fresh: ask caches on the way to look again.
        """
        if address.scheme == "file":
            yield from _local(address, limit, size, meta)
            return
        done, failures = 0, 0
        while True:
            before = done
            try:
                for chunk in self._attempt(address, done, limit, size, fresh, condition, meta):
                    done += len(chunk)
                    yield chunk
                return
            except Again as e:
                failures = 1 if done - before >= pace.PROGRESS else failures + 1
                if failures >= (self.attempts if e.connected else min(self.attempts, CONNECTS)):
                    raise MirrorError(
                        f"no luck after {failures} attempts: {masked(str(e))}",
                        where=str(address),
                        hint="is the network up, and the mirror? `--mirror` names another one",
                    ) from None
                self._wait(address, str(e), max(e.wait, self.backoff * 2 ** (failures - 1)))

    def _wait(self, address: Address, why: str, seconds: float) -> None:
        seconds = min(seconds, MAX_WAIT)
        self.tell(f"{address}: {masked(why)}; trying again in {seconds:.1f} s")
        if self.stop.wait(seconds):
            raise CancelledError("given up", where=str(address))

    def _attempt(
        self,
        address: Address,
        start: int,
        limit: int,
        size: int | None,
        fresh: bool,
        condition: Meta | None,
        meta: Callable[[Meta], None] | None,
    ) -> Iterator[memoryview]:
        headers = {"Accept-Encoding": "identity", "User-Agent": f"mkroot/{mkroot.__version__}"}
        if start:
            headers["Range"] = f"bytes={start}-"
        if fresh:
            headers["Cache-Control"] = "no-cache"
        if condition is not None and condition.etag:
            headers["If-None-Match"] = condition.etag
        elif condition is not None and condition.modified:
            headers["If-Modified-Since"] = condition.modified
        with self._opened(address, headers) as response:
            offset = offset_of(response, start, address)
            told = length_of(response, address)
            total = None if told is None else told + offset
            check_size(address, total, limit, size)
            if meta is not None:
                meta(
                    Meta(
                        size=total,
                        etag=echoed(response.headers.get("ETag", "")),
                        modified=echoed(response.headers.get("Last-Modified", "")),
                        unchanged=response.status == 304,
                    )
                )
            if response.status != 304:
                most = limit if size is None else size
                yield from self._body(response, address, start, offset, size if total is None else total, most)

    def _body(
        self, response: Any, address: Address, start: int, offset: int, total: int | None, most: int
    ) -> Iterator[memoryview]:
        """Yield what lies at `start` and after; `offset` is where the answer starts."""
        import urllib3

        at = offset
        while True:
            if self.stop.is_set():
                raise CancelledError("given up", where=str(address))
            try:
                # read1, for read loses what had arrived of a chunk when the connection breaks
                chunk = response.read1(CHUNK)
            except (urllib3.exceptions.HTTPError, OSError) as e:
                raise Again(f"the transfer broke off after {at} bytes ({_cause(e)})") from None
            n = len(chunk)
            if not n:
                break
            at += n
            if at > most:
                raise WrongSizeError(f"it is longer than the {most} bytes expected", where=str(address))
            if at > start:
                yield memoryview(chunk)[max(0, n - (at - start)) :]
        if total is not None and at < total:
            raise Again(f"the transfer broke off after {at} of {total} bytes")

    @contextlib.contextmanager
    def _opened(self, address: Address, headers: dict[str, str]) -> Iterator[Any]:
        """Open a URL, follow redirects, and give the answer, whose status is 200, 206 or 304."""
        import urllib3

        url, sent = address.url, _authorized(address, headers)
        for _ in range(redirect.MAX_REDIRECTS + 1):
            if self.stop.is_set():
                raise CancelledError("given up", where=str(address))
            try:
                response = self._pool(url).request(
                    "GET", url, headers=sent, preload_content=False, decode_content=False, redirect=False, retries=False
                )
            except (urllib3.exceptions.HTTPError, OSError) as e:
                if _hopeless(e):
                    raise MirrorError(f"no secure connection: {_cause(e)}", where=str(address)) from None
                raise Again(f"no connection ({_cause(e)})", connected=False) from None
            if response.status not in redirect.REDIRECTS:
                break
            pass_over(response)
            target = redirect.target(url, response.headers.get("Location", ""), address)
            url, sent = target, redirect.carried(sent, url, target)
        else:
            raise MirrorError(f"more than {redirect.MAX_REDIRECTS} redirects", where=str(address))
        whole = False
        try:
            check_status(response, address)
            yield response
            whole = True
        finally:
            if whole:
                response.release_conn()
            else:
                response.close()

    def _pool(self, url: str) -> Any:
        """Return the connection pool for a URL: direct, or through the proxy that the environment names."""
        split = urllib.parse.urlsplit(url)
        through = proxy.chosen(self.environ, split.scheme, split.hostname or "", split.port)
        with self._lock:
            pool = self._pools.get(through)
            if pool is None:
                import urllib3

                options: dict[str, Any] = {
                    "maxsize": self.connections,
                    "timeout": urllib3.Timeout(connect=min(self.timeout, CONNECT_TIMEOUT), read=self.timeout),
                }
                if through:
                    headers = proxy.headers(through)
                    pool = urllib3.ProxyManager(proxy.address(through), proxy_headers=headers, **options)
                else:
                    pool = urllib3.PoolManager(**options)
                pool.pool_classes_by_scheme = pace.pools()
                self._pools[through] = pool
        return pool


def _local(address: Address, limit: int, size: int | None, meta: Callable[[Meta], None] | None) -> Iterator[memoryview]:
    path = address.path
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise MirrorError("it is not a regular file", where=str(address))
            found = status.st_size
            check_size(address, found, limit, size)
            if meta is not None:
                meta(Meta(size=found))
            buffer = memoryview(bytearray(CHUNK))
            done = 0
            while n := f.readinto(buffer):
                done += n
                if done > found:
                    raise MirrorError("the file grows while it is read", where=str(address))
                yield buffer[:n]
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError("there is no such file", where=str(address)) from None
    except OSError as e:
        raise MirrorError(f"the file cannot be read: {e.strerror}", where=str(address)) from None


def _authorized(address: Address, headers: Mapping[str, str]) -> Mapping[str, str]:
    return {**headers, "Authorization": basic(address.user, address.password)} if address.user else headers


def _hopeless(error: BaseException) -> bool:
    """Tell whether an error will be the same next time: a certificate that does not verify."""
    import ssl

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        nested = getattr(seen, "reason", None)
        seen = nested if isinstance(nested, BaseException) else seen.__cause__ or seen.__context__
    return False


def _cause(error: BaseException) -> str:
    """Say in a few words what went wrong below; urllib3's own texts hold object addresses."""
    import urllib3

    seen: BaseException = error
    while isinstance(nested := getattr(seen, "reason", None) or seen.__cause__, BaseException):
        seen = nested
    if isinstance(seen, TimeoutError | urllib3.exceptions.TimeoutError):
        return "timed out"
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    return type(seen).__name__ if "object at" in str(seen) else str(seen)[:200] or type(seen).__name__
