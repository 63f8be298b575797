"""Where bytes of a file stand that is joined from what the store has."""

from __future__ import annotations

import msgspec


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A part of a joined file: `data`, or the first `size` bytes of the store's file at `path`, relative to it."""

    data: bytes
    path: str
    size: int
