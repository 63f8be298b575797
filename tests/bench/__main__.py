"""`make bench`: measures, prints the tables as Markdown and keeps them in bench-out: bench.md, and drawn in bench.svg.

BENCH_RUNS: how often each (default 5). BENCH_ONLY: a comma-separated choice of debian, ubuntu, changes, codecs, plan,
boot, images, sizes and start; growth and fleet stand apart from these, for they take minutes and gigabytes; growth is
drawn in growth.svg. BENCH_WORK: where the work is done and the packages are kept (default bench-out/work).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mkroot.archive import config
from mkroot.archive.mirror import mirror
from tests.bench import boots, changes, codecs, fleet, growth, images, planning, sizes, trust
from tests.bench.curves import curves
from tests.bench.measure import Contender, Failed, in_turn, run
from tests.bench.picture import picture
from tests.bench.table import part, table, times, within
from tests.bench.works import DEBIAN, MKROOT, PEERS, ROOT, UBUNTU, Release, Site, cold, floors, starts, warm

MEMORY = 200  # MiB, the most that a process of a minbase build may take
ALL = "debian,ubuntu,changes,codecs,plan,boot,images,sizes,start"


def main() -> int:
    """Measure everything that was asked for; 1 where a contender is missing or fails."""
    runs = int(os.environ.get("BENCH_RUNS", "5"))
    only = os.environ.get("BENCH_ONLY", ALL).split(",")
    if os.geteuid() != 0:
        return _fail("the peers need root: run `make bench` as root")
    parts = {"boot": boots, "images": images, "changes": changes, "codecs": codecs, "fleet": fleet}
    needed = [*PEERS, "ar", *(tool for name, module in parts.items() if name in only for tool in module.NEEDED)]
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
    if "growth" in only:
        (ROOT / "bench-out" / "growth.svg").write_text(curves(text))
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
    for name, release, whole in (("debian", DEBIAN, 8), ("ubuntu", UBUNTU, 5)):
        if name in only:
            yield from _build(site, release, whole, runs)
    if "changes" in only:
        _open(site)
        yield from changes.tables(site, runs)
    if "codecs" in only:
        _open(site)
        yield from codecs.tables(site, runs)
    if "plan" in only:
        yield from planning.tables(site, runs, site.work / "mirror" / "closed")
        _complete(site)
    if "boot" in only:
        yield from _boots(site, runs)
    if "images" in only:
        yield from _images(site, runs)
    if "sizes" in only:
        _open(site)
        yield from sizes.tables(site)
    if "growth" in only:
        _open(site)
        yield from growth.lines(site, runs)
    if "fleet" in only:
        _open(site)
        yield from fleet.tables(site, runs)
    if "start" in only:
        site.recipe(UBUNTU, "noble-gzip")
        contenders = starts(site)
        _round(site, contenders, runs)
        version, check, bare = contenders
        goals = {version.name: [within(0.10)], check.name: [within(0.15)]}
        yield from table("Start", contenders, bare, goals, bare.median)


def _boots(site: Site, runs: int) -> Iterator[str]:
    _open(site)
    print("  building what is booted", flush=True)
    boots.prepare(site)
    boots.floor_command(site)
    for title, contenders, factor in (
        ("The smallest machine: QEMU's start to the guest's verdict", boots.micro(site), 1.5),
        ("A disk with systemd: QEMU's start to the guest's verdict", boots.systemd(site), 0.75),
    ):
        in_turn(contenders, runs, site.log)
        own, peer = contenders
        yield from table(title, contenders, peer, {own.name: [times(factor, peer.median, peer.name)]})
    contenders = boots.disks(site)
    _round(site, contenders, runs)
    own, peer = contenders
    yield from table("A machine's disk.raw", contenders, peer, {own.name: [part(8, peer)]})
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
            ("The base with other layers, without a build", images.relayers(bench), "skopeo copy, gzip to zstd", {}),
        ):
            for contender in contenders:
                run(contender, site.log)
            in_turn(contenders, runs, site.log)
            other = next(c for c in contenders if c.name == peer)
            floor = next((c.median for c in contenders if c.name.startswith("floor")), None)
            yield from table(title, contenders, other, {n: [part(whole, other)] for n, whole in goals.items()}, floor)
        yield images.bump_line(bench)
        yield ""
        yield images.pull_line(bench)
        yield ""
        yield images.disk_line(bench)
        yield ""


def _build(site: Site, release: Release, whole: int, runs: int) -> Iterator[str]:
    """Measure builds of a release's minbase. whole: a cold build's goal is `1/whole` of mmdebstrap."""
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
    peers = {c.name: c for c in first if not c.name.startswith("mkroot")}
    peer = peers["mmdebstrap"]
    floor = sum(c.median for c in third)  # the scripts of a package wait until it is decompressed
    goals = [part(whole, peer)]
    if release is DEBIAN:
        goals += [part(15, peers["debootstrap"])] if "debootstrap" in peers else []
        goals.append(times(1.5, floor))
    built = {c.name: goals for c in first if c.name in ("mkroot", "mkroot, image in zstd")}
    yield from table(
        f"{release.name} minbase, empty store", first, peer, {**built, "mkroot, no lock yet": goals[:1]}, floor
    )
    yield _memory(f"{release.name} minbase, empty store", first)
    yield ""
    copy = second[-1]
    goals = [part(100, peer), times(2, copy.median, "cp and sha256sum")]
    later = {"mkroot": goals, "mkroot, image in zstd": goals, "mkroot, nothing changed": [within(0.1)]}
    yield from table(f"{release.name} minbase, store known", [*second, peer], peer, later, copy.median)
    yield from table(f"{release.name} minbase, the floor", [*third, peer], peer)
    for line in trust.lines(site, release, first, runs):
        yield line
        yield ""


def _memory(title: str, contenders: list[Contender]) -> str:
    peak = max(c.peak for c in contenders if c.name.startswith("mkroot")) / 2**20
    verdict = "met" if peak <= MEMORY else "missed"
    return f"{title}: the biggest process of any build took {peak:.0f} MiB (goal: {MEMORY} MiB, {verdict})"


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
    _complete(site)


def _complete(site: Site) -> None:
    """Raise Failed where a measured run asked for a package or a Release that was not on loopback."""
    missed = site.work / "mirror" / "missed"
    needed = [n for n in missed.read_text().split() if "/pool/" in n or "InRelease" in n] if missed.exists() else []
    if needed:
        raise Failed(f"asked for in a measured run and not there: {', '.join(sorted(set(needed))[:5])}")


if __name__ == "__main__":
    sys.exit(main())
