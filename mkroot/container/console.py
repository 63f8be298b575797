"""Terminals of a container, made where it is: by its process 1, or by crun.

Quick parts of the standard library only: see `mkroot.container.init`.
"""
# ruff: noqa: SIM105  (contextlib costs more to import than all that is done here)

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import sys
import termios

from mkroot.rootfs import linux

SOCKET = "console"  # in the bundle: by it crun hands out a terminal


class Terminal:
    """A pseudo-terminal of the container's own devpts."""

    def __init__(self, rows: int, columns: int, uid: int) -> None:
        self.master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(self.master, 0x40045431, b"\0\0\0\0")  # TIOCSPTLCK: unlock
        number = int.from_bytes(fcntl.ioctl(self.master, 0x80045430, b"\0\0\0\0"), "little")  # TIOCGPTN
        self.path = f"/dev/pts/{number}"
        self.slave = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        size = rows.to_bytes(2, "little") + columns.to_bytes(2, "little") + b"\0\0\0\0"
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
        if uid:
            try:
                os.fchown(self.slave, uid, -1)
            except OSError:
                pass  # an id that this user namespace has not

    def show_as_console(self) -> None:
        """Show it as /dev/console."""
        try:
            os.close(os.open("/dev/console", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY, 0o620))
            linux.mount(self.path, "/dev/console", None, linux.MS_BIND)
        except OSError:
            pass

    def wait(self, pid: int) -> int:
        """Return the master."""
        return self.master

    def close(self) -> None:
        """Close both ends here; the command and mkroot have theirs."""
        os.close(self.master)
        os.close(self.slave)


class CrunTerminal:
    """A pseudo-terminal that crun makes, and hands out through a socket in the bundle."""

    def __init__(self, number: int) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._socket.bind(f"{SOCKET}{number}")
        self._socket.listen(1)
        self._fds: list[int] = []

    def wait(self, pid: int) -> int:
        """Return the master when crun, a child of this process, has sent it; raises OSError where it ends without."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not poll.poll(20):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                raise OSError(errno.EIO, "crun ended")
        fd, _ = self._socket._accept()  # type: ignore[attr-defined]  # what `socket` makes `accept` of
        os.set_blocking(fd, True)
        peer = _socket.socket(fileno=fd)
        extra = peer.recvmsg(4096, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)[1]
        peer.close()
        self._fds = [int.from_bytes(raw[:4], sys.byteorder) for _, _, raw in extra]
        if not self._fds:
            raise OSError(errno.EIO, "crun sent no terminal")
        return self._fds[0]

    def close(self) -> None:
        """Close what is here; the command and mkroot have theirs."""
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
