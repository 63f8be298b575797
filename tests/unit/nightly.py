"""A folder of recipes before and after their archive had an update, for the tests of `outdated` and `lock --update`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mkroot import build
from mkroot.build import Options
from mkroot.lockfile import read_lock
from mkroot.looking import Looks
from mkroot.outdated import Verdict, outdated
from mkroot.progress import Progress
from mkroot.renewing import Update
from mkroot.resolve.lock import Lock
from tests.testarchive import Archive


class Told(Progress):
    """Keeps what it was warned of."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def warn(self, line: str) -> None:
        self.lines.append(line)


class Nightly:
    """An archive, recipes and a store.

    The archive has app, which needs lib, and lib-data, of the source that lib is from; tool, of another one; and base.
    """

    def __init__(self, folder: Path, distro: str = "debian", **more: Any) -> None:
        self.folder = folder
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "MKROOT_STORE": str(folder / "store")}
        self.archive = Archive(folder / "archive", distro=distro, **more)
        self.suite = self.archive.codename
        self.archive.add("base", "1.0", essential=True)
        self.add("app", "1.0", depends="lib (>= 1.0), lib-data")
        self.add("lib", "1.0")
        self.add("lib-data", "1.0", source="lib")
        self.add("tool", "1.0")
        self.options = Options(out=folder / "out")

    def add(self, name: str, version: str, pocket: str = "", *, suite: str = "", **more: Any) -> str:
        """Have a pocket offer a version of a package in place of the one before; return its file's path."""
        where = suite or self.suite + pocket
        self.drop(name, where)
        return str(self.archive.add(name, version, suite=where, files={f"usr/share/{name}": b"x"}, **more).path)

    def drop(self, name: str, suite: str) -> None:
        """Take a package out of a suite's indices; its file stays in the pool."""
        for listed in self.archive.suite(suite).stanzas.values():
            listed[:] = [s for s in listed if f"Package: {name}\n" not in s]

    def recipe(self, file: str = "r.yaml", **more: Any) -> str:
        """Write a recipe and return its path."""
        packages = {"variant": "minbase", "include": ["app", "tool"]}
        known = {"configure": "none", "outputs": ["tar"], "packages": packages}
        (self.folder / file).write_text(json.dumps(self.archive.recipe(**(known | more))))
        return str(self.folder / file)

    def lock(self, recipe: str, *names: str, security: bool = False, fresh: bool = False, **more: Any) -> list[str]:
        """Make or renew a lock; return what was warned of."""
        told = Told()
        update = None if fresh else Update(names=names, security=security)
        build.lock(recipe, Options(out=self.options.out, **more), self.environ, told, update)
        return told.lines

    def locked(self, recipe: str) -> Lock:
        found = read_lock(Path(recipe).with_suffix(".lock"))
        assert found is not None
        return found

    def versions(self, recipe: str, architecture: str = "amd64") -> dict[str, str]:
        """Return the versions in a recipe's lock, without base."""
        return {p.name: p.version for p in self.locked(recipe).root(architecture).packages if p.name != "base"}

    def verdicts(self, *recipes: str, looks: Looks | None = None, **more: Any) -> list[Verdict]:
        looks = looks or Looks()
        options = Options(out=self.options.out, **more)
        return [v for r in recipes for v in outdated(r, options, self.environ, Progress(), looks)]

    def update(self) -> None:
        """Have the archive tell what it has now."""
        self.archive.publish()
