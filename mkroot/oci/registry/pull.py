"""Pulls an image, or an index with all its images: everything checked aside, then given its names, the tag last."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from mkroot.archive.parallel import each
from mkroot.errors import ImageError, StoreError
from mkroot.oci.layout import Layout
from mkroot.oci.model import (
    DOCUMENT_LIMIT,
    INDEXES,
    PLATFORMS,
    Config,
    Descriptor,
    Manifest,
    Platform,
    decode_config,
    decode_index,
    decode_manifest,
)
from mkroot.oci.reference import Reference
from mkroot.oci.registry.download import download
from mkroot.oci.registry.push import WORKERS, counted
from mkroot.oci.registry.referrers import Artifact, attached, fetch, keep
from mkroot.oci.registry.refusal import RefusedError
from mkroot.oci.registry.registry import Registry
from mkroot.oci.registry.repository import Document, Repository
from mkroot.oci.registry.seen import Seen
from mkroot.oci.store import ImageStore
from mkroot.oci.validate import codec_of
from mkroot.progress import Progress
from mkroot.store.store import Store

CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
LARGEST = 64 << 30  # bytes of a layer; more is a lie, or nothing for a store that one user keeps
DOCUMENTS = 64 << 20  # bytes of manifests below an index that is pulled with all its images
UNKNOWN = "unknown"  # the architecture of what is no image, in an index
_DEPTH = 3  # an index in an index in an index


class Wanted(Struct, frozen=True, kw_only=True):
    """Which image of several. architecture, variant: in Go's words, the variant "" where any will do.

    every: the index is kept, with all its images.
    """

    architecture: str
    variant: str = ""
    every: bool = False


class Pulled(Struct, frozen=True, kw_only=True):
    """What a pull did. Bytes of blobs: received, there already. artifacts: how many the store has of it."""

    reference: str
    digest: str
    received: int
    there: int
    artifacts: int


class _Found(Struct, frozen=True, kw_only=True):
    """What is to be pulled. documents: an index after what it names. images: its manifests."""

    top: Descriptor
    documents: tuple[Document, ...]
    images: tuple[tuple[Descriptor, Manifest], ...]


def pull(store: Store, reference: Reference, registry: Registry, wanted: Wanted, progress: Progress) -> Pulled:
    """Pull an image into the image store and tag it; what is there already is not asked for.

    Nothing that failed a check stays, and no tag names an image that is not whole. Raises ImageError, StoreError.
    """
    images = ImageStore(store)
    layout = images.layout()
    repository = Repository(registry, reference.path)
    with images.using(), _folder(store) as folder:
        found = _find(repository, repository.manifest(reference), reference, wanted)
        configs = {manifest.config.digest: manifest.config for _, manifest in found.images}
        layers = {d.digest: d for _, manifest in found.images for d in manifest.layers}
        blobs = configs | layers
        lacking = {digest: d for digest, d in blobs.items() if not layout.has(d)}
        total, received = (sum(d.size for d in some.values()) for some in (blobs, lacking))
        with progress.step("pull", total, "B") as step:
            advance = counted(step)
            advance("")(total - received)

            def one(blob: Descriptor) -> None:
                download(repository, blob, folder / blob.hex, advance(blob.hex[:12]))

            def get(some: Mapping[str, Descriptor]) -> None:
                jobs = sorted((d for digest, d in some.items() if digest in lacking), key=lambda d: (-d.size, d.digest))
                for _ in each(jobs, one, workers=WORKERS, stop=registry.stop):
                    pass

            get(configs)  # they tell whether the image is one that is wanted
            platforms = _check(found, layout, folder, repository.name, wanted)
            get(layers)
            step.result, step.cached = str(reference), not lacking
        subjects = tuple(dict.fromkeys([*(d.digest for d, _ in found.images), found.top.digest]))
        artifacts = _artifacts(store, repository, subjects, folder, progress)
        _take(layout, folder, found.documents, lacking)
        top = _described(found, platforms)
        _tag(images, top, reference)
        for artifact in artifacts:
            keep(store, artifact)
        Seen(store, registry.host).remember(reference.path, blobs)
    return Pulled(
        reference=str(reference),
        digest=top.digest,
        received=received,
        there=total - received,
        artifacts=sum(len(attached(store, digest)) for digest in subjects),
    )


def _artifacts(
    store: Store, repository: Repository, subjects: tuple[str, ...], folder: Path, progress: Progress
) -> list[Artifact]:
    """Return what refers to the images and is not in the store; a registry that does not tell is warned of."""
    try:
        return [a for digest in subjects for a in fetch(store, repository, digest, folder)]
    except RefusedError as e:
        progress.warn(f"{repository.name}: pulled without what refers to the image: {e.what}")
        return []


@contextmanager
def _folder(store: Store) -> Iterator[Path]:
    """Yield a folder for what is not yet whole, gone afterwards; tells of a disk that is full."""
    try:
        # A transfer that is given up may still write; what it leaves, the store sweeps away.
        with tempfile.TemporaryDirectory(prefix="pull.", dir=store.root / "tmp", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            "the disk is full, nothing of the image was kept" if full else f"the store cannot be written: {e.strerror}",
            where=str(store.root),
            hint="make room, `mkroot cache prune` helps; or set MKROOT_STORE to another folder",
        ) from e


# What there is


def _find(
    repository: Repository,
    top: Document,
    reference: Reference,
    wanted: Wanted,
    depth: int = 0,
    platform: Platform | None = None,
) -> _Found:
    """Read the documents below a manifest or an index; of an index, the one that fits, unless every one is wanted.

    platform: what the index says that the manifest is for. What is for no platform is a statement about another
    image, as BuildKit writes it; its layers are no layers.
    """
    where = f"{repository.name}@{top.descriptor.digest}"
    if top.descriptor.media_type not in INDEXES:
        manifest = decode_manifest(top.data, where)
        _check_manifest(manifest, where, statement=platform is not None and platform.architecture == UNKNOWN)
        return _Found(top=top.descriptor, documents=(top,), images=((top.descriptor, manifest),))
    if depth >= _DEPTH:
        raise ImageError("the registry sends an index in an index, many times over", where=where)
    children = decode_index(top.data, where).manifests
    if not wanted.every:
        chosen = _choose(children, str(reference), wanted)
        return _find(repository, _child(repository, chosen), reference, wanted, depth + 1, chosen.platform)
    parts: list[_Found] = []
    size = 0
    for row in children:
        parts.append(_find(repository, _child(repository, row), reference, wanted, depth + 1, row.platform))
        size += sum(len(d.data) for d in parts[-1].documents)
        if size > DOCUMENTS:
            raise ImageError(f"the index names more than {DOCUMENTS >> 20} MiB of manifests", where=where)
    documents = {d.descriptor.digest: d for part in parts for d in part.documents}
    images = {d.digest: (d, m) for part in parts for d, m in part.images}
    return _Found(top=top.descriptor, documents=(*documents.values(), top), images=tuple(images.values()))


def _child(repository: Repository, row: Descriptor) -> Document:
    found = repository.find(row.digest, row.size)
    if found is None:
        raise ImageError(
            "the registry does not have a manifest that its index names", where=f"{repository.name}@{row.digest}"
        )
    return found


def _choose(rows: tuple[Descriptor, ...], reference: str, wanted: Wanted) -> Descriptor:
    fitting = [
        d
        for d in rows
        if d.platform and d.platform.os in ("", "linux") and d.platform.architecture == wanted.architecture
    ]
    exact = [d for d in fitting if d.platform and d.platform.variant in ("", wanted.variant)] if wanted.variant else []
    if found := exact or fitting:
        return found[0]
    there = sorted({_named(d.platform.architecture, d.platform.variant) for d in rows if d.platform} - {UNKNOWN})
    raise ImageError(
        f"the image `{reference}` is not there for {_named(wanted.architecture, wanted.variant)}",
        hint=f"there is: {', '.join(there)}; `--arch` names one, `--all-arch` takes all" if there else None,
    )


def _named(architecture: str, variant: str) -> str:
    """Return an architecture in Debian's words where it has one, as `--arch` takes it."""
    for name, known in PLATFORMS.items():
        if known == (architecture, variant) or (known[0] == architecture and not variant):
            return name
    return next((n for n, known in PLATFORMS.items() if known[0] == architecture), architecture)


