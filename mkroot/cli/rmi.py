"""`mkroot rmi`: remove images."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.oci.model import Descriptor
    from mkroot.oci.removal import Users
    from mkroot.store.store import Store


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "rmi",
        help="remove images",
        description="Remove a tag, or all tags of the image that a digest or id names. The image goes with its last "
        "tag, unless containers stand on it: then it is refused, or, with -f, the tag goes and what the containers "
        "need stays.",
    )
    parser.add_argument("references", nargs="*", metavar="REF", help="name:tag, digest, or the beginning of an id")
    parser.add_argument("-f", "--force", action="store_true", help="several tags at once, and images that are used")
    parser.add_argument("--all", action="store_true", help="every image; what containers need stays, untagged")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Remove the images; 0, or 1 where one is not there or is refused; the others are removed all the same."""
    from mkroot.cli.failure import tell_error
    from mkroot.cli.images import image_store
    from mkroot.errors import MkrootError, UsageError
    from mkroot.oci.removal import sweep, untag, untag_all
    from mkroot.rootfs.identity import assume

    if bool(args.references) == args.all:
        raise UsageError("name the images to remove, or all of them with `--all`", hint="`mkroot rmi --help`")
    assume()  # what was unpacked may belong to other ids of this user
    images = image_store()
    users = image_users(images.store)
    status = 0
    gone: list[Descriptor] = []
    tags: list[str] = []
    if args.all:
        found, names = untag_all(images)
        gone += found
        tags += names
    for reference in args.references:
        try:
            image, going = untag(images, reference, users, force=args.force)
        except MkrootError as e:
            tell_error(e)
            status = 1
            continue
        gone.append(image)
        tags += going
    if gone:
        removed = sweep(images, gone, tags, lambda: image_users(images.store))
        sys.stdout.write("".join(f"Untagged: {tag}\n" for tag in removed.untagged))
        sys.stdout.write("".join(f"Deleted: {digest}\n" for digest in removed.deleted))
    return status


def image_users(store: Store) -> Users:
    """Return the names of the containers that stand on an image, by its manifest's digest; raises ContainerError."""
    from mkroot.container.record import Containers

    found: dict[str, list[str]] = {}
    for container in Containers(store).list():
        found.setdefault(container.image, []).append(container.name or container.short)
    return found
