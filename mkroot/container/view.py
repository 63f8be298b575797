"""A union's folders read without mounting them: what a path is in it, following its own links and never the host's."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_LINKS = 40  # links on the way to a file (path_resolution(7))


class View:
    """The folders of a union, the topmost first, as overlayfs would show them."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = [str(f) for f in folders]

    def lstat(self, path: str) -> tuple[str, os.stat_result] | None:
        """Return where on disk a path is, and its status, or None where it is not; no link is followed.

        path: relative to the root, of plain names. What is below something else than a folder is not there.
        """
        folders = self._folders
        parts = [p for p in path.split("/") if p]
        if not parts:
            return folders[0], os.lstat(folders[0])
        for part in parts[:-1]:
            folders = self._below(folders, part)
        for folder in folders:
            at = f"{folder}/{parts[-1]}"
            try:
                st = os.lstat(at)
            except OSError:
                continue
            return None if _whiteout(st) else (at, st)
        return None

    def names(self, path: str) -> list[str]:
        """Return the names that a folder has in the union, sorted; none where there is no folder."""
        folders = self._folders
        for part in [p for p in path.split("/") if p]:
            folders = self._below(folders, part)
        found: dict[str, bool] = {}
        for folder in folders:
            for name in os.listdir(folder):
                if name not in found:
                    found[name] = not _whiteout(os.lstat(f"{folder}/{name}"))
        return sorted(name for name, there in found.items() if there)

    @staticmethod
    def _below(folders: list[str], name: str) -> list[str]:
        """Return the folders that the union merges as `name`."""
        found = []
        for folder in folders:
            at = f"{folder}/{name}"
            try:
                st = os.lstat(at)
            except OSError:
                continue
            if not stat.S_ISDIR(st.st_mode):
                break
            found.append(at)
            if _opaque(at):
                break
        return found

    def resolve(self, path: str) -> str:
        """Return the path without links on its way or at its end, as a process in the root would find it.

        What is not there yet is taken as it is written; `..` never leaves the root. Raises OSError (ELOOP).
        """
        todo = [p for p in path.split("/") if p not in ("", ".")][::-1]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            found = self.lstat("/".join([*done, part]))
            if found is None or not stat.S_ISLNK(found[1].st_mode):
                done.append(part)
                continue
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(found[0])
            if target.startswith("/"):
                done = []
            todo += [p for p in target.split("/") if p not in ("", ".")][::-1]
        return "/".join(done)

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        """Return a regular file's content, at most `limit` bytes; empty where there is none."""
        try:
            found = self.lstat(self.resolve(path))
            if found is None or not stat.S_ISREG(found[1].st_mode):
                return b""
            with open(found[0], "rb") as f:
                return f.read(limit)
        except OSError:
            return b""


def _whiteout(st: os.stat_result) -> bool:
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def _opaque(path: str) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            pass
    return False
