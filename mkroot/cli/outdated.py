"""`mkroot outdated`: tell which locks an update of the archives would change, and what of it are security fixes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mkroot.cli.options import add_recipe_options, options_of

if TYPE_CHECKING:
    from mkroot.errors import MkrootError
    from mkroot.outdated import Verdict
    from mkroot.resolve.lock import LockedPackage

OUTDATED = 3  # exit status of `--exit-code`; 1 and 2 mean that something went wrong, as always


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "outdated",
        help="tell which locks an update would change, and which of it are security fixes",
        description="Tell what `mkroot lock RECIPE --update` would change now in the locks of recipes. A change is a "
        "security fix where the archive's security pocket offers a version between the two. Nothing is changed.",
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="a recipe's file, with its lock beside it")
    parser.add_argument(
        "--exit-code", action="store_true", help=f"end with the status {OUTDATED} where a lock is outdated"
    )
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tell it; 0, 1 where something could not be told, else with `--exit-code` OUTDATED where a lock is outdated."""
    from mkroot.cli.chosen import chosen
    from mkroot.cli.failure import tell, tell_error
    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.looking import Looks
    from mkroot.outdated import outdated
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    options, looks, progress = options_of(args), Looks(), make_progress(quiet=True)
    verdicts: list[Verdict] = []
    status = 0
    with using(Store(default_root(dict(os.environ)))):
        for recipe, given, path in chosen(args.recipes, args.define, options):
            try:
                for verdict in outdated(recipe, given, os.environ, progress, looks, path):
                    verdicts.append(verdict)
                    if not args.json:
                        sys.stdout.write(_told(verdict))
                        sys.stdout.flush()
                    for error in verdict.errors:
                        tell_error(error)
            except Exception as e:  # a fault of mkroot included, one recipe's failure does not hide the others
                status = max(status, tell(e))
    if any(v.errors for v in verdicts):
        status = max(status, 1)
    if args.json:
        print_json({"locks": [_described(v) for v in verdicts], "summary": _counted(verdicts)})
    sys.stderr.write(_summary(verdicts))
    return OUTDATED if args.exit_code and not status and _counted(verdicts)["outdated"] else status


def _counted(verdicts: Sequence[Verdict]) -> dict[str, int]:
    old = [v for v in verdicts if v.state == "outdated"]
    return {
        "locks": len(verdicts),
        "outdated": len(old),
        "security": sum(v.security > 0 for v in old),
        "failed": sum(bool(v.errors) for v in verdicts),
    }


def _summary(verdicts: Sequence[Verdict]) -> str:
    from mkroot.cli.terminal import plural

    count = _counted(verdicts)
    failed = f"; {count['failed']} could not be told" if count["failed"] else ""
    told = f"{count['outdated']} of {plural(count['locks'], 'lock')} outdated"
    return f"{told}, {count['security']} with security fixes{failed}\n"


def _title(verdict: Verdict) -> str:
    from mkroot.errors import printable

    return printable(" ".join(filter(None, (verdict.recipe, verdict.architecture))))


def _told(verdict: Verdict) -> str:
    """Return what a person reads of a verdict: a line, and a table where the lock is outdated."""
    from mkroot.cli.terminal import plural, table
    from mkroot.errors import printable

    if verdict.state == "current":
        return f"{_title(verdict)}: up to date\n"
    if verdict.state == "pinned":
        return f"{_title(verdict)}: at a snapshot, where nothing moves\n"
    if verdict.state != "outdated":
        return ""
    rows = [
        (f"~ {p.name}", f"{p.before} → {p.after}", p.suite, "security" if p.security else "") for p in verdict.packages
    ]
    rows += [(f"+ {p.name}", p.version, p.suite, "") for p in verdict.added]
    rows += [(f"- {p.name}", p.version, "", "security" if p.security else "") for p in verdict.removed]
    if verdict.parent is not None:
        rows.append(("~ the image below", " → ".join(d[:19] or "none" for d in verdict.parent), "", ""))
    fixes = f", security fixes: {verdict.security}" if verdict.security else ""
    return f"{_title(verdict)}: {plural(len(rows), 'change')}{fixes}\n" + table(
        [[printable(cell) for cell in row] for row in rows], indent="  "
    )


def _described(verdict: Verdict) -> dict[str, object]:
    import msgspec

    return {
        "recipe": verdict.recipe,
        "name": verdict.name or None,
        "architecture": verdict.architecture or None,
        "images": verdict.images,
        "lock": verdict.lock or None,
        "state": verdict.state,
        "security": verdict.security,
        "packages": [msgspec.to_builtins(p) for p in verdict.packages],
        "added": [_package(p) for p in verdict.added],
        "removed": [msgspec.to_builtins(p) for p in verdict.removed],
        "parent": None if verdict.parent is None else dict(zip(("before", "after"), verdict.parent, strict=True)),
        "errors": [{"what": f.what, "where": f.where, "hint": f.hint} for f in _faults(verdict)],
    }


def _faults(verdict: Verdict) -> list[MkrootError]:
    from mkroot.errors import Faults

    return [f for error in verdict.errors for f in (error.faults if isinstance(error, Faults) else (error,))]


def _package(package: LockedPackage) -> dict[str, str]:
    return {n: getattr(package, n) for n in ("name", "architecture", "source", "version", "suite")}
