"""An OCI image layout: a folder of blobs by digest, and an index (image-spec, image-layout.md)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mkroot.digest import is_sha256
from mkroot.errors import ImageError
from mkroot.oci.model import DOCUMENT_LIMIT, LAYOUT, Descriptor, Index, IndexWritten, decode_index, encode
from mkroot.store.replaced import aside_of, replace

BLOBS = "blobs/sha256"
MARK = "oci-layout"
INDEX_FILE = "index.json"
_HINT = "if this is in the store, `mkroot cache verify` finds and mends it; else pull or make the image again"


class Layout:
    """Reads a layout, and writes one that nobody else writes.

    Blobs are checked against digest and size whenever a document is read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def create(cls, root: Path) -> Layout:
        """Make an empty layout at `root`, which does not exist yet; raises OSError."""
        (root / BLOBS).mkdir(parents=True)
        for folder in (root, root / "blobs", root / BLOBS):
            folder.chmod(0o755)
        _write(root / MARK, LAYOUT)
        return cls(root)

    @classmethod
    def open(cls, root: Path) -> Layout:
        """Open the layout at `root`; raises ImageError where there is none."""
        try:
            marker = json.loads((root / MARK).read_bytes())
            version = marker.get("imageLayoutVersion") if isinstance(marker, dict) else None
        except (OSError, ValueError, RecursionError):
            version = None
        if version != "1.0.0":
            raise ImageError("not an OCI image layout of version 1.0.0", where=str(root))
        return cls(root)

    def path(self, digest: str) -> Path:
        """Return where the blob is, or would be; raises ImageError for anything but sha256."""
        algorithm, _, name = digest.partition(":")
        if algorithm != "sha256" or not is_sha256(name):
            raise ImageError(f"a digest that is not sha256: `{digest[:100]}`", where=str(self.root))
        return self.root / BLOBS / name

    def has(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is there with its size; its content is not read."""
        try:
            return self.path(descriptor.digest).stat().st_size == descriptor.size
        except OSError:
            return False

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Write a blob, in one step, and return its descriptor; raises OSError."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        descriptor = Descriptor(media_type=media_type, digest=digest, size=len(data))
        if not self.has(descriptor):
            aside = self.root / f".blob.{os.urandom(8).hex()}"
            try:
                _write(aside, data)
                os.rename(aside, self.path(digest))
            finally:
                aside.unlink(missing_ok=True)
        return descriptor

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a document's bytes, checked against its descriptor; raises ImageError."""
        path = self.path(descriptor.digest)
        if descriptor.size > DOCUMENT_LIMIT:
            raise ImageError(f"a document of {descriptor.size} bytes", where=str(path))
        try:
            data = path.read_bytes()
        except OSError as e:
            raise ImageError(f"a blob of the image cannot be read: {e.strerror}", where=str(path)) from e
        if len(data) != descriptor.size or "sha256:" + hashlib.sha256(data).hexdigest() != descriptor.digest:
            raise ImageError("a damaged blob: it does not match its digest", where=str(path), hint=_HINT)
        return data

    def index(self) -> Index:
        """Return the layout's index; raises ImageError."""
        path = self.root / INDEX_FILE
        try:
            return decode_index(path.read_bytes(), str(path))
        except FileNotFoundError:
            return Index(schema_version=2, manifests=())
        except ImageError as e:
            raise ImageError(e.what, where=e.where, hint=e.hint or _HINT) from e
        except OSError as e:
            raise ImageError(f"the index cannot be read: {e.strerror}", where=str(path)) from e

    @property
    def cut_off(self) -> bool:
        """Whether a write of the index was; the next one clears up."""
        return aside_of(self.root / INDEX_FILE).exists()

    def write_index(self, manifests: Sequence[Descriptor], *, sync: bool = True) -> None:
        """Write the index, in one step where there is one already, with `sync` onto the disk; raises OSError."""
        index = self.root / INDEX_FILE
        replace(index, encode(IndexWritten(manifests=tuple(as_written(d) for d in manifests))), 0o644, sync=sync)


def as_written(descriptor: Descriptor) -> dict[str, object]:
    """Return a descriptor as an index writes it."""
    import msgspec

    found: dict[str, object] = msgspec.to_builtins(descriptor)
    if descriptor.platform:
        found["platform"] = descriptor.platform.to_dict()
    return found


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb", buffering=0) as f:
        os.fchmod(f.fileno(), 0o644)
        view = memoryview(data)
        while view:
            view = view[f.write(view) :]
