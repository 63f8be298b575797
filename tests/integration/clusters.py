"""Runs a Dask cluster on loopback as its users do: a scheduler, and workers with stores of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.registries import free_port, wait_for
from tests.unit.commands import PROGRAM, ROOT

SECONDS = 30  # that a process may take to start


class Worker:
    """A worker process with its nanny, in a group of their own. log: what both tell."""

    def __init__(self, process: subprocess.Popen[bytes], store: Path, log: Path) -> None:
        self.process, self.store, self.log = process, store, log

    @property
    def told(self) -> str:
        """What it has told so far."""
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """Kill it, its nanny and all that they started, as a machine that loses its power does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """End it as `kill` ends a process."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.kill()


class Cluster:
    """A scheduler that has nothing of mkroot's, and its workers."""

    def __init__(
        self, folder: Path, address: str, environ: Mapping[str, str], scheduler: subprocess.Popen[bytes]
    ) -> None:
        self.folder, self.address, self.environ, self.scheduler = folder, address, dict(environ), scheduler
        self.workers: list[Worker] = []

    def worker(
        self,
        name: str,
        *words: str,
        environ: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        wait: bool = True,
    ) -> Worker:
        """Start a worker with a store named so, and wait until it is there. before: words it is handed to."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        log = folder / "log"
        own = {**self.environ, "HOME": str(folder), "MKROOT_STORE": str(folder / "store"), "TMPDIR": str(folder)}
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [*before, *PROGRAM, "worker", self.address, *(words or ("--jobs", "1"))],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=folder,
                env={**own, **(environ or {})},
                start_new_session=True,
            )
        made = Worker(process, folder / "store", log)
        self.workers.append(made)
        if wait:
            self.await_(made)
        return made

    def await_(self, worker: Worker) -> None:
        """Wait until the scheduler knows a worker."""
        end = time.monotonic() + SECONDS
        while "Registered to:" not in worker.told:
            assert worker.process.poll() is None and time.monotonic() < end, worker.told
            time.sleep(0.05)

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.end()
        self.workers.clear()


def environ_of(folder: Path) -> dict[str, str]:
    """Return the variables of a process that has nothing of this host's."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
    }


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run a scheduler; its workers end with it. Skips the test where Dask is not installed."""
    pytest.importorskip("distributed")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scheduler.json"
    environ = environ_of(folder)
    alone = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    # An import of mkroot fails in it, though it stands in the same Python: a scheduler need not have it.
    code = "import sys; sys.modules['mkroot'] = None; from distributed.cli.dask_scheduler import main; main()"
    with open(folder / "scheduler.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=alone,
        )
    try:
        made = Cluster(folder, _address(file, process), environ, process)
        try:
            yield made
        finally:
            made.close()
    finally:
        process.terminate()
        process.wait()


def _address(file: Path, process: subprocess.Popen[Any]) -> str:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(file.read_text())["address"])
        time.sleep(0.05)
    raise AssertionError("the scheduler does not start")


class Registry:
    """Debian's docker-registry on a port that it keeps, so that it can be stopped and started again."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder, self.port = folder, free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.data = folder / "data/docker/registry/v2"
        folder.mkdir(parents=True, exist_ok=True)
        maintenance = "maintenance: {readonly: {enabled: true}}, " if read_only else ""
        (folder / "config.yml").write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: false}}\n"
            f"storage: {{{maintenance}filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{self.host}', secret: {'s' * 32}}}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Registry:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; skips the test where it is not installed."""
        program = shutil.which("docker-registry")
        if program is None:
            pytest.skip("docker-registry is not installed")
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [program, "serve", str(self.folder / "config.yml")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self.port, self._process, self.folder / "log")

    def stop(self) -> None:
        """Stop it; what it has stays on its disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def entries(self) -> list[str]:
        """The names of all tags."""
        return sorted(path.name for path in self.data.glob("repositories/*/*/_manifests/tags/*"))

    def blobs(self) -> list[Path]:
        """The files of all blobs."""
        return sorted(self.data.glob("blobs/sha256/*/*/data"))
