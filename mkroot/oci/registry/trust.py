"""Whom to trust under TLS: the system's authorities, and those that the user or Docker's folders name for a host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from mkroot.errors import ImageError

if TYPE_CHECKING:
    import ssl

DOCKER = Path("/etc/docker/certs.d")


class Trust(Struct, frozen=True, kw_only=True):
    """What the command line says. ca: a file of authorities. insecure: any certificate, or none at all."""

    ca: Path | None = None
    insecure: bool = False


def folders(host: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where a host's own certificates may lie, as Docker has it: `certs.d/HOST:PORT/`."""
    home = environ.get("HOME") or os.path.expanduser("~")
    config = Path(environ.get("XDG_CONFIG_HOME") or Path(home) / ".config")
    return DOCKER / host, config / "mkroot" / "certs.d" / host


def named_for(host: str, trust: Trust, environ: Mapping[str, str]) -> bool:
    """Tell whether somebody named an authority for this host, so that it speaks TLS even on this machine."""
    return trust.ca is not None or any(any(f.glob("*.crt")) for f in folders(host, environ))


def context(host: str, trust: Trust, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Return the TLS settings for a host; raises ImageError where a file that they need cannot be used.

    The system's authorities, or those that `SSL_CERT_FILE` names instead, with `*.crt` of the host's folders. A
    client's certificate lies there as `NAME.cert` with `NAME.key`.
    """
    import ssl

    found = ssl.create_default_context()
    if named := environ.get("SSL_CERT_FILE"):
        _load(found, Path(named), "SSL_CERT_FILE names")
    if trust.ca:
        _load(found, trust.ca, "`--ca` names")
    for folder in folders(host, environ):
        for path in sorted(folder.glob("*.crt")):
            _load(found, path, "the host's folder has")
        for path in sorted(folder.glob("*.cert")):
            try:
                found.load_cert_chain(path, path.with_suffix(".key"))
            except (OSError, ssl.SSLError) as e:
                raise ImageError(
                    f"the client's certificate cannot be used: {_why(e)}",
                    where=str(path),
                    hint=f"its key must lie beside it as `{path.stem}.key`",
                ) from None
    if trust.insecure:
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
    return found


def _load(into: ssl.SSLContext, path: Path, who: str) -> None:
    import ssl

    try:
        into.load_verify_locations(path)
    except (OSError, ssl.SSLError) as e:
        raise ImageError(f"{who} a file of authorities that cannot be used: {_why(e)}", where=str(path)) from None


def _why(error: OSError) -> str:
    import ssl

    if isinstance(error, ssl.SSLError):
        return "it holds no certificate in PEM form"
    return error.strerror or str(error)
