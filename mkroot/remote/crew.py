"""Threads that do jobs side by side and have ended, all of them, when the work is done: a fork may follow."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

J = TypeVar("J")


def each(jobs: Iterable[J], work: Callable[[J], object], workers: int) -> None:
    """Do all jobs; raises the first error of one, when the jobs under way have ended and no other was begun."""
    todo: queue.SimpleQueue[J] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    stop = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        while not stop.is_set():
            try:
                job = todo.get_nowait()
            except queue.Empty:
                return
            try:
                work(job)
            except BaseException as e:  # raised again by whoever waits
                errors.append(e)
                stop.set()

    threads = [
        threading.Thread(target=run, daemon=True, name="mkroot-remote") for _ in range(min(workers, todo.qsize()))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    if errors:
        raise errors[0]
