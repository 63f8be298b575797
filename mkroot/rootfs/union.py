"""Overlay mounts of many read-only package trees under one writable folder."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from mkroot.errors import SandboxError
from mkroot.rootfs import linux

LAYERS = 480  # folders a mount; the kernel takes 500 (OVL_MAX_STACK in fs/overlayfs/params.h)
_PAGE = 4096  # bytes of options that mount(2) takes
# What keeps the upper plain: no renames by reference, no files that hold metadata only, no index of hard links. An
# option that this kernel does not know is left out. `nofollow`: what a package brought is never taken for a reference.
_PLAIN = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"), ("xino", "off"), ("uuid", "null"))


class Union(msgspec.Struct, frozen=True, kw_only=True):
    """What `mount_union` did.

    upper: the folder that takes what is written; another than asked for when that one's file system cannot serve.
    why_not: "" when it is mounted; else why overlayfs is not to be had, so that the caller makes the tree of copies.
    groups: how many mounts of merged lower folders stand below it.
    """

    at: Path
    upper: Path
    work: Path
    why_not: str = ""
    in_memory: bool = False
    groups: tuple[Path, ...] = ()

    @property
    def mounted(self) -> bool:
        """Whether the union stands at `at`."""
        return not self.why_not


def mount_union(
    at: Path, lowers: Sequence[Path], upper: Path, work: Path, *, namespaced: bool, tops: Collection[Path] = ()
) -> Union:
    """Mount an overlay at `at`: `lowers`, the first the topmost, read-only below the writable `upper`.

    at, upper, work: folders; they are made where they are missing. `work` must be empty and on the file system of
    `upper`. namespaced: this process is in a user namespace (`Identity.namespaced`). tops: those of `lowers` that were
    an upper once and so may hold whiteouts or opaque folders. Past 480 lowers, neighbours are merged in mounts of their
    own, which must not happen to a top: its whiteouts would end with its group.

    The mounts are in this process's own mount namespace (`identity.assume`). `upper` gets mode 0755, for it gives the
    union's root its mode. What stands in it is on disk only after the caller synced it: the mount is volatile.
    Raises SandboxError where a folder is missing or there are more than 480 groups.
    """
    # The mounting itself has another current folder.
    at, upper, work, lowers = at.absolute(), upper.absolute(), work.absolute(), [p.absolute() for p in lowers]
    for folder in (at, upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    os.chmod(upper, 0o755)
    if not lowers:
        raise SandboxError("a union needs a folder below it", where=str(at))
    for lower in lowers:
        if not lower.is_dir():
            raise SandboxError("a layer's tree is missing", where=str(lower), hint="run `mkroot cache verify`")
    groups: list[Path] = []
    try:
        below = _grouped(work, lowers, frozenset(p.absolute() for p in tops), groups, namespaced)
        try:
            _mount_overlay(at, below, upper, work / "work", namespaced)
            return Union(at=at, upper=upper, work=work, groups=tuple(groups))
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP):
                raise
        memory = work / "memory"
        memory.mkdir()
        linux.mount("tmpfs", str(memory), "tmpfs", linux.MS_NODEV, "mode=755")
        groups.append(memory)
        inner = memory / "upper"
        inner.mkdir(mode=0o755)
        os.chmod(inner, 0o755)
        _mount_overlay(at, below, inner, memory / "work", namespaced)
        return Union(at=at, upper=inner, work=work, in_memory=True, groups=tuple(groups))
    except OSError as e:
        for group in reversed(groups):
            _unmount(group)
        if e.errno not in (errno.EPERM, errno.EACCES, errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise SandboxError(f"the union cannot be mounted: {e.strerror}", where=str(at)) from e
        return Union(at=at, upper=upper, work=work, why_not=f"overlayfs is not to be had here: {e.strerror}")


def unmount(union: Union) -> None:
    """Take a union away, its groups too; its upper stays unless it was in memory. The work folder is removed.

    A union whose files are still open goes when they are closed. Doing it twice is no error.
    """
    if union.mounted:
        _unmount(union.at)
        for group in reversed(union.groups):
            _unmount(group)
    shutil.rmtree(union.work, ignore_errors=True)


def _unmount(at: Path) -> None:
    try:
        linux.umount(str(at), linux.MNT_DETACH | linux.UMOUNT_NOFOLLOW)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def _grouped(
    work: Path, lowers: Sequence[Path], tops: frozenset[Path], groups: list[Path], namespaced: bool
) -> list[Path]:
    """Return at most 480 folders that show what `lowers` show, merging runs of neighbours where there are more."""
    runs = [list(lowers)] if len(lowers) > LAYERS else []
    if not runs:
        return list(lowers)
    pieces: list[list[Path]] = []
    for lower in lowers:
        if lower in tops or not pieces or pieces[-1][0] in tops or len(pieces[-1]) >= LAYERS:
            pieces.append([lower])
        else:
            pieces[-1].append(lower)
    if len(pieces) > LAYERS:
        raise SandboxError(
            f"{len(lowers)} layers, {len(tops)} of which were written to, are more than overlayfs takes",
            hint="merge some of the stages that the image consists of",
        )
    below = []
    for piece in pieces:
        if len(piece) == 1:
            below.append(piece[0])
            continue
        at = work / f"group{len(groups)}"
        at.mkdir()
        _mount_overlay(at, piece, None, None, namespaced)
        groups.append(at)
        below.append(at)
    return below


def _mount_overlay(at: Path, lowers: Sequence[Path], upper: Path | None, work: Path | None, namespaced: bool) -> None:
    """Mount, giving every folder by the short name of a link in one folder.

    So neither the length nor the characters of their paths matter, and /proc/mounts in the union tells nothing of them.
    """
    if work is not None:
        work.mkdir(exist_ok=True)
    options = [*_PLAIN, *((("userxattr", ""),) if namespaced else ())]
    if upper is not None:
        options.append(("volatile", ""))  # no sync of the upper: it is thrown away, or copied and then synced
    links = at.parent / f".{at.name}.links"
    links.mkdir()

    def mount() -> None:
        names = [_link(links, f"{i:x}", lower) for i, lower in enumerate(lowers)]
        writable = None
        if upper is not None and work is not None:
            writable = _link(links, "u", upper), _link(links, "w", work)
        target = _link(links, "at", at)
        try:
            _mount_by_context(target, names, writable, options)
        except OSError as e:
            # ENOSYS: before 5.2; EINVAL: before 6.8, which knows no `lowerdir+`, or a real fault, which comes up again.
            if e.errno not in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
                raise
            _mount_by_options(target, names, writable, options)

    try:
        _in_folder(links, mount)
    finally:
        shutil.rmtree(links, ignore_errors=True)


def _mount_by_context(
    at: str, lowers: Sequence[str], writable: tuple[str, str] | None, options: list[tuple[str, str]]
) -> None:
    """Mount through fsopen, where layers are given one by one."""
    context = linux.fsopen("overlay")
    try:
        linux.fsconfig(context, linux.FSCONFIG_SET_STRING, "source", "mkroot")
        for name, value in options:
            try:
                if value:
                    linux.fsconfig(context, linux.FSCONFIG_SET_STRING, name, value)
                else:
                    linux.fsconfig(context, linux.FSCONFIG_SET_FLAG, name)
            except OSError as e:
                if e.errno != errno.EINVAL or name == "userxattr":
                    raise
        for lower in lowers:
            linux.fsconfig(context, linux.FSCONFIG_SET_STRING, "lowerdir+", lower)
        if writable is not None:
            linux.fsconfig(context, linux.FSCONFIG_SET_STRING, "upperdir", writable[0])
            linux.fsconfig(context, linux.FSCONFIG_SET_STRING, "workdir", writable[1])
        linux.fsconfig(context, linux.FSCONFIG_CMD_CREATE)
        mount = linux.fsmount(context)
        try:
            linux.move_mount(mount, at)
        finally:
            os.close(mount)
    finally:
        os.close(context)


def _mount_by_options(
    at: str, lowers: Sequence[str], writable: tuple[str, str] | None, options: list[tuple[str, str]]
) -> None:
    """Mount through mount(2), whose options must fit in a page, and which refuses all if it does not know one."""
    layers = ["lowerdir=" + ":".join(lowers)]
    if writable is not None:
        layers += [f"upperdir={writable[0]}", f"workdir={writable[1]}"]
    fault = OSError(errno.EINVAL, os.strerror(errno.EINVAL), at)
    for unknown in (("uuid",), ("uuid", "volatile"), tuple(n for n, _ in options if n != "userxattr")):
        words = [n + ("=" + v if v else "") for n, v in options if n not in unknown]
        data = ",".join([*words, *layers])
        if len(data) >= _PAGE:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), at)
        try:
            linux.mount("mkroot", at, "overlay", 0, data)
            return
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            fault = e
    raise fault


def _link(links: Path, name: str, target: Path) -> str:
    os.symlink(target, links / name)
    return name


def _in_folder(folder: Path, work: Callable[[], None]) -> None:
    """Call `work` in a thread whose current folder is `folder`; that of the process stays."""
    faults: list[OSError] = []

    def run() -> None:
        try:
            linux.unshare(linux.CLONE_FS)
            os.chdir(folder)
            work()
        except OSError as e:
            faults.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]
