"""A layer compressed anew: another blob of the same uncompressed stream."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from mkroot.errors import ImageError
from mkroot.oci.inherit import damaged
from mkroot.oci.layerfile import LayerFile, write_layer
from mkroot.oci.layers import ALLOWANCE, EXPANSION
from mkroot.oci.model import CODECS, LAYER, Descriptor
from mkroot.oci.spool import bounded
from mkroot.oci.store import ImageStore
from mkroot.oci.validate import codec_of, unpacked
from mkroot.rootfs.joined import write_single
from mkroot.store.frame import SOFT, family


def recompress(
    images: ImageStore, layer: Descriptor, diff_id: str, codec: str, *, single_stream: bool = False
) -> Descriptor:
    """Write a layer's stream as another blob of the image store, and return that.

    codec: a compression, or one at a level. single_stream: one compressed stream. The same stream gives the same bytes,
    however it was compressed before. The caller holds `images.using`. Raises ImageError where the layer is missing or
    damaged, or is not what its diff-id says; then nothing is kept.
    """
    path = images.layout().path(layer.digest)
    if not path.exists():
        raise ImageError("the image store lacks a layer of the image", where=str(path), hint="pull or build it again")
    packed = hashlib.sha256()
    plain = bounded(unpacked(path, codec_of(layer.media_type), packed), layer.size, EXPANSION, ALLOWANCE, layer.digest)
    with images.aside() as aside:
        if single_stream:
            with open(aside, "xb", buffering=0) as out:
                os.fchmod(out.fileno(), 0o644)
                blob = write_single(out, codec, plain)
            told = Descriptor(media_type=LAYER + CODECS[family(codec)], digest=blob.digest, size=blob.size)
            made = LayerFile(descriptor=told, diff_id=blob.diff_id, raw=blob.raw)
        else:
            made = write_layer(aside, _even(plain), codec, ended=True)
        if "sha256:" + packed.hexdigest() != layer.digest:
            raise damaged(path)
        if made.diff_id != diff_id:
            raise ImageError(f"a layer does not match its diff-id {diff_id[:100]}", where=str(path))
        if not images.layout().has(made.descriptor):
            images.adopt(aside, made.descriptor)
    return made.descriptor


def _even(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a stream in pieces of one size, so that what is made of them depends on the stream alone."""
    parts: list[bytes] = []
    have = 0
    for piece in pieces:
        while have + len(piece) >= SOFT:
            cut = SOFT - have
            yield b"".join((*parts, piece[:cut]))
            parts, have, piece = [], 0, piece[cut:]
        if piece:
            parts.append(piece)
            have += len(piece)
    if have:
        yield b"".join(parts)
