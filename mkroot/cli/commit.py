"""`mkroot commit`: make an image of a container."""

from __future__ import annotations

import argparse
import os


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "commit",
        help="make an image of a container",
        description="Make an image of a container: the layers of its image as they are, and one more of all that it "
        "wrote or removed. The config is the image's own with the changes of -c. With SOURCE_DATE_EPOCH the same "
        "tree gives the same digest.",
    )
    parser.add_argument("container", metavar="ID", help="a container: its id, the beginning of it, or its name")
    parser.add_argument("reference", nargs="?", metavar="REF", help="the new image's name, such as my-ubuntu:1.0")
    parser.add_argument("-m", "--message", default="", metavar="MSG", help="what was done, for the history")
    parser.add_argument("-a", "--author", default="", metavar="AUTHOR", help="who did it")
    parser.add_argument(
        "-c",
        "--change",
        action="append",
        default=[],
        metavar="CHANGE",
        help="CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR as a Dockerfile has it; may be "
        "repeated",
    )
    parser.add_argument(
        "--compression", choices=("gzip", "zstd", "zstd:chunked", "none"), default="gzip", help="default: gzip"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Commit, and print the new image's id; 0, or 1 where that fails."""
    import time

    from mkroot.cli.images import image_store
    from mkroot.cli.options import utf8
    from mkroot.cli.tag import new_name
    from mkroot.container.commit import Words, commit
    from mkroot.container.record import Containers
    from mkroot.oci.instructions import changed
    from mkroot.rootfs.identity import assume
    from mkroot.sourcedate import source_date

    reference = new_name(args.reference) if args.reference else None
    changed({}, args.change)  # before anything is done
    latest = source_date(os.environ)
    identity = assume()
    images = image_store()
    containers = Containers(images.store)
    container = containers.find(args.container)
    words = Words(
        message=utf8(args.message, "-m"),
        author=utf8(args.author, "-a"),
        changes=tuple(args.change),
        created=int(time.time()) if latest is None else latest,
        latest=latest,
        compression=args.compression,
    )
    with images.using():
        descriptor, image_id = commit(images, containers, container, identity, words)
        if reference is None:
            images.keep(descriptor)
        else:
            images.tag(descriptor, reference)
    print(image_id)
    return 0
