"""Answers of the resolver that the store keeps, each by all that decides it: what was asked, of which indices."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

import mkroot
from mkroot.debian.release import Index
from mkroot.decoding import from_msgpack
from mkroot.resolve.lock import LockedRoot
from mkroot.resolve.request import Request
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store

KIND = "decided"
FORMAT = "2"  # of what is kept; part of every key


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Which packages make a root, and what the user should know of how they were chosen."""

    key: str
    root: LockedRoot
    notes: tuple[str, ...] = ()


def key_of(request: Request, indices: Sequence[Index], more: object) -> str:
    """Return the digest of a question; "" for one whose answer is not kept: it is asked of more than indices.

    more: what else decides, as numbers, strings and lists.
    """
    if request.local or request.provided:
        return ""
    asked = [{n: getattr(i, n) for n in i.__struct_fields__ if n != "path"} for i in indices]
    parts = (KIND, FORMAT, mkroot.__version__, request, asked, more)
    return hashlib.sha256(msgspec.msgpack.encode(parts, enc_hook=str, order="sorted")).hexdigest()


def recall(store: Store, key: str) -> Answer | None:
    """Return the answer to a question, None where it is not known or damaged."""
    if not key:
        return None
    try:
        answer = from_msgpack(opened(store.path(KIND, key).read_bytes()), Answer)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return answer if answer.key == key else None


def keep(store: Store, answer: Answer) -> None:
    """Keep an answer under its key; raises StoreError."""
    if answer.key:
        store.path(KIND, answer.key).unlink(missing_ok=True)
        with store.writing(KIND, answer.key, sync=False) as aside:
            aside.write_bytes(sealed(msgspec.msgpack.encode(answer, enc_hook=str)))
