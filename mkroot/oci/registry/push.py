"""Pushes an image, or an index with all its images: blobs first, several at once, what names them last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from msgspec import Struct

from mkroot.archive.parallel import each
from mkroot.oci.layout import Layout
from mkroot.oci.model import INDEXES, Descriptor, decode_index, decode_manifest
from mkroot.oci.reference import Reference
from mkroot.oci.registry.referrers import Artifact, attach
from mkroot.oci.registry.registry import Registry
from mkroot.oci.registry.repository import Document, Repository
from mkroot.oci.registry.seen import Seen
from mkroot.oci.registry.upload import MOUNTED, SENT, THERE, upload
from mkroot.oci.store import ImageStore
from mkroot.progress import Progress
from mkroot.store.store import Store

WORKERS = 4  # blobs at once
_SOURCES = 5  # repositories that a token is asked for beside the pushed one


class Pushed(Struct, frozen=True, kw_only=True):
    """What a push did. Bytes of blobs: sent, mounted from another repository, there already.

    digest: of the manifest or index. attached: digests of the artifacts that refer to it.
    """

    reference: str
    digest: str
    sent: int
    mounted: int
    there: int
    attached: tuple[str, ...]


def push(
    store: Store,
    descriptor: Descriptor,
    reference: Reference,
    registry: Registry,
    progress: Progress,
    artifacts: Iterable[Artifact] = (),
) -> Pushed:
    """Push what a descriptor of the image store names to a reference with a host.

    Manifests keep their bytes, and so their digests. Nothing that the registry has is sent. The tag is set when all
    else is there. Raises ImageError, StoreError.
    """
    images = ImageStore(store)
    layout = images.layout()
    with images.using():
        documents = list(_documents(layout, descriptor))
        blobs: dict[str, Descriptor] = {}
        for document in documents:
            if document.descriptor.media_type not in INDEXES:
                manifest = decode_manifest(document.data, document.descriptor.digest)
                blobs.update((d.digest, d) for d in (manifest.config, *manifest.layers))
        seen = Seen(store, registry.host)
        sources = {digest: seen.elsewhere(digest, reference.path)[:1] for digest in blobs}
        also = sorted({path for found in sources.values() for path in found})[:_SOURCES]
        repository = Repository(registry, reference.path, "pull,push", also)
        sums = {SENT: 0, MOUNTED: 0, THERE: 0}
        with progress.step("push", sum(d.size for d in blobs.values()), "B") as step:
            advance = counted(step)

            def one(blob: Descriptor) -> str:
                known = [path for path in sources[blob.digest] if path in also]
                return upload(repository, blob, layout.path(blob.digest), known, advance(blob.hex[:12]))

            jobs = sorted(blobs.values(), key=lambda d: (-d.size, d.digest))
            for blob, how in each(jobs, one, workers=WORKERS, stop=registry.stop):
                sums[how] += blob.size
            step.result = str(reference)
        _name(repository, documents, reference, nothing_new=not sums[SENT] + sums[MOUNTED])
        seen.remember(reference.path, blobs)
        attached = tuple(attach(store, repository, artifact) for artifact in artifacts)
    return Pushed(
        reference=str(reference),
        digest=descriptor.digest,
        sent=sums[SENT],
        mounted=sums[MOUNTED],
        there=sums[THERE],
        attached=attached,
    )


def _documents(layout: Layout, descriptor: Descriptor) -> Iterable[Document]:
    """Yield a manifest, or an index after all that it names."""
    data = layout.read(descriptor)
    if descriptor.media_type in INDEXES:
        for child in decode_index(data, descriptor.digest).manifests:
            yield from _documents(layout, child)
    yield Document(descriptor=descriptor, data=data)


def _name(repository: Repository, documents: list[Document], reference: Reference, *, nothing_new: bool) -> None:
    """Store the manifests, the one that the reference names last; where it is there already, there is nothing to do."""
    last = documents[-1]
    name = reference.tag or last.descriptor.digest
    if nothing_new and repository.digest(name) == last.descriptor.digest:
        return
    for document in documents[:-1]:
        repository.put(document, document.descriptor.digest)
    repository.put(last, name)


def counted(step: Progress) -> Callable[[str], Callable[[int], None]]:
    """Return what makes counters of bytes for a step, by a transfer's name, for use from several threads."""
    lock = threading.Lock()

    def named(name: str) -> Callable[[int], None]:
        def count(n: int) -> None:
            with lock:
                step.advance(n, name)

        return count

    return named
