"""The manifests of a remote store's entries, each sealed so that a registry that lies can only cost time.

An entry is an artifact (image-spec, manifest.md, "Guidelines for Artifact Usage") under a tag made of its kind and its
key. Its seal is an HMAC-SHA256 (RFC 2104) over kind, key and what the manifest says of each blob: whoever does not
have the secret can neither make an entry, nor give one out for another.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from msgspec import Struct

from mkroot.errors import ImageError
from mkroot.oci.model import MANIFEST, Descriptor, Manifest, decode_manifest, encode
from mkroot.oci.registry.repository import Document

FORM = "1"  # of entries; part of every seal
LAYER, RESULT, PROBE = "layer", "result", "probe"  # kinds of entries
TYPES = {kind: f"application/vnd.mkroot.{kind}.v{FORM}" for kind in (LAYER, RESULT, PROBE)}
BYTES = "application/octet-stream"
SEAL = "mkroot.seal"  # the annotation
EMPTY = b"{}"
NOTHING = Descriptor(
    media_type="application/vnd.oci.empty.v1+json",
    digest="sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    size=len(EMPTY),
)  # image-spec, manifest.md, "Guidance for an Empty Descriptor"


class EntryError(ImageError):
    """An entry is not what it must be: its seal, its form, or a blob is wrong."""


class _Written(Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int = 2
    media_type: str = MANIFEST
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str]


def tag_of(kind: str, key: str) -> str:
    """Return the tag of an entry."""
    return f"{kind}-{key}"


def sealed_manifest(secret: bytes, kind: str, key: str, blobs: Sequence[Descriptor]) -> Document:
    """Return the manifest of an entry."""
    data = encode(
        _Written(
            artifact_type=TYPES[kind],
            config=NOTHING,
            layers=tuple(blobs),
            annotations={SEAL: _seal(secret, kind, key, blobs)},
        )
    )
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return Document(descriptor=Descriptor(media_type=MANIFEST, digest=digest, size=len(data)), data=data)


def opened_manifest(secret: bytes, kind: str, key: str, data: bytes) -> tuple[Descriptor, ...]:
    """Return the blobs of an entry, whose digests and sizes are those that were sealed; raises EntryError."""
    where = tag_of(kind, key)
    try:
        manifest: Manifest = decode_manifest(data, where)
    except ImageError as e:
        raise EntryError(e.what, where=where) from None
    found = manifest.annotations.get(SEAL, "")
    expected = _seal(secret, kind, key, manifest.layers)
    if not hmac.compare_digest(found.encode("utf-8", "replace"), expected.encode()):
        raise EntryError(
            "its seal is not of this store's key" if found else "it has no seal",
            where=where,
            hint="have all machines the same key (`MKROOT_STORE_KEY`, or `store.key` beside the configuration); "
            "where they have, somebody else wrote this entry: remove its tag from the registry",
        )
    return manifest.layers


def _seal(secret: bytes, kind: str, key: str, blobs: Sequence[Descriptor]) -> str:
    text = encode(["mkroot store", FORM, kind, key, [[b.digest, b.size] for b in blobs]])
    return hmac.new(secret, text, hashlib.sha256).hexdigest()
