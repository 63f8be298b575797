"""`mkroot wait`: wait until containers have ended."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "wait",
        help="wait until containers have ended",
        description="Wait until containers have ended, and print the status of each command.",
    )
    parser.add_argument("containers", nargs="+", metavar="ID", help="an id, its beginning, or a name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Wait; 0, or 1 where one is not there."""
    import os

    from mkroot.container.record import Containers
    from mkroot.container.stop import wait
    from mkroot.store.store import Store, default_root

    containers = Containers(Store(default_root(dict(os.environ))))
    for container in [containers.find(word) for word in args.containers]:
        left = wait(containers, container)
        code = left.exit_code if left is not None else None
        sys.stdout.write("?\n" if code is None else f"{code}\n")
        sys.stdout.flush()
    return 0
