"""Whole builds on a store's second floor, by the key of their inputs: each file of the output folder, and the image."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mkroot.digest import oci, sha256_file
from mkroot.errors import StoreError
from mkroot.oci.model import Descriptor
from mkroot.oci.registry.seen import Seen
from mkroot.oci.store import ImageStore
from mkroot.remote.entries import WRITE, told
from mkroot.remote.machine import machine_id
from mkroot.remote.seal import BYTES, RESULT, TYPES, tag_of
from mkroot.store.frame import open_frame
from mkroot.store.layer import LayerStore, frame_key
from mkroot.store.seal import opened
from mkroot.store.store import Store

if TYPE_CHECKING:
    from mkroot.remote.layers import RemoteLayers

ROOTS = "roots"  # the kind of the records of what roots were made of (mkroot.records)
SMALL = 1 << 16  # bytes; a file up to this size stands in the record itself
SALT = 16  # bytes behind a file's content that make another blob of it
_SUM = slice(-48, -16)  # of a frame: the digest of its table, which has each piece's


class File(msgspec.Struct, frozen=True, array_like=True):
    """A file below the output folder, or with no path a blob that only the image store needs.

    data: its content; or blob: the digest of the blob that begins with it.
    """

    path: str
    mode: int
    sha256: str
    size: int
    blob: str = ""
    data: bytes = b""


class Step(msgspec.Struct, frozen=True, array_like=True):
    """A layer of the build's root, in order. record, frame: digests, by which two builds can be compared."""

    name: str
    key: str
    record: str
    frame: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A build. builder: the name of the store that made it. built: `mkroot.build.Built` as msgpack, paths relative.

    folders: below the output folder, parents first. files: all of them, and blobs of the image that are none. image:
    what the image store must have, with its blobs; None where the build fills it not. roots: records of what the root
    was made of, by their keys. steps: its layers. salt: what makes another blob of a record that a registry has spoilt.
    """

    key: str
    builder: str
    built: bytes
    folders: tuple[str, ...]
    files: tuple[File, ...]
    image: Descriptor | None
    blobs: tuple[Descriptor, ...]
    tags: tuple[str, ...]
    roots: tuple[tuple[str, bytes], ...]
    steps: tuple[Step, ...]
    salt: bytes = b""


def keep(
    floor: RemoteLayers,
    store: Store,
    key: str,
    built: bytes,
    folder: Path,
    *,
    image: Descriptor | None,
    blobs: Sequence[Descriptor],
    tags: Sequence[str],
    roots: Sequence[str],
) -> None:
    """Keep a build under the key of its inputs, unless it is there already.

    built: as a Result has it. folder: its outputs; one that has more than files and folders is not kept. Raises
    StoreError where it must be kept and cannot be, else the user is told.
    """
    remote = floor.remote
    if not _plain(folder):
        return

    def work() -> None:
        damaged = key in floor.damaged
        if not damaged and remote.has(RESULT, key):
            return
        with store.workshop("remote.") as aside:
            own = dict(_files(folder, aside if damaged else None))
            known = {file.sha256 for file in own}
            own |= dict(_image_files(ImageStore(store), [b for b in blobs if b.hex not in known]))
            record = Result(
                key=key,
                builder=machine_id(store),
                built=built,
                folders=tuple(_folders(folder)),
                files=tuple(own),
                image=image,
                blobs=tuple(blobs),
                tags=tuple(tags),
                roots=tuple(_records(store, roots)),
                steps=_known_steps(store, roots),
                salt=os.urandom(SALT) if damaged else b"",
            )
            data = msgspec.msgpack.encode(record)
            (aside / "record").write_bytes(data)
            first = Descriptor(media_type=TYPES[RESULT], digest=oci(hashlib.sha256(data).hexdigest()), size=len(data))
            parts = {file.blob: (_described(file, path), path) for file, path in own.items() if file.blob}
            seen = Seen(store, remote.settings.host)
            sources = {digest: seen.elsewhere(digest, remote.settings.path)[:1] for digest in parts}
            remote.put(RESULT, key, [*parts.values(), (first, aside / "record")][::-1], sources)
            seen.remember(remote.settings.path, parts)
        floor.damaged.discard(key)

    try:
        remote.trying(WRITE, tag_of(RESULT, key), work, must=remote.settings.strict)
    except (StoreError, OSError) as e:
        if remote.settings.strict:
            raise
        why = told(e) if isinstance(e, StoreError) else str(e)
        remote.tell(f"the build is not kept in the remote store {remote.name}: {why}")


def _plain(folder: Path) -> bool:
    """Tell whether there are files and folders alone below a folder."""
    for at, names, found in os.walk(folder):
        if any(os.path.islink(os.path.join(at, name)) for name in names):
            return False
        if not all(stat.S_ISREG(os.lstat(os.path.join(at, name)).st_mode) for name in found):
            return False
    return True


def _described(file: File, path: Path) -> Descriptor:
    return Descriptor(media_type=BYTES, digest=file.blob, size=path.stat().st_size)


def _folders(folder: Path) -> Iterator[str]:
    for at, names, _ in os.walk(folder):
        names.sort()
        yield from (os.path.relpath(os.path.join(at, name), folder) for name in names)


def _files(folder: Path, aside: Path | None) -> Iterator[tuple[File, Path]]:
    """Yield every file below a folder with where its blob's bytes are. aside: where other blobs than usual are made."""
    for at, names, found in os.walk(folder):
        names.sort()
        for name in sorted(found):
            path = Path(at, name)
            short = str(path.relative_to(folder))
            mode, size = path.stat().st_mode & 0o777, path.stat().st_size
            if size <= SMALL:
                data = path.read_bytes()
                yield File(short, mode, hashlib.sha256(data).hexdigest(), len(data), data=data), path
                continue
            digest = sha256_file(path)
            blob, place = digest, path
            if aside is not None:
                place = aside / digest
                if not place.exists():
                    _salted(path, place)
                blob = sha256_file(place)
            yield File(short, mode, digest, size, oci(blob)), place


def _salted(path: Path, place: Path) -> None:
    """Copy a file with something behind it, so that a registry takes it where it has spoilt the blob that it had."""
    from mkroot.artifact.files import copy_file

    copy_file(path, place)
    with open(place, "ab") as f:
        f.write(os.urandom(SALT))


def _image_files(images: ImageStore, blobs: Iterable[Descriptor]) -> Iterator[tuple[File, Path]]:
    for blob in blobs:
        yield File("", 0o644, blob.hex, blob.size, blob.digest), images.layout().path(blob.digest)


def _records(store: Store, roots: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for name in roots:
        with contextlib.suppress(OSError, ValueError):  # one that is damaged explains nothing here either
            yield name, opened(store.path(ROOTS, name).read_bytes())


def _known_steps(store: Store, roots: Sequence[str]) -> tuple[Step, ...]:
    try:
        return tuple(steps_of(store, roots))
    except StoreError:
        return ()


def steps_of(store: Store, roots: Sequence[str]) -> Iterator[Step]:
    """Yield the layers of a root; of one that the store has not any more, nothing can be told."""
    from mkroot.records import recall

    record = recall(store, roots[0]) if roots else None
    layers = LayerStore(store)
    for key in record.layers if record is not None else ():
        place, frame = store.path("layers", key), store.path("frames", frame_key(key, "zstd"))
        if not place.exists() or not frame.exists():
            return
        with open(open_frame(frame).path, "rb") as f:
            f.seek(-48, os.SEEK_END)
            end = f.read()
        yield Step(layers.load(key).name, key, place.read_bytes()[:32].hex(), end[_SUM].hex())
