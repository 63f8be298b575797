"""Artifacts that refer to an image, such as its bill of materials (distribution-spec, "Listing Referrers").

In the store an artifact is a folder of the kind `referrers`, its key `SUBJECT.MANIFEST` in hexadecimal digits; in it
the manifest and each blob under its digest. It is not in the image layout, for it is no image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from mkroot.errors import ImageError, StoreError
from mkroot.oci.layout import as_written
from mkroot.oci.model import (
    DOCUMENT_LIMIT,
    INDEX,
    INDEXES,
    MANIFEST,
    Descriptor,
    Index,
    IndexWritten,
    Manifest,
    decode_index,
    decode_manifest,
    encode,
)
from mkroot.oci.registry.download import download
from mkroot.oci.registry.refusal import refused
from mkroot.oci.registry.repository import Document, Repository
from mkroot.oci.registry.upload import upload
from mkroot.store.store import Store

KIND = "referrers"
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"  # image-spec, manifest.md, "Guidance for an Empty Descriptor"
TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"
LIMIT = 64 << 20  # bytes of artifacts of an image that a pull takes along
MANY = 64  # artifacts of an image that a pull takes along


class Artifact(Struct, frozen=True, kw_only=True):
    """An artifact with its bytes. subject: the manifest's digest that it refers to. blobs: by digest."""

    subject: str
    kind: str
    manifest: Document
    blobs: Mapping[str, bytes]


class Attached(Struct, frozen=True, kw_only=True):
    """An artifact in the store. kind: its artifact type. folder: where its blobs lie, by their hexadecimal digits."""

    digest: str
    kind: str
    manifest: Manifest
    folder: Path


class _Written(Struct, frozen=True, kw_only=True, rename="camel"):
    """An artifact's manifest as mkroot writes it."""

    schema_version: int = 2
    media_type: str = MANIFEST
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor
    annotations: dict[str, str] | UnsetType = UNSET


def make_artifact(subject: Descriptor, kind: str, title: str, data: bytes, created: str = "") -> Artifact:
    """Return an artifact of one file. kind: the file's media type. created: RFC 3339, of the image."""
    config = _descriptor(EMPTY, EMPTY_TYPE)
    layer = Descriptor(media_type=kind, digest=_digest(data), size=len(data), annotations={TITLE: title})
    manifest = encode(
        _Written(
            artifact_type=kind,
            config=config,
            layers=(layer,),
            subject=Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size),
            annotations={CREATED: created} if created else UNSET,
        )
    )
    document = Document(descriptor=_descriptor(manifest, MANIFEST), data=manifest)
    blobs = {config.digest: EMPTY, layer.digest: data}
    return Artifact(subject=subject.digest, kind=kind, manifest=document, blobs=blobs)


# In the store


def keep(store: Store, artifact: Artifact) -> Attached:
    """Keep an artifact; raises StoreError."""
    path = store.path(KIND, f"{_hex(artifact.subject)}.{artifact.manifest.descriptor.hex}")
    try:
        if not path.exists():
            with store.writing(KIND, path.name) as aside:
                aside.mkdir()
                (aside / "manifest.json").write_bytes(artifact.manifest.data)
                for digest, data in artifact.blobs.items():
                    (aside / _hex(digest)).write_bytes(data)
    except OSError as e:
        raise StoreError(f"an artifact cannot be kept: {e.strerror}", where=str(path)) from e
    return _read(path)


def attached(store: Store, digest: str) -> list[Attached]:
    """Return the artifacts that the store has of a manifest, sorted by kind; raises StoreError."""
    folder = store.path(KIND, _hex(digest)).parent
    try:
        found = [_read(folder / n) for n in os.listdir(folder) if n.startswith(_hex(digest) + ".")]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda a: (a.kind, a.digest))


def _read(path: Path) -> Attached:
    try:
        data = (path / "manifest.json").read_bytes()
        manifest = decode_manifest(data, str(path))
    except (OSError, ImageError) as e:
        raise StoreError(
            f"a damaged artifact: {e}", where=str(path), hint="remove this folder, and pull again"
        ) from None
    return Attached(digest=_digest(data), kind=_kind(manifest), manifest=manifest, folder=path)


# At a registry


