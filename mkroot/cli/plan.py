"""`mkroot plan`: show what a build would install, and why."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mkroot.cli.options import add_recipe_options, options_of, unsealed

if TYPE_CHECKING:
    from mkroot.build import Options
    from mkroot.recipe.model import Recipe
    from mkroot.resolve.lock import LockedPackage, LockedRoot
    from mkroot.unaided import Unaided


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "plan",
        help="show what a build would install",
        description="Show each package that a build would install, with its reason: what the recipe's lock has, or "
        "else what the archives have now. Nothing is built, and no lock is written.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file, or a bundle; - is standard input")
    lock = parser.add_mutually_exclusive_group()
    lock.add_argument("--locked", action="store_true", help="it is an error where there is no lock, or a stale one")
    lock.add_argument("--no-lock", action="store_true", help="show what the archives have, whatever the lock says")
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the plan; always 0."""
    how = "locked" if args.locked else "none" if args.no_lock else "auto"
    with unsealed(args.recipe, options_of(args, lock=how)) as (recipe, options):
        return _planned(args, recipe, options)


def _planned(args: argparse.Namespace, path: str, options: Options) -> int:
    import msgspec

    from mkroot.cli.locked import roots as planned
    from mkroot.cli.terminal import print_json
    from mkroot.limits import check_limits

    recipe, roots, notes = planned(path, options, os.environ)
    unaided = _unaided(options, recipe, roots)
    packages = [p for root in roots.values() for p in (*root.packages, *root.beside)]
    installed = [p for root in roots.values() for p in root.packages]
    if args.json:
        print_json(
            {
                "packages": [_described(p) for p in packages],
                "download": sum(p.size for p in packages),
                "installed": sum(p.installed_size for p in installed) * 1024,
                "notes": list(notes),
                **({"unaided": {a: msgspec.to_builtins(one) for a, one in unaided.items()}} if unaided else {}),
            }
        )
    else:
        for architecture, root in roots.items():
            _tell(str(recipe.name), architecture, root.packages, root.beside)
    for one in unaided.values() if not args.json else ():
        answer = "mounts the root without an initramfs" if one.holds else "cannot mount the root by itself"
        sys.stderr.write(f"{recipe.name}: kernel {one.kernel} {answer}: {'; '.join(one.why)}\n")
    for root in roots.values():
        check_limits(recipe, root)
    return 0


def _unaided(options: Options, recipe: Recipe, roots: Mapping[str, LockedRoot]) -> dict[str, Unaided]:
    """Return for each architecture whether `initramfs: none` holds, where the recipe asks for that."""
    if recipe.boot is None or recipe.boot.initramfs != "none":
        return {}
    from mkroot.cli.terminal import make_progress
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using
    from mkroot.unaided import unaided

    store = Store(default_root(os.environ))
    with using(store):
        found = {
            a: unaided(store, recipe, a, root, options, os.environ, make_progress(quiet=True))
            for a, root in roots.items()
        }
    return {a: one for a, one in found.items() if one is not None}


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
        **({"upgrades": package.upgrades} if package.upgrades else {}),
    }


def _tell(name: str, arch: str, packages: tuple[LockedPackage, ...], beside: tuple[LockedPackage, ...]) -> None:
    from mkroot.cli.terminal import amount, plural, table

    rows = [("PACKAGE", "VERSION", "ARCH", "DOWNLOAD", "INSTALLED", "WHY")]
    for p in (*packages, *beside):
        version = f"{p.upgrades} → {p.version}" if p.upgrades else p.version
        rows.append((p.name, version, p.architecture, amount(p.size), amount(p.installed_size * 1024), p.why))
    sys.stdout.write(table(rows, right=(3, 4)))
    sys.stdout.flush()
    total = amount(sum(p.size for p in (*packages, *beside)))
    unpacked = amount(sum(p.installed_size for p in packages) * 1024)
    more = f" and {len(beside)} beside the root" if beside else ""
    count = plural(len(packages), "package")
    if upgraded := sum(bool(p.upgrades) for p in packages):
        count += f" ({upgraded} upgraded)"
    sys.stderr.write(f"{name} {arch}: {count}{more}, {total} to download, {unpacked} installed\n")
