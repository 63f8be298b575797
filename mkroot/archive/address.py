"""Addresses of archives: which schemes are taken, where credentials come from, and that nobody gets to see them."""

from __future__ import annotations

import base64
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from mkroot.errors import MirrorError, masked_address, printable

SCHEMES = ("http", "https", "file")
_BAD = re.compile(r"[\x00-\x20\x7f\\<>\"]")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where an archive or one of its files is.

    url: without user, password or trailing slash; safe to show.
    user, password: what the URL or apt's auth.conf gave; never shown, never stored.
    """

    url: str
    user: str = ""
    password: str = ""

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Address(url={self.url!r})"

    @property
    def scheme(self) -> str:
        """`http`, `https` or `file`."""
        return self.url.partition(":")[0]

    @property
    def host(self) -> str:
        """The host's name without a port, "" for `file:`."""
        return urllib.parse.urlsplit(self.url).hostname or ""

    @property
    def path(self) -> Path:
        """The local path of a `file:` address."""
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(self.url).path))

    def join(self, relative: str) -> Address:
        """Return the address of `relative`, a path as an index gives it, below this one.

        Raises MirrorError for a path that is absolute or leaves the archive.
        """
        parts = [p for p in relative.split("/") if p not in ("", ".")]
        if not parts or relative.startswith("/") or ".." in parts or "\0" in relative:
            raise MirrorError(f"not a path inside an archive: {relative[:200]!r}", where=self.url)
        quoted = urllib.parse.quote("/".join(parts).encode("utf-8", "surrogateescape"), safe="/~+:@=,_-.")
        return Address(url=f"{self.url}/{quoted}", user=self.user, password=self.password)

    def sibling(self, name: str, replaced: str) -> Address:
        """Return the archive `name` beside this one: in the place of the last folder called `replaced`, else beside
        the last folder."""
        split = urllib.parse.urlsplit(self.url)
        parts = split.path.split("/")
        at = len(parts) - 1 - parts[::-1].index(replaced) if replaced in parts else max(len(parts) - 1, 1)
        path = "/".join([*parts[:at], name, *parts[at + 1 :]])
        return Address(url=_unsplit(split.scheme, split.netloc, path), user=self.user, password=self.password)


def parse(text: str, where: str) -> Address:
    """Return the address that `text` names; raises MirrorError, with credentials masked.

    `file:/path`, `file:///path` and `file://localhost/path` mean the same; relative paths do not exist.
    """
    text = text.strip()
    shown = printable(masked_address(text))[:300]
    try:
        split = urllib.parse.urlsplit(text)
        port = split.port
    except ValueError:  # its words may be a part of the password
        hint = "a host is a name or a bracketed IPv6 address, a port a number; in a password `/` is written `%2F`"
        raise MirrorError(f"not an address: `{shown}`", where=where, hint=hint) from None
    scheme = split.scheme.lower()
    if scheme not in SCHEMES:
        raise MirrorError(
            f"an archive's address must start with `http:`, `https:` or `file:`, this does not: `{shown}`", where=where
        )
    if split.query or split.fragment or _BAD.search(text):
        raise MirrorError(f"an archive's address is a folder, this is not: `{shown}`", where=where)
    path = re.sub(r"/{2,}", "/", split.path).rstrip("/")
    if scheme == "file":
        if split.hostname not in (None, "localhost") or not split.path.startswith("/"):
            raise MirrorError(f"a `file:` address needs an absolute path: `{shown}`", where=where)
        return Address(url=f"file:{path or '/'}")
    if not split.hostname:
        raise MirrorError(f"an address without a host: `{shown}`", where=where)
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    user = urllib.parse.unquote(split.username or "")
    password = urllib.parse.unquote(split.password or "")
    netloc = host if port is None else f"{host}:{port}"
    return Address(url=_unsplit(scheme, netloc, path), user=user, password=password)


def basic(user: str, password: str) -> str:
    """Return the value of a header `Authorization` (RFC 7617, in UTF-8)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()


def _unsplit(scheme: str, netloc: str, path: str) -> str:
    return f"{scheme}:{path}" if scheme == "file" else f"{scheme}://{netloc}{path}"


def with_credentials(address: Address, etc: Path = Path("/etc/apt")) -> Address:
    """Return `address` with user and password from apt's `auth.conf` (apt_auth.conf(5)) where it has none itself.

    As with apt, an entry without a scheme is for https only. Files that cannot be read are passed over.
    """
    if address.user or address.scheme == "file":
        return address
    for path in [etc / "auth.conf", *_parts(etc / "auth.conf.d")]:
        try:
            words = path.read_text("utf-8", "replace").split()
        except OSError:
            continue
        for machine, entry in _machines(words):
            if _matches(address, machine):
                return Address(url=address.url, user=entry.get("login", ""), password=entry.get("password", ""))
    return address


def _parts(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".conf"))
    except OSError:
        return ()


def _machines(words: list[str]) -> Iterable[tuple[str, Mapping[str, str]]]:
    """Yield each machine of a netrc-like file with its login and password."""
    machine, entry = "", dict[str, str]()
    pairs = zip(words[::2], words[1::2])
    for key, value in pairs:
        if key == "machine":
            if machine:
                yield machine, entry
            machine, entry = value, {}
        else:
            entry[key] = value
    if machine:
        yield machine, entry


def _matches(address: Address, machine: str) -> bool:
    scheme, separator, rest = machine.rpartition("://")
    if (scheme if separator else "https") != address.scheme:
        return False
    wanted = rest.rstrip("/")
    found = address.url.partition("://")[2]
    bare = address.host + urllib.parse.urlsplit(address.url).path
    return any(f == wanted or f.startswith(wanted + "/") for f in (found, bare))
