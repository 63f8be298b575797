"""A run: variants of recipes become steps, an engine does them, and each job's row tells what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mkroot import making, sharing
from mkroot.artifact.manifest import Manifest
from mkroot.build import Built
from mkroot.decoding import from_msgpack
from mkroot.errors import LockError, MkrootError
from mkroot.fleet import graph, locks
from mkroot.fleet.changes import change, manifest
from mkroot.fleet.matrix import Variant, bases
from mkroot.fleet.model import (
    DONE,
    FAILED,
    INDEX,
    RUNNING,
    SKIPPED,
    UNCHANGED,
    Began,
    Engine,
    Fault,
    Order,
    Outcome,
    Row,
    Step,
)
from mkroot.fleet.perform import encode_options, faults_of
from mkroot.oci.model import Descriptor
from mkroot.resolve.lock import Lock
from mkroot.sourcedate import source_date
from mkroot.store.store import Store, default_root
from mkroot.store.use import remove

_OVER = (DONE, UNCHANGED, FAILED, SKIPPED)  # states in which nothing more happens to a row
OnChange = Callable[[int, Row], None]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a run. rows: one a job, in order. built: what each job made or found, by its row."""

    rows: tuple[Row, ...]
    built: dict[int, Built]
    steps: int = 0

    @property
    def failed(self) -> bool:
        """Whether a job has not been done."""
        return any(row.state not in (DONE, UNCHANGED) for row in self.rows)


