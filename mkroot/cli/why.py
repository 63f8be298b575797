"""`mkroot why`: show every chain that brings a package."""

from __future__ import annotations

import argparse
import os
import sys

from mkroot.cli.options import add_recipe_options, options_of


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "why",
        help="show every chain that brings a package",
        description="Show every chain, from a wish of the recipe to the package, the shortest first.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file; - is standard input")
    parser.add_argument("package", metavar="PKG", help="a package's name, or name:architecture")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many chains (default: 20)")
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the chains; 0, or 1 where the package is not installed."""
    from mkroot.build import plan
    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.resolve.explain import chain_text, why
    from mkroot.resolve.resolver import resolve
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    with using(Store(default_root(dict(os.environ)))):
        _, found = plan(args.recipe, options_of(args), os.environ, make_progress(quiet=True))
    report = {
        a: why(resolve(f.archive.universe(), f.request), args.package, max(1, args.limit)) for a, f in found.items()
    }
    if args.json:
        print_json(
            [
                {
                    "package": args.package,
                    "architecture": architecture,
                    "chains": [[{"package": s.package, "reason": s.reason} for s in chain] for chain in chains],
                }
                for architecture, chains in report.items()
            ]
        )
        return 0
    for architecture, chains in report.items():
        if len(report) > 1:
            sys.stdout.write(f"{architecture}:\n")
        sys.stdout.write("".join(chain_text(chain) + "\n" for chain in chains))
    return 0
