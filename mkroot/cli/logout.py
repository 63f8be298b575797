"""`mkroot logout`: forget the user and password of a registry."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "logout",
        help="forget the login of a registry",
        description="Forget the user and password of a registry, in Docker's config.json and its credential helper.",
    )
    parser.add_argument("host", metavar="HOST[:PORT]", help="the registry")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Log out; always 0: there is no login afterwards."""
    import os

    from mkroot.cli.remote import host_of
    from mkroot.oci.registry.credentials import Credentials

    host = host_of(args.host)
    credentials = Credentials(dict(os.environ))
    found = credentials.drop(host)
    sys.stderr.write(f"logged out of {host}\n" if found else f"there was no login for {host} in {credentials.path}\n")
    return 0
