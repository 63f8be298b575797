"""`mkroot lock`: make recipes' locks, or renew all or some of them."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from mkroot.cli.options import add_recipe_options, options_of
from mkroot.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from mkroot.renewing import Update
    from mkroot.resolve.lock import Lock, LockDiff

_SUFFIXES = (".yaml", ".yml", ".json")  # which no package's name ends with


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "lock",
        help="make or renew recipes' locks",
        description="Make the lock beside each recipe anew from what the archives have now, and tell what it changed. "
        "With --update and names, or --security, only those packages may change their version, and what cannot stay "
        "beside them.",
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="a recipe's file; - prints the lock")
    parser.add_argument(
        "--update", nargs="*", metavar="PKG", help="renew these packages, by name or source; without names all of them"
    )
    parser.add_argument(
        "--security", action="store_true", help="with --update: renew the packages that have a security fix"
    )
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the locks; 0, or 1 where one could not be made."""
    from mkroot.build import lock
    from mkroot.cli.chosen import chosen
    from mkroot.cli.failure import tell
    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.errors import printable
    from mkroot.lockfile import spoken
    from mkroot.looking import Looks
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    recipes, update = _meant(args)
    wanted, looks = chosen(recipes, args.define, options_of(args)), Looks()
    several = len(wanted) > 1
    made: list[dict[str, object]] = []
    failed: list[str] = []
    status = 0
    with using(Store(default_root(dict(os.environ)))):
        for recipe, options, place in wanted:
            try:
                progress = make_progress(quiet=args.json or several or recipe == "-")
                before, after, path = lock(recipe, options, os.environ, progress, update, looks, place)
                if path is None:
                    sys.stdout.write(after.encode().decode())
                elif args.json:
                    made.append(_described(before, after, path))
                else:
                    _tell(before, after, path, security=update is not None and update.security, heading=several)
            except Exception as e:  # one recipe's failure, a fault of mkroot included, does not hide the others
                status = max(status, tell(e))
                failed.append(spoken(recipe, options.defines))
    if args.json and several:
        print_json({"locks": made, "failed": failed})
    elif args.json and made:
        print_json(made[0])
    elif failed and several:
        told = f"{len(wanted) - len(failed)} of {len(wanted)} locks made; failed: {', '.join(failed)}"
        sys.stderr.write(printable(told) + "\n")
    return status


def _meant(args: argparse.Namespace) -> tuple[list[str], Update | None]:
    """Return the recipes and what of their locks is renewed; raises UsageError."""
    recipes, names = list(dict.fromkeys(args.recipes)), list(args.update or ())
    if not recipes:  # `lock --update RECIPE`: a package cannot be called like that
        recipes = [n for n in names if n == "-" or "/" in n or n.endswith(_SUFFIXES)]
        names = [n for n in names if n not in recipes]
    if not recipes:
        raise UsageError("missing: RECIPE", hint="`mkroot lock --help` shows the options")
    if "-" in recipes and len(recipes) > 1:
        raise UsageError("`-` is standard input, and its lock goes to standard output: give it alone")
    if args.security and args.update is None:
        raise UsageError("`--security` is for renewing a lock", hint="write `--update --security`")
    if args.security and names:
        raise UsageError("`--update` takes names or `--security`, not both", hint="leave out " + ", ".join(names[:20]))
    if args.update is None:
        return recipes, None
    from mkroot.renewing import Update

    return recipes, Update(names=tuple(names), security=args.security)


def _tell(before: Lock | None, after: Lock, path: Path, *, security: bool, heading: bool) -> None:
    from mkroot.cli.terminal import plural
    from mkroot.errors import printable
    from mkroot.resolve.lock import diff_locks

    differences = diff_locks(before, after) if before is not None else {}
    told = "".join(map(_told, differences.values()))
    sys.stdout.write(f"{printable(str(path))}:\n{told}" if heading and told else told)
    sys.stdout.flush()
    counts = ", ".join(f"{a} {plural(len(root.packages), 'package')}" for a, root in after.architectures.items())
    same = before is not None and all(d.empty for d in differences.values())
    state = "new" if before is None else "no package changed" if same else "renewed"
    if security and before is after:
        state = "no security fix, left as it is"
    sys.stderr.write(printable(f"{path}: {state}; {counts}") + "\n")


def _described(before: Lock | None, after: Lock, path: Path) -> dict[str, object]:
    from mkroot.resolve.lock import diff_locks

    differences = diff_locks(before, after) if before is not None else {}
    return {
        "lock": str(path),
        "new": before is None,
        "packages": {a: len(root.packages) for a, root in after.architectures.items()},
        "changes": {a: _changes(d) for a, d in differences.items()},
    }


def _changes(difference: LockDiff) -> dict[str, object]:
    return {
        "added": [{"name": p.name, "version": p.version, "architecture": p.architecture} for p in difference.added],
        "removed": [{"name": p.name, "version": p.version, "architecture": p.architecture} for p in difference.removed],
        "changed": [
            {"name": c.name, "architecture": c.architecture, "before": c.before, "after": c.after, "kind": c.kind}
            for c in difference.changed
        ],
    }


def _told(difference: LockDiff) -> str:
    from mkroot.errors import printable

    lines = [f"+ {p.name} {p.version}  {p.why}" for p in difference.added]
    lines += [f"- {p.name} {p.version}" for p in difference.removed]
    lines += [f"~ {c.name} {c.before} → {c.after}  {c.kind}" for c in difference.changed]
    return "".join(printable(line) + "\n" for line in lines)
