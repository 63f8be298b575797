"""`mkroot load`: take images from an archive."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "load",
        help="take images from an archive",
        description="Take images into the store, with their tags, from what `docker save`, `podman save`, skopeo or "
        "`mkroot save` wrote: docker-archive or oci-archive, compressed or not, or the folder of an OCI layout. Every "
        "digest is checked before anything is kept.",
    )
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="the archive; `-`: standard input")
    parser.add_argument("-i", "--input", metavar="FILE", help="the same, as docker has it")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell what was loaded")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load; 0, or 1 where the archive is refused."""
    import contextlib
    from pathlib import Path

    from mkroot.cli.images import image_store
    from mkroot.errors import UsageError
    from mkroot.oci.loading import load
    from mkroot.oci.spool import spooled

    file = args.input or args.file
    if file == "-" and sys.stdin.isatty():
        raise UsageError("name the archive, or send one to standard input", hint="`mkroot load FILE`")
    images = image_store()
    with spooled(images.store, sys.stdin.buffer) if file == "-" else contextlib.nullcontext(Path(file)) as path:
        found = load(images, path, "standard input" if file == "-" else "")
    if not args.quiet:
        for one in found:
            print(f"Loaded image: {one.reference}" if one.reference else f"Loaded image ID: {one.id or one.digest}")
    return 0
