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
        "--offline they come from the store, by the lock's digests. With --dask it is the remote store's build that is "
        "made again, by a worker which is not its builder. The status is 0 where everything is the same.",
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="a recipe's file, or a bundle")
    parser.add_argument("-o", dest="out", default="out", metavar="DIR", help="the output folder (default: out)")
    parser.add_argument("--dask", metavar="ADDRESS", help="the scheduler of the cluster that builds again")
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify; 0 where every artifact is what the lock gives, else 1."""
    results = _here(args) if args.dask is None else _elsewhere(args)
    import msgspec

    from mkroot.cli.terminal import print_json

    ok = all(one.ok for one in results)
    if args.json:
        print_json({"ok": ok, "builds": [{"ok": one.ok, **msgspec.to_builtins(one)} for one in results]})
    else:
        for one in results:
            _tell(one)
    return 0 if ok else 1


def _here(args: argparse.Namespace) -> list[Verified]:
    """Build again on this machine."""
    from mkroot.rootfs.identity import assume

    identity = assume()  # first: it may fork, and must not find threads
    from pathlib import Path

    from mkroot.cli.terminal import make_progress
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using
    from mkroot.verifying import verify

    options = options_of(args, out=Path(args.out))
    results: list[Verified] = []
    with using(Store(default_root(dict(os.environ)))):
        for given in args.recipes:
            with unsealed(given, options) as (recipe, opened):
                results += verify(recipe, opened, os.environ, make_progress(), identity)
    return results


def _elsewhere(args: argparse.Namespace) -> list[Verified]:
    """Have it built again on a cluster."""
    from contextlib import ExitStack
    from pathlib import Path

    from mkroot.cli.terminal import make_progress
    from mkroot.fleet.cluster import on_cluster
    from mkroot.fleet.rebuilders import verify_elsewhere
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    options, environ, progress = options_of(args, out=Path(args.out)), dict(os.environ), make_progress()
    engine = on_cluster(args.dask, environ, 1, progress.warn)
    with using(Store(default_root(environ))), ExitStack() as stack:
        recipes = [stack.enter_context(unsealed(recipe, options)) for recipe in args.recipes]
        return list(verify_elsewhere(recipes, environ, progress, engine))


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
        by = f" by worker `{one.by}`" if one.by else ""
        sys.stderr.write(f"{one.name} {one.architecture}: built again{by}, {verdict}\n")