def attach(store: Store, repository: Repository, artifact: Artifact) -> str:
    """Keep an artifact, store it in a repository, list it there, return its digest; raises ImageError, StoreError."""
    kept = keep(store, artifact)
    for blob in (kept.manifest.config, *kept.manifest.layers):
        upload(repository, blob, kept.folder / blob.hex, [], lambda _: None)
    answer = repository.put(artifact.manifest, kept.digest)
    if "oci-subject" not in {name.lower() for name in answer}:  # the registry keeps no list by itself
        _list_by_tag(repository, artifact)
    return kept.digest


def fallback_tag(digest: str) -> str:
    """Return the tag under which clients keep the list (distribution-spec, "Referrers Tag Schema")."""
    return digest.replace(":", "-", 1)


def _list_by_tag(repository: Repository, artifact: Artifact) -> None:
    """Add an artifact to the list that clients keep. Two who do so at once may lose one: the specification's race."""
    tag = fallback_tag(artifact.subject)
    before = repository.find(tag)
    rows = list(decode_index(before.data, repository.name).manifests) if before else []
    if any(row.digest == artifact.manifest.descriptor.digest for row in rows):
        return
    manifest = decode_manifest(artifact.manifest.data, repository.name)
    one = artifact.manifest.descriptor
    rows.append(
        Descriptor(
            media_type=one.media_type,
            digest=one.digest,
            size=one.size,
            artifact_type=artifact.kind,
            annotations=manifest.annotations,
        )
    )
    data = encode(IndexWritten(manifests=tuple(_row(row) for row in rows)))
    repository.put(Document(descriptor=_descriptor(data, INDEX), data=data), tag)


def _row(descriptor: Descriptor) -> dict[str, Any]:
    return as_written(descriptor)


def listed(repository: Repository, digest: str) -> list[Descriptor]:
    """Return what refers to a manifest, as the registry or the tag tells it; raises ImageError."""
    with repository.request("GET", f"referrers/{digest}", headers={"Accept": INDEX}, limit=DOCUMENT_LIMIT) as reply:
        kind = reply.header("Content-Type").partition(";")[0].strip()
        if reply.status == 200 and kind == INDEX:
            data = reply.read(DOCUMENT_LIMIT)
            return list(_index(data, repository.name).manifests)
        if reply.status not in (200, 400, 404, 405, 406):
            raise refused(reply, "what refers to the image cannot be listed", repository.name)
    found = repository.find(fallback_tag(digest))
    if found is None or found.descriptor.media_type not in INDEXES:
        return []
    return list(_index(found.data, repository.name).manifests)


def _index(data: bytes, where: str) -> Index:
    if len(data) > DOCUMENT_LIMIT:
        raise ImageError(f"the registry lists more than {DOCUMENT_LIMIT} bytes of artifacts", where=where)
    return decode_index(data, where)


def fetch(store: Store, repository: Repository, subject: str, folder: Path) -> Iterable[Artifact]:
    """Yield the artifacts that refer to a manifest and that the store has not, checked; what is too big is passed over.

    folder: for files that are aside. Raises ImageError, OSError.
    """
    known = {one.digest for one in attached(store, subject)}
    left = LIMIT
    for row in listed(repository, subject)[:MANY]:
        if row.digest in known:
            continue
        document = repository.find(row.digest, row.size)
        if document is None or document.descriptor.media_type != MANIFEST:
            continue
        manifest = decode_manifest(document.data, f"{repository.name}@{row.digest}")
        blobs = {d.digest: d for d in (manifest.config, *manifest.layers)}
        size = sum(d.size for d in blobs.values())
        if manifest.subject is None or manifest.subject.digest != subject or size > left:
            continue
        left -= size
        data: dict[str, bytes] = {}
        for blob in blobs.values():
            aside = folder / f"artifact.{_hex(blob.digest)}"
            download(repository, blob, aside, lambda _: None)
            data[blob.digest] = aside.read_bytes()
            aside.unlink()
        yield Artifact(subject=subject, kind=_kind(manifest), manifest=document, blobs=data)


def _kind(manifest: Manifest) -> str:
    """Return an artifact's type: its own, else its config's (image-spec, manifest.md, `artifactType`)."""
    return manifest.artifact_type or manifest.config.media_type


def _descriptor(data: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=_digest(data), size=len(data))


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _hex(digest: str) -> str:
    from mkroot.digest import is_sha256

    name = digest.removeprefix("sha256:")
    if not is_sha256(name):
        raise ImageError(f"a digest that is not sha256: `{digest[:100]}`")
    return name
