"""What the commands that speak to a registry share: their options, and the registry of a reference."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.oci.reference import Reference
    from mkroot.oci.registry.credentials import Credential
    from mkroot.oci.registry.registry import Registry
    from mkroot.progress import Progress


def add_remote_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes that speaks to a registry."""
    parser.add_argument("--ca", metavar="FILE", help="trust this authority, too (PEM), for the registry's certificate")
    parser.add_argument("--insecure", action="store_true", help="trust any certificate, and speak plain HTTP at need")


def remote(text: str) -> Reference:
    """Read a reference that has a host; raises ImageError for one that has none: no registry is the default."""
    from mkroot.errors import ImageError
    from mkroot.oci.reference import Reference

    reference = Reference.parse(text)
    if not reference.host:
        raise ImageError(
            f"`{text}` names no registry",
            hint=f"write its host before it, as in `registry.example/{reference.path}`; "
            "`mkroot tag` gives an image of the store such a name",
        )
    return reference


def registry_of(
    host: str, args: argparse.Namespace, progress: Progress | None = None, credential: Credential | None = None
) -> Registry:
    """Return the registry, not yet asked anything."""
    import os
    from pathlib import Path

    from mkroot.oci.registry.registry import Registry
    from mkroot.oci.registry.trust import Trust

    trust = Trust(ca=Path(args.ca) if args.ca else None, insecure=args.insecure)
    tell = progress.warn if progress else None
    return Registry(host, dict(os.environ), trust=trust, credential=credential, tell=tell)


def host_of(text: str) -> str:
    """Read a registry's host; raises UsageError."""
    from mkroot.errors import ImageError, UsageError
    from mkroot.oci.reference import Reference

    try:
        host = Reference.parse(f"{text}/x").host
    except ImageError:
        host = ""
    if not text or host != text:
        raise UsageError(
            f"`{text}` is not a registry's host", hint="write it as `registry.example` or `127.0.0.1:5000`"
        )
    return host
