"""A process of a sandbox that waits for the answer to a system call: its memory, its folders, its kin."""

from __future__ import annotations

import os

from mkroot.rootfs import linux
from mkroot.rootfs.trace import Special

_PATH_MAX, _MUCH = 4096, 256


class Caller:
    """A process that waits for its answer."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def text(self, address: int) -> str:
        """Return the string at an address of its memory; raises OSError."""
        found = b""
        while b"\0" not in found and len(found) < _PATH_MAX:
            at = address + len(found)
            found += linux.read_memory(self.pid, at, min(_MUCH, 4096 - at % 4096))  # the next page may not be there
        return os.fsdecode(found.partition(b"\0")[0])

    def texts(self, address: int) -> list[str]:
        """Return the strings of an array that ends with a null pointer; raises OSError."""
        found: list[str] = []
        while address and len(found) < 4096:
            pointer = int.from_bytes(linux.read_memory(self.pid, address + 8 * len(found), 8), "little")
            if not pointer:
                break
            found.append(self.text(pointer))
        return found

    def folder(self, at: int) -> str:
        """Return the path of its current folder, or of what a descriptor stands for; raises OSError, Special."""
        at = (at & 0xFFFFFFFF) - (1 << 32) if at & 0x80000000 else at & 0xFFFFFFFF
        base = os.readlink(f"/proc/{self.pid}/cwd" if at == linux.AT_FDCWD else f"/proc/{self.pid}/fd/{at}")
        root = os.readlink(f"/proc/{self.pid}/root").rstrip("/")
        if not base.startswith("/"):
            raise Special(base)
        path = base.removeprefix(root).strip("/")
        if path.partition("/")[0] in ("proc", "dev"):
            raise Special(path)
        return path

    def number(self) -> int:
        """Return its own number in its own PID namespace; raises OSError."""
        with open(f"/proc/{self.pid}/status", "rb") as f:
            return int(next(line for line in f if line.startswith(b"NSpid:")).split()[-1])

    def parent(self) -> int:
        """Return the number of its parent; raises OSError."""
        with open(f"/proc/{self.pid}/stat", "rb") as f:
            return int(f.read().rpartition(b") ")[2].split()[1])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended (proc(5)); raises OSError."""
    with open(f"/proc/{pid}/task/{pid}/children", "rb") as f:
        found = [int(word) for word in f.read().split()]
    return [child for child in found if _lives(child)]


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b") ")[2][:1] not in b"ZX"
    except FileNotFoundError:
        return False
