"""A fleet: many builds on one machine and on a Dask cluster, a cluster that finds all of it made, and a nightly run.

BENCH_ONLY=fleet; it is not in the default set, for its biggest root has 1,500 packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.growth import SIZES
from tests.bench.images import Bench
from tests.bench.measure import Contender, Failed, in_turn, run
from tests.bench.table import Goal, table, times
from tests.bench.works import DEBIAN, MKROOT, Release, Site

NEEDED = ("docker-registry",)
EXTRAS = (
    "openssh-server", "nginx", "python3", "git", "rsync", "curl", "vim-tiny", "redis-server", "sqlite3", "dbus",
    "postgresql-client", "build-essential", "less", "nano", "tmux", "htop", "gnupg", "wget", "jq", "socat", "strace",
    "tcpdump", "iproute2", "ca-certificates", "openssl", "cron", "logrotate", "xz-utils", "zip",
)  # fmt: skip
OLDER = Release("Debian 12", "debian", "bookworm", ())
COUNT = 24  # builds of which none is cached
STEPS, A_STEP = 10_000, 0.001  # simulated ones, and the seconds that one may cost
SMALL = 29  # recipes of the nightly run beside the large one
LARGE = SIZES[-1]
MANY = 200  # recipes of one lock, for what a recipe costs a run
START = 60.0  # seconds that a cluster may take to be there
NOWHERE = "http://127.0.0.1:9/debian"  # the discard service's port: a build that fetches anything fails
_THREADS = """
from mkroot.fleet.local import LocalEngine
from mkroot.fleet.model import LOCK, Order, Outcome, Step
engine = LocalEngine(2, {"PATH": "/usr/bin:/bin"})
engine.add([Step(key=f"lock-{n}", kind=LOCK, shown="none", order=Order(recipe="/nonexistent.yaml")) for n in range(2)])
assert sum(isinstance(event, Outcome) for event in engine.events()) == 2
engine.close()
"""
_DASK_THREADS = """
from dask.threaded import get
assert get({"a": (abs, -1), "b": (abs, -2)}, ["a", "b"], num_workers=2) == (1, 2)
"""
_LOCAL_CLUSTER = """
from distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        assert client.gather(client.map(abs, [-1, -2])) == [1, 2]
"""
_APART = {"image": {"compression": "zstd"}, "apt": {"mirror": "none"}, "outputs": ["oci"]}


def tables(site: Site, runs: int) -> Iterator[str]:
    """Measure everything; yield the tables. Raises Failed."""
    work = site.work / "fleet"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    yield from _starts(site, work, runs)
    with clustered(site, work) as cluster:
        yield from _builds(site, cluster, runs)
        yield from _steps(cluster, runs)
    yield from _nightly(site, work, runs)
    yield from _many(site, work)


# ---- a cluster


class Cluster:
    """A scheduler, workers with a store each, and the registry that is their remote store, all on loopback."""

    def __init__(self, site: Site, work: Path) -> None:
        self.site, self.work = site, work
        self.scheduler = work / "scheduler.json"
        self.stores = [work / f"worker-{n}" for n in range(2)]
        self._registry = Bench(site)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.peak = 0  # bytes that the scheduler took at most, in the last simulation, above what it had at first

    def environ(self, store: Path) -> dict[str, str]:
        """Return mkroot's environment with the remote store."""
        remote = f"127.0.0.1:{self._registry.port}/fleet/store"
        return {**self.site.environ(store), "MKROOT_STORE_REMOTE": remote, "MKROOT_STORE_KEY": "5e" * 32}

    def start(self, workers: int, *, remote: bool = False) -> None:
        """Start anew, with empty stores and, but for `remote`, an empty registry; raises Failed."""
        self.stop()
        for folder in self.stores:
            shutil.rmtree(folder, ignore_errors=True)
        self.scheduler.unlink(missing_ok=True)
        if not remote:
            self._registry.empty_registry()
        words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.scheduler)]
        self._spawn([sys.executable, "-m", "distributed.cli.dask_scheduler", *words], {})
        self._wait(self.scheduler.exists)
        for store in self.stores[:workers]:
            words = ["worker", str(self.scheduler), "--store", str(store), "--jobs", "1"]
            self._spawn([MKROOT, *words], self.site.environ(store))
        from distributed import Client

        with Client(scheduler_file=str(self.scheduler), set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=START)

    def simulated(self) -> float:
        """Do the simulated steps on a new cluster; return seconds."""
        from distributed import Client

        from mkroot.fleet.cluster import simulate

        self.start(2, remote=True)
        client = Client(scheduler_file=str(self.scheduler), set_as_default=False)
        pid = self._processes[0].pid
        first = _memory(pid, "VmRSS")
        seconds = simulate(client, STEPS) * STEPS
        self.peak = _memory(pid, "VmHWM") - first
        return seconds

    def held(self) -> str:
        """Tell what the registry has, and each worker's store."""
        stored = _bytes(self.site.work / "images" / "registry")
        counts = json.loads(
            subprocess.run(
                [MKROOT, "cache", "remote", "--json"],
                env={"PATH": os.environ["PATH"], **self.environ(self.work / "store")},
                check=True,
                capture_output=True,
            ).stdout
        )["entries"]
        entries = ", ".join(f"{number} {kind}s" for kind, number in counts.items())
        stores = ", ".join(f"{_bytes(store) / 2**20:.0f} MiB" for store in self.stores)
        return f"the registry holds {entries}, {stored / 2**20:.0f} MiB; the workers' stores {stores}"

    def stop(self) -> None:
        """Stop the scheduler and the workers."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    def close(self) -> None:
        """Stop the registry too."""
        self.stop()
        self._registry.stop()

    def _spawn(self, command: Sequence[str], environ: dict[str, str]) -> None:
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.work), "LC_ALL": "C.UTF-8", **environ}
        with open(self.site.log, "ab") as log:
            self._processes.append(
                subprocess.Popen(command, env=environ, cwd=self.work, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def _wait(self, ready: Any) -> None:
        end = time.monotonic() + START
        while not ready():
            if time.monotonic() > end or any(process.poll() is not None for process in self._processes):
                raise Failed(f"the cluster does not start; see {self.site.log}")
            time.sleep(0.05)


def _memory(pid: int, field: str) -> int:
    """Return a field of proc_pid_status(5), bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _bytes(folder: Path) -> int:
    """Return what a folder's files take on the disk, a file with several names once."""
    found = {(s.st_dev, s.st_ino): s.st_blocks * 512 for p in folder.rglob("*") if (s := p.lstat())}
    return sum(found.values())


