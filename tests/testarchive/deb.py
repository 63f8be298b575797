"""Builds .deb packages byte by byte (deb(5)), correct ones and hostile ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MTIME = 1700000000  # of every member unless told otherwise
SUFFIXES = {"xz": ".xz", "gz": ".gz", "zst": ".zst", "none": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A regular file with more to say than its content."""

    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = MTIME


@dataclass(frozen=True, slots=True)
class Raw:
    """A tar member written exactly as given, for hostile packages."""

    info: tarfile.TarInfo
    content: bytes = b""


def compress(data: bytes, method: str) -> bytes:
    """Return `data` compressed by `xz`, `gz`, `zst` or `none`, always to the same bytes."""
    if method == "xz":
        return lzma.compress(data, preset=1)
    if method == "gz":
        return gzip.compress(data, 6, mtime=0)
    if method == "zst":
        import zstandard

        return zstandard.ZstdCompressor(level=3).compress(data)
    if method == "none":
        return data
    raise ValueError(method)


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    """Return a tar header owned by root with `fields` (mode, linkname, devmajor, …) set."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mtime = MTIME
    info.uname = info.gname = "root"
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o777 if kind == tarfile.SYMTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar(members: Sequence[Raw]) -> bytes:
    """Return a GNU tar stream of the members, in their order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as t:
        for raw in members:
            raw.info.size = len(raw.content)
            t.addfile(raw.info, io.BytesIO(raw.content))
    return out.getvalue()


def ar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Return an ar archive of the members, in their order."""
    out = [b"!<arch>\n"]
    for name, data in members:
        out.append(f"{name:<16}{MTIME:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        out.append(data + b"\n" * (len(data) % 2))
    return b"".join(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a package installs, and how it is packed.

    files: path → bytes or File; the path without a leading slash.
    symlinks: path → target as written.
    hardlinks: path → path of an earlier file.
    dirs: path → mode, of folders that are more than parents of files.
    devices: path → (b"c" or b"b", major, minor, mode).
    fifos: paths.
    raw: members appended as they are.
    scripts: `postinst` and its kin → text.
    conffiles: absolute paths, as they stand in the file of that name.
    control_files: further members of the control archive.
    compression: of the data member; the control member is compressed alike, or by xz.
    data_member, control_member: the finished members instead (hostile packages).
    ar_extra: further ar members, appended.
    """

    files: Mapping[str, bytes | File] = field(default_factory=dict)
    symlinks: Mapping[str, str] = field(default_factory=dict)
    hardlinks: Mapping[str, str] = field(default_factory=dict)
    dirs: Mapping[str, int] = field(default_factory=dict)
    devices: Mapping[str, tuple[str, int, int, int]] = field(default_factory=dict)
    fifos: Sequence[str] = ()
    raw: Sequence[Raw] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)
    conffiles: Sequence[str] = ()
    control_files: Mapping[str, bytes] = field(default_factory=dict)
    compression: str = "xz"
    data_member: bytes | None = None
    control_member: bytes | None = None
    ar_extra: Sequence[tuple[str, bytes]] = ()

    def installed_size(self) -> int:
        """Return the size in KiB as dpkg-gencontrol estimates it."""
        total = sum(-(-len(_file(f).content) // 1024) for f in self.files.values())
        return total + len(self._folders()) + len(self.symlinks)

    def _folders(self) -> dict[str, int]:
        folders = {"": 0o755}
        for path in [*self.files, *self.symlinks, *self.hardlinks, *self.devices, *self.fifos, *self.dirs]:
            parts = path.split("/")
            for n in range(1, len(parts)):
                folders.setdefault("/".join(parts[:n]), 0o755)
        folders.update({path.rstrip("/"): mode for path, mode in self.dirs.items()})
        return folders

    def data_tar(self) -> bytes:
        """Return the uncompressed data archive."""
        members: list[Raw] = []
        for path, mode in self._folders().items():
            members.append(Raw(member(f"./{path}/" if path else "./", tarfile.DIRTYPE, mode=mode)))
        for path, given in self.files.items():
            f = _file(given)
            info = member(f"./{path}", mode=f.mode, uid=f.uid, gid=f.gid, mtime=f.mtime)
            members.append(Raw(info, f.content))
        for path, target in self.symlinks.items():
            members.append(Raw(member(f"./{path}", tarfile.SYMTYPE, linkname=target)))
        for path, (kind, major, minor, mode) in self.devices.items():
            type_ = tarfile.CHRTYPE if kind == "c" else tarfile.BLKTYPE
            members.append(Raw(member(f"./{path}", type_, devmajor=major, devminor=minor, mode=mode)))
        for path in self.fifos:
            members.append(Raw(member(f"./{path}", tarfile.FIFOTYPE)))
        # dpkg-deb sorts its members: a folder before what it holds, links last.
        members.sort(key=lambda r: (r.info.type == tarfile.SYMTYPE, r.info.name))
        for path, target in self.hardlinks.items():
            same = _file(self.files.get(target, b""))
            info = member(f"./{path}", tarfile.LNKTYPE, mode=same.mode, uid=same.uid, gid=same.gid, mtime=same.mtime)
            info.linkname = f"./{target}"
            members.append(Raw(info))
        return tar([*members, *self.raw])

    def control_tar(self, control: str) -> bytes:
        """Return the uncompressed control archive around the control file's text."""
        members = [Raw(member("./", tarfile.DIRTYPE)), Raw(member("./control"), control.encode())]
        if self.conffiles:
            members.append(Raw(member("./conffiles"), "".join(f"{c}\n" for c in self.conffiles).encode()))
        sums = "".join(f"{_md5(_file(f).content)}  {path}\n" for path, f in sorted(self.files.items()))
        if sums:
            members.append(Raw(member("./md5sums"), sums.encode()))
        members += [Raw(member(f"./{n}", mode=0o755), text.encode()) for n, text in sorted(self.scripts.items())]
        members += [Raw(member(f"./{n}"), data) for n, data in sorted(self.control_files.items())]
        return tar(members)

    def deb(self, control: str) -> bytes:
        """Return the package whose control file has the text `control`."""
        suffix = SUFFIXES[self.compression]
        inner = self.control_member
        if inner is None:
            inner = compress(self.control_tar(control), self.compression)
        data = self.data_member
        if data is None:
            data = compress(self.data_tar(), self.compression)
        members = [("debian-binary", b"2.0\n"), (f"control.tar{suffix}", inner), (f"data.tar{suffix}", data)]
        return ar([*members, *self.ar_extra])


def _file(given: bytes | File) -> File:
    return given if isinstance(given, File) else File(content=given)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
