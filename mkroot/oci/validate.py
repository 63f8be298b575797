"""Verifies images: every digest and size, every diff-id, and what a layer's stream must keep to."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from mkroot.errors import Faults, ImageError, MkrootError
from mkroot.oci.layout import Layout
from mkroot.oci.model import DOCKER_LAYER, LAYER, Descriptor
from mkroot.oci.store import load_image, platforms_of
from mkroot.store.contents import PREFIX
from mkroot.store.frame import CHUNKED
from mkroot.tar.entry import DIR, HARDLINK, parent
from mkroot.tar.read import entries
from mkroot.tar.stream import ZSTD_STEP, Corrupt, Stream

_STEP = 1 << 20


def codec_of(media_type: str) -> str:
    """Return how a layer is compressed: "gzip", "zstd" or "none"; raises ImageError for a kind that is not known."""
    plain = media_type.replace("vnd.oci.image.layer.nondistributable.v1", "vnd.oci.image.layer.v1")
    known = {
        LAYER: "none",
        DOCKER_LAYER: "none",
        DOCKER_LAYER + ".gzip": "gzip",
        LAYER + "+gzip": "gzip",
        LAYER + "+zstd": "zstd",
    }
    if plain not in known:
        raise ImageError(f"a layer of an unknown kind: `{media_type}`")
    return known[plain]


def compression_of(layer: Descriptor) -> str:
    """Return how a layer is compressed as a recipe says it: "zstd:chunked" where it has a table of contents, too.

    Raises ImageError for a kind that is not known.
    """
    codec = codec_of(layer.media_type)
    return CHUNKED if codec == "zstd" and PREFIX + "manifest-checksum" in layer.annotations else codec


def unpacked(path: Path, codec: str, inner: object = None) -> Iterator[bytes]:
    """Yield a layer's uncompressed stream, all members or frames of it; raises ImageError where it is damaged.

    inner: a hash that is given the compressed bytes.
    """
    try:
        with open(path, "rb", buffering=0) as f:
            pieces = iter(lambda: f.read(_STEP), b"")
            if inner is not None:
                pieces = hashed(pieces, inner)
            if codec == "none":
                yield from pieces
            elif codec == "gzip":
                yield from _gunzip(pieces)
            else:
                yield from _unzstd(pieces)
    except OSError as e:
        raise ImageError(f"a layer cannot be read: {e.strerror}", where=str(path)) from e
    except (zlib.error, EOFError) as e:
        raise ImageError(f"a damaged layer: {e}", where=str(path)) from e


def hashed(pieces: Iterator[bytes], inner: object) -> Iterator[bytes]:
    """Yield the pieces, and give each to the hash `inner` on the way."""
    for piece in pieces:
        inner.update(piece)  # type: ignore[attr-defined]
        yield piece


def _gunzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(31)
    for piece in pieces:
        while piece:
            if member.eof:
                member = zlib.decompressobj(31)
            if out := member.decompress(piece, 1 << 22):
                yield out
            piece = member.unused_data if member.eof else member.unconsumed_tail
    while not member.eof and (out := member.decompress(member.unconsumed_tail, 1 << 22)):
        yield out
    if not member.eof:
        raise EOFError("the gzip stream is truncated")


def _unzstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    frame = None
    try:
        for data in pieces:
            piece = memoryview(data)
            while piece:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj(
                    write_size=_STEP >> 3
                )
                now, piece = piece[:ZSTD_STEP], piece[ZSTD_STEP:]
                if out := frame.decompress(now):
                    yield out
                if frame.eof:
                    piece = memoryview(data)[len(data) - len(piece) - len(frame.unused_data) :]
                    frame = None
    except zstandard.ZstdError as e:
        raise EOFError(str(e)) from None
    if frame is not None:
        raise EOFError("the zstd stream is truncated")


def verify(layout: Layout, descriptor: Descriptor) -> None:
    """Verify an image, or every image of an index; raises Faults naming all that is wrong."""
    faults: list[MkrootError] = []
    try:
        children = platforms_of(layout, descriptor)
    except ImageError as e:
        raise Faults([e]) from None
    for child in children:
        try:
            image = load_image(layout, child)
        except ImageError as e:
            faults.append(e)
            continue
        filled = [h for h in image.config.history if not h.empty_layer]
        if image.config.history and len(filled) != len(image.manifest.layers):
            faults.append(
                ImageError(
                    f"the history tells of {len(filled)} layers, there are {len(image.manifest.layers)}",
                    where=child.digest,
                )
            )
        if child.platform and child.platform.architecture != image.config.architecture:
            faults.append(ImageError("index and config name different architectures", where=child.digest))
        seen: set[str] = {""}
        for layer, diff_id in zip(image.manifest.layers, image.config.rootfs.diff_ids, strict=True):
            try:
                verify_layer(layout, layer, diff_id, seen)
            except ImageError as e:
                faults.append(e)
    if faults:
        raise Faults(faults)


def verify_layer(layout: Layout, layer: Descriptor, diff_id: str, folders: set[str]) -> None:
    """Verify a layer's digest, size, diff-id and stream; raises ImageError naming the first fault.

    folders: those of the layers below; the layer's own are added. Every member's folder stands before it, and a hard
    link names an earlier file (image-spec, layer.md).
    """
    path = layout.path(layer.digest)
    if not path.exists():
        raise ImageError("a layer is missing", where=str(path))
    if (size := path.stat().st_size) != layer.size:
        raise ImageError(f"a layer has {size} bytes, its descriptor says {layer.size}", where=str(path))
    packed, plain = hashlib.sha256(), hashlib.sha256()
    stream = Stream(hashed(unpacked(path, codec_of(layer.media_type), packed), plain))
    names: set[str] = set()
    fault = ""
    try:
        for entry, name in entries(stream, pax=True):
            if entry.path in names:
                fault = fault or f"member `{name}` stands in it twice"
            names.add(entry.path)
            if entry.path and parent(entry.path) not in folders:
                fault = fault or f"member `{name}` stands before its folder"
            if entry.kind == HARDLINK and entry.link not in names:
                fault = fault or f"hard link `{name}` names no earlier member"
            if entry.kind == DIR:
                folders.add(entry.path)
    except Corrupt as e:
        fault = fault or f"its tar stream is damaged: {e}"
    while stream.read(_STEP):
        pass
    if "sha256:" + packed.hexdigest() != layer.digest:
        raise ImageError("a layer does not match its digest", where=str(path))
    if "sha256:" + plain.hexdigest() != diff_id:
        raise ImageError(f"a layer does not match its diff-id {diff_id}", where=str(path))
    if fault:
        raise ImageError(f"a malformed layer: {fault}", where=str(path))
