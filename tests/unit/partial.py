"""A reader of `zstd:chunked` blobs by ranges, from the format's description alone; nothing of mkroot is in it.

What it has to look like is said by containers/storage: docs/containers-storage-zstd-chunked.md and the comments of
pkg/chunked. tar-split's README says what a tar archive is taken apart into.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import zstandard

FOOTER = 64
MAGIC = bytes([0x47, 0x4E, 0x55, 0x6C, 0x49, 0x6E, 0x55, 0x78])
SKIPPABLE = bytes([0x50, 0x2A, 0x4D, 0x18])
ANNOTATION = "io.github.containers.zstd-chunked."
TYPES = {
    "reg": tarfile.REGTYPE, "hardlink": tarfile.LNKTYPE, "symlink": tarfile.SYMTYPE, "dir": tarfile.DIRTYPE,
    "char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE, "fifo": tarfile.FIFOTYPE,
}  # fmt: skip

Fetch = Callable[[int, int], bytes]
"""What gives a range of the blob: offset and size."""


class Wrong(Exception):
    """The blob is not what its table says."""


def need(truth: bool, what: str) -> None:
    """Raise Wrong unless it is so."""
    if not truth:
        raise Wrong(what)


class Partial:
    """The table of a blob, read by ranges: `entries` as the JSON has them, `split` as tar-split's lines are."""

    def __init__(self, fetch: Fetch, size: int, annotations: dict[str, str] | None = None) -> None:
        """Read footer, table and tar-split; where there are annotations, they must say the same as the footer."""
        self.fetch = fetch
        frame = fetch(size - FOOTER - 8, FOOTER + 8)
        need(frame[:8] == SKIPPABLE + struct.pack("<I", FOOTER), "the footer is in no skippable frame")
        need(frame[-8:] == MAGIC, "the footer has another magic number")
        numbers = struct.unpack("<7Q", frame[8:-8])
        self.at, self.size, raw, kind, split_at, split_size, split_raw = numbers
        need(kind == 1, "the table is of another kind")
        if annotations is not None:
            place = ":".join(map(str, (self.at, self.size, raw, kind)))
            need(annotations[ANNOTATION + "manifest-position"] == place, "the annotation names another place")
            split_place = ":".join(map(str, (split_at, split_size, split_raw)))
            need(annotations[ANNOTATION + "tarsplit-position"] == split_place, "the annotation names another place")
        packed, split = fetch(self.at, self.size), fetch(split_at, split_size)
        for at, data in ((self.at, packed), (split_at, split)):
            need(fetch(at - 8, 8) == SKIPPABLE + struct.pack("<I", len(data)), "a table is in no skippable frame")
        if annotations is not None:
            told = annotations[ANNOTATION + "manifest-checksum"]
            need(told == "sha256:" + hashlib.sha256(packed).hexdigest(), "the table does not match its digest")
        text = unzstd(packed)
        need(len(text) == raw, "the table has another size")
        document = json.loads(text)
        need(document["version"] == 1, "the table has another version")
        need(
            document["tarSplitDigest"] == "sha256:" + hashlib.sha256(split).hexdigest(), "tar-split has another digest"
        )
        lines = unzstd(split)
        need(len(lines) == split_raw, "tar-split has another size")
        self.entries: list[dict[str, Any]] = document["entries"]
        self.split: list[dict[str, Any]] = [json.loads(line) for line in lines.splitlines()]
        self.bytes = FOOTER + 8 + self.size + split_size

    def files(self) -> Iterator[tuple[dict[str, Any], list[tuple[int, int, int, str]]]]:
        """Yield each member with its chunks: offset, end, size unpacked, digest; none where it has no content."""
        entries = [*self.entries, {"type": "end"}]
        at = 0
        while entries[at]["type"] != "end":
            first = entries[at]
            need(first["type"] in TYPES, f"a member of an unknown type {first['type']}")
            rows = [first]
            at += 1
            while entries[at]["type"] == "chunk":
                need(entries[at]["name"] == first["name"], "a chunk of another file")
                rows.append(entries[at])
                at += 1
            if not first.get("digest"):
                need(len(rows) == 1 and not first.get("size"), f"{first['name']} has no digest")
                yield first, []
                continue
            ends = [row["offset"] for row in rows[1:]] + [first["endOffset"]]
            chunks, done = [], 0
            for row, end in zip(rows, ends, strict=True):
                need(row.get("chunkOffset", 0) == done, f"a chunk of {first['name']} is elsewhere")
                size = row["chunkSize"] if len(rows) > 1 else first["size"]
                chunks.append((row["offset"], end, size, row["chunkDigest"] if len(rows) > 1 else first["digest"]))
                done += size
            need(done == first["size"], f"the chunks of {first['name']} are not all of it")
            yield first, chunks

    def content(self, entry: dict[str, Any], chunks: list[tuple[int, int, int, str]]) -> bytes:
        """Fetch a file's content by its ranges alone, and check every digest."""
        parts = []
        for offset, end, size, digest in chunks:
            data = unzstd(self.fetch(offset, end - offset))
            need(len(data) == size, f"a chunk of {entry['name']} has another size")
            need("sha256:" + hashlib.sha256(data).hexdigest() == digest, f"a chunk of {entry['name']} is another one")
            parts.append(data)
        whole = b"".join(parts)
        if chunks:
            digest = "sha256:" + hashlib.sha256(whole).hexdigest()
            need(digest == entry["digest"], f"{entry['name']} does not match its digest")
        return whole

    def missing(self, known: set[str]) -> tuple[int, int]:
        """Return how many bytes of content one fetches who has the files with these digests, and how many there are."""
        want = have = 0
        for entry, chunks in self.files():
            size = sum(end - offset for offset, end, _, _ in chunks)
            have += size
            want += 0 if not chunks or entry["digest"] in known else size
        return want, have

    def digests(self) -> set[str]:
        """Return the digests of all files that have content."""
        return {entry["digest"] for entry, chunks in self.files() if chunks}

    def archive(self) -> bytes:
        """Make the tar archive again: tar-split's headers, and each file's content fetched by its ranges."""
        contents = {entry["name"]: (entry, chunks) for entry, chunks in self.files()}
        out = []
        for position, line in enumerate(self.split):
            need(line["position"] == position, "tar-split's lines are not in order")
            if line["type"] == 2:
                out.append(base64.b64decode(line["payload"]))
            elif line.get("size"):
                data = self.content(*contents[line["name"]])
                need(len(data) == line["size"], f"tar-split has another size for {line['name']}")
                crc = base64.b64decode(line["payload"])
                need(crc == crc64(data).to_bytes(8, "big"), f"tar-split has another CRC-64 for {line['name']}")
                out.append(data)
            else:
                need(line["payload"] is None, f"tar-split has a sum of nothing for {line['name']}")
        return b"".join(out)

    def check(self, archive: bytes) -> None:
        """Compare table and ranges with the uncompressed tar archive; raises Wrong."""
        made = self.archive()
        need(made == archive, "tar-split and ranges make another archive")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = tar.getmembers()
            found = list(self.files())
            need(len(members) == len(found), "the table has more or fewer members")
            names = [line["name"] for line in self.split if line["type"] == 1]
            need(names == [entry["name"] for entry, _ in found], "tar-split names other members")
            need(len(set(names)) == len(names), "a member stands in it twice")
            for member, (entry, chunks) in zip(members, found, strict=True):
                _compare(member, entry)
                if member.isreg():
                    data = tar.extractfile(member).read()  # type: ignore[union-attr]
                    need(self.content(entry, chunks) == data, f"{member.name} has another content")


