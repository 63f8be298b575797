"""Runs the program as a user does: a process of its own, with a store of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.testarchive import Archive, File

PROGRAM = (sys.executable, "-c", "from mkroot.cli.main import entry; entry()")
ROOT = Path(__file__).parents[2]


class Done:
    """What a command gave: status, standard output and standard error."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


class Program:
    """The program in a folder, with a store, a home and no mirror of the host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "MKROOT_STORE": str(folder / "store"),
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
        }

    def __call__(self, *arguments: str, stdin: str = "", **environ: str) -> Done:
        """Run it to its end."""
        run = subprocess.run(
            [*PROGRAM, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environ | environ,
            timeout=120,
        )
        return Done(run.returncode, run.stdout, run.stderr)

    @contextmanager
    def started(self, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
        """Start it in a process group of its own; what is left of it is killed at the end."""
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environ | environ,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def recipe(self, name: str, data: dict[str, Any]) -> str:
        """Write a recipe (JSON is YAML) and return its name."""
        (self.folder / name).write_text(json.dumps(data))
        return name


def small_archive(folder: Path) -> Archive:
    """Return an archive with a few packages that need no script."""
    archive = Archive(folder)
    archive.add(
        "base",
        "1.0",
        essential=True,
        files={"etc/base.conf": b"base\n", "usr/bin/base": File(content=b"#!", mode=0o755)},
    )
    archive.add("tool", "2.0-1", files={"usr/bin/tool": File(content=b"tool", mode=0o755)}, depends="lib (>= 1)")
    archive.add("lib", "1.5", files={"usr/lib/lib.so": b"x" * 5000})
    archive.add("other", "1.0", depends="lib")
    return archive
