"""`make bench`: measures, prints the tables as Markdown and keeps them in bench-out: bench.md, and drawn in bench.svg.

BENCH_RUNS: how often each (default 5). BENCH_ONLY: a comma-separated choice of debian, ubuntu, plan, boot, images and
start. BENCH_WORK: where the work is done and the packages are kept (default bench-out/work).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mkroot.archive import config
from mkroot.archive.mirror import mirror
from tests.bench import boots, images, trust
from tests.bench.measure import Contender, Failed, in_turn, run
from tests.bench.picture import picture
from tests.bench.works import DEBIAN, MKROOT, PEERS, ROOT, UBUNTU, Release, Site, cold, floors, plans, starts, warm


def main() -> int:
    """Measure everything that was asked for; 1 where a contender is missing or fails."""
    runs = int(os.environ.get("BENCH_RUNS", "5"))
    only = os.environ.get("BENCH_ONLY", "debian,ubuntu,plan,boot,images,start").split(",")
    if os.geteuid() != 0:
        return _fail("the peers need root: run `make bench` as root")
    needed = (*PEERS, "ar", *(boots.NEEDED if "boot" in only else ()), *(images.NEEDED if "images" in only else ()))
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [tool for tool in needed if not shutil.which(tool, path=path)]:
        return _fail(f"missing: {', '.join(missing)}; the packages are named in .ci/run")
    work = Path(os.environ.get("BENCH_WORK", ROOT / "bench-out" / "work"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        with loopback(work) as site:
            table = [*_head(runs), *_measured(site, only, runs)]
    except (Failed, subprocess.CalledProcessError) as e:
        return _fail(str(e))
    text = "\n".join(table) + "\n"
    (ROOT / "bench-out").mkdir(exist_ok=True)
    (ROOT / "bench-out" / "bench.md").write_text(text)
    (ROOT / "bench-out" / "bench.svg").write_text(picture(text))
    print(text)
    return 0


def _fail(text: str) -> int:
    print(f"bench: {text}", file=sys.stderr)
    return 1


@contextmanager
def loopback(work: Path) -> Iterator[Site]:
    """Serve the archives on loopback while the context lasts."""
    settings = config.load(os.environ)
    archives = {}
    for distro in ("debian", "ubuntu"):
        found = mirror(distro, "amd64", config=settings, environ=os.environ)
        archives[distro] = found.archive.url
        if found.security is not None:
            archives["debian-security"] = found.security.url
    folder = work / "mirror"
    folder.mkdir(exist_ok=True)
    for name in ("closed", "missed"):
        (folder / name).unlink(missing_ok=True)
    for release in (folder / "files").glob("*/dists"):  # yesterday's, whose packages may be gone
        shutil.rmtree(release)
    command = [sys.executable, "-m", "tests.bench.mirror", str(folder), *(f"{n}={u}" for n, u in archives.items())]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        yield Site(work, int(server.stdout.readline()))
    finally:
        server.stdin.close()
        server.wait()


def _head(runs: int) -> list[str]:
    version = subprocess.run([MKROOT, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    peer = subprocess.run(["mmdebstrap", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return [
        f"{version}, {peer}, Python {platform.python_version()}, {os.cpu_count()} processors, medians of {runs}",
        "",
    ]


def _measured(site: Site, only: list[str], runs: int) -> Iterator[str]:
    for name, release, goal in (("debian", DEBIAN, 4), ("ubuntu", UBUNTU, 3)):
        if name in only:
            yield from _build(site, release, goal, runs)
    if "plan" in only:
        contenders = plans(site)
        update = ["apt-get", "-qq", "update"]
        _open(site)
        run(Contender("apt's lists", [update], contenders[2].environ), site.log)
        _round(site, contenders, runs)
        known, first = contenders[:3], contenders[3:]
        title = "Ubuntu main and universe, what to install"
        yield from _table(f"{title}: indices known (goal 0.5 s)", known, "apt-get -s, indices known", {})
        yield from _table(f"{title}: first time (goal 4 s)", first, "apt-get update and -s, first time", {})
    if "boot" in only:
        yield from _boots(site, runs)
    if "images" in only:
        yield from _images(site, runs)
    if "start" in only:
        site.recipe(UBUNTU, "noble-gzip")
        contenders = starts(site)
        _round(site, contenders, runs)
        yield from _table("Start", contenders, "floor: python -c pass", {})


def _boots(site: Site, runs: int) -> Iterator[str]:
    _open(site)
    print("  building what is booted", flush=True)
    boots.prepare(site)
    boots.floor_command(site)
    for title, contenders, goal in (
        ("The smallest machine: QEMU's start to the guest's verdict", boots.micro(site), 1 / 1.5),
        ("A disk with systemd: QEMU's start to the guest's verdict", boots.systemd(site), 1 / 0.75),
    ):
        in_turn(contenders, runs, site.log)
        yield from _table(title, contenders, contenders[1].name, {contenders[0].name: goal})
    contenders = boots.disks(site)
    _round(site, contenders, runs)
    yield from _table("A machine's disk.raw", contenders, contenders[1].name, {contenders[0].name: 8})
    yield boots.size_line(site)
    yield ""


def _images(site: Site, runs: int) -> Iterator[str]:
    _open(site)
    print("  building the base image", flush=True)
    with images.benched(site) as bench:
        for title, contenders, peer, goals in (
            ("A container, to the end of /bin/true", images.runs(bench), "podman run --rm", {"mkroot run --rm": 1}),
            (
                "A commit after vim was installed",
                images.commits(bench),
                "podman commit, not compressed",
                {"mkroot commit, gzip": 3, "mkroot commit, not compressed": 3},
            ),
            ("The base to an empty registry", images.pushes(bench), "skopeo copy", {"mkroot push": 2}),
        ):
            for contender in contenders:
                run(contender, site.log)
            in_turn(contenders, runs, site.log)
            yield from _table(title, contenders, peer, goals)
        yield images.bump_line(bench)
        yield ""
        yield images.disk_line(bench)
        yield ""


def _build(site: Site, release: Release, goal: int, runs: int) -> Iterator[str]:
    first = cold(site, release)
    store = site.environ(site.work / f"store-{release.suite}")
    recipes = [site.work / f"{release.suite}-{codec}.yaml" for codec in ("gzip", "zstd")]
    prepare = [[MKROOT, "build", "-o", str(site.work / "warm"), str(recipe)] for recipe in recipes]
    _open(site)
    for recipe, command in zip(recipes, prepare, strict=True):
        recipe.with_suffix(".lock").unlink(missing_ok=True)
        run(Contender("filling the store", [command], store), site.log)
    _round(site, first, runs)
    second = warm(site, release)
    in_turn(second, runs, site.log)
    third = floors(site, release)
    in_turn(third, runs, site.log)
    peer = next(c for c in first if c.name == "mmdebstrap")
    goals = {"mkroot": goal, "mkroot, image in zstd": goal, "mkroot, no lock yet": goal}
    yield from _table(f"{release.name} minbase, empty store", first, "mmdebstrap", goals)
    later = {"mkroot": 12, "mkroot, image in zstd": 12, "mkroot, nothing changed": 40}
    yield from _table(f"{release.name} minbase, store known", [*second, peer], "mmdebstrap", later)
    yield from _table(f"{release.name} minbase, the floor", [*third, peer], "mmdebstrap", {})
    for line in trust.lines(site, release, first, runs):
        yield line
        yield ""


def _open(site: Site) -> None:
    (site.work / "mirror" / "closed").unlink(missing_ok=True)


def _round(site: Site, contenders: list[Contender], runs: int) -> None:
    """Let each run once with the archives open, so that all it fetches is on loopback; then measure in turn."""
    _open(site)
    for contender in contenders:
        print(f"  warming up  {contender.name}", flush=True)
        run(contender, site.log)
    (site.work / "mirror" / "closed").touch()
    in_turn(contenders, runs, site.log)
    missed = site.work / "mirror" / "missed"
    needed = [n for n in missed.read_text().split() if "/pool/" in n or "InRelease" in n] if missed.exists() else []
    if needed:
        raise Failed(f"asked for in a measured run and not there: {', '.join(sorted(set(needed))[:5])}")


def _table(title: str, contenders: list[Contender], peer: str, goals: Mapping[str, float]) -> Iterator[str]:
    """Yield a table: seconds, spread, memory, and the ratio to the peer with its goal."""
    base = next(c for c in contenders if c.name == peer).median
    yield f"### {title}"
    yield ""
    yield f"| | seconds | least to most | peak memory | {peer} ÷ this | goal |"
    yield "|---|---:|---:|---:|---:|---:|"
    for c in contenders:
        ratio = base / c.median
        goal = goals.get(c.name)
        verdict = "" if goal is None else f"{goal:.3g} {'met' if ratio >= goal else 'missed'}"
        spread = f"{min(c.seconds):.3f} to {max(c.seconds):.3f}"
        yield f"| {c.name} | {c.median:.3f} | {spread} | {c.peak / 2**20:.0f} MiB | {ratio:.2f} | {verdict} |"
    yield ""


if __name__ == "__main__":
    sys.exit(main())
