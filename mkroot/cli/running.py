"""What `run` and `start` share: a container's command in the foreground, or left to a process of its own."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.container.record import Container
    from mkroot.rootfs.identity import Identity
    from mkroot.store.store import Store

FAILURE = 125  # exit status where mkroot failed and not the command, as Docker has it


def tell_failure(error: Exception) -> int:
    """Print what went wrong before the command could; return the exit status."""
    from mkroot.cli.failure import tell

    return tell(error) and FAILURE


def runtime() -> str:
    """Return the path of crun where MKROOT_RUNTIME says `crun`; "" for mkroot's own way, which is the default."""
    from mkroot.errors import ContainerError
    from mkroot.rootfs.identity import find_tool

    wanted = os.environ.get("MKROOT_RUNTIME") or "own"
    if wanted not in ("own", "crun"):
        raise ContainerError(f"`MKROOT_RUNTIME={wanted}` names no runtime", hint="it is `own` or `crun`")
    if wanted == "own":
        return ""
    found = find_tool("crun")
    if found is None:
        raise ContainerError("crun is not installed", hint="install it, or leave MKROOT_RUNTIME out")
    return found


def foreground(
    store: Store, identity: Identity, container: Container, *, interactive: bool, attached: bool = True
) -> int:
    """Run the container's command with mkroot's own streams; return its exit status."""
    from mkroot.cli.terminal import labelled
    from mkroot.container.record import Containers
    from mkroot.container.supervise import Supervisor

    try:
        with Supervisor(store, identity, container, crun=runtime()) as supervisor:
            if attached:
                for note in supervisor.notes:
                    sys.stderr.write(labelled("note", note))
            ended = supervisor.run(attached=attached, interactive=interactive)
    finally:
        if container.settings.remove:
            containers = Containers(store)
            with containers.lock(container):
                containers.remove(container)
    if ended.fault and attached:
        sys.stderr.write(labelled("error", ended.fault))
    return ended.code


def detached(store: Store, identity: Identity, container: Container) -> None:
    """Leave the container to a process of its own; return when its command has been started. Raises ContainerError."""
    from mkroot.errors import ContainerError

    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.close(read)
        _be_supervisor(store, identity, container, write)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as f:
        answer = f.read()
    if answer != b"{}":
        fault = json.loads(answer or b'{"what": "the container could not be started"}')
        raise ContainerError(fault["what"], where=fault.get("where"), hint=fault.get("hint"))


def _be_supervisor(store: Store, identity: Identity, container: Container, answer: int) -> None:
    """Run the container without a terminal; answer how it went as soon as that is known; returns never."""
    from mkroot.container.record import Containers
    from mkroot.container.supervise import Supervisor
    from mkroot.errors import MkrootError

    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        try:
            with Supervisor(store, identity, container, crun=runtime()) as supervisor:
                os.write(answer, b"{}")
                os.close(answer)
                answer = -1
                code = supervisor.run(attached=False, interactive=False).code
        except Exception as e:
            if answer >= 0:
                fault = {"what": e.what, "where": e.where, "hint": e.hint} if isinstance(e, MkrootError) else {}
                os.write(answer, json.dumps(fault or {"what": f"{type(e).__name__}: {e}"}).encode())
        finally:
            if container.settings.remove:
                containers = Containers(store)
                with containers.lock(container):
                    containers.remove(container)
    finally:
        os._exit(code)
