"""HTTP as a registry needs it: connections kept open, files sent by the kernel, answers read into a buffer.

http.client is used directly. urllib3 takes longer to import than a small push lasts, and hands a body over in blocks of
16 KiB; here a file goes out by sendfile(2), or in whole megabytes under TLS.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mkroot.archive import pace, proxy
from mkroot.errors import ImageError, masked_address

if TYPE_CHECKING:
    import ssl

BLOCK = 1 << 20  # bytes read at a time, and sent at a time under TLS
SLICE = 4 << 20  # bytes that one sendfile(2) is asked for, after which progress is told
CONNECT_TIMEOUT = 10.0  # seconds
TIMEOUT = 60.0  # seconds without a byte
COMMIT = 5  # times so long to wait after a blob was sent: with slow storage a registry moves it to its place first
Advance = Callable[[int], None]


class BrokenError(Exception):
    """A connection that could not be made (`connected` is false), or that ended before the answer did."""

    def __init__(self, reason: str, *, connected: bool = True) -> None:
        super().__init__(reason)
        self.connected = connected


class TlsError(Exception):
    """The other side does not speak TLS."""


class Part(Struct, frozen=True, kw_only=True):
    """A request's body: `size` bytes of a file from `start` on. advance: told of bytes as they go out."""

    path: Path
    start: int
    size: int
    advance: Advance


Body = bytes | Part | None
Contexts = Callable[[str], "ssl.SSLContext"]  # by host with port


class Reply:
    """An answer: its head, and its body yet to be read. `close` it in any case; read to its end, it is used again."""

    def __init__(self, response: http.client.HTTPResponse, give_back: Callable[[bool], None]) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._give_back = give_back
        self._held: bytes | None = None

    def header(self, name: str) -> str:
        """Return a header's value, "" where it is missing."""
        return self.headers.get(name, "") or ""

    @property
    def length(self) -> int | None:
        """The bytes of the body that are still to come, None where the registry does not tell."""
        return self._response.length

    def into(self, buffer: memoryview) -> int:
        """Read what has come into the buffer; 0 at the end. Raises BrokenError, also where the body is cut short."""
        try:
            n = self._response.readinto(buffer)
        except (http.client.HTTPException, OSError) as e:
            raise BrokenError(f"the transfer broke off ({cause(e)})") from None
        if not n and self._response.length:
            raise BrokenError(f"the transfer broke off, {self._response.length} bytes are missing")
        return n

    def hold(self, limit: int) -> None:
        """Read the body, for a later `read`; raises BrokenError."""
        try:
            self._held = self.read(limit)
        except BrokenError:
            self.close()
            raise

    def read(self, limit: int) -> bytes:
        """Return the body, cut where it is longer than `limit` and one byte; raises BrokenError."""
        if self._held is not None:
            return self._held
        data = bytearray(min(limit + 1, BLOCK))
        found = bytearray()
        while len(found) <= limit and (n := self.into(memoryview(data)[: limit + 1 - len(found)])):
            found += memoryview(data)[:n]
        return bytes(found)

    def close(self) -> None:
        """Be done with the answer."""
        whole = self._response.isclosed() or self._response.length == 0
        if not whole and (self._response.length or BLOCK) <= 1 << 16:
            with contextlib.suppress(http.client.HTTPException, OSError):
                self._response.read(1 << 16)
                whole = self._response.isclosed() or self._response.length == 0
        self._response.close()
        self._give_back(whole and not self._response.will_close)

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wire:
    """Connections to any hosts. Safe to use from several threads.

    environ: where proxies are named. contexts: gives the TLS settings for a host.
    """

    def __init__(self, environ: Mapping[str, str], contexts: Contexts, timeout: float = TIMEOUT) -> None:
        self._environ = environ
        self._contexts = contexts
        self._timeout = timeout
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body = None) -> Reply:
        """Send one request and return the answer's head.

        Raises BrokenError; TlsError; ImageError where the host is not known or its certificate is not trusted. A
        connection that was kept open and turns out to be closed is made anew at once; but a file is not sent twice,
        for the other side may have some of it.
        """
        split = web_address(url)
        key = (split.scheme, split.netloc.rpartition("@")[2].lower())
        while True:
            kept = self._take(key)
            connection = kept or self._connect(split.scheme, key[1], split)
            target = urllib.parse.urlunsplit(("", "", split.path or "/", split.query, ""))
            if split.scheme == "http" and (through := self._through(split)):
                target = f"http://{key[1]}{target}"
                headers = {**headers, **(proxy.headers(through) or {})}
            try:
                connection.sock.settimeout(self._timeout)
                response = _exchange(connection, method, target, key[1], headers, body)
            except (http.client.HTTPException, OSError) as e:
                connection.close()
                stale = isinstance(e, ConnectionError | http.client.BadStatusLine)
                if kept is not None and stale and not isinstance(body, Part):
                    continue
                raise BrokenError(f"the connection broke off ({cause(e)})") from None
            except BaseException:
                connection.close()
                raise
            return Reply(response, lambda again, c=connection: self._back(key, c, again))  # type: ignore[misc]

    def _take(self, key: tuple[str, str]) -> http.client.HTTPConnection | None:
        while True:
            with self._lock:
                idle = self._idle.get(key)
                connection = idle.pop() if idle else None
            if connection is None or not _closed(connection.sock):
                return connection
            connection.close()

    def _back(self, key: tuple[str, str], connection: http.client.HTTPConnection, again: bool) -> None:
        if not again:
            connection.close()
            return
        with self._lock:
            self._idle.setdefault(key, []).append(connection)

    def _through(self, split: urllib.parse.SplitResult) -> str:
        """Return the proxy for an address; this machine is never asked through one."""
        host = split.hostname or ""
        if host == "localhost" or host.startswith("127.") or host == "::1":
            return ""
        return proxy.chosen(self._environ, split.scheme, host, split.port)

    def _connect(self, scheme: str, netloc: str, split: urllib.parse.SplitResult) -> http.client.HTTPConnection:
        import ssl

        through = self._through(split)
        host, port = split.hostname or "", split.port or (443 if scheme == "https" else 80)
        near = urllib.parse.urlsplit(proxy.address(through)) if through else None
        to, at = (near.hostname or "", near.port or 80) if near else (host, port)
        connection: http.client.HTTPConnection
        if scheme == "https":
            connection = http.client.HTTPSConnection(to, at, timeout=CONNECT_TIMEOUT, context=self._contexts(netloc))
            if near:
                connection.set_tunnel(host, port, headers=proxy.headers(through) or {})
        else:
            connection = http.client.HTTPConnection(to, at, timeout=CONNECT_TIMEOUT)
        connection.response_class = pace.Response
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as e:
            raise ImageError(
                f"the certificate of `{netloc}` is not trusted: {e.verify_message}",
                hint="name the authority that signed it: `--ca FILE`, or "
                f"`/etc/docker/certs.d/{netloc}/ca.crt`; `--insecure` trusts any",
            ) from None
        except ssl.SSLError as e:
            raise TlsError(e.reason or str(e)) from None
        except socket.gaierror as e:
            raise ImageError(
                f"the host `{to}` is not known: {e.strerror}", hint="is its name spelt right, and the network up?"
            ) from None
        except (http.client.HTTPException, OSError) as e:
            raise BrokenError(f"no connection to `{to}:{at}` ({cause(e)})", connected=False) from None
        return connection


