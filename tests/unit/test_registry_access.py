"""Logins: challenges are understood, tokens are fetched once, and no password goes where it does not belong."""

from __future__ import annotations

import base64
import json
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from mkroot.errors import ImageError
from mkroot.oci.registry.access import Access, Challenge, parse
from mkroot.oci.registry.credentials import Credential
from mkroot.oci.registry.registry import Registry
from mkroot.oci.registry.repository import Repository
from mkroot.oci.store import ImageStore
from tests.unit.registryimages import a_store, an_image, environ, pulled, pushed
from tests.unit.registryserver import MemoryRegistry, Request, memory_registry


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Challenge()),
        (['Basic realm="x"'], Challenge(scheme="basic")),
        (["basic"], Challenge(scheme="basic")),
        (["Negotiate"], Challenge()),
        (
            ['Bearer realm="https://a.example/t?x=1,2",service="s",scope="repository:a/b:pull,push"'],
            Challenge(
                scheme="bearer", realm="https://a.example/t?x=1,2", service="s", scope="repository:a/b:pull,push"
            ),
        ),
        (
            ['bearer service="a \\"b\\"", realm=https://a.example/t'],
            Challenge(scheme="bearer", realm="https://a.example/t", service='a "b"'),
        ),
        (['Bearer service="no realm"'], Challenge()),
        (
            ['Basic realm="x"', 'Bearer realm="https://a.example/"'],
            Challenge(scheme="bearer", realm="https://a.example/"),
        ),
    ],
)
def test_challenges(headers: list[str], expected: Challenge) -> None:
    assert parse(headers) == expected


class Tokens:
    """Has a registry want tokens, and gives them. good: how many requests the first one is good for."""

    def __init__(self, registry: MemoryRegistry, good: int = 1000, later: int = 1000) -> None:
        self.registry, self.good, self.later = registry, good, later
        self.asked: list[tuple[str, list[tuple[str, str]], str]] = []  # method, what was asked, login
        self.uses: dict[str, int] = {}
        self.lock = threading.Lock()
        registry.faults.append(self.deal)

    def deal(self, request: Request) -> bool:
        if request.split.path == "/token":
            self.give(request)
            return True
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        with self.lock:
            if self.uses.get(sent, 0) > 0:
                self.uses[sent] -= 1
                return False
        request.body()
        realm = f'Bearer realm="http://{self.registry.host}/token",service="test"'
        request.refuse(401, "UNAUTHORIZED", WWW_Authenticate=realm)
        return True

    def give(self, request: Request) -> None:
        body = request.body().decode() if request.command == "POST" else request.split.query
        with self.lock:
            self.asked.append((request.command, urllib.parse.parse_qsl(body), request.headers.get("Authorization", "")))
            token = f"token{len(self.asked)}"
            self.uses[token] = self.good if len(self.asked) == 1 else self.later
        request.answer(200, json.dumps({"token": token, "expires_in": 300}).encode())


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with memory_registry() as found:
        yield found


def with_login(images: ImageStore, host: str, **entry: str) -> None:
    home = images.store.root / "home" / ".docker"
    home.mkdir(parents=True)
    (home / "config.json").write_text(json.dumps({"auths": {host: entry}}))


SECRET = base64.b64encode(b"me:secret").decode()


def test_one_token_does_for_a_push(registry: MemoryRegistry, tmp_path: Path) -> None:
    tokens = Tokens(registry)
    images = a_store(tmp_path)
    with_login(images, registry.host, auth=SECRET)
    reference = f"{registry.host}/team/box:1"
    an_image(images, reference)
    pushed(images, reference)
    wanted = [("service", "test"), ("scope", "repository:team/box:pull,push"), ("account", "me")]
    assert tokens.asked == [("GET", wanted, f"Basic {SECRET}")]
    assert all("secret" not in sent and SECRET not in sent for _, p, sent in registry.requests if "/token" not in p)
    tokens.asked.clear()
    an_image(images, f"{registry.host}/other:1")
    pushed(images, f"{registry.host}/other:1")
    scopes = [value for name, value in tokens.asked[0][1] if name == "scope"]
    assert scopes == ["repository:other:pull,push", "repository:team/box:pull"], "to mount from there"


