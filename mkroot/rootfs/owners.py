"""Answers changes of owner in a sandbox with a single id, and records whom the files would belong to.

Regular files and folders carry the owner as an extended attribute, so that it survives renames, further links and
copies into the upper of a later stage. Links, pipes and devices cannot; theirs are recorded by path. A device becomes
an empty file that says in an attribute which device it is. `mkroot.rootfs.upper` reads all of these back. What a
script sees with stat stays root.

Where mkroot is root and only the sandbox is in a user namespace, it makes the devices that scripts may not.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import threading
from pathlib import PurePosixPath

from mkroot.rootfs import linux
from mkroot.rootfs.seccomp import CALLS, Calls
from mkroot.store import marks

# include/uapi/linux/seccomp.h
_RECEIVE, _SEND, _VALID = 0xC0502100, 0xC0182101, 0x40082102
_NOTICE = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_CONTINUE = 1
_AT_EMPTY_PATH, _AT_SYMLINK_NOFOLLOW = 0x1000, 0x100
_KEEP = 0xFFFFFFFF


class Owners:
    """Serves a listener in a thread of its own until `close`.

    by_path: owner and group of what cannot carry an attribute, by path relative to the root. real: whether devices are
    made, and not marked.
    """

    def __init__(self, listener: int, *, real: bool = False) -> None:
        self._real = real
        self.by_path: dict[str, tuple[int, int]] = {}
        calls = CALLS[os.uname().machine]
        self._names = {number: name for name, number in calls.notified.items()}
        self._calls: Calls = calls
        self._listener = listener
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; doing it twice is no error."""
        if self._listener >= 0:
            os.close(self._stopped)
            self._thread.join()
            os.close(self._stop)
            os.close(self._listener)
            self._listener = -1

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            for fd, event in poll.poll():
                if fd == self._stop:
                    return
                if event & (select.POLLHUP | select.POLLERR):
                    poll.unregister(fd)
                    continue
                with contextlib.suppress(OSError):  # the caller was killed meanwhile
                    self._answer()

    def _answer(self) -> None:
        notice = bytearray(_NOTICE.size)
        fcntl.ioctl(self._listener, _RECEIVE, notice, True)
        token, pid, _, number, _, _, *arguments = _NOTICE.unpack(notice)
        fault, flags = 0, 0
        try:
            call = _Call(pid, lambda: fcntl.ioctl(self._listener, _VALID, struct.pack("=Q", token)))
            flags = self._do(call, self._names[number], arguments)
        except OSError as e:
            fault = -(e.errno or errno.EIO)
        fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(token, 0, fault, flags))

    def _do(self, call: _Call, name: str, a: list[int]) -> int:
        if name in ("mknod", "mknodat"):
            at, path, mode, device = (linux.AT_FDCWD, *a[:3]) if name == "mknod" else (_signed(a[0]), *a[1:4])
            if stat.S_IFMT(mode) not in (stat.S_IFCHR, stat.S_IFBLK):
                return _CONTINUE
            call.make_device(at, call.text(path), mode & 0xFFFF, device, real=self._real)
            return 0
        if name == "fchown":
            fd, uid, gid = call.descriptor(_signed(a[0])), a[1], a[2]
        elif name == "fchownat":
            at, text, flags = _signed(a[0]), call.text(a[1]), a[4]
            uid, gid = a[2], a[3]
            if not text and flags & _AT_EMPTY_PATH:
                fd = call.descriptor(at)
            else:
                fd = call.open(at, text, follow=not flags & _AT_SYMLINK_NOFOLLOW)
        else:
            fd, uid, gid = call.open(linux.AT_FDCWD, call.text(a[0]), follow=name == "chown"), a[1], a[2]
        try:
            call.check()
            self._give(call, fd, uid & _KEEP, gid & _KEEP)
        finally:
            os.close(fd)
        return 0

    def _give(self, call: _Call, fd: int, uid: int, gid: int) -> None:
        st = os.fstat(fd)
        place = f"/proc/self/fd/{fd}"
        if not stat.S_ISREG(st.st_mode) and not stat.S_ISDIR(st.st_mode):
            path = os.readlink(place).lstrip("/")
            old = self.by_path.get(path, (0, 0))
            self.by_path[path] = (old[0] if uid == _KEEP else uid, old[1] if gid == _KEEP else gid)
            return
        old_uid, old_gid = _marked(place) or (0, 0)
        if (old_uid, old_gid, uid, gid) == (0, 0, 0, 0):
            uid, gid = _copied(call, os.readlink(place))
        mark = f"{old_uid if uid == _KEEP else uid}:{old_gid if gid == _KEEP else gid}"
        if stat.S_ISREG(st.st_mode) and st.st_mode & (stat.S_ISUID | stat.S_ISGID):
            os.chmod(place, stat.S_IMODE(st.st_mode) & 0o1777)  # as chown(2) does
        if mark != "0:0" or (old_uid, old_gid) != (0, 0):
            os.setxattr(place, marks.OWNER, mark.encode())


