"""What a layer from outside must keep to before it is taken in: its digest, its size, and names that stay inside."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from mkroot.artifact.inventory import unpacked
from mkroot.errors import ArtifactError, ImageError
from mkroot.oci.layers import ALLOWANCE, EXPANSION, removal
from mkroot.oci.spool import bounded
from mkroot.oci.validate import hashed
from mkroot.tar.entry import HARDLINK
from mkroot.tar.footing import Footing
from mkroot.tar.read import entries
from mkroot.tar.stream import Corrupt, Stream

_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_STEP = 1 << 20


def plain_layer(view: memoryview, where: str) -> Iterator[bytes]:
    """Yield a layer's stream, however it is compressed; raises ImageError where it is damaged or a bomb."""
    try:
        yield from bounded(unpacked(view, where), len(view), EXPANSION, ALLOWANCE, where)
    except ArtifactError as e:
        raise ImageError(f"a damaged layer: {e.what}", where=where) from None


def check_form(view: memoryview, codec: str | None, diff_id: str, where: str) -> None:
    """Check a layer's stream without keeping anything; raises ImageError.

    codec: how it is said to be compressed; None where nothing says it. No member's name has `..`, none lies below a
    link or a file of the same layer, and hard links name earlier members. What a union adds to that is checked when
    the layer is unpacked.
    """
    if codec in _MAGIC and not bytes(view[:4]).startswith(_MAGIC[codec]):
        raise ImageError(f"a layer is not compressed as its descriptor says: {codec}", where=where)
    plain = hashlib.sha256()
    stream = Stream(hashed(plain_layer(view, where), plain))
    footing = Footing()
    names: set[str] = set()
    emptied: set[str] = set()
    try:
        for entry, name in entries(stream, pax=True):
            if (gone := removal(entry.path)) is not None:
                emptied.add(gone[0])
                continue
            footing.add(entry)
            if entry.kind == HARDLINK and entry.link not in names:
                raise Corrupt(f"hard link {name[:200]!r} names no earlier member")
            names.add(entry.path)
        for folder in sorted(emptied):
            footing.enter(folder, folder)
    except Corrupt as e:
        raise ImageError(f"a layer is refused: {e}", where=where) from None
    while stream.read(_STEP):
        pass
    if "sha256:" + plain.hexdigest() != diff_id:
        raise ImageError(f"a layer does not match its diff-id {diff_id[:100]}", where=where)
