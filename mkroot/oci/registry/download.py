"""Brings a blob out of a repository: never more bytes than promised, resumed where it broke, checked on the way."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from mkroot.archive.pace import PROGRESS
from mkroot.errors import ImageError
from mkroot.oci.model import Descriptor
from mkroot.oci.registry.refusal import refused
from mkroot.oci.registry.registry import given_up
from mkroot.oci.registry.repository import Repository
from mkroot.oci.registry.wire import BLOCK, Advance, BrokenError, Reply

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def download(repository: Repository, blob: Descriptor, aside: Path, advance: Advance, *, sync: bool = True) -> None:
    """Write a blob to a new file, checked against size and digest, and on the disk with `sync`.

    advance: told of bytes that arrived; of less than none where the transfer starts again. Raises ImageError where
    the registry has it not, or sends something else; OSError where the file cannot be written.
    """
    where = f"{repository.name}@{blob.digest}"
    failures = 0
    with open(aside, "xb", buffering=0) as file:
        one = _Transfer(file, blob, where, advance)
        while True:
            before = one.at
            try:
                one.attempt(repository)
                break
            except BrokenError as e:
                failures = 1 if one.at - before >= PROGRESS else failures + 1
                if failures >= repository.registry.attempts:
                    raise given_up(failures, str(e), where) from None
                repository.registry.pause(str(e), failures)
        one.check(sync)


class _Transfer:
    """A file that fills up. at: the bytes that it has."""

    def __init__(self, file: BinaryIO, blob: Descriptor, where: str, advance: Advance) -> None:
        self.at = 0
        self._file = file
        self._blob = blob
        self._where = where
        self._advance = advance
        self._hash = hashlib.sha256()

    def attempt(self, repository: Repository) -> None:
        """Read on to the end; raises BrokenError where it breaks off."""
        headers = {"Range": f"bytes={self.at}-"} if self.at else {}
        if self.at and self.at == self._blob.size:
            return
        with repository.request("GET", f"blobs/{self._blob.digest}", headers=headers) as reply:
            if reply.status == 404:
                raise ImageError("the registry does not have a blob that its manifest names", where=self._where)
            if reply.status == 416:
                self._restart()
                raise BrokenError("the registry does not go on where the transfer broke off")
            if reply.status not in (200, 206):
                raise refused(reply, "the blob cannot be read", self._where)
            self._begin(reply)
            buffer = memoryview(bytearray(min(BLOCK, max(self._blob.size - self.at, 0) + 1)))
            while n := reply.into(buffer):
                self._take(buffer[:n])
                if repository.registry.stop.is_set():
                    raise ImageError("given up", where=self._where)

    def _begin(self, reply: Reply) -> None:
        """Find out where the answer starts, and whether its size is the one promised."""
        start = 0
        if reply.status == 206:
            found = _RANGE.fullmatch(reply.header("Content-Range").strip())
            if not found or int(found[1]) != self.at:
                raise ImageError(
                    f"the registry answers with a wrong range: {reply.header('Content-Range')[:80]!r}",
                    where=self._where,
                )
            start = self.at
        elif self.at:
            self._restart()
        if reply.length is not None and start + reply.length != self._blob.size:
            raise ImageError(
                f"the registry offers a blob of {start + reply.length} bytes where {self._blob.size} were promised",
                where=self._where,
            )

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self._advance(-self.at)
        self.at = 0

    def _take(self, data: memoryview) -> None:
        if self.at + len(data) > self._blob.size:
            raise ImageError(f"the registry sends more than the {self._blob.size} bytes promised", where=self._where)
        view = data
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(data)
        self.at += len(data)
        self._advance(len(data))

    def check(self, sync: bool) -> None:
        """Check size and digest, and have the file reach the disk with `sync`; raises ImageError, OSError."""
        import os

        if self.at != self._blob.size:
            raise ImageError(
                f"the registry sends {self.at} bytes where {self._blob.size} were promised", where=self._where
            )
        if (found := "sha256:" + self._hash.hexdigest()) != self._blob.digest:
            raise ImageError(f"the registry sends something else: its digest is {found}", where=self._where)
        os.fchmod(self._file.fileno(), 0o644)
        if sync:
            os.fsync(self._file.fileno())
