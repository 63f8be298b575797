"""Targets of what a package is made of: ar, tar, streams, deb822, versions, relations."""

from __future__ import annotations

import io
import re
import tarfile
from itertools import combinations

import msgspec

from mkroot.debian.deb import open_deb
from mkroot.debian.deb822 import parse_stanza, parse_strict, stanzas
from mkroot.debian.package import Package
from mkroot.debian.relation import clause_text, parse_relations, satisfies
from mkroot.debian.version import Version, compare, version_key
from mkroot.errors import MkrootError, PackageError
from mkroot.store.unpack import control_fields
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from mkroot.tar.read import entries
from mkroot.tar.stream import Corrupt, Stream, decompress
from mkroot.tar.write import END, header, padding
from tests.fuzz.target import Target

LIMIT = 1 << 20  # bytes that anything may unpack to
Member = tuple[str, Entry, bytes]  # name as written, what it is, content


def ar(data: bytes) -> None:
    """A package's outer archive and its control archive; python-debian sees the same data member."""
    from debian.arfile import ArError, ArFile

    deb = open_deb(memoryview(data), "p.deb")
    assert "control" in deb.control
    assert all("/" not in name and name not in (".", "..") for name in deb.control)
    assert deb.date >= 0
    try:
        members = ArFile(fileobj=io.BytesIO(data)).getmembers()
    except (ArError, ValueError, OSError):
        return  # it reads to the end, and trailing bytes are deb(5)'s to ignore
    suffix = f".{deb.data_kind}" if deb.data_kind else ""
    theirs = [m for m in members if m.name == f"data.tar{suffix}"]
    assert theirs, "python-debian sees no data member"
    assert any(m.read() == bytes(deb.data) for m in theirs), "python-debian reads another data member"


def deb(data: bytes) -> None:
    """A package down to its last file."""
    package = open_deb(memoryview(data), "p.deb")
    control_fields(package.control["control"])
    stream = package.stream(LIMIT)
    for entry, _ in package.members(stream):
        if entry.kind == FILE:
            assert len(package.content(stream, entry)) == entry.size


def stream(data: bytes) -> None:
    """A compressed stream of any kind; the first byte chooses it. What comes out keeps to the limit."""
    kind = ("", "gz", "xz", "zst", "bz2", "lzma")[data[0] % 6] if data else ""
    limit = 1 << 16
    try:
        total = sum(map(len, decompress(kind, memoryview(data)[1:], limit)))
    except Corrupt as e:
        raise PackageError(str(e)) from None
    assert total <= limit


def tar(data: bytes) -> None:
    """A tar stream, read without and with pax headers: as Python's tarfile reads it, and the same once written."""
    plain = _members(data, pax=False)
    full = _members(data, pax=True)
    if plain is not None and not any(name.endswith("/") for name, entry, _ in plain if entry.kind == FILE):
        assert full == plain, "what is read without pax headers is another archive with them"
    if full is None:
        raise PackageError("not a tar stream")
    for _, entry, _ in full:
        parts = entry.path.split("/")
        assert ".." not in parts and "." not in parts and not entry.path.startswith("/")
        assert "\n" not in entry.path and "\0" not in entry.path
        assert 0 <= entry.mode <= 0o7777 and entry.size >= 0
        assert 0 <= entry.uid < 1 << 32 and 0 <= entry.gid < 1 << 32
    _as_tarfile(data, full)
    _written(full)


def _members(data: bytes, *, pax: bool) -> list[Member] | None:
    reader = Stream(iter([data]) if data else iter([]))
    found = []
    try:
        for entry, name in entries(reader, pax=pax):
            content = reader.read(entry.size) if entry.kind == FILE else b""
            if len(content) != entry.size:
                raise Corrupt("truncated")
            found.append((name, msgspec.structs.replace(entry, data=0), content))
    except Corrupt as e:
        assert str(e)
        return None
    return found


_TYPES = {
    tarfile.REGTYPE: FILE, tarfile.AREGTYPE: FILE, tarfile.CONTTYPE: FILE, tarfile.LNKTYPE: HARDLINK,
    tarfile.SYMTYPE: SYMLINK, tarfile.CHRTYPE: CHAR, tarfile.BLKTYPE: BLOCK, tarfile.DIRTYPE: DIR,
    tarfile.FIFOTYPE: FIFO,
}  # fmt: skip
_EXTENDED = re.compile(rb"g|[LKx].*[LKx]", re.DOTALL)  # a global header, or several before one member


