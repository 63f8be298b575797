"""A small registry in memory, on loopback, which a test may have break off, lie or refuse."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Request(BaseHTTPRequestHandler):
    """One request. `registry` is the server's state."""

    protocol_version = "HTTP/1.1"
    server: Any

    @property
    def registry(self) -> MemoryRegistry:
        found: MemoryRegistry = self.server.registry
        return found

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str = "", **headers: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message or code.lower()}]}).encode()
        self.answer(status, body, Content_Type="application/json", **headers)

    def body(self, limit: int | None = None) -> bytes:
        """Read the request's body, or only so much of it."""
        size = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(size if limit is None else min(size, limit))

    def cut(self) -> None:
        """Break the connection, so that the other side notices it at once."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionAbortedError

    def serve(self) -> None:
        self.split = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(self.split.query))
        registry = self.registry
        with registry.lock:
            registry.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
        for fault in registry.faults:
            if fault(self):
                return
        if self.split.path == "/v2/":
            self.answer(200, b"{}")
            return
        for pattern, method in (
            (r"/v2/(.+)/manifests/([^/]+)", self.manifest),
            (r"/v2/(.+)/blobs/uploads/([^/]*)", self.upload),
            (r"/v2/(.+)/blobs/(sha256:[0-9a-f]+)", self.blob),
            (r"/v2/(.+)/tags/list", self.tags),
            (r"/v2/(.+)/referrers/([^/]+)", self.referrers),
        ):
            if found := re.fullmatch(pattern, self.split.path):
                method(*found.groups())
                return
        self.refuse(404, "UNSUPPORTED")

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = serve

    def manifest(self, repository: str, name: str) -> None:
        registry = self.registry
        if self.command == "PUT":
            data = self.body()
            kind = self.headers["Content-Type"]
            for key in {name, digest_of(data)}:
                registry.manifests[repository, key] = kind, data
            subject = json.loads(data).get("subject")
            headers = {"OCI_Subject": subject["digest"]} if subject and registry.lists_referrers else {}
            self.answer(201, Docker_Content_Digest=digest_of(data), **headers)
        elif (repository, name) in registry.manifests:
            kind, data = registry.manifests[repository, name]
            self.answer(200, data, Content_Type=kind, Docker_Content_Digest=digest_of(data))
        else:
            self.refuse(404, "MANIFEST_UNKNOWN")

    def blob(self, repository: str, digest: str) -> None:
        data = self.registry.blobs.get(repository, {}).get(digest)
        if data is None:
            self.refuse(404, "BLOB_UNKNOWN")
            return
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found and self.registry.ranges:
            start = int(found[1])
            self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.answer(200, data)

    def upload(self, repository: str, identity: str) -> None:
        registry = self.registry
        if self.command == "POST":
            mounted = registry.blobs.get(self.query.get("from", ""), {}).get(self.query.get("mount", ""))
            if mounted is not None:
                registry.blobs.setdefault(repository, {})[self.query["mount"]] = mounted
                self.answer(201, Location="/v2/")
                return
            identity = str(next(registry.numbers))
            registry.uploads[identity] = b""
            self.answer(202, Location=f"/v2/{repository}/blobs/uploads/{identity}?state=x")
            return
        if identity not in registry.uploads:
            self.refuse(404, "BLOB_UPLOAD_UNKNOWN")
            return
        here = f"/v2/{repository}/blobs/uploads/{identity}?state=x"
        if self.command == "GET":
            self.answer(204, Location=here, Range=f"0-{max(0, len(registry.uploads[identity]) - 1)}")
            return
        if self.command == "PATCH":
            start, size = int(self.headers["Content-Range"].partition("-")[0]), int(self.headers["Content-Length"])
            if start != len(registry.uploads[identity]):
                self.refuse(416, "BLOB_UPLOAD_INVALID")
                return
            registry.uploads[identity] += self.body(size)
            self.answer(202, Location=here, Range=f"0-{len(registry.uploads[identity]) - 1}")
            return
        data = registry.uploads[identity] + self.body()
        if digest_of(data) != self.query["digest"]:
            self.refuse(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            return
        registry.blobs.setdefault(repository, {})[self.query["digest"]] = data
        del registry.uploads[identity]
        self.answer(201, Location="/v2/")

    def tags(self, repository: str) -> None:
        names = sorted(n for r, n in self.registry.manifests if r == repository and ":" not in n)
        if not names:
            self.refuse(404, "NAME_UNKNOWN")
            return
        names = [n for n in names if n > self.query.get("last", "")]
        page, rest = names[: self.registry.page], names[self.registry.page :]
        link = {"Link": f'</v2/{repository}/tags/list?last={page[-1]}&n=2>; rel="next"'} if rest else {}
        self.answer(200, json.dumps({"name": repository, "tags": page}).encode(), **link)

    def referrers(self, repository: str, digest: str) -> None:
        if not self.registry.lists_referrers:
            self.refuse(404, "NOT_FOUND")
            return
        rows = []
        for (owner, name), (kind, data) in self.registry.manifests.items():
            document = json.loads(data)
            if owner == repository and ":" in name and (document.get("subject") or {}).get("digest") == digest:
                rows.append(
                    {
                        "mediaType": kind,
                        "digest": name,
                        "size": len(data),
                        "artifactType": document.get("artifactType", ""),
                    }
                )
        kind = "application/vnd.oci.image.index.v1+json"
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": rows}).encode()
        self.answer(200, body, Content_Type=kind)


class MemoryRegistry:
    """What the server has, and how it behaves.

    faults: asked before each request; one that answers true has dealt with it.
    ranges: whether blobs can be read from the middle. lists_referrers: whether it knows the referrers API. page: tags
    in one answer.
    """

    def __init__(self) -> None:
        self.host = ""
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.numbers = itertools.count()
        self.uploads: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.faults: list[Callable[[Request], bool]] = []
        self.ranges = True
        self.lists_referrers = False
        self.page = 100
        self.lock = threading.Lock()

    def asked(self, method: str, part: str = "") -> list[str]:
        """The paths that were asked for with a method."""
        return [path for m, path, _ in self.requests if m == method and part in path]

    def once(self, method: str, part: str, deal: Callable[[Request], None], times: int = 1) -> None:
        """Have a matching request dealt with by `deal`, so many times."""
        left = [times]

        def fault(request: Request) -> bool:
            with self.lock:
                if request.command != method or part not in request.path or not left[0]:
                    return False
                left[0] -= 1
            deal(request)
            return True

        self.faults.append(fault)


@contextmanager
def memory_registry() -> Iterator[MemoryRegistry]:
    """Run one."""
    registry = MemoryRegistry()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
    server.registry = registry  # type: ignore[attr-defined]
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
