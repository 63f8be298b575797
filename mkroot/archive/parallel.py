"""Runs jobs on daemon threads and hands their results over as they come."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

GRACE = 0.5  # seconds that jobs get to notice that they are to end; one that waits for a silent server may not

J = TypeVar("J")
R = TypeVar("R")


def each(jobs: Sequence[J], work: Callable[[J], R], *, workers: int, stop: threading.Event) -> Iterator[tuple[J, R]]:
    """Yield (job, result) in the order in which they are done; jobs are begun in the order given.

    Raises the first error of a job. Whichever way the iteration ends, an error, a break, Ctrl-C, `stop` is set, on
    which the jobs under way give up by themselves; daemon threads do not keep the program from ending meanwhile.
    """
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, work(job)
        return
    todo: queue.SimpleQueue[J] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[J, R] | BaseException] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)

    def run() -> None:
        while not stop.is_set():
            try:
                job = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((job, work(job)))
            except BaseException as e:  # handed to the reader, who raises it
                done.put(e)

    threads = [threading.Thread(target=run, daemon=True, name="mkroot-archive") for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    finished = False
    try:
        for _ in jobs:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
        finished = True
    finally:
        if not finished:
            stop.set()
            until = time.monotonic() + GRACE
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
