"""What one script read and changed, told by the system calls that it made, each before it was made.

Strict: whatever cannot be followed makes the script one whose effects are not kept (`strange`).
"""

from __future__ import annotations

import os
import re
import stat
import time

import msgspec

from mkroot.rootfs.states import CONTENT, KIND, META, State, States, TooLarge
from mkroot.rootfs.tree import LINK_LIMIT
from mkroot.tar.entry import DIR, FILE, SYMLINK, parent

# Of /proc and /dev: what is the same for every script in every sandbox, or is no input by what the key of a stage says.
_PLAIN = re.compile(
    r"dev|dev/(?:null|zero|full|tty|u?random)|proc/(?:filesystems|sys(?:/.*)?|cpuinfo|meminfo|stat|version|uptime|loadavg)"
    r"|proc|proc/(?:self|thread-self)(?:/(?:exe|maps|stat|status|comm|cmdline|fd|fdinfo|attr/.*|loginuid|sessionid|uid_map|gid_map|oom_.*))?"
    r"|proc/vz|proc/bc|proc/1/root"  # ischroot(1) and systemd ask for it; nobody may
)
_DESCRIPTOR = re.compile(r"(?:proc/(?:self|thread-self)|dev)/fd/(\d+)")
_STANDARD = {"dev/stdin": 0, "dev/stdout": 1, "dev/stderr": 2}
_DEVICES = ("dev/null", "dev/zero", "dev/full", "dev/tty")

_TICK = 12_000_000  # nanoseconds: more than a tick of the coarse clock, at 100 Hz
# Since Linux 6.13 a file whose times were asked for gets a finer time when it changes again (multigrain timestamps).
FINE = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 13)

VOLATILE = ("SOURCE_DATE_EPOCH", "DPKG_RUNNING_VERSION")
"""Variables that change from build to build; a script is taken to depend on one that any file names that it read."""
_NAMED: dict[str, frozenset[str]] = {}  # by digest of the content

Identity = tuple[int, ...]


