"""`mkroot ps`: list the containers."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.container.record import Container


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "ps", help="list the containers", description="List the containers that run; with -a, all of them."
    )
    parser.add_argument("-a", "--all", action="store_true", help="those that have ended, too")
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids alone")
    parser.add_argument("--no-trunc", action="store_true", help="print whole ids and commands")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List them; always 0."""
    import os
    import shlex
    import time

    from mkroot.cli.history import cut
    from mkroot.cli.images import print_table
    from mkroot.cli.terminal import print_json
    from mkroot.container.record import RUNNING, Containers
    from mkroot.store.store import Store, default_root

    containers = Containers(Store(default_root(dict(os.environ))))
    found = [c for c in containers.list() if args.all or c.status == RUNNING]
    if args.json:
        print_json([_described(c) for c in found])
        return 0
    if args.quiet:
        sys.stdout.write("".join(f"{c.id if args.no_trunc else c.short}\n" for c in found))
        return 0
    table = [("CONTAINER", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME")]
    now = time.time()
    for c in found:
        table.append(
            (
                c.id if args.no_trunc else c.short,
                cut(c.reference, 40, args.no_trunc),
                cut(shlex.join(c.command), 30, args.no_trunc),
                f"{ago(now - c.created)} ago",
                status_of(c, now),
                c.name,
            )
        )
    print_table(table)
    return 0


def _described(container: Container) -> dict[str, object]:
    from mkroot.oci.model import timestamp

    return {
        "id": container.id,
        "name": container.name,
        "image": container.reference,
        "digest": container.image,
        "command": list(container.command),
        "status": container.status,
        "exit_code": container.exit_code,
        "created": timestamp(container.created),
    }


def status_of(container: Container, now: float) -> str:
    """Return `created`, `running 5 min`, `exited (0) 2 h ago`."""
    from mkroot.container.record import EXITED, RUNNING

    if container.status == RUNNING:
        return f"running {ago(now - container.started)}"
    if container.status == EXITED:
        code = "?" if container.exit_code is None else container.exit_code
        when = f" {ago(now - container.finished)} ago" if container.finished else ""
        return f"exited ({code}){when}"
    return container.status


def ago(seconds: float) -> str:
    """Return a span of time in its biggest unit: `5 s`, `3 min`, `2 h`, `4 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
