"""Which proxy a request goes through, as the environment says."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping

from mkroot.archive.address import basic
from mkroot.errors import MirrorError, masked_address


def chosen(environ: Mapping[str, str], scheme: str, host: str, port: int | None) -> str:
    """Return the proxy for a request, "" for none: `http_proxy`, `https_proxy`, `all_proxy`, less `no_proxy`.

    HTTP_PROXY in capitals is not read, for in a CGI program it is a request's header. Raises MirrorError for a proxy
    of another kind.
    """
    found = environ.get(f"{scheme}_proxy") or (environ.get("HTTPS_PROXY") if scheme == "https" else "")
    found = found or environ.get("all_proxy") or environ.get("ALL_PROXY") or ""
    if not found:
        return ""
    for entry in (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(","):
        name = entry.strip().lower()
        if name == "*" or (name and name in (host, f"{host}:{port}")):
            return ""
        bare = name.lstrip("*").lstrip(".")
        if bare and host.endswith("." + bare):
            return ""
    found = found if "://" in found else f"http://{found}"
    hint = "`http_proxy` and `https_proxy` name it"
    try:
        split = urllib.parse.urlsplit(found)
        fine = bool(split.hostname) and split.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise MirrorError(f"the proxy `{masked_address(found)}` has no valid host and port", hint=hint)
    if split.scheme not in ("http", "https"):
        raise MirrorError(f"the proxy `{masked_address(found)}` is neither http nor https", hint=hint)
    return found


def address(proxy: str) -> str:
    """Return a proxy's address without its credentials."""
    split = urllib.parse.urlsplit(proxy)
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}"


def headers(proxy: str) -> dict[str, str] | None:
    """Return the header with the credentials in a proxy's address, None where it has none."""
    split = urllib.parse.urlsplit(proxy)
    if split.username is None:
        return None
    user, password = urllib.parse.unquote(split.username), urllib.parse.unquote(split.password or "")
    return {"Proxy-Authorization": basic(user, password)}
