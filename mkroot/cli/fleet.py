"""`mkroot build` of several recipes, values or architectures: one run, told as it goes, and as a table at its end."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from mkroot.cli.build import described_build, tell_built, wanted
from mkroot.cli.options import unsealed, utf8
from mkroot.cli.terminal import amount, is_terminal, labelled, plural, print_json, seconds, table
from mkroot.errors import ArtifactError, MkrootError, UsageError, printable
from mkroot.fleet import matrix
from mkroot.fleet.local import LocalEngine, fitting
from mkroot.fleet.model import DONE, FAILED, SKIPPED, UNCHANGED, Engine, Fault, Row
from mkroot.fleet.perform import faults_of
from mkroot.fleet.run import Report
from mkroot.fleet.run import run as run_variants
from mkroot.fleet.table import RIGHT, cells, faults, label, tally
from mkroot.store.store import Store, default_root
from mkroot.store.use import using

if TYPE_CHECKING:
    from mkroot.build import Built, Options
    from mkroot.cli.report import Report as Page

FEW = 8  # jobs of which each is told in full as it ends; of more, a terminal has a line each


def run(args: argparse.Namespace) -> int:
    """Build; 0, or 1 where a job was not done."""
    began = time.monotonic()
    jobs = _jobs(args.jobs)
    for text in (*args.recipes, *args.define):  # what is handed to other processes as text
        utf8(text, "RECIPE" if text in args.recipes else "-D")
    options = wanted(args)
    page = _page(args.report, options)
    environ = dict(os.environ)
    store = Store(default_root(environ))
    if args.dask and options.offline:
        raise UsageError("`--offline` does not go with `--dask`", hint="other machines have not what this store has")
    engine = _engine(args.dask, jobs, environ)
    with using(store), ExitStack() as stack:
        choices, varied = matrix.choices(args.define)
        every = None
        if args.all_arch:
            if options.architectures:
                raise UsageError("`--arch` does not go with `--all-arch`", hint="leave one of them out")
            every = matrix.ArchitecturesOf(store, environ)
        given = [_given(recipe, options, values, stack) for recipe in args.recipes for values in choices]
        variants = matrix.variants(given, varied, every)
        if options.out.exists() and not options.out.is_dir():
            raise ArtifactError(
                "the output folder is a file", where=str(options.out), hint="name another with `-o DIR`"
            )
        if (impossible := matrix.clash(variants)) is not None:
            raise impossible
        watched = args.watch_table and is_terminal(sys.stderr)
        told = _Told(sum(len(variant.jobs) for variant in variants), quiet=args.json, watched=watched)
        report = run_variants(
            variants,
            environ,
            engine,
            on_change=_watchers(told, page, watched, stack),
            on_built=told.built,
            warn=_warn,
        )
    if args.json:
        print_json(_described(report))
    else:
        sys.stderr.write(table(cells(report.rows, amount, seconds), right=RIGHT))
    _tell_faults(report.rows)
    if not args.json:
        sys.stderr.write(f"{tally(report.rows)}; {seconds(time.monotonic() - began)} in all\n")
    return 1 if report.failed or (page is not None and page.failed) else 0


def _page(given: str | None, options: Options) -> Page | None:
    """Return what writes the page of the run, where one is wanted; raises UsageError, ArtifactError."""
    if given is None:
        return None
    from mkroot.cli.report import Report as Page

    return Page(given, options.out)


def _watchers(told: _Told, page: Page | None, watched: bool, stack: ExitStack) -> Callable[[int, Row], None]:
    """Return what tells a row's change to all that want to know; they end with the stack, the screen first."""
    found = [told.changed]
    if page is not None:
        found.append(stack.enter_context(page).change)
    if watched:
        from mkroot.cli.watch import Screen

        found.append(stack.enter_context(Screen()).change)

    def change(index: int, row: Row) -> None:
        for one in found:
            one(index, row)

    return change


def _jobs(given: str | None) -> int:
    """Return how many steps run at a time; raises UsageError."""
    if given is None:
        return fitting()
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= 1000:
        raise UsageError(f"`--jobs {given}` is not a number of steps", hint="write `--jobs 2`")
    return int(given)


