"""Takes images from an archive or a layout into the image store; every digest is checked before anything is kept."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from mkroot.artifact.files import HashedFile
from mkroot.digest import is_sha256
from mkroot.errors import ImageError
from mkroot.oci.dockerarchive import docker_images, load_docker
from mkroot.oci.layerform import check_form
from mkroot.oci.layout import BLOBS, Layout
from mkroot.oci.members import archive_members
from mkroot.oci.model import (
    CONFIG,
    DOCUMENT_LIMIT,
    INDEXES,
    MANIFESTS,
    REF_NAME,
    Config,
    Descriptor,
    Manifest,
    decode_config,
    decode_index,
    decode_manifest,
)
from mkroot.oci.reference import Reference
from mkroot.oci.spool import plain_file
from mkroot.oci.store import ImageStore
from mkroot.oci.validate import codec_of
from mkroot.tar.stream import Corrupt

CONFIGS = (CONFIG, "application/vnd.docker.container.image.v1+json")
_DEPTH, _COUNT = 8, 1000  # indices in one another, and images of one index
CONTAINERD = "io.containerd.image.name"  # the whole name, where REF_NAME holds the tag alone, as Docker writes it


class Loaded(Struct, frozen=True, kw_only=True):
    """An image that was taken in. reference: its tag, "" where the archive names none. id: the config's digest."""

    reference: str
    digest: str
    id: str


def load(images: ImageStore, path: Path, shown: str = "") -> list[Loaded]:
    """Take every image of an archive (docker-archive or oci-archive, compressed or not) or of a layout's folder.

    shown: what to call it in messages, its path unless told otherwise.
    Tags are those of the archive; an image without one stays without. Raises ImageError where the archive is damaged,
    hostile or something else: nothing of it is kept then. StoreError where the store cannot be written.
    """
    where = shown or str(path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(images.using())
        if path.is_dir():
            found = _from_layout(images, _folder_blobs(path), _index_of(path), where)
        else:
            plain = stack.enter_context(plain_file(images.store, path))
            try:
                members = stack.enter_context(archive_members(plain))
            except (Corrupt, ValueError) as e:
                raise ImageError(f"not an archive of images: {e}", where=where) from None
            found = _from_archive(images, members, where)
    if not found:
        raise ImageError("there is no image in it", where=where)
    return found


def _from_archive(images: ImageStore, members: dict[str, memoryview], where: str) -> list[Loaded]:
    if "manifest.json" in members:  # Docker's newer archives are layouts besides, whose index has other names
        return [
            Loaded(reference=name, digest=descriptor.digest, id=image_id)
            for descriptor, image_id, names in load_docker(images, docker_images(members, where), where)
            for name in names or ("",)
        ]
    if "index.json" in members:

        def blob(hexadecimal: str) -> memoryview | None:
            return members.get(f"{BLOBS}/{hexadecimal}")

        return _from_layout(images, blob, bytes(members["index.json"]), where)
    hint = None
    if "repositories" in members:
        hint = "it was written by a Docker older than 1.10; load it there and save it with a newer one"
    raise ImageError("neither a docker-archive nor an oci-archive", where=where, hint=hint)


Blobs = Callable[[str], "memoryview | None"]
"""Returns a blob by its digest's hexadecimal digits, or None."""


def _folder_blobs(root: Path) -> Blobs:
    Layout.open(root)

    def blob(hexadecimal: str) -> memoryview | None:
        try:
            with _regular(root / BLOBS / hexadecimal) as f:
                return memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):
            return None

    return blob


def _index_of(root: Path) -> bytes:
    try:
        with _regular(root / "index.json") as f:
            return f.read(DOCUMENT_LIMIT)
    except OSError as e:
        raise ImageError(f"the layout's index cannot be read: {e.strerror}", where=str(root)) from None


