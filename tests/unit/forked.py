"""The program many times for the price of one start: a process that has it imported forks for every command line."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.unit.commands import ROOT, Done, Program

SECONDS = 30  # that a command may take
PROCESSOR = 5  # seconds of it


class Forked(Program):
    """A Program whose commands are forks of one process, which is started with the first of them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server: subprocess.Popen[str] | None = None

    def __call__(self, *arguments: str, stdin: str = "", **environ: str) -> Done:
        """Run it to its end."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.forked"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=self.environ,
            )
        assert self._server.stdin is not None and self._server.stdout is not None
        wanted = [arguments, stdin, self.environ | environ, str(self.folder)]
        self._server.stdin.write(json.dumps(wanted) + "\n")
        self._server.stdin.flush()
        status, out, err = json.loads(self._server.stdout.readline())
        return Done(status, out, err)

    def close(self) -> None:
        """End the process."""
        if self._server is not None:
            self._server.communicate()


def serve() -> None:
    """Answer each line of standard input, a command, by a line with its status and what it wrote."""
    import mkroot.build  # noqa: F401  # what most commands need
    from mkroot.cli.main import entry

    for line in sys.stdin:
        arguments, given, environ, folder = json.loads(line)
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdin.write(given.encode("utf-8", "surrogateescape"))
            stdin.seek(0)
            child = os.fork()
            if child == 0:
                _be(entry, arguments, environ, folder, [stdin.fileno(), out.fileno(), err.fileno()])
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            told = []
            for stream in (out, err):
                stream.seek(0)
                told.append(stream.read().decode("utf-8", "surrogateescape"))
        print(json.dumps([status, *told]), flush=True)


def _be(
    entry: Callable[[], None], arguments: list[str], environ: Mapping[str, str], folder: str, streams: list[int]
) -> None:
    """Become the program with these arguments; returns never."""
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR, PROCESSOR))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # they stay open until the end
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["mkroot", *arguments]
    entry()


if __name__ == "__main__":
    serve()
