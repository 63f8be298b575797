"""`mkroot verify`: build again from the lock and compare every artifact."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from mkroot.cli.options import add_recipe_options, options_of, unsealed

if TYPE_CHECKING:
    from mkroot.verifying import Verified


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "verify",
        help="build again from the lock and compare every artifact",
        description="Check a recipe's artifacts against the record of their build, build them again from the lock in a "
        "fresh store, and compare. What differs is told down to the first file. Packages are fetched anew; with "
        "--offline they come from the store, by the lock's digests. The status is 0 where everything is the same.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file, or a bundle")
    parser.add_argument("-o", dest="out", default="out", metavar="DIR", help="the output folder (default: out)")
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify; 0 where every artifact is what the lock gives, else 1."""
    from mkroot.rootfs.identity import assume

    identity = assume()  # first: it may fork, and must not find threads
    from pathlib import Path

    import msgspec

    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using
    from mkroot.verifying import verify

    options = options_of(args, out=Path(args.out))
    with using(Store(default_root(dict(os.environ)))), unsealed(args.recipe, options) as (recipe, options):
        results = verify(recipe, options, os.environ, make_progress(), identity)
    ok = all(one.ok for one in results)
    if args.json:
        print_json({"ok": ok, "builds": [{"ok": one.ok, **msgspec.to_builtins(one)} for one in results]})
    else:
        for one in results:
            _tell(one)
    return 0 if ok else 1


def _tell(one: Verified) -> None:
    """Print the artifacts on standard output, what is wrong with them on standard error."""
    from mkroot.cli.terminal import amount, labelled, plural, table
    from mkroot.errors import printable

    sys.stdout.write(table([(a.path, amount(a.size), a.state) for a in one.artifacts], right=(1,)))
    sys.stdout.flush()
    for note in one.notes:
        sys.stderr.write(labelled("warning", printable(note)))
    for fault in one.faults:
        sys.stderr.write(labelled("error", printable(f"{fault.where}: {fault.what}")))
        if fault.hint:
            sys.stderr.write(labelled("hint", fault.hint))
    if one.again:
        same = sum(a.state == "same" for a in one.artifacts)
        verdict = "the same bytes" if one.ok else f"{same} of {plural(len(one.artifacts), 'artifact')} the same"
        sys.stderr.write(f"{one.name} {one.architecture}: built again, {verdict}\n")
