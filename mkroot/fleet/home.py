"""Brings results home: the last step of an image done once more on this machine, which finds it in the remote store."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

from mkroot.fleet.model import Outcome, Step
from mkroot.fleet.process import StepProcess


class Home:
    """Some threads of this machine, each with a process of its own, that start when there is something to do.

    put: takes each outcome; called by the threads. jobs: how many of them.
    """

    def __init__(self, environ: Mapping[str, str], put: Callable[[Outcome], None], jobs: int) -> None:
        self._environ, self._put, self._jobs = environ, put, jobs
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._processes: list[StepProcess] = []
        self._enders: list[threading.Thread] = []
        self._due = 0

    def bring(self, step: Step) -> None:
        """Do a step as soon as a thread is free."""
        self._due += 1
        self._steps.put(step)
        if len(self._processes) < min(self._jobs, self._due):
            self._processes.append(StepProcess(self._environ))
            threading.Thread(target=self._work, args=(self._processes[-1],), daemon=True).start()

    def end(self) -> None:
        """Begin to end what runs; nothing more is done."""
        for process in self._processes:
            self._steps.put(None)
            self._enders.append(threading.Thread(target=process.close, daemon=True))
            self._enders[-1].start()

    def close(self) -> None:
        """Wait for the end of what was ended."""
        for ender in self._enders:
            ender.join()

    def _work(self, process: StepProcess) -> None:
        while (step := self._steps.get()) is not None:
            self._put(process.do(step))
