"""Starts process 1 of a sandbox or a container, in a PID namespace of its own and with nothing of mkroot's."""

from __future__ import annotations

import fcntl
import functools
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from mkroot.rootfs import linux

GIVEN = 3  # the number of the first descriptor given
# Argument: the folder that holds the package `mkroot`. Not on the path by itself, for -I takes nothing from outside.
_BOOT = "import sys; sys.path.append(sys.argv[1]); from {} import main; main()"


def start(module: str, given: Sequence[int]) -> int:
    """Run `main` of a module as process 1 of a new PID namespace; return its number. Raises OSError.

    given: descriptors that it gets as 3, 4, …, whose numbers here are 3 or more; -1 for none at that place. The first
    three are /dev/null, the environment is empty, it leads a session. It is killed with all that it started when it is
    killed, and not when mkroot ends: what it is given tells it of that.

    A thread of its own leaves the PID namespace for its children and starts one. That needs no fork of mkroot, whose
    memory may be large and whose threads may hold locks.
    """
    _keep_interpreter()
    faults: list[OSError] = []
    pids: list[int] = []

    def spawn() -> None:
        high: list[int] = []
        try:
            linux.unshare(linux.CLONE_NEWPID)
            actions: list[tuple[object, ...]] = [(os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in (0, 1, 2)]
            for number, fd in enumerate(given, GIVEN):
                if fd < 0:
                    actions.append((os.POSIX_SPAWN_CLOSE, number))
                    continue
                high.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, GIVEN + len(given)))
                actions.append((os.POSIX_SPAWN_DUP2, high[-1], number))
            words = [sys.executable, "-I", "-S", "-B", "-c", _BOOT.format(module), str(Path(__file__).parents[2])]
            pids.append(os.posix_spawn(words[0], words, {}, file_actions=actions, setsid=True, setsigmask=()))
        except OSError as e:
            faults.append(e)
        finally:
            for fd in high:
                os.close(fd)

    thread = threading.Thread(target=spawn)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]
    return pids[0]


@functools.cache
def _keep_interpreter() -> None:
    """Make this Python's own file read-only for what is started from here on, in this process's mount namespace.

    What process 1 executes can be `/proc/self/exe`, and that is this file of the host's: root in a container could
    then give it another mode, or write to it (as in CVE-2019-5736 of runc).
    """
    path = os.path.realpath(sys.executable)
    linux.mount(path, path, None, linux.MS_BIND)
    linux.mount_setattr(path, linux.MOUNT_ATTR_RDONLY)
