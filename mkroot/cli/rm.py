"""`mkroot rm`: remove containers."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "rm",
        help="remove containers",
        description="Remove containers with all that they wrote. One that runs is refused, unless -f ends it first.",
    )
    parser.add_argument("-f", "--force", action="store_true", help="end those that run")
    parser.add_argument("--all", action="store_true", help="every container that does not run; with -f, every one")
    parser.add_argument("containers", nargs="*", metavar="ID", help="an id, its beginning, or a name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Remove them; 0, or 1 where one could not be."""
    import os

    from mkroot.cli.failure import tell
    from mkroot.errors import MkrootError, UsageError
    from mkroot.rootfs.identity import assume

    if bool(args.containers) == args.all:
        raise UsageError("name containers, or say `--all`", hint="`mkroot ps -a` lists them")
    assume()  # what a container wrote may belong to other ids of this user
    from mkroot.container.record import RUNNING, Containers
    from mkroot.container.stop import ended
    from mkroot.store.store import Store, default_root

    containers = Containers(Store(default_root(dict(os.environ))))
    words = args.containers or [c.id for c in containers.list() if args.force or c.status != RUNNING]
    status = 0
    for word in words:
        try:
            container = containers.find(word)
            if container.status == RUNNING and args.force:
                ended(containers, container, 9, 10)
                if container.settings.remove:
                    sys.stdout.write(word + "\n")
                    continue
            elif container.status == RUNNING:
                raise MkrootError(
                    f"the container {container.name} is running",
                    hint=f"`mkroot stop {container.name}` ends it; `mkroot rm -f` does both",
                )
            with containers.lock(container, wait=args.force):
                containers.remove(container)
            sys.stdout.write((container.name if args.all else word) + "\n")
        except MkrootError as e:
            status = tell(e)
    return status
