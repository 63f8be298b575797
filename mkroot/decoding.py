"""Decodes JSON and msgpack to values of a type, in whatever thread.

msgspec looks at a type when it is first decoded, and at the types of its fields. A thread that decodes the same type
while another one still looks at it ends the whole process by SIGSEGV (msgspec 0.22). So a type's decoder is
made once, while no other is made, and nothing here is decoded without one.
"""

from __future__ import annotations

from _thread import allocate_lock
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_making = allocate_lock()
_json: dict[Any, msgspec.json.Decoder[Any]] = {}
_msgpack: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Return the value of a type that a JSON text holds; raises msgspec.DecodeError, UnicodeDecodeError."""
    decoder = _json.get(kind)
    if decoder is None:
        with _making:
            decoder = _json[kind] = msgspec.json.Decoder(kind)
    found: T = decoder.decode(data)
    return found


def from_msgpack(data: bytes, kind: type[T]) -> T:
    """Return the value of a type that msgpack's bytes hold; raises msgspec.DecodeError."""
    decoder = _msgpack.get(kind)
    if decoder is None:
        with _making:
            decoder = _msgpack[kind] = msgspec.msgpack.Decoder(kind)
    found: T = decoder.decode(data)
    return found
