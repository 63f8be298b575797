"""The root as a cpio archive of the form that Linux unpacks at boot (newc; cpio(5), initramfs buffer format)."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from mkroot.artifact.files import HashedFile
from mkroot.artifact.manifest import Made
from mkroot.artifact.outputs import Bench
from mkroot.errors import ArtifactError
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry

NAME = "rootfs.cpio.zst"
LEVEL = 9
WORKERS = 2  # a number that is part of the bytes' definition; zstd's output is the same for every number above 0
_LIMIT = 0xFFFFFFFF
_TYPES = {
    FILE: stat.S_IFREG, HARDLINK: stat.S_IFREG, DIR: stat.S_IFDIR, SYMLINK: stat.S_IFLNK,
    CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK, FIFO: stat.S_IFIFO,
}  # fmt: skip


def make_cpio(bench: Bench) -> Made:
    """Write `rootfs.cpio.zst`: one zstd frame, because Linux wants an archive to end where its frame ends."""
    import zstandard

    entries = bench.entries()
    if lost := sum(1 for e in entries if e.xattrs):
        bench.progress.warn(f"{NAME}: cpio has no place for extended attributes; {lost} files lose theirs")
    pack = zstandard.ZstdCompressor(level=LEVEL, threads=WORKERS).compressobj()
    with HashedFile(bench.folder / NAME) as f:
        for chunk in newc(entries, bench.assembly.files()):
            if data := pack.compress(chunk):
                f.write(data)
        f.write(pack.flush())
    return Made(kind="cpio.zst", name=NAME, size=f.size, digest=f.digest)


def newc(entries: Iterable[Entry], files: Iterable[tuple[Entry, bytes]]) -> Iterator[bytes]:
    """Yield a newc archive; raises ArtifactError for a file of 4 GiB or more.

    entries: all of a root. files: the same with contents, folders before what they hold. Inodes are numbered in the
    archive's own order; of a file with several names the last one carries the content.
    """
    names: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.kind == HARDLINK:
            names.setdefault(entry.link, []).append(entry)
    inode = 0
    for entry, content in files:
        if entry.kind == HARDLINK:
            continue
        inode += 1
        links = names.get(entry.path, [])
        count = 2 if entry.kind == DIR else 1 + len(links)
        for link in links:
            yield _member(_under(entry, link.path), inode, count, b"")
        if entry.kind == SYMLINK:
            content = entry.link.encode("utf-8", "surrogateescape")
        if len(content) > _LIMIT:
            raise ArtifactError("a file of 4 GiB or more does not fit in a cpio archive", where=f"/{entry.path}")
        yield _member(entry, inode, count, content)
    yield _member(Entry("TRAILER!!!", FILE, 0), 0, 1, b"", trailer=True)


def _under(entry: Entry, path: str) -> Entry:
    return Entry(path, entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime)


def _member(entry: Entry, inode: int, links: int, content: bytes, *, trailer: bool = False) -> bytes:
    name = (entry.path or ".").encode("utf-8", "surrogateescape") + b"\0"
    mode = 0 if trailer else _TYPES[entry.kind] | entry.mode
    head = b"070701" + b"%08X" * 13 % (
        inode, mode, entry.uid, entry.gid, links, min(max(entry.mtime, 0), _LIMIT), len(content),
        0, 0, entry.device[0], entry.device[1], len(name), 0,
    )  # fmt: skip
    return b"".join((head, name, bytes(-(len(head) + len(name)) % 4), content, bytes(-len(content) % 4)))
