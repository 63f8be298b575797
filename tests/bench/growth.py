"""What a build costs against the number of packages, and what commands cost against the number of images in the store.

BENCH_ONLY=growth, or `make bench-growth`; it is not in the default set, for its biggest root has 1,500 packages.

python -m tests.bench.growth BASE FIRST LAST      puts images into the store, numbered so, with one layer on BASE each
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench.measure import Contender, in_turn, run
from tests.bench.works import DEBIAN, MKROOT, ROOT, Site

MIB = 1 << 20
STORES = (1, 100, 1000)  # images
LARGE = 800  # packages from which on a cold build is measured once
GOALS = {"plan": 1.0, "warm": 6.0, "memory": 500 * MIB}  # seconds, bytes; of the biggest root
BASE = "growth:base"
TITLE = "Growth: Debian 13, from minbase to a desktop with what it recommends"


class Size(NamedTuple):
    """A root to build. about: its packages, roughly. variant, recommends, include: as in a recipe."""

    about: int
    variant: str
    recommends: bool
    include: tuple[str, ...]


_SERVER = ("openssh-server", "nginx", "python3", "git", "vim", "php-fpm", "build-essential")
SIZES = (
    Size(90, "minbase", False, ("ca-certificates", "netbase", "less", "nano")),
    Size(200, "minbase", False, ("systemd-sysv", *_SERVER)),
    Size(400, "standard", True, (*_SERVER, "python3-dev", "postgresql")),
    Size(800, "minbase", True, ("mate-desktop-environment-core",)),
    Size(1500, "minbase", True, ("task-gnome-desktop",)),
)


class Grown(NamedTuple):
    """A size's figures. unpacked, output: bytes."""

    packages: int
    unpacked: int
    output: int
    plan: Contender
    cold: Contender
    warm: Contender
    unchanged: Contender


def lines(site: Site, runs: int) -> Iterator[str]:
    """Yield both tables, and what they say of the goals."""
    grown = [_grown(site, size, runs) for size in SIZES]
    yield from table(grown)
    yield ""
    yield f"Cold builds from {LARGE} packages on were measured once."
    yield ""
    yield from verdicts(grown)
    yield ""
    yield from _stores(site, runs)


# Packages


def _grown(site: Site, size: Size, runs: int) -> Grown:
    work = site.work / "growth"
    work.mkdir(exist_ok=True)
    name = f"growth-{size.about}"
    packages = {"variant": size.variant, "recommends": size.recommends, "include": list(size.include)}
    recipe = site.recipe(DEBIAN, name, packages=packages, image={"compression": "zstd"}, outputs=["oci"])
    recipe.with_suffix(".lock").unlink(missing_ok=True)
    kept, fresh, out = work / "store", work / "fresh", work / "out"
    build = [MKROOT, "build", "-o", str(out), str(recipe)]
    print(f"  filling the store  {name}", flush=True)
    run(Contender("filling the store", [build], site.environ(kept)), site.log)
    manifest = json.loads((out / name / "amd64" / "manifest.json").read_bytes())
    plan = [MKROOT, "plan", "--no-lock", "--json", str(recipe)]
    found = Grown(
        packages=len(manifest["packages"]),
        unpacked=manifest["installed"],
        output=sum(a["size"] for a in manifest["artifacts"]),
        plan=Contender(f"{name}, plan", [plan], site.environ(kept)),
        cold=Contender(f"{name}, cold", [[*build, "--locked"]], site.environ(fresh), [fresh, out]),
        warm=Contender(f"{name}, warm", [build], site.environ(kept), [out]),
        unchanged=Contender(f"{name}, unchanged", [build], site.environ(kept)),
    )
    in_turn([found.cold], runs if size.about < LARGE else 1, site.log)
    shutil.rmtree(fresh)
    in_turn([found.plan, found.warm, found.unchanged], runs, site.log)
    shutil.rmtree(out)
    return found


def table(grown: list[Grown]) -> Iterator[str]:
    """Yield the table of sizes, which `tests.bench.picture.curves` draws."""
    yield f"### {TITLE}"
    yield ""
    yield "| packages | unpacked | output | plan | cold | warm, new folder | nothing changed | peak memory |"
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|"
    for g in grown:
        seconds = " | ".join(f"{c.median:.3f}" for c in (g.plan, g.cold, g.warm, g.unchanged))
        sizes = f"{g.unpacked / MIB:.0f} MiB | {g.output / MIB:.0f} MiB"
        yield f"| {g.packages} | {sizes} | {seconds} | {_peak(g) / MIB:.0f} MiB |"


def _peak(grown: Grown) -> int:
    return max(c.peak for c in (grown.plan, grown.cold, grown.warm, grown.unchanged))


