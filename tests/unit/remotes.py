"""A recipe of two packages, and a registry in memory that has all that its build keeps on the second floor."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mkroot.remote.seal import sealed_manifest
from tests.testarchive import Archive, File
from tests.unit.commands import Done, Program
from tests.unit.registryserver import MemoryRegistry, memory_registry

REPOSITORY = "team/store"
SECRET = bytes(range(32))
RECIPE = "r.yaml"
BIG = random.Random(8).randbytes(300_000)  # more than a record holds itself


class Fleet:
    """A folder with an archive and a recipe, and what the registry holds after one build of it."""

    def __init__(self, folder: Path, architectures: Sequence[str] = ("amd64",)) -> None:
        self.program = Program(folder)
        self.archive = Archive(folder / "archive", architectures=architectures)
        self.archive.add("base", "1.0", essential=True, files={"etc/base.conf": b"base\n"})
        self.archive.add("tool", "2.0-1", files={"usr/bin/tool": File(content=BIG, mode=0o755)})
        self.recipe(RECIPE)
        self.reference: dict[str, tuple[int, str]] = {}
        with self.registry() as registry:
            done = self.build(registry, "first")
            assert done.status == 0 and "warning" not in done.err, done.err
            self.full = copy.deepcopy((registry.blobs, registry.manifests))
        self.reference = tree(folder / "out-first")

    def recipe(self, name: str, **more: Any) -> None:
        settings = {"configure": "none", "outputs": ["tar.zst", "oci"], "packages": {"include": ["tool"]}} | more
        self.program.recipe(name, self.archive.recipe(**settings))

    @contextmanager
    def registry(self, *, full: bool = False) -> Iterator[MemoryRegistry]:
        """Run a registry, empty or with what the first build kept."""
        with memory_registry() as registry:
            if full:
                registry.blobs, registry.manifests = copy.deepcopy(self.full)
            yield registry

    def build(
        self, registry: MemoryRegistry | str, name: str, *more: str, recipe: str = RECIPE, **environ: str
    ) -> Done:
        """Build into `out-NAME` with a store of that name, and have nothing left over in it."""
        host = registry if isinstance(registry, str) else registry.host
        store = self.program.folder / f"store-{name}"
        given = {
            "MKROOT_STORE": str(store),
            "MKROOT_STORE_REMOTE": f"{host}/{REPOSITORY}",
            "MKROOT_STORE_KEY": SECRET.hex(),
        }
        done = self.program("build", recipe, "-o", f"out-{name}", "--no-lock", *more, **given | environ)
        assert "Traceback" not in done.err, done.err
        assert not list((store / "tmp").iterdir()), "unfinished work is left over"
        assert SECRET.hex() not in done.err + done.out
        return done

    def same(self, name: str) -> bool:
        """Whether a build has the bytes of the first one."""
        return tree(self.program.folder / f"out-{name}") == self.reference


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder: its mode and its content's digest."""
    return {
        str(p.relative_to(folder)): (
            p.stat().st_mode,
            hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "",
        )
        for p in sorted(folder.rglob("*"))
    }


def tags(registry: MemoryRegistry, kind: str) -> list[str]:
    """The tags of a kind of entries."""
    return sorted(name for _, name in registry.manifests if name.startswith(f"{kind}-"))


def manifest_of(registry: MemoryRegistry, tag: str) -> Any:
    return json.loads(registry.manifests[REPOSITORY, tag][1])


def put(registry: MemoryRegistry, tag: str, data: bytes) -> None:
    kind, _ = registry.manifests[REPOSITORY, tag]
    registry.manifests[REPOSITORY, tag] = kind, data


def resealed(registry: MemoryRegistry, tag: str, secret: bytes, blobs: list[bytes], **changed: Any) -> None:
    """Put an entry of these blobs, sealed with a secret."""
    from mkroot.oci.model import Descriptor
    from tests.unit.registryserver import digest_of

    kind, _, key = tag.partition("-")
    media = manifest_of(registry, tag)["layers"][0]["mediaType"]
    found = []
    for data in blobs:
        registry.blobs[REPOSITORY][digest_of(data)] = data
        found.append(Descriptor(media_type=media, digest=digest_of(data), size=len(data)))
    document = sealed_manifest(secret, changed.get("kind", kind), changed.get("key", key), found)
    put(registry, tag, document.data)


def big_blob(registry: MemoryRegistry, tag: str) -> str:
    """The digest of the biggest blob of an entry."""
    found: str = max(manifest_of(registry, tag)["layers"], key=lambda layer: layer["size"])["digest"]
    return found
