"""What a remote store has, by kinds of entries."""

from __future__ import annotations

from collections.abc import Mapping

from mkroot.errors import ImageError, StoreError
from mkroot.oci.registry.refusal import RefusedError
from mkroot.oci.registry.registry import Registry
from mkroot.oci.registry.repository import Repository
from mkroot.remote.account import Settings
from mkroot.remote.seal import LAYER, RESULT

KINDS = {LAYER: "packages, and what stages and recipes wrote", RESULT: "whole builds"}


def listing(settings: Settings, environ: Mapping[str, str]) -> dict[str, int]:
    """Return the number of entries of each kind, by their tags; raises StoreError.

    A repository that is not there yet has none.
    """
    with Registry(settings.host, environ) as registry:
        try:
            tags = Repository(registry, settings.path).tags()
        except ImageError as e:
            if not isinstance(e, RefusedError) or e.status != 404:
                what = f"the remote store {settings.name} cannot be read: {e.what}"
                raise StoreError(what, where=settings.name, hint=e.hint) from None
            tags = []
    return {kind: sum(tag.startswith(f"{kind}-") for tag in tags) for kind in KINDS}
