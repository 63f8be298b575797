"""SHA-256 digests, as bare hex (Debian indices, locks) and as `sha256:…` (OCI descriptors)."""

from __future__ import annotations

import hashlib
import os
import re
from io import BufferedIOBase, RawIOBase

CHUNK = 1 << 20  # bytes read at a time
_HEX = re.compile(r"[0-9a-f]{64}")


def is_sha256(text: str) -> bool:
    """Tell whether `text` is 64 lower-case hexadecimal digits."""
    return _HEX.fullmatch(text) is not None


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_stream(stream: RawIOBase | BufferedIOBase) -> str:
    """Return the SHA-256 of what is left to read in `stream`, as hexadecimal digits."""
    h = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    while n := stream.readinto(buffer):
        h.update(buffer[:n])
    return h.hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of the file at `path`; raises OSError."""
    with open(path, "rb", buffering=0) as f:
        return sha256_stream(f)


def oci(hex_digest: str) -> str:
    """Return a bare hexadecimal digest in the form of an OCI descriptor (image-spec, descriptor.md)."""
    return "sha256:" + hex_digest
