"""Does the steps of a run on a Dask cluster, and brings what they made home.

Each step is a task of Dask's, with the steps that it stands on as its dependencies: where it runs is Dask's decision
alone. Results come back through the remote store: what an image's step made is built here once more, which finds it
there. A step that fails is a value, so Dask never tries it again; a step whose worker is lost is done by another.
"""

from __future__ import annotations

import operator
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.errors import ClusterError, MkrootError
from mkroot.fleet.connection import Connection, connect, shared, told
from mkroot.fleet.home import Home
from mkroot.fleet.model import DONE, FAILED, IMAGE, INDEX, SKIPPED, Began, Event, Fault, Outcome, Step
from mkroot.fleet.perform import faults_of
from mkroot.fleet.sending import Sending

if TYPE_CHECKING:
    from distributed import Client, Future

MODULE = "mkroot.fleet.worker"
POLL, RARELY = 0.05, 0.5  # seconds between two looks at what is finished, when few steps run and when thousands do
WATCH = 2.0  # … and at the workers, while nothing finishes
_SIDE, _CHAIN = 30, 4  # of simulated steps: how many chains, and their length
PATIENCE = 20.0  # seconds that a step waits for a worker that can do it, when the last such one is lost


class ClusterEngine:
    """The engine (`mkroot.fleet.model.Engine`) of a cluster.

    connection: to it; closed with the engine. environ: of this machine. jobs: how many results are brought home at a
    time.
    """

    def __init__(self, connection: Connection, environ: Mapping[str, str], jobs: int = 2, work: str = "work") -> None:
        self._connection = connection
        self._sending = Sending(environ)
        self._work = work
        self._came: queue.SimpleQueue[Began | Outcome] = queue.SimpleQueue()  # from other threads
        self._home = Home(environ, self._came.put, jobs)
        self._ready: deque[Event] = deque()
        self._running: dict[str, tuple[Step, Future]] = {}  # by task
        self._open: dict[str, Step] = {}  # every step without an outcome
        self._states: dict[str, str] = {}  # of the others: "", or the cause why nothing can stand on it
        self._missing: dict[str, set[str]] = {}  # of steps that are not under way: what they wait for
        self._waiting: dict[str, list[Step]] = {}  # … and by what they wait for
        self._images: set[str] = set()  # steps that bring an image into this machine's store
        self._far: dict[str, Outcome] = {}  # outcomes of steps whose result is on its way home
        self._stuck: dict[str, float] = {}  # steps that no worker can do now, and since when
        self._collected, self._watched = 0.0, time.monotonic()
        connection.client.subscribe_topic(connection.run, self._began)

    def add(self, steps: Sequence[Step]) -> None:
        """Take steps, each after those that it stands on; raises ClusterError where the scheduler is lost."""
        self._connection.members()
        self._connection.roll_call()
        batch: dict[str, Step] = {}
        for step in steps:
            self._open[step.key] = step
            here = self._here(step)
            missing = {key for key in step.after if key in self._open}
            ahead = any(key not in batch and self._task(key) not in self._running for key in missing)
            if cause := next((self._states[key] for key in step.after if self._states.get(key)), ""):
                self._settle(Outcome(key=step.key, state=SKIPPED, cause=cause))
            elif ahead or here:
                self._missing[step.key] = missing
                for key in missing:
                    self._waiting.setdefault(key, []).append(step)
                if not missing:
                    self._start(step)
            elif fault := self._connection.unable(step):
                self._settle(Outcome(key=step.key, state=FAILED, faults=(fault,)))
            else:
                batch[step.key] = step
        self._submit(list(batch.values()))

    def events(self) -> Iterator[Event]:
        """Yield what happens, until no step is left; raises ClusterError where the scheduler is lost."""
        while True:
            while self._ready:
                yield self._ready.popleft()
            if not self._open:
                return
            pause = min(RARELY, POLL + len(self._running) * POLL / 1000)
            if (left := self._collected + pause - time.monotonic()) <= 0:
                self._collect()
                self._watch()
            elif not self._ready:
                self._receive(left)

    def close(self) -> None:
        """End what runs here and there; takes two seconds at most."""
        self._home.end()
        tasks = [future for _, future in self._running.values()]
        self._running.clear()
        for future in tasks:
            future.release()
        self._connection.close()
        self._home.close()

    # ---- tasks

    def _task(self, key: str) -> str:
        """Return the name of a step's task: its kind first, by which Dask groups them."""
        kind, _, rest = key.partition("-")
        return f"{kind}-{self._connection.run}-{rest}"

    def _submit(self, steps: Sequence[Step]) -> None:
        """Hand steps to the scheduler, all in one message but for those that not every machine may do."""
        if not steps:
            return
        from dask.task_spec import Task, TaskRef

        from mkroot.fleet.worker import demanded

        run = self._connection.run
        work = _named(self._work)
        graph: dict[str, Any] = {}
        tasks: dict[str, Step] = {}
        resources: dict[str, dict[str, float]] = {}
        kinds: dict[tuple[str, ...], dict[str, float]] = {}
        for step in steps:
            if cause := next((self._states[key] for key in step.after if self._states.get(key)), ""):
                self._settle(Outcome(key=step.key, state=SKIPPED, cause=cause))
                continue
            try:
                sent = self._sending.sent(step)
            except (MkrootError, OSError) as e:
                self._settle(Outcome(key=step.key, state=FAILED, faults=faults_of(e)))
                continue
            parcel = f"parcel-{run}-{sent.name}"
            if parcel not in graph:
                graph[parcel] = Task(parcel, bytes, sent.parcel)
            task = self._task(step.key)
            before = [TaskRef(t) for key in step.after if (t := self._task(key)) in tasks or t in self._running]
            graph[task] = Task(task, operator.call, work, sent.data, run, task, TaskRef(parcel), *before)
            resources[task] = kinds.setdefault(step.asks, demanded(self._connection.base, step.asks))
            tasks[task] = step
        anywhere = [task for task, step in tasks.items() if not step.elsewhere]
        self._get(graph, {task: tasks[task] for task in anywhere}, resources)
        for task in tasks.keys() - anywhere:
            self._get(graph, {task: tasks[task]}, resources, self._connection.able(tasks[task]))

    def _get(
        self,
        graph: Mapping[str, Any],
        tasks: Mapping[str, Step],
        resources: Mapping[str, dict[str, float]],
        workers: Sequence[str] = (),
    ) -> None:
        """Hand tasks of a graph to the scheduler. workers: addresses of those that may do them; () for all."""
        if not tasks:
            return
        # Asked for by a function that any scheduler can unpack, for it need not have mkroot.
        asked = {**{key: {} for key in graph}, **resources}.get
        with told(self._connection.address):
            futures = self._connection.client.get(
                dict(graph), list(tasks), sync=False, resources=asked, workers=list(workers) or None
            )
        for (task, step), future in zip(tasks.items(), futures, strict=True):
            self._running[task] = (step, future)

    def _collect(self) -> None:
        """Take the outcomes of the tasks that are finished, all in one request."""
        self._collected = time.monotonic()
        finished, gone = [], []
        for task, (_, future) in self._running.items():
            status = future.status
            if status == "finished":
                finished.append(task)
            elif status != "pending":
                gone.append(task)
        if finished:
            with told(self._connection.address):
                values = self._connection.client.gather([self._running[task][1] for task in finished], errors="skip")
            for _, _, data in values:
                self._arrived(from_msgpack(data, Outcome))
        for task in gone:
            step, future = self._running.pop(task)
            self._settle(self._lost(step, future))

    def _arrived(self, outcome: Outcome) -> None:
        step, _ = self._running.pop(self._task(outcome.key))
        if outcome.state == DONE and step.kind == IMAGE:
            self._far[step.key] = outcome
            self._home.bring(step)
        else:
            self._settle(outcome)

    def _lost(self, step: Step, future: Future) -> Outcome:
        """Return the outcome of a task that has none: its worker was lost too often, or Dask failed."""
        from distributed.scheduler import KilledWorker

        if future.status != "error":
            if self._connection.lost or self._connection.client.status != "running":
                raise ClusterError(
                    f"the scheduler {self._connection.address} was lost in the middle of the run",
                    hint="what its workers had finished is in the remote store: begin the run again",
                )
            fault = Fault(what="the scheduler forgot the step", hint="was it restarted? Begin the run again")
            return Outcome(key=step.key, state=FAILED, faults=(fault,))
        error = future.exception()
        if isinstance(error, KilledWorker):
            blamed = str(error.task).replace(f"-{self._connection.run}-", "-", 1)
            if blamed != step.key and (blamed in self._open or blamed in self._states):
                return Outcome(key=step.key, state=SKIPPED, cause=blamed)
            name = str(error.last_worker.name)
            fault = Fault(
                what=f"{error.allowed_failures + 1} workers were lost over this step, the last one `{name}`",
                hint="its log may tell why; a worker that runs out of memory ends so",
            )
            return Outcome(key=step.key, state=FAILED, machine=name, faults=(fault,))
        fault = Fault(what=f"Dask failed over the step: {type(error).__name__}: {error}"[:2000], internal=True)
        return Outcome(key=step.key, state=FAILED, faults=(fault,))

    # ---- what comes

    def _began(self, event: tuple[float, Any]) -> None:
        """Take an event of the run's topic; called by the client's thread."""
        key, machine = event[1]
        self._came.put(Began(key=key, machine=machine))

    def _receive(self, timeout: float) -> None:
        """Take what other threads have to tell, waiting for it at most so long."""
        try:
            event = self._came.get(timeout=timeout)
            while True:
                if isinstance(event, Outcome):
                    self._brought(event)
                elif event.key in self._open:
                    self._ready.append(event)
                event = self._came.get_nowait()
        except queue.Empty:
            return

    def _brought(self, here: Outcome) -> None:
        """A step was done on this machine: that of an index, or an image's, which another machine had done before."""
        step = self._open[here.key]
        if here.state == FAILED and step.known:  # not all of it is there any more: it is made, where it can be
            self._open[step.key] = step = msgspec.structs.replace(step, known=False)
            self._start(step)
            return
        far = self._far.pop(here.key, None)
        if far is not None:
            here = msgspec.structs.replace(
                here,
                begin=far.begin,
                end=max(far.end, here.end) if here.state == DONE else here.end,
                machine=far.machine,
                log=far.log + here.log,
            )
        self._settle(here)

    def _settle(self, outcome: Outcome) -> None:
        """A step has its outcome: tell it, and let those go on that wait for it."""
        done = outcome.state == DONE
        step = self._open.pop(outcome.key)
        if outcome.state == FAILED and outcome.machine:
            place = f" (in `{step.shown}`, on worker `{outcome.machine}`)"
            faults = tuple(msgspec.structs.replace(f, what=f"{f.what}{place}") for f in outcome.faults)
            outcome = msgspec.structs.replace(outcome, faults=faults)
        self._stuck.pop(outcome.key, None)
        self._missing.pop(outcome.key, None)
        self._states[outcome.key] = "" if done else outcome.cause or outcome.key
        self._ready.append(outcome)
        for step in self._waiting.pop(outcome.key, ()):
            missing = self._missing.get(step.key)
            if missing is None:
                continue
            missing.discard(outcome.key)
            if not done:
                self._settle(Outcome(key=step.key, state=SKIPPED, cause=self._states[outcome.key]))
            elif not missing:
                self._start(step)

    def _here(self, step: Step) -> bool:
        """Tell whether a step is this machine's.

        It makes an index, or stands on an image, which is in its store, or brings home what the remote store has.
        """
        if step.kind in (IMAGE, INDEX):
            self._images.add(step.key)
        return step.kind == INDEX or step.known or not self._images.isdisjoint(step.after)

    def _start(self, step: Step) -> None:
        """Begin a step that waits for no others any more."""
        self._missing.pop(step.key, None)
        if self._here(step):
            self._ready.append(Began(key=step.key))
            self._home.bring(step)
        elif fault := self._connection.unable(step):
            self._settle(Outcome(key=step.key, state=FAILED, faults=(fault,)))
        else:
            self._submit([step])

    def _watch(self) -> None:
        """Now and then see whether there still are workers for the steps that are under way."""
        now = time.monotonic()
        if self._ready or now - self._watched < WATCH:
            return
        self._watched = now
        before = self._connection.found.keys()
        if self._connection.members().keys() - before:
            self._connection.roll_call()
        kinds: dict[tuple[tuple[str, ...], str], Fault | None] = {}
        for task, (step, future) in list(self._running.items()):
            kind = (step.asks, step.elsewhere)
            if kind not in kinds:
                kinds[kind] = self._connection.unable(step)
            fault = kinds[kind]
            if fault is None or future.status != "pending":
                self._stuck.pop(step.key, None)
            elif now - self._stuck.setdefault(step.key, now) > PATIENCE:
                del self._running[task]
                future.cancel()
                self._settle(Outcome(key=step.key, state=FAILED, faults=(fault,)))


