"""What a worker of a Dask cluster does for a run: it tells what it can do, and does steps in processes of their own.

A client sends the plugin to all workers, also to those that come later. The scheduler never needs mkroot: a task there
names this module and hands it bytes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from distributed import WorkerPlugin, get_worker

from mkroot.decoding import from_msgpack
from mkroot.digest import sha256
from mkroot.fleet import abilities
from mkroot.fleet.abilities import Abilities
from mkroot.fleet.model import DONE, FAILED, SKIPPED, Fault, Outcome, Step
from mkroot.fleet.process import StepProcess

if TYPE_CHECKING:
    from distributed import Worker

PLENTY = 1e9  # of an ability: how many steps run at a time is decided by a worker's threads
EPOCH = "SOURCE_DATE_EPOCH"  # decides bytes, so it is the client's, or nobody's
MIRROR = "MKROOT_MIRROR_"
Came = tuple[str, str, bytes]  # state, cause, and the outcome as msgpack: what a step hands to those that stand on it

_log = logging.getLogger("distributed.mkroot")


def base(versions: Mapping[str, str], remote: str) -> str:
    """Return the resource that a worker has which can work for a run.

    Versions and the remote store are in its name, so that a worker that comes later and has others gets no step.
    """
    text = "\n".join([*(f"{name} {version}" for name, version in sorted(versions.items())), remote])
    return f"mkroot-{sha256(text.encode())[:12]}"


def resource(ability: str) -> str:
    """Return the name of an ability among Dask's resources."""
    return f"mkroot-{ability}"


def demanded(base: str, asks: Iterable[str]) -> dict[str, float]:
    """Return what Dask is to ask of a worker that gets a step. base: "" for that of any run."""
    own = {base: 1.0} if base else {}
    return {**own, **{resource(name): 1.0 for name in asks}}


def offered(base: str, found: Abilities) -> dict[str, float]:
    """Return what a worker has to offer; what it had before and has not now is none."""
    if found.fault is not None:
        return {base: 0.0}
    lacking = {resource(name): 0.0 for name in found.lacks}
    return {base: PLENTY, **lacking, **{resource(name): PLENTY for name in found.able}}


class Plugin(WorkerPlugin):  # type: ignore[misc]  # distributed has no types for mypy
    """A run, as its workers know it.

    run: its name; the plugin and the topic of its events are named so. remote: the remote store's name. given:
    variables that the steps' processes get in place of the worker's own; the store's key is among them, and shown
    nowhere. mirrors: variables for those that the worker has no mirror for.
    """

    idempotent = False

    def __init__(self, run: str, remote: str, given: Mapping[str, str], mirrors: Mapping[str, str]) -> None:
        self.name, self._remote, self._given, self._mirrors = run, remote, dict(given), dict(mirrors)
        self.found = Abilities()
        self._changing = threading.Lock()
        self._idle: list[StepProcess] = []
        self._doing: dict[str, StepProcess] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"Plugin({self.name!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return (Plugin, (self.name, self._remote, self._given, self._mirrors))

    async def setup(self, worker: Worker) -> None:
        """Find out what this worker can do, say so, and offer it to the scheduler."""
        self.found = await asyncio.to_thread(abilities.asked, self._environ())
        for line in abilities.told(self.found):
            _log.info("mkroot: this worker %s", line)
        await worker.set_resources(**offered(base(abilities.versions(), self._remote), self.found))

    async def teardown(self, worker: Worker) -> None:
        """End the processes of the run."""
        with self._changing:
            self._closed = True
            processes = [*self._idle, *self._doing.values()]
            self._idle.clear()
        await asyncio.to_thread(_close, processes)

    def transition(self, key: Any, start: str, finish: str, **more: object) -> None:
        """Learn that a task is not wanted any more, and end its process: a thread cannot be interrupted."""
        if finish in ("cancelled", "forgotten", "released") and isinstance(key, str):
            with self._changing:
                process = self._doing.pop(key, None)
            if process is not None:
                threading.Thread(target=process.close, daemon=True).start()

    def do(self, step: Step, key: str) -> Outcome:
        """Do a step. key: of its task."""
        with self._changing:
            if self._closed:
                return Outcome(key=step.key, state=FAILED, faults=(Fault(what="the run was ended"),))
            process = self._idle.pop() if self._idle else StepProcess(self._environ())
            self._doing[key] = process
        outcome = process.do(step)
        with self._changing:
            wanted = self._doing.pop(key, None) is not None and not self._closed
            if wanted:
                self._idle.append(process)
        return outcome

    def _environ(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name != EPOCH}
        return {**own, **_lacking(own, self._mirrors), **self._given}


def _lacking(own: Mapping[str, str], mirrors: Mapping[str, str]) -> dict[str, str]:
    """Return the client's mirrors of archives for which this worker has none of its own."""
    from mkroot.archive import config
    from mkroot.errors import MkrootError

    try:
        named = config.load(own).mirrors
    except MkrootError:
        return {}  # the step's own process says what is wrong with it
    return {name: url for name, url in mirrors.items() if name not in own and _archive(name) not in named}


def _archive(variable: str) -> str:
    return variable.removeprefix(MIRROR).lower().replace("_", "-")


def _close(processes: list[StepProcess]) -> None:
    threads = [threading.Thread(target=process.close) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ---- what the client and the tasks call, by name


def work(data: bytes, run: str, key: str, parcel: bytes, *before: Came) -> Came:
    """Do a step, or skip it where one that it stands on failed; nothing is raised.

    data: the step as msgpack, its order without the parcel. key: of the task. before: what came of the steps that it
    stands on.
    """
    import zlib

    step = from_msgpack(data, Step)
    cause = next((cause for state, cause, _ in before if state != DONE), "")
    if cause:
        return came(Outcome(key=step.key, state=SKIPPED, cause=cause))
    worker = get_worker()
    begin, name = time.time(), str(worker.name)
    plugin = worker.plugins.get(run)
    if plugin is None:
        fault = Fault(what=f"worker {name} knows nothing of this run any more")
        return came(Outcome(key=step.key, state=FAILED, begin=begin, end=time.time(), machine=name, faults=(fault,)))
    worker.log_event(run, [step.key, name])
    order = msgspec.structs.replace(step.order, parcel=zlib.decompress(parcel))
    outcome = plugin.do(msgspec.structs.replace(step, order=order), key)
    return came(msgspec.structs.replace(outcome, machine=name))


def came(outcome: Outcome) -> Came:
    """Return what a step hands on."""
    cause = outcome.cause if outcome.state == SKIPPED else outcome.key if outcome.state == FAILED else ""
    return outcome.state, cause, msgspec.msgpack.encode(outcome)


def nothing(data: bytes, run: str, key: str, parcel: bytes, *before: Came) -> Came:
    """Do what `work` does around a step, and no step."""
    step = from_msgpack(data, Step)
    get_worker().log_event(run, [step.key, ""])
    return came(Outcome(key=step.key, state=DONE))


def found(run: str, dask_worker: Worker) -> bytes:
    """Return a worker's abilities as msgpack, for `Client.run`."""
    plugin = dask_worker.plugins.get(run)
    nothing_known = Abilities(fault=Fault(what="it has not joined the run"))
    return msgspec.msgpack.encode(nothing_known if plugin is None else plugin.found)
