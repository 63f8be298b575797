"""The output folder `OUT/NAME/ARCH`: made aside, swapped in by one rename, whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mkroot.artifact.files import told
from mkroot.artifact.manifest import FILE_NAME
from mkroot.errors import ArtifactError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2)


def target_folder(out: Path, name: str, architecture: str) -> Path:
    """Return where the artifacts of a recipe are, or would be."""
    return out / name / architecture


@contextlib.contextmanager
def output_folder(out: Path, name: str, architecture: str) -> Iterator[Path]:
    """Yield an empty folder beside the target; on a clean exit it takes the target's place, else it goes.

    An output of an earlier build is replaced as a whole, in one step. Raises ArtifactError where the target cannot be
    written, or is something else than an output of mkroot.
    """
    target = target_folder(out, name, architecture)
    out = out.absolute()  # a tool may run in another folder
    prefix = f".{name.replace('/', '-')}.{architecture}.new"
    with told(target):
        _refuse_foreign(target)
        out.mkdir(parents=True, exist_ok=True)
        aside, lock = _make_aside(out, prefix)
    try:
        with told(target):
            fresh = aside / "out"
            fresh.mkdir()
            fresh.chmod(0o755)
            yield fresh
            place = target_folder(out, name, architecture)
            place.parent.mkdir(parents=True, exist_ok=True)
            _swap(fresh, place, aside / "old")
    finally:
        remove(aside)
        os.close(lock)


def _make_aside(out: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder to work in and return it with its lock, which tells others that its maker lives."""
    with _held(out, fcntl.LOCK_EX):  # nobody takes a folder that has no lock yet for one that was left behind
        _remove_stale(out, prefix)
        aside = Path(tempfile.mkdtemp(prefix=prefix, dir=out))
        lock = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return aside, lock


@contextlib.contextmanager
def _held(folder: Path, kind: int) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)


def _refuse_foreign(target: Path) -> None:
    try:
        found = os.listdir(target)
    except FileNotFoundError:
        return
    if found and FILE_NAME not in found:
        raise ArtifactError(
            "the folder is there already and is not an output of mkroot: it is not replaced",
            where=str(target),
            hint="remove it, or choose another folder with `-o DIR`",
        )


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """Put `fresh` in the place of `target`, which goes to `fresh` or `old` where it was there."""
    try:
        os.rename(fresh, target)  # where there is nothing, or an empty folder
        return
    except OSError as e:
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        paths = os.fsencode(fresh), os.fsencode(target)
        if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(target))
    os.rename(target, old)  # a file system that cannot exchange: for a moment there is no output
    try:
        os.rename(fresh, target)
    except OSError:
        os.rename(old, target)
        raise


def _remove_stale(out: Path, prefix: str) -> None:
    """Remove what builds that were killed have left: a living one holds its folder's lock."""
    for path in sorted(out.glob(prefix + "*")):
        with contextlib.suppress(OSError), _held(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            remove(path)


def remove(path: Path) -> None:
    """Remove a folder and all that is in it, also where folders of a root are not writable; never through a link."""
    try:
        shutil.rmtree(path)
        return
    except OSError:
        if not path.exists():
            return
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
    for folder, names, _ in os.walk(path):  # from the top: a folder is opened before it is listed
        for name in names:
            place = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if not os.path.islink(place):
                    os.chmod(place, 0o700)
    shutil.rmtree(path, ignore_errors=True)
