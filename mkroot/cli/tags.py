"""`mkroot tags`: list the tags of a repository in a registry."""

from __future__ import annotations

import argparse

from mkroot.cli.remote import add_remote_options


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "tags",
        help="list the tags of a repository in a registry",
        description="List the tags of a repository in a registry, one a line, sorted.",
    )
    parser.add_argument("repository", metavar="HOST[:PORT]/NAME", help="the repository")
    add_remote_options(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the tags; 0, or 1 where there is no such repository."""
    from mkroot.cli.remote import registry_of, remote
    from mkroot.cli.terminal import print_json
    from mkroot.errors import UsageError
    from mkroot.oci.registry.repository import Repository

    reference = remote(args.repository)
    if args.repository != reference.name:
        raise UsageError("a repository has neither tag nor digest here", hint=f"`mkroot tags {reference.name}`")
    with registry_of(reference.host, args) as registry:
        tags = Repository(registry, reference.path).tags()
    if args.json:
        print_json(tags)
    else:
        for tag in tags:
            print(tag)
    return 0
