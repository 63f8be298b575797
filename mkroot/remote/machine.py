"""Who made something: a name for a store, by which a second build knows that it is another's."""

from __future__ import annotations

import contextlib
import os
import re

from mkroot.errors import StoreError
from mkroot.store.replaced import replace
from mkroot.store.store import Store

FILE = "machine"  # at the store's top
_ID = re.compile(r"[0-9a-f]{32}")


def machine_id(store: Store) -> str:
    """Return the store's name, 32 random hexadecimal digits that are made once; raises StoreError.

    It says nothing about the machine: two stores on one have two.
    """
    path = store.root / FILE
    try:
        with store.lock("store", FILE):
            with contextlib.suppress(FileNotFoundError):
                found = path.read_text("ascii", "replace").strip()
                if _ID.fullmatch(found):
                    return found
            made = os.urandom(16).hex()
            replace(path, made.encode() + b"\n")
            return made
    except OSError as e:
        raise StoreError(f"the store's name cannot be read or made: {e.strerror}", where=str(path)) from e
