"""A server on loopback that answers with bytes as a test gives them, at the pace that it gives."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Answer = Callable[[bytes], Iterable[bytes]]  # a request's head → the pieces that are sent, without end if need be
END = b"\r\n\r\n"


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """Yield the address of a server that gives this answer to each request; it hangs up after it."""
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                head = b""
                while END not in head:
                    head += connection.recv(65536)
                for piece in answer(head):
                    if closing.is_set():
                        return
                    connection.sendall(piece)

        def serve() -> None:
            while not closing.is_set():
                with contextlib.suppress(TimeoutError):
                    threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            closing.set()
            thread.join()


def slowly(pieces: Iterable[bytes], seconds: float) -> Iterator[bytes]:
    """Yield the pieces with a pause after each."""
    for piece in pieces:
        yield piece
        time.sleep(seconds)


def forever(piece: bytes, *first: bytes) -> Iterator[bytes]:
    """Yield what comes first, then one piece over and over."""
    yield from first
    yield from itertools.repeat(piece)


def status(line: str = "200 OK", **headers: Any) -> bytes:
    """Return the head of an answer."""
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {line}\r\n{fields}\r\n".encode()
