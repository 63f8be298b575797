"""`mkroot build`: build recipes and tell what was made."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from itertools import zip_longest
from typing import TYPE_CHECKING

from mkroot.cli.options import add_recipe_options, options_of, unsealed

if TYPE_CHECKING:
    from mkroot.build import Built, Options, Sources
    from mkroot.cli.timings import Timings
    from mkroot.progress import Progress
    from mkroot.rootfs.identity import Identity
    from mkroot.timings import Section


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "build",
        help="build recipes: root, image and other outputs",
        description="Build recipes; of several, what they have in common is made once, and one that fails stops no "
        "other. Outputs go to DIR/NAME/ARCH; what was made is told on standard output, the way there on standard "
        "error. Without a lock beside the recipe one is made.",
    )
    parser.add_argument(
        "recipes", nargs="+", metavar="RECIPE", help="a recipe's file, or a bundle; - is standard input"
    )
    parser.add_argument("-o", dest="out", default="out", metavar="DIR", help="the output folder (default: out)")
    parser.add_argument(
        "--output", action="append", default=[], metavar="KIND", help="make this kind instead of the recipe's; repeat"
    )
    lock = parser.add_mutually_exclusive_group()
    lock.add_argument("--locked", action="store_true", help="build from the lock; it is an error where there is none")
    lock.add_argument("--no-lock", action="store_true", help="neither read nor write a lock")
    parser.add_argument("--tag", action="append", default=[], metavar="T", help="a further tag for the image; repeat")
    parser.add_argument(
        "--explain-cache", action="store_true", help="tell which input made a stage be made again, and a script run"
    )
    scripts = parser.add_mutually_exclusive_group()
    scripts.add_argument("--rerun-scripts", action="store_true", help="let no script's known effects stand for it")
    scripts.add_argument(
        "--follow-scripts",
        action="store_true",
        help="note what each script reads and does, for later builds",
    )
    parser.add_argument("--timings", metavar="FILE", help="write a page (HTML) that shows where the time went")
    parser.add_argument("--all-arch", action="store_true", help="for every architecture that the archive has")
    parser.add_argument("--jobs", metavar="N", help="do so many steps at a time (default: one a processor)")
    parser.add_argument("--dask", metavar="ADDRESS", help="do them on a Dask cluster: tcp://HOST:PORT of its scheduler")
    parser.add_argument("--watch-table", action="store_true", help="show all builds live, on a terminal")
    parser.add_argument("--report", metavar="FILE", help="write a page (HTML) of all builds, their logs and changes")
    add_recipe_options(parser, values=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the recipes; 0, 1 where one of them failed, 2 where the command line was wrong for one."""
    if _fleet(args):
        from mkroot.cli.fleet import run as run_fleet

        return run_fleet(args)
    from mkroot.rootfs.identity import assume

    identity = assume()  # first: it may fork, and must not find threads or half-written output
    from mkroot.cli.failure import tell
    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.errors import MkrootError
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    options = wanted(args)
    progress = make_progress()
    timings = _timings(args.timings, options, progress)
    built: list[tuple[str, Built, Section | None]] = []
    failed: list[tuple[str, Exception]] = []
    status = 0
    with using(Store(default_root(dict(os.environ)))):
        for recipe in args.recipes:
            timed: AbstractContextManager[list[Section]] = timings.of(recipe) if timings else nullcontext([])
            try:
                with timed as sections:
                    made = _build(recipe, options, progress, identity, quiet=args.json, heading=len(args.recipes) > 1)
                built += [(recipe, one, section) for one, section in zip_longest(made, sections)]
            except Exception as e:  # one recipe's failure, a fault of mkroot included, does not hide the others
                status = max(status, tell(e))
                failed.append((recipe, e))
    if timings is not None:
        try:
            timings.write()
        except MkrootError as e:
            status = max(status, tell(e))
    if args.json:
        print_json({"builds": [described_build(*one) for one in built], "failed": [_failure(r, e) for r, e in failed]})
    elif len(args.recipes) > 1:
        sys.stderr.write(_tally(args.recipes, failed))
    return status


def _fleet(args: argparse.Namespace) -> bool:
    """Tell whether there are several builds, which are one run; raises UsageError for what goes with one alone."""
    words = ("--all-arch", "--jobs", "--dask", "--watch-table", "--report")
    several = [word for word in words if getattr(args, word[2:].replace("-", "_"))]
    several += ["-D" for text in args.define if re.search(r"(?<!\\),", text)]
    if not several and (len(args.recipes) == 1 or args.timings or "-" in args.recipes):
        return False
    for alone, given in (("--timings", args.timings), ("`-` for standard input", "-" in args.recipes)):
        if given:
            from mkroot.errors import UsageError

            word = alone if "`" in alone else f"`{alone}`"
            hint = f"leave out `{several[0]}`, or build alone what needs {word}"
            raise UsageError(f"{word} does not go with `{several[0]}`", hint=hint)
    return True


