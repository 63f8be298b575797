"""Writes tar headers in one canonical form: ustar where it fits, pax records where it does not (pax(1))."""

from __future__ import annotations

from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK, Entry

END = bytes(1024)  # two zero blocks close an archive
_FLAGS = {"f": b"0", "h": b"1", "l": b"2", "c": b"3", "b": b"4", "d": b"5", "p": b"6"}
_PADDING = [bytes(-n % 512) for n in range(512)]
_TAIL = bytes(12)


def padding(size: int) -> bytes:
    """Return the zero bytes that follow `size` bytes of content up to a whole block."""
    return _PADDING[size % 512]


def _block(name: bytes, flag: bytes, entry: Entry, size: int, link: bytes, prefix: bytes, mtime: int) -> bytes:
    head = b"%b%b0%06o\0%07o\0%07o\0%011o\0%011o\0" % (
        name,
        bytes(100 - len(name)),
        entry.mode,
        entry.uid if entry.uid < 0o10000000 else 0,
        entry.gid if entry.gid < 0o10000000 else 0,
        size if size < 1 << 33 else 0,
        mtime if 0 <= mtime < 1 << 33 else 0,
    )
    tail = b"%b%b%bustar\x0000%b%07o\0%07o\0%b%b%b" % (
        flag,
        link,
        bytes(100 - len(link)),
        bytes(64),
        entry.device[0],
        entry.device[1],
        prefix,
        bytes(155 - len(prefix)),
        _TAIL,
    )
    return b"%b%06o\0 %b" % (head, sum(head) + sum(tail) + 256, tail)


def _record(key: bytes, value: bytes) -> bytes:
    body = len(key) + len(value) + 3
    length = body + len(str(body))
    length = body + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Split a name of more than 100 bytes into ustar's prefix and name, or return None where it cannot be done."""
    cut = name.rfind(b"/", 0, 156)
    if cut > 0 and len(name) - cut - 1 <= 100 and name[cut + 1 :]:
        return name[:cut], name[cut + 1 :]
    return None


def header(entry: Entry, mtime: int | None = None) -> bytes:
    """Return the header blocks of one member; its content and padding are the caller's to add.

    mtime: seconds, in place of the entry's own. Owners' names are left empty: ids decide.
    """
    mtime = entry.mtime if mtime is None else mtime
    name = entry.path.encode("utf-8", "surrogateescape")
    if entry.kind == DIR:
        name = name + b"/" if name else b"./"
    link = entry.link.encode("utf-8", "surrogateescape") if entry.kind in (SYMLINK, HARDLINK) else b""
    size = entry.size if entry.kind == FILE else 0
    short = len(name) <= 100 and len(link) <= 100 and size < 1 << 33
    if short and not entry.xattrs and max(entry.uid, entry.gid) < 0o10000000:
        return _block(name, _FLAGS[entry.kind], entry, size, link, b"", mtime)
    prefix = b""
    records: dict[bytes, bytes] = {}
    if len(name) > 100:
        if split := _split(name):
            prefix, name = split
        else:
            records[b"path"] = name
            name = name[:100]
    if len(link) > 100:
        records[b"linkpath"] = link
        link = link[:100]
    if size >= 1 << 33:
        records[b"size"] = b"%d" % size
    for key, value in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if value >= 0o10000000:
            records[key] = b"%d" % value
    for key_text, data in entry.xattrs.items():
        records[b"SCHILY.xattr." + key_text.encode("utf-8", "surrogateescape")] = data
    block = _block(name, _FLAGS[entry.kind], entry, size, link, prefix, mtime)
    if not records:
        return block
    body = b"".join(_record(k, v) for k, v in sorted(records.items()))
    extension = Entry(path="", kind=FILE, mode=0o644)
    return b"".join((_block(b"pax", b"x", extension, len(body), b"", b"", 0), body, padding(len(body)), block))
