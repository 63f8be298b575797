"""`mkroot plan`: show what a build would install, and why."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from mkroot.cli.options import add_recipe_options, options_of

if TYPE_CHECKING:
    from mkroot.resolve.lock import LockedPackage


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "plan",
        help="show what a build would install",
        description="Ask the archives what a build without a lock would install, and show each package with its "
        "reason. Nothing is built, and no lock is written.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file; - is standard input")
    parser.add_argument("--locked", action="store_true", help="show what the recipe's lock has; ask no archive")
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the plan; always 0."""
    from mkroot.build import plan
    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.locking import check_limits
    from mkroot.resolve.lock import LockedRoot, lock_root

    options = options_of(args)
    roots: dict[str, LockedRoot]
    notes: tuple[str, ...] = ()
    if args.locked:
        from mkroot.cli.locked import opened

        recipe, lock = opened(args.recipe, options)
        roots = {a: lock.root(a) for a in recipe.arch}
    else:
        recipe, found = plan(args.recipe, options, os.environ, make_progress(quiet=True))
        roots = {a: lock_root(f.resolution) for a, f in found.items()}
        notes = tuple(dict.fromkeys(note for f in found.values() for note in f.resolution.notes))
    packages = [p for root in roots.values() for p in (*root.packages, *root.beside)]
    installed = [p for root in roots.values() for p in root.packages]
    if args.json:
        print_json(
            {
                "packages": [_described(p) for p in packages],
                "download": sum(p.size for p in packages),
                "installed": sum(p.installed_size for p in installed) * 1024,
                "notes": list(notes),
            }
        )
    else:
        for architecture, root in roots.items():
            _tell(str(recipe.name), architecture, root.packages, root.beside)
    for root in roots.values():
        check_limits(recipe, root)
    return 0


def _described(package: LockedPackage) -> dict[str, object]:
    return {
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture,
        "why": package.why,
        "size": package.size,
        "installed": package.installed_size * 1024,
        "source": package.source,
        "suite": package.suite,
        "stage": package.stage,
    }


def _tell(name: str, arch: str, packages: tuple[LockedPackage, ...], beside: tuple[LockedPackage, ...]) -> None:
    from mkroot.cli.terminal import amount, plural, table

    rows = [("PACKAGE", "VERSION", "ARCH", "DOWNLOAD", "INSTALLED", "WHY")]
    for p in (*packages, *beside):
        rows.append((p.name, p.version, p.architecture, amount(p.size), amount(p.installed_size * 1024), p.why))
    sys.stdout.write(table(rows, right=(3, 4)))
    sys.stdout.flush()
    total = amount(sum(p.size for p in (*packages, *beside)))
    unpacked = amount(sum(p.installed_size for p in packages) * 1024)
    more = f" and {len(beside)} beside the root" if beside else ""
    count = plural(len(packages), "package")
    sys.stderr.write(f"{name} {arch}: {count}{more}, {total} to download, {unpacked} installed\n")
