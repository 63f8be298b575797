"""Whole builds between a store and its second floor: fetched instead of made, and kept there when they are made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mkroot.errors import MkrootError

if TYPE_CHECKING:
    from mkroot.build import Built
    from mkroot.oci.model import Descriptor
    from mkroot.oci.outputs import Issued
    from mkroot.progress import Progress
    from mkroot.remote.layers import RemoteLayers
    from mkroot.store.layer import Layer
    from mkroot.store.store import Store


def fetched(
    store: Store, key: str, out: Path, name: str, architecture: str, progress: Progress, siblings: list[Descriptor]
) -> bytes | None:
    """Write the build of these inputs to the output folder, and return it encoded, its paths relative.

    None where the store has no second floor, or that has not all of it. siblings: as `making.make` takes them. Raises
    ArtifactError, StoreError.
    """
    from mkroot.remote import remote_of
    from mkroot.remote.restoring import look, restore

    floor = remote_of(store)
    found = look(floor, store, key) if floor is not None else None
    if floor is None or found is None:
        return None
    with progress.step("remote store") as step:
        step.cached = restore(floor, store, found, out, name, architecture, siblings)
        step.result = "a build that it has" if step.cached else "it has not all of this build"
        return found.result.built if step.cached else None


def known(store: Store, keys: Iterable[str], environ: Mapping[str, str], warn: Callable[[str], None]) -> set[str]:
    """Return those of the builds with these inputs that the store knows, or that the remote store says it has.

    Neither is a promise: a build that is asked for makes what is not all there. warn: called with a line where the
    remote store cannot be asked; one that is configured wrongly is told by whoever needs it.
    """
    from mkroot import finished
    from mkroot.remote import asking

    wanted = dict.fromkeys(keys)
    found = {key for key in wanted if finished.recall(store, key) is not None}
    with contextlib.suppress(MkrootError):
        found |= asking.known(store, environ, [key for key in wanted if key not in found], warn)
    return found


def share(store: Store, key: str, built: Built, folder: Path) -> bool:
    """Keep a build that the store knows on its second floor, too; return whether the store knows enough of it.

    folder: its outputs. Raises StoreError where it must be kept and cannot.
    """
    from mkroot import finished
    from mkroot.remote import remote_of

    floor, record = remote_of(store), finished.recall(store, key)
    if floor is None or record is None:
        return floor is None
    _keep(floor, store, key, built, folder, record.image, record.blobs, record.tags, record.roots)
    return True


def share_unchanged(store: Store, key: str, built: Built, folder: Path) -> bool:
    """Keep a build that stands there unchanged on the second floor, too; return False where it must be made for that.

    Where nobody waits for it there, the network is not asked: nothing changed. Raises StoreError.
    """
    from mkroot.remote import remote_of
    from mkroot.remote.entries import WRITE
    from mkroot.remote.seal import RESULT, tag_of

    floor = remote_of(store)
    if floor is None or not floor.remote.settings.strict or not _keepable(built):
        return True
    there = floor.remote.trying(WRITE, tag_of(RESULT, key), lambda: floor.remote.has(RESULT, key), must=True)
    return bool(there) or share(store, key, built, folder)


def share_made(
    store: Store, key: str, built: Built, made: Issued, layers: Iterable[Layer], digests: Sequence[str]
) -> None:
    """Keep a build that was just made on the store's second floor, and the layers of its root; raises as `share`.

    digests: under which the store has the records of what the root was made of.
    """
    from mkroot.remote import remote_of

    floor = remote_of(store)
    if floor is None:
        return
    floor.offer(layer.key for layer in layers)
    floor.begin()
    image, blobs = (made.image.manifest, made.image.blobs) if made.image else (None, ())
    roots = [digest.removeprefix("sha256:") for digest in digests]
    _keep(floor, store, key, built, made.folder, image, blobs, made.tags, roots)


def _keep(
    floor: RemoteLayers,
    store: Store,
    key: str,
    built: Built,
    folder: Path,
    image: Descriptor | None,
    blobs: Sequence[Descriptor],
    tags: Sequence[str],
    roots: Sequence[str],
) -> None:
    import msgspec

    from mkroot.remote.results import keep

    if not _keepable(built):
        return
    artifacts = tuple(msgspec.structs.replace(a, path=Path(a.path).name) for a in built.artifacts)
    data = msgspec.msgpack.encode(
        msgspec.structs.replace(built, artifacts=artifacts, steps=(), sources=None, unchanged=False)
    )
    keep(floor, store, key, data, folder, image=image, blobs=blobs, tags=tags, roots=roots)


def _keepable(built: Built) -> bool:
    """Tell whether a build can be kept whole.

    A tree with owners is more than files and modes; who wants one elsewhere makes it of the layers, which are there.
    """
    return all(artifact.kind != "dir" for artifact in built.artifacts)
