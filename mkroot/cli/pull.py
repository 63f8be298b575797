"""`mkroot pull`: fetch an image from a registry."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mkroot.cli.remote import add_remote_options

if TYPE_CHECKING:
    from mkroot.oci.registry.pull import Wanted


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "pull",
        help="fetch an image from a registry",
        description="Fetch an image from a registry into the store, and tag it. Only what the store lacks is fetched, "
        "and all of it is checked. Prints the name with the digest.",
    )
    parser.add_argument("reference", metavar="REF", help="HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--arch", metavar="A", help="of an image for several architectures, this one; default: this machine's"
    )
    which.add_argument("--all-arch", action="store_true", help="all of them, under one name")
    add_remote_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Pull; 0, or 1 where the registry has it not, or sends something else."""
    import os

    import msgspec

    from mkroot.cli.remote import registry_of, remote
    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.oci.registry.pull import pull
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    reference, wanted = remote(args.reference), wanted_of(args.arch, args.all_arch)
    store = Store(default_root(dict(os.environ)))
    progress = make_progress()
    with using(store), registry_of(reference.host, args, progress) as registry:
        pulled = pull(store, reference, registry, wanted, progress)
    if args.json:
        print_json(msgspec.to_builtins(pulled))
    else:
        print(f"{reference.name}{':' + reference.tag if reference.tag else ''}@{pulled.digest}")
    return 0


def wanted_of(arch: str | None, every: bool) -> Wanted:
    """Return which image is wanted: of an architecture in Debian's words or Go's, or of this machine's."""
    import platform

    from mkroot.errors import UsageError
    from mkroot.oci.model import PLATFORMS
    from mkroot.oci.registry.pull import Wanted

    if arch is None:
        machine = platform.machine()
        own = {"x86_64": "amd64", "aarch64": "arm64", "i686": "i386", "armv7l": "armhf", "ppc64le": "ppc64el"}
        architecture, variant = PLATFORMS.get(own.get(machine, machine), (machine, ""))
        return Wanted(architecture=architecture, variant=variant, every=every)
    if arch in PLATFORMS:
        architecture, variant = PLATFORMS[arch]
        return Wanted(architecture=architecture, variant=variant)
    if arch not in {go for go, _ in PLATFORMS.values()}:
        raise UsageError(f"`--arch {arch}`: no such architecture", hint=f"one of {', '.join(sorted(PLATFORMS))}")
    return Wanted(architecture=arch)
