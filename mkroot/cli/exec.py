"""`mkroot exec`: run one more command in a container that runs."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "exec",
        help="run one more command in a container that runs",
        description="Run one more command in a container that runs; its status is this one's, or 125 to 127 as of "
        "`mkroot run`.",
    )
    parser.add_argument("-i", "--interactive", action="store_true", help="the command reads this standard input")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable; without VALUE, this one's"
    )
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="variables, one a line")
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]", help="names of the image, or numbers")
    parser.add_argument("-w", "--workdir", metavar="DIR", help="where the command starts")
    parser.add_argument("container", metavar="ID", help="an id, its beginning, or a name")
    command = parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="CMD", help="the command, and its arguments"
    )
    command.required = False
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run it; the command's own status, or 125."""
    import os

    from mkroot.cli.running import tell_failure
    from mkroot.cli.terminal import labelled
    from mkroot.container.wish import parse_environment
    from mkroot.errors import UsageError

    if not args.command:
        raise UsageError("missing: CMD", hint="`mkroot exec ID COMMAND`; `mkroot start` runs a container's own again")
    environment = parse_environment(args.env, args.env_file, os.environ)
    if args.tty:
        environment.setdefault("TERM", os.environ.get("TERM") or "xterm")
    try:
        from mkroot.container.record import Containers
        from mkroot.container.within import execute
        from mkroot.store.store import Store, default_root

        store = Store(default_root(dict(os.environ)))
        ended = execute(
            store,
            Containers(store).find(args.container),
            tuple(args.command),
            environment=environment,
            user=args.user,
            workdir=args.workdir,
            terminal=args.tty,
            interactive=args.interactive,
        )
    except Exception as e:
        return tell_failure(e)
    if ended.fault:
        sys.stderr.write(labelled("error", ended.fault))
    return ended.code
