"""`mkroot why-not`: show what keeps a package out, and what would bring it."""

from __future__ import annotations

import argparse
import os
import sys

from mkroot.cli.options import add_recipe_options, options_of


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "why-not",
        help="show what keeps a package out, and what would bring it",
        description="Show what stands against a package that a build would not install, and what would bring it.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file; - is standard input")
    parser.add_argument("package", metavar="PKG", help="a package's name, or name:architecture")
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the reasons; 0, or 1 where the package is installed."""
    from mkroot.build import plan
    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.resolve.explain import why_not
    from mkroot.resolve.resolver import resolve
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    with using(Store(default_root(dict(os.environ)))):
        _, found = plan(args.recipe, options_of(args), os.environ, make_progress(quiet=True))
    report = {
        a: why_not(universe := f.archive.universe(), f.request, resolve(universe, f.request), args.package)
        for a, f in found.items()
    }
    if args.json:
        print_json(
            [
                {
                    "package": args.package,
                    "architecture": architecture,
                    "known": absence.known,
                    "reasons": list(absence.reasons),
                    "brings": list(absence.brings),
                }
                for architecture, absence in report.items()
            ]
        )
        return 0
    for architecture, absence in report.items():
        head = f"{args.package} is not installed" + (f" on {architecture}" if len(report) > 1 else "")
        sys.stdout.write(f"{head}\n")
        sys.stdout.write("".join(f"  {reason}\n" for reason in absence.reasons))
        if absence.brings:
            sys.stdout.write("what would bring it:\n")
            sys.stdout.write("".join(f"  {line}\n" for line in absence.brings))
    return 0
