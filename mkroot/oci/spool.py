"""Archives from outside as plain files: those that are compressed, and those that come through a pipe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from mkroot.artifact.inventory import unpacked_file
from mkroot.errors import ArtifactError, ImageError, StoreError
from mkroot.store.store import Store

EXPANSION = 200  # a compressed archive may unpack to this many times its size,
ALLOWANCE = 1 << 28  # … and this many bytes, before it is called a bomb
_STEP = 1 << 20


@contextlib.contextmanager
def plain_file(store: Store, path: Path) -> Iterator[Path]:
    """Yield an archive's path, or that of a copy in the store that is not compressed and goes at the end.

    Raises ImageError where the file cannot be read or is damaged, and where it unpacks to far more than its size.
    """
    import tempfile

    try:
        with open(path, "rb") as f:
            head = f.read(6)
            size = f.seek(0, 2)
    except OSError as e:
        raise ImageError(f"the archive cannot be read: {e.strerror}", where=str(path)) from None
    if not is_packed(head):
        yield path
        return
    with tempfile.TemporaryDirectory(dir=store.root / "tmp", prefix="plain.") as folder:
        plain = Path(folder) / "plain"
        try:
            with open(plain, "xb", buffering=0) as out:
                for piece in bounded(unpacked_file(path), size, EXPANSION, ALLOWANCE, str(path)):
                    write_all(out, piece)
        except ArtifactError as e:
            raise ImageError(f"the archive is damaged: {e.what}", where=str(path)) from None
        except OSError as e:
            raise StoreError(f"the archive cannot be unpacked: {e.strerror}", where=str(store.root)) from e
        yield plain


@contextlib.contextmanager
def spooled(store: Store, source: BinaryIO) -> Iterator[Path]:
    """Yield the path of a copy of a stream, such as standard input; it goes at the end. Raises StoreError."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(dir=store.root / "tmp", prefix="spool.") as folder:
        copy = Path(folder) / "spool"
        try:
            with open(copy, "xb") as out:
                shutil.copyfileobj(source, out, _STEP)
        except OSError as e:
            raise StoreError(f"the input cannot be kept: {e.strerror}", where=str(store.root)) from e
        yield copy


def is_packed(head: bytes) -> bool:
    """Tell whether a file begins as gzip, zstd, xz and bzip2 do."""
    return head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"))


def bounded(pieces: Iterator[bytes], size: int, times: int, more: int, where: str) -> Iterator[bytes]:
    """Yield the pieces as long as they are no more than `times` the size and `more`; raises ImageError then."""
    left = size * times + more
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise ImageError(f"it unpacks to more than {times} times its size", where=where)
        yield piece


def write_all(out: BinaryIO | FileIO, data: bytes | memoryview) -> None:
    """Write all of `data` to an unbuffered file, which may take it in parts; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[out.write(view[: 1 << 26]) :]
