"""Ends a container that another mkroot process runs: a signal to its command, and a wait for its end."""

from __future__ import annotations

import contextlib
import time

from mkroot.container.record import RUNNING, Container, Containers
from mkroot.container.session import connect
from mkroot.errors import ContainerError

_EVERY = 0.02  # seconds between two looks


def send_signal(containers: Containers, container: Container, number: int) -> None:
    """Send a signal to a running container's command; raises ContainerError where it does not run."""
    if container.status != RUNNING:
        raise ContainerError(f"the container {container.name} is not running", hint="`mkroot ps -a` tells its status")
    wire = connect(containers.folder(container))
    try:
        wire.send(("stop", number))
    except OSError as e:
        raise ContainerError(f"the container {container.name} does not answer: {e.strerror}") from e
    finally:
        wire.close()


def wait(containers: Containers, container: Container, seconds: float | None = None) -> Container | None:
    """Wait until a container runs no more; return its record then, or None where it is gone or the time is over.

    A container that removes itself is gone then, and is returned as it was, with `exit_code` None.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        try:
            now = containers.get(container.id)
        except ContainerError:
            return container
        if now.status != RUNNING:
            return now
        if until is not None and time.monotonic() >= until:
            return None
        time.sleep(_EVERY)


def ended(containers: Containers, container: Container, number: int, seconds: float) -> None:
    """Have a container end: by a signal, and after so many seconds by SIGKILL; raises ContainerError."""
    with contextlib.suppress(ContainerError):  # it may end by itself just now
        send_signal(containers, container, number)
    if wait(containers, container, seconds) is not None:
        return
    with contextlib.suppress(ContainerError):
        send_signal(containers, container, 9)
    if wait(containers, container, 10) is None:
        raise ContainerError(
            f"the container {container.name} does not end", hint="the process that runs it may be stopped (`fg`)"
        )