def _marked(place: str) -> tuple[int, int] | None:
    """Return the owner that a file's mark names, None where it has none, or one that makes no sense."""
    try:
        return marks.owner(os.getxattr(place, marks.OWNER))
    except OSError:
        return None


def _copied(call: _Call, path: str) -> tuple[int, int]:
    """Return the owner that a file was meant to get from the one that it replaces or saves.

    passwd's tools write FILE+ and FILE-, give them the owner that stat shows of FILE, and rename. Here stat shows root.
    """
    if path.endswith(("+", "-")):
        with contextlib.suppress(OSError):
            fd = call.open(linux.AT_FDCWD, "/" + path[:-1].lstrip("/"), follow=False)
            try:
                return _marked(f"/proc/self/fd/{fd}") or (0, 0)
            finally:
                os.close(fd)
    return 0, 0


def _signed(number: int) -> int:
    return (number & 0xFFFFFFFF) - (1 << 32) if number & 0x80000000 else number & 0xFFFFFFFF


class _Call:
    """A process that waits for its answer: its memory, and files as it would find them."""

    def __init__(self, pid: int, check: object) -> None:
        self._proc = f"/proc/{pid}"
        self._check = check

    def check(self) -> None:
        """Make sure that the process is still the one that asked; raises OSError."""
        if callable(self._check):
            self._check()

    def text(self, address: int) -> str:
        """Return the string at an address of its memory."""
        found = b""
        fd = os.open(f"{self._proc}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.check()
            while b"\0" not in found and len(found) < 4096:
                # Up to the end of the page: what lies behind may not be there.
                part = os.pread(fd, 4096 - (address + len(found)) % 4096, address + len(found))
                if not part:
                    break
                found += part
        finally:
            os.close(fd)
        return os.fsdecode(found.partition(b"\0")[0])

    def descriptor(self, number: int) -> int:
        """Return an O_PATH descriptor of what its descriptor stands for."""
        return os.open(f"{self._proc}/fd/{number}", os.O_PATH | os.O_CLOEXEC)

    def open(self, at: int, path: str, *, follow: bool) -> int:
        """Return an O_PATH descriptor of a path, resolved inside its root."""
        if not path:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not path.startswith("/"):
            base = os.readlink(f"{self._proc}/cwd" if at == linux.AT_FDCWD else f"{self._proc}/fd/{at}")
            root = os.readlink(f"{self._proc}/root").rstrip("/")
            path = f"{base.removeprefix(root)}/{path}"
        fd = os.open(f"{self._proc}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return linux.open_in_root(fd, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        finally:
            os.close(fd)

    def status(self, name: str) -> str:
        """Return a field of its /proc/PID/status."""
        with open(f"{self._proc}/status", encoding="utf-8", errors="replace") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))

    def make_device(self, at: int, path: str, mode: int, device: int, *, real: bool) -> None:
        """Make a device, or an empty file that says which device it would be."""
        pure = PurePosixPath(path)
        mode &= ~int(self.status("Umask"), 8)
        fd = self.open(at, str(pure.parent), follow=True)
        try:
            self.check()
            name = f"/proc/self/fd/{fd}/{pure.name}"
            if real:
                self._make_node(name, mode, device)
                return
            made = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        finally:
            os.close(fd)
        try:
            kind = "c" if stat.S_ISCHR(mode) else "b"
            mark = f"{kind}:{os.major(device)}:{os.minor(device)}:{stat.S_IMODE(mode):o}"
            os.setxattr(made, marks.DEVICE, mark.encode())
        finally:
            os.close(made)

    def _make_node(self, name: str, mode: int, device: int) -> None:
        """Make a device as the kernel would for a process that has the capability in a namespace that counts."""
        may = int(self.status("CapEff"), 16) >> linux.CAPABILITIES.index("mknod") & 1
        if not may or (stat.S_ISCHR(mode) and not device):  # 0:0 is overlayfs's mark of what was removed
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        os.mknod(name, mode, device)
        made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # by then it may be something else
        try:
            st = os.fstat(made)
            if (stat.S_IFMT(st.st_mode), st.st_rdev) == (stat.S_IFMT(mode), device):
                os.chmod(f"/proc/self/fd/{made}", stat.S_IMODE(mode))
        finally:
            os.close(made)