def _check_manifest(manifest: Manifest, where: str, *, statement: bool) -> None:
    """Refuse what is no image, and sizes that nobody means; raises ImageError."""
    if manifest.config.media_type not in CONFIG_TYPES:
        kind = manifest.artifact_type or manifest.config.media_type
        raise ImageError(f"this is no image, but `{kind}`", where=where)
    if not 0 <= manifest.config.size <= DOCUMENT_LIMIT:
        raise ImageError(f"a config of {manifest.config.size} bytes", where=where)
    for layer in manifest.layers:
        if not statement:
            codec_of(layer.media_type)
        if not 0 <= layer.size <= LARGEST:
            raise ImageError(f"a layer of {layer.size} bytes", where=where)


def _check(found: _Found, layout: Layout, folder: Path, name: str, wanted: Wanted) -> dict[str, Platform]:
    """Compare manifests with their configs; return what each image is for, by digest. Raises ImageError."""
    platforms = {}
    for descriptor, manifest in found.images:
        where = f"{name}@{descriptor.digest}"
        config = _config(layout, folder, manifest.config, where)
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise ImageError(
                f"the config names {len(config.rootfs.diff_ids)} layers, the manifest {len(manifest.layers)}",
                where=where,
            )
        if not wanted.every and (config.os, config.architecture) != ("linux", wanted.architecture):
            is_for = _named(config.architecture, config.variant)
            is_for = is_for if config.os == "linux" else f"{config.os} on {is_for}"
            raise ImageError(
                f"the image is for {is_for}, not for {_named(wanted.architecture, wanted.variant)}",
                where=where,
                hint=f"`--arch {is_for}` pulls it all the same" if config.os == "linux" else None,
            )
        platforms[descriptor.digest] = Platform(config.architecture, config.os, config.variant)
    return platforms


