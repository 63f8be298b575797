"""Reads tar headers directly: ustar, GNU long names and base-256 numbers, and, where asked, pax (pax(1), tar(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from mkroot.tar.stream import Corrupt, Stream

BLOCK_SIZE = 512
NAME_LIMIT = 1 << 16  # bytes of a long name or of a pax header
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"1": HARDLINK,
    b"2": SYMLINK,
    b"3": CHAR,
    b"4": BLOCK,
    b"5": DIR,
    b"6": FIFO,
}
_ZERO = bytes(BLOCK_SIZE)
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*|\0[ \0]*")  # as dpkg: blanks come before the digits, zero bytes only after
_DECIMAL = re.compile(rb"([0-9]{1,19})(\.[0-9]*)?")
_GLOBAL = {"path", "linkpath", "size"}  # what some readers take from a global header and others do not
_DEVICE_LIMITS = (1 << 12, 1 << 20)  # Linux's major and minor numbers, which are also what ustar's fields can hold


def _number(field: bytes, what: str) -> int:
    if field[0] & 0x80:  # base-256, GNU and star; the top bit marks it, 0xff starts a negative number
        if field[0] == 0xFF:
            raise Corrupt(f"a negative {what}")
        if field[0] != 0x80:  # dpkg and GNU tar read the bits that follow the mark differently
            raise Corrupt(f"an impossible {what}")
        value = int.from_bytes(field[1:], "big")
        if value >= 1 << 62:
            raise Corrupt(f"an impossible {what}")
        return value
    m = _OCTAL.fullmatch(field)
    if m is None:
        raise Corrupt(f"an unreadable {what}")
    return int(m[1] or b"0", 8)


def _name(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, bytes]:
    records: dict[str, bytes] = {}
    pos = 0
    while pos < len(data):
        space = data.find(b" ", pos, pos + 20)
        digits = data[pos:space] if space > 0 else b""
        if not digits.isdigit():
            raise Corrupt("a malformed pax header")
        end = pos + int(digits)
        record = data[space + 1 : end]
        if end <= space + 1 or end > len(data) or record[-1:] != b"\n" or b"=" not in record:
            raise Corrupt("a malformed pax header")
        key, _, value = record[:-1].partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value
        pos = end
    return records


def clean(name: str) -> str:
    """Return a member's name as a path relative to the root: no `./`, no leading or trailing slash.

    Raises Corrupt on a `..` component, a newline or a NUL: names that no package needs and that dpkg's own file lists
    could not hold.
    """
    if "\n" in name or "\0" in name:
        raise Corrupt(f"member {name[:200]!r} has a newline or NUL in its name")
    if name.startswith("./"):
        name = name[2:]
    if "//" in name or "/." in name or name.startswith((".", "/")) or name.endswith("/"):
        parts = [p for p in name.split("/") if p not in ("", ".")]
        if ".." in parts:
            raise Corrupt(f"member {name[:200]!r} has a `..` component")
        return "/".join(parts)
    return name


def entries(stream: Stream, *, pax: bool = False) -> Iterator[tuple[Entry, str]]:
    """Yield each member as an Entry, with its name as written.

    The caller reads a file's content (`entry.size` bytes, from `entry.data`) from `stream` before it goes on, or
    leaves it: what is left is skipped. With `pax`, pax headers are understood; otherwise they are refused, as dpkg
    does (deb(5)). Raises Corrupt.
    """
    long_name = long_link = ""
    extended: dict[str, bytes] = {}
    while True:
        header = stream.read(BLOCK_SIZE)
        if header == _ZERO or not header:
            if not header:
                raise Corrupt("the tar stream ends without its end mark")
            break
        if len(header) < BLOCK_SIZE:
            raise Corrupt("the tar stream is truncated")
        stored = _number(header[148:156], "checksum")
        if sum(header) - sum(header[148:156]) + 256 != stored:
            raise Corrupt("a tar header's checksum does not match")
        flag = header[156:157]
        size = _number(header[124:136], "size")
        if flag in (b"L", b"K", b"x", b"g"):
            if size > NAME_LIMIT:
                raise Corrupt("a name of more than 64 KiB")
            data = stream.read(size)
            if len(data) < size:
                raise Corrupt("the tar stream is truncated")
            stream.read(-size % BLOCK_SIZE)
            if flag in (b"L", b"K"):
                if not (long := _name(data)):
                    raise Corrupt("an empty long name")
                long_name, long_link = (long, long_link) if flag == b"L" else (long_name, long)
            elif not pax:
                raise Corrupt("a pax header, which deb(5) does not allow")
            elif flag == b"x":
                extended = _pax(data)
            elif any(k in _GLOBAL or k.startswith("GNU.sparse.") for k in _pax(data)):
                raise Corrupt("a global pax header that names members or gives them a size")
            continue
        kind = _KINDS.get(flag)
        if kind is None or (flag == b"7" and not pax):
            raise Corrupt(f"an unknown kind of member {flag!r}")
        name = long_name or _name(header[0:100])
        if not long_name and header[257:263] == b"ustar\0" and header[345]:
            name = _name(header[345:500]) + "/" + name
        link = (long_link or _name(header[157:257])) if kind in (HARDLINK, SYMLINK) else ""
        mtime = _number(header[136:148], "time")
        uid, gid = _number(header[108:116], "owner"), _number(header[116:124], "group")
        xattrs: dict[str, bytes] = {}
        if extended:
            name = _text(extended, "path", name, long_name)
            link = _text(extended, "linkpath", link, long_link) if kind in (HARDLINK, SYMLINK) else ""
            size = _decimal(extended, "size", size)
            uid, gid = _decimal(extended, "uid", uid), _decimal(extended, "gid", gid)
            mtime = _decimal(extended, "mtime", mtime, fraction=True)
            xattrs = {k[13:]: v for k, v in sorted(extended.items()) if k.startswith("SCHILY.xattr.")}
            if any(k.startswith("GNU.sparse.") for k in extended):
                raise Corrupt("a sparse member")
        long_name = long_link = ""
        extended = {}
        if pax and kind == FILE and name.endswith("/"):  # v7 archives mark folders so; dpkg makes a file of it
            kind = DIR
        if kind != FILE:
            size = 0
        if max(uid, gid) > 0xFFFFFFFE:
            raise Corrupt(f"member {name[:200]!r} has an impossible owner")
        device = (
            (_number(header[329:337], "device"), _number(header[337:345], "device"))
            if kind in (CHAR, BLOCK)
            else (0, 0)
        )
        if device[0] >= _DEVICE_LIMITS[0] or device[1] >= _DEVICE_LIMITS[1]:
            raise Corrupt(f"member {name[:200]!r} has an impossible device number")
        start = stream.offset
        yield (
            Entry(
                path=clean(name),
                kind=kind,
                mode=_number(header[100:108], "mode") & 0o7777,
                uid=uid,
                gid=gid,
                mtime=mtime,
                size=size,
                link=clean(link) if kind == HARDLINK else link,
                device=device,
                xattrs=xattrs,
                data=start,
            ),
            name,
        )
        left = size + -size % BLOCK_SIZE - (stream.offset - start)
        while left > 0:
            piece = stream.read(min(left, 1 << 20))
            if not piece:
                raise Corrupt("the tar stream is truncated")
            left -= len(piece)
    while piece := stream.read(1 << 20):  # a second zero block and padding; nothing else may stand there
        if piece.strip(b"\0"):
            raise Corrupt("something stands after the end of the tar stream")


def _text(records: dict[str, bytes], key: str, default: str, long: str) -> str:
    """Return a name from a pax header, else the default; one that GNU's header gives otherwise is refused."""
    value = records.get(key)
    if value is None:
        return default
    text = value.decode("utf-8", "surrogateescape")
    if not text or (long and long != text):  # readers differ on which of the two names counts
        raise Corrupt(f"a pax {key} that is empty, or that another header contradicts")
    return text


def _decimal(records: dict[str, bytes], key: str, default: int, *, fraction: bool = False) -> int:
    value = records.get(key)
    if value is None:
        return default
    found = _DECIMAL.fullmatch(value)
    if found is None or (found[2] and not fraction):
        raise Corrupt(f"a malformed pax {key}")
    number = int(found[1])
    if number >= 1 << 62:
        raise Corrupt(f"an impossible pax {key}")
    return number
