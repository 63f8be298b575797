"""Has builds that a remote store holds made again by other machines than those that made them first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from mkroot import lockfile, making, verifying
from mkroot.archive import config
from mkroot.artifact.folder import target_folder
from mkroot.build import no_lock, open_recipe, placed
from mkroot.decoding import from_msgpack
from mkroot.errors import MkrootError, StoreError
from mkroot.fleet import graph
from mkroot.fleet.model import DONE, VERIFY, Engine, Order, Outcome, Step
from mkroot.fleet.perform import encode_options
from mkroot.fleet.rebuilding import Rebuilt
from mkroot.remote import attached, result, settings
from mkroot.store.store import Store, default_root
from mkroot.verifying import Fault, Verified

if TYPE_CHECKING:
    from mkroot.build import Options
    from mkroot.progress import Progress
    from mkroot.recipe.model import Recipe
    from mkroot.remote.results import Result


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A build to verify: what this machine itself can say of it, and the step that says the rest; None for nothing."""

    own: Verified
    step: Step | None = None


def verify_elsewhere(
    recipes: Sequence[tuple[str, Options]],
    environ: Mapping[str, str],
    progress: Progress,
    engine: Callable[[], Engine],
) -> Iterator[Verified]:
    """Yield what became of each architecture of some recipes, in order.

    recipes: paths with their options. What stands in the output folder is compared with the remote store's result,
    which a machine other than its builder makes again. engine: makes the engine, where there is a step to do. Raises
    MkrootError where a recipe has no lock, or the remote store no such build.
    """
    store = Store(default_root(environ))
    cases: list[Case] = []
    with attached(store, environ, progress):
        for recipe, options in recipes:
            try:
                cases += _cases(store, recipe, options, environ)
            except MkrootError as e:
                raise placed(e, recipe, options) from e.__cause__
    outcomes: dict[str, Outcome] = {}
    steps = {case.step.key: case.step for case in cases if case.step is not None}
    if steps:
        doing = engine()
        try:
            doing.add(list(steps.values()))
            outcomes = {event.key: event for event in doing.events() if isinstance(event, Outcome)}
        finally:
            doing.close()
    for case in cases:
        yield case.own if case.step is None else _joined(case.own, outcomes[case.step.key])


def _cases(store: Store, shown: str, options: Options, environ: Mapping[str, str]) -> Iterator[Case]:
    wanted = open_recipe(shown, options)
    path = lockfile.lock_path(shown, options.defines)
    lock = lockfile.read_lock(path) if path is not None else None
    if path is None or lock is None:
        raise no_lock(lockfile.spoken(shown, options.defines), path)
    lockfile.check_fresh(lock, wanted, lockfile.spoken(shown, options.defines), path)
    for architecture in map(str, wanted.arch):
        key = making.wished(wanted, lock, architecture, options, environ).key
        found = result(store, key)
        if found is None:
            known = settings(environ, config.load(environ))
            raise StoreError(
                f"{known.name if known else 'the remote store'} has no build of {wanted.name} for {architecture} "
                "with this lock",
                where=shown,
                hint=f"build it first, with the same options: `mkroot build {lockfile.spoken(shown, options.defines)}`",
            )
        yield Case(
            own=_own(wanted, architecture, options, found),
            step=Step(
                key=f"{VERIFY}-{key[:32]}",
                kind=VERIFY,
                shown=f"{shown} {architecture}: second build",
                order=Order(
                    recipe=shown,
                    lock=str(path),
                    options=encode_options(options),
                    architecture=architecture,
                    record=key.encode(),
                ),
                asks=graph.asks(wanted, architecture),
                elsewhere=found.builder,
            ),
        )


def _own(recipe: Recipe, architecture: str, options: Options, found: Result) -> Verified:
    """Compare what stands in the output folder with the remote store's result; nothing standing there is no fault."""
    folder = target_folder(options.out, str(recipe.name), architecture)
    faults: list[Fault] = []
    if folder.is_dir():
        there = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file() or p.is_symlink()}
        recorded = {file.path: file.sha256 for file in found.files if file.path}
        for name in sorted(there.keys() | recorded.keys()):
            if name not in there:
                faults.append(Fault(where=str(folder / name), what="the artifact is missing"))
            elif name not in recorded:
                faults.append(Fault(where=str(folder / name), what="not of this build"))
            elif verifying.digest_of(there[name]) != recorded[name]:
                what = "not what the remote store has of this build: it was changed since"
                faults.append(Fault(where=str(folder / name), what=what))
    return Verified(name=str(recipe.name), architecture=architecture, artifacts=(), faults=tuple(faults))


def _joined(own: Verified, outcome: Outcome) -> Verified:
    """Return what this machine and the second builder say together."""
    if outcome.state != DONE:
        told = tuple(
            Fault(where=fault.where or f"{own.name} {own.architecture}", what=fault.what, hint=fault.hint)
            for fault in outcome.faults
        )
        return msgspec.structs.replace(own, faults=(*own.faults, *told), again=False)
    rebuilt = from_msgpack(outcome.result, Rebuilt)
    step = f"; the first difference is in {rebuilt.step}" if rebuilt.step else ""
    faults = tuple(msgspec.structs.replace(fault, what=f"{fault.what}{step}") for fault in rebuilt.faults)
    told = (*own.faults, *faults)
    return msgspec.structs.replace(own, artifacts=rebuilt.artifacts, faults=told, by=outcome.machine)
