"""A registry's host: which scheme it speaks, its logins, and requests with patience."""

from __future__ import annotations

import functools
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping

import mkroot
from mkroot.errors import ImageError, masked
from mkroot.oci.reference import Reference
from mkroot.oci.registry.access import Access, Challenge, parse
from mkroot.oci.registry.credentials import Credential, Credentials
from mkroot.oci.registry.refusal import LIMIT, UnansweredError, denied, refused
from mkroot.oci.registry.trust import Trust, context, named_for
from mkroot.oci.registry.wire import TIMEOUT, Body, BrokenError, Reply, TlsError, Wire, shown, web_address

ATTEMPTS = 5  # in a row without progress
BACKOFF = 0.5  # seconds before the second attempt; doubled for each one more
MAX_WAIT = 30.0  # seconds between two attempts, whatever the registry asks for
MAX_REDIRECTS = 5
AGAIN = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_PLAIN_TO_TLS = b"HTTP request to an HTTPS server"  # what Go's server answers with, which most registries use


class Registry:
    """A registry, as one user sees it. Safe to use from several threads.

    tell: called with a line of text whenever it waits before another attempt.
    stop: set to have every transfer give up. attempts: in a row without progress, before it gives up by itself.
    """

    def __init__(
        self,
        host: str,
        environ: Mapping[str, str],
        *,
        trust: Trust | None = None,
        credential: Credential | None = None,
        tell: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
        backoff: float = BACKOFF,
        attempts: int = ATTEMPTS,
        timeout: float = TIMEOUT,
    ) -> None:
        """Set it up, without a request. credential: to use this one, not what the user's files have.

        timeout: seconds without a byte.
        """
        self.host = host
        self.attempts = attempts
        self.stop = stop or threading.Event()
        self._environ = environ
        self._trust = trust or Trust()
        self._given = credential
        self._tell = tell or (lambda _: None)
        self._backoff = backoff
        self._wire = Wire(environ, functools.cache(lambda at: context(at, self._trust, environ)), timeout)
        self._opened: tuple[str, Challenge] | None = None
        self._lock = threading.Lock()
        self._accesses: dict[str, Access] = {}

    def close(self) -> None:
        """Close its connections."""
        self._wire.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Who it is

    @property
    def base(self) -> str:
        """Its address, `https://HOST`; the first time, it is asked. Raises ImageError where nobody answers."""
        return self._open()[0]

    @property
    def challenge(self) -> Challenge:
        """What it asks for at its door."""
        return self._open()[1]

    def _open(self) -> tuple[str, Challenge]:
        with self._lock:
            if self._opened is None:
                self._opened = self._ask_scheme()
            return self._opened

    def _ask_scheme(self) -> tuple[str, Challenge]:
        """Find out which scheme it speaks; raises ImageError where it speaks none that is allowed."""
        schemes = self._schemes()
        for scheme in schemes:
            found = self._knock(scheme, last=scheme == schemes[-1])
            if found is not None:
                return f"{scheme}://{self.host}", found
        raise AssertionError("the last scheme is spoken, or an error")

    def _schemes(self) -> tuple[str, ...]:
        """Return the schemes to try. This machine speaks plain HTTP, unless somebody named an authority for it."""
        if self._trust.insecure:
            return "https", "http"
        if not Reference(self.host, "x", "").is_loopback or named_for(self.host, self._trust, self._environ):
            return ("https",)
        return "http", "https"

    def _knock(self, scheme: str, *, last: bool) -> Challenge | None:
        """Ask `GET /v2/` (distribution-spec, "Determining Support"); None where the next scheme is to be tried."""
        failures = 0
        while True:
            try:
                with self._wire.send("GET", f"{scheme}://{self.host}/v2/", self._headers({})) as reply:
                    if reply.status in (200, 401):
                        return parse(reply.headers.get_all("WWW-Authenticate") or ())
                    if scheme == "http" and not last and reply.status == 400 and _PLAIN_TO_TLS in reply.read(4096):
                        return None
                    failures += 1
                    if reply.status not in AGAIN:
                        hint = "is it the right host and port? it has no `/v2/`"
                        raise refused(reply, "this is not a registry", self.host, hint)
                    if failures >= self.attempts:
                        raise refused(reply, "the registry cannot be used", self.host)
                    why, wait = f"status {reply.status}", retry_after(reply)
            except TlsError as e:
                if not last:
                    return None
                hint = "if the registry speaks plain HTTP, say so with `--insecure`"
                raise ImageError(f"no secure connection: {e}", where=self.host, hint=hint) from None
            except BrokenError as e:
                if not last and scheme == "https":
                    return None
                hint = "is it running, at this port?"
                raise UnansweredError(f"the registry does not answer: {e}", where=self.host, hint=hint) from None
            self.pause(why, failures, wait)

    def access(self, path: str = "") -> Access:
        """Return what answers challenges for a repository; raises ImageError where the user's files are damaged."""
        base = self.base
        with self._lock:
            if path not in self._accesses:
                credential = self._given or Credentials(self._environ).find(self.host, path)
                secure = base.startswith("https:") and not self._trust.insecure
                self._accesses[path] = Access(self.host, credential, secure=secure, send=self._plain)
            return self._accesses[path]

    def log_in(self) -> bool:
        """Check the credential; False where the registry asks for none. Raises ImageError where it is refused."""
        with self.request("GET", "/v2/", path="", scope="") as reply:
            if reply.status != 200:
                raise refused(reply, "the login cannot be checked", self.host)
        return bool(self.challenge.scheme)

    # Requests

    def request(
        self,
        method: str,
        address: str,
        *,
        path: str,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        patient: bool = True,
        limit: int = 0,
    ) -> Reply:
        """Make a request and return the answer; one that asks for a login has been answered, or is an error.

        address: of the registry, beginning with `/`, or whole. path: the repository. patient: broken connections and
        answers that may pass are tried again; without it, BrokenError is raised and the answer returned as it is.
        limit: so many bytes of the body are read before it returns. Raises ImageError.
        """
        url = urllib.parse.urljoin(self.base + "/", address)
        failures = 0
        while True:
            wait = 0.0
            try:
                reply = self._authorised(method, url, path, scope, headers or {}, body)
                if limit and reply.status == 200:
                    reply.hold(limit)
                if not patient or reply.status not in AGAIN or failures + 1 >= self.attempts:
                    return reply
                wait, why = retry_after(reply), f"status {reply.status}"
                reply.close()
            except BrokenError as e:
                if not patient:
                    raise
                why = str(e)
            failures += 1
            if failures >= self.attempts:
                raise given_up(failures, why, self.host)
            self.pause(why, failures, wait)

    def pause(self, why: str, failures: int, wait: float = 0.0) -> None:
        """Wait before another attempt, longer each time; raises ImageError where all is given up meanwhile."""
        seconds = min(max(wait, self._backoff * 2 ** (failures - 1)), MAX_WAIT)
        self._tell(f"{self.host}: {masked(why)}; trying again in {seconds:.1f} s")
        if self.stop.wait(seconds):
            raise ImageError("given up", where=self.host)

    def _authorised(
        self, method: str, url: str, path: str, scope: str, headers: Mapping[str, str], body: Body
    ) -> Reply:
        if self.stop.is_set():
            raise ImageError("given up", where=self.host)
        access, challenge = self.access(path), self.challenge
        own = self._own(url)
        sent = access.header(challenge, scope) if own else ""
        reply = self._followed(method, url, headers, body, sent)
        if reply.status == 401 and own:
            # A token that has run out, or a challenge that is asked here only.
            asked = parse(reply.headers.get_all("WWW-Authenticate") or ())
            if asked.scheme:
                again = access.header(asked, scope or asked.scope, stale=sent)
                if again and again != sent:
                    reply.close()
                    reply = self._followed(method, url, headers, body, again)
        if reply.status in (401, 403) and own:
            with reply:
                raise denied(
                    reply, self.host, access.user, f"{self.host}/{path}" if path else self.host, "push" in scope
                )
        return reply

    def _followed(self, method: str, url: str, headers: Mapping[str, str], body: Body, authorization: str) -> Reply:
        """Send a request; what is read may lie elsewhere, and no login is carried there."""
        for _ in range(MAX_REDIRECTS + 1):
            sent = self._headers(headers)
            if authorization and self._own(url):
                sent["Authorization"] = authorization
            try:
                reply = self._wire.send(method, url, sent, body)
            except TlsError as e:
                raise BrokenError(f"no secure connection: {e}") from None
            location = reply.header("Location")
            if reply.status not in _REDIRECTS or method not in ("GET", "HEAD") or not location:
                return reply
            reply.close()
            url = self.target(url, location)
        raise ImageError(f"more than {MAX_REDIRECTS} redirects", where=self.host)

    def target(self, url: str, location: str) -> str:
        """Return where a `Location` leads; raises ImageError where it leads out of TLS.

        A registry behind a proxy may name its own host with the scheme that it is spoken to inside.
        """
        try:
            found = urllib.parse.urljoin(url, location)
        except ValueError:
            found = location
        old, new = urllib.parse.urlsplit(url), web_address(found)
        if new.netloc.lower() == old.netloc.lower():
            return urllib.parse.urlunsplit(new._replace(scheme=old.scheme))
        if old.scheme == "https" and new.scheme != "https":
            raise ImageError(f"the registry redirects to `{shown(found)}`, out of TLS", where=self.host)
        return found

    def _own(self, url: str) -> bool:
        return _origin(url) == _origin(self.base)

    def _plain(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Ask a token service; its words about a broken connection name it."""
        failures = 0
        while True:
            try:
                reply = self._wire.send(method, url, self._headers(headers), body)
                reply.hold(LIMIT)
                return reply
            except TlsError as e:
                raise ImageError(f"no secure connection to the token service: {e}", where=self.host) from None
            except BrokenError as e:
                failures += 1
                if failures >= self.attempts:
                    raise UnansweredError(
                        f"the registry's token service does not answer: {e}", where=self.host
                    ) from None
                self.pause(str(e), failures)

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {"User-Agent": f"mkroot/{mkroot.__version__}", "Accept-Encoding": "identity", **headers}


def _origin(url: str) -> tuple[str, str, int]:
    """Return what credentials are bound to (RFC 6454): scheme, host and port."""
    split = urllib.parse.urlsplit(url)
    return split.scheme, split.hostname or "", split.port or {"https": 443, "http": 80}.get(split.scheme, 0)


def given_up(failures: int, why: str, where: str) -> UnansweredError:
    """Return the error for a registry that did not do after several attempts."""
    return UnansweredError(
        f"no luck after {failures} attempts: {masked(why)}", where=where, hint="is the network up, and the registry?"
    )


def retry_after(reply: Reply) -> float:
    """Return the seconds that an answer asks to wait (RFC 9110, 10.2.3): a number or a date; 0 for none."""
    import email.utils

    text = reply.header("Retry-After")
    if text.isascii() and text.isdigit() and len(text) < 6:
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, IndexError):
        return 0.0
