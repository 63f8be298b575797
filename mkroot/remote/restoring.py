"""A build that the store's second floor has, written to the output folder: whole, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mkroot.artifact.files import copy_file, settle
from mkroot.artifact.folder import output_folder
from mkroot.decoding import from_msgpack
from mkroot.errors import ImageError
from mkroot.oci.model import Descriptor
from mkroot.oci.reference import Reference
from mkroot.oci.store import ImageStore
from mkroot.remote.crew import each
from mkroot.remote.entries import READ, Remote, trouble
from mkroot.remote.layers import RemoteLayers
from mkroot.remote.results import ROOTS, File, Result
from mkroot.remote.seal import RESULT, TYPES, EntryError, tag_of
from mkroot.store.seal import sealed
from mkroot.store.store import Store

READERS = 4  # blobs at once
RECORD = 64 << 20  # bytes of a build's record


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A build's record, and its blobs by digest."""

    result: Result
    blobs: dict[str, Descriptor]


def look(floor: RemoteLayers, store: Store, key: str) -> Found | None:
    """Return a build of the remote store, None where it has none that can be used, of which the user is told."""

    def work() -> Found | None:
        blobs = floor.remote.find(RESULT, key)
        if blobs is None:
            return None
        try:
            return _read(floor.remote, store, key, blobs)
        except ImageError as e:
            if not trouble(e):
                floor.damaged.add(key)
            raise

    return floor.remote.trying(READ, tag_of(RESULT, key), work)


def _read(remote: Remote, store: Store, key: str, blobs: Sequence[Descriptor]) -> Found:
    """Read a build's record; raises EntryError where it is none, ImageError."""
    where = tag_of(RESULT, key)
    if not blobs or blobs[0].media_type != TYPES[RESULT] or blobs[0].size > RECORD:
        raise EntryError("not the record of a build", where=where)
    with store.workshop("remote.") as folder:
        remote.fetch(blobs[0], folder / "record")
        data = (folder / "record").read_bytes()
    try:
        result = from_msgpack(data, Result)
    except msgspec.MsgspecError as e:
        raise EntryError(f"not the record of a build: {e}", where=where) from None
    known = {blob.digest: blob for blob in blobs}
    if fault := _fault(result, key, known):
        raise EntryError(f"not the record of this build: {fault}", where=where)
    return Found(result=result, blobs=known)


def _fault(result: Result, key: str, blobs: dict[str, Descriptor]) -> str:
    """Return what is wrong with a record, "" for nothing."""
    if result.key != key:
        return "it is of another one"
    files = [file for file in result.files if file.path]
    paths = [*result.folders, *(file.path for file in files)]
    for path in paths:
        if not path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            return f"the path {path[:200]!r}"
        if "/" in path and path.rpartition("/")[0] not in result.folders:
            return f"no folder for {path[:200]!r}"
    if len(set(paths)) != len(paths):
        return "a path that is there twice"
    for file in result.files:
        blob = blobs.get(file.blob)
        if file.blob and (blob is None or blob.size < file.size):
            return f"no blob for {file.path[:200]!r}"
        if not file.blob and len(file.data) != file.size:
            return f"the size of {file.path[:200]!r}"
    held = {file.sha256: file.size for file in result.files}
    if any(held.get(blob.hex) != blob.size for blob in result.blobs):
        return "an image without its blobs"
    return ""


def restore(
    floor: RemoteLayers,
    store: Store,
    found: Found,
    out: Path,
    name: str,
    architecture: str,
    siblings: list[Descriptor],
) -> bool:
    """Write a build to `out/NAME/ARCH`, and name its image as the build did.

    siblings: the images of the same build for other architectures. Return False, and write nothing, where the remote
    store does not give out all of it. Raises ArtifactError where the output cannot be written, StoreError.
    """
    result = found.result

    images = ImageStore(store)

    def work() -> bool:
        with output_folder(out, name, architecture) as folder, store.workshop("remote.") as aside:
            for path in result.folders:
                (folder / path).mkdir()
                (folder / path).chmod(0o755)
            places = _written(floor, found, folder, aside)
            for blob in result.blobs:
                if not images.layout().has(blob):
                    images.add_blob(blob, places[blob.hex])
        return True

    with images.using() if result.image is not None else contextlib.nullcontext():
        if not floor.remote.trying(READ, tag_of(RESULT, result.key), work):
            return False
        if result.image is not None:
            siblings.append(result.image)
            for tag in result.tags:
                images.tag_platforms(siblings, Reference.parse(tag))
    for root, data in result.roots:
        if not store.has(ROOTS, root):
            with store.writing(ROOTS, root, sync=False) as place:
                place.write_bytes(sealed(data))
    return True


def _written(floor: RemoteLayers, found: Found, folder: Path, aside: Path) -> dict[str, Path]:
    """Write all files, each content fetched once; return where each content is. Raises ImageError, OSError."""
    groups: dict[str, list[File]] = {}
    for file in found.result.files:
        groups.setdefault(file.sha256, []).append(file)
    places = {digest: _place(files[0], folder, aside) for digest, files in groups.items()}

    def one(files: list[File]) -> None:
        first, place = files[0], places[files[0].sha256]
        if first.blob:
            try:
                floor.remote.fetch(found.blobs[first.blob], place)
            except ImageError as e:
                if not trouble(e):
                    floor.damaged.add(found.result.key)
                raise
            with open(place, "r+b") as f:
                f.truncate(first.size)  # behind it may be what made it another blob
        else:
            place.write_bytes(first.data)
        place.chmod(first.mode)
        settle(place)
        for file in files[1:]:
            other = _place(file, folder, aside)
            if other != place:
                copy_file(place, other, file.mode)
                settle(other)

    each(groups.values(), one, READERS)
    return places


def _place(file: File, folder: Path, aside: Path) -> Path:
    return folder / file.path if file.path else aside / file.sha256
