"""The id maps of user namespaces (user_namespaces(7)); quick to import, for process 1 of a sandbox."""

from __future__ import annotations

import os

Range = tuple[int, int, int]  # first id inside, first id outside, how many: a line of /proc/PID/uid_map


def rows(file: str) -> tuple[Range, ...]:
    """Return the lines of a /proc/PID/uid_map or gid_map; raises OSError."""
    with open(file, "rb") as lines:  # a sandbox's process 1 has no codec to import any more
        words = [[int(word) for word in line.split()] for line in lines]
    return tuple((inside, outside, count) for inside, outside, count in words)


def visible(file: str) -> tuple[Range, ...]:
    """Return a map of the ids that exist in the namespace whose map this is onto themselves."""
    return tuple((inside, inside, count) for inside, _, count in rows(file))


def write(path: str, lines: tuple[Range, ...]) -> None:
    """Write a map, all of it at once as the kernel wants it; raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, "".join(f"{a} {b} {n}\n" for a, b, n in lines).encode())
    finally:
        os.close(fd)
