"""Images as one file: an OCI layout in a tar archive, and what `docker save` writes."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from mkroot.artifact.files import HashedFile
from mkroot.oci.build import Built
from mkroot.oci.layout import BLOBS, as_written
from mkroot.oci.model import LAYOUT, IndexWritten, encode, named
from mkroot.tar.entry import DIR, FILE, Entry
from mkroot.tar.write import END, header, padding


class Sink(Protocol):
    """What takes the bytes of an archive, all that it is given, or raises OSError."""

    def write(self, data: bytes, /) -> object:
        """Take `data`."""


class ArchiveWriter:
    """Writes a tar archive of regular files, all of one time, owner and mode."""

    def __init__(self, out: Sink, epoch: int) -> None:
        self._out = out
        self._epoch = epoch

    def folder(self, path: str) -> None:
        """Add a folder."""
        self._out.write(header(Entry(path, DIR, 0o755, mtime=self._epoch)))

    def data(self, path: str, data: bytes) -> None:
        """Add a file of these bytes."""
        head = header(Entry(path, FILE, 0o644, mtime=self._epoch, size=len(data)))
        self._out.write(head + data + padding(len(data)))

    def file(self, path: str, source: Path, size: int) -> None:
        """Add a file's content; raises OSError, also where it has not `size` bytes."""
        with open(source, "rb", buffering=0) as f:
            self.stream(path, iter(lambda: f.read(1 << 22), b""), size)

    def stream(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        """Add a file of `size` bytes that come in pieces; raises OSError where they are more or fewer."""
        self._out.write(header(Entry(path, FILE, 0o644, mtime=self._epoch, size=size)))
        left = size
        for data in chunks:
            left -= len(data)
            self._out.write(data)
        if left:
            raise OSError(errno.EIO, "a stream has another size than it had before", path)
        self._out.write(padding(size))

    def end(self) -> None:
        """Close the archive."""
        self._out.write(END)


def write_oci_archive(built: Built, reference: str, path: Path, epoch: int) -> tuple[int, str]:
    """Write the image as a layout in a new tar file; return its size and digest. Raises OSError."""
    with HashedFile(path) as out:
        archive = ArchiveWriter(out, epoch)
        archive.folder("blobs")
        archive.folder(BLOBS)
        for d in built.blobs:
            archive.file(f"{BLOBS}/{d.hex}", built.layout.path(d.digest), d.size)
        archive.data("index.json", encode(IndexWritten(manifests=(as_written(named(built.manifest, reference)),))))
        archive.data("oci-layout", LAYOUT)
        archive.end()
    return out.size, out.digest


def write_docker_archive(
    built: Built, references: tuple[str, ...], layers: Iterable[Iterable[bytes]], path: Path, epoch: int
) -> tuple[int, str]:
    """Write the image as `docker save` does, layers uncompressed; return the file's size and digest. Raises OSError.

    layers: the uncompressed streams, from the bottom up. (The format is described by moby's image-spec v1.2,
    "Combined Image JSON + Filesystem Changeset Format".)
    """
    names = [f"{diff_id.partition(':')[2]}.tar" for diff_id in built.diff_ids]
    config = f"{built.config.hex}.json"
    document = [{"Config": config, "Layers": names, "RepoTags": list(references)}]
    with HashedFile(path) as out:
        archive = ArchiveWriter(out, epoch)
        done = set()
        for name, size, stream in zip(names, built.raw_sizes, layers, strict=True):
            if name not in done:
                archive.stream(name, stream, size)
                done.add(name)
        archive.data(config, built.config_data)
        archive.data("manifest.json", json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
        archive.end()
    return out.size, out.digest