def test_a_token_that_ran_out_is_fetched_anew(registry: MemoryRegistry, tmp_path: Path) -> None:
    tokens = Tokens(registry, good=4)
    images = a_store(tmp_path)
    reference = f"{registry.host}/team/box:1"
    an_image(images, reference)
    pushed(images, reference)
    assert len(tokens.asked) == 2
    here = a_store(tmp_path / "here")
    pulled(here, reference)
    assert here.find(reference).digest == images.find(reference).digest


def test_a_token_that_never_does_ends(registry: MemoryRegistry, tmp_path: Path) -> None:
    tokens = Tokens(registry, good=0, later=0)
    images = a_store(tmp_path)
    with_login(images, registry.host, auth=SECRET)
    with pytest.raises(ImageError, match="does not accept the login of `me`"):
        pulled(images, f"{registry.host}/team/box:1")
    assert len(tokens.asked) == 2


def test_an_identity_token_is_refreshed_by_post(registry: MemoryRegistry, tmp_path: Path) -> None:
    tokens = Tokens(registry)
    images = a_store(tmp_path)
    with_login(images, registry.host, identitytoken="long-lived")
    reference = f"{registry.host}/box:1"
    an_image(images, reference, layers=(b"x",))
    pushed(images, reference)
    ((method, asked, login),) = tokens.asked
    assert method == "POST" and login == "" and ("refresh_token", "long-lived") in asked
    assert ("grant_type", "refresh_token") in asked and ("scope", "repository:box:pull,push") in asked


def test_a_login_is_checked_with_a_token(registry: MemoryRegistry, tmp_path: Path) -> None:
    Tokens(registry)
    place = environ(a_store(tmp_path))
    with Registry(registry.host, place, credential=Credential(user="me", password="secret")) as remote:
        assert remote.log_in()
    registry.once("GET", "/token", lambda r: r.refuse(401, "UNAUTHORIZED", "incorrect username or password"))
    registry.faults.reverse()
    wrong = Credential(user="me", password="wrong")
    with (
        Registry(registry.host, place, credential=wrong) as remote,
        pytest.raises(ImageError, match=r"does not accept the login of `me` \(incorrect"),
    ):
        remote.log_in()


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\nb"}', b'{"token": "t", "expires_in": "x"}']
)
def test_a_token_service_that_gives_none(registry: MemoryRegistry, tmp_path: Path, body: bytes) -> None:
    registry.once("GET", "/token", lambda r: r.answer(200, body))
    Tokens(registry)
    with pytest.raises(ImageError, match="token service answers without a token"):
        pulled(a_store(tmp_path), f"{registry.host}/box:1")


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("realm", ["http://tokens.example/t", "ftp://tokens.example/t", "file:///etc/passwd"])
def test_no_password_goes_out_of_tls(realm: str) -> None:
    def send(*_: object) -> object:
        raise AssertionError("it was sent")

    credential = Credential(user="me", password="secret")
    access = Access("registry.example", credential, secure=True, send=send)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"which is not under TLS|is no web address"):
        access.header(Challenge(scheme="bearer", realm=realm), "repository:x:pull")


def test_the_longest_path_with_a_login_is_taken(registry: MemoryRegistry, tmp_path: Path) -> None:
    """Podman keeps logins for parts of a registry."""
    images = a_store(tmp_path)
    home = images.store.root / "home" / ".docker"
    home.mkdir(parents=True)
    other = base64.b64encode(b"team:other").decode()
    auths = {registry.host: {"auth": SECRET}, f"{registry.host}/team": {"auth": other}}
    (home / "config.json").write_text(json.dumps({"auths": auths}))

    def basic(request: Request) -> bool:
        if not request.headers.get("Authorization"):
            request.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
            return True
        return False

    registry.faults.append(basic)
    for path, expected in (("team/box", other), ("box", SECRET)):
        registry.requests.clear()
        with Registry(registry.host, environ(images)) as remote:
            assert not Repository(remote, path).digest("1")
        assert registry.requests[-1][2] == f"Basic {expected}"
