"""Nothing that a mirror sends is waited for, or taken in, without a bound; what it says of itself is not believed."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from mkroot.archive import redirect
from mkroot.archive.address import parse
from mkroot.archive.answer import Meta
from mkroot.archive.http import MAX_WAIT, Http
from mkroot.archive.proxy import chosen
from mkroot.errors import MirrorError, masked, masked_address
from tests.testarchive import Server
from tests.unit.wires import answering, forever, slowly, status

KEPT = 4 << 20  # bytes that a reader of 1,000 bytes may hold at most meanwhile


def read(url: str, limit: int = 1000, **more: float) -> bytes:
    client = Http({}, backoff=0.01, attempts=2, **{"timeout": 0.3, **more})  # type: ignore[arg-type]
    return client.read(parse(url, "test").join("file"), limit)[0]


ENDLESS: list[tuple[str, Callable[[], Iterable[bytes]], str]] = [
    ("a body with no size", lambda: forever(b"x" * 65536, status()), "longer than the 1000 bytes"),
    (
        "a body in chunks",
        lambda: forever(b"400\r\n" + b"x" * 1024 + b"\r\n", status(Transfer_Encoding="chunked")),
        "longer than the 1000 bytes",
    ),
    ("a line of the head", lambda: forever(b"x" * 65536, b"HTTP/1.1 200 OK\r\nX: "), "no luck"),
    ("lines of the head", lambda: forever(b"X: y\r\n" * 1000, b"HTTP/1.1 200 OK\r\n"), "no luck"),
    ("long lines of the head", lambda: forever(b"X: " + b"y" * 60000 + b"\r\n", b"HTTP/1.1 200 OK\r\n"), "of headers"),
    ("interim answers", lambda: forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "more than 262144 bytes of headers"),
    (
        "a trailer",
        lambda: forever(b"X: y\r\n" * 1000, status(Transfer_Encoding="chunked"), b"0\r\n"),
        "more than 262144 bytes of headers",
    ),
    (
        "a chunk's size",
        lambda: forever(b"0" * 65536, status(Transfer_Encoding="chunked")),
        "no luck",
    ),
    (
        "the body of a redirect",
        lambda: forever(b"x" * 65536, status("302 Found", Location="/file")),
        "more than 5 redirects",
    ),
    ("the body of a refusal", lambda: forever(b"x" * 65536, status("403 Forbidden")), "refuses access"),
    ("the body of an error", lambda: forever(b"x" * 65536, status("500 Broken")), "status 500"),
]


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(("name", "pieces", "said"), ENDLESS, ids=[e[0] for e in ENDLESS])
def test_what_has_no_end_is_not_read_to_its_end(name: str, pieces: Callable[[], Iterable[bytes]], said: str) -> None:
    with answering(lambda _: pieces()) as url:
        tracemalloc.start()
        try:
            with pytest.raises(MirrorError, match=said):
                read(url)
            assert tracemalloc.get_traced_memory()[1] < KEPT
        finally:
            tracemalloc.stop()


DRIPS = [
    ("a body", [status(Content_Length=200), *[b"x"] * 200]),
    ("a head", [bytes([b]) for b in status(Content_Length=0, X="y" * 150)]),
    ("a body in chunks", [status(Transfer_Encoding="chunked"), *[b"1\r\nx\r\n"] * 200]),
]


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(("name", "pieces"), DRIPS, ids=[d[0] for d in DRIPS])
def test_a_byte_now_and_then_does_not_keep_a_transfer_open(name: str, pieces: list[bytes]) -> None:
    with answering(lambda _: slowly(pieces, 0.05)) as url:
        began = time.monotonic()
        with pytest.raises(MirrorError, match=r"no luck after 2 attempts: .*slower than 1000 bytes a second"):
            read(url)
        assert time.monotonic() - began < 5


def test_a_slow_start_is_no_slow_transfer() -> None:
    def answer(_: bytes) -> Iterable[bytes]:
        yield from slowly([b"", status(Content_Length=3)], 0.15)
        yield b"abc"

    with answering(answer) as url:
        assert read(url) == b"abc"


@pytest.mark.counts("trust-refused")
def test_a_transfer_that_breaks_after_each_byte_is_given_up() -> None:
    sent: list[bytes] = []

    def answer(head: bytes) -> Iterable[bytes]:
        sent.append(head)
        start = int(head.partition(b"Range: bytes=")[2].partition(b"-")[0] or 0)
        if not start:
            return [status(Content_Length=900), b"x"]
        return [status("206 Partial", Content_Range=f"bytes {start}-899/900", Content_Length=900 - start), b"x"]

    with answering(answer) as url, pytest.raises(MirrorError, match="no luck after 2 attempts: the transfer broke off"):
        read(url)
    assert len(sent) == 2


WAYS = [
    ("to a local file", "file:///etc/passwd", "neither http nor https"),
    ("to ftp", "ftp://mirror.example/x", "neither http nor https"),
    ("to a script", "javascript:alert(1)", "neither http nor https"),
    ("to data", "data:,x", "neither http nor https"),
    ("nowhere", "", "neither http nor https"),
    ("to no host", "http:///x", "no address"),
    ("to half an IPv6 address", "http://[::1/x", "no address"),
    ("to a port that is none", "http://mirror.example:99999/x", "no address"),
    ("to port 0", "http://mirror.example:0/x", "no address"),
    ("to a port in words", "http://mirror.example:port/x", "no address"),
    ("out of TLS", "http://mirror.example/x", "from https to"),
    ("with control characters", "https://mirror.example/\x1b[2J", "no address"),
]


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(("name", "location", "said"), WAYS, ids=[w[0] for w in WAYS])
def test_redirects_that_are_not_followed(name: str, location: str, said: str) -> None:
    asked = parse("https://mirror.example/d", "t").join("x")
    with pytest.raises(MirrorError, match=said) as caught:
        redirect.target(asked.url, location, asked)
    assert caught.value.where == asked.url
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("location", ["http://[::1/x", "http://mirror.example:99999/x", "file:///etc/passwd", ""])
def test_a_redirect_to_nowhere_is_an_error_of_the_mirror(location: str, tmp_path: Path) -> None:
    with answering(lambda _: [status("302 Found", Location=location)]) as url:
        with pytest.raises(MirrorError, match="a redirect to") as caught:
            read(url)
        assert caught.value.where == f"{url}/file"


@pytest.mark.counts("trust-refused")
def test_a_redirect_shows_neither_credentials_nor_the_key_in_its_query() -> None:
    asked = parse("https://mirror.example/d", "t").join("x")
    with pytest.raises(MirrorError) as caught:
        redirect.target(asked.url, "http://user:s3cr3t@cdn.example/x?Signature=s3cr3t", asked)
    assert "s3cr3t" not in str(caught.value) and "cdn.example/x" in str(caught.value)


@pytest.mark.counts("trust-refused")
def test_credentials_do_not_come_back_by_way_of_another_host(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with Server(tmp_path) as mine, Server(tmp_path) as other:
        mine.fault("/file", "redirect", location=f"{other.base}/file")
        other.fault("/file", "redirect", location=f"{mine.base}/file")
        assert read(mine.uri.replace("//", "//user:s3cr3t@")) == b"x"
        sent = [("authorization" in headers) for server in (mine, other) for _, headers in server.requests]
        assert sent == [True, False, False], "once stripped, they stay away"


@pytest.mark.counts("trust-refused")
def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    with Server(tmp_path) as mine, Server(tmp_path) as other:
        mine.fault("*", "redirect", times=None, location=f"{other.base}/file")
        other.fault("*", "redirect", times=None, location=f"{mine.base}/file")
        with pytest.raises(MirrorError, match="more than 5 redirects"):
            read(mine.uri)
        assert len(mine.requests) + len(other.requests) == 6


@pytest.mark.parametrize("wait", ["99999", "9" * 30, "-1", "nan", "Fri, 31 Dec 9999 23:59:59 GMT", "x" * 60000])
def test_a_mirror_does_not_say_how_long_it_is_waited_for(wait: str, tmp_path: Path) -> None:
    said: list[str] = []
    waits: list[float] = []

    class Hurried(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    client = Http({}, tell=said.append, stop=Hurried(), timeout=0.5, backoff=0.01)
    with (
        answering(lambda _: [status("503 Later", Retry_After=wait, Content_Length=0)]) as url,
        pytest.raises(MirrorError, match="no luck after 4 attempts"),
    ):
        client.read(parse(url, "t").join("x"), 10)
    assert len(said) == len(waits) == 3 and max(waits) <= MAX_WAIT and all(len(line) < 300 for line in said)


@pytest.mark.parametrize("etag", ["x" * 60000, "a\x0bb", "\xff\xfe", '"fine"'])
def test_what_is_sent_back_to_a_mirror_is_plain_and_short(etag: str) -> None:
    heads: list[bytes] = []

    def answer(head: bytes) -> list[bytes]:
        heads.append(head)
        return [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: " + etag.encode("latin-1") + b"\r\n\r\nx"]

    with answering(answer) as url:
        client, place = Http({}, backoff=0.01), parse(url, "t").join("x")
        _, meta = client.read(place, 10)
        assert isinstance(meta, Meta)
        client.read(place, 10, condition=meta)
    assert (b"If-None-Match" in heads[1]) == (etag == '"fine"')


def test_credentials_in_any_script(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with Server(tmp_path) as server:
        server.authorize = lambda headers: headers.get("authorization") == "Basic asO8OnPigqw="
        assert read(server.uri.replace("//", "//j%C3%BC:s%E2%82%AC@")) == b"x"


PROXIES = ["http://user:s3cr3t@[::1", "http://user:s3cr3t@p.example:99999", "http://user:s3cr3t@", "user:s3/cr3t@p:x"]


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("text", [*PROXIES, "socks5://user:s3cr3t@p.example:1"])
def test_a_proxy_that_is_none(text: str) -> None:
    with pytest.raises(MirrorError, match="the proxy `") as caught:
        chosen({"http_proxy": text}, "http", "m.example", None)
    assert "cr3t" not in str(caught.value) and "http_proxy" in str(caught.value)


MASKED = [
    ("http://user:s3cr3t@h/d", "http://***@h/d"),
    ("http://s3cr3t@h/d", "http://***@h/d"),
    ("see http://a:s3cr3t@h/ and //c:s3cr3t@i", "see http://***@h/ and //***@i"),
    ("http://user:s3@cr3t@h/d", "http://***@h/d"),
    ("http://user:s3/cr3t@h/d", "http://***@h/d"),
    ("http://user:@h/", "http://***@h/"),
    ("HTTP://User:s3cr3t@H", "HTTP://***@H"),
    ("(https://u:s3cr3t@h:80/x)", "(https://***@h:80/x)"),
    ("http://h/pool/x@1.0", "http://h/pool/x@1.0"),
    ("http://h:8080/pool/x@1.0", "http://h:8080/pool/x@1.0"),
    ("/srv//a@b/recipe.yaml", "/srv//a@b/recipe.yaml"),
    ("user@host", "user@host"),
]


@pytest.mark.parametrize(("text", "expected"), MASKED, ids=[m[0] for m in MASKED])
def test_what_a_message_shows_of_a_url(text: str, expected: str) -> None:
    assert masked(text) == expected
    error = MirrorError(text, where=text, hint=text)
    assert (error.what, error.where, error.hint) == (expected,) * 3


@pytest.mark.parametrize(
    "text", ["user:s3cr3t@h/d", "http:/user:s3cr3t@h", "http://us er:s3cr3t@h", "http:user:s3cr3t@h", "//u:s3cr3t@h"]
)
def test_what_was_meant_as_an_address_shows_no_password(text: str) -> None:
    assert "s3cr3t" not in masked_address(text) and masked_address(text).endswith("***@" + text.partition("@")[2])


def test_what_is_cut_in_the_middle_of_a_password_is_not_shown() -> None:
    """Only the beginning of a message is looked through; what a long login left there may end within another one."""
    text = "http://a:" + "b" * 63_960 + "@h http://user:geheim" + "g" * 3000 + "@mirror.example/ end"
    said = MirrorError(text).what
    assert said.startswith("http://***@h ")
    assert "geheim" not in said
    assert said.endswith(" more characters)")
