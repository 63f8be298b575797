"""Messages between mkroot and a container's process 1, which may be gone at any moment."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from mkroot.container.session import Request, Session
from mkroot.container.wire import Wire
from mkroot.errors import ContainerError


class ClosesAfter:
    """A socket whose other end takes the first message, answers, and is closed before anything else is done."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()

    def sendmsg(self, *words: Any) -> int:
        sent = self.ours.sendmsg(*words)
        other = Wire(self.theirs)
        got = other.receive()
        assert got is not None
        for fd in got[1]:
            os.close(fd)
        other.send(("done", 3, 0, ""))
        self.theirs.close()
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ours, name)


def test_a_command_that_ends_at_once_has_its_status() -> None:
    sock = ClosesAfter()
    session = Session(Wire(sock), Request(argv=("true",), environment={}), attached=False)  # type: ignore[arg-type]
    assert session.run().code == 3


@pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "terminal"])
def test_a_container_that_is_gone_is_told(terminal: bool) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(ContainerError, match="the container has ended"):
        Session(Wire(ours), Request(argv=("true",), environment={}, terminal=terminal), attached=False).run()


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_a_message_arrives_whole_with_its_descriptors(size: int) -> None:
    import threading

    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    message = ("word", b"x" * size, {"a": (1, None)})
    sender = threading.Thread(target=Wire(ours).send, args=(message, [write]))
    sender.start()
    got = Wire(theirs).receive()
    sender.join()
    assert got is not None
    assert got[0] == message
    os.write(got[1][0], b"here")
    assert os.read(read, 4) == b"here"
    for fd in (read, write, *got[1]):
        os.close(fd)