def _as_tarfile(data: bytes, ours: list[Member]) -> None:
    """Hold the members against tarfile's, which stops silently at what it cannot read."""
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape")  # noqa: SIM115
        theirs = archive.getmembers()
    except (tarfile.TarError, ValueError, OSError, OverflowError):
        return
    for (_, entry, content), info in zip(ours, theirs):
        if _EXTENDED.search(_flags(data[info.offset : info.offset_data])):
            return  # which of several wins is told nowhere
        if info.type in (tarfile.REGTYPE, tarfile.CONTTYPE) and entry.kind == DIR:
            continue  # a name that ends in a slash: dpkg takes it for a folder, tarfile in old archives only
        assert _TYPES.get(info.type) == entry.kind, (info.type, entry)
        head = data[info.offset_data - 512 : info.offset_data]
        if head[345] and head[257:263] != b"ustar\0":
            continue  # as in dpkg, the prefix is one of ustar's names only
        assert _plain(info.name) == entry.path, (info.name, entry.path)
        if entry.kind == FILE:
            assert info.size == entry.size, (info.size, entry.size)
            taken = archive.extractfile(info)
            assert taken is not None and taken.read() == content
        if entry.kind == SYMLINK:
            assert info.linkname == entry.link
        if entry.kind == HARDLINK:
            assert _plain(info.linkname) == entry.link
        assert (info.uid, info.gid, info.mode & 0o7777) == (entry.uid, entry.gid, entry.mode)


def _flags(headers: bytes) -> bytes:
    """Return the kinds of the headers that stand before a member's content."""
    flags = []
    at = 0
    while at < len(headers):
        flags.append(headers[at + 156 : at + 157])
        if flags[-1] not in (b"L", b"K", b"x", b"g"):
            break
        digits = headers[at + 124 : at + 136].strip(b" \0")
        end = at + 512 + int(digits or b"0", 8)
        at += 512 + -(-int(digits or b"0", 8) // 512) * 512
        if headers[end:at].strip(b"\0"):
            return b"g"  # tarfile takes the rest of the block for a part of the name, which dpkg and GNU tar do not
    return b"".join(flags)


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _written(members: list[Member]) -> None:
    """Write the members and read them back."""
    out = []
    for _, entry, content in members:
        head = header(entry)
        assert len(head) % 512 == 0, entry
        out += [head, content, padding(len(content))]
    # ustar's field for the time ends in 2242, and no later time is written: artifacts are clamped to their epoch
    kept = [(msgspec.structs.replace(e, mtime=e.mtime if e.mtime < 1 << 33 else 0), c) for _, e, c in members]
    again = _members(b"".join([*out, END]), pax=True)
    assert again is not None and [(entry, content) for _, entry, content in again] == kept


def deb822(data: bytes) -> None:
    """Stanzas by the fast reader, the strict one and python-debian."""
    from debian.deb822 import Deb822

    fast = [parse_stanza(s) for s in stanzas(data)]
    assert all(name == name.lower() for fields in fast for name in fields)
    for fields in fast:
        for name in ("depends", "provides"):
            assert isinstance(fields.get(name, ""), str)
    text = data.decode("utf-8", "surrogateescape")
    strict = parse_strict(text, "f")
    for stanza in strict:
        assert stanza
        for name, field in stanza.items():
            assert field.name.lower() == name and ":" not in name and not name.startswith(("#", "-"))
            assert text.split("\n")[field.line - 1].startswith(field.name + ":")
    if not text.isascii() or re.search(r"[^\n\t\x20-\x7e]|\n[ \t]+\n|^[ \t]+\n|(?:^|\n)#", text):
        return  # where the three have a right to differ: encodings, blanks for empty lines, comments
    ours = [{name: _squeezed(f.value) for name, f in stanza.items()} for stanza in strict]
    assert ours == [{name: _squeezed(value) for name, value in fields.items()} for fields in fast if fields]
    theirs = [
        {k.lower(): _squeezed(v) for k, v in paragraph.items()}
        for paragraph in Deb822.iter_paragraphs(data, use_apt_pkg=False)
    ]
    assert ours == [paragraph for paragraph in theirs if paragraph], (ours, theirs)


def _squeezed(value: str) -> list[str]:
    return [line.strip(" \t") for line in value.strip(" \t\n").split("\n")]


def version(data: bytes) -> None:
    """Three texts, separated by blanks: a total order, which is python-debian's where they are versions."""
    texts = (*data.decode("utf-8", "surrogateescape").split(" "), "", "")[:3]
    for one, other in combinations(texts, 2):
        assert compare(one, other) == -compare(other, one)
        assert (compare(one, other) == 0) == (version_key(one) == version_key(other))
    first, second, third = sorted(texts, key=version_key)
    assert compare(first, second) <= 0 and compare(second, third) <= 0 and compare(first, third) <= 0
    valid: list[Version] = []
    refused: PackageError | None = None
    for text in texts:
        try:
            valid.append(Version(text))
        except PackageError as e:
            refused = e
    for left, right in combinations(valid, 2):
        order = _python_debian(left.text, right.text)
        assert compare(left.text, right.text) == order, (left, right)
        assert (left < right, left == right) == (order < 0, order == 0)
        assert left != right or hash(left) == hash(right)
    if refused is not None:
        raise refused


def _python_debian(one: str, other: str) -> int:
    from debian.debian_support import NativeVersion

    left, right = NativeVersion(one), NativeVersion(other)
    return (left > right) - (left < right)


def relation(data: bytes) -> None:
    """A relationship field: the same once written, and python-debian's where that has no doubts."""
    text = data.decode("utf-8", "surrogateescape")
    clauses = parse_relations(text)
    for clause in clauses:
        assert clause
        for one in clause:
            assert one.op in ("", "<<", "<=", "=", ">=", ">>")
            assert bool(one.op) == bool(one.version)
            assert satisfies("1.0-1", one.op, one.version) in (True, False)
    again = parse_relations(", ".join(map(clause_text, clauses)))
    assert again == clauses, (again, clauses)
    if text.isascii() and not re.search(r"[^\x20-\x7e]|(?:^|,) *(?:,|$)|\[ *\]", text):
        theirs = _python_debian_names(text)
        if all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9+.-]*", name) for names in theirs for name in names):
            assert [[one.name for one in clause] for clause in clauses] == theirs


