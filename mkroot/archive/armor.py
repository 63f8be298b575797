"""ASCII armour and the cleartext signature framework (RFC 9580, sections 6 and 7), read strictly; pure."""

from __future__ import annotations

import base64
import binascii
import re

from mkroot.errors import TrustError

SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
_HEADER = re.compile(rb"[A-Za-z][A-Za-z0-9-]*:( .*)?")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_HASH = re.compile(rb"Hash: [A-Za-z0-9, -]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_CONTROL_OR_BREAK = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")


def is_armored(data: bytes) -> bool:
    """Tell whether `data` is text in ASCII armour rather than binary packets (whose first byte has the top bit)."""
    return not data or data[0] < 0x80


def blocks(data: bytes, kind: str, where: str, *, alone: bool = True) -> bytes:
    """Return the packets of every armoured block of `kind` ("SIGNATURE", "PUBLIC KEY BLOCK") in `data`, joined.

    With `alone`, anything but blank lines around the blocks is refused; else it is passed over, as keyrings have
    comments. Raises TrustError.
    """
    begin, end = f"-----BEGIN PGP {kind}-----".encode(), f"-----END PGP {kind}-----".encode()
    out: list[bytes] = []
    body: list[bytes] | None = None
    for raw in data.split(b"\n"):
        line = raw.rstrip(b" \t\r")
        if body is None:
            if line == begin:
                body = []
            elif alone and line:
                raise TrustError("there is text around the signature", where=where)
        elif line == end:
            out.append(_unarmored(body, where))
            body = None
        else:
            body.append(line)
    if body is not None:
        raise TrustError(f"an armoured block has no `{end.decode()}` line: it was cut short", where=where)
    if not out:
        raise TrustError(f"no `{begin.decode()}` line in it", where=where)
    return b"".join(out)


def _unarmored(lines: list[bytes], where: str) -> bytes:
    start = 0
    while start < len(lines) and _HEADER.fullmatch(lines[start]):
        start += 1
    text: list[bytes] = []
    for line in lines[start:]:
        if not line and not text:
            continue
        if line.startswith(b"=") and len(line) == 5:
            break  # the checksum: no guard against anything, and RFC 9580 (6.1) says not to refuse over it
        if not _BASE64.fullmatch(line):
            raise TrustError("an armoured block has a line that is not base64", where=where)
        text.append(line)
    try:
        return base64.b64decode(b"".join(text), validate=True)
    except binascii.Error as e:
        raise TrustError(f"an armoured block cannot be decoded: {e}", where=where) from None


def check_text(data: bytes, where: str) -> None:
    """Refuse a text whose lines could be read in two ways; raises TrustError.

    A signature over text (RFC 9580, 5.2.1.2) is the same whether a line ends in LF, CR LF or CR: without this, a field
    of a signed Release could be made a part of the one before it.
    """
    if _CONTROL_OR_BREAK.search(data):
        raise TrustError("the signed text holds control characters", where=where)


def split_cleartext(data: bytes, where: str) -> tuple[bytes, bytes]:
    """Return the text that an InRelease file signs, in the form that is hashed but for LF, and the signature packets.

    The whole file must be one signed message: text before, between or after its parts is refused, for a reader that
    looks further than the signature could be made to read it. Raises TrustError.
    """
    lines = data.split(b"\n")
    if _strip(lines[0]) != SIGNED:
        found = any(_strip(line) == SIGNED for line in lines)
        what = "there is text before the signed message" if found else "it is not a signed message"
        raise TrustError(what, where=where)
    at = 1
    while at < len(lines) and _strip(lines[at]):
        if not _HASH.fullmatch(_strip(lines[at])):
            raise TrustError(f"a signed message has the header {lines[at][:80]!r}", where=where)
        at += 1
    text: list[bytes] = []
    at += 1
    while at < len(lines) and not lines[at].startswith(b"-----"):
        line = _strip(lines[at])
        if line.startswith(b"- "):
            line = line[2:]
        elif line.startswith(b"-"):
            raise TrustError("a line of the signed message starts with an unescaped dash", where=where)
        if _CONTROL.search(line):
            raise TrustError("the signed message holds control characters", where=where)
        text.append(line)
        at += 1
    if at >= len(lines):
        raise TrustError("the signed message has no signature: it was cut short", where=where)
    if _strip(lines[at]) != b"-----BEGIN PGP SIGNATURE-----":
        raise TrustError(f"the signed message is followed by {lines[at][:60]!r}", where=where)
    return b"\n".join(text), blocks(b"\n".join(lines[at:]), "SIGNATURE", where)


def _strip(line: bytes) -> bytes:
    """Drop a line's trailing blanks, which are not signed (RFC 9580, 7.2)."""
    return line.rstrip(b" \t\r")
