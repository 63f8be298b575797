"""What a compressed layer costs: the packages' frames against `gzip -6` and `zstd -3 -T0` of the same tar.

    python -m tests.bench.codecs STORE LOCK CODEC     compresses once; prints the seconds

A cold build compresses each package where it is unpacked, in as many processes as there are processors, with niceness,
while maintainer scripts run on one of them. Two figures belong to it: what that work takes by itself, and by how much a
build from an empty store is longer for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.measure import Contender, in_turn, run
from tests.bench.table import Goal, part, sizes, table
from tests.bench.works import DEBIAN, MKROOT, ROOT, Site

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

NEEDED = ("gzip", "zstd")
TOOLS = {"gzip": ("gzip", "-6", "-c"), "zstd": ("zstd", "-3", "-T0", "-q", "-c")}
FASTER = {"gzip": 5, "zstd": 3}
BIGGER = {"gzip": 3.0, "zstd": 2.0}  # per cent
LEAST = 0.02  # seconds; a difference of medians that is smaller is taken for this


def tables(site: Site, runs: int) -> Iterator[str]:
    """Measure and yield the tables; raises Failed."""
    out, store = site.work / "codecs-out", site.work / "codecs-store"
    recipes = {codec: site.recipe(DEBIAN, f"codecs-{codec}", **_wish(codec)) for codec in ("none", *TOOLS)}
    for recipe in recipes.values():
        words = [MKROOT, "build", "-o", str(out), str(recipe)]
        recipe.with_suffix(".lock").unlink(missing_ok=True)
        run(Contender("filling the store", [words], site.environ(store)), site.log)
    tar = next((out / "codecs-none").glob("*/rootfs.tar"))
    lock = recipes["none"].with_suffix(".lock")
    works = [c for codec in TOOLS for c in (_own(store, lock, codec), _tool(site, tar, codec))]
    for contender in works:
        run(contender, site.log)
    in_turn(works, runs, site.log)
    own_gzip, gzip, own_zstd, zstd = works
    goals = {own_gzip.name: [part(FASTER["gzip"], gzip)], own_zstd.name: [part(FASTER["zstd"], zstd)]}
    title = f"Compressing Debian 13's minbase, {tar.stat().st_size / 1e6:.0f} MB of tar"
    yield from table(title, works, gzip, goals)
    yield from _margins(site, recipes, runs, {"gzip": gzip, "zstd": zstd})
    yield from _bytes(out, tar)


def _wish(codec: str) -> dict[str, Any]:
    if codec == "none":
        return {"outputs": ["tar"]}
    return {"outputs": ["tar", "oci"], "image": {"compression": codec}}


def _tool(site: Site, tar: Path, codec: str) -> Contender:
    words = [*TOOLS[codec], str(tar)]
    packed = site.work / "codecs-packed"
    script = 'exec "$@" >' + f"'{packed}'"
    return Contender(" ".join(words[:-1]).removesuffix(" -c"), [["sh", "-c", script, "-", *words]], fresh=[packed])


def _own(store: Path, lock: Path, codec: str) -> Contender:
    words = [sys.executable, "-m", "tests.bench.codecs", str(store), str(lock), codec]

    def measure() -> float:
        return float(subprocess.run(words, check=True, cwd=ROOT, capture_output=True, text=True).stdout)

    return Contender(f"mkroot's frames in {codec}, {os.cpu_count()} processes", [], measure=measure)


def _margins(site: Site, recipes: dict[str, Path], runs: int, tools: dict[str, Contender]) -> Iterator[str]:
    """Yield builds from an empty store with and without the layer, and what the layer adds against the tool."""
    store, out = site.work / "store", site.work / "codecs-cold"
    builds = {
        codec: Contender(
            f"mkroot, {'rootfs.tar alone' if codec == 'none' else f'and an image in {codec}'}",
            [[MKROOT, "build", "--locked", "-o", str(out), str(recipe)]],
            site.environ(store),
            [store, out],
        )
        for codec, recipe in recipes.items()
    }
    in_turn(list(builds.values()), runs, site.log)
    goals = {}
    for codec, tool in tools.items():
        limit = builds["none"].median + tool.median / FASTER[codec]
        goals[builds[codec].name] = [Goal(f"1/{FASTER[codec]} of {tool.name} more than the tar alone", limit)]
    title = "A build from an empty store, with a layer and without"
    yield from table(title, list(builds.values()), builds["none"], goals)
    for codec, tool in tools.items():
        more = builds[codec].median - builds["none"].median
        yield (
            f"the layer in {codec} makes a build from an empty store {more:.2f} s longer; {tool.name} of its tar takes "
            f"{tool.median:.2f} s, {tool.median / max(more, LEAST):.1f} times as long"
        )
        yield ""


def _bytes(out: Path, tar: Path) -> Iterator[str]:
    rows: list[tuple[str, float, str, bool | None]] = []
    for codec, words in TOOLS.items():
        theirs = len(subprocess.run([*words, tar], check=True, capture_output=True).stdout)
        ours = image_bytes(out / f"codecs-{codec}" / "amd64" / "oci")
        more = 100 * (ours / theirs - 1)
        name = " ".join(words).removesuffix(" -c")
        rows.append((name, theirs / 1e6, "", None))
        said = f"{more:+.2f} %, goal {BIGGER[codec]:.0f} %"
        rows.append((f"mkroot's layer in {codec}", ours / 1e6, said, more <= BIGGER[codec]))
    yield from sizes("Bytes of the layer", rows, "against the tool")


def image_bytes(layout: Path) -> int:
    """Return the bytes of the layers of a layout's only image."""
    index = json.loads((layout / "index.json").read_bytes())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((layout / "blobs/sha256" / digest).read_bytes())
    return sum(layer["size"] for layer in manifest["layers"])


def main() -> None:
    """Compress every package of a lock once, from tar streams in memory, into a store of its own."""
    store, lock, codec = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_bytes()), sys.argv[3]
    digests = [p["sha256"] for p in sorted(lock["architectures"]["amd64"]["packages"], key=lambda p: -p["size"])]
    count = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=store.parent) as folder:
        context = get_context("fork")
        ready, done = context.Barrier(count + 1), context.Barrier(count + 1)
        # dealt out by size: each process has about as much to do
        parts = [digests[i::count] for i in range(count)]
        processes = [
            context.Process(target=_compress, args=(store, Path(folder), p, codec, ready, done)) for p in parts
        ]
        for process in processes:
            process.start()
        ready.wait()
        start = time.monotonic()
        done.wait()
        print(time.monotonic() - start)
        for process in processes:
            process.join()


def _compress(store: Path, new: Path, digests: list[str], codec: str, ready: Barrier, done: Barrier) -> None:
    from mkroot.store.frame import pieces_of, raw_pieces
    from mkroot.store.layer import Layer, LayerStore
    from mkroot.store.store import Store
    from mkroot.store.unpack import layer_key

    layers = LayerStore(Store(store))
    found: list[tuple[Layer, list[bytes]]] = []
    for digest in digests:
        layer = layers.load(layer_key(digest))
        found.append((layer, list(raw_pieces(layers.base(layer), "zstd"))))
    target = LayerStore(Store(new))
    ready.wait()
    for layer, pieces in found:
        target.save_frame(layer, pieces_of(iter(pieces)), codec)
    done.wait()


if __name__ == "__main__":
    main()
