"""`mkroot tag`: give an image another name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.oci.reference import Reference


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "tag",
        help="give an image another name",
        description="Give an image another name. An image that had that name loses it; nothing is copied.",
    )
    parser.add_argument("image", metavar="IMAGE", help="name:tag, digest, or the beginning of an id")
    parser.add_argument("reference", metavar="REF", help="the new name, such as 127.0.0.1:5000/team/box:1")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tag; 0, or 1 where there is no such image."""
    from mkroot.cli.images import image_store

    reference = new_name(args.reference)
    images = image_store()
    with images.using():  # or the image could be collected between the look and the tag
        images.tag(images.find(args.image), reference)
    return 0


def new_name(text: str) -> Reference:
    """Return the reference that an image shall get; raises ImageError, also where it has a digest."""
    from mkroot.errors import ImageError
    from mkroot.oci.reference import Reference

    reference = Reference.parse(text)
    if reference.digest:
        raise ImageError(
            f"`{text}` has a digest, which is not given but follows from the content",
            hint=f"write `{reference.tagged or reference.name + ':1'}`",
        )
    return reference
