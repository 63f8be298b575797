"""`mkroot save`: write images into an archive."""

from __future__ import annotations

import argparse

FORMATS = ("docker-archive", "oci-archive")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "save",
        help="write images into an archive",
        description="Write images of the store, with their tags, into one archive that docker, podman and skopeo "
        "read: `mkroot save REF... FILE` or `mkroot save -o FILE REF...`; `-` is standard output.",
    )
    parser.add_argument("words", nargs="+", metavar="REF... FILE", help="images, and the archive")
    parser.add_argument("-o", "--output", metavar="FILE", help="the archive; all other words are images")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: docker-archive")
    parser.add_argument("--arch", metavar="A", help="of an image for several architectures, this one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Save the images; 0, or 1 where one is not there or the archive cannot be written."""
    from mkroot.cli.images import image_store
    from mkroot.cli.inspect import architecture_of
    from mkroot.cli.streams import target
    from mkroot.errors import UsageError
    from mkroot.oci.saving import save_docker, save_oci, wanted

    names, file = (args.words, args.output) if args.output else (args.words[:-1], args.words[-1])
    if not names:
        raise UsageError("name the archive, too: `mkroot save REF FILE`", hint="`-` is standard output")
    docker = args.format == FORMATS[0]
    architecture = architecture_of(args.arch) if docker or args.arch else None
    images = image_store()
    with images.using():  # or a blob could be collected meanwhile
        saved = wanted(images, names, architecture)
        with target(file) as out:
            (save_docker if docker else save_oci)(images, saved, out)
    return 0
