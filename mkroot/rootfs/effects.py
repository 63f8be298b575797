"""What a script does to a root, as a value: what it read, what it left, and how to do it again without the script."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping

import msgspec

from mkroot.rootfs import linux
from mkroot.rootfs.scrub import REMOVED
from mkroot.rootfs.states import State, States
from mkroot.rootfs.trace import VOLATILE, Trace, identity
from mkroot.store.layer import NOW
from mkroot.tar.entry import DIR, FILE, SYMLINK, Entry, parent

LARGEST = 8 << 20  # bytes that a script may write for its effects to be kept
_SECRETS = (*(row.glob for row in REMOVED if row.identity), "etc/machine-id")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

STRANGE, DATED = -4, -1  # answers of `difference`: it never holds; one of VOLATILE differs

Environment = tuple[tuple[str, str], ...]


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A path that was looked at, how closely (states.KIND …), and what it was."""

    path: str
    level: int
    state: State


class Write(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A path that is changed. entry: what it becomes, its mtime NOW for the time of the writing; gone: nothing.

    content: a FILE's, or what is added to it where `more` says so.
    """

    entry: Entry
    content: bytes = b""
    gone: bool = False
    more: bool = False


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """One script's. environment: all that it saw but VOLATILE; volatile: those of these that it may have looked at.

    reads: in order of paths, so that a folder comes before what is in it. writes: in the order of their times.
    parents: folders in which names came or went, whatever is left of that. strange: why they cannot be known; the rest
    is empty then.
    """

    argv: tuple[str, ...]
    environment: Environment
    volatile: Environment
    reads: tuple[Read, ...]
    writes: tuple[Write, ...]
    parents: tuple[str, ...]
    strange: str = ""

    def paths(self) -> list[str]:
        """Return every path that it changes."""
        return [w.entry.path for w in self.writes if not w.gone] + list(self.parents)


class Unknowable(Exception):
    """The effects of a script cannot be kept; says why."""


def steady(environment: Mapping[str, str]) -> Environment:
    """Return the variables that every record has."""
    return tuple(sorted((k, v) for k, v in environment.items() if k not in VOLATILE))


def difference(
    effects: Effects, states: States, argv: tuple[str, ...], environment: Mapping[str, str]
) -> tuple[int, str]:
    """Return what is not as it was when the effects were recorded, "" when all is; and how much is, before that."""
    if effects.strange:
        return STRANGE, effects.strange
    if effects.argv != argv:
        return -3, "its arguments"
    if effects.environment != steady(environment):
        return -2, "its environment"
    for name, value in effects.volatile:
        if environment.get(name, "") != value:
            return DATED, name
    number = 0
    try:
        for number, read in enumerate(effects.reads):
            now = states.look(read.path, read.level if read.state.kind else 0)
            if now != read.state:
                return number, f"/{read.path}"
    except Exception as e:  # a file too large, or one that cannot be read
        return number, repr(e)
    return number, ""


def gather(trace: Trace, argv: tuple[str, ...], environment: Mapping[str, str], start: float) -> Effects:
    """Return the effects of a script that has ended; raises Unknowable, OSError. start: when its stage began."""
    if trace.strange:
        raise Unknowable(trace.strange)
    states = trace.states
    named = set(trace.named)
    writes: list[tuple[int, Write]] = []
    left = LARGEST
    epoch = int(environment.get("SOURCE_DATE_EPOCH", "0"))
    for path, before in trace.own.items():
        now = identity(states.at, path)
        if now == before:
            continue
        if now is None:
            writes.append((0, Write(Entry(path, FILE, 0), gone=True)))
            continue
        entry, content = _final(states, path, start, epoch)
        left -= len(content)
        if left < 0:
            raise Unknowable(f"it writes more than {LARGEST >> 20} MiB")
        _check(path, content, trace, folder=entry.kind == DIR)
        named |= {name for name in VOLATILE if name.encode() in content}
        more = path in trace.appended
        if more:
            size, digest = trace.appended[path]
            if hashlib.sha256(content[:size]).hexdigest() != digest:
                raise Unknowable(f"/{path} does not begin as it did")
            content = content[size:]
        writes.append((now[5], Write(entry, content, more=more)))
    for name in VOLATILE:
        value = environment.get(name, "").encode()
        if name not in named and value and any(value in w.content or value.decode() in w.entry.link for _, w in writes):
            named.add(name)
    writes.sort(key=lambda w: (w[0], w[1].entry.path))
    parents = [p for p in sorted(trace.parents) if stat.S_ISDIR(_mode(states.at, p))]
    return Effects(
        argv=argv,
        environment=steady(environment),
        volatile=tuple((n, environment.get(n, "")) for n in VOLATILE if n in named),
        reads=tuple(Read(path, *found) for path, found in sorted(trace.reads.items())),
        writes=tuple(w for _, w in writes),
        parents=tuple(parents),
    )


def _mode(at: int, path: str) -> int:
    try:
        return os.stat(path or ".", dir_fd=at, follow_symlinks=False).st_mode
    except OSError:
        return 0


def _check(path: str, content: bytes, trace: Trace, *, folder: bool) -> None:
    same = trace.reads[path][1].digest == hashlib.sha256(content).hexdigest()  # a program that can write keys is none
    if (b"PRIVATE KEY-----" in content and not same) or (
        content and any(fnmatch.fnmatchcase(path, glob) for glob in _SECRETS)
    ):
        raise Unknowable(f"it makes a secret or an identity, /{path}")
    if folder and path in trace.removed:
        raise Unknowable(f"it puts something in the place of the folder /{path}")


def _final(states: States, path: str, start: float, epoch: int) -> tuple[Entry, bytes]:
    """Return what stands at a path after a script, with its content."""
    state = states.look(path, 1)
    if state.kind not in (FILE, DIR, SYMLINK):
        raise Unknowable(f"it makes /{path}, a pipe, device or socket")
    if state.links > 1:
        raise Unknowable(f"it makes a file with several names, /{path}")
    st = os.stat(path, dir_fd=states.at, follow_symlinks=False)
    mtime = NOW if st.st_mtime >= int(start) or int(st.st_mtime) > epoch else int(st.st_mtime)
    content = states.read(path) if state.kind == FILE else b""
    entry = Entry(
        path,
        state.kind,
        0o777 if state.kind == SYMLINK else state.mode,
        state.uid,
        state.gid,
        mtime,
        len(content),
        state.text,
        xattrs=dict(state.attributes),
    )
    return entry, content


# ---- again


def put(effects: Effects, at: int) -> None:
    """Change a mounted root as the script did; raises OSError, and then the root is half-way between."""
    gone = sorted((w.entry.path for w in effects.writes if w.gone), key=lambda p: -p.count("/"))
    for path in gone:
        with _inside(at, parent(path)) as folder:
            _clear(folder, _name(path))
    folders = sorted((w.entry for w in effects.writes if not w.gone and w.entry.kind == DIR), key=lambda e: e.path)
    for entry in folders:
        _folder(at, entry)
    for write in effects.writes:
        if not write.gone and write.entry.kind != DIR:
            with _inside(at, parent(write.entry.path)) as folder:
                _member(folder, _name(write.entry.path), write)
    for path in sorted({*effects.parents, *(e.path for e in folders)}, key=lambda p: -p.count("/")):
        with _inside(at, path) as folder:
            os.utime(folder)
    for entry in folders:
        if entry.mtime != NOW:
            with _inside(at, entry.path) as folder:
                os.utime(folder, (entry.mtime, entry.mtime))


def _name(path: str) -> str:
    name = path.rpartition("/")[2]
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    return name


@contextlib.contextmanager
def _inside(at: int, path: str) -> Iterator[int]:
    fd = linux.open_beneath(at, path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def _clear(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def _folder(at: int, entry: Entry) -> None:
    with _inside(at, parent(entry.path)) as above:
        name = _name(entry.path)
        if not stat.S_ISDIR(_mode(above, name)):
            _clear(above, name)
            os.mkdir(name, 0o700, dir_fd=above)
    with _inside(at, entry.path) as fd:
        _dress(fd, entry)


def _member(folder: int, name: str, write: Write) -> None:
    entry = write.entry
    mode = _mode(folder, name)
    if entry.kind == SYMLINK:
        _clear(folder, name)
        os.symlink(entry.link, name, dir_fd=folder)
        os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
        if entry.mtime != NOW:
            os.utime(name, (entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)
        return
    if stat.S_ISREG(mode) and os.stat(name, dir_fd=folder, follow_symlinks=False).st_nlink == 1:
        flags = os.O_APPEND if write.more else os.O_TRUNC
        fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    else:
        _clear(folder, name)
        fd = os.open(name, _NEW, 0o600, dir_fd=folder)
    try:
        view = memoryview(write.content)
        while view:
            view = view[os.write(fd, view) :]
        _dress(fd, entry)
        os.utime(fd, None if entry.mtime == NOW else (entry.mtime, entry.mtime))
    finally:
        os.close(fd)


def _dress(fd: int, entry: Entry) -> None:
    """Give a file or folder its owner, mode and attributes."""
    st = os.fstat(fd)
    if (st.st_uid, st.st_gid) != (entry.uid, entry.gid):
        os.fchown(fd, entry.uid, entry.gid)
    if stat.S_IMODE(os.fstat(fd).st_mode) != entry.mode:
        os.fchmod(fd, entry.mode)
    for name in os.listxattr(fd):
        if name not in entry.xattrs and (name == "security.capability" or name.startswith("system.posix_acl_")):
            os.removexattr(fd, name)
    for name, value in entry.xattrs.items():
        os.setxattr(fd, name, value)
