"""Runs commands in turn and keeps, of each, seconds and the memory of its biggest process."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class Failed(Exception):
    """A command of the bench failed: there is no figure then."""


@dataclass
class Contender:
    """One way to do a piece of work.

    commands: run one after the other, timed together. fresh: folders removed before each run. before: further
    preparation, not timed. measure: does the work and returns its seconds, in place of commands.
    """

    name: str
    commands: Sequence[Sequence[str]]
    environ: Mapping[str, str] = field(default_factory=dict)
    fresh: Sequence[Path] = ()
    before: Callable[[], None] = lambda: None
    measure: Callable[[], float] | None = None
    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the runs, seconds."""
        return statistics.median(self.seconds)

    @property
    def peak(self) -> int:
        """Bytes of memory of the biggest process in any run."""
        return max(self.memory)


def run(contender: Contender, log: Path) -> tuple[float, int]:
    """Run it once; return seconds and the biggest process's bytes. Raises Failed."""
    for folder in contender.fresh:
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
    contender.before()
    os.sync()  # what the one before left to write is not this one's to wait for
    if contender.measure is not None:
        return contender.measure(), 0
    environ = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "LC_ALL": "C.UTF-8", **contender.environ}
    memory = 0
    with open(log, "ab") as out:
        start = time.monotonic()
        for command in contender.commands:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            # Of the process, and of those that it waited for and they did; at least what the bench itself has, whose
            # memory a new process shares until it executes. Files in memory (tmpfs) are in nobody's.
            memory = max(memory, usage.ru_maxrss * 1024)
            if process.returncode:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise Failed(f"{contender.name}: `{' '.join(command)}` ended with {process.returncode}\n{tail}")
        seconds = time.monotonic() - start
    return seconds, memory


def in_turn(contenders: Sequence[Contender], runs: int, log: Path) -> None:
    """Measure the contenders one after the other, `runs` times round: A B C A B C …; raises Failed."""
    for number in range(runs):
        for contender in contenders:
            seconds, memory = run(contender, log)
            contender.seconds.append(seconds)
            contender.memory.append(memory)
            print(f"  {number + 1}/{runs}  {seconds:8.3f} s  {contender.name}", flush=True)
