"""Does a run's steps on this machine: some threads, each with a process of its own."""

from __future__ import annotations

import heapq
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from mkroot.fleet.model import DONE, SKIPPED, Began, Event, Outcome, Step
from mkroot.fleet.process import StepProcess

MEMORY = 384 << 20  # bytes that a step may need: a small base takes a third of that, with its trees in memory more


def fitting() -> int:
    """Return how many steps run at a time unless somebody says otherwise: one a processor, while memory lasts."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), MEMORY)
    return max(1, min(len(os.sched_getaffinity(0)), free // MEMORY))


class Doer(Protocol):
    """What does one step after another, as `StepProcess`."""

    def do(self, step: Step) -> Outcome:
        """Do a step and return its outcome."""
        ...

    def close(self) -> None:
        """End, in the middle of a step as well."""
        ...


class LocalEngine:
    """An engine (`mkroot.fleet.model.Engine`) of some processes of this machine.

    jobs: how many steps run at a time. environ: of the processes. process: makes what does them. Steps begin in the
    order in which they were added, each as soon as what it stands on is done.
    """

    def __init__(
        self, jobs: int, environ: Mapping[str, str], process: Callable[[Mapping[str, str]], Doer] = StepProcess
    ) -> None:
        self._environ = environ
        self._process = process
        self._jobs = jobs
        self._steps: dict[str, tuple[int, Step]] = {}  # those that wait or run, with their place
        self._left: dict[str, int] = {}  # how many steps each waits for
        self._above: dict[str, list[str]] = {}  # what stands on each
        self._ended: dict[str, Outcome] = {}
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._ready: list[tuple[int, str]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._added = 0
        self._pending = 0  # outcomes that are to come
        self._processes: list[Doer] = []
        self._threads: list[threading.Thread] = []

    def add(self, steps: Sequence[Step]) -> None:
        """Take steps, each after those that it stands on."""
        with self._changed:
            for step in steps:
                self._added += 1
                self._pending += 1
                self._steps[step.key] = (self._added, step)
                waits = [key for key in dict.fromkeys(step.after) if key in self._steps]
                failed = [key for key in step.after if key in self._ended and self._ended[key].state != DONE]
                self._left[step.key] = len(waits)
                for key in waits:
                    self._above.setdefault(key, []).append(step.key)
                if failed:
                    self._end(Outcome(key=step.key, state=SKIPPED, cause=self._cause(failed[0])))
                elif not waits:
                    heapq.heappush(self._ready, (self._added, step.key))
            while len(self._threads) < min(self._jobs, len(self._steps)):
                self._processes.append(self._process(self._environ))
                thread = threading.Thread(target=self._work, args=(self._processes[-1],), daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def events(self) -> Iterator[Event]:
        """Yield what happens, until every step has its outcome."""
        while self._pending:
            event = self._events.get()
            if isinstance(event, Outcome):
                self._pending -= 1
            yield event

    def close(self) -> None:
        """End what runs, and wait for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        enders = [threading.Thread(target=process.close, daemon=True) for process in self._processes]
        for ender in enders:
            ender.start()
        for thread in (*enders, *self._threads):
            thread.join()

    def _work(self, process: Doer) -> None:
        while True:
            with self._changed:
                while not self._ready and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                _, key = heapq.heappop(self._ready)
                step = self._steps[key][1]
            self._events.put(Began(key=key))
            outcome = process.do(step)
            with self._changed:
                self._end(outcome)
                self._changed.notify_all()

    def _end(self, outcome: Outcome) -> None:
        """Note an outcome; what stands on it can begin, or cannot be done at all."""
        ended = [outcome]
        while ended:
            one = ended.pop()
            if one.key in self._ended:
                continue  # it stands on two that failed
            self._ended[one.key] = one
            del self._steps[one.key]
            self._events.put(one)
            for key in self._above.pop(one.key, []):
                if one.state != DONE:
                    ended.append(Outcome(key=key, state=SKIPPED, cause=self._cause(one.key)))
                elif key not in self._ended:
                    self._left[key] -= 1
                    if not self._left[key]:
                        heapq.heappush(self._ready, (self._steps[key][0], key))

    def _cause(self, key: str) -> str:
        """Return the key of the step that failed, for the sake of which this one was skipped or is the one."""
        return self._ended[key].cause or key
