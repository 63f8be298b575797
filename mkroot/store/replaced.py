"""A file that is given new content in place of its old: whole or not at all, whoever else does so, however it ends.

The store's entries never change; its indices and records do, and so does a recipe's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def replace(path: Path, data: bytes, mode: int | None = None, *, sync: bool = True) -> None:
    """Give the file at `path` this content; see `replacing`."""
    with replacing(path, mode, sync=sync) as f:
        view = memoryview(data)
        while view:
            view = view[f.write(view) :]


@contextlib.contextmanager
def replacing(path: Path, mode: int | None = None, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Yield an unbuffered file whose content is that of the file at `path` on a clean exit, with `sync` on the disk.

    It is written beside, always under one name: what a killed process leaves, the next one takes over. Of several who
    write at once, each waits for the one before. mode: whatever the umask is; None: what the umask leaves of 0666.
    Raises OSError.
    """
    aside = aside_of(path)
    try:
        fd = _held(aside, 0o600 if mode == 0o600 else 0o666)
    except FileNotFoundError as e:
        raise FileNotFoundError(e.errno, e.strerror, str(path.parent)) from None  # the name beside is nobody's concern
    try:
        os.ftruncate(fd, 0)
        with open(fd, "wb", buffering=0, closefd=False) as f:
            yield f
        if mode is not None:
            os.fchmod(fd, mode)
        if sync:
            os.fsync(fd)
        os.rename(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    finally:
        os.close(fd)


def aside_of(path: Path) -> Path:
    """Return where the new content of a file is written until it is whole."""
    return path.with_name(f".{path.name[:120]}.new")


def _held(aside: Path, mode: int) -> int:
    """Return a descriptor of the file that is written, held against others who write it."""
    while True:
        fd = -1
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is(fd, aside):
                return fd
        except BaseException:  # Ctrl-C, which may come before the descriptor is known here
            if fd >= 0:
                os.close(fd)
            _forget(aside)
            raise
        os.close(fd)  # another one's by now: it was renamed while this process waited


def _forget(aside: Path) -> None:
    """Remove a file that was made for nothing, unless somebody writes it."""
    with contextlib.suppress(OSError):
        fd = os.open(aside, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(fd, aside):
                os.unlink(aside)
        finally:
            os.close(fd)


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