def _python_debian_names(text: str) -> list[list[str]]:
    """Return the names of each clause; what python-debian cannot read it gives back as one."""
    import logging

    from debian.deb822 import PkgRelation

    logging.getLogger("debian.deb822").disabled = True  # where it says so
    return [[str(one["name"]) for one in clause] for clause in PkgRelation.parse_relations(text)]


def package(data: bytes) -> None:
    """A stanza of an index with every property that is read of it."""
    found = Package.parse(data)
    assert found.name and found.version and found.architecture
    assert found.size >= 0 and found.installed_size >= 0
    assert isinstance(found.source, str) and isinstance(found.source_version, str)
    assert found.priority in ("required", "important", "standard", "optional", "extra")
    for field in ("pre_depends", "depends", "recommends", "suggests", "conflicts", "breaks", "replaces", "provides"):
        try:
            getattr(found, field)
        except MkrootError as e:
            assert e.where is not None


_AR = (
    b"!<arch>\n",
    b"debian-binary   ",
    b"control.tar.gz  ",
    b"control.tar     ",
    b"data.tar.xz     ",
    b"data.tar    ",
    b"`\n",
    b"100644  ",
    b"2.0\n",
    b"_extra          ",
)
_TAR = (
    b"ustar\x0000",
    b"ustar  \0",
    b"././@LongLink",
    b"path=",
    b"linkpath=",
    b"size=",
    b"mtime=",
    b"uid=",
    b"\x80",
    b"SCHILY.xattr.",
    b"GNU.sparse.",
    b"../",
    b"./",
)
_FIELDS = (
    b"Package: ",
    b"Version: ",
    b"Architecture: ",
    b"Depends: ",
    b"Provides: ",
    b"\n\n",
    b"\n ",
    b"#",
    b":",
    b"\r",
)

TARGETS = (
    Target(name="ar", run=ar, words=_AR),
    Target(name="tar", run=tar, words=_TAR),
    Target(name="deb822", run=deb822, words=_FIELDS, longest=1024),
    Target(
        name="version",
        run=version,
        words=(b"~", b"+b1", b"-", b":", b"1:", b"0", b" ", b"~rc1", b"-0ubuntu1"),
        longest=128,
    ),
    Target(
        name="relation",
        run=relation,
        words=(b" | ", b", ", b" (>= ", b" (<< ", b")", b":any", b" [amd64]", b" <!nocheck>", b"(", b"="),
        longest=512,
    ),
    Target(name="deb", run=deb, words=(*_AR, *_TAR)),
    Target(name="stream", run=stream, words=(b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh9", b"\x1f\x8b\x08")),
    Target(name="package", run=package, words=_FIELDS, longest=1024),
)
