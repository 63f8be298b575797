"""`mkroot kill`: send a signal to containers that run."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "kill", help="send a signal to containers that run", description="Send a signal to a container's command."
    )
    parser.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL", help="a name or number (default: KILL)")
    parser.add_argument("containers", nargs="+", metavar="ID", help="an id, its beginning, or a name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send it; 0, or 1 where a container does not run."""
    import os

    from mkroot.cli.failure import tell
    from mkroot.container.record import Containers
    from mkroot.container.stop import send_signal
    from mkroot.container.wish import signal_number
    from mkroot.errors import MkrootError, UsageError
    from mkroot.store.store import Store, default_root

    number = signal_number(args.signal)
    if number is None:
        raise UsageError(f"`--signal {args.signal}` is not a signal", hint="`kill -l` lists them")
    containers = Containers(Store(default_root(dict(os.environ))))
    status = 0
    for word in args.containers:
        try:
            send_signal(containers, containers.find(word), number)
            sys.stdout.write(word + "\n")
        except MkrootError as e:
            status = tell(e)
    return status
