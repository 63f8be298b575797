"""The root as an ext4 image: an empty one by mke2fs, filled by one debugfs script.

`mke2fs -d` takes owners and the order of names from a folder on disk, and so would need root and give other bytes on
another machine. debugfs writes what it is told, in the order in which it is told, whoever runs it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from mkroot.artifact.manifest import Made
from mkroot.artifact.outputs import Bench
from mkroot.digest import oci, sha256_file
from mkroot.errors import ArtifactError
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry, parent

NAME = "rootfs.ext4"
FORMAT = "1"  # of how it is made here; part of what it is kept under
BLOCK_SIZE = 4096
INODE_SIZE = 256
MIB = 1 << 20
LABEL = "root"
# What is on does not depend on the machine's mke2fs.conf: a file system that GRUB 2.06 and Linux 4.x read.
FEATURES = (
    "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super",
    "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum",
)  # fmt: skip
_FAST_LINK = 59  # bytes of a link's target that stand in the inode itself
_TYPES = {FILE: 0o100000, DIR: 0o040000, SYMLINK: 0o120000, CHAR: 0o020000, BLOCK: 0o060000, FIFO: 0o010000}
_FOUND = "lost+found"


def make_ext4(bench: Bench) -> Made:
    """Write `rootfs.ext4`, sized to its content."""
    path = bench.folder / NAME
    write_ext4(bench, path)
    return Made(kind="ext4", name=NAME, size=path.stat().st_size, digest=oci(sha256_file(path)))


def write_ext4(bench: Bench, path: Path, size: int | None = None, label: str = LABEL) -> None:
    """Write an ext4 image of `size` bytes (default: fitting) to a new file.

    The same root, size and label give the same bytes for any user. Raises ArtifactError where a tool is missing or
    fails, or the root does not fit.
    """
    entries = bench.entries()
    least = fitting_size(entries)
    if size is not None and size < least:
        raise ArtifactError(f"the root needs {least} bytes as ext4, and {size} are given")
    size = least if size is None else size // BLOCK_SIZE * BLOCK_SIZE
    tools = [bench.tools.identity(name) for name in ("mke2fs", "debugfs")]
    bench.kept(["ext4", FORMAT, tools, size, label], path, lambda: _make(bench, path, entries, size, label))


def _make(bench: Bench, path: Path, entries: list[Entry], size: int, label: str) -> None:
    identity, seed = derived_uuid(bench.tree(), "ext4"), derived_uuid(bench.tree(), "ext4 hash")
    environ = {"E2FSPROGS_FAKE_TIME": str(max(bench.epoch, 1)), "MKE2FS_CONFIG": "/dev/null"}
    with open(path, "xb") as f:
        f.truncate(size)
    path.chmod(0o644)
    scratch = bench.scratch / f"{path.name}.parts"
    scratch.mkdir()
    arguments = [
        "-q", "-F", "-t", "ext4", "-b", str(BLOCK_SIZE), "-I", str(INODE_SIZE), "-m", "0", "-L", label,
        "-N", str(_inodes(entries, size)), "-J", f"size={_journal(size)}",
        "-O", ",".join(("none", *FEATURES)), "-U", str(identity),
        "-E", f"hash_seed={seed},assume_storage_prezeroed=1,nodiscard,root_owner=0:0",
        str(path),
    ]  # fmt: skip
    bench.tools.run("mke2fs", arguments, environ=environ)
    _unpack(bench.assembly.files(), entries, scratch)
    script = scratch / "script"
    with open(script, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as f:
        for line in commands(entries):
            f.write(line + "\n")
    _, told = bench.tools.run("debugfs", ["-w", "-f", str(script), str(path)], environ=environ, cwd=scratch)
    faults = [line for line in told.splitlines() if line.strip() and not line.startswith("debugfs ")]
    if faults:
        raise ArtifactError(f"debugfs could not write the root: {'; '.join(faults[:3])}", where=NAME)


def derived_uuid(tree: str, purpose: str) -> uuid.UUID:
    """Return a UUID of version 8 (RFC 9562) that depends on the tree's digest and a purpose alone."""
    import hashlib

    raw = bytearray(hashlib.sha256(f"mkroot {purpose} {tree}".encode()).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(raw))


