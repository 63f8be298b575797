"""The outermost packets of an OpenPGP message (RFC 9580, section 4.2), by their heads alone; pure.

Sequoia reads into what it is given: a compressed packet is unpacked before anybody has looked at a signature, and a
quarter of a megabyte of it makes gigabytes. So the heads are read here first, and only packets of a kind that belongs
where it stands are handed on.
"""

from __future__ import annotations

from collections.abc import Iterator

SIGNATURE, MARKER = 2, 10  # tags (RFC 9580, 5)
MESSAGE = frozenset((1, 3, 4, 8, 9, 11, 18, 19, 20))  # of messages: compressed, encrypted, literal data and their kin


def outermost(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and bytes, head included, of each packet; raises ValueError for what is malformed.

    A packet must tell its length: only those that hold messages may do without.
    """
    at = 0
    while at < len(data):
        start, head = at, data[at]
        if not head & 0x80:
            raise ValueError(f"at byte {at} there is no packet")
        if head & 0x40:
            tag = head & 0x3F
            first = data[at + 1] if at + 1 < len(data) else 255
            if 224 <= first < 255:
                raise ValueError("a packet does not tell its length")
            octets, skip = (1, 1) if first < 192 else (2, 1) if first < 224 else (4, 2)
        else:
            tag = head >> 2 & 0x0F
            if head & 3 == 3:
                raise ValueError("a packet does not tell its length")
            octets, skip, first = 1 << (head & 3), 1, 0
        field = data[at + skip : at + skip + octets]
        size = int.from_bytes(field, "big")
        if head & 0x40 and octets == 2:
            size = ((first - 192) << 8) + field[-1] + 192
        at += skip + octets + size
        if len(field) < octets or at > len(data):
            raise ValueError("a packet is cut short")
        yield tag, data[start:at]