def _config(layout: Layout, folder: Path, config: Descriptor, where: str) -> Config:
    aside = folder / config.hex
    data = aside.read_bytes() if aside.exists() else layout.read(config)
    return decode_config(data, where)


# What becomes of it


def _take(layout: Layout, folder: Path, documents: tuple[Document, ...], lacking: dict[str, Descriptor]) -> None:
    """Give everything its name in the layout: blobs, then manifests, an index after what it names; raises OSError."""
    for blob in lacking.values():
        os.rename(folder / blob.hex, layout.path(blob.digest))
    for document in documents:
        if layout.has(document.descriptor):
            continue
        aside = folder / document.descriptor.hex
        with open(aside, "xb", buffering=0) as f:
            f.write(document.data)
            os.fchmod(f.fileno(), 0o644)
            os.fsync(f.fileno())
        os.rename(aside, layout.path(document.descriptor.digest))


def _described(found: _Found, platforms: dict[str, Platform]) -> Descriptor:
    """Return what is tagged: the index, or the image with what it is for."""
    top, size = found.top, found.top.size
    platform = platforms.get(top.digest)
    return Descriptor(media_type=top.media_type, digest=top.digest, size=size, platform=platform)


def _tag(images: ImageStore, descriptor: Descriptor, reference: Reference) -> None:
    """Tag an image; one that was pulled by its digest alone stays without a name."""
    if reference.tag:
        images.tag(descriptor, reference)
    else:
        images.keep(descriptor)
