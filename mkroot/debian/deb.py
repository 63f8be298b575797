"""Reads a binary package: the ar members, the control archive and the data archive (deb(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from mkroot.debian.control import NAME_LIMIT, check_control_files
from mkroot.errors import PackageError
from mkroot.tar.entry import DIR, FILE, Entry
from mkroot.tar.read import entries
from mkroot.tar.stream import Corrupt, Stream, decompress

CONTROL_LIMIT = 64 << 20  # bytes of an unpacked control archive
CONTROL_NAMES = re.compile(r"[a-z0-9][a-z0-9.+_-]*")
FORMATS = re.compile(rb"2\.[0-9]+\n")  # how debian-binary begins; more lines may follow
CONTROL_KINDS, DATA_KINDS = ("gz", "xz", "zst"), ("gz", "xz", "zst", "bz2", "lzma")
DATE_LIMIT = 1 << 33  # seconds, the first that a tar header cannot hold


class Deb(msgspec.Struct, frozen=True, kw_only=True):
    """A package file, opened.

    name: what to call it in messages. date: seconds since 1970 at which it was built, from its first member.
    control: the control archive's files by name. data: the compressed data archive. data_kind: how it is compressed.
    """

    name: str
    date: int
    control: dict[str, bytes]
    data: memoryview
    data_kind: str

    def stream(self, limit: int) -> Stream:
        """Return the data archive's tar stream, at most `limit` bytes of it; reads raise Corrupt."""
        return Stream(decompress(self.data_kind, self.data, limit))

    def content(self, stream: Stream, entry: Entry) -> bytes:
        """Return the content of the file whose entry was just yielded; raises PackageError."""
        return b"".join(self.parts(stream, entry, entry.size))

    def parts(self, stream: Stream, entry: Entry, step: int) -> Iterator[bytes]:
        """Yield the content of the file whose entry was just yielded, `step` bytes at a time; raises PackageError."""
        left = entry.size
        try:
            while left:
                part = stream.read(min(left, step))
                if len(part) != min(left, step):
                    raise Corrupt("the tar stream is truncated")
                left -= len(part)
                yield part
        except Corrupt as e:
            raise PackageError(f"the package is malformed in member {entry.path!r}: {e}", where=self.name) from e

    def members(self, stream: Stream) -> Iterator[tuple[Entry, str]]:
        """Yield the data archive's members with their names as written; raises PackageError naming the member.

        The caller reads a file's content from `stream` before it goes on.
        """
        last = "the first member"
        try:
            for entry, written in entries(stream):
                last = f"member {entry.path!r}"
                yield entry, written
        except Corrupt as e:
            raise PackageError(f"the package is malformed after {last}: {e}", where=self.name) from e


def _ar_members(data: memoryview, where: str) -> Iterator[tuple[str, int, memoryview]]:
    if bytes(data[:8]) != b"!<arch>\n":
        raise PackageError("not a Debian package: it does not begin like an ar archive", where=where)
    pos = 8
    while pos < len(data):
        head = bytes(data[pos : pos + 60])
        if len(head) < 60 or head[58:] != b"`\n":
            raise PackageError("the package is malformed: a broken ar member header", where=where)
        name = head[:16].rstrip(b" ").removesuffix(b"/").decode("ascii", "replace")
        date, size = head[16:28].rstrip(b" "), head[48:58].rstrip(b" ")
        if not size.isdigit() or not (date.isdigit() or not date) or int(date or b"0") >= DATE_LIMIT:
            raise PackageError("the package is malformed: a broken ar member header", where=where)
        end = pos + 60 + int(size)
        if end > len(data):
            raise PackageError(f"the package is truncated in member {name!r}", where=where)
        yield name, int(date or b"0"), data[pos + 60 : end]
        pos = end + (end & 1)


def _kind(name: str, stem: str) -> str | None:
    if name == stem:
        return ""
    suffix = name.removeprefix(stem + ".")
    return suffix if suffix in (CONTROL_KINDS if stem == "control.tar" else DATA_KINDS) else None


def open_deb(data: memoryview, name: str) -> Deb:
    """Read the ar structure and the control archive of a package.

    data: the whole file. name: what to call it in messages. Raises PackageError.
    Members whose name begins with an underscore are passed over, and what stands after the data archive is ignored,
    as deb(5) says.
    """
    wanted = ["debian-binary", "control.tar", "data.tar"]
    date = 0
    control: dict[str, bytes] | None = None
    for member, when, content in _ar_members(data, name):
        if member.startswith("_") and wanted[0] != "debian-binary":
            continue
        if wanted[0] == "debian-binary":
            if member != "debian-binary" or not FORMATS.match(bytes(content[:16])):
                raise PackageError("not a Debian package of format 2", where=name)
            date = when
        else:
            kind = _kind(member, wanted[0])
            if kind is None:
                raise PackageError(f"the package has member {member!r} where {wanted[0]} should stand", where=name)
            if wanted[0] == "data.tar":
                assert control is not None
                return Deb(name=name, date=date, control=control, data=content, data_kind=kind)
            control = _control(content, kind, name)
        wanted.pop(0)
    raise PackageError(f"the package has no {wanted[0]}", where=name)


def _control(content: memoryview, kind: str, where: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    stream = Stream(decompress(kind, content, CONTROL_LIMIT))
    try:
        for entry, _ in entries(stream):
            if entry.kind == DIR and not entry.path:
                continue
            if entry.kind != FILE:  # dpkg follows a link here, to wherever it leads
                raise Corrupt(f"member {entry.path[:100]!r} is not a file")
            if not CONTROL_NAMES.fullmatch(entry.path) or len(entry.path) > NAME_LIMIT:
                raise Corrupt(f"a control file with the name {entry.path[:100]!r}")
            if entry.path in files:
                raise Corrupt(f"two control files {entry.path!r}")
            files[entry.path] = stream.read(entry.size)
            if len(files[entry.path]) != entry.size:
                raise Corrupt("the tar stream is truncated")
    except Corrupt as e:
        raise PackageError(f"the package's control archive is malformed: {e}", where=where) from e
    if "control" not in files:
        raise PackageError("the package has no control file", where=where)
    try:
        check_control_files(files)
    except PackageError as e:
        at = f", {e.where.replace('control:', 'line ')} of control" if e.where else ""
        raise PackageError(f"the package is refused: {e.what}{at}", where=where, hint=e.hint) from None
    return files
