"""Records that tell when a bit of them has changed: their SHA-256, then their content.

It is there for disks that err and for power that fails, not against forgery: who may write to a store is trusted.
"""

from __future__ import annotations

import hashlib

_SIZE = 32


def sealed(data: bytes) -> bytes:
    """Return a record's bytes with their digest before them."""
    return hashlib.sha256(data).digest() + data


def opened(blob: bytes) -> bytes:
    """Return what was sealed; raises ValueError where it is not what it was."""
    data = blob[_SIZE:]
    if hashlib.sha256(data).digest() != blob[:_SIZE]:
        raise ValueError("it does not match its digest")
    return data
