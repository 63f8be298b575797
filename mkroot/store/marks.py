"""The attributes by which a file says what this user cannot make of it: its owner, and the device that it stands for.

Whoever may write to a file may set them, a script in a sandbox too; what they say concerns nothing but its own tree,
and what makes no sense is passed over.
"""

from __future__ import annotations

import re

OWNER = "user.mkroot.owner"  # of a file whose owner this user cannot set: `uid:gid`
DEVICE = "user.mkroot.device"  # of an empty file in a device's place: `kind:major:minor:mode`, the mode in octal
_OWNER = re.compile(rb"(\d{1,10}):(\d{1,10})")
_DEVICE = re.compile(rb"([bc]):(\d{1,7}):(\d{1,7}):([0-7]{1,4})")
_NUMBERS = (1 << 12, 1 << 20)  # Linux's major and minor numbers
_IDS = (1 << 32) - 1  # (uid_t) -1 is nobody's


def owner(mark: bytes) -> tuple[int, int] | None:
    """Return the uid and gid that an OWNER mark names, None where it is malformed."""
    found = _OWNER.fullmatch(mark)
    if not found or max(int(found[1]), int(found[2])) >= _IDS:
        return None
    return int(found[1]), int(found[2])


def device(mark: bytes) -> tuple[str, int, tuple[int, int]] | None:
    """Return the kind, the mode and the numbers that a DEVICE mark names, None where it is malformed."""
    found = _DEVICE.fullmatch(mark)
    if not found:
        return None
    numbers = int(found[2]), int(found[3])
    known = numbers > (0, 0) and numbers[0] < _NUMBERS[0] and numbers[1] < _NUMBERS[1]  # 0:0 is a union's removal
    return (found[1].decode(), int(found[4], 8), numbers) if known else None
