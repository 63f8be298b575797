"""The image store: one OCI image layout in the store, every blob once, tags in its index."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from mkroot.artifact.files import copy_file, settle
from mkroot.digest import oci, sha256
from mkroot.errors import ImageError, StoreError
from mkroot.oci.layout import BLOBS, MARK, Layout, as_written
from mkroot.oci.lookup import named_by, numbered, unknown
from mkroot.oci.model import (
    INDEX,
    INDEXES,
    LAYOUT,
    MANIFESTS,
    REF_NAME,
    Config,
    Descriptor,
    IndexWritten,
    Manifest,
    decode_config,
    decode_index,
    decode_kind,
    decode_manifest,
    encode,
    named,
)
from mkroot.oci.reference import Reference
from mkroot.store.replaced import replace
from mkroot.store.store import Store

FOLDER = "oci"


class Image(Struct, frozen=True, kw_only=True):
    """An image for one platform, read from a layout. manifest: its descriptor."""

    descriptor: Descriptor
    manifest: Manifest
    config: Config

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return self.descriptor.digest

    @property
    def id(self) -> str:
        """The config's digest, which Docker calls the image's id."""
        return self.manifest.config.digest


class Listed(Struct, frozen=True, kw_only=True):
    """A row of `mkroot images`. Sizes are bytes of compressed layers; `unique` are those that no other image has."""

    reference: str
    digest: str
    size: int
    unique: int
    shared: int
    created: str
    layers: int


class ImageStore:
    """The images of a store. Every change is one replacement of the index; readers need no lock."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.root = store.root / FOLDER

    def layout(self) -> Layout:
        """Return the layout, made empty where there is none yet; raises StoreError, ImageError."""
        try:
            if self.root.exists():
                with contextlib.suppress(ImageError):
                    return Layout.open(self.root)
            with self.store.lock("images", "index"):
                if not self.root.exists():
                    self._create()
                else:  # power failed, or a bit flipped; what else could be here, the store's own format tells
                    replace(self.root / MARK, LAYOUT, 0o644)
        except OSError as e:
            raise StoreError(f"the image store cannot be made: {e.strerror}", where=str(self.root)) from e
        return Layout.open(self.root)

    def _create(self) -> None:
        import tempfile

        with tempfile.TemporaryDirectory(dir=self.store.root / "tmp", prefix="images.") as folder:
            new = Path(folder) / "new"
            Layout.create(new)  # the first image brings the index: an empty one that is torn would look like a loss
            os.rename(new, self.root)

    # Reading

    def load(self, descriptor: Descriptor) -> Image:
        """Read an image's documents, checked against their digests; raises ImageError."""
        return load_image(self.layout(), descriptor)

    def find(self, reference: str, architecture: str | None = None) -> Descriptor:
        """Return the descriptor that a reference, a digest or the beginning of an image's id names.

        architecture: in Go's words, to choose from an image for several; default: the index itself is returned. Raises
        ImageError where there is none, or where a beginning has several.
        """
        layout = self.layout()
        manifests = layout.index().manifests
        found = named_by(reference, manifests) or numbered(layout, reference, manifests)
        if found is None:
            Reference.parse(reference)  # a name that is none is told as such
            raise unknown(reference, manifests)
        if found.media_type in INDEXES and architecture is not None:
            for child in decode_index(layout.read(found), reference).manifests:
                if child.platform and child.platform.architecture == architecture:
                    return child
            raise ImageError(f"the image `{reference}` is not there for `{architecture}`")
        return found

    def is_tag(self, text: str) -> bool:
        """Tell whether a text is the name of a tag that is there, rather than a digest or the beginning of an id."""
        try:
            wanted = Reference.parse(text).tagged
        except ImageError:
            return False
        return any(d.annotations.get(REF_NAME) == wanted for d in self.layout().index().manifests)

    def held(self, digest: str) -> Descriptor:
        """Return the descriptor of a manifest or index that may have no tag, such as a container's image.

        Raises ImageError where it is not in the store, or is something else.
        """
        path = self.layout().path(digest)
        try:
            data = path.read_bytes()
        except OSError:
            raise ImageError(f"the image {digest[:19]} is not in the store any more", where=str(path)) from None
        media_type = decode_kind(data, digest)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def references(self, digest: str) -> tuple[str, ...]:
        """Return the tags of an image, sorted."""
        found = {d.annotations.get(REF_NAME, "") for d in self.layout().index().manifests if d.digest == digest}
        return tuple(sorted(found - {""}))

    def images(self) -> list[Listed]:
        """Return every tagged image, in order of references; raises ImageError where a document is damaged."""
        layout = self.layout()
        manifests = layout.index().manifests
        layers: dict[str, dict[str, int]] = {}
        created: dict[str, str] = {}
        for descriptor in manifests:
            if descriptor.digest not in layers:
                layers[descriptor.digest], created[descriptor.digest] = _layers_of(layout, descriptor)
        owners: dict[str, int] = {}
        for sizes in layers.values():
            for digest in sizes:
                owners[digest] = owners.get(digest, 0) + 1
        rows = []
        for descriptor in manifests:
            sizes = layers[descriptor.digest]
            size = sum(sizes.values())
            unique = sum(n for digest, n in sizes.items() if owners[digest] == 1)
            rows.append(
                Listed(
                    reference=descriptor.annotations.get(REF_NAME, ""),
                    digest=descriptor.digest,
                    size=size,
                    unique=unique,
                    shared=size - unique,
                    created=created[descriptor.digest],
                    layers=len(sizes),
                )
            )
        return sorted(rows, key=lambda r: (r.reference == "", r.reference, r.digest))

    # Writing

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Hold off `collect` while blobs are there that no tag names yet."""
        with self.store.lock("images", "blobs", shared=True):
            yield

    def add_blobs(self, source: Layout, blobs: Iterable[Descriptor]) -> None:
        """Copy blobs that the store has not, each whole or not at all; raises ImageError, StoreError.

        The caller holds `using` until a tag names them.
        """
        layout = self.layout()
        for descriptor in blobs:
            if not layout.has(descriptor):
                self.add_blob(descriptor, source.path(descriptor.digest))

    def add_blob(self, descriptor: Descriptor, source: Path) -> None:
        """Copy one file into the store as a blob whose digest the caller knows; it is on disk when it has its name."""
        with self.aside() as aside:
            copy_file(source, aside)
            if aside.stat().st_size != descriptor.size:
                raise ImageError("a blob has not the size that its descriptor says", where=str(source))
            self.adopt(aside, descriptor)

    def adopt(self, aside: Path, descriptor: Descriptor) -> None:
        """Make a file that was written to `aside` a blob whose digest the caller knows; it is on disk by then.

        The caller holds `using` until a tag names it.
        """
        settle(aside)
        os.rename(aside, self.layout().path(descriptor.digest))

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Write a document as a blob that is on disk on return; raises StoreError. The caller holds `using`."""
        with self.aside() as aside:
            aside.write_bytes(data)
            aside.chmod(0o644)
            descriptor = Descriptor(media_type=media_type, digest=oci(sha256(data)), size=len(data))
            if not self.layout().has(descriptor):
                self.adopt(aside, descriptor)
        return descriptor

    @contextlib.contextmanager
    def aside(self) -> Iterator[Path]:
        """Yield the path of a new file on the store's file system, which goes unless it is adopted.

        An OSError of whoever writes to it becomes a StoreError.
        """
        import tempfile

        try:
            with tempfile.TemporaryDirectory(dir=self.store.root / "tmp", prefix="blob.") as folder:
                yield Path(folder) / "blob"
        except OSError as e:
            raise StoreError(
                f"the image store cannot be written: {e.strerror}",
                where=str(self.root),
                hint="make room, or set MKROOT_STORE to another folder",
            ) from e

    def tag(self, descriptor: Descriptor, reference: Reference) -> None:
        """Give an image a tag; another image that had it loses it. Raises ImageError where blobs are missing."""
        self._check_there(descriptor)
        with self._changing() as manifests:
            name = reference.tagged
            manifests[:] = [
                d
                for d in manifests
                if (d.digest, d.annotations.get(REF_NAME, "")) != (descriptor.digest, "")
                and d.annotations.get(REF_NAME) != name
            ]
            manifests.append(named(descriptor, name))

    def keep(self, descriptor: Descriptor) -> None:
        """Have an image stay without a tag, where it has none; raises ImageError where blobs are missing."""
        self._check_there(descriptor)
        with self._changing() as manifests:
            if all(d.digest != descriptor.digest for d in manifests):
                manifests.append(named(descriptor, ""))

    def tag_platforms(self, descriptors: list[Descriptor], reference: Reference) -> Descriptor:
        """Give images for several platforms one tag, through an index; return what is tagged. Raises ImageError."""
        if len(descriptors) == 1:
            self.tag(descriptors[0], reference)
            return descriptors[0]
        rows = sorted((named(d, "") for d in descriptors), key=lambda d: (d.platform or d.digest).__repr__())
        data = encode(IndexWritten(manifests=tuple(as_written(d) for d in rows)))
        descriptor = self.put(data, INDEX)
        self.tag(descriptor, reference)
        return descriptor

    def untag(self, reference: Reference) -> None:
        """Remove a tag; the image's blobs go with the next `collect`. Raises ImageError where there is none."""
        with self._changing() as manifests:
            kept = [d for d in manifests if d.annotations.get(REF_NAME) != reference.tagged]
            if len(kept) == len(manifests):
                raise unknown(str(reference), manifests)
            manifests[:] = kept

    def remove(self, digest: str) -> None:
        """Remove every tag of an image; its blobs go with the next `collect`."""
        self.drop(lambda d: d.digest == digest)

    def drop(self, goes: Callable[[Descriptor], bool]) -> None:
        """Remove those rows of the index for which `goes` answers true; the blobs go with the next `collect`."""
        with self._changing() as manifests:
            manifests[:] = [d for d in manifests if not goes(d)]

    def collect(self, keep: Iterable[Descriptor] = ()) -> int:
        """Remove the blobs that no tagged image has, and return the bytes won. Raises ImageError, StoreError.

        keep: images that stay without a tag, such as those of containers.
        """
        layout = self.layout()
        won = 0
        with self.store.lock("images", "blobs"), self.store.lock("images", "index"):
            needed: set[str] = set()
            for descriptor in (*layout.index().manifests, *keep):
                needed.update(reachable(layout, descriptor))
            try:
                for path in sorted((self.root / BLOBS).iterdir()):
                    if "sha256:" + path.name not in needed:
                        won += path.stat().st_size
                        path.unlink()
            except OSError as e:
                raise StoreError(f"a blob cannot be removed: {e.strerror}", where=str(self.root)) from e
        return won

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Descriptor]]:
        layout = self.layout()
        try:
            with self.store.lock("images", "index"):
                before = list(layout.index().manifests)
                manifests = list(before)
                yield manifests
                rows = sorted(manifests, key=lambda d: (d.annotations.get(REF_NAME, ""), d.digest))
                if rows != before or layout.cut_off:
                    layout.write_index(rows)
        except OSError as e:
            raise StoreError(f"the image store cannot be written: {e.strerror}", where=str(self.root)) from e

    def _check_there(self, descriptor: Descriptor) -> None:
        layout = self.layout()
        for digest, size in sorted(reachable(layout, descriptor).items()):
            path = layout.path(digest)
            if not path.exists() or path.stat().st_size != size:
                raise ImageError("the image store lacks a blob of the image", where=str(path))


