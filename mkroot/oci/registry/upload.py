"""Brings a blob into a repository: not at all where it is there, mounted where another has it, else in one PUT."""

from __future__ import annotations

import re
from pathlib import Path

from mkroot.errors import ImageError
from mkroot.oci.model import Descriptor
from mkroot.oci.registry.refusal import refused
from mkroot.oci.registry.registry import AGAIN, given_up, retry_after
from mkroot.oci.registry.repository import Repository
from mkroot.oci.registry.wire import Advance, BrokenError, Part, Reply

THERE, MOUNTED, SENT = "there", "mounted", "sent"
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_LOST = (404, 416)  # statuses of an upload that the registry has forgotten, or has got further or less far with


def upload(repository: Repository, blob: Descriptor, path: Path, sources: list[str], advance: Advance) -> str:
    """Bring a blob into a repository and say how: THERE, MOUNTED or SENT. Raises ImageError.

    path: its file, which is not hashed again; the registry checks it. sources: other repositories of the registry
    that may have it. advance: told of bytes that are done; where a transfer starts again, of less than none.
    """
    try:
        size = path.stat().st_size
    except OSError as e:
        raise ImageError(f"a blob of the image cannot be read: {e.strerror}", where=str(path)) from e
    if size != blob.size:
        raise ImageError(
            f"a blob of the image has {size} bytes, its descriptor says {blob.size}",
            where=str(path),
            hint="`mkroot cache verify` tells what else is damaged",
        )
    if repository.has(blob.digest):
        advance(size)
        return THERE
    for source in sources:
        location = _start(repository, f"?mount={blob.digest}&from={source}")
        if location is None:
            advance(size)
            return MOUNTED
        _send(repository, blob, path, location, advance)
        return SENT
    location = _start(repository, "")
    if location is not None:
        _send(repository, blob, path, location, advance)
    return SENT


def _start(repository: Repository, query: str) -> str | None:
    """Open an upload and return where it goes; None where the blob was mounted instead."""
    with repository.request("POST", f"blobs/uploads/{query}") as reply:
        if reply.status == 201 and query:
            return None
        if reply.status != 202:
            raise refused(reply, "the registry takes no upload", repository.name)
        return _location(repository, reply)


def _location(repository: Repository, reply: Reply, before: str = "") -> str:
    location = reply.header("Location")
    if not location and not before:
        raise ImageError("the registry does not say where the upload goes", where=repository.name)
    base = before or f"{repository.registry.base}/v2/{repository.path}/blobs/uploads/"
    return repository.registry.target(base, location) if location else before


class _Count:
    """Tells progress of bytes, and takes back those that did not arrive."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._told = 0

    def __call__(self, n: int) -> None:
        self._told += n
        self._advance(n)

    def stands(self, at: int) -> None:
        """So many bytes have arrived."""
        if at != self._told:
            self(at - self._told)


def _send(repository: Repository, blob: Descriptor, path: Path, location: str, advance: Advance) -> None:
    """Send a file: whole in one PUT; after a break from where the registry says it is, or from the start."""
    count = _Count(advance)
    at = furthest = failures = 0
    while True:
        wait, why = 0.0, ""
        try:
            if at and at < blob.size:
                location = _patch(repository, blob, path, location, at, count)
                at = blob.size
            with _put(repository, blob, path, location, at, count) as reply:
                if reply.status in (200, 201, 204):
                    count.stands(blob.size)
                    return
                if reply.status not in (*AGAIN, *_LOST):
                    raise _wrong(reply, repository, blob)
                wait, why = retry_after(reply), f"status {reply.status}"
        except BrokenError as e:
            why = str(e)
        except _LostError as e:
            wait, why = e.wait, str(e)
        location, at = _resumed(repository, location, blob.size)
        failures = 1 if at > furthest else failures + 1  # one that goes back and forth does not go on for ever
        furthest = max(at, furthest)
        if failures >= repository.registry.attempts:
            raise given_up(failures, why, f"{repository.name}@{blob.digest}")
        count.stands(at)
        repository.registry.pause(why, failures, wait)


class _LostError(Exception):
    """A chunk that the registry did not take, in a way that may pass."""

    def __init__(self, status: int, wait: float) -> None:
        super().__init__(f"status {status}")
        self.wait = wait


def _put(repository: Repository, blob: Descriptor, path: Path, location: str, at: int, count: _Count) -> Reply:
    """Finish the upload, with all the bytes where none has been sent yet."""
    address = f"{location}{'&' if '?' in location else '?'}digest={blob.digest}"
    part = None if at else Part(path=path, start=0, size=blob.size, advance=count)
    headers = {"Content-Type": "application/octet-stream"}
    return repository.request("PUT", address, headers=headers, body=part, patient=False)


def _patch(repository: Repository, blob: Descriptor, path: Path, location: str, at: int, count: _Count) -> str:
    """Send the bytes from `at` on; return where the upload is finished."""
    part = Part(path=path, start=at, size=blob.size - at, advance=count)
    headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{at}-{blob.size - 1}"}
    with repository.request("PATCH", location, headers=headers, body=part, patient=False) as reply:
        if reply.status in (*AGAIN, *_LOST):
            raise _LostError(reply.status, retry_after(reply))
        if reply.status not in (200, 202, 204):
            raise _wrong(reply, repository, blob)
        return _location(repository, reply, location)


def _resumed(repository: Repository, location: str, size: int) -> tuple[str, int]:
    """Ask how far an upload got; return where it goes on, and from which byte. A new one where nobody knows."""
    with repository.request("GET", location) as reply:
        found = _RANGE.fullmatch(reply.header("Range").strip())
        # `0-0` is one byte, or none: some registries cannot say that they have nothing.
        if reply.status in (200, 204) and found and 0 < int(found[1]) < size:
            return _location(repository, reply, location), int(found[1]) + 1
    fresh = _start(repository, "")
    assert fresh is not None
    return fresh, 0


def _wrong(reply: Reply, repository: Repository, blob: Descriptor) -> ImageError:
    error = refused(reply, f"the blob {blob.digest} cannot be stored", repository.name)
    if "DIGEST_INVALID" in error.codes:
        error.hint = "the blob in the store may be damaged: `mkroot cache verify`"
    if "SIZE_INVALID" in error.codes or error.status == 413:
        error.hint = "the registry, or a proxy before it, takes no blob of this size"
    return error
