"""A recipe and its undisturbed outputs; builds of it in folders of their own, and what must hold after each."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.faults.forge import Ended, Forge, Order
from tests.faults.hook import ROOM, Plan

RECIPE = "r.yaml"


class Site:
    """A folder with a recipe, a store, an output folder and a TMPDIR; commands run there."""

    def __init__(self, folder: Path, forge: Forge, recipe: Mapping[str, Any]) -> None:
        self.folder = folder
        self.forge = forge
        self.store = folder / "store"
        self.out = folder / "out"
        self.tmp = folder / "tmp"
        self.tmp.mkdir(parents=True)
        (folder / RECIPE).write_text(json.dumps(dict(recipe)))

    def run(
        self, *words: str, environ: Mapping[str, str] | None = None, plan: Plan | None = None, **more: Any
    ) -> Ended:
        """Run a command to its end."""
        (ended,) = self.forge.run(self.order(*words, environ=environ, plan=plan, **more))
        return ended

    def order(
        self, *words: str, environ: Mapping[str, str] | None = None, plan: Plan | None = None, **more: Any
    ) -> Order:
        """Return the order to run a command here."""
        given = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "MKROOT_STORE": str(self.store),
            "TMPDIR": str(self.tmp),
            "LC_ALL": "C.UTF-8",
            **(environ or {}),
        }
        return Order(words=words, folder=str(self.folder), environ=given, plan=plan, **more)

    def build(self, *words: str, **more: Any) -> Ended:
        """Build the recipe."""
        return self.run("build", RECIPE, "-o", str(self.out), *words, **more)

    def made(self) -> dict[str, str]:
        """Return what a build leaves: every output, and the lock."""
        lock = self.folder / "r.lock"
        found = {f"out/{path}": value for path, value in tree(self.out).items()}
        return found | ({"lock": hashlib.sha256(lock.read_bytes()).hexdigest()} if lock.exists() else {})

    def rubbish(self) -> list[str]:
        """Return what should not be there when nobody is at work: temporary files, mounts, half an output."""
        found = [f"TMPDIR: {name}" for name in os.listdir(self.tmp)]
        for place in ("tmp", "oci"):
            allowed = ("blobs", "index.json", "oci-layout") if place == "oci" else ()
            if (self.store / place).is_dir():
                found += [f"{place}: {name}" for name in os.listdir(self.store / place) if name not in allowed]
        for at, names, files in os.walk(self.store):
            if "/oci" not in at and at != str(self.store):
                found += [f"{at}: {n}" for n in (*names, *files) if n.startswith(".") or n.endswith(".new")]
        if self.out.is_dir():
            found += [f"out: {name}" for name in os.listdir(self.out) if name.startswith(".")]
        found += [f"recipe: {n}" for n in os.listdir(self.folder) if n not in _BESIDE]
        found += [f"mount: {m}" for m in Path("/proc/mounts").read_text().splitlines() if f" {self.folder}/" in m]
        return found

    def clear(self) -> None:
        """Begin anew."""
        for path in (self.store, self.out, self.tmp):
            shutil.rmtree(path, ignore_errors=True)
        (self.folder / "r.lock").unlink(missing_ok=True)
        self.tmp.mkdir()


_BESIDE = ("store", "out", "tmp", RECIPE, "r.lock", "archive")


def tree(folder: Path) -> dict[str, str]:
    """Return every path below a folder with its kind, mode and content in short; {} where there is none."""
    found = {}
    for path in sorted(folder.rglob("*")):
        s = path.lstat()
        what = os.readlink(path) if path.is_symlink() else ""
        if stat.S_ISREG(s.st_mode):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = f"{s.st_mode:o} {what}"
    return found


def said_once(ended: Ended) -> str:
    """Return the one error that a command told; fails where that is not what it did."""
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.status == 1, f"status {ended.status}: {ended.err}"
    assert len(errors) == 1, ended.err
    assert "internal error" not in ended.err and "Traceback" not in ended.err, ended.err
    return errors[0]


class World:
    """A site, and what its recipe's undisturbed build leaves."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.right: dict[str, str] = {}
        self._calls: dict[tuple[int, bool], int] = {}
        self._count(0, False)

    def plan(self, moment: int, moments: int, *, kill: str = "", error: int = 0, lasting: bool = False) -> Plan:
        """Return the plan in which the call meets it that is the moment-th of some spread evenly over a cold build.

        What an error of the disk meets is not what one of its size meets.
        """
        reads = error == errno.EIO
        count = self._count(error, reads)
        at = 1 + count * moment // moments
        folder = str(self.site.folder)
        return Plan(at=at, kill=kill, error=error, lasting=lasting, reads=reads, folder=folder)

    def _count(self, error: int, reads: bool) -> int:
        kind = (error if error in ROOM else 0, reads)
        if kind not in self._calls:
            self.site.clear()
            ended = self.site.build(plan=Plan(error=error, reads=reads, folder=str(self.site.folder)))
            assert ended.status == 0, ended.err
            assert self.site.rubbish() == []
            self._calls[kind] = ended.calls
            self.right = self.right or self.site.made()
        return self._calls[kind]

    def fresh(self) -> Site:
        """Return the site with nothing in it but the recipe."""
        self.site.clear()
        return self.site

    def whole_or_none(self) -> None:
        """Fail where there is half an output; unfinished work of a dead process may still lie beside it."""
        found = {k: v for k, v in self.site.made().items() if k.startswith("out/mini/amd64/")}
        assert not found or found == {k: v for k, v in self.right.items() if k.startswith("out/mini/amd64/")}

    def heals(self, *words: str) -> Ended:
        """Build undisturbed, with what the fault left: the right bytes, and nothing else."""
        ended = self.site.build(*words)
        assert ended.status == 0, ended.err
        assert self.site.made() == self.right
        assert self.site.rubbish() == []
        assert ended.left == ()
        return ended
