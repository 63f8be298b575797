"""Processes that make the table of an index while its text is still being unpacked."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence

from mkroot.archive.index import BLOCK, KIND, child, keep, read_on
from mkroot.archive.scan import Scan, whole
from mkroot.store.store import Store

_DIGEST = 64  # length of the message that ends a text; those before it are shorter


class Follower:
    """A process that reads a text as it grows and puts its table into the store once it is known to be the right one.

    It is forked before there are threads, waits until there is something to read, and ends when this end is closed,
    whatever closes it. What fails there fails in silence: a table that is missing is made when it is wanted.
    """

    def __init__(self, store: Store, others: Sequence[Follower]) -> None:
        """Fork it; raises OSError. others: those that are forked already."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:

            def work() -> None:
                for other in (*others, self):  # else their processes would outlive the closing of this end
                    other._socket.close()
                _follow(store, theirs)

            child(work)
        theirs.close()

    def begin(self, file: int) -> None:
        """Hand over the file that the text is written to, open for reading, too."""
        self._tell(lambda: socket.send_fds(self._socket, [b"0"], [file]))

    def grown(self, size: int) -> None:
        """Tell that the file has `size` bytes now."""
        self._tell(lambda: self._socket.send(b"%d" % size))

    def finish(self, digest: str) -> None:
        """Tell that the text is whole and verified, and wait until its table is in the store."""
        self._tell(lambda: self._socket.send(digest.encode()))
        self.close()

    def close(self) -> None:
        """End the process; without `finish` nothing is kept. Does nothing the second time."""
        self._socket.close()
        pid, self._pid = self._pid, 0
        if pid:
            os.waitpid(pid, 0)

    def _tell(self, send: Callable[[], object]) -> None:
        with contextlib.suppress(OSError):  # it has ended
            send()


@contextlib.contextmanager
def following(store: Store, count: int) -> Iterator[list[Follower]]:
    """Yield so many followers, fewer where no more processes can be had; end them."""
    followers: list[Follower] = []
    try:
        with contextlib.suppress(OSError):
            for _ in range(count):
                followers.append(Follower(store, followers))
        yield followers
    finally:
        for follower in followers:
            follower.close()


class _Whole(Exception):
    """The text has ended and is the right one; its argument is the digest."""


def _follow(store: Store, connection: socket.socket) -> None:
    _, files, _, _ = socket.recv_fds(connection, _DIGEST, 1)
    if not files:
        return
    scan = Scan("")  # its errors are told to nobody
    try:
        for piece in whole(_growing(connection, files[0])):
            scan.read(piece)
    except _Whole as verified:
        (digest,) = verified.args
        read_on(scan, store.path(KIND, digest), len(os.sched_getaffinity(0)))  # the unpacking's processor is idle now
        keep(store, digest, scan)


def _growing(connection: socket.socket, file: int) -> Iterator[bytes]:
    """Yield the text as it comes; raises _Whole as soon as that is known, EOFError where it is given up."""
    at = size = 0
    while True:
        with contextlib.suppress(BlockingIOError):
            while message := connection.recv(_DIGEST, 0 if at == size else socket.MSG_DONTWAIT):
                if len(message) == _DIGEST:
                    raise _Whole(message.decode())
                size = int(message)
            raise EOFError
        block = os.pread(file, min(BLOCK, size - at), at)
        at += len(block)
        yield block
