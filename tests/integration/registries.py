"""Starts Debian's docker-registry on loopback: open, with logins, with TLS and an authority of its own, with tokens."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

USER, PASSWORD = "me", "open sesame"
HTPASSWD = "me:$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n"  # bcrypt (cost 4) of the password above


@dataclass(frozen=True)
class Served:
    """A registry that runs. host: `127.0.0.1:PORT`. ca: the authority that signed its certificate, if any."""

    host: str
    ca: Path | None
    data: Path
    log: Path

    def blobs(self) -> set[str]:
        """The digests of the blobs that it has on disk."""
        return {p.parent.name for p in self.data.glob("docker/registry/v2/blobs/sha256/*/*/data")}

    def requests(self, *words: str) -> list[str]:
        """The lines of its access log that hold all these words."""
        return [line for line in self.log.read_text("utf-8", "replace").splitlines() if all(w in line for w in words)]


@contextlib.contextmanager
def served(
    folder: Path, *, login: bool = False, tls: bool = False, clients: bool = False, token: str = ""
) -> Iterator[Served]:
    """Run a registry with its data in `folder`; skip the test where it is not installed.

    login: it wants USER and PASSWORD. clients: under TLS, it wants a client's certificate.
    token: the realm that it sends for tokens, which `authority` in the folder signs.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    lines = [
        "version: 0.1",
        "log: {level: error, accesslog: {disabled: false}}",
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}",
        "http:",
        f"  addr: 127.0.0.1:{port}",
        f"  secret: {'s' * 32}",
    ]
    ca = None
    if tls:
        ca, certificate, key = certificates(folder)
        known = f", clientcas: [{ca}]" if clients else ""
        lines.append(f"  tls: {{certificate: {certificate}, key: {key}{known}}}")
    if login:
        (folder / "htpasswd").write_text(HTPASSWD)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}")
    if token:
        lines.append(
            f"auth: {{token: {{realm: {token}, service: test, issuer: test, rootcertbundle: {folder}/authority.crt}}}}"
        )
    (folder / "config.yml").write_text("\n".join(lines) + "\n")
    log = folder / "log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        try:
            wait_for(port, process, log)
            yield Served(f"127.0.0.1:{port}", ca, folder / "data", log)
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def token_service(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Give tokens to USER with PASSWORD, signed by the authority in `folder`; yield the realm and the scopes asked for.

    Without a login, tokens are for reading alone (Docker's token authentication, "Token format").
    """
    certificate, key = authority(folder)
    chain = [base64.b64encode(ssl.PEM_cert_to_DER_cert(certificate.read_text())).decode()]
    login = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    scopes: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            sent = self.headers.get("Authorization")
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("scope", [])
            scopes.extend(asked)
            body = json.dumps({"token": token(asked, sent == login)}).encode()
            status = 200 if sent in (None, login) else 401
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if status == 200 else 0))
            self.end_headers()
            if status == 200:
                self.wfile.write(body)

    def token(asked: list[str], known: bool) -> str:
        access = []
        for scope in asked:
            kind, name, actions = scope.split(":")
            allowed = [a for a in actions.split(",") if known or a == "pull"]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {"iss": "test", "sub": USER, "aud": "test", "exp": now + 300, "nbf": now - 9, "iat": now, "jti": "1"}
        parts = ({"typ": "JWT", "alg": "RS256", "x5c": chain}, {**claims, "access": access})
        text = b".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in parts)
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", key], input=text, capture_output=True, check=True
        )
        return (text + b"." + base64.urlsafe_b64encode(signed.stdout).rstrip(b"=")).decode()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(0.05), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/token", scopes
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError("the registry does not start\n" + log.read_text())


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Return an authority, and a certificate for 127.0.0.1 with its key, all made by openssl."""
    ca, _ = authority(folder)
    return ca, *signed(folder, "server", "subjectAltName=IP:127.0.0.1\n")


def signed(folder: Path, name: str, extensions: str = "") -> tuple[Path, Path]:
    """Return a certificate that the authority in `folder` signed, and its key."""
    ca, ca_key = folder / "authority.crt", folder / "authority.key"
    certificate, key, request = folder / f"{name}.crt", folder / f"{name}.key", folder / f"{name}.csr"
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=registry.example")
    extra = folder / f"{name}.ext"
    extra.write_text(extensions + "basicConstraints=CA:FALSE\n")
    openssl(
        "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
        "-extfile", extra, "-out", certificate,
    )  # fmt: skip
    return certificate, key


def authority(folder: Path) -> tuple[Path, Path]:
    """Return an authority's certificate and key."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    ca, key = folder / "authority.crt", folder / "authority.key"
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", ca, "-days", "2",
        "-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign,digitalSignature",
    )  # fmt: skip
    return ca, key


def openssl(*words: object) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
