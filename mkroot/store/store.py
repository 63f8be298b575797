"""The store's folder: entries that appear whole or not at all, and locks between builds.

debs/ packages/ trees/ stages/ frames/ indices/ releases/ …   one folder a kind, entries by key
oci/                                                          one OCI image layout
tmp/                                                          unfinished work, on the same file system
locks/                                                        one lock file a key
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from mkroot.errors import StoreError
from mkroot.store.beyond import Beyond
from mkroot.store.replaced import replace

FORMAT = "1"  # of the store's layout; a store of another format is refused, not guessed at
_NOBODY = 65534  # /proc/sys/kernel/overflowuid
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
        """Open the store at `root`, making it where it is missing; raises StoreError.

        beyond: its second floor, while it has one (mkroot.remote).
        """
        self.root = root
        self.beyond: Beyond | None = None
        try:
            found = _format(root / "format")
            if found and found != FORMAT:
                raise StoreError(
                    f"the store has format {found[:20]!r}, this mkroot reads {FORMAT!r}",
                    where=str(root),
                    hint="set MKROOT_STORE to another folder, or remove this one",
                )
            share(root)
            for name in ("tmp", "locks"):
                if not (root / name).is_dir():
                    (root / name).mkdir(parents=True, exist_ok=True)
            if not found:
                replace(root / "format", FORMAT.encode() + b"\n", sync=False)  # one that is torn is written again
        except OSError as e:
            raise _told(e, root) from e

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
        try:
            with self._aside(key) as aside:
                yield aside
                if sync and aside.is_file():
                    _fsync(aside)
                put(aside, final)
        except OSError as e:
            raise _told(e, self.root) from e

    def replace(self, kind: str, key: str, data: bytes) -> None:
        """Give a record that changes new content, which is on the disk on return; raises StoreError."""
        path = self.path(kind, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, data)
        except OSError as e:
            raise _told(e, self.root) from e

    @contextlib.contextmanager
    def _aside(self, name: str) -> Iterator[Path]:
        aside = self.root / "tmp" / f"{name[:16]}.{os.urandom(8).hex()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
        finally:
            clear(aside)

    @contextlib.contextmanager
    def workshop(self, prefix: str) -> Iterator[Path]:
        """Yield a new folder for unfinished work, gone afterwards; an OSError of the work becomes a StoreError."""
        folder = self.folder(prefix)
        try:
            yield folder
        except OSError as e:
            raise _told(e, self.root) from e
        finally:
            _remove(folder)

    def folder(self, prefix: str) -> Path:
        """Return a new folder for unfinished work, this user's alone; raises StoreError."""
        try:
            import tempfile

            return Path(tempfile.mkdtemp(prefix=prefix, dir=self.root / "tmp"))
        except OSError as e:
            raise _told(e, self.root) from e

    @contextlib.contextmanager
    def lock(self, kind: str, key: str, *, shared: bool = False) -> Iterator[None]:
        """Hold the lock of an entry: two builds that want the same missing entry make it once.

        The lock goes with the process that holds it, however that ends.
        """
        fd = self._locked(kind, key, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def lock_if_free(self, kind: str, key: str) -> Iterator[bool]:
        """Hold the lock of an entry as `lock` does, where nobody else has it; yield whether it is held."""
        try:
            fd = self._locked(kind, key, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            os.close(fd)

    def _readable(self, path: Path, error: OSError) -> int:
        """Return what a reader holds where nothing can be written: the lock's file, the store's folder without one."""
        for place in (path, self.root):
            with contextlib.suppress(OSError):
                return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        raise _told(error, self.root) from error

    def _locked(self, kind: str, key: str, how: int) -> int:
        """Return the descriptor of a lock that is held; raises StoreError, BlockingIOError."""
        path = self.root / "locks" / f"{kind}-{key}"[:200]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as e:
            if how != fcntl.LOCK_SH:
                raise _told(e, self.root) from e
            fd = self._readable(path, e)
        try:
            fcntl.flock(fd, how)
        except BaseException:
            os.close(fd)
            raise
        return fd


def share(root: Path) -> None:
    """Have what is made below a store that a group shares be writable by the group; does nothing for another store.

    Whoever sets up a shared store says so by its mode: `chgrp GROUP STORE; chmod 2775 STORE`. Those in the group trust
    each other, for what one puts there, the others build from.
    """
    try:
        mode = os.stat(root).st_mode
    except FileNotFoundError:
        return
    if mode & stat.S_ISGID and mode & stat.S_IWGRP:
        os.umask(os.umask(0o077) & ~0o070)


def _format(marker: Path) -> str:
    """Return the format of a store, "" where it does not say so yet, or power failed as it was said."""
    try:
        found = marker.read_text("ascii", "backslashreplace")
    except FileNotFoundError:
        return ""
    bare = found.strip("\0\n")
    return "" if bare in ("", FORMAT) and found != f"{FORMAT}\n" else bare


def _told(error: OSError, root: Path) -> StoreError:
    """Return an error of the file system in words: what is wrong with the store, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            "the disk is full: the store cannot be written",
            where=str(root),
            hint="make room there, `mkroot cache prune` helps; or set MKROOT_STORE to another folder",
        )
    if error.errno in (errno.EACCES, errno.EPERM) and (owner := _owner(root)):
        return StoreError(
            f"the store belongs to {owner}: it cannot be written",
            where=str(error.filename or root),
            hint="set MKROOT_STORE to a folder of your own, or have it shared by a group: `chmod 2775` and `chgrp`",
        )
    return StoreError(
        f"the store cannot be written: {error.strerror}",
        where=str(error.filename or root),
        hint="set MKROOT_STORE to a writable folder",
    )


def _owner(root: Path) -> str:
    """Return who owns a store that is another user's, "" for one's own."""
    try:
        uid = os.stat(root).st_uid
    except OSError:
        return ""
    if uid == os.geteuid():
        return ""
    if uid == _NOBODY:  # of nobody in this user namespace
        return "another user"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


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
        _remove(aside)


def _remove(folder: Path) -> None:
    import shutil  # which brings several libraries along

    shutil.rmtree(folder, ignore_errors=True)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