def on_cluster(
    address: str, environ: Mapping[str, str], jobs: int, warn: Callable[[str], None]
) -> Callable[[], ClusterEngine]:
    """Return what connects to a cluster and makes its engine.

    address, warn: as `connection.connect` has them. jobs: as the engine has it. Raises ClusterError where no remote
    store is configured, StoreError where one is wrongly.
    """
    settings = shared(environ, warn)
    return lambda: ClusterEngine(connect(address, settings, environ, warn), environ, jobs)


def _named(function: str) -> Any:
    """Return a task's function by name, which its worker imports: the scheduler need not have mkroot."""
    import importlib

    from dask.task_spec import Task

    return Task(None, getattr, Task(None, importlib.import_module, MODULE), function)


def simulate(client: Client, steps: int) -> float:
    """Run so many steps that do nothing through an engine; return the seconds that one costs.

    client: of a cluster whose workers have mkroot; it is closed. Chains of four steps, thirty side by side, each with a
    parcel, as thirty recipes would have them.
    """
    from mkroot.fleet.model import STAGE, Order

    connection = Connection("simulated", client, f"simulated-{time.monotonic_ns()}", "")
    engine = ClusterEngine(connection, {}, work="nothing")
    parcels = [b"%d" % n * 20_000 for n in range(_SIDE)]
    begin = time.monotonic()
    made: list[Step] = []
    for n in range(steps):
        after = (f"stage-{n - _SIDE}",) if n // _SIDE % _CHAIN else ()
        order = Order(recipe="simulated", parcel=parcels[n % _SIDE], stage="include", packages=("0" * 64,))
        made.append(Step(key=f"stage-{n}", kind=STAGE, shown=f"step {n}", order=order, after=after))
    try:
        engine.add(made)
        ended = sum(isinstance(event, Outcome) and event.state == DONE for event in engine.events())
        if ended != steps:
            raise ClusterError(f"{steps - ended} of {steps} simulated steps failed")
        return (time.monotonic() - begin) / steps
    finally:
        engine.close()
