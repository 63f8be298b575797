"""What a registry, its token service or a credential helper sends is bounded before it is taken in."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from mkroot.errors import ImageError
from mkroot.oci.model import DOCUMENT_LIMIT, Descriptor
from mkroot.oci.reference import Reference
from mkroot.oci.registry import credentials as kept
from mkroot.oci.registry.credentials import Credential, Credentials
from mkroot.oci.registry.download import download
from mkroot.oci.registry.refusal import LIMIT
from mkroot.oci.registry.registry import Registry
from mkroot.oci.registry.repository import Repository
from tests.unit.registryserver import MemoryRegistry, Request, digest_of, memory_registry
from tests.unit.wires import answering, forever, slowly, status

KEPT = 8 << 20  # bytes that may be held meanwhile
BLOB = Descriptor(media_type="application/octet-stream", digest=digest_of(b"x" * 900), size=900)


def repository(host: str, folder: Path, **more: object) -> Repository:
    environ = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    return Repository(Registry(host.removeprefix("http://"), environ, backoff=0.01, **more), "box")  # type: ignore[arg-type]


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with memory_registry() as found:
        yield found


def door(answer: Callable[[bytes], Iterable[bytes]]) -> Callable[[bytes], Iterable[bytes]]:
    """Answer the first question, whether it is a registry, with yes; all others as `answer` has it."""
    return lambda head: [status(Content_Length=0)] if b" /v2/ " in head else answer(head)


ENDLESS: list[tuple[str, Callable[[], Iterable[bytes]], str]] = [
    ("a manifest", lambda: forever(b"x" * 65536, status()), "larger than|more than"),
    ("the words of a refusal", lambda: forever(b"x" * 65536, status("403 Forbidden")), "wants a login for this"),
    (
        "the body of a redirect",
        lambda: forever(b"x" * 65536, status("307 Elsewhere", Location="/v2/box/x")),
        "more than 5 redirects",
    ),
    ("a head", lambda: forever(b"X: y\r\n" * 1000, b"HTTP/1.1 200 OK\r\n"), "no luck after 5 attempts"),
    ("interim answers", lambda: forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "more than 262144 bytes of headers"),
]


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(("name", "pieces", "said"), ENDLESS, ids=[e[0] for e in ENDLESS])
def test_what_has_no_end_is_not_read_to_its_end(
    tmp_path: Path, name: str, pieces: Callable[[], Iterable[bytes]], said: str
) -> None:
    with answering(door(lambda _: pieces())) as url:
        host = url.removeprefix("http://")
        tracemalloc.start()
        try:
            with pytest.raises(ImageError, match=said):
                repository(host, tmp_path).manifest(Reference.parse(f"{host}/box:1"))
            assert tracemalloc.get_traced_memory()[1] < KEPT + 2 * DOCUMENT_LIMIT
        finally:
            tracemalloc.stop()


@pytest.mark.counts("trust-refused")
def test_a_blob_without_end_is_no_more_than_promised(tmp_path: Path) -> None:
    with answering(door(lambda _: forever(b"x" * 65536, status()))) as url:
        with pytest.raises(ImageError, match="sends more than the 900 bytes promised"):
            download(repository(url, tmp_path), BLOB, tmp_path / "aside", lambda _: None)
        assert (tmp_path / "aside").stat().st_size <= 900


@pytest.mark.counts("trust-refused")
def test_a_blob_that_breaks_after_each_byte_is_given_up(tmp_path: Path) -> None:
    def answer(head: bytes) -> Iterable[bytes]:
        start = int(head.partition(b"Range: bytes=")[2].partition(b"-")[0] or 0)
        part = status("206 Partial", Content_Range=f"bytes {start}-899/900", Content_Length=900 - start)
        return [part if start else status(Content_Length=900), b"x"]

    with answering(door(answer)) as url, pytest.raises(ImageError, match="no luck after 5 attempts"):
        download(repository(url, tmp_path), BLOB, tmp_path / "aside", lambda _: None)


@pytest.mark.counts("trust-refused")
def test_a_byte_now_and_then_does_not_keep_a_transfer_open(tmp_path: Path) -> None:
    pieces = [status(Content_Length=900), *[b"x"] * 900]
    with answering(door(lambda _: slowly(pieces, 0.03))) as url:
        found = repository(url, tmp_path)
        found.registry._wire._timeout = 0.15
        began = time.monotonic()
        with pytest.raises(ImageError, match=r"no luck after 5 attempts: .*slower than 1000 bytes a second"):
            download(found, BLOB, tmp_path / "aside", lambda _: None)
        assert time.monotonic() - began < 8


def guarded(registry: MemoryRegistry, body: bytes, code: int = 200) -> None:
    """Have the registry want a token, and its token service answer with `body`."""

    def fault(request: Request) -> bool:
        if request.path.startswith("/token"):
            request.answer(code, body)
        elif request.headers.get("Authorization"):
            return False
        else:
            realm = f'Bearer realm="http://{registry.host}/token",service="x"'
            request.refuse(401, "UNAUTHORIZED", WWW_Authenticate=realm)
        return True

    registry.faults.append(fault)


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"token": "' + b"x" * LIMIT + b'"}', "answers without a token"),
        (b'{"token": "x y\\r\\nEvil: 1"}', "answers without a token"),
        (b'{"token": "x", "expires_in": 1' + b"0" * 400 + b"}", "answers without a token"),
        (b'{"token": "x", "expires_in": [1]}', "answers without a token"),
        (b"[" * 60000, "answers without a token"),
    ],
    ids=["too long", "a header in it", "for ever", "for something", "deep"],
)
def test_tokens_that_are_none(registry: MemoryRegistry, tmp_path: Path, body: bytes, said: str) -> None:
    guarded(registry, body)
    with pytest.raises(ImageError, match=said):
        repository(registry.host, tmp_path).tags()


@pytest.mark.counts("trust-refused")
def test_what_was_sent_is_not_repeated_from_the_registrys_words(registry: MemoryRegistry, tmp_path: Path) -> None:
    def fault(request: Request) -> bool:
        if sent := request.headers.get("Authorization", ""):
            request.refuse(
                403, "DENIED", f"you sent `{sent}` to http://me:s3cr3t@{registry.host}/", WWW_Authenticate="x"
            )
        else:
            request.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
        return True

    registry.faults.append(fault)
    credential = Credential(user="me", password="s3cr3t")
    with pytest.raises(ImageError, match="you sent `Basic ") as caught:
        repository(registry.host, tmp_path, credential=credential).tags()
    assert "s3cr3t" not in str(caught.value) and credential.basic().split()[1] not in str(caught.value)


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(
    "location",
    ["http://user:s3cr3t@[::1/x?sig=s3cr3t", "ftp://user:s3cr3t@h/x?sig=s3cr3t", "http://h:99999/x?sig=s3cr3t"],
)
def test_a_redirect_shows_neither_login_nor_key(registry: MemoryRegistry, tmp_path: Path, location: str) -> None:
    registry.once("GET", "/tags/list", lambda request: request.answer(307, Location=location))
    with pytest.raises(ImageError, match="no web address") as caught:
        repository(registry.host, tmp_path).tags()
    assert "s3cr3t" not in str(caught.value)


def helper(tmp_path: Path, script: str) -> Credentials:
    program = tmp_path / "bin/docker-credential-box"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    config = tmp_path / ".docker/config.json"
    config.parent.mkdir()
    config.write_text('{"credsStore": "box"}')
    return Credentials({"HOME": str(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}"})


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("stream", ["", ">&2"])
def test_a_helper_that_never_stops_talking_is_ended(tmp_path: Path, stream: str) -> None:
    found = helper(tmp_path, f"echo $$ > {tmp_path}/pid; exec yes s3cr3t {stream}")
    with pytest.raises(ImageError, match=r"answers with more than|failed to get the login") as caught:
        found.find("registry.example")
    assert "s3cr3t" not in str(caught.value)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


@pytest.mark.counts("trust-refused")
def test_a_helper_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "HELPER_TIMEOUT", 0.2)
    found = helper(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(ImageError, match="does not answer"):
        found.find("registry.example")
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_a_helper_may_talk_a_lot_beside_its_answer(tmp_path: Path) -> None:
    found = helper(tmp_path, """head -c 50000 /dev/zero >&2; echo '{"Username": "me", "Secret": "x"}'""")
    assert found.find("registry.example") == Credential(user="me", password="x")


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("kind", ["long", "fifo", "folder"])
def test_a_file_of_logins_that_is_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".docker/config.json"
    path.parent.mkdir()
    if kind == "long":
        with open(path, "wb") as f:
            f.truncate(1 << 40)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    found = Credentials({"HOME": str(tmp_path)})
    if kind == "fifo":
        assert found.find("registry.example") is None, "nobody writes to it, so that it is empty"
        return
    with pytest.raises(ImageError, match=r"more than 4194304 bytes|cannot be read"):
        found.find("registry.example")
