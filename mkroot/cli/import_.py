"""`mkroot import`: make an image of a root's tar archive."""

from __future__ import annotations

import argparse
import os
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "import",
        help="make an image of a root's tar archive",
        description="Make an image with one layer of any root's tar archive, compressed or not, of whatever "
        "distribution. With SOURCE_DATE_EPOCH the same tree gives the same digest.",
    )
    parser.add_argument("file", metavar="TAR", help="the archive; `-`: standard input")
    parser.add_argument("reference", nargs="?", metavar="REF", help="the image's name, such as alpine:3.20")
    parser.add_argument("-m", "--message", default="", metavar="MSG", help="a comment for the history")
    parser.add_argument(
        "-c",
        "--change",
        action="append",
        default=[],
        metavar="CHANGE",
        help="CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR as a Dockerfile has it; may be "
        "repeated",
    )
    parser.add_argument("--arch", metavar="A", help="what it runs on; default: as its programs tell")
    parser.add_argument(
        "--compression", choices=("gzip", "zstd", "zstd:chunked", "none"), default="gzip", help="default: gzip"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import, and print the new image's id; 0, or 1 where the archive is refused."""
    import contextlib
    import time
    from pathlib import Path

    from mkroot.cli.images import image_store
    from mkroot.cli.inspect import architecture_of
    from mkroot.cli.options import utf8
    from mkroot.cli.tag import new_name
    from mkroot.errors import UsageError
    from mkroot.oci.build import platform_of
    from mkroot.oci.importing import Import, import_root
    from mkroot.oci.model import Platform
    from mkroot.oci.spool import plain_file, spooled
    from mkroot.sourcedate import source_date

    reference = new_name(args.reference) if args.reference else None
    latest = source_date(os.environ)
    if args.arch:
        architecture_of(args.arch)
    words = Import(
        message=utf8(args.message, "-m"),
        changes=tuple(args.change),
        created=int(time.time()) if latest is None else latest,
        latest=latest,
        platform=platform_of(args.arch) if args.arch else None,
        machine=Platform(architecture=architecture_of(None)),
        compression=args.compression,
    )
    if args.file == "-" and sys.stdin.isatty():
        raise UsageError("send an archive to standard input, or name one", hint="`mkroot import TAR REF`")
    images = image_store()
    with contextlib.ExitStack() as stack:
        source = Path(args.file)
        if args.file == "-":
            source = stack.enter_context(spooled(images.store, sys.stdin.buffer))
        plain = stack.enter_context(plain_file(images.store, source))
        stack.enter_context(images.using())
        descriptor = import_root(images, plain, args.file, words)
        if reference is None:
            images.keep(descriptor)
        else:
            images.tag(descriptor, reference)
    print(images.load(descriptor).id)
    return 0
