"""Finished builds that the store can give out again: what went in, and where in the store their files' bytes stand.

A build whose inputs are known needs no packages and no root: its files are read from where the store has their bytes,
hashed as they are copied, and compared with what they were. Whatever does not fit any more is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mkroot.artifact.files import settle
from mkroot.artifact.folder import output_folder
from mkroot.decoding import from_msgpack
from mkroot.oci.model import Descriptor
from mkroot.oci.reference import Reference
from mkroot.oci.store import FOLDER as IMAGES
from mkroot.oci.store import ImageStore
from mkroot.rootfs import linux
from mkroot.store.part import Part
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store

if TYPE_CHECKING:
    from mkroot.build import Built

KIND = "finished"
KINDS = ("tar.gz", "tar.zst", "oci")  # outputs that are joined from what the store has
_SMALL = 1 << 16  # bytes; a file up to this size stands in the record itself
_BLOCK = 1 << 22  # bytes read at a time


class File(msgspec.Struct, frozen=True, array_like=True):
    """A file below the output folder. sha256: of its content, which is that of the parts."""

    path: str
    mode: int
    sha256: str
    parts: tuple[Part, ...]


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A build's result, its artifacts' paths relative to the output folder.

    folders: below it, parents first. image: what the image store must have, with its blobs; None where the build fills
    it not. tags: full references. roots: keys of the records of what the root was made of.
    """

    key: str
    result: bytes
    folders: tuple[str, ...]
    files: tuple[File, ...]
    image: Descriptor | None
    blobs: tuple[Descriptor, ...]
    tags: tuple[str, ...]
    roots: tuple[str, ...]


class _Missed(Exception):
    """The store has not the bytes any more, or has others."""


def keep(
    store: Store,
    key: str,
    built: Built,
    folder: Path,
    *,
    parts: Mapping[str, Sequence[Part]],
    image: Descriptor | None,
    blobs: Sequence[Descriptor],
    tags: Sequence[str],
    roots: Sequence[str],
) -> None:
    """Keep a build under the key of its inputs, where all its bytes are in the store.

    folder: its outputs. parts: what the joined files, by name, were joined from. Raises StoreError, OSError.
    """
    if not all(a.kind in KINDS for a in built.artifacts):
        return
    known = {d.digest for d in blobs}
    digests = {Path(a.path).name: a.digest for a in built.artifacts}
    files, folders = [], []
    for at, names, found in os.walk(folder):
        names.sort()
        folders += [os.path.relpath(os.path.join(at, name), folder) for name in names]
        for name in sorted(found):
            path = Path(at, name)
            short = str(path.relative_to(folder))
            digest = digests.get(short) or (f"sha256:{name}" if path.parent.name == "sha256" else "")
            found_in = _parts(path, digest if digest in known else "", parts.get(short, ()))
            if found_in is None:
                return
            sha256 = digest.removeprefix("sha256:") or hashlib.sha256(path.read_bytes()).hexdigest()
            files.append(File(short, path.stat().st_mode & 0o7777, sha256, found_in))
    relative = tuple(msgspec.structs.replace(a, path=Path(a.path).name) for a in built.artifacts)
    record = Finished(
        key=key,
        result=msgspec.msgpack.encode(msgspec.structs.replace(built, artifacts=relative)),
        folders=tuple(folders),
        files=tuple(files),
        image=image,
        blobs=tuple(blobs),
        tags=tuple(tags),
        roots=tuple(roots),
    )
    store.path(KIND, key).unlink(missing_ok=True)
    with store.writing(KIND, key, sync=False) as aside:
        aside.write_bytes(sealed(msgspec.msgpack.encode(record)))


def _parts(path: Path, blob: str, parts: Sequence[Part]) -> tuple[Part, ...] | None:
    size = path.stat().st_size
    if size <= _SMALL:
        data = path.read_bytes()
        return (Part(data, "", len(data)),)
    if blob:
        return (Part(b"", f"{IMAGES}/blobs/sha256/{blob.removeprefix('sha256:')}", size),)
    return tuple(parts) if sum(part.size for part in parts) == size else None


def recall(store: Store, key: str) -> Finished | None:
    """Return the build of these inputs, if the store knows one; what it needs may be gone since."""
    try:
        record = from_msgpack(opened(store.path(KIND, key).read_bytes()), Finished)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return record if record.key == key and all(store.has("roots", name) for name in record.roots) else None


def restore(
    store: Store, record: Finished, out: Path, name: str, architecture: str, siblings: list[Descriptor]
) -> bool:
    """Write a kept build to `out/NAME/ARCH`, and name its image as the build did.

    siblings: the images of the same build for other architectures. Return False, and write nothing, where the store has
    not all of its bytes any more. Raises ArtifactError where the output cannot be written, StoreError, ImageError.
    """
    images = ImageStore(store)
    try:
        with images.using() if record.image is not None else contextlib.nullcontext():
            if record.image is not None and not all(map(images.layout().has, record.blobs)):
                return False
            with output_folder(out, name, architecture) as folder:
                for path in record.folders:
                    (folder / path).mkdir()
                    (folder / path).chmod(0o755)
                settling = []  # each file goes to the disk while the next is read and hashed
                for one in _grouped(record.files):
                    _write(store, one, folder)
                    settling.append(_Beside(partial(_settle, folder, one)))
                for each in settling:
                    each.wait()
            if record.image is not None:
                siblings.append(record.image)
                for tag in record.tags:
                    images.tag_platforms(siblings, Reference.parse(tag))
    except _Missed:
        return False
    return True


def _grouped(files: Sequence[File]) -> Iterator[list[File]]:
    """Yield the files of one content together: it is read once."""
    found: dict[str, list[File]] = {}
    for file in files:
        found.setdefault(file.sha256, []).append(file)
    yield from found.values()


def _settle(folder: Path, files: list[File]) -> None:
    for file in files:
        settle(folder / file.path)


class _Beside:
    """Work in a thread of its own; `concurrent.futures` takes longer to import than all of this takes."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as e:  # raised again by whoever waits
            self._error = e

    def wait(self) -> None:
        """Wait for the end; raises what the work raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def _write(store: Store, files: list[File], folder: Path) -> None:
    """Write files of one content; raises _Missed where the store has it not as it was, OSError."""
    whole = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        outs = []
        for file in files:
            out = stack.enter_context(open(folder / file.path, "xb", buffering=0))
            os.fchmod(out.fileno(), file.mode)
            outs.append(out)
        for data in _read(store, files[0].parts):
            hashing = _Beside(partial(whole.update, data))
            for out in outs:
                view = memoryview(data)
                while view:
                    view = view[out.write(view) :]
                linux.write_out(out.fileno())
            hashing.wait()
    if whole.hexdigest() != files[0].sha256:
        raise _Missed


def _read(store: Store, parts: Sequence[Part]) -> Iterator[bytes]:
    for part in parts:
        if not part.path:
            yield part.data
            continue
        left = part.size
        try:
            with open(store.root / part.path, "rb", buffering=0) as f:
                while left:
                    data = f.read(min(left, _BLOCK))
                    if not data:
                        raise _Missed
                    left -= len(data)
                    yield data
        except OSError as e:
            raise _Missed from e
