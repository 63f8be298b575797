"""`mkroot logs`: show what a container's command wrote."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "logs",
        help="show what a container's command wrote",
        description="Show what a container's command wrote to standard output and standard error, as it came.",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    parser.add_argument("-n", "--tail", type=int, metavar="N", help="the last N lines alone")
    parser.add_argument("container", metavar="ID", help="an id, its beginning, or a name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show it; 0, or 1 where there is no such container."""
    import os
    import time

    from mkroot.container.record import RUNNING, Containers
    from mkroot.errors import ContainerError, UsageError
    from mkroot.store.store import Store, default_root

    if args.tail is not None and args.tail < 0:
        raise UsageError(f"`--tail {args.tail}` is not a number of lines")
    containers = Containers(Store(default_root(dict(os.environ))))
    container = containers.find(args.container)
    out = sys.stdout.buffer
    with open(containers.log(container), "rb") as f:
        if args.tail is not None:
            f.seek(_last_lines(f.fileno(), args.tail))
        running = True
        while running:
            try:
                running = args.follow and containers.get(container.id).status == RUNNING
            except ContainerError:
                running = False  # it removed itself
            while data := f.read(1 << 16):  # after the look at its status: what it wrote at last is not missed
                out.write(data)
            out.flush()
            if running:
                time.sleep(0.05)
    return 0


def _last_lines(fd: int, count: int) -> int:
    """Return where the last lines of a file begin."""
    import os

    end = os.fstat(fd).st_size
    at, found = end, 0
    while at > 0 and count > 0:
        start = max(0, at - (1 << 16))
        data = os.pread(fd, at - start, start)
        for i in range(len(data) - 1, -1, -1):
            if data[i] == 10 and start + i != end - 1:
                found += 1
                if found == count:
                    return start + i + 1
        at = start
    return 0 if count else end
