"""Who a command runs as: `USER[:GROUP]` looked up in the image's own passwd and group (passwd(5), group(5))."""

from __future__ import annotations

from msgspec import Struct

from mkroot.errors import ContainerError

_LIMIT = 1 << 31  # an id past it is refused, as Docker does


class User(Struct, frozen=True, kw_only=True):
    """A user's ids, further groups and home."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def find_user(text: str, passwd: bytes, group: bytes) -> User:
    """Return the user that `USER[:GROUP]` means, each a name or a number; "" is 0. Raises ContainerError.

    As Docker: a number need not be in passwd; further groups are those that name the user, unless GROUP is given.
    """
    who, colon, which = text.partition(":")
    users, groups = _rows(passwd, 7), _rows(group, 4)
    row = next((r for r in users if r[0] == (who or "root")), None) if not who.isdecimal() else None
    if row is None and (who.isdecimal() or not who):
        row = next((r for r in users if _number(r[2]) == int(who or 0)), None)
    if row is None and who and not who.isdecimal():
        raise ContainerError(
            f"the image has no user `{who}`", where="/etc/passwd", hint="give a number, or a name that stands there"
        )
    uid = _number(row[2]) if row else int(who or 0)
    gid = _number(row[3]) if row else 0
    name = row[0] if row else ""
    more = tuple(sorted({_number(r[2]) for r in groups if name and name in r[3].split(",")} - {-1}))
    if colon and which:
        gid, more = _group(which, groups), ()
    if not (0 <= uid < _LIMIT and 0 <= gid < _LIMIT):
        raise ContainerError(f"the user `{text}` is out of range", hint=f"ids lie between 0 and {_LIMIT - 1}")
    return User(uid=uid, gid=gid, groups=more, home=(row[5] if row else "") or "/")


def _group(text: str, groups: list[list[str]]) -> int:
    if text.isdecimal():
        return int(text)
    for row in groups:
        if row[0] == text:
            return _number(row[2])
    raise ContainerError(
        f"the image has no group `{text}`", where="/etc/group", hint="give a number, or a name that stands there"
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else -1


def _rows(data: bytes, width: int) -> list[list[str]]:
    rows = (line.split(":") for line in data.decode("utf-8", "replace").splitlines() if not line.startswith("#"))
    return [row + [""] * (width - len(row)) for row in rows if len(row) >= 3]