def run(
    variants: Sequence[Variant],
    environ: Mapping[str, str],
    engine: Callable[[], Engine],
    *,
    on_change: OnChange = lambda index, row: None,
    on_built: Callable[[int, Built], None] = lambda index, built: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Report:
    """Build variants of recipes; what fails is told in its row and stops nothing that does not stand on it.

    engine: makes the engine, if there is a step to do. on_change: called with a row's index and the row at its
    beginning and whenever it changes. on_built: called before that, with what a job made. warn: called with a line
    where the remote store cannot be asked. Raises UsageError for recipes that stand on each other, StoreError.
    """
    store = Store(default_root(environ))
    folder = store.folder("locks.")
    going = _Run(variants, environ, store, folder, engine, on_change, on_built, warn)
    try:
        going.go()
    finally:
        going.close()
        remove(folder)
    return Report(rows=tuple(going.rows), built=going.built, steps=len(going.steps))


class _State:
    """A variant on its way. rows: of its architectures. ends: steps after which its images are there."""

    def __init__(self, number: int, variant: Variant, rows: dict[str, int]) -> None:
        self.number = number
        self.variant = variant
        self.rows = rows
        self.lock: Lock | None = None
        self.locking: dict[str, str] = {}  # key of a step that locks: the architecture
        self.texts: dict[str, bytes] = {}  # by architecture, what such a step made
        self.order = Order()
        self.ends: tuple[str, ...] = ()
        self.whole = True  # none of its rows failed before it had steps


class _Run:
    def __init__(
        self,
        variants: Sequence[Variant],
        environ: Mapping[str, str],
        store: Store,
        folder: Path,
        engine: Callable[[], Engine],
        on_change: OnChange,
        on_built: Callable[[int, Built], None],
        warn: Callable[[str], None],
    ) -> None:
        self.warn = warn
        self.environ, self.store, self.folder = environ, store, folder
        self.make_engine, self.on_change, self.on_built = engine, on_change, on_built
        self.engine: Engine | None = None
        self.rows: list[Row] = []
        self.built: dict[int, Built] = {}
        self.steps: dict[str, Step] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.users: dict[str, dict[int, None]] = {}  # by step, the rows that it works for
        self.own: dict[int, list[str]] = {}  # by row, the steps that work for it
        self.ends: dict[int, list[str]] = {}  # by row, the steps after which it is done
        self.before: dict[int, Manifest | None] = {}  # by row, what stood in its folder
        self.locking: dict[str, _State] = {}  # by step that locks
        self.states: list[_State] = []
        self.of: list[_State] = []  # by row
        for variant in variants:
            numbers = {job.architecture: len(self.rows) + n for n, job in enumerate(variant.jobs)}
            state = _State(len(self.states), variant, numbers)
            self.states.append(state)
            self.rows += [Row(job=job) for job in variant.jobs]
            self.of += [state] * len(numbers)
        self.bases = bases(variants)
        depth = [self._depth(number) for number in range(len(variants))]
        self.waves = [[n for n, d in enumerate(depth) if d == level] for level in range(max(depth, default=-1) + 1)]

    def _depth(self, number: int) -> int:
        base = self.bases.get(number)
        return 0 if base is None else 1 + self._depth(base)

    def go(self) -> None:
        """Do everything."""
        for index, row in enumerate(self.rows):
            self.on_change(index, row)
        for state in self.states:
            if state.variant.recipe is None:
                self._fail(state, state.variant.faults)
        self._proceed()
        if self.engine is not None:
            for event in self.engine.events():
                if isinstance(event, Began):
                    self._began(event)
                else:
                    self._ended(event)

    def close(self) -> None:
        """End what still runs."""
        if self.engine is not None:
            self.engine.close()

    # ---- locks and plans

    def _proceed(self) -> None:
        """Begin wave after wave, a wave being what stands on images of the one before, until locks are waited for."""
        while self.waves and not self.locking:
            wave = [self.states[number] for number in self.waves[0]]
            if not any(state.locking for state in wave):
                self._add([step for number in self.waves[0] for step in self._settle(number)])
                if self.locking:
                    return
            del self.waves[0]
            self._plan([state for state in wave if state.lock is not None])

    def _settle(self, number: int) -> list[Step]:
        """Find a variant's lock, and return the steps that make what it lacks."""
        state = self.states[number]
        variant, recipe = state.variant, state.variant.recipe
        if recipe is None:
            return []
        base = None if number not in self.bases else self.states[self.bases[number]]
        if base is not None and not base.whole:
            fault = Fault(what=f"it stands on the image of `{base.variant.label}`, which failed", where=variant.label)
            self._fail(state, (fault,), SKIPPED)
            return []
        try:
            found = locks.settled(variant, recipe)
        except MkrootError as e:
            self._fail(state, faults_of(locks.placed(e, variant)))
            return []
        state.lock = found.lock
        state.order = Order(recipe=variant.path, lock=variant.lock or "", options=encode_options(variant.options))
        after = base.ends if base is not None else ()
        steps = []
        for architecture in found.missing:
            order = msgspec.structs.replace(state.order, architecture=architecture)
            step = graph.lock_step(variant.label, order, after)
            state.locking[step.key] = architecture
            self.locking[step.key] = state
            self.users[step.key] = {state.rows[architecture]: None}
            self.own.setdefault(state.rows[architecture], []).append(step.key)
            steps.append(step)
        return steps

    def _locked(self, outcome: Outcome) -> None:
        """Take what a step locked; with the last one of all, the wave goes on."""
        state = self.locking.pop(outcome.key)
        if outcome.state == DONE:
            state.texts[state.locking[outcome.key]] = outcome.result
        else:
            state.whole = False
        if any(key in self.locking for key in state.locking):
            return
        variant, recipe = state.variant, state.variant.recipe
        assert recipe is not None
        if state.texts:
            texts = [state.texts[a] for a in map(str, recipe.arch) if a in state.texts]
            try:
                state.lock = locks.merged(recipe, state.lock, texts, variant.label)
                path = locks.kept(state.lock, variant, self.folder, str(state.number), whole=state.whole)
                state.order = msgspec.structs.replace(state.order, lock=path)
            except MkrootError as e:
                state.lock = None
                self._fail(state, faults_of(e))
        if not self.locking:
            self._proceed()

    def _plan(self, wave: Sequence[_State]) -> None:
        """Add the steps of variants whose locks are known; what is there unchanged needs none."""
        jobs: list[tuple[_State, int, graph.Locked]] = []
        for state in wave:
            siblings: list[Descriptor] = []
            for architecture, index in state.rows.items():
                if self.rows[index].state in (FAILED, SKIPPED):
                    continue
                job = self._job(state, index, architecture, siblings)
                if job is not None:
                    jobs.append((state, index, job))
        builds = [job.build for _, _, job in jobs if job.build]
        known = sharing.known(self.store, builds, self.environ, self.warn)
        plan = graph.plan([job for _, _, job in jobs], self.steps, known)
        self.steps.update((step.key, step) for step in plan.steps)
        for (_, index, job), end in zip(jobs, plan.ends):
            self.ends[index] = [end]
            self._use(index, end, job.after)
        indices = []
        for state in wave:
            made = [i for i in state.rows.values() if i in self.ends]
            state.ends = tuple(self.ends[index][0] for index in made)
            if made and state.whole and len(state.rows) > 1 and state.variant.images:
                step = graph.index_step(state.variant.label, state.order, state.ends)
                state.ends = (step.key,)
                indices.append(step)
                for index in made:
                    self.ends[index].append(step.key)
                    self._use(index, step.key, step.after)
            state.lock = None  # thousands of them would not fit
        self._add([*plan.steps, *indices])

    def _use(self, index: int, end: str, stops: Sequence[str]) -> None:
        """Note that a step and what it stands on work for a row, but for steps that others wanted first."""
        todo = [end]
        while todo:
            key = todo.pop()
            users = self.users.setdefault(key, {})
            if index not in users:
                users[index] = None
                self.own.setdefault(index, []).append(key)
                step = self.steps.get(key)
                todo += [k for k in step.after if k not in stops] if step is not None else []

    def _job(self, state: _State, index: int, architecture: str, siblings: list[Descriptor]) -> graph.Locked | None:
        """Return a row's job with its lock; None where its outputs are there unchanged, or it cannot be."""
        variant, recipe, lock = state.variant, state.variant.recipe, state.lock
        assert recipe is not None and lock is not None
        base = self.bases.get(state.number)
        try:
            wish = making.wished(recipe, lock, architecture, variant.options, self.environ)
            built = making.there(self.store, wish, recipe, variant.options, siblings)
            if built is not None:
                self._found(index, built)
                return None
            job = graph.Locked(
                label=variant.label,
                recipe=recipe,
                lock=lock,
                architecture=architecture,
                order=state.order,
                mirror=variant.options.mirror,
                after=() if base is None else self.states[base].ends,
                date=source_date(self.environ),
                build=wish.key if making.copies(variant.options) else "",
            )
        except (MkrootError, OSError) as e:
            told = locks.placed(e, variant) if isinstance(e, MkrootError) else e
            if isinstance(told, LockError) and told.where is None:
                told = LockError(told.what, where=variant.lock or variant.label, hint=told.hint)
            state.whole = False
            self._change(index, state=FAILED, faults=faults_of(told))
            return None
        self.before[index] = manifest(wish.target)
        return job

    def _add(self, steps: Sequence[Step]) -> None:
        if not steps:
            return
        self.steps.update((step.key, step) for step in steps)
        if self.engine is None:
            self.engine = self.make_engine()
        self.engine.add(steps)

    # ---- events

    def _began(self, event: Began) -> None:
        for index in self.users[event.key]:
            if self.rows[index].state not in _OVER:
                self._change(index, state=RUNNING, doing=self.steps[event.key].shown, machine=event.machine)

    def _ended(self, outcome: Outcome) -> None:
        self.outcomes[outcome.key] = outcome
        for index in self.users[outcome.key]:
            if self.rows[index].state in _OVER:
                continue
            if outcome.state == FAILED:
                self._failed(index, outcome)
            elif outcome.state == SKIPPED:
                self._skipped(index, outcome)
            self._finish(index)
        if outcome.key in self.locking:
            self._locked(outcome)

    def _failed(self, index: int, outcome: Outcome) -> None:
        variant = self._variant(index)
        faults = tuple(_named(fault, variant) for fault in outcome.faults)
        self._change(index, state=FAILED, faults=faults, machine=outcome.machine)

    def _skipped(self, index: int, outcome: Outcome) -> None:
        """Tell a row that a step of its own was skipped: for a step of its own that failed, or for another recipe."""
        cause = outcome.cause
        if index in self.users.get(cause, ()):
            if cause in self.outcomes:
                self._failed(index, self.outcomes[cause])
        elif self.steps[outcome.key].kind != INDEX:  # an image that has no index, for another architecture failed
            what = f"it stands on what failed: {self.steps[cause].shown}" if cause in self.steps else "its base failed"
            self._change(index, state=SKIPPED, faults=(Fault(what=what, where=self._variant(index).label),))

    def _finish(self, index: int) -> None:
        """See whether a row has all that it waits for."""
        ends = [self.outcomes.get(key) for key in self.ends.get(index, [])]
        if self.rows[index].state in _OVER or not ends or None in ends:
            return
        image = ends[0]
        if image is None or image.state != DONE:
            return
        built = from_msgpack(image.result, Built)
        self.built[index] = built
        self.on_built(index, built)
        job = self.rows[index].job
        after = manifest(self._variant(index).options.out / job.name / job.architecture)
        self._change(
            index,
            state=DONE,
            size=sum(a.size for a in built.artifacts),
            packages=built.packages,
            change=change(self.before[index], after),
            machine=image.machine,
        )

    def _found(self, index: int, built: Built) -> None:
        self.built[index] = built
        self.on_built(index, built)
        self._change(index, state=UNCHANGED, size=sum(a.size for a in built.artifacts), packages=built.packages)

    def _fail(self, state: _State, faults: tuple[Fault, ...], how: str = FAILED) -> None:
        """End all rows of a variant that cannot be built."""
        state.whole = False
        told = tuple(_named(fault, state.variant) for fault in faults)
        for index in state.rows.values():
            if self.rows[index].state not in _OVER:
                self._change(index, state=how, faults=told)

    def _change(self, index: int, **values: Any) -> None:
        if values.get("state") in _OVER:
            own = [o for key in self.own.get(index, ()) if (o := self.outcomes.get(key)) is not None and o.begin]
            values["doing"] = ""
            values["seconds"] = max(o.end for o in own) - min(o.begin for o in own) if own else 0.0
            values["log"] = "".join(
                f"{self.steps[o.key].shown}\n{o.log}" for o in sorted(own, key=lambda o: (o.begin, o.key))
            )
        self.rows[index] = msgspec.structs.replace(self.rows[index], **values)
        self.on_change(index, self.rows[index])

    def _variant(self, index: int) -> Variant:
        return self.of[index].variant


def _named(fault: Fault, variant: Variant) -> Fault:
    """Return a fault that names a recipe as the command line does, not by the place at which a bundle was opened."""
    if variant.path == variant.shown:
        return fault
    folder = f"{variant.path.rpartition('/')[0]}/"
    what, where, hint = (t.replace(folder, f"{variant.shown}: ") for t in (fault.what, fault.where, fault.hint))
    return msgspec.structs.replace(fault, what=what, where=where, hint=hint)
