"""`mkroot bundle`: write one file with everything that a build needs."""

from __future__ import annotations

import argparse
import os
import sys

from mkroot.cli.options import add_recipe_options, options_of


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "bundle",
        help="write one file with everything that a build needs",
        description="Write a recipe with its lock, its local files, every package and its parent image into one file. "
        "`mkroot build FILE` builds the same bytes from it on a machine that has no network and an empty store; "
        "`mkroot verify FILE` verifies them. The same lock gives the same bytes of the bundle.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file")
    parser.add_argument(
        "-o", dest="out", metavar="FILE", help="the bundle (default: NAME.mkroot.tar); - is standard output"
    )
    parser.add_argument("--locked", action="store_true", help="it is an error where there is no lock")
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the bundle; always 0."""
    from mkroot.bundle.form import is_bundle
    from mkroot.bundle.pack import gather
    from mkroot.cli.streams import target
    from mkroot.cli.terminal import amount, make_progress, plural, print_json
    from mkroot.errors import UsageError
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    if is_bundle(args.recipe):
        raise UsageError(f"`{args.recipe}` is a bundle already", hint="name a recipe's file")
    options = options_of(args, lock="locked" if args.locked else "auto")
    progress = make_progress()
    with using(Store(default_root(dict(os.environ)))):
        found = gather(args.recipe, options, os.environ, progress)
        path = args.out or found.file_name
        with target(path) as out:
            size, digest = found.write(out, progress)
    index = found.index
    counts = {
        "packages": len(index.debs),
        "files": sum(m.kind == "f" for m in index.files),
        "images": len(index.images),
    }
    if path == "-":
        return 0
    if args.json:
        print_json({"path": path, "size": size, "digest": digest, **counts})
        return 0
    words = [plural(count, noun[:-1]) for noun, count in counts.items() if count]
    sys.stderr.write(f"{', '.join(words)}\n")
    sys.stdout.write(f"{path}  {amount(size)}  {digest}\n")
    return 0
