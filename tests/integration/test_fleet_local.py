"""Real recipes in one run: the same bytes as one after another, shared stages made once, as root and as a user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mkroot.build import Options
from mkroot.fleet.local import LocalEngine
from mkroot.fleet.matrix import Given, variants
from mkroot.fleet.model import IMAGE, LOCK, PACKAGES, STAGE, Event, Outcome, Step
from mkroot.fleet.run import run
from tests.integration.building import ROOT, as_user, mkroot, ordinary_user
from tests.integration.test_cli_interrupt import processes

pytestmark = pytest.mark.archive
NAMES = ("debian-min", "debian-slim", "ubuntu-min")


class Counted(LocalEngine):
    """Keeps what was asked for and what became of it."""

    def __init__(self, environ: dict[str, str]) -> None:
        super().__init__(2, environ)
        self.steps: list[Step] = []
        self.outcomes: list[Outcome] = []

    def add(self, steps: Sequence[Step]) -> None:
        self.steps += steps
        super().add(steps)

    def events(self) -> Iterator[Event]:
        for event in super().events():
            if isinstance(event, Outcome):
                self.outcomes.append(event)
            yield event


def digests(folder: Path) -> dict[str, dict[str, str]]:
    """Every artifact's digest by recipe, as the manifests have them."""
    manifests = {name: json.loads((folder / name / "amd64/manifest.json").read_text()) for name in NAMES}
    return {name: {a["name"]: a["digest"] for a in m["artifacts"]} for name, m in manifests.items()}


@pytest.mark.counts("rebuild")
def test_a_run_gives_what_one_after_another_gives(tmp_path: Path, store: Path) -> None:
    mkroot("build", ROOT / "recipes/debian-min.yaml", "-o", tmp_path / "probe", "--no-lock", store=store)  # or skip
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name in NAMES:
        shutil.copy(ROOT / "recipes" / f"{name}.yaml", recipes)
    environ = {**os.environ, "MKROOT_STORE": str(tmp_path / "store")}
    paths = [str(recipes / f"{name}.yaml") for name in NAMES]
    options = Options(out=tmp_path / "together")
    engines: list[Counted] = []

    def engine() -> Counted:
        engines.append(Counted(environ))
        return engines[-1]

    report = run(variants([Given(shown=p, path=p, options=options) for p in paths], ()), environ, engine)
    assert [row.state for row in report.rows] == ["done"] * 3, report.rows
    (used,) = engines
    kinds = [step.kind for step in used.steps]
    assert kinds.count(LOCK) == kinds.count(IMAGE) == 3
    assert kinds.count(STAGE) == 1  # of the two Debians, which share all of it
    made = [line for one in used.outcomes for line in one.log.splitlines() if "configure" in line]
    assert len([line for line in made if "cached" not in line]) == 4  # essential and variant, of each distribution
    sizes = {s.order.packages: 0 for s in used.steps if s.kind == PACKAGES}
    assert sum(map(len, sizes)) == len({p for packages in sizes for p in packages})
    assert not list((tmp_path / "store/tmp").iterdir())
    for path in paths:
        mkroot("build", path, "-o", tmp_path / "alone", "--locked", store=tmp_path / "other")
    assert digests(tmp_path / "together") == digests(tmp_path / "alone")
    again = run(variants([Given(shown=p, path=p, options=options) for p in paths], ()), environ, engine)
    assert [row.state for row in again.rows] == ["unchanged"] * 3
    assert len(engines) == 1


@pytest.mark.counts("fault")
def test_an_ordinary_users_run_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    """Its steps run in processes that live in user namespaces, each below one that stands by."""
    name = ordinary_user()
    shared = Path("/var/tmp") / f"mkroot-fleet-{os.getpid()}"
    shared.mkdir()
    try:
        for recipe in ("debian-min", "ubuntu-min"):
            shutil.copy(ROOT / "recipes" / f"{recipe}.yaml", shared)
        subprocess.run(["chown", "-R", name, shared], check=True)
        keys = ("MKROOT_CONFIG", "MKROOT_MIRROR_DEBIAN", "MKROOT_MIRROR_UBUNTU", "http_proxy", "https_proxy")
        environ = {k: os.environ[k] for k in keys if k in os.environ and k != "MKROOT_CONFIG"}
        command = as_user(name, {**environ, "MKROOT_STORE": str(shared / "store")})
        words = [*command, "build", "debian-min.yaml", "ubuntu-min.yaml", "--no-lock", "--output", "tar.zst"]
        process = subprocess.Popen(
            words, cwd=shared, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end and not list(shared.glob("store/layers/*/*")):
            time.sleep(0.05)
        if process.poll() is not None:
            pytest.skip(f"there was nothing to stop: {process.communicate()[1][-300:]}")
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - start < 2.5
        assert "Traceback" not in err, err
        assert processes(process.pid) == []
        assert not list(shared.glob("out/*/*/rootfs*"))
        done = subprocess.run(words, cwd=shared, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not list((shared / "store/tmp").iterdir())
    finally:
        shutil.rmtree(shared, ignore_errors=True)
