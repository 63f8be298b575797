"""Bytes: a trimmed base image against the published one, and what several recipes share in one store."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.codecs import image_bytes
from tests.bench.measure import Contender, run
from tests.bench.table import sizes
from tests.bench.works import MKROOT, ROOT, Release, Site

BOOKWORM = Release("Debian 12", "debian", "bookworm", ())
PUBLISHED = 28.2  # MB, gzip: debian:bookworm-slim for amd64
SLIM = {"gzip": 0.95, "zstd": 0.82}  # the goals, of that
# debuerreotype's list for its slim images; mkroot's `docs` and `man` are the same folders and GNOME's and linda's
TRIM = {"docs": True, "man": True, "locales": [], "paths": ["/usr/share/groff/**", "/usr/share/linda/**"]}
OLD = ["/var/cache/debconf/*-old", "/var/lib/dpkg/*-old"]  # the databases before their last change; slim has them
# Every root of Debian 13 among the repository's recipes that is not the same as another's
SIX = ("debian-min", "debian-slim", "debian-web", "python-app", "static", "debian-vm")
UNIQUE = 0.40


def tables(site: Site) -> Iterator[str]:
    """Build and yield the tables; raises Failed."""
    yield from _slim(site)
    yield from _six(site)


def _slim(site: Site) -> Iterator[str]:
    store, out = site.work / "sizes-store", site.work / "sizes-out"
    rows: list[tuple[str, float, str, bool | None]] = [("debian:bookworm-slim as published, gzip", PUBLISHED, "", None)]
    for codec, goal in SLIM.items():
        for level, paths in ((None, []), (None, OLD), ("best", OLD)):
            image = {"compression": codec} | ({"compression-level": level} if level else {})
            trim = {**TRIM, "paths": [*TRIM["paths"], *paths]}  # type: ignore[misc]
            recipe = site.recipe(BOOKWORM, "sizes-slim", trim=trim, image=image, outputs=["oci"])
            words = [MKROOT, "build", "--no-lock", "-o", str(out), str(recipe)]
            run(Contender("building", [words], site.environ(store), [out]), site.log)
            size = image_bytes(out / "sizes-slim" / "amd64" / "oci") / 1e6
            name = f"mkroot, {codec}" + (f", compression-level: {level}" if level else "")
            name += ", without the databases' *-old" if paths else ""
            share = size / PUBLISHED
            rows.append((name, size, f"{share:.3f} of the published, goal {goal}", share <= goal))
    yield from sizes("Debian 12 minbase, trimmed as debian:bookworm-slim", rows, "")


def _six(site: Site) -> Iterator[str]:
    """Yield what of six roots is there once, counted in several ways, each over the sum of the six."""
    work = site.work / "six"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    images = work / "images"
    for name in SIX:
        for by, layers in (("source", {"by": "source", "budget": 120}), ("single", {})):
            path = work / f"{name}.yaml"
            image = {"layers": layers, "compression": "zstd", "tags": [f"six/{name}:{by}"]}
            extends = [str(ROOT / "recipes" / f"{name}.yaml")]
            path.write_text(json.dumps({"version": 1, "name": name, "extends": extends, "image": image}))
            kinds = ["--output", "oci", "--output", "tar.zst"]
            words = [MKROOT, "build", "--no-lock", *kinds, "-o", str(images / by), str(path)]
            run(Contender(f"building {name}", [words], site.environ(work / "store")), site.log)
        alone = [MKROOT, "build", "--no-lock", "--output", "oci", "-o", str(work / "alone-out"), str(path)]
        own = site.environ(work / "stores" / name)
        run(Contender(f"building {name} in a store of its own", [alone], own), site.log)
        run(Contender(f"{name} in one store", [alone], site.environ(work / "stores" / "one")), site.log)
    counted = [
        ("layers of the images, by source package (budget 120)", *_layers(images / "source")),
        ("packages as they were fetched", *_kinds(work / "stores", ("debs",))),
        ("packages unpacked and compressed: records and frames", *_kinds(work / "stores", ("frames", "layers"))),
        ("the whole store, images in one layer each", *_kinds(work / "stores", None)),
        ("contents of files, uncompressed: no store can have less", *_contents(images / "single")),
    ]
    rows: list[tuple[str, float, str, bool | None]] = []
    for name, unique, total in counted:
        share = unique / total
        rows.append((name, unique / 1e6, f"{share:.2f} of {total / 1e6:.2f} MB, goal {UNIQUE:.2f}", share <= UNIQUE))
    yield from sizes(f"What is unique of six roots in one store: {', '.join(SIX)}", rows, "over the sum of the six")


def _layers(folder: Path) -> tuple[int, int]:
    """Return the bytes of different layers, and of all."""
    found: dict[str, int] = {}
    total = 0
    for layout in sorted(folder.glob("*/*/oci")):
        index = json.loads((layout / "index.json").read_bytes())
        digest = index["manifests"][0]["digest"].removeprefix("sha256:")
        for layer in json.loads((layout / "blobs/sha256" / digest).read_bytes())["layers"]:
            found[layer["digest"]] = layer["size"]
            total += layer["size"]
    return sum(found.values()), total


def _kinds(stores: Path, kinds: tuple[str, ...] | None) -> tuple[int, int]:
    """Return the bytes on disk in the store of all and in those of one recipe each; kinds: None is all but indices."""
    unique = total = 0
    for store in sorted(stores.iterdir()):
        named = [store / kind for kind in kinds] if kinds else [f for f in store.iterdir() if f.name != "indices"]
        size = sum(_used(folder) for folder in named if folder.exists())
        if store.name == "one":
            unique = size
        else:
            total += size
    return unique, total


def _used(folder: Path) -> int:
    done = subprocess.run(["du", "-s", "-B1", str(folder)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0])


def _contents(folder: Path) -> tuple[int, int]:
    """Return the bytes of different files' contents, and of all."""
    import zstandard

    found: dict[bytes, int] = {}
    total = 0
    for packed in sorted(folder.glob("*/*/rootfs.tar.zst")):
        with packed.open("rb") as f:
            plain = zstandard.ZstdDecompressor().stream_reader(f, read_across_frames=True)
            with tarfile.open(fileobj=plain, mode="r|") as tar:
                for member in tar:
                    if member.isreg() and (content := tar.extractfile(member)) is not None:
                        found[hashlib.file_digest(content, "sha256").digest()] = member.size  # type: ignore[arg-type]
                        total += member.size
    return sum(found.values()), total
