"""The store's folder: entries that appear whole or not at all, and locks between builds.

debs/ packages/ trees/ stages/ frames/ indices/ releases/ …   one folder a kind, entries by key
oci/                                                          one OCI image layout
tmp/                                                          unfinished work, on the same file system
locks/                                                        one lock file a key
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from mkroot.errors import StoreError

FORMAT = "1"  # of the store's layout; a store of another format is refused, not guessed at
_KEY = re.compile(r"[a-z0-9][a-z0-9._-]*")


def default_root(environ: Mapping[str, str]) -> Path:
    """Return the store's folder: `MKROOT_STORE`, else the user's cache folder."""
    if named := environ.get("MKROOT_STORE"):
        return Path(named).absolute()
    base = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base).absolute() / "mkroot"


class Store:
    """What mkroot keeps between builds.

    An entry is a file or a folder under `kind` and `key`. It is there whole or it is not there: writers work in
    `tmp/` and rename. An entry is never changed once it is there.
    """

    def __init__(self, root: Path) -> None:
        """Open the store at `root`, making it where it is missing; raises StoreError."""
        self.root = root
        try:
            marker = root / "format"
            if not marker.exists():
                (root / "tmp").mkdir(parents=True, exist_ok=True)
                (root / "locks").mkdir(exist_ok=True)
                with self._aside("format") as aside:
                    aside.write_text(FORMAT + "\n")
                    os.rename(aside, marker)
            elif (found := marker.read_text().strip()) != FORMAT:
                raise StoreError(
                    f"the store has format {found[:20]!r}, this mkroot reads {FORMAT!r}",
                    where=str(root),
                    hint="set MKROOT_STORE to another folder, or remove this one",
                )
        except OSError as e:
            raise StoreError(
                f"the store cannot be used: {e.strerror}", where=str(root), hint="set MKROOT_STORE to a writable folder"
            ) from e

    def path(self, kind: str, key: str) -> Path:
        """Return where the entry `key` of `kind` is, or would be."""
        if not _KEY.fullmatch(key):
            raise StoreError(f"not a store key: {key!r}")
        return self.root / kind / key[:2] / key

    def has(self, kind: str, key: str) -> bool:
        """Tell whether the entry is there."""
        return self.path(kind, key).exists()

    @contextlib.contextmanager
    def writing(self, kind: str, key: str, *, sync: bool = True) -> Iterator[Path]:
        """Yield a path that does not exist yet; what the caller makes there becomes the entry on a clean exit.

        The caller makes a file or a folder. An entry that appeared meanwhile is kept, and the new one dropped.
        With `sync`, a file reaches the disk before it gets its name.
        """
        final = self.path(kind, key)
        with self._aside(key) as aside:
            yield aside
            if sync and aside.is_file():
                _fsync(aside)
            put(aside, final)

    @contextlib.contextmanager
    def _aside(self, name: str) -> Iterator[Path]:
        aside = self.root / "tmp" / f"{name[:16]}.{os.urandom(8).hex()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
        finally:
            clear(aside)

    @contextlib.contextmanager
    def lock(self, kind: str, key: str, *, shared: bool = False) -> Iterator[None]:
        """Hold the lock of an entry: two builds that want the same missing entry make it once.

        The lock goes with the process that holds it, however that ends.
        """
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / f"{kind}-{key}"[:200], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def put(aside: Path, final: Path) -> None:
    """Give what was made aside its name, making the folder above it; one that is there already is kept.

    Raises OSError.
    """
    try:
        os.rename(aside, final)
    except OSError:
        if final.exists():
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        os.rename(aside, final)


def clear(aside: Path) -> None:
    """Remove what work left aside, a file or a folder; nothing there, or in the way, is no error."""
    try:
        os.unlink(aside)
    except FileNotFoundError:
        pass
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
