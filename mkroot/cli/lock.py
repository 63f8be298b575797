"""`mkroot lock`: make a recipe's lock, or renew all or some of it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from mkroot.cli.options import add_recipe_options, options_of

if TYPE_CHECKING:
    from mkroot.resolve.lock import LockDiff


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "lock",
        help="make or renew a recipe's lock",
        description="Make the lock beside a recipe anew from what the archives have now, and tell what it changed. "
        "With --update and names, only those packages may change their version.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file; - prints the lock on standard output")
    parser.add_argument(
        "--update", nargs="*", metavar="PKG", help="renew these packages, by name or source; without names all of them"
    )
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the lock; always 0."""
    from mkroot.build import lock
    from mkroot.cli.terminal import make_progress, plural, print_json
    from mkroot.resolve.lock import diff_locks
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    update = None if args.update is None else tuple(args.update)
    progress = make_progress(quiet=args.json or args.recipe == "-")
    with using(Store(default_root(dict(os.environ)))):
        before, after, path = lock(args.recipe, options_of(args), os.environ, progress, update)
    if path is None:
        sys.stdout.write(after.encode().decode())
        return 0
    differences = diff_locks(before, after) if before is not None else {}
    if args.json:
        print_json(
            {
                "lock": str(path),
                "new": before is None,
                "packages": {a: len(root.packages) for a, root in after.architectures.items()},
                "changes": {a: _described(d) for a, d in differences.items()},
            }
        )
        return 0
    for difference in differences.values():
        sys.stdout.write(_told(difference))
    sys.stdout.flush()
    counts = ", ".join(f"{a} {plural(len(root.packages), 'package')}" for a, root in after.architectures.items())
    same = before is not None and all(d.empty for d in differences.values())
    state = "new" if before is None else "no package changed" if same else "renewed"
    sys.stderr.write(f"{path}: {state}; {counts}\n")
    return 0


def _described(difference: LockDiff) -> dict[str, object]:
    return {
        "added": [{"name": p.name, "version": p.version, "architecture": p.architecture} for p in difference.added],
        "removed": [{"name": p.name, "version": p.version, "architecture": p.architecture} for p in difference.removed],
        "changed": [
            {"name": c.name, "architecture": c.architecture, "before": c.before, "after": c.after, "kind": c.kind}
            for c in difference.changed
        ],
    }


def _told(difference: LockDiff) -> str:
    lines = [f"+ {p.name} {p.version}  {p.why}" for p in difference.added]
    lines += [f"- {p.name} {p.version}" for p in difference.removed]
    lines += [f"~ {c.name} {c.before} → {c.after}  {c.kind}" for c in difference.changed]
    return "".join(line + "\n" for line in lines)
