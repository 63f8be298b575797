"""`mkroot stop`: end containers that run."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "stop",
        help="end containers that run",
        description="Send a container's command the signal that its image names for that (SIGTERM), and SIGKILL where "
        "it does not end in time.",
    )
    parser.add_argument("-t", "--time", type=float, default=10, metavar="SECONDS", help="to wait (default: 10)")
    parser.add_argument("containers", nargs="+", metavar="ID", help="an id, its beginning, or a name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Stop them; 0, or 1 where one could not be."""
    import os

    from mkroot.cli.failure import tell
    from mkroot.container.record import RUNNING, Containers
    from mkroot.container.stop import ended
    from mkroot.errors import MkrootError
    from mkroot.store.store import Store, default_root

    containers = Containers(Store(default_root(dict(os.environ))))
    status = 0
    for word in args.containers:
        try:
            container = containers.find(word)
            if container.status == RUNNING:
                ended(containers, container, container.settings.stop_signal, max(0.0, args.time))
            sys.stdout.write(word + "\n")
        except MkrootError as e:
            status = tell(e)
    return status