def _regular(path: Path) -> BinaryIO:
    """Open a file that a folder from elsewhere holds; raises OSError, also for a pipe, which it does not wait for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no file")
    return os.fdopen(fd, "rb")


def _from_layout(images: ImageStore, blobs: Blobs, index: bytes, where: str) -> list[Loaded]:
    reader = _Reader(blobs, where)
    listed = [d for d in decode_index(index, where).manifests if d.media_type in (*INDEXES, *MANIFESTS)]
    rows = [row for d in listed if (row := reader.row(d)) is not None]
    names = [_name(d) for d in rows]
    for digest, descriptor in reader.needed.items():
        _keep(images, descriptor, reader.view(digest))
    found = []
    for descriptor, name in zip(rows, names, strict=True):
        if name is None:
            images.keep(descriptor)
        else:
            images.tag(descriptor, name)
        shown = "" if name is None else name.tagged
        found.append(Loaded(reference=shown, digest=descriptor.digest, id=reader.ids.get(descriptor.digest, "")))
    return found


def _name(descriptor: Descriptor) -> Reference | None:
    text = descriptor.annotations.get(CONTAINERD) or descriptor.annotations.get(REF_NAME)
    return Reference.parse(text) if text else None


class _Reader:
    """Reads a layout's images; what it has passed by is checked. needed: the blobs of all of them, by digest."""

    def __init__(self, blobs: Blobs, where: str) -> None:
        self._blobs, self._where = blobs, where
        self.needed: dict[str, Descriptor] = {}
        self._indices: dict[str, Descriptor | None] = {}  # those read, and what each comes to,
        self._extents: dict[str, tuple[int, int]] = {}  # … how deep each is, and how many images it names in all
        self._checked_layers: set[tuple[str, str]] = set()  # by digest and diff-id
        self.ids: dict[str, str] = {}

    def view(self, digest: str) -> memoryview:
        """Return a blob; raises ImageError where it is missing."""
        found = self._find(digest)
        if found is None:
            raise ImageError(f"the archive lacks the blob {digest[:100]}", where=self._where)
        return found

    def _find(self, digest: str) -> memoryview | None:
        algorithm, _, name = digest.partition(":")
        return self._blobs(name) if algorithm == "sha256" and is_sha256(name) else None

    def row(self, descriptor: Descriptor, depth: int = 0) -> Descriptor | None:
        """Read an image or an index and all below it; return what is to be tagged. Raises ImageError.

        None for what is no image, such as a bill of materials beside one: it is left out where no index needs it.
        """
        if descriptor.media_type not in INDEXES:
            return descriptor if self._manifest(descriptor) else None
        if descriptor.digest in self._indices:
            return _annotated(self._indices[descriptor.digest], descriptor)
        if depth > _DEPTH:
            raise ImageError(f"an index names images more than {_DEPTH} indices deep", where=self._where)
        index = decode_index(self._document(descriptor), descriptor.digest)
        there = [d for d in index.manifests if self._find(d.digest) is not None]
        if len(there) < len(index.manifests):  # Docker saves the index of an image of which it has one platform
            if len(there) != 1:
                raise ImageError(f"the archive lacks images of the index {descriptor.digest}", where=self._where)
            del self.needed[descriptor.digest]
            self._indices[descriptor.digest] = only = self.row(there[0], depth + 1)
            return _annotated(only, descriptor)
        for child in there:
            if self.row(child, depth + 1) is None:
                self._artifact(child)
        extents = [self._extents.get(d.digest, (0, 1)) for d in there]
        deep, many = 1 + max((e[0] for e in extents), default=0), sum(e[1] for e in extents)
        if deep > _DEPTH or many > _COUNT:  # what reads it later goes every way to every image
            raise ImageError(f"an index names more than {_COUNT} images, or {_DEPTH} indices deep", where=self._where)
        self._extents[descriptor.digest] = deep, many
        self._indices[descriptor.digest] = descriptor
        return descriptor

    def _artifact(self, descriptor: Descriptor) -> None:
        """Take what an index holds that is no image: its layers are documents."""
        manifest = decode_manifest(self._document(descriptor), descriptor.digest)
        for one in (manifest.config, *manifest.layers):
            self._check(one)

    def _manifest(self, descriptor: Descriptor) -> bool:
        """Read an image; return whether it is one."""
        if descriptor.platform is not None and descriptor.platform.architecture == "unknown":
            return False
        manifest: Manifest = decode_manifest(self._whole(descriptor), descriptor.digest)
        if manifest.artifact_type or manifest.config.media_type not in CONFIGS:
            return False
        self.needed[descriptor.digest] = descriptor
        config: Config = decode_config(self._document(manifest.config), manifest.config.digest)
        self.ids[descriptor.digest] = manifest.config.digest
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise ImageError(
                f"the config names {len(config.rootfs.diff_ids)} layers, the manifest {len(manifest.layers)}",
                where=descriptor.digest,
            )
        for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
            if (layer.digest, diff_id) not in self._checked_layers:
                self._checked_layers.add((layer.digest, diff_id))
                self._check(layer)
                check_form(self.view(layer.digest), codec_of(layer.media_type), diff_id, layer.digest)
        return True

    def _document(self, descriptor: Descriptor) -> bytes:
        data = self._whole(descriptor)
        self.needed[descriptor.digest] = descriptor
        return data

    def _whole(self, descriptor: Descriptor) -> bytes:
        """Return a document that is checked, and not noted as needed."""
        if descriptor.size > DOCUMENT_LIMIT:
            raise ImageError(f"a document of {descriptor.size} bytes", where=self._where)
        return bytes(self._checked(descriptor))

    def _check(self, descriptor: Descriptor) -> None:
        self._checked(descriptor)
        self.needed[descriptor.digest] = descriptor

    def _checked(self, descriptor: Descriptor) -> memoryview:
        view = self.view(descriptor.digest)
        if len(view) != descriptor.size:
            raise ImageError(
                f"a blob has {len(view)} bytes, its descriptor says {descriptor.size}", where=descriptor.digest
            )
        if "sha256:" + hashlib.sha256(view).hexdigest() != descriptor.digest:
            raise ImageError("a blob does not match its digest", where=descriptor.digest)
        return view


def _annotated(found: Descriptor | None, named: Descriptor) -> Descriptor | None:
    """Return what was found under the names of the descriptor that led to it."""
    return found and Descriptor(
        media_type=found.media_type,
        digest=found.digest,
        size=found.size,
        platform=found.platform,
        annotations=named.annotations,
    )


def _keep(images: ImageStore, descriptor: Descriptor, view: memoryview) -> None:
    if images.layout().has(descriptor):
        return
    with images.aside() as aside:
        with HashedFile(aside) as f:
            f.write(view)
        if f.digest != descriptor.digest:
            raise ImageError("a blob was changed while it was read", where=descriptor.digest)
        images.adopt(aside, descriptor)
