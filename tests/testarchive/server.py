"""A loopback HTTP server for a folder, with faults on demand."""

from __future__ import annotations

import contextlib
import fnmatch
import http.server
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType


@dataclass(slots=True, kw_only=True)
class Fault:
    """What goes wrong with a request whose path matches `pattern`, the first `times` times (None: always).

    kind: `status` (answer with `status`), `truncate` (send `after` bytes of the promised body, then hang up), `stall`
    (the same, then wait until the server is closed), `short` (send `after` bytes and promise no length), `corrupt`
    (flip the byte at `after`), `redirect` (to `location`), `slow` (wait `seconds`, then answer), `reset` (hang up with
    nothing sent), `grow` (send `after` more bytes than the file has), `oversend` (the same and promise no length),
    `body` (send `content` instead), `header` (answer as ever, with `headers` added).
    """

    pattern: str
    kind: str
    times: int | None = 1
    status: int = 500
    after: int = 100
    location: str = ""
    seconds: float = 0.0
    content: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    seen: int = 0


class Server:
    """Serves `root`; `uri` is its address with `prefix`. A context manager.

    requests: (path, headers in lower case) of every request so far.
    ranges: whether Range requests are honoured.
    """

    def __init__(self, root: Path, prefix: str = "", *, tls: tuple[Path, Path] | None = None) -> None:
        """Serve `root`; with `tls`, the paths of a certificate and its key, by https."""
        self.tls = tls is not None
        self.root = root
        self.prefix = prefix
        self.ranges = True
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.faults: list[Fault] = []
        self.authorize: Callable[[dict[str, str]], bool] | None = None
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def base(self) -> str:
        """The server's address without the prefix."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._http.server_address[1]}"

    @property
    def uri(self) -> str:
        """The mirror's address."""
        return self.base + self.prefix

    def fault(self, pattern: str, kind: str, **more: object) -> Fault:
        """Make requests whose path matches the shell `pattern` go wrong; see Fault."""
        made = Fault(pattern=pattern, kind=kind, **more)  # type: ignore[arg-type]
        self.faults.append(made)
        return made

    def paths(self, pattern: str = "*") -> list[str]:
        """Return the paths asked for so far that match `pattern`, in order."""
        return [path for path, _ in self.requests if fnmatch.fnmatch(path, pattern)]

    def taken(self, path: str, headers: dict[str, str]) -> Fault | None:
        """Note a request and return the fault that it is to meet."""
        with self._lock:
            self.requests.append((path, headers))
            for fault in self.faults:
                if fnmatch.fnmatch(path, fault.pattern) and (fault.times is None or fault.seen < fault.times):
                    fault.seen += 1
                    return fault
        return None

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: Server

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet about clients that hang up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        owner = self.server.owner
        headers = {k.lower(): v for k, v in self.headers.items()}
        path = self.path.split("?")[0]
        fault = owner.taken(path, headers)
        if owner.authorize and not owner.authorize(headers):
            return self._empty(401, [("WWW-Authenticate", 'Basic realm="test"')])
        if fault and self._refused(fault):
            return None
        file = owner.root / path.lstrip("/")
        try:
            if not file.resolve().is_relative_to(owner.root.resolve()) or not file.is_file():
                return self._empty(404)
            data = None if fault is None else _changed(fault, file.read_bytes())
            return self._send(file, data, fault, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            return None

    def _empty(self, status: int, headers: list[tuple[str, str]] | None = None) -> None:
        self.send_response(status)
        for name, value in headers or []:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refused(self, fault: Fault) -> bool:
        if fault.kind == "status":
            self._empty(fault.status, list(fault.headers))
        elif fault.kind == "redirect":
            location = fault.location or self.path
            self._empty(fault.status if 300 <= fault.status < 400 else 302, [("Location", location)])
        elif fault.kind == "reset":
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.kind == "slow":
            time.sleep(fault.seconds)
            return False
        else:
            return False
        return True

    def _send(self, file: Path, data: bytes | None, fault: Fault | None, headers: dict[str, str]) -> None:
        size = file.stat().st_size if data is None else len(data)
        start = self._start(headers, size)
        if start is None:
            return self._empty(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        for name, value in fault.headers if fault is not None and fault.kind == "header" else ():
            self.send_header(name, value)
        if fault is None or fault.kind not in ("oversend", "short"):
            self.send_header("Content-Length", str(size - start))
        else:
            self.send_header("Connection", "close")
        self.send_header("Last-Modified", self.date_time_string(int(file.stat().st_mtime)))
        self.end_headers()
        self.wfile.flush()
        if fault is not None and fault.kind in ("truncate", "stall", "short"):
            content = file.read_bytes() if data is None else data
            self.wfile.write(content[start : fault.after])
            self.wfile.flush()
            self.close_connection = True
            if fault.kind == "stall":
                self.server.owner.closing.wait(120)
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return None
        if data is not None:
            self.wfile.write(data[start:])
            return None
        with open(file, "rb") as f:
            if self.server.owner.tls:
                f.seek(start)
                shutil.copyfileobj(f, self.wfile)
                return None
            offset = start
            with contextlib.suppress(BlockingIOError):
                while sent := os.sendfile(self.connection.fileno(), f.fileno(), offset, size - offset):
                    offset += sent
            if offset < size:
                f.seek(offset)
                shutil.copyfileobj(f, self.wfile)
        return None

    def _start(self, headers: dict[str, str], size: int) -> int | None:
        asked = headers.get("range", "")
        if not self.server.owner.ranges or not asked.startswith("bytes="):
            return 0
        start = int(asked.removeprefix("bytes=").split("-")[0] or 0)
        return start if start < size else None


def _changed(fault: Fault, data: bytes) -> bytes | None:
    if fault.kind == "corrupt":
        at = min(fault.after, len(data) - 1)
        return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
    if fault.kind in ("grow", "oversend"):
        return data + b"\0" * fault.after
    if fault.kind == "body":
        return fault.content
    return None