def load_image(layout: Layout, descriptor: Descriptor) -> Image:
    """Read an image's documents from a layout, checked against their digests; raises ImageError."""
    if descriptor.media_type in INDEXES:
        raise ImageError(
            "this image is for several platforms", where=descriptor.digest, hint="name one: `--arch amd64`"
        )
    manifest = decode_manifest(layout.read(descriptor), descriptor.digest)
    config = decode_config(layout.read(manifest.config), manifest.config.digest)
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise ImageError(
            f"the config names {len(config.rootfs.diff_ids)} layers, the manifest {len(manifest.layers)}",
            where=descriptor.digest,
        )
    return Image(descriptor=descriptor, manifest=manifest, config=config)


def platforms_of(layout: Layout, descriptor: Descriptor) -> list[Descriptor]:
    """Return the images behind a descriptor: itself, or those of an index; raises ImageError.

    What an index holds besides, such as the attestations that BuildKit puts there, is for the platform `unknown`.
    """
    if descriptor.media_type not in INDEXES:
        unknown_platform = descriptor.platform is not None and descriptor.platform.architecture == "unknown"
        return [] if unknown_platform else [descriptor]
    return [
        c for d in decode_index(layout.read(descriptor), descriptor.digest).manifests for c in platforms_of(layout, d)
    ]


def _layers_of(layout: Layout, descriptor: Descriptor) -> tuple[dict[str, int], str]:
    sizes: dict[str, int] = {}
    created = ""
    for child in platforms_of(layout, descriptor):
        image = load_image(layout, child)
        sizes.update((d.digest, d.size) for d in image.manifest.layers)
        created = max(created, image.config.created)
    return sizes, created


def reachable(layout: Layout, descriptor: Descriptor) -> dict[str, int]:
    """Return the digest of every blob that a descriptor leads to, itself first, with its size; raises ImageError."""
    found = {descriptor.digest: descriptor.size}
    if descriptor.media_type in INDEXES:
        for child in decode_index(layout.read(descriptor), descriptor.digest).manifests:
            found.update(reachable(layout, child))
    elif descriptor.media_type in MANIFESTS:
        manifest = decode_manifest(layout.read(descriptor), descriptor.digest)
        found.update((d.digest, d.size) for d in (manifest.config, *manifest.layers))
    return found


def listed_json(rows: list[Listed]) -> bytes:
    """Return rows as the JSON that `mkroot images --json` prints."""
    return msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n"