def _blocks(size: int) -> int:
    return -(-size // BLOCK_SIZE)


def _journal(size: int) -> int:
    """Return the journal's size in MiB: the least that ext4 takes, more where commits are worth it."""
    return 4 if size < 512 * MIB else 16 if size < 2048 * MIB else 64


def _inodes(entries: list[Entry], size: int) -> int:
    """Return how many inodes to make: those needed and a quarter more, at least one for 64 KiB."""
    own = sum(e.kind != HARDLINK for e in entries) + 11
    return max(own + own // 4, size >> 16)


def fitting_size(entries: list[Entry]) -> int:
    """Return the bytes of an image that holds these entries with a little room: 5 %, at least 4 MiB."""
    names: dict[str, int] = {}
    blocks = 0
    for e in entries:
        if e.path:
            length = len(e.path.rpartition("/")[2].encode("utf-8", "surrogateescape"))
            names[parent(e.path)] = names.get(parent(e.path), 0) + 8 + (length + 3) // 4 * 4
        if e.kind == FILE:
            blocks += _blocks(e.size) + (e.size > 4 * 128 * MIB)  # and an extent block
        elif e.kind == SYMLINK:
            blocks += len(e.link.encode("utf-8", "surrogateescape")) > _FAST_LINK
        elif e.kind == DIR:
            blocks += 1
        blocks += bool(e.xattrs)
    blocks += sum(_blocks(n + n // 8) for n in names.values())  # names do not fill their blocks to the end
    for _ in range(4):  # metadata and journal grow with the size that they are part of
        size = blocks * BLOCK_SIZE
        metadata = (
            _inodes(entries, size) * INODE_SIZE + _journal(size) * MIB + (size // (128 * MIB) + 1) * 8 * BLOCK_SIZE
        )
        reserved = min(_blocks(size // (128 * MIB) * 64 * 1024 + 64), 1024) * BLOCK_SIZE  # for growing (resize_inode)
        total = size + metadata + reserved + max(size // 20, 4 * MIB)
    return -(-total // MIB) * MIB


def _unpack(files: Iterable[tuple[Entry, bytes]], entries: list[Entry], scratch: Path) -> None:
    """Write each file's content under the number that its entry has in the list, and each attribute's value."""
    for number, entry in enumerate(entries):
        for index, name in enumerate(sorted(entry.xattrs)):
            (scratch / f"{number}.{index}").write_bytes(entry.xattrs[name])
    numbers = {e.path: n for n, e in enumerate(entries)}
    for entry, content in files:
        if entry.kind == FILE:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(scratch / str(numbers[entry.path]), flags, 0o600), "wb", buffering=0) as f:
                view = memoryview(content)
                while view:
                    view = view[f.write(view) :]


def _quoted(text: str) -> str:
    """Return a word as libss reads it: between quotes, a quote itself twice."""
    if "\n" in text or "\0" in text:
        raise ArtifactError("a name with a line break cannot be written to ext4 by debugfs", where=f"/{text}")
    return '"' + text.replace('"', '""') + '"'


def commands(entries: list[Entry]) -> Iterator[str]:
    """Yield the debugfs commands that write the entries, whose contents are in files named by their index."""
    by_folder: dict[str, list[tuple[int, Entry]]] = {}
    links: list[Entry] = []
    counts: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if entry.kind == HARDLINK:
            links.append(entry)
            counts[entry.link] = counts.get(entry.link, 1) + 1
        elif entry.path:
            by_folder.setdefault(parent(entry.path), []).append((number, entry))
    for entry in entries:
        if entry.kind == DIR and entry.path and entry.path != _FOUND:
            yield f"mkdir {_quoted('/' + entry.path)}"
    for folder, members in by_folder.items():
        if any(e.kind != DIR for _, e in members):
            yield f"cd {_quoted('/' + folder)}"
            for number, entry in members:
                yield from _member(number, entry)
    for entry in links:
        yield f"cd {_quoted('/' + parent(entry.path))}"
        yield f"ln {_quoted('/' + entry.link)} {_quoted(entry.path.rpartition('/')[2])}"
    for number, entry in enumerate(entries):
        if entry.kind != HARDLINK:
            yield from _settle(number, entry, counts.get(entry.path, 1))


def _member(number: int, entry: Entry) -> Iterator[str]:
    name = _quoted(entry.path.rpartition("/")[2])
    if entry.kind == FILE:
        yield f"write {number} {name}"
    elif entry.kind == SYMLINK:
        yield f"symlink {name} {_quoted(entry.link)}"
    elif entry.kind == FIFO:
        yield f"mknod {name} p"
    elif entry.kind in (CHAR, BLOCK):
        yield f"mknod {name} {entry.kind} 0 0"


def _settle(number: int, entry: Entry, links: int) -> Iterator[str]:
    place = _quoted("/" + entry.path)
    yield f"sif {place} mode 0{_TYPES[entry.kind] | entry.mode:o}"
    yield f"sif {place} mtime @{max(entry.mtime, 0)}"
    for field, value in (("uid", entry.uid), ("gid", entry.gid)):
        if value:
            yield f"sif {place} {field} {value}"
    if links > 1:
        yield f"sif {place} links_count {links}"
    if entry.kind in (CHAR, BLOCK):
        major, minor = entry.device  # the two forms of ext4's i_block for devices: old, 8 bits each, and new
        small = major < 256 and minor < 256
        yield f"sif {place} block[0] {major << 8 | minor if small else 0}"
        yield f"sif {place} block[1] {0 if small else minor & 0xFF | major << 8 | (minor & ~0xFF) << 12}"
    for index, name in enumerate(sorted(entry.xattrs)):
        yield f"ea_set -f {number}.{index} {place} {_quoted(name)}"
