"""How a registry wants to be asked: its challenge, and the headers that answer it (Docker's token authentication)."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from mkroot.errors import ImageError
from mkroot.oci.registry.credentials import Credential
from mkroot.oci.registry.refusal import LIMIT, denied, refused
from mkroot.oci.registry.wire import Reply, shown, web_address

SHORTEST = 60  # seconds that a token is good for where the server tells less, or nothing
CLIENT = "mkroot"
_PAIR = re.compile(
    r'(?<![A-Za-z0-9_-])([A-Za-z][A-Za-z0-9_-]*+)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s,"]++))\s*+(?:,\s*+|$)'
)
Send = Callable[[str, str, Mapping[str, str], bytes | None], Reply]


class Challenge(Struct, frozen=True, kw_only=True):
    """What `WWW-Authenticate` says. scheme: "basic", "bearer", or "" where nothing is asked for."""

    scheme: str = ""
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse(headers: Iterable[str]) -> Challenge:
    """Return the challenge of an answer's `WWW-Authenticate` headers, a token's before a password's."""
    found = Challenge()
    for header in headers:
        scheme, _, rest = header.strip().partition(" ")
        values = {
            m[1].lower(): re.sub(r"\\(.)", r"\1", m[2]) if m[2] is not None else m[3] for m in _PAIR.finditer(rest)
        }
        if scheme.lower() == "bearer" and values.get("realm"):
            return Challenge(
                scheme="bearer",
                realm=values["realm"],
                service=values.get("service", ""),
                scope=values.get("scope", ""),
            )
        if scheme.lower() == "basic":
            found = Challenge(scheme="basic")
    return found


class Access:
    """Answers a registry's challenges with a credential. Safe to use from several threads.

    host: of the registry. secure: it is spoken to under TLS, so tokens are asked for in no other way. send: makes a
    request without credentials of its own.
    """

    def __init__(self, host: str, credential: Credential | None, *, secure: bool, send: Send) -> None:
        self.user = "" if credential is None else credential.user or "identity token"
        self._host = host
        self._credential = credential
        self._secure = secure
        self._send = send
        self._tokens: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def header(self, challenge: Challenge, scope: str, *, stale: str = "") -> str:
        """Return the value of `Authorization` for a request, "" where none is wanted or there is no credential.

        scope: `repository:NAME:ACTIONS`, or several with a space between. stale: a value that was just refused; it
        is not given again, except where there is no other. Raises ImageError.
        """
        if challenge.scheme == "basic":
            return self._credential.basic() if self._credential and not self._credential.token else ""
        if challenge.scheme != "bearer":
            return ""
        with self._lock:  # one thread fetches, the others find what it fetched
            token, until = self._tokens.get(scope, ("", 0.0))
            if not token or until < time.monotonic() or f"Bearer {token}" == stale:
                token, seconds = self._fetch(challenge, scope)
                self._tokens[scope] = token, time.monotonic() + seconds
            return f"Bearer {token}"

    def _fetch(self, challenge: Challenge, scope: str) -> tuple[str, float]:
        """Get a token; return it, and for how long it is to be used."""
        split = web_address(challenge.realm)
        if self._secure and split.scheme != "https":
            raise ImageError(
                f"the registry sends us for a token to `{shown(challenge.realm)}`, which is not under TLS",
                where=self._host,
                hint="no login is sent there; ask whoever looks after the registry",
            )
        values = [("service", challenge.service)] if challenge.service else []
        values += [("scope", one) for one in scope.split(" ") if one]
        headers: dict[str, str] = {}
        body = None
        if self._credential and self._credential.token:
            values = [v for v in values if v[0] != "scope"] + ([("scope", scope)] if scope else [])
            values += [
                ("grant_type", "refresh_token"),
                ("refresh_token", self._credential.token),
                ("client_id", CLIENT),
            ]
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urllib.parse.urlencode(values).encode()
            url = challenge.realm
        else:
            if self._credential:
                values.append(("account", self._credential.user))
                headers["Authorization"] = self._credential.basic()
            query = "&".join(q for q in (split.query, urllib.parse.urlencode(values)) if q)
            url = urllib.parse.urlunsplit((split.scheme, split.netloc, split.path, query, ""))
        with self._send("POST" if body else "GET", url, headers, body) as reply:
            if reply.status in (401, 403):
                raise denied(reply, self._host, self.user, self._host, False)
            if reply.status != 200:
                raise refused(reply, "no token is to be had", self._host)
            return _token(reply.read(LIMIT), self._host)


def _token(data: bytes, host: str) -> tuple[str, float]:
    try:
        found = json.loads(data)
        token = found.get("token") or found.get("access_token")
        seconds = float(found.get("expires_in") or SHORTEST)
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        token, seconds = None, 0.0
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise ImageError("the registry's token service answers without a token", where=host)
    # Used up a little early, lest it ends on the way.
    return token, max(SHORTEST, min(seconds, 3600.0)) * 0.8