def web_address(url: str) -> urllib.parse.SplitResult:
    """Return the parts of an address that a registry gave; raises ImageError where it is none of the web's."""
    try:
        split = urllib.parse.urlsplit(url)
        fine = split.scheme in ("http", "https") and split.hostname and (split.port is None or split.port > 0)
    except ValueError:
        fine = False
    if not fine or not url.isascii() or not url.isprintable() or " " in url:
        raise ImageError(f"the registry names an address that is no web address: `{shown(url)}`")
    return split


def shown(url: str) -> str:
    """Return an address that a registry gave, for messages: what stands after a `?` may be a key to what is there."""
    return masked_address(url.partition("?")[0])[:200]


def _closed(sock: Any) -> bool:
    """Tell whether the other side has closed a connection that nothing is expected from."""
    import select

    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _exchange(
    connection: http.client.HTTPConnection, method: str, target: str, host: str, headers: Mapping[str, str], body: Body
) -> http.client.HTTPResponse:
    """Send a request and return the answer, which may come before all of the body is sent: a refusal."""
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", host)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None or method in ("POST", "PUT", "PATCH"):
        size = body.size if isinstance(body, Part) else len(body or b"")
        connection.putheader("Content-Length", str(size))
    try:
        connection.endheaders(body if isinstance(body, bytes) else None)
        if isinstance(body, Part):
            _send_part(connection.sock, body)
            connection.sock.settimeout(COMMIT * (connection.sock.gettimeout() or TIMEOUT))
    except (BrokenPipeError, ConnectionResetError) as e:
        try:
            return connection.getresponse()
        except (http.client.HTTPException, OSError):
            raise e from None
    return connection.getresponse()


def _send_part(sock: Any, part: Part) -> None:
    """Send a file's bytes; raises OSError, and ImageError where the file ends too early."""
    left = part.size
    try:
        file = open(part.path, "rb", buffering=0)  # noqa: SIM115
    except OSError as e:
        raise ImageError(f"a blob of the image cannot be read: {e.strerror}", where=str(part.path)) from e
    with file:
        file.seek(part.start)
        plain = type(sock) is socket.socket  # under TLS the bytes pass through this process
        buffer = None if plain else memoryview(bytearray(BLOCK))
        while left:
            if buffer is None:
                n = sock.sendfile(file, offset=part.start + part.size - left, count=min(left, SLICE))
            else:
                n = file.readinto(buffer[: min(left, BLOCK)]) or 0
                sock.sendall(buffer[:n])
            if not n:
                raise ImageError("a blob of the image is shorter than its descriptor says", where=str(part.path))
            left -= n
            part.advance(n)


def cause(error: BaseException) -> str:
    """Say in a few words what went wrong below."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed without an answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)[:200] or type(error).__name__