def _compare(member: tarfile.TarInfo, entry: dict[str, Any]) -> None:
    name = entry["name"]
    slashed = member.name + "/" if member.isdir() else member.name
    need(name == ("./" if slashed in ("./", "/", "") else slashed), f"{member.name} is called {name}")
    attributes = {
        k.removeprefix("SCHILY.xattr."): base64.b64encode(v.encode("utf-8", "surrogateescape")).decode()
        for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")
    }  # fmt: skip
    time = datetime.strptime(entry["modtime"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    link = member.linkname if member.issym() or member.islnk() else ""
    told = (
        (TYPES[entry["type"]], member.type),
        (entry.get("mode", 0), member.mode),
        (entry.get("uid", 0), member.uid),
        (entry.get("gid", 0), member.gid),
        (entry.get("size", 0), member.size if member.isreg() else 0),
        (int(time), member.mtime),
        (entry.get("linkName", ""), link),
        ((entry.get("devMajor", 0), entry.get("devMinor", 0)), (member.devmajor, member.devminor)),
        (entry.get("xattrs", {}), attributes),
    )
    need(all(a == b for a, b in told), f"{name} is another one in the table: {told}")


def of_file(path: str, annotations: dict[str, str] | None = None) -> Partial:
    """Open a blob that is a file."""
    import os

    fd = os.open(path, os.O_RDONLY)
    return Partial(lambda at, size: os.pread(fd, size, at), os.fstat(fd).st_size, annotations)


def unzstd(data: bytes) -> bytes:
    """Return what one or more zstd frames hold, to the last byte."""
    out = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        out.append(frame.decompress(data))
        need(frame.eof, "a frame is truncated")
        data = frame.unused_data
    return b"".join(out)


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xD800000000000000 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _table()


def crc64(data: bytes) -> int:
    """Return the checksum that tar-split has of a file: CRC-64/GO-ISO, byte by byte."""
    crc = (1 << 64) - 1
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ (1 << 64) - 1
