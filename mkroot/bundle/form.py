"""The form of a bundle: an uncompressed tar archive of which every byte follows from the index at its beginning.

    mkroot-bundle.json           the index
    mkroot-bundle.sha256         its digest, as sha256sum(1) has it
    files/…                      the recipe, what it extends, its lock and its local files, folders as they stand
    debs/SHA256.deb              packages, by digest
    blobs/sha256/SHA256          blobs of parent images

A reader knows each header before it reads it, so nothing in an archive is ever interpreted but the index. A locked
build reads no Release and no index, so a bundle has none.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from mkroot.decoding import from_json
from mkroot.digest import sha256
from mkroot.errors import ArtifactError
from mkroot.tar.entry import DIR, FILE, SYMLINK, Entry
from mkroot.tar.write import END, header, padding

VERSION = 1
INDEX = "mkroot-bundle.json"
SUMS = "mkroot-bundle.sha256"
MAGIC = INDEX.encode() + b"\0"  # what a bundle begins with
SUFFIX = ".mkroot.tar"
INDEX_LIMIT = 64 << 20  # bytes
FILES_LIMIT = 1 << 30  # bytes of all files; see mkroot.rootfs.inputs
Hex = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Meta(ge=0, lt=1 << 40)]
_PART = re.compile(r"[^/\0\n\ud800-\udfff]{1,255}")


class Blob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file by its digest: a package, or a blob of an image. Bytes."""

    sha256: Hex
    size: Size


class Member(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file ("f", with mode 0644 or 0755), folder ("d") or symbolic link ("l") of the recipe's."""

    path: str
    kind: Annotated[str, Meta(pattern="^[fdl]$")] = FILE
    executable: bool = False
    size: Size = 0
    sha256: Hex | Literal[""] = ""
    link: str = ""


class Held(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parent image: the descriptor of its manifest (image-spec, descriptor.md)."""

    media_type: str
    sha256: Hex
    size: Size


class Index(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle holds, in the order in which it stands there.

    mkroot: version of the one that wrote it. recipe: path of the recipe among the files; its lock stands beside it.
    variables: values that `-D` gave. architectures: those of the lock that can be built. mirror, security: what apt in
    the image is told, "" for nothing.
    """

    version: int = VERSION
    mkroot: str
    recipe: str
    variables: dict[str, str]
    architectures: tuple[str, ...]
    mirror: str
    security: str
    files: tuple[Member, ...]
    debs: tuple[Blob, ...]
    images: tuple[Held, ...]
    blobs: tuple[Blob, ...]

    @property
    def lock(self) -> str:
        """The path of the lock among the files."""
        return re.sub(r"\.[^./]*$", "", self.recipe) + ".lock"

    def encode(self) -> bytes:
        """Return the index's bytes; equal ones have equal bytes."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1) + b"\n"

    def contents(self) -> Iterator[tuple[str, Blob]]:
        """Yield the name in the archive of everything that has content, in order."""
        for member in self.files:
            if member.kind == FILE:
                yield f"files/{member.path}", Blob(sha256=member.sha256, size=member.size)
        for deb in self.debs:
            yield f"debs/{deb.sha256}.deb", deb
        for blob in self.blobs:
            yield f"blobs/sha256/{blob.sha256}", blob

    def size(self, own: int) -> int:
        """Return the size of the whole bundle. own: the index's bytes."""
        sizes = [(INDEX, own), (SUMS, len(sums(b""))), *((name, blob.size) for name, blob in self.contents())]
        return len(END) + sum(len(head(name, size)) + size + len(padding(size)) for name, size in sizes)


class _Version(Struct):
    version: int


def is_bundle(path: str) -> bool:
    """Tell whether a file begins as a bundle does; nothing but a regular file is opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as f:
            return stat.S_ISREG(os.fstat(fd).st_mode) and f.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def sums(data: bytes) -> bytes:
    """Return the line that tells the digest of the index `data`."""
    return f"{sha256(data)}  {INDEX}\n".encode()


def head(name: str, size: int) -> bytes:
    """Return the tar header of a member; it follows from name and size alone."""
    return header(Entry(name, FILE, 0o644, size=size))


def decode(data: bytes, where: str) -> Index:
    """Return the index that `data` is; raises ArtifactError where it is none, or promises what no bundle has."""
    try:
        version = from_json(data, _Version).version
        if version != VERSION:
            raise ArtifactError(
                f"a bundle of form {version}; this mkroot reads form {VERSION}",
                where=where,
                hint="make it again with `mkroot bundle`, or use the mkroot that made it",
            )
        index = from_json(data, Index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise damaged(f"its index is malformed: {e}", where) from None
    if index.encode() != data:
        raise damaged("its index is not in the form that mkroot writes", where)
    if fault := _fault(index):
        raise damaged(fault, where)
    return index


def damaged(what: str, where: str) -> ArtifactError:
    """Return the error of a bundle that is not whole."""
    return ArtifactError(f"the bundle is damaged: {what}", where=where, hint="copy it again, or make it again")


def _fault(index: Index) -> str:
    """Return what is wrong with an index, "" for nothing."""
    kinds: dict[str, str] = {}
    for member in index.files:
        if fault := path_fault(member.path):
            return f"a file called {member.path[:200]!r} {fault}"
        if kinds and member.path <= next(reversed(kinds)):
            return f"{member.path!r} is listed twice, or out of order"
        parts = member.path.split("/")
        above = next((p for n in range(1, len(parts)) if kinds.get(p := "/".join(parts[:n]), DIR) != DIR), "")
        if above:
            return f"{member.path!r} lies below {above!r}, which is no folder"
        if (member.kind == FILE) != bool(member.sha256) or (member.kind == SYMLINK) != bool(member.link):
            return f"{member.path!r} is not described as its kind is"
        if (member.kind != FILE and (member.size or member.executable)) or "\0" in member.link:
            return f"{member.path!r} is not described as its kind is"
        kinds[member.path] = member.kind
    if sum(m.size for m in index.files) > FILES_LIMIT:
        return f"its files take more than {FILES_LIMIT >> 20} MiB"
    for path in (index.recipe, index.lock):
        if kinds.get(path) != FILE:
            return f"it has no file {path[:200]!r}"
    for blobs in (index.debs, index.blobs):
        names = [b.sha256 for b in blobs]
        if names != sorted(set(names)):
            return "a digest is listed twice, or out of order"
    if missing := {i.sha256 for i in index.images} - {b.sha256 for b in index.blobs}:
        return f"it lacks the image sha256:{min(missing)}"
    return ""


def path_fault(path: str) -> str:
    """Return why a path cannot stand in a bundle, "" where it can."""
    parts = path.split("/")
    if len(path.encode("utf-8", "surrogatepass")) > 4000:
        return "has too long a name"
    if any(part in (".", "..") or not _PART.fullmatch(part) for part in parts):
        return "has a name that no bundle takes"
    return ""
