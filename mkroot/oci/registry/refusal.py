"""What a registry says when it refuses, in words (distribution-spec, "Error codes")."""

from __future__ import annotations

import json
import re

from mkroot.errors import ImageError
from mkroot.oci.registry.wire import BrokenError, Reply

LIMIT = 64 << 10  # bytes of an answer that are read for its words
_SENT = re.compile(r"\b(Basic|Bearer)\s+\S+", re.IGNORECASE)  # what a careless server repeats of what it was sent


class RefusedError(ImageError):
    """A registry that answered, and refused. status: HTTP's. codes: those of the registry's errors, upper case."""

    status: int = 0
    codes: tuple[str, ...] = ()


class UnansweredError(ImageError):
    """A registry that does not answer, or whose answers break off, at every attempt."""


def refused(reply: Reply, what: str, where: str, hint: str | None = None) -> RefusedError:
    """Read a refusal and return the error that tells of it. what: what was tried, "the manifest cannot be stored"."""
    status = reply.status
    try:
        codes, words = _told(reply.read(LIMIT))
    except BrokenError:
        codes, words = (), ""
    if 300 <= status < 400:
        words = "it redirects elsewhere"
    if status == 429 or status >= 500:
        hint = hint or "the registry has trouble of its own; try again later"
    said = f": {words}" if words else ""
    error = RefusedError(f"{what}: the registry answers with status {status}{said}", where=where, hint=hint)
    error.status, error.codes = status, codes
    return error


def denied(reply: Reply, host: str, user: str, where: str, pushing: bool) -> RefusedError:
    """Return the error for status 401 or 403. user: whose credentials were sent, "" for none."""
    status = reply.status
    try:
        codes, words = _told(reply.read(LIMIT))
    except BrokenError:
        codes, words = (), ""
    said = f" ({words})" if words else ""
    if not user:
        what = f"the registry wants a login for this{said}"
        hint = f"`mkroot login {host}`"
    elif status == 401:
        what = f"the registry does not accept the login of `{user}`{said}"
        hint = f"`mkroot login {host}` with the right user and password"
    else:
        what = f"the registry does not let `{user}` {'push to' if pushing else 'read'} this repository{said}"
        hint = f"ask whoever looks after `{host}`, or log in as another user: `mkroot login {host}`"
    error = RefusedError(what, where=where, hint=hint)
    error.status, error.codes = status, codes
    return error


def _told(data: bytes) -> tuple[tuple[str, ...], str]:
    """Return the codes and the words of an answer's errors; of one that is not JSON, nothing: it is a web page."""
    try:
        found = json.loads(data).get("errors") or []
        rows = [e for e in found if isinstance(e, dict)][:5]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return (), ""
    codes = tuple(str(e.get("code", "")).upper()[:100] for e in rows)
    words = [_SENT.sub(r"\1 ***", str(e.get("message") or e.get("code") or "").strip()[:1000])[:300] for e in rows]
    return codes, "; ".join(dict.fromkeys(w for w in words if w))
