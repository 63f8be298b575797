"""Builds after a small change: a package newer, a package more; against that package's own unpack and scripts."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.measure import Contender, Failed, in_turn, run
from tests.bench.table import Goal, table
from tests.bench.works import DEBIAN, MKROOT, Site, copied

NEEDED = ("umoci", "skopeo", "chroot")
ADDED = "vim-tiny"
NAME = "change"  # of every recipe here: locks may be exchanged between them
INSTALL = "dpkg --force-unsafe-io -i /debs/*.deb"
Entry = dict[str, Any]


def tables(site: Site, runs: int) -> Iterator[str]:
    """Measure the bumps and the addition; yield their tables. Raises Failed."""
    work = site.work / "changes"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    today = _lock(site, "today")
    for number, (title, before, after) in enumerate(_bumps(site, today)):
        yield from _bump(site, work, number, title, before, after, runs)
    yield from _addition(site, work, runs)


# ---- locks


def _recipe(site: Site, which: str, **more: object) -> Path:
    return site.recipe(DEBIAN, f"{NAME}-{which}", **{"name": NAME, "image": {"compression": "zstd"}, **more})


def _lock(site: Site, which: str, **more: object) -> dict[str, Any]:
    """Lock a recipe anew and return the lock."""
    recipe = _recipe(site, which, **more)
    recipe.with_suffix(".lock").unlink(missing_ok=True)
    run(Contender(f"locking {which}", [[MKROOT, "lock", str(recipe)]], site.environ()), site.log)
    return dict(json.loads(recipe.with_suffix(".lock").read_bytes()))


def packages(lock: dict[str, Any]) -> list[Entry]:
    """Return the packages of a lock."""
    return list(lock["architectures"]["amd64"]["packages"])


def _with(lock: dict[str, Any], entries: list[Entry]) -> dict[str, Any]:
    """Return a lock with these packages in place of their namesakes."""
    own = {e["name"]: e for e in entries}
    changed = [own.get(p["name"], p) for p in packages(lock)]
    rest = {**lock["architectures"]["amd64"], "packages": changed}
    return {**lock, "architectures": {"amd64": rest}}


def _write(site: Site, which: str, lock: dict[str, Any]) -> Path:
    """Write a recipe of today's with another lock beside it."""
    recipe = _recipe(site, which)
    text = json.dumps(lock, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    recipe.with_suffix(".lock").write_text(text + "\n")
    return recipe


def _bumps(site: Site, today: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield title and locks, before and after, of a bump late in the root's making and then of one early in it.

    The packages are those that the archive has renewed since the release; the second bump begins where the first ended.
    """
    released = {e["name"]: e for e in packages(_lock(site, "released", pockets=[]))}
    newer = [p for p in packages(today) if (old := released.get(p["name"])) and old["version"] != p["version"]]
    chosen = [found[0] for stage in ("variant", "essential") if (found := [p for p in newer if p["stage"] == stage])]
    if not chosen:
        raise Failed("the archive has renewed no package of the base")
    for number, package in enumerate(chosen):
        before = _with(today, [released[p["name"]] for p in chosen[number:]])
        after = _with(today, [released[p["name"]] for p in chosen[number + 1 :]])
        names = f"{package['name']} of the {package['stage']} stage"
        again = "the first bump of this store" if number == 0 else "a later bump"
        yield f"{names}, {again}", before, after


# ---- the work


def _build(site: Site, recipe: Path, out: Path) -> list[str]:
    return [MKROOT, "build", "--locked", "-o", str(out), str(recipe)]


def _bump(
    site: Site, work: Path, number: int, title: str, before: dict[str, Any], after: dict[str, Any], runs: int
) -> Iterator[str]:
    known, store, out = work / "known", work / "store", work / "out"
    followed, again = work / "followed", work / "again"
    old, new = _write(site, "before", before), _write(site, "after", after)
    print(f"  building what is changed: {title}", flush=True)
    if number == 0:
        run(Contender("filling the store", [_build(site, old, out)], site.environ(known), [known, out]), site.log)
        following = [[*_build(site, old, out), "--follow-scripts"]]
        run(Contender("following scripts", following, site.environ(followed), [followed, out]), site.log)
    fetched = work / "fetched"
    run(Contender("fetching", [_build(site, new, out)], site.environ(fetched), [out]), site.log)
    added = [p for p in packages(after) if p["sha256"] not in {q["sha256"] for q in packages(before)}]
    contenders = [
        Contender("mkroot, store known", [_build(site, old, out)], site.environ(known), [out]),
        Contender(
            "mkroot, one package newer",
            [_build(site, new, out)],
            site.environ(store),
            [out, store],
            lambda: _copy(known, store),
        ),
        Contender(
            "mkroot, one package newer, scripts followed before",
            [_build(site, new, out)],
            site.environ(again),
            [out, again],
            lambda: _copy(followed, again),
        ),
        _dpkg(site, work, old, known, [_deb(fetched, p) for p in added]),
    ]
    _measure(site, contenders, runs)
    warm, bumped, remembered, floor = contenders
    least = 1.3 * warm.median + floor.median
    goal = Goal(f"1.3 × store known + the package's own ({least:.2f} s)", least)
    goals = {bumped.name: [goal], remembered.name: [goal]}
    yield from table(f"One package newer: {title}", contenders, warm, goals, warm.median + floor.median)
    stores = ((known, store), (followed, again))
    for old_store, new_store in stores:  # the next bump comes to them as this one left them
        shutil.rmtree(old_store)
        new_store.rename(old_store)


def _addition(site: Site, work: Path, runs: int) -> Iterator[str]:
    known, store, out, umoci = work / "base", work / "store", work / "out", work / "umoci"
    for which, image in (("base", "zstd"), ("base-gzip", "gzip")):
        _lock(site, which, image={"compression": image})
    base = _recipe(site, "base")
    zipped = _recipe(site, "base-gzip", image={"compression": "gzip"})
    more = {"variant": "minbase", "include": [ADDED]}
    lock = _lock(site, "more", packages=more)
    new = _recipe(site, "more", packages=more)
    print(f"  building what gets {ADDED}", flush=True)
    for recipe, folder in ((zipped, work / "gzip"), (base, out)):
        run(Contender("filling the store", [_build(site, recipe, folder)], site.environ(known), [folder]), site.log)
    source = f"oci:{work / 'gzip' / NAME / 'amd64' / 'oci'}"
    run(Contender("the base for umoci", [["skopeo", "copy", "-q", source, f"oci:{umoci}:base"]], {}, [umoci]), site.log)
    fetched = work / "fetched"
    run(Contender("fetching", [_build(site, new, out)], site.environ(fetched), [out]), site.log)
    there = {p["sha256"] for p in packages(json.loads(base.with_suffix(".lock").read_bytes()))}
    debs = [_deb(fetched, p) for p in packages(lock) if p["sha256"] not in there]
    contenders = [
        Contender(
            f"mkroot, {ADDED} added",
            [_build(site, new, out)],
            site.environ(store),
            [out, store],
            lambda: _copy(known, store),
        ),
        _umoci(work, umoci, debs),
        _dpkg(site, work, base, known, debs),
    ]
    _measure(site, contenders, runs)
    own, peer, floor = contenders
    goals = {own.name: [Goal("the package's own + 0.3 s", floor.median + 0.3)]}
    title = f"One package more: {ADDED}, {len(debs)} packages with what it needs, on a known base"
    yield from table(title, contenders, peer, goals, floor.median)


def _measure(site: Site, contenders: list[Contender], runs: int) -> None:
    for contender in contenders:
        run(contender, site.log)
    in_turn(contenders, runs, site.log)


def _copy(known: Path, store: Path) -> None:
    subprocess.run(["cp", "-a", known, store], check=True)


def _deb(store: Path, package: Entry) -> Path:
    digest = str(package["sha256"])
    return store / "debs" / digest[:2] / digest


def _dpkg(site: Site, work: Path, recipe: Path, store: Path, debs: list[Path]) -> Contender:
    """dpkg in the finished root: what the packages themselves take to unpack and to configure."""
    out, root, copy = work / "floor-out", work / "root", work / "copy"
    run(Contender("the root", [_build(site, recipe, out)], site.environ(store), [out, root]), site.log)
    root.mkdir()
    packed = next(out.glob("*/amd64/rootfs.tar.zst"))
    subprocess.run(["tar", "-C", root, "--zstd", "-xpf", packed], check=True)
    _place(debs, root / "debs")
    install = ["chroot", str(copy), "sh", "-c", INSTALL]
    environ = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
    title = "floor: dpkg -i of the package alone" if len(debs) == 1 else "floor: dpkg -i of these packages alone"
    return Contender(title, [install], environ, [copy], lambda: copied(root, copy))


def _place(debs: list[Path], folder: Path) -> None:
    folder.mkdir()
    for number, deb in enumerate(debs):
        shutil.copy(deb, folder / f"{number}.deb")


def _umoci(work: Path, layout: Path, debs: list[Path]) -> Contender:
    """What one does without a builder: the image unpacked, dpkg in it, and what changed packed as a layer."""
    bundle, folder = work / "bundle", work / "umoci-debs"
    shutil.rmtree(folder, ignore_errors=True)
    _place(debs, folder)
    script = f"""set -e
umoci unpack --image {layout}:base {bundle}
cp -r {folder} {bundle}/rootfs/debs
unshare -m sh -c 'mount --bind /dev {bundle}/rootfs/dev && chroot {bundle}/rootfs sh -c "{INSTALL}"'
rm -r {bundle}/rootfs/debs
umoci repack --image {layout}:more {bundle}
"""
    environ = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
    name = "umoci unpack, dpkg -i, umoci repack (gzip)"
    return Contender(name, [["sh", "-c", script]], environ, [bundle])
