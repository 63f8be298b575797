"""A bound on a container's memory, by a control group of its own (cgroups(7)): version 2, or version 1 beside it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mkroot.errors import ContainerError

_ROOT = Path("/sys/fs/cgroup")


class MemoryLimit:
    """A control group with a bound, until `close`."""

    def __init__(self, name: str, size: int) -> None:
        """Make the group; raises ContainerError where this host lets nobody make one, or not this user."""
        parent, self._version = _parent()
        self._folder = parent / f"mkroot-{name}"
        try:
            if self._version == 2:
                _delegate(parent)
            self._folder.mkdir()
            if self._version == 2:
                self._write("memory.max", size)
                with contextlib.suppress(OSError):
                    self._write("memory.swap.max", 0)
            else:
                self._write("memory.limit_in_bytes", size)
                with contextlib.suppress(OSError):  # a kernel that does not count swap
                    self._write("memory.memsw.limit_in_bytes", size)
        except OSError as e:
            self.close()
            raise _refusal(f"{e.strerror}: {self._folder}") from e

    def add(self, pid: int) -> None:
        """Put a process into the group, with all that it will start; raises ContainerError."""
        try:
            self._write("cgroup.procs", pid)
        except OSError as e:
            raise _refusal(f"{e.strerror}: {self._folder}") from e

    def _write(self, name: str, value: int) -> None:
        (self._folder / name).write_text(f"{value}\n", encoding="ascii")

    def close(self) -> None:
        """Remove the group, whose processes are gone; doing it twice is no error."""
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)


def _refusal(why: str) -> ContainerError:
    return ContainerError(
        f"the memory cannot be bounded here: {why}",
        hint="run it as root, or in a delegated group (`systemd-run --user --scope -p Delegate=yes mkroot run …`), "
        "or leave `--memory` out",
    )


def _parent() -> tuple[Path, int]:
    """Return the group that this process is in and that counts memory, and its version."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        rows = [line.rstrip("\n").split(":", 2) for line in lines]
    for _, controllers, path in rows:
        if "memory" in controllers.split(","):
            return _ROOT / "memory" / path.strip("/"), 1
    for _, controllers, path in rows:
        if not controllers:
            # The root group may have processes and children both; any other only once its processes have moved.
            return _ROOT if os.access(_ROOT / "cgroup.subtree_control", os.W_OK) else _ROOT / path.strip("/"), 2
    raise _refusal("this host has no control groups")


def _delegate(parent: Path) -> None:
    """Have a group's children counted; raises OSError. Processes in it go to a leaf ("no internal processes")."""
    if "memory" not in (parent / "cgroup.controllers").read_text("ascii").split():
        raise OSError(95, "memory is not counted")
    if "memory" in (parent / "cgroup.subtree_control").read_text("ascii").split():
        return
    if parent != _ROOT:
        leaf = parent / "mkroot"
        leaf.mkdir(exist_ok=True)
        for pid in (parent / "cgroup.procs").read_text("ascii").split():
            (leaf / "cgroup.procs").write_text(pid, encoding="ascii")
    (parent / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
