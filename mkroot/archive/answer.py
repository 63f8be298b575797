"""What a mirror's answer says of itself: whether the file is there, its size, where in it the bytes begin."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from mkroot.archive.address import Address
from mkroot.errors import MirrorError

DRAINED = 64 << 10  # bytes of a redirect's own body that are read so that its connection can be used again
_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class NotFoundError(MirrorError):
    """The archive answers, and does not have the file."""


class WrongSizeError(MirrorError):
    """The archive offers a file of another size than the one that was promised."""


class CancelledError(MirrorError):
    """The work was given up on purpose: another transfer failed, or the user asked for it."""


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer says of itself: its size where it tells, and what a conditional request may refer to."""

    size: int | None = None
    etag: str = ""
    modified: str = ""
    unchanged: bool = False


class Again(Exception):
    """An attempt failed in a way that may pass.

    wait: what the server asks for, in seconds. connected: there was a connection at least.
    """

    def __init__(self, reason: str, wait: float = 0.0, *, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait = wait
        self.connected = connected


def check_size(address: Address, found: int | None, limit: int, size: int | None) -> None:
    """Check the bytes that a file has where that is known; raises WrongSizeError. See `Http.stream` for the bounds."""
    if found is None:
        return
    if size is not None and found != size:
        raise WrongSizeError(f"it has {found} bytes where {size} were promised", where=str(address))
    if found > limit:
        raise WrongSizeError(f"it has {found} bytes, more than the {limit} that are taken", where=str(address))


def check_status(response: Any, address: Address) -> None:
    """Let an answer with a file or with nothing new pass; raises NotFoundError, Again, MirrorError for others."""
    status = response.status
    if status in (200, 206, 304):
        return
    where = str(address)
    if status in (404, 410):
        raise NotFoundError(f"the mirror does not have it (status {status})", where=where)
    if status == 416:
        raise Again("the mirror's file became shorter (status 416)")
    if status in _AGAIN:
        raise Again(f"the mirror answers with status {status}", _retry_after(response))
    if status in (401, 403, 407):
        raise MirrorError(
            f"the mirror refuses access (status {status})",
            where=where,
            hint="credentials go into the address (`https://user:password@…`) or into apt's `auth.conf`",
        )
    raise MirrorError(f"the mirror answers with status {status}", where=where)


def _retry_after(response: Any) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


def offset_of(response: Any, start: int, address: Address) -> int:
    """Return where in the file the answer starts (RFC 9110, 14.4); raises MirrorError where it is not `start`."""
    if response.status != 206:
        return 0
    given = response.headers.get("Content-Range", "")
    if not given.startswith(f"bytes {start}-"):
        raise MirrorError(f"a wrong Content-Range: {given[:80]!r}", where=str(address))
    return start


def length_of(response: Any, address: Address) -> int | None:
    """Return the bytes of an answer's body, None where it does not tell; raises MirrorError for a malformed length."""
    text = response.headers.get("Content-Length", "").split(",")[0].strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise MirrorError(f"a wrong Content-Length: {text[:80]!r}", where=str(address))
    return int(text)


def echoed(value: str) -> str:
    """Return a header's value that is sent back with the next request, "" where it is too odd for that."""
    return value if len(value) <= 256 and value.isascii() and value.isprintable() else ""


def pass_over(response: Any) -> None:
    """Be done with an answer whose body does not matter, which may be without end."""
    import urllib3

    with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
        left = DRAINED
        while left > 0 and (chunk := response.read1(left)):
            left -= len(chunk)
        if left > 0:
            response.release_conn()
            return
    response.close()