def wanted(args: argparse.Namespace) -> Options:
    """Return the options of a build; raises UsageError, ImageError."""
    from pathlib import Path

    return options_of(
        args,
        out=Path(args.out),
        outputs=_kinds(args.output),
        lock="locked" if args.locked else "none" if args.no_lock else "auto",
        tags=_tags(args.tag),
        explain_cache=args.explain_cache,
        scripts="run" if args.rerun_scripts else "follow" if args.follow_scripts else "auto",
    )


def _build(
    recipe: str, options: Options, progress: Progress, identity: Identity, *, quiet: bool, heading: bool
) -> tuple[Built, ...]:
    from mkroot.build import build
    from mkroot.cli.terminal import seconds
    from mkroot.errors import printable

    if heading:
        sys.stderr.write(f"{printable(recipe)}\n")
    start = time.monotonic()
    with unsealed(recipe, options) as (path, opened):
        results = build(path, opened, os.environ, progress, identity)
    if not quiet:
        for one in results:
            tell_built(one)
        if not all(one.unchanged for one in results):
            sys.stderr.write(f"{seconds(time.monotonic() - start)} in all\n")
    return results


def _timings(given: str | None, options: Options, progress: Progress) -> Timings | None:
    """Return what takes the builds' times, where they are wanted; raises UsageError, ArtifactError."""
    if given is None:
        return None
    from mkroot.cli.timings import Timings

    return Timings(given, options.out, progress)


def _tags(given: list[str]) -> tuple[str, ...]:
    """Return the wanted tags; raises ImageError for one that is no reference, before anything is built."""
    if given:
        from mkroot.oci.reference import Reference

        for text in given:
            Reference.parse(text)
    return tuple(given)


def _kinds(given: list[str]) -> tuple[str, ...]:
    """Return the wanted kinds of output; raises UsageError for one that is none."""
    if not given:
        return ()
    import difflib
    from typing import get_args

    from mkroot.errors import UsageError
    from mkroot.recipe.model import OutputKind

    known = get_args(OutputKind)
    for kind in given:
        if kind not in known:
            near = difflib.get_close_matches(kind, known, 1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise UsageError(f"`--output {kind}`: no such kind", hint=f"{hint}kinds are {', '.join(known)}")
    return tuple(dict.fromkeys(given))


def tell_built(built: Built) -> None:
    """Print what was made: artifacts on standard output, the rest on standard error."""
    from mkroot.cli.terminal import amount, labelled, plural, table

    for note in built.notes:
        sys.stderr.write(labelled("note", note))
    cached = sum(step.cached for step in built.steps)
    state = "nothing changed" if built.unchanged else f"{cached} of {plural(len(built.steps), 'step')} cached"
    sys.stderr.write(f"{built.name} {built.architecture}: {plural(built.packages, 'package')}, {state}\n")
    if built.sources is not None:
        sys.stderr.write(_sources(built.sources))
    sys.stderr.flush()
    sys.stdout.write(table([(a.path, amount(a.size), a.digest) for a in built.artifacts], right=(1,)))
    sys.stdout.flush()


def _sources(sources: Sources) -> str:
    """Return the line that tells what came from where: what a mirror sent, and how much of the rest the store had."""
    from mkroot.cli.terminal import amount

    bytes_ = f" ({amount(sources.bytes)})" if sources.fetched else ""
    parts = [f"packages: {sources.fetched} fetched{bytes_}, {sources.stored} cached"]
    for name, count, stored in (
        ("stages", sources.stages, sources.stages_stored),
        ("frames", sources.frames, sources.frames_stored),
    ):
        parts += [f"{name}: {stored} of {count} cached"] if count else []
    return "; ".join(parts) + "\n"


def _tally(recipes: list[str], failed: list[tuple[str, Exception]]) -> str:
    from mkroot.cli.terminal import plural
    from mkroot.errors import printable

    good = len(recipes) - len(failed)
    names = ": " + ", ".join(printable(recipe) for recipe, _ in failed) if failed else ""
    return f"{plural(good, 'recipe')} built, {len(failed)} failed{names}\n"


def described_build(recipe: str, built: Built, section: Section | None) -> dict[str, object]:
    import msgspec

    found = {"recipe": recipe, **msgspec.to_builtins(built)}
    if section is not None:
        from mkroot.cli.timings import described

        found["timings"] = described(section)
    return found


def _failure(recipe: str, error: Exception) -> dict[str, object]:
    from mkroot.errors import Faults, MkrootError

    faults = error.faults if isinstance(error, Faults) else (error,)
    known = [{"what": f.what, "where": f.where, "hint": f.hint} for f in faults if isinstance(f, MkrootError)]
    return {"recipe": recipe, "errors": known or [{"what": str(error), "where": None, "hint": None}]}
