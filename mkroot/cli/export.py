"""`mkroot export`: write a container's or an image's tree as one tar archive."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mkroot.oci.store import ImageStore
    from mkroot.rootfs.identity import Identity


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a container's or an image's tree as a tar archive",
        description="Write the tree that a container or an image shows as one flat tar archive: layers and history "
        "are gone. A container's name or id wins over an image's. `-` is standard output.",
    )
    parser.add_argument("name", metavar="ID|REF", help="a container, or an image")
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="the archive; default: standard output")
    parser.add_argument("-o", "--output", metavar="FILE", help="the same, as docker has it")
    parser.add_argument("--arch", metavar="A", help="of an image for several architectures, this one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export; 0, or 1 where that fails."""
    from mkroot.cli.images import image_store
    from mkroot.cli.streams import target
    from mkroot.container.copying import content
    from mkroot.container.opening import readable
    from mkroot.oci.layerfile import layer_members
    from mkroot.rootfs.identity import assume
    from mkroot.rootfs.upper import read_open
    from mkroot.sourcedate import source_date
    from mkroot.store.use import using
    from mkroot.tar.write import END

    latest = source_date(os.environ)
    identity = assume()
    images = image_store()
    with images.using(), using(images.store):
        lowers, owners = _folders(args, images, identity)
        with readable(images.store, lowers, identity) as root, target(args.output or args.file) as out:
            changes = read_open(root, owners=owners)
            for chunk in layer_members(changes.entries, lambda e: content(changes, e), latest=latest):
                out.write(chunk)
            out.write(END)
    return 0


def _folders(
    args: argparse.Namespace, images: ImageStore, identity: Identity
) -> tuple[list[Path], dict[str, tuple[int, int]]]:
    """Return the folders of the tree, the topmost first, and the owners that they cannot tell themselves."""
    from mkroot.cli.inspect import means, the_image
    from mkroot.container.opening import folders_of, image_folders
    from mkroot.container.record import Containers
    from mkroot.errors import ImageError

    containers = Containers(images.store)
    if means(containers, args.name):
        container = containers.find(args.name)
        return folders_of(images.store, containers, container, identity), container.owners
    try:
        _, image = the_image(args.name, args.arch)
    except ImageError as e:
        hint = f"{e.hint or ''}; `mkroot ps -a` lists the containers".lstrip("; ")
        raise ImageError(e.what, where=e.where, hint=hint) from None
    return image_folders(images.store, images, image, identity), {}