@contextlib.contextmanager
def clustered(site: Site, work: Path) -> Iterator[Cluster]:
    """Stop what is started at the end."""
    cluster = Cluster(site, work)
    try:
        yield cluster
    finally:
        cluster.close()


# ---- builds


def recipes(site: Site, count: int, releases: Sequence[Release], prefix: str) -> list[Path]:
    """Write recipes, a package of EXTRAS on minbase each, and lock them anew; return their paths."""
    found = []
    for n in range(count):
        release, extra = releases[n % len(releases)], EXTRAS[n // len(releases)]
        packages = {"variant": "minbase", "include": [extra]}
        found.append(site.recipe(release, f"{prefix}-{release.suite}-{extra}", packages=packages, **_APART))
    _lock(site, found)
    return found


def _lock(site: Site, paths: Sequence[Path]) -> None:
    for path in paths:
        path.with_suffix(".lock").unlink(missing_ok=True)
        run(Contender(f"locking {path.stem}", [[MKROOT, "lock", str(path)]], site.environ()), site.log)


def _builds(site: Site, cluster: Cluster, runs: int) -> Iterator[str]:
    work = cluster.work
    print("  locking what the fleet builds", flush=True)
    chosen = recipes(site, COUNT, (DEBIAN, OLDER), "fleet")
    out, store = work / "out", work / "store"
    build = [MKROOT, "build", "--locked", "-o", str(out), *map(str, chosen)]
    dask = [*build, "--dask", str(cluster.scheduler)]
    fresh, environ = [out, store], cluster.environ(store)
    contenders = [
        *(
            Contender(f"this machine, --jobs {n}", [[*build, "--jobs", str(n)]], site.environ(store), fresh)
            for n in (1, 2)
        ),
        Contender("one worker", [dask], environ, fresh, lambda: cluster.start(1)),
        Contender("two workers", [dask], environ, fresh, lambda: cluster.start(2)),
    ]
    for contender in contenders:
        print(f"  warming up  {contender.name}", flush=True)
        run(contender, site.log)
    in_turn(contenders, runs, site.log)
    *_, one, two = contenders
    goals = {two.name: [Goal("1.8 × as fast as one worker", one.median / 1.8)]}
    yield from table(f"{COUNT} builds, none cached", contenders, one, goals)

    page = work / "report.html"
    again = Contender(
        "another two workers, empty stores, all of it in the remote",
        [[*dask, "--report", str(page)]],
        {**environ, **_nowhere(work)},
        fresh,
        lambda: cluster.start(2, remote=True),
    )
    run(two, site.log)
    yield cluster.held()
    yield ""
    for _ in range(runs):
        in_turn([again], 1, site.log)
        _made_nothing(cluster, store, page)
    still = Contender(
        "this machine, nothing changed", [[*build, "--jobs", "2"]], {**site.environ(store), **_nowhere(work)}
    )
    in_turn([still], runs, site.log)
    yield from table(f"{COUNT} builds, made elsewhere before", [two, again, still], two)


def _starts(site: Site, work: Path, runs: int) -> Iterator[str]:
    """Measure what it takes until two steps are done that do nothing, interpreter and imports included."""
    contenders = []
    for name, text in (
        ("mkroot: threads, a process each", _THREADS),
        ("Dask: its threads, no process", _DASK_THREADS),
        ("Dask: LocalCluster, two processes", _LOCAL_CLUSTER),
    ):
        script = work / f"start-{len(contenders)}.py"
        script.write_text(text)
        contenders.append(Contender(name, [[sys.executable, str(script)]], site.environ()))
    in_turn(contenders, runs, site.log)
    yield from table("From nothing to the first two steps done, on one machine", contenders, contenders[0])


def _nowhere(work: Path) -> dict[str, str]:
    """Return an environment in which no mirror answers."""
    path = work / "nowhere.toml"
    path.write_text(f'[mirrors]\ndebian-security = "{NOWHERE}"\n')
    return {"MKROOT_MIRROR_DEBIAN": NOWHERE, "MKROOT_CONFIG": str(path)}


def _made_nothing(cluster: Cluster, store: Path, page: Path) -> None:
    """Raise Failed where a package was fetched, or a stage configured: the run's report has what each step told."""
    for folder in (*cluster.stores, store):
        if found := [p for p in (folder / "debs").glob("*/*") if not p.name.startswith(".")]:
            raise Failed(f"fetched again, though the remote had it: {found[0]}")
    text = page.read_text()
    told = re.findall(r"configure (?:essential|variant|include).*", text)
    if any("cached" not in line for line in told):
        raise Failed(f"configured again, though the remote had it: {told[:3]}")
    if (brought := text.count("a build that it has")) != COUNT:
        raise Failed(f"{brought} of {COUNT} builds came from the remote")


def _steps(cluster: Cluster, runs: int) -> Iterator[str]:
    contender = Contender(f"{STEPS:,} simulated steps, on two workers", [], measure=cluster.simulated)
    in_turn([contender], runs, cluster.site.log)
    goal = times(A_STEP * 1000, STEPS / 1000, f"{STEPS / 1000:g} s")
    yield from table("The graph's own cost", [contender], contender, {contender.name: [goal]})
    each = cluster.peak / STEPS / 1024
    yield f"the scheduler took {cluster.peak / 2**20:.0f} MiB for them at most, {each:.1f} KiB a step"
    yield ""


# ---- a nightly run


def _nightly(site: Site, work: Path, runs: int) -> Iterator[str]:
    print("  locking what the nightly run builds", flush=True)
    small = recipes(site, SMALL, (DEBIAN,), "nightly")
    packages = {"variant": LARGE.variant, "recommends": LARGE.recommends, "include": list(LARGE.include)}
    large = site.recipe(DEBIAN, "nightly-large", packages=packages, **_APART)
    released = site.recipe(DEBIAN, "nightly-released", packages=packages, pockets=[], **_APART)
    _lock(site, [large, released])
    everything = [large, *small]
    today = {path: _read(path) for path in everything}
    name, old, holders = _changed(today, large, _read(released))
    count = len(_packages(today[large]))
    known, store, out, before = work / "known", work / "night", work / "night-out", work / "before"
    build = [MKROOT, "build", "--locked", "-o"]
    print("  filling the store  nightly", flush=True)
    for path in holders:
        _write(path, _with(today[path], old))
    run(Contender("filling the store", [[*build, str(before), *map(str, everything)]], site.environ(known)), site.log)
    for path in holders:
        _write(path, today[path])

    def back() -> None:
        for source, copy in ((known, store), (before, out)):
            subprocess.run(["cp", "-a", source, copy], check=True)

    contenders = [
        Contender(title, [[*build, str(out), "--jobs", "2", *map(str, paths)]], site.environ(store), [store, out], back)
        for title, paths in (
            (f"nightly run, {len(everything)} recipes", everything),
            (f"the {len(holders)} that hold it, alone", holders),
        )
    ]
    for contender in contenders:
        run(contender, site.log)
    in_turn(contenders, runs, site.log)
    night, alone = contenders
    title = f"Nightly: {name} is newer, one of {count:,} packages of the largest root"
    yield from table(title, contenders, alone, {night.name: [times(1.5, alone.median, alone.name)]})


def _many(site: Site, work: Path) -> Iterator[str]:
    """Measure what a recipe costs a run whose packages and stages are all there, and one that has nothing to do."""
    shutil.rmtree(work / "before", ignore_errors=True)
    first, *_ = recipes(site, 1, (DEBIAN,), "many")
    lock = first.with_suffix(".lock").read_bytes()
    text = json.loads(first.read_text())
    paths = [first]
    for n in range(1, MANY):
        path = first.with_name(f"many-{n}.yaml")
        path.write_text(json.dumps({**text, "name": f"many-{n}"}))
        path.with_suffix(".lock").write_bytes(lock)
        paths.append(path)
    store, out = work / "many-store", work / "many-out"
    build = [MKROOT, "build", "--locked", "-o", str(out), "--jobs", "2"]
    run(Contender("the first", [[*build, str(first)]], site.environ(store), [store, out]), site.log)
    made = Contender(
        f"{MANY} recipes, packages and stages known", [[*build, *map(str, paths)]], site.environ(store), [out]
    )
    still = Contender(f"{MANY} recipes, nothing changed", made.commands, made.environ)
    for one in (made, still):
        in_turn([one], 1, site.log)
    yield from table(
        f"{MANY} recipes of {len(_packages(json.loads(lock)))} packages, measured once", [made, still], made
    )
    shutil.rmtree(out)


def _changed(
    today: dict[Path, dict[str, Any]], large: Path, released: dict[str, Any]
) -> tuple[str, dict[str, Any], list[Path]]:
    """Return a package of the large root that the archive has renewed since the release, and that few others hold.

    Its name, its entry as of the release, and the recipes that hold it; raises Failed where there is none.
    """
    before = {p["name"]: p for p in _packages(released)}
    held: dict[str, list[Path]] = {}
    siblings: dict[str, set[str]] = {}  # by source: its packages need each other in one version
    for path, lock in today.items():
        for package in _packages(lock):
            held.setdefault(package["name"], []).append(path)
            siblings.setdefault(package["source"], set()).add(package["name"])
    newer = [
        p["name"]
        for p in _packages(today[large])
        if (old := before.get(p["name"]))
        and old["version"] != p["version"]
        and old.get("stage") == p.get("stage")
        and len(siblings[p["source"]]) == 1
    ]
    if not newer:
        raise Failed("the archive has renewed no package of the largest root that stands alone")
    name = min(newer, key=lambda n: (len(held[n]) == 1, len(held[n]), n))
    return name, before[name], held[name]


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.with_suffix(".lock").read_bytes()))


def _packages(lock: dict[str, Any]) -> list[dict[str, Any]]:
    return list(lock["architectures"]["amd64"]["packages"])


def _with(lock: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """Return a lock with this package in place of its namesake."""
    own = [entry if p["name"] == entry["name"] else p for p in _packages(lock)]
    return {**lock, "architectures": {"amd64": {**lock["architectures"]["amd64"], "packages": own}}}


def _write(path: Path, lock: dict[str, Any]) -> None:
    text = json.dumps(lock, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path.with_suffix(".lock").write_text(text + "\n")
