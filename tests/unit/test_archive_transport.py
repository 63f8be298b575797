"""Connections by https, redirects between schemes, and what happens when the user gives up."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mkroot.archive.address import parse
from mkroot.archive.http import Http
from mkroot.archive.proxy import chosen
from mkroot.errors import MirrorError
from tests.testarchive import Server

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(b"content")
    return tmp_path / "www"


def read(url: str) -> bytes:
    return Http({}, backoff=0.01, attempts=2).read(parse(url, "test").join("file"), 100)[0]


@needs_openssl
def test_https_by_the_systems_authorities(
    folder: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(folder, tls=certificate) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert read(server.uri) == b"content"


@pytest.mark.counts("trust-refused")
@needs_openssl
def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(folder: Path, certificate: tuple[Path, Path]) -> None:
    with Server(folder, tls=certificate) as server:
        before = time.monotonic()
        with pytest.raises(MirrorError, match="no secure connection"):
            read(server.uri)
        assert time.monotonic() - before < 2
        assert server.requests == []


@pytest.mark.counts("trust-refused")
@needs_openssl
def test_a_redirect_from_https_to_http_is_refused(
    folder: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with Server(folder) as plain, Server(folder, tls=certificate) as secure:
        secure.fault("*", "redirect", times=None, location=f"{plain.base}/file")
        with pytest.raises(MirrorError, match="a redirect from https to `http://127"):
            read(secure.uri)
        assert plain.requests == []
        # By way of a redirect to https no less.
        plain.fault("*", "redirect", location=f"{secure.base}/file")
        with pytest.raises(MirrorError, match="a redirect from https to"):
            read(plain.uri)


@pytest.mark.counts("trust-accepted")
@needs_openssl
def test_a_redirect_from_http_to_https_is_followed(
    folder: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with Server(folder) as plain, Server(folder, tls=certificate) as secure:
        plain.fault("*", "redirect", location=f"{secure.base}/file")
        assert read(plain.uri) == b"content"


@pytest.mark.counts("trust-refused")
def test_credentials_in_a_redirect_are_not_shown(folder: Path) -> None:
    with Server(folder) as server:
        server.fault("*", "redirect", times=None, location="ftp://user:s3cr3t@mirror.example/x")
        with pytest.raises(MirrorError) as caught:
            read(server.uri)
        assert "s3cr3t" not in str(caught.value)


@contextlib.contextmanager
def tunnels(asked: list[bytes]) -> Iterator[str]:
    """Yield the address of a proxy that opens tunnels (RFC 9110, 9.3.6), one after the other; `asked`: their heads."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # at the end, when nobody listens
            while True:
                near, _ = listener.accept()
                head = b""
                while b"\r\n\r\n" not in head:
                    head += near.recv(65536)
                asked.append(head)
                host, _, port = head.split()[1].decode().rpartition(":")
                far = socket.create_connection((host, int(port)))
                near.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=copied, args=(one, other), daemon=True).start()

    def copied(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@needs_openssl
@pytest.mark.counts("trust-accepted")
def test_https_through_a_proxy_keeps_each_login_to_its_own(
    folder: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    asked: list[bytes] = []
    with Server(folder, tls=certificate) as server, tunnels(asked) as proxy:
        client = Http({"https_proxy": f"http://me:pr0xy@{proxy}"}, backoff=0.01)
        address = parse(server.uri.replace("//", "//user:s3cr3t@"), "test").join("file")
        assert client.read(address, 100)[0] == b"content"
        client.close()
        ((_, headers),) = server.requests
    assert b"Proxy-Authorization: Basic bWU6cHIweHk=" in asked[0] and b"\r\nAuthorization" not in asked[0]
    assert headers["authorization"] == "Basic dXNlcjpzM2NyM3Q=" and "proxy-authorization" not in headers


@pytest.mark.parametrize(
    ("environ", "scheme", "host", "expected"),
    [
        ({}, "http", "m.example", ""),
        ({"http_proxy": "http://p.example:3128"}, "http", "m.example", "http://p.example:3128"),
        ({"http_proxy": "p.example:3128"}, "http", "m.example", "http://p.example:3128"),
        ({"http_proxy": "http://p.example"}, "https", "m.example", ""),
        ({"HTTP_PROXY": "http://p.example"}, "http", "m.example", ""),
        ({"HTTPS_PROXY": "http://p.example"}, "https", "m.example", "http://p.example"),
        ({"all_proxy": "http://p.example"}, "https", "m.example", "http://p.example"),
        ({"http_proxy": "http://p.example", "no_proxy": "m.example"}, "http", "m.example", ""),
        ({"http_proxy": "http://p.example", "no_proxy": "x, .example"}, "http", "m.example", ""),
        ({"http_proxy": "http://p.example", "no_proxy": "ple"}, "http", "m.example", "http://p.example"),
        ({"http_proxy": "http://p.example", "no_proxy": "*"}, "http", "m.example", ""),
    ],
)
def test_proxies(environ: dict[str, str], scheme: str, host: str, expected: str) -> None:
    assert chosen(environ, scheme, host, None) == expected


def test_a_proxy_of_another_kind(folder: Path) -> None:
    with pytest.raises(MirrorError, match="neither http nor https") as caught:
        Http({"http_proxy": "socks5://user:s3cr3t@p.example"}).read(parse("http://m.example", "t").join("x"), 10)
    assert "s3cr3t" not in str(caught.value)


FETCH = """
import sys, pathlib
from mkroot.archive.address import parse
from mkroot.archive.download import Wanted, fetch
from mkroot.archive.http import Http
from mkroot.store.store import Store
store = Store(pathlib.Path(sys.argv[2]))
jobs = [Wanted(name=f"p{n}", address=parse(sys.argv[1], "t").join(f"f{n}"), sha256=str(n) * 64, size=1000)
        for n in range(6)]
print("ready", flush=True)
try:
    list(fetch(store, jobs, http=Http({}), workers=3))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_ends_stalled_transfers_within_two_seconds(folder: Path, tmp_path: Path) -> None:
    for n in range(6):
        (folder / f"f{n}").write_bytes(b"x" * 1000)
    with Server(folder) as server:
        server.fault("*", "stall", times=None, after=10)
        command = [sys.executable, "-c", FETCH, server.base, str(tmp_path / "store")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            deadline = time.monotonic() + 10
            while len(server.requests) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            before = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
            assert time.monotonic() - before < 2
            assert process.returncode == 130
            assert "Traceback" not in errors
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        assert not list((tmp_path / "store" / "tmp").iterdir())
