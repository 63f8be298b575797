"""`mkroot start`: run a container's command again, over what it wrote before."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "start",
        help="run a container's command again",
        description="Run a container's command again, over what it wrote before. Without -a and -i it is left "
        "running, and its output goes to `mkroot logs`.",
    )
    parser.add_argument("-a", "--attach", action="store_true", help="show its output here; its status is this one's")
    parser.add_argument("-i", "--interactive", action="store_true", help="as -a, and it reads this standard input")
    parser.add_argument("container", metavar="ID", help="an id, its beginning, or a name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Start it; 0, with -a the command's own status, or 125."""
    import os

    from mkroot.cli.running import detached, foreground, tell_failure
    from mkroot.errors import ContainerError
    from mkroot.rootfs.identity import assume

    attached = args.attach or args.interactive
    try:
        identity = assume()
        from mkroot.container.record import RUNNING, Containers
        from mkroot.store.store import Store, default_root

        store = Store(default_root(dict(os.environ)))
        container = Containers(store).find(args.container)
        if container.status == RUNNING:
            raise ContainerError(
                f"the container {container.name} is running", hint=f"`mkroot exec {container.name} …` runs more in it"
            )
        if attached:
            return foreground(store, identity, container, interactive=args.interactive)
        detached(store, identity, container)
    except Exception as e:
        return tell_failure(e)
    sys.stdout.write(args.container + "\n")
    return 0
