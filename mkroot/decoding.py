"""Decodes JSON and msgpack to values of a type, in whatever thread.

msgspec looks at a type when it is first decoded, and at the types of its fields. A thread that decodes the same type
while another one still looks at it ends the whole process by SIGSEGV (msgspec 0.22). So decoders are made one at a
time, and nothing here is decoded without one.
"""

from __future__ import annotations

from _thread import allocate_lock
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_making = allocate_lock()
_made: dict[tuple[Any, Any], Any] = {}  # by form and type


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Return the value of a type that a JSON text holds; raises msgspec.DecodeError, UnicodeDecodeError."""
    return _decoded(msgspec.json.Decoder, data, kind)


def from_msgpack(data: bytes, kind: type[T]) -> T:
    """Return the value of a type that msgpack's bytes hold; raises msgspec.DecodeError."""
    return _decoded(msgspec.msgpack.Decoder, data, kind)


def _decoded(form: Any, data: bytes | str, kind: type[T]) -> T:
    decoder = _made.get((form, kind))
    if decoder is None:
        with _making:
            decoder = _made[form, kind] = form(kind)
    found: T = decoder.decode(data)
    return found
