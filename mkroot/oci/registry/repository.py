"""One repository of a registry: its manifests, its tags, and whether it has a blob."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from mkroot.digest import is_sha256
from mkroot.errors import ImageError
from mkroot.oci.model import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    DOCUMENT_LIMIT,
    INDEX,
    INDEXES,
    MANIFEST,
    MANIFESTS,
    Descriptor,
)
from mkroot.oci.reference import Reference
from mkroot.oci.registry.refusal import RefusedError, refused
from mkroot.oci.registry.registry import Registry
from mkroot.oci.registry.wire import Body, Reply

ACCEPTED = (MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
PAGES = 1000  # of a tag listing
TAGS = 200_000  # of a repository
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')
_LIST_TAG = re.compile(r"sha256-[0-9a-f]{64}")  # what lists an image's artifacts, see `referrers`
_NEAR = 8  # tags that a message lists


class Document(Struct, frozen=True, kw_only=True):
    """A manifest or an index as a registry gave it, its digest checked."""

    descriptor: Descriptor
    data: bytes


class Repository:
    """A repository, to read or to write. Safe to use from several threads.

    actions: "pull", or "pull,push". also: repositories that blobs may be mounted from.
    """

    def __init__(self, registry: Registry, path: str, actions: str = "pull", also: Iterable[str] = ()) -> None:
        self.registry = registry
        self.path = path
        self.name = f"{registry.host}/{path}"
        scopes = [f"repository:{path}:{actions}", *(f"repository:{p}:pull" for p in sorted(set(also) - {path}))]
        self._scope = " ".join(scopes)

    def request(
        self,
        method: str,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        patient: bool = True,
        limit: int = 0,
    ) -> Reply:
        """Make a request as Registry.request does; an address that is not whole is below the repository."""
        if not address.startswith(("/", "http://", "https://")):
            address = f"/v2/{self.path}/{address}"
        return self.registry.request(
            method, address, path=self.path, scope=self._scope, headers=headers, body=body, patient=patient, limit=limit
        )

    # Manifests

    def digest(self, name: str) -> str:
        """Return the digest of the manifest with a tag, as the registry says it; "" where there is none."""
        with self.request("HEAD", f"manifests/{name}", headers={"Accept": ", ".join(ACCEPTED)}) as reply:
            return reply.header("Docker-Content-Digest") if reply.status == 200 else ""

    def manifest(self, reference: Reference) -> Document:
        """Return the manifest or index that a reference names, its digest checked where one is known.

        Raises ImageError; where the registry does not have it, with the tags that are near.
        """
        found = self.find(reference.digest or reference.tag)
        if found is None:
            raise self._missing(reference)
        return found

    def find(self, name: str, size: int | None = None) -> Document | None:
        """Return the manifest with a tag or a digest, None where the registry has none; raises ImageError.

        size: what a descriptor promises.
        """
        where = f"{self.name}@{name}" if ":" in name else f"{self.name}:{name}"
        if ":" in name and not (name.startswith("sha256:") and is_sha256(name[7:])):
            raise ImageError(f"a digest that is not sha256: `{name[:100]}`", where=self.name)
        headers = {"Accept": ", ".join(ACCEPTED)}
        with self.request("GET", f"manifests/{name}", headers=headers, limit=DOCUMENT_LIMIT) as reply:
            if reply.status == 404:
                return None
            if reply.status != 200:
                raise refused(reply, "the manifest cannot be read", where)
            data = reply.read(DOCUMENT_LIMIT)
            kind = reply.header("Content-Type").partition(";")[0].strip().lower()
            told = reply.header("Docker-Content-Digest")
        if len(data) > DOCUMENT_LIMIT:
            raise ImageError(f"the registry sends a manifest of more than {DOCUMENT_LIMIT} bytes", where=where)
        if size is not None and len(data) != size:
            raise ImageError(
                f"the registry sends a manifest of {len(data)} bytes where {size} were promised", where=where
            )
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        promised = name if ":" in name else told if told.startswith("sha256:") else digest
        if digest != promised:
            raise ImageError(f"the registry sends something else than {promised}: its digest is {digest}", where=where)
        return Document(
            descriptor=Descriptor(media_type=_kind(data, kind, where), digest=digest, size=len(data)), data=data
        )

    def put(self, document: Document, name: str) -> Mapping[str, str]:
        """Store a manifest under a tag or its digest; return the answer's headers. Raises ImageError."""
        where = f"{self.name}@{name}" if ":" in name else f"{self.name}:{name}"
        headers = {"Content-Type": document.descriptor.media_type}
        with self.request("PUT", f"manifests/{name}", headers=headers, body=document.data) as reply:
            if reply.status not in (200, 201, 202):
                raise refused(reply, "the manifest cannot be stored", where)
            told = reply.header("Docker-Content-Digest")
            if told and told != document.descriptor.digest:
                raise ImageError(f"the registry stored another manifest than it was sent: {told[:100]}", where=where)
            return dict(reply.headers.items())

    def has(self, digest: str) -> bool:
        """Tell whether the repository has a blob; raises ImageError."""
        with self.request("HEAD", f"blobs/{digest}") as reply:
            if reply.status in (200, 404):
                return reply.status == 200
            raise refused(reply, f"the blob {digest} cannot be asked for", self.name)

    # Tags

    def tags(self) -> list[str]:
        """Return every tag, sorted; raises ImageError, for a repository that is not there with status 404."""
        found: set[str] = set()
        address = "tags/list"
        for _ in range(PAGES):
            with self.request("GET", address, limit=DOCUMENT_LIMIT) as reply:
                if reply.status == 404:
                    raise refused(reply, "the registry has no such repository", self.name, "is its name spelt right?")
                if reply.status != 200:
                    raise refused(reply, "the tags cannot be listed", self.name)
                data = reply.read(DOCUMENT_LIMIT)
                link = _NEXT.search(reply.header("Link"))
            try:
                rows = json.loads(data)["tags"] or []
                found.update(t for t in rows if isinstance(t, str))
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ImageError(
                    "the registry answers with something else than a list of tags", where=self.name
                ) from None
            if len(found) > TAGS:
                raise ImageError(f"the registry lists more than {TAGS} tags", where=self.name)
            if not link:
                return sorted(found)
            # Only the query is taken: a registry behind a proxy may name itself wrongly.
            address = "tags/list?" + link[1].partition("?")[2]
        raise ImageError(f"the registry lists tags on more than {PAGES} pages", where=self.name)

    def _missing(self, reference: Reference) -> ImageError:
        """Say that there is no such manifest, and what there is."""
        try:
            tags = self.tags()
        except RefusedError as e:
            if e.status == 404:
                return ImageError(
                    f"the registry has no repository `{self.path}`",
                    where=self.registry.host,
                    hint="is its name spelt right? `mkroot push` makes it",
                )
            tags = []
        except ImageError:
            tags = []
        if reference.digest:
            return ImageError(f"the repository has no image {reference.digest}", where=self.name)
        tags = [t for t in tags if not _LIST_TAG.fullmatch(t)]
        near = difflib.get_close_matches(reference.tag, tags, _NEAR, 0.5) or tags[-_NEAR:]
        more = f" of {len(tags)}" if len(tags) > len(near) else ""
        hint = f"its tags{more}: " + ", ".join(f"`{t}`" for t in near) if near else "it has no tags"
        return ImageError(f"the repository has no tag `{reference.tag}`", where=self.name, hint=hint)


def _kind(data: bytes, told: str, where: str) -> str:
    """Return a manifest's media type, by what stands in it; the header decides where it does not say.

    A document that could be both a manifest and an index is refused (CVE-2021-41190), and one of neither kind.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ImageError("the registry sends a manifest that is not JSON", where=where)
    if found.get("schemaVersion") == 1:
        raise ImageError("this image is in Docker's schema 1, which is obsolete", where=where, hint="push it anew")
    kind = found.get("mediaType") or told
    is_index, is_manifest = "manifests" in found, "layers" in found or "config" in found
    if kind not in ACCEPTED or is_index != (kind in INDEXES) or is_manifest != (kind in MANIFESTS):
        raise ImageError(f"the registry sends neither a manifest nor an index, but `{str(kind)[:100]}`", where=where)
    return str(kind)
