"""Seeds of what packages are made of: .debs, tar archives, compressed streams."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Mapping

import zstandard

from mkroot.tar.entry import DIR, FILE, Entry
from mkroot.tar.write import END, header
from tests.testarchive import Content, Raw, ar, member, tar

CONTROL = "Package: p\nVersion: 1.0-1\nArchitecture: all\nDescription: x\n"
Corpus = Mapping[str, bytes]


def _short(archive: bytes) -> bytes:
    """Return a tar archive without the zeros that fill its last record."""
    body = archive.rstrip(b"\0")
    return body + bytes(-len(body) % 512) + END


def short_tar(*members: Raw) -> bytes:
    return _short(tar(members))


def _changed(data: bytes, at: int, new: bytes) -> bytes:
    """Return a tar archive whose first header has other bytes and the checksum of those."""
    head = bytearray(data[:512])
    head[at : at + len(new)] = new
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[512:]


def _pax(**fields: str) -> bytes:
    info = member("x")
    info.pax_headers = {k.replace("__", "."): v for k, v in fields.items()}
    return info.tobuf(tarfile.PAX_FORMAT) + END


def debs() -> Corpus:
    """Return contents by name."""
    plain = Content(compression="none").deb(CONTROL)
    control = gzip.compress(short_tar(Raw(member("./control"), CONTROL.encode())), mtime=0)
    small = short_tar(Raw(member("./a"), b"hi\n"))

    def package(*members: tuple[str, bytes]) -> bytes:
        return ar([("debian-binary", b"2.0\n"), *members])

    good = package(("control.tar.gz", control), ("data.tar.gz", gzip.compress(small, mtime=0)))
    return {
        "good-gz": good,
        "good-xz": Content(files={"a": b"hi"}, compression="xz").deb(CONTROL),
        "good-zst": Content(files={"a": b"hi"}, compression="zst").deb(CONTROL),
        "good-plain-data": package(("control.tar.gz", control), ("data.tar", small)),
        "good-underscore": package(
            ("_more", b"x"), ("control.tar.gz", control), ("data.tar.gz", gzip.compress(small, mtime=0))
        ),
        "good-trailing": good + b"garbage",
        "bad-empty": b"",
        "bad-magic": b"!<arch>\r" + good[8:],
        "bad-version": good.replace(b"2.0\n", b"3.0\n"),
        "bad-order": package(("data.tar", small), ("control.tar.gz", control)),
        "bad-no-data": package(("control.tar.gz", control)),
        "bad-no-control-file": package(
            ("control.tar.gz", gzip.compress(short_tar(Raw(member("./md5sums"), b"")), mtime=0)), ("data.tar", small)
        ),
        "bad-two-control-files": package(
            ("control.tar.gz", gzip.compress(short_tar(*2 * [Raw(member("./control"), b"Package: p\n")]), mtime=0)),
            ("data.tar", small),
        ),
        "bad-control-name": package(
            ("control.tar.gz", gzip.compress(short_tar(Raw(member("./a b"), b"")), mtime=0)), ("data.tar", small)
        ),
        "bad-size": good.replace(b"4         `", b"-4        `", 1),
        "bad-size-large": good.replace(b"4         `", b"9999999999`", 1),
        "bad-header-end": good.replace(b"`\n", b"`\r", 1),
        "bad-cut": good[:-40],
        "bad-suffix": package(("control.tar.br", control), ("data.tar", small)),
        "bad-control-not-tar": package(("control.tar", b"x" * 600), ("data.tar", small)),
    } | ({"good-none": plain} if len(plain) <= 2048 else {})


def tars() -> Corpus:
    """Return contents by name."""
    file = short_tar(Raw(member("etc/motd"), b"hi\n"))
    return {
        "good-file": file,
        "good-empty": END,
        "good-kinds": short_tar(
            Raw(member("d", tarfile.DIRTYPE)), Raw(member("d/l", tarfile.SYMTYPE, linkname="../x"))
        ),
        "good-hardlink": short_tar(Raw(member("a"), b""), Raw(member("b", tarfile.LNKTYPE, linkname="./a"))),
        "good-device": short_tar(
            Raw(member("n", tarfile.CHRTYPE, devmajor=1, devminor=3)), Raw(member("f", tarfile.FIFOTYPE))
        ),
        "good-long-name": short_tar(Raw(member("d/" * 60 + "x"), b"")),
        "good-long-link": short_tar(Raw(member("l", tarfile.SYMTYPE, linkname="t" * 130))),
        "good-pax-path": _pax(path="é" * 60),
        "good-pax-xattr": _pax(SCHILY__xattr__user__x="1", mtime="1.5"),
        "good-ustar-prefix": header(Entry(path="p" * 100 + "/" + "n" * 90, kind=FILE, mode=0o644)) + END,
        "good-owner": header(Entry(path="o", kind=DIR, mode=0o755, uid=0o10000000, gid=1)) + END,
        "good-slash-file": _changed(short_tar(Raw(member("ab"), b"")), 0, b"a/"),
        "bad-slash-file": _changed(file, 0, b"etc/motd/"),
        "good-base256": _changed(short_tar(Raw(member("a"), b"")), 124, b"\x80" + bytes(11)),
        "good-global": _short(_global() + file),
        "bad-dotdot": short_tar(Raw(member("../x"), b"")),
        "bad-dotdot-link": short_tar(Raw(member("a", tarfile.LNKTYPE, linkname="x/../../y"))),
        "bad-newline": short_tar(Raw(member("a\nb"), b"")),
        "bad-checksum": file[:100] + b"9" + file[101:],
        "bad-sparse": _changed(file, 156, b"S"),
        "bad-negative-size": _changed(file, 124, b"\xff" * 12),
        "bad-huge-size": _changed(file, 124, b"\x80" + b"\x7f" * 11),
        "bad-size-zero-first": _changed(file, 124, b"\0000000000003\0"),
        "bad-device": _changed(short_tar(Raw(member("n", tarfile.CHRTYPE))), 329, b"\x80\0\0\0\1\0\0\0"),
        "bad-owner": _changed(file, 108, b"\x80\0\0\1\0\0\0\0"),
        "bad-no-end": file[:-1024],
        "bad-cut": file[:700],
        "bad-after-end": file + b"x",
        "bad-pax-length": _pax(path="a").replace(b" path=", b"9path="),
        "bad-pax-size": _pax(size="-1"),
        "bad-pax-number": _pax(uid="1e9"),
        "bad-pax-infinity": _pax(mtime="1" + "0" * 400 + ".0"),
        "bad-pax-sparse": _pax(GNU__sparse__name="a"),
        "bad-kind": _changed(file, 156, b"Z"),
        "bad-long-name-large": member("x", tarfile.GNUTYPE_LONGNAME, size=70000).tobuf(tarfile.GNU_FORMAT) + END,
    }


def _global() -> bytes:
    return tarfile.TarInfo.create_pax_global_header({"comment": "x"})


def streams() -> Corpus:
    """Return contents by name."""
    text = b"hello " * 200
    zst = zstandard.ZstdCompressor().compress(text)
    return {
        "good-plain": b"\0" + text,
        "good-gz": b"\1" + gzip.compress(text, mtime=0),
        "good-gz-two": b"\1" + 2 * gzip.compress(text, mtime=0),
        "good-xz": b"\2" + lzma.compress(text),
        "good-xz-padding": b"\2" + lzma.compress(text) + bytes(4),
        "good-zst": b"\3" + zst,
        "good-zst-two": b"\3" + zst + zst,
        "good-bz2": b"\4" + bz2.compress(text),
        "good-lzma": b"\5" + lzma.compress(text, format=lzma.FORMAT_ALONE),
        "bad-gz-cut": b"\1" + gzip.compress(text, mtime=0)[:-4],
        "bad-gz-trailing": b"\1" + gzip.compress(text, mtime=0) + b"x",
        "bad-xz-cut": b"\2" + lzma.compress(text)[:-4],
        "bad-xz-memory": b"\2" + lzma.compress(text)[:30],
        "bad-zst-cut": b"\3" + zst[:-1],
        "bad-zst-trailing": b"\3" + zst + b"xxxx",
        "bad-bomb-gz": b"\1" + gzip.compress(bytes(1 << 18), mtime=0),
        "bad-bomb-xz": b"\2" + lzma.compress(bytes(1 << 18)),
        "bad-bomb-zst": b"\3" + zstandard.ZstdCompressor().compress(bytes(1 << 18)),
    }