def _engine(address: str | None, jobs: int, environ: Mapping[str, str]) -> Callable[[], Engine]:
    """Return what makes the engine: this machine's, or a cluster's; raises ClusterError, StoreError."""
    if address is None:
        return lambda: LocalEngine(jobs, environ)
    from mkroot.fleet.cluster import on_cluster

    return on_cluster(address, environ, jobs, _warn)


def _given(recipe: str, options: Options, values: Mapping[str, str], stack: ExitStack) -> matrix.Given:
    """Return a recipe with its values; a bundle stays open until the run has ended."""
    options = msgspec.structs.replace(options, defines=dict(values))
    try:
        path, options = stack.enter_context(unsealed(recipe, options))
    except UsageError:
        raise
    except MkrootError as e:
        return matrix.Given(shown=recipe, path=recipe, options=options, faults=faults_of(e))
    return matrix.Given(shown=recipe, path=path, options=options)


def _warn(line: str) -> None:
    sys.stderr.write(labelled("warning", line))
    sys.stderr.flush()


class _Told:
    """Tells what each job came to as it ends. watched: a screen does so too, and needs no line of it."""

    def __init__(self, count: int, *, quiet: bool, watched: bool) -> None:
        self._count = count
        self._quiet, self._watched = quiet, watched
        self._over = 0
        self._built: dict[int, Built] = {}
        self._warned: set[str] = set()

    def built(self, index: int, built: Built) -> None:
        """Keep what a job made, for when it ends."""
        self._built[index] = built

    def changed(self, index: int, row: Row) -> None:
        """Tell a row that has come to its end."""
        if row.state not in (DONE, UNCHANGED, FAILED, SKIPPED):
            return
        self._over += 1
        for line in row.log.splitlines():
            if line.startswith("warning: ") and line not in self._warned:
                self._warned.add(line)
                sys.stderr.write(labelled("warning", line.removeprefix("warning: ")))
        if self._quiet:
            return
        if not self._watched:
            name = printable(" ".join(filter(None, (label(row), row.job.architecture))))
            took = f" in {seconds(row.seconds)}" if row.seconds else ""
            sys.stderr.write(f"[{self._over}/{self._count}] {name}: {row.state}{took}\n")
            sys.stderr.flush()
        if index in self._built and (self._count <= FEW or not is_terminal(sys.stdout)):
            tell_built(self._built.pop(index))


def _tell_faults(rows: Sequence[Row]) -> None:
    """Tell each fault once, on standard error; where several jobs have it, how many."""
    for fault, having in faults(rows):
        place = f"{fault.where}: " if fault.where else f"{label(having[0])} {having[0].job.architecture}".strip() + ": "
        more = f" (and for {plural(len(having) - 1, 'other job')})" if len(having) > 1 else ""
        sys.stderr.write(labelled("error", f"{place}{fault.what}{more}"))
        hint = "please report it, with what MKROOT_DEBUG=1 shows" if fault.internal and not fault.hint else fault.hint
        if hint:
            sys.stderr.write(labelled("hint", hint))
        if fault.internal and os.environ.get("MKROOT_DEBUG") == "1":
            sys.stderr.write(printable(having[0].log))


def _described(report: Report) -> dict[str, object]:
    """Return a run as JSON has it: what was built and what failed, in the order of the command line."""
    builds, failed = [], []
    for index, row in enumerate(report.rows):
        told: dict[str, object] = {"variables": row.job.defines} if row.job.varied else {}
        if index in report.built and row.state in (DONE, UNCHANGED):
            builds.append({**described_build(row.job.recipe, report.built[index], None), **told})
        elif row.state in (FAILED, SKIPPED):
            errors = [_error(fault) for fault in row.faults]
            place = {"architecture": row.job.architecture} if row.job.architecture else {}
            failed.append({"recipe": row.job.recipe, **place, **told, "errors": errors})
    return {"builds": builds, "failed": failed}


def _error(fault: Fault) -> dict[str, str | None]:
    return {"what": fault.what, "where": fault.where or None, "hint": fault.hint or None}