class Special(Exception):
    """A path that leads into /proc or /dev. path: the rest of it, relative to the root."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class Trace:
    """The reads and changes of one script.

    reads: by path, how closely it was looked at, and what it was before the script changed it. own: what the script may
    have changed, with what told its content apart before. parents: folders in which names came or went. appended: files
    of which nothing was seen. strange: why the effects cannot be kept, "" while they can. idle: nobody
    wants to know them, and nothing is told.
    """

    def __init__(self, states: States) -> None:
        self.states = states
        self.reads: dict[str, tuple[int, State]] = {}
        self.own: dict[str, Identity | None] = {}
        self.parents: set[str] = set()
        self.appended: dict[str, tuple[int, str]] = {}
        self.removed: set[str] = set()  # folders
        self.strange = ""
        self.idle = False
        self.named: set[str] = set()  # of VOLATILE
        self._kinds: dict[str, tuple[str, str]] = {}
        self._times: dict[str, int] = {}  # of folders, before names came or went in them
        self._places: dict[tuple[str, str, bool], str | None] = {}
        self._moving = False

    # ---- names

    def resolve(self, base: str, path: str, *, follow: bool) -> str | None:
        """Return where a path leads, None for nowhere; every link and folder on the way is read. Raises Special."""
        key = (base, path, follow)
        if key in self._places:
            return self._places[key]
        self._moving = False
        place = self._resolve(base, path, follow)
        if not self._moving:
            self._places[key] = place
        return place

    def _resolve(self, base: str, path: str, follow: bool) -> str | None:
        done = [] if path.startswith("/") else [p for p in base.split("/") if p]
        todo = [p for p in reversed(path.split("/")) if p not in ("", ".")]
        folder = path.endswith(("/", "/."))
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                if done:
                    done.pop()
                continue
            if (not done and part in ("proc", "dev")) or done[:1] in (["proc"], ["dev"]):
                raise Special("/".join([*done, part, *reversed(todo)]))
            place = "/".join([*done, part])
            kind, link = self._kind(place)
            if kind == SYMLINK and (todo or follow or folder):
                links += 1
                if links > LINK_LIMIT:
                    return None
                if link.startswith("/"):
                    done.clear()
                todo.extend(p for p in reversed(link.split("/")) if p not in ("", "."))
                folder = folder or link.endswith("/")
                continue
            if todo and kind != DIR:
                return None
            done.append(part)
        return "/".join(done)

    def _kind(self, path: str) -> tuple[str, str]:
        found = self._kinds.get(path)
        self._moving = self._moving or path in self.own  # what was asked for may not have been done yet
        if found is None or path in self.own:
            self.read(path, KIND)
            try:
                mode = os.stat(path, dir_fd=self.states.at, follow_symlinks=False).st_mode
                link = os.readlink(path, dir_fd=self.states.at) if stat.S_ISLNK(mode) else ""
                found = DIR if stat.S_ISDIR(mode) else SYMLINK if link else FILE if stat.S_ISREG(mode) else "?", link
            except (FileNotFoundError, NotADirectoryError):
                found = "", ""
            self._kinds[path] = found
        return found

    def kind(self, path: str) -> str:
        """Return what stands at a path now, "" for nothing; it counts as read."""
        return self._kind(path)[0] if path else DIR

    # ---- reads and changes

    def read(self, path: str, level: int) -> None:
        """Note that a path was looked at, unless what is there is the script's own."""
        if path in self.own:
            if level > KIND and path in self.appended:
                self.odd(f"it reads /{path}, to which it wrote more")
            return
        known = self.reads.get(path)
        if known is not None and known[0] >= level:
            return
        try:
            state = self.states.look(path, level, self._before)
        except TooLarge:
            self.odd(f"it reads /{path}, which is too large to be compared")
            return
        if level > KIND and path in self._times:
            state = msgspec.structs.replace(state, mtime=self._times[path])
        self.reads[path] = (level if state.kind else CONTENT, state)
        if level == CONTENT and state.kind == FILE:
            self.named |= self._names(path, state.digest)

    def _names(self, path: str, digest: str) -> frozenset[str]:
        """Return which of VOLATILE a file names."""
        found = _NAMED.get(digest)
        if found is None:
            content = self.states.read(path)
            found = _NAMED[digest] = frozenset(name for name in VOLATILE if name.encode() in content)
        return found

    def _before(self, folder: str, names: list[str]) -> list[str]:
        """Return the names that a folder had before the script."""
        if not self.own:
            return names
        found = set(names)
        for path in self.own:
            if path and parent(path) == folder:
                name = path.rpartition("/")[2]
                (found.add if self.reads[path][1].kind else found.discard)(name)
        return list(found)

    def change(self, path: str, level: int, *, named: bool = False) -> None:
        """Note that a path may be changed, after looking at it. named: its name comes or goes."""
        if path not in self.own:
            self.read(path, level)
            self.own[path] = settled(self.states.at, path)
        elif path in self.appended:
            self.odd(f"it changes /{path}, to which it wrote more")
        if named:
            folder = parent(path)
            if folder not in self._times:
                self._times[folder] = self.states.look(folder, META).mtime
            self.parents.add(folder)
            self._kinds.pop(path, None)
            self._places.clear()

    def rewrite(self, path: str, level: int) -> None:
        """Note that a file is changed in place: under each of its names, and only one is known."""
        before = identity(self.states.at, path)
        if before is not None and before[3] > 1:
            self.odd(f"it changes /{path}, which has several names")
        self.change(path, level)

    def odd(self, why: str) -> None:
        """Note why the effects cannot be kept; the first reason counts."""
        self.strange = self.strange or why

    # ---- calls

    def open(self, path: str, flags: int) -> None:
        """A file is opened (open(2))."""
        kind = self.kind(path)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            self.odd(f"it makes a file without a name in /{path}")
        elif flags & os.O_PATH:
            self.read(path, META)
        elif kind == "":
            if flags & os.O_CREAT:
                self.change(path, KIND, named=True)
        elif kind == "?":
            self.odd(f"it opens /{path}, a pipe, device or socket")
        elif kind == DIR or not (flags & (os.O_ACCMODE | os.O_TRUNC)):
            if not (flags & os.O_CREAT and flags & os.O_EXCL):
                self.read(path, CONTENT)
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            pass  # it is there
        elif flags & os.O_TRUNC:
            self.rewrite(path, KIND)
        elif flags & os.O_APPEND and flags & os.O_ACCMODE == os.O_WRONLY:
            if path not in self.own:
                st = os.stat(path, dir_fd=self.states.at, follow_symlinks=False)
                self.rewrite(path, KIND)
                self.appended[path] = (st.st_size, self.states.digest(path, st))
        else:
            self.rewrite(path, CONTENT)

    def remove(self, path: str, *, folder: bool) -> None:
        """A name is removed (unlink(2), rmdir(2))."""
        kind = self.kind(path)
        if not kind or (kind == DIR) != folder:
            return
        if folder:
            self.read(path, CONTENT)
            self.removed.add(path)
        self.appended.pop(path, None)
        self.change(path, KIND, named=True)

    def make(self, path: str, *, folder: bool) -> None:
        """A folder or link is made where nothing is (mkdir(2), symlink(2))."""
        if not self.kind(path):
            if folder and path in self.removed:
                self.odd(f"it makes the folder /{path} again")
            self.change(path, KIND, named=True)

    def move(self, old: str, new: str) -> None:
        """A file gets another name in place of the one that it had (rename(2))."""
        kind = self.kind(old)
        if not kind:
            return
        if kind == DIR or self.kind(new) == DIR:
            self.odd(f"it moves the folder /{old}")
        self.read(old, CONTENT)
        self.change(old, CONTENT, named=True)
        self.appended.pop(new, None)
        self.change(new, KIND, named=True)

    def join(self, old: str, new: str) -> None:
        """A file gets a further name (link(2))."""
        if self.kind(old) and not self.kind(new):
            self.rewrite(old, CONTENT)
            self.change(new, KIND, named=True)

    def alter(self, path: str) -> None:
        """A file's owner, mode, times, size or attributes are changed."""
        kind = self.kind(path)
        if kind:
            (self.rewrite if kind == FILE else self.change)(path, CONTENT)

    def special(self, path: str, number: int, *, changes: bool, listed: bool) -> int:
        """Look at a path in /proc or /dev; return the number of the descriptor that it stands for, or -1.

        number: of the process that looks, in its own PID namespace. listed: it may read a folder's names.
        """
        path = path.replace(f"proc/{number}/", "proc/self/", 1) if path.startswith(f"proc/{number}/") else path
        if found := _DESCRIPTOR.fullmatch(path):
            return int(found[1])
        if path in _STANDARD:
            return _STANDARD[path]
        if not _PLAIN.fullmatch(path) or (listed and path in ("proc", "dev")):
            self.odd(f"it reads /{path}")
        elif changes and path not in _DEVICES:
            self.odd(f"it writes to /{path}")
        return -1


def settled(at: int, path: str) -> Identity | None:
    """Return a path's identity when any change from now on would give it another one.

    Files get their times from a clock that ticks every few milliseconds: what was just written waits for the next.
    """
    found = identity(at, path)
    if found is not None and time.clock_gettime_ns(time.CLOCK_REALTIME) - found[2] < _TICK and not FINE:
        time.sleep(_TICK / 1e9)
    return found


def identity(at: int, path: str) -> Identity | None:
    """Return what tells one state of a path from another, None where nothing is; [3] is the number of its names."""
    try:
        st = os.stat(path or ".", dir_fd=at, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    links = 1 if stat.S_ISDIR(st.st_mode) else st.st_nlink
    return st.st_dev, st.st_ino, st.st_ctime_ns, links, st.st_size, st.st_mtime_ns