def verdicts(grown: list[Grown]) -> Iterator[str]:
    """Yield a line for each goal: those of the biggest root, and how costs grow from the smallest."""
    first, last = grown[0], grown[-1]
    for what, value, goal, text in (
        ("plan, indices known", last.plan.median, GOALS["plan"], f"{last.plan.median:.2f} s"),
        ("warm build", last.warm.median, GOALS["warm"], f"{last.warm.median:.2f} s"),
        ("memory of the biggest process", _peak(last), GOALS["memory"], f"{_peak(last) / MIB:.0f} MiB"),
    ):
        unit = f"{goal / MIB:.0f} MiB" if goal > MIB else f"{goal:.0f} s"
        yield f"{last.packages} packages, {what}: {text} (goal: {unit}, {'met' if value <= goal else 'missed'})"
        yield ""
    yield (
        f"from {first.packages} to {last.packages} packages: unpacked bytes {last.unpacked / first.unpacked:.1f} ×, "
        f"cold {last.cold.median / first.cold.median:.1f} ×; output bytes {last.output / first.output:.1f} ×, "
        f"warm {last.warm.median / first.warm.median:.1f} ×; "
        f"nothing changed {last.unchanged.median / first.unchanged.median:.2f} ×"
    )


# Images


def _stores(site: Site, runs: int) -> Iterator[str]:
    work = site.work / "growth"
    store, out = work / "images", work / "images-out"
    for folder in (store, out):
        shutil.rmtree(folder, ignore_errors=True)
    environ = site.environ(store)
    packages = {"variant": "minbase"}
    image = {"compression": "zstd", "tags": [BASE]}
    recipe = site.recipe(DEBIAN, "growth-base", packages=packages, image=image, outputs=["oci"])
    recipe.with_suffix(".lock").unlink(missing_ok=True)
    build = [MKROOT, "build", "-o", str(out), str(recipe)]
    run(Contender("the base", [build], environ), site.log)
    columns: list[list[Contender]] = []
    before = 1  # the base itself
    for count in STORES:
        if count > before:
            _fill(environ, before, count)
        before = count
        columns.append(_commands(build, out, environ, count, _digest(environ)))
        for contender in columns[-1]:
            run(contender, site.log)
        in_turn(columns[-1], runs, site.log)
    shutil.rmtree(store)
    yield "### Growth: images in the store"
    yield ""
    yield "| seconds | " + " | ".join(f"{n:,} image{'s' if n > 1 else ''}" for n in STORES) + " | last ÷ first |"
    yield "|---|" + "---:|" * (len(STORES) + 1)
    for row in zip(*columns, strict=True):
        seconds = " | ".join(f"{c.median:.3f}" for c in row)
        yield f"| {row[0].name.partition(', ')[2]} | {seconds} | {row[-1].median / row[0].median:.2f} |"
    yield ""


def _commands(build: list[str], out: Path, environ: dict[str, str], count: int, digest: str) -> list[Contender]:
    return [
        Contender(f"{count}, {name}", [command], environ, fresh)
        for name, command, fresh in (
            ("mkroot images", [MKROOT, "images"], []),
            ("build, new folder", build, [out]),
            ("build, nothing changed", build, []),
            ("run --rm /bin/true", [MKROOT, "run", "--rm", BASE, "/bin/true"], []),
            ("inspect by the beginning of an id", [MKROOT, "inspect", digest[:12]], []),
            ("tag", [MKROOT, "tag", BASE, "growth:again"], []),
        )
    ]


def _digest(environ: dict[str, str]) -> str:
    command = [MKROOT, "images", "--json", BASE]
    done = subprocess.run(command, check=True, env={**os.environ, **environ}, capture_output=True, text=True)
    return str(json.loads(done.stdout)[0]["digest"]).partition(":")[2]


def _fill(environ: dict[str, str], first: int, last: int) -> None:
    print(f"  filling the store  images {first} to {last}", flush=True)
    command = [sys.executable, "-m", "tests.bench.growth", BASE, str(first), str(last)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **environ})


def fill(base: str, first: int, last: int) -> None:
    """Put images into the store of the environment: each is `base` under a layer of one small file."""
    from mkroot.oci.layerfile import layer_members, write_layer
    from mkroot.oci.model import CONFIG, MANIFEST, Descriptor, ManifestWritten, encode, oci_layer
    from mkroot.oci.reference import Reference
    from mkroot.oci.store import ImageStore
    from mkroot.store.store import Store, default_root
    from mkroot.tar.entry import Entry

    images = ImageStore(Store(default_root(os.environ)))
    under = images.load(images.find(base))
    config = json.loads(images.layout().read(under.manifest.config))
    for number in range(first, last):
        text = f"{number}\n".encode()
        with images.using():
            with images.aside() as aside:
                members = layer_members([Entry("etc/number", "f", 0o644, size=len(text))], lambda _, text=text: [text])
                layer = write_layer(aside, members, "zstd")
                images.adopt(aside, layer.descriptor)
            own = {**config, "rootfs": {"type": "layers", "diff_ids": [*config["rootfs"]["diff_ids"], layer.diff_id]}}
            told = images.put(encode(own), CONFIG)
            layers = (*map(oci_layer, under.manifest.layers), layer.descriptor)
            put = images.put(encode(ManifestWritten(config=told, layers=layers)), MANIFEST)
            descriptor = Descriptor(media_type=MANIFEST, digest=put.digest, size=put.size)
            images.tag(descriptor, Reference.parse(f"growth/box{number}:1"))


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
