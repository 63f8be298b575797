"""Answers of web servers that must come at a pace: no head without end, no transfer kept open by a byte now and then.

Timeouts of sockets bound the silence between two bytes, not what a byte every few seconds costs. As with dnf's
`minrate` and curl's `--speed-limit`, an answer that has begun must bring 1,000 bytes a second, measured over a while.
"""

from __future__ import annotations

import functools
import http.client
import io
import time
from typing import Any, cast

SLOWEST = 1000  # bytes a second
WINDOW = 1.5  # times the connection's timeout: over so long a wait the pace is looked at
PROGRESS = 64 << 10  # new bytes that make an attempt worth another one; one that brings fewer counts as failed
HEAD = 256 << 10  # bytes of an answer's head, interim answers included, and of its trailer


class SlowError(OSError):
    """An answer comes too slowly to be waited for."""


class _Paced(io.RawIOBase):
    """A socket's bytes. `head` is what may come until `bound` is called again, None for any number."""

    def __init__(self, raw: Any, timeout: float) -> None:
        self._raw = raw
        self._window = timeout * WINDOW
        self._begun = False
        self._waited = 0.0
        self._came = 0
        self._left: int | None = HEAD

    def bound(self, limit: int | None) -> None:
        """Let so many bytes more come, any number with None."""
        self._left = limit

    def readable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def fileno(self) -> int:
        """See io.RawIOBase."""
        return int(self._raw.fileno())

    def close(self) -> None:
        """See io.RawIOBase."""
        self._raw.close()
        super().close()

    def readinto(self, buffer: Any) -> int | None:
        """See io.RawIOBase; raises SlowError where the bytes come too slowly, HTTPException where a head has no end."""
        start = time.monotonic()
        n = cast(int | None, self._raw.readinto(buffer))
        if not n:
            return n
        if self._begun:  # how long a server thinks before it answers is the timeout's matter
            self._waited += time.monotonic() - start
        self._begun = True
        self._came += n
        if self._waited >= self._window:
            if self._came < self._waited * SLOWEST:
                raise SlowError(f"slower than {SLOWEST} bytes a second")
            self._waited, self._came = 0.0, 0
        if self._left is not None:
            self._left -= n
            if self._left < 0:
                raise http.client.HTTPException(f"more than {HEAD} bytes of headers")
        return n


class Response(http.client.HTTPResponse):
    """An answer whose bytes come at a pace; a `response_class` of connections."""

    def __init__(self, sock: Any, *more: Any, **named: Any) -> None:
        super().__init__(sock, *more, **named)
        raw = self.fp.detach()
        self._pace = _Paced(raw, sock.gettimeout() or 60.0)
        self.fp = io.BufferedReader(self._pace)

    def begin(self) -> None:
        """Read the head; raises HTTPException, OSError."""
        super().begin()
        self._pace.bound(None)

    def _read_and_discard_trailer(self) -> None:
        self._pace.bound(HEAD)
        super()._read_and_discard_trailer()  # type: ignore[misc]


@functools.cache
def pools() -> dict[str, Any]:
    """Return urllib3's kinds of connection pools by scheme, with answers that must come at a pace."""
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Plain(HTTPConnection):
        response_class = Response

    class Secure(HTTPSConnection):
        response_class = Response

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
