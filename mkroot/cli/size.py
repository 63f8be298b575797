"""`mkroot size`: show where the bytes come from, by package and by wish of the recipe."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mkroot.cli.options import add_recipe_options, options_of

if TYPE_CHECKING:
    from mkroot.build import Options
    from mkroot.resolve.lock import LockedPackage

WISHES = ("essential", "priority", "variant", "requested")  # what a reason begins with that is the recipe's own


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "size",
        help="show where the bytes come from",
        description="Show the packages by the bytes they take, as the lock has them or else as the archives do, and "
        "what each wish of the recipe brought with it.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file; - is standard input")
    parser.add_argument("--top", type=int, default=25, metavar="N", help="show the N biggest packages (default: 25)")
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the sizes; always 0."""
    from mkroot.cli.terminal import print_json

    roots = _packages(args.recipe, options_of(args))
    if args.json:
        print_json([_described(a, packages) for a, packages in roots.items()])
        return 0
    for architecture, packages in roots.items():
        _tell(architecture, packages, args.top)
    return 0


def _packages(recipe: str, options: Options) -> dict[str, tuple[LockedPackage, ...]]:
    """Return the packages by architecture: of the lock where there is one that fits, else as the archives have them."""
    from mkroot.cli.locked import roots

    return {architecture: root.packages for architecture, root in roots(recipe, options, os.environ)[1].items()}


def wished(packages: Sequence[LockedPackage]) -> dict[str, str]:
    """Return for each package the wish at the beginning of the chain that first brought it."""
    why = {p.name: p.why for p in packages}
    found: dict[str, str] = {}
    for name in why:
        at, seen = name, {name}
        while why[at].split(" ", 1)[0] not in WISHES:
            by = why[at].split(" ", 1)[0].partition(":")[0]
            if by not in why or by in seen:
                break
            seen.add(by)
            at = by
        reason = why[at]
        found[name] = reason if not reason.startswith("requested as ") else reason.removeprefix("requested as ")
    return found


def _sums(packages: Sequence[LockedPackage]) -> list[tuple[str, int, int, int]]:
    """Return (wish, packages, download, installed), the biggest first; bytes."""
    wishes = wished(packages)
    sums: dict[str, tuple[int, int, int]] = {}
    for p in packages:
        count, download, installed = sums.get(wishes[p.name], (0, 0, 0))
        sums[wishes[p.name]] = count + 1, download + p.size, installed + p.installed_size * 1024
    return sorted(((w, *s) for w, s in sums.items()), key=lambda row: (-row[3], row[0]))


def _described(architecture: str, packages: Sequence[LockedPackage]) -> dict[str, object]:
    ordered = sorted(packages, key=lambda p: (-p.installed_size, p.name))
    wishes = wished(packages)
    return {
        "architecture": architecture,
        "download": sum(p.size for p in packages),
        "installed": sum(p.installed_size for p in packages) * 1024,
        "packages": [
            {"name": p.name, "size": p.size, "installed": p.installed_size * 1024, "wish": wishes[p.name]}
            for p in ordered
        ],
        "wishes": [{"wish": w, "packages": n, "size": d, "installed": i} for w, n, d, i in _sums(packages)],
    }


def _tell(architecture: str, packages: Sequence[LockedPackage], top: int) -> None:
    from mkroot.cli.terminal import amount, plural, table

    total = sum(p.installed_size for p in packages) * 1024 or 1
    ordered = sorted(packages, key=lambda p: (-p.installed_size, p.name))
    rows = [("INSTALLED", "SHARE", "DOWNLOAD", "PACKAGE", "WHY")]
    for p in ordered[: max(top, 0)]:
        size = p.installed_size * 1024
        rows.append((amount(size), f"{100 * size / total:.1f} %", amount(p.size), p.name, p.why))
    if rest := ordered[max(top, 0) :]:
        size = sum(p.installed_size for p in rest) * 1024
        more = amount(sum(p.size for p in rest))
        rows.append((amount(size), f"{100 * size / total:.1f} %", more, f"{len(rest)} more", ""))
    sys.stdout.write(table(rows, right=(0, 1, 2)))
    wishes = [("INSTALLED", "SHARE", "DOWNLOAD", "PACKAGES", "FIRST BROUGHT BY")]
    for wish, count, fetched, installed in _sums(packages):
        wishes.append((amount(installed), f"{100 * installed / total:.1f} %", amount(fetched), str(count), wish))
    sys.stdout.write("\n" + table(wishes, right=(0, 1, 2, 3)))
    sys.stdout.flush()
    download = amount(sum(p.size for p in packages))
    sys.stderr.write(f"{architecture}: {plural(len(packages), 'package')}, {amount(total)}, {download} to download\n")
