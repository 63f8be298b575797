"""Messages between mkroot and a container's process 1: values that marshal knows, and descriptors beside them.

Quick parts of the standard library only: see `mkroot.container.init`.
"""

from __future__ import annotations

import _socket
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # neither is imported while it runs
    from collections.abc import Sequence
    from typing import Any

LIMIT = 64 << 20  # bytes of a message
_FDS = 8


class Wire:
    """One end of a connected stream socket. Both ends are mkroot's own, of one version and one user."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close it; doing it twice is no error."""
        self._sock.close()

    def send(self, message: tuple[Any, ...], fds: Sequence[int] = ()) -> None:
        """Send a message whole; raises OSError."""
        data = marshal.dumps(message)
        data = len(data).to_bytes(4, "big") + data
        extra = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds))]
        done = self._sock.sendmsg([data], extra if fds else [])
        if rest := data[done:]:  # where the other end has closed already, to send nothing would be an error, too
            self._sock.sendall(rest)

    def receive(self) -> tuple[tuple[Any, ...], list[int]] | None:
        """Return the next message and its descriptors, or None where the other end is gone; raises OSError."""
        fds: list[int] = []
        head = b""
        while len(head) < 4:
            part, extra, _, _ = self._sock.recvmsg(4 - len(head), _socket.CMSG_SPACE(_FDS * 4), _CLOEXEC)
            for _, kind, raw in extra:
                if kind == _socket.SCM_RIGHTS:
                    fds += [int.from_bytes(raw[i : i + 4], sys.byteorder) for i in range(0, len(raw) // 4 * 4, 4)]
            if not part:
                return None
            head += part
        left = int.from_bytes(head, "big")
        if left > LIMIT:
            raise OSError(90, "a message is too long")
        pieces = []
        while left:
            part = self._sock.recv(min(left, 1 << 20))
            if not part:
                return None
            pieces.append(part)
            left -= len(part)
        message = marshal.loads(b"".join(pieces))
        return message, fds


_CLOEXEC = _socket.MSG_CMSG_CLOEXEC
