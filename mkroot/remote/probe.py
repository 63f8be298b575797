"""Whether a remote store can be used: reached, read, written, and sealed with this machine's key."""

from __future__ import annotations

from collections.abc import Mapping

from mkroot.errors import ImageError, StoreError
from mkroot.remote.account import Settings
from mkroot.store.store import Store, default_root

KEY = "check"


def check(settings: Settings, environ: Mapping[str, str], store: Store | None = None) -> None:
    """Put a tiny entry there and read it again; raises StoreError where anything is in the way.

    The entry is always the same one, so nothing piles up. store: for what is on its way; None for the usual one.
    """
    from mkroot.oci.model import Descriptor
    from mkroot.oci.registry.refusal import UnansweredError
    from mkroot.remote.entries import Remote
    from mkroot.remote.seal import EMPTY, NOTHING, PROBE, EntryError

    store = store or Store(default_root(environ))
    remote = Remote(settings, store, environ, lambda line: None)
    try:
        try:
            before = remote.find(PROBE, KEY)
        except EntryError as e:
            raise StoreError(
                f"the remote store {settings.name} is sealed with another key: {e.what}",
                where=settings.name,
                hint=e.hint,
            ) from None
        except ImageError as e:
            how = "reached" if isinstance(e, UnansweredError) else "read"
            what = f"the remote store {settings.name} cannot be {how}: {e.what}"
            raise StoreError(what, where=settings.name, hint=e.hint) from None
        with store.workshop("remote.") as folder:
            (folder / "tiny").write_bytes(EMPTY)
            tiny = Descriptor(media_type=NOTHING.media_type, digest=NOTHING.digest, size=NOTHING.size)
            try:
                remote.put(PROBE, KEY, [(tiny, folder / "tiny")])
                found = remote.find(PROBE, KEY)
            except ImageError as e:
                raise remote.refused(e) from None
        if not found or (before is not None and found != before):
            raise StoreError(
                f"the remote store {settings.name} does not give out what was put there",
                where=settings.name,
                hint="does a cache stand before the registry?",
            )
    finally:
        remote.close()
