"""Where a mirror may send a reader: on to http and https, never out of TLS, and with no credentials to another host."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping

from mkroot.archive.address import Address
from mkroot.errors import MirrorError, masked_address

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)


def target(url: str, location: str, address: Address) -> str:
    """Return where `Location` leads from `url`; raises MirrorError. address: of the file, for messages.

    What stands after a `?` may be a key to what is there, and is not shown.
    """
    shown = masked_address(location.partition("?")[0])[:200]
    try:
        found = urllib.parse.urljoin(url, location)
        new, old = urllib.parse.urlsplit(found), urllib.parse.urlsplit(url)
        fine = bool(new.hostname) and new.port != 0 and location.isprintable()
    except ValueError:
        raise MirrorError(f"a redirect to `{shown}`, which is no address", where=str(address)) from None
    if not location or new.scheme not in ("http", "https"):
        raise MirrorError(f"a redirect to `{shown}`, which is neither http nor https", where=str(address))
    if not fine:
        raise MirrorError(f"a redirect to `{shown}`, which is no address", where=str(address))
    if old.scheme == "https" and new.scheme == "http":
        raise MirrorError(f"a redirect from https to `{shown}`", where=str(address))
    return found


def carried(headers: Mapping[str, str], url: str, to: str) -> Mapping[str, str]:
    """Return the headers that go along from one URL to another.

    Credentials are for the host that they were given for; a redirect elsewhere must not carry them away.
    """
    if urllib.parse.urlsplit(to)[:2] == urllib.parse.urlsplit(url)[:2]:
        return headers
    return {k: v for k, v in headers.items() if k.lower() != "authorization"}
