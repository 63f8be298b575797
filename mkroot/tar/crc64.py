"""CRC-64 as Go's hash/crc64 has it under the name ISO: x^64 + x^4 + x^3 + x + 1, reflected, all ones before and after.

tar-split's records of files carry it. No library that mkroot needs anyway has this one; the polynomial is so sparse
that whole blocks can be folded as integers.
"""

from __future__ import annotations

_ONES = (1 << 64) - 1
_STEP = 1 << 18  # bytes that are folded at a time


def crc64(data: bytes, before: int = 0) -> int:
    """Return the checksum of what had the checksum `before`, with `data` after it."""
    state = before ^ _ONES
    for at in range(0, len(data), _STEP):
        block = data[at : at + _STEP]
        state = _folded(int.from_bytes(block, "little") ^ state, len(block) * 8 + 64)
    return state ^ _ONES


def _folded(value: int, bits: int) -> int:
    """Return the remainder of a polynomial, of whose `bits` coefficients the lowest bit has the highest power.

    For k a power of two, x^(64 k) leaves x^(4 k) + x^(3 k) + x^k + 1: what stands above it is moved down by shifts. The
    last 64 bits come in as zeros, so that the remainder is that of the message times x^64.
    """
    k = 1
    while 128 * k < bits:
        k *= 2
    while k:
        while bits > 64 * k:
            above = bits - 64 * k
            high = value & ((1 << above) - 1)
            bits = max(64 * k, above + 4 * k)
            high <<= bits - above
            value = ((value >> above) << (bits - 64 * k)) ^ high ^ (high >> k) ^ (high >> 3 * k) ^ (high >> 4 * k)
        k //= 2
    return value
