"""Hostile and odd packages as data: what each has, what mkroot says, and where dpkg is more lenient, why mkroot is not.

A case's package is made for a canary: the absolute path of a file outside the root at which a hostile member may aim.
"""

from __future__ import annotations

import copy
import io
import tarfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.testarchive import Content, Raw, ar, compress, member
from tests.testarchive.deb import MTIME
from tests.unit.layers import control

END = bytes(1024)
SILENT = "dpkg takes what it got for the whole, without a word"


class Case(NamedTuple):
    """A package.

    make: from the canary's path. refused: a pattern of what mkroot says; "" where it is accepted, with dpkg's meaning.
    lenient: why mkroot refuses what dpkg accepts; "" where dpkg refuses it as well. unasked: dpkg is not run, for this
    reason.
    """

    make: Callable[[str], bytes]
    refused: str = ""
    lenient: str = ""
    unasked: str = ""


def block(name: bytes | str = b"", flag: bytes = b"0", content: bytes = b"", **fields: bytes | str | None) -> bytes:
    """A tar header, each field as it is given, and the content padded. magic: GNU's, unless told otherwise.

    fields: mode uid gid size mtime checksum link magic major minor prefix.
    """
    sizes = {"mode": 8, "uid": 8, "gid": 8, "size": 12, "mtime": 12, "checksum": 8, "flag": 1, "link": 100}
    sizes |= {"magic": 8, "uname": 32, "gname": 32, "major": 8, "minor": 8, "prefix": 155}
    values: dict[str, bytes] = {
        "mode": b"0000755" if flag == b"5" else b"0000644", "uid": b"0000000", "gid": b"0000000",
        "size": b"%011o" % len(content), "mtime": b"%011o" % MTIME, "flag": flag, "magic": b"ustar  \0",
        "uname": b"root", "gname": b"root",
    }  # fmt: skip
    values |= {k: v.encode() if isinstance(v, str) else v for k, v in fields.items() if v is not None}
    head = _bytes(name)[:100].ljust(100, b"\0")
    for key, size in sizes.items():
        head += b" " * 8 if key == "checksum" else values.get(key, b"")[:size].ljust(size, b"\0")
    head = head.ljust(512, b"\0")
    total = values.get("checksum") or b"%06o\0 " % sum(head)
    return head[:148] + total.ljust(8, b"\0")[:8] + head[156:] + content + bytes(-len(content) % 512)


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


def long_name(name: bytes | str, flag: bytes = b"L") -> bytes:
    """GNU's header for a name that does not fit."""
    return block("././@LongLink", flag, _bytes(name) + b"\0")


def pax(flag: bytes = b"x", /, **records: str) -> bytes:
    """A pax header; `GNU_sparse_major` stands for GNU.sparse.major."""
    out = b""
    for key, value in records.items():
        text = f" {key.replace('_', '.')}={value}\n".encode()
        size = len(text) + len(str(len(text) + len(str(len(text)))))
        out += str(size).encode() + text
    return block("pax", flag, out)


def base256(value: int, size: int) -> bytes:
    """A number in GNU's binary form."""
    return (b"\x80" if value >= 0 else b"\xff") + value.to_bytes(size - 1, "big", signed=True)


def link(name: str, target: str) -> Raw:
    return Raw(member(name, tarfile.SYMTYPE, linkname=target))


def hard(name: str, target: str, **fields: object) -> Raw:
    return Raw(member(name, tarfile.LNKTYPE, linkname=target, **fields))


def folder(name: str, mode: int = 0o755) -> Raw:
    return Raw(member(name, tarfile.DIRTYPE, mode=mode))


def file(name: str, content: bytes = b"content", **fields: object) -> Raw:
    return Raw(member(name, **fields), content)


def device(name: str, kind: bytes, major: int, minor: int) -> Raw:
    return Raw(member(name, kind, devmajor=major, devminor=minor))


def package(data: bytes, compression: str = "gz", text: str | None = None) -> bytes:
    """A package with this data archive."""
    return Content(data_member=compress(data, compression), compression=compression).deb(text or control("a"))


def holding(*rows: Raw | bytes) -> Callable[[str], bytes]:
    """Make a package of these members after `./`; CANARY in names and targets is the canary's path."""
    return lambda canary: package(stream(rows, canary))


def stream(rows: Sequence[Raw | bytes], canary: str = "", first: bytes | None = None) -> bytes:
    """A data archive of these members after `./`."""
    head = block("./", b"5") if first is None else first
    return head + b"".join(row if isinstance(row, bytes) else _blocks(row, canary) for row in rows) + END


def _blocks(row: Raw, canary: str) -> bytes:
    """A member's blocks, no end mark behind them."""
    info = copy.copy(row.info)
    info.name, info.linkname = (text.replace("CANARY", canary) for text in (info.name, info.linkname))
    info.size = len(row.content)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(row.content))
        return out.getvalue()[: archive.offset]


def cut(data: bytes, end: int) -> Callable[[str], bytes]:
    """Make a package whose data archive ends too early."""
    return lambda canary: package(data[:end])


LONG = "n" * 246
BIG = long_name("./" + "n" * 250) + block("./" + "n" * 90)
GOOD = (folder("./d"), file("./d/f", b"f" * 1000), link("./d/l", "f"))
ORDER = "a link's target would depend on the order in which packages are unpacked"
UTF8 = "names are UTF-8 (Policy 10.10), and what reads the root expects it"
ALONE = "dpkg refuses it alone, and takes it where another package has the folder"
DOTS = "no package has such a name, and dpkg goes where it says"
SLASH = "dpkg makes a file of it, other readers a folder"
TWICE = "which of the two counts depends on who reads the archive"

NAMES = {
    "dots": Case(holding(file("./../x")), "`..` component", DOTS),
    "dots without the dot": Case(holding(file("../x")), "`..` component", DOTS),
    "dots behind a folder": Case(holding(folder("./d"), file("./d/../x")), "`..` component", DOTS),
    "dots behind nothing": Case(holding(file("./d/../x")), "`..` component"),
    "dots twice": Case(holding(folder("./d"), file("./d/../../x")), "`..` component", DOTS),
    "dots at the end": Case(holding(folder("./d"), folder("./d/..")), "`..` component", DOTS),
    "only dots": Case(holding(folder("..")), "`..` component", DOTS),
    "only dots, a file": Case(holding(block("..")), "`..` component"),
    "dots as a link": Case(holding(link("./..", "CANARY")), "`..` component", DOTS),
    "dots in a long name": Case(holding(long_name("./" + "d/" * 60 + "../../x"), block("./d")), "`..` component"),
    "dots in a prefix": Case(holding(block("x", magic="ustar\x0000", prefix="./..")), "`..` component", DOTS),
    "dots with slashes": Case(holding(file(".//..//x")), "`..` component", DOTS),
    "three dots": Case(holding(file("./...", b"x"))),
    "dots in a name": Case(holding(file("./a..b"), file("./..c"))),
    "absolute": Case(holding(file("/x"))),
    "absolute below a folder": Case(holding(folder("/d"), file("/d/x"))),
    "absolute, many slashes": Case(holding(file("///x"))),
    "the canary's own name": Case(holding(file("CANARY")), unasked=ALONE),
    "slashes": Case(holding(folder("./d"), file(".//d//x"))),
    "dots of the folder itself": Case(holding(folder("./d"), file("././d/./x"))),
    "a file with a slash": Case(holding(block("./x/", b"0", b"", magic=b"")), "named like a folder", SLASH),
    "a link with a slash": Case(holding(block("./x/", b"2", link="CANARY")), "named like a folder and is none"),
    "a pipe with a slash": Case(holding(block("./x/", b"6")), "named like a folder and is none"),
    "a hard link with a slash": Case(
        holding(file("./f"), block("./x/", b"1", link="./f")), "named like a folder and is none"
    ),
    "no name": Case(holding(block("", b"0", b"x")), "it has member '' twice"),
    "no name, a link": Case(holding(block("", b"2", link="CANARY")), "it has member '' twice"),
    "the root as a file": Case(holding(block(".", b"0", b"x")), "it has member '' twice"),
    "the root as a file first": Case(lambda c: package(stream([], first=block("."))), "stands where the root is"),
    "the root as a link": Case(
        holding(block("./.", b"2", link="CANARY")), "it has member '' twice", "dpkg keeps a folder"
    ),
    "the root as a link first": Case(
        lambda c: package(stream([], first=block(".", b"2", link=c))), "stands where the root is", "dpkg keeps a folder"
    ),
    "the root as a device": Case(holding(block(".", b"3", major="0000001", minor="0000003")), "it has member '' twice"),
    "the root twice": Case(holding(block("./", b"5", mode="0000700"))),
    "newline": Case(holding(block("./a\nb")), "newline"),
    "newline in a folder": Case(holding(block("./a\nb/", b"5")), "newline"),
    "newline in a long name": Case(holding(long_name("./" + "a" * 120 + "\n/etc/passwd"), block("./a")), "newline"),
    "control characters": Case(holding(block("./a\x01\x1b[2Jb\r"))),
    "spaces and quotes": Case(holding(block("./ \"'`$(x) "))),
    "a backslash": Case(holding(block("./..\\x"))),
    "UTF-8": Case(holding(block("./naïve/", b"5"), block("./naïve/ñ"))),
    "Latin-1": Case(holding(block(b"./x\xe9")), "not UTF-8", UTF8),
    "half of a character": Case(holding(block(b"./x\xc3")), "not UTF-8", UTF8),
    "a surrogate": Case(holding(block(b"./x\xed\xb3\xbf")), "not UTF-8", UTF8),
    "246 bytes": Case(holding(long_name("./" + LONG), block("./n", b"0", b"x"))),
    "247 bytes": Case(holding(long_name("./n" + LONG), block("./n")), "longer name than dpkg can unpack"),
    "256 bytes": Case(holding(long_name("./" + "n" * 256), block("./n")), "longer name"),
    "a folder of 250 bytes": Case(holding(long_name("./" + "n" * 250 + "/"), block("./n", b"5")), "longer name"),
    "a long folder that is implied": Case(holding(long_name("./" + "n" * 300 + "/x"), block("./n")), "longer name"),
    "246 bytes of two each": Case(holding(long_name("./" + "é" * 123), block("./n"))),
    "248 bytes of two each": Case(holding(long_name("./" + "é" * 124), block("./n")), "longer name"),
    "4200 bytes": Case(holding(long_name("./" + "/".join(["n" * 200] * 21)), block("./n")), "longer name"),
    "300 folders": Case(holding(long_name("./" + "d/" * 300 + "f"), block("./d")), "more than 256 folders deep"),
    "64 KiB": Case(holding(long_name("./" + "n" * 66000), block("./n")), "more than 64 KiB"),
    "a long name of nothing": Case(holding(long_name(""), block("./n")), "an empty long name"),
    "a long name of no bytes": Case(holding(block("././@LongLink", b"L"), block("./n")), "an empty long name"),
    "two long names": Case(holding(long_name("./one"), long_name("./two"), block("./n"))),
    "a long name and a prefix": Case(holding(long_name("./x"), block("n", magic="ustar\x0000", prefix="./.."))),
    "a long name at the end": Case(holding(block("./x"), long_name("./y"))),
    "a prefix of ustar": Case(holding(folder("./d"), block("x", magic="ustar\x0000", prefix="./d"))),
    "GNU has no prefix": Case(holding(folder("./d"), block("x", prefix="./.."))),
    "a whiteout": Case(holding(file("./.wh.x")), "another meaning", "a layer would remove `x` by it"),
    "an opaque mark": Case(holding(folder("./d"), file("./d/.wh..wh..opq")), "another meaning", "so would it `d/*`"),
    "a whiteout as a folder": Case(holding(folder("./.wh.d")), "another meaning", "a layer would remove `d` by it"),
    "a whiteout that is implied": Case(holding(file("./d/.wh.x/y")), "another meaning"),
    "no folder before its file": Case(holding(file("./opt/x/y")), unasked=ALONE),
    "in dpkg's database": Case(
        holding(
            *(folder(f) for f in ("./var", "./var/lib", "./var/lib/dpkg", "./var/lib/dpkg/info")),
            file("./var/lib/dpkg/info/a.postinst"),
        ),
        "",
        unasked="it has no script of its own, so nothing is replaced",
    ),
    "over its own entry in dpkg's database": Case(
        holding(file("./var/lib/dpkg/info/a.list")), "stands where dpkg's database is", "it would be what dpkg is told"
    ),
    "a link in place of dpkg's database": Case(
        holding(folder("./var"), folder("./var/lib"), link("./var/lib/dpkg", "CANARY")),
        "stands where dpkg's database is",
        unasked="there is no such link in the judge's root",
    ),
    "a link in place of /var": Case(
        holding(link("./var", "CANARY")), "stands where dpkg's database is", unasked="as above"
    ),
}

LINKS = {
    "a link that leads out": Case(holding(link("./x", "CANARY"))),
    "a link that climbs": Case(holding(link("./x", "../../../../../../etc/passwd"))),
    "a link to itself": Case(holding(link("./x", "x"))),
    "links in a circle": Case(holding(link("./x", "y"), link("./y", "x"))),
    "a link to nothing": Case(holding(link("./x", "nowhere/else"))),
    "a link without target": Case(holding(block("./x", b"2")), "no target that a link can have"),
    "a target of 5000 bytes": Case(holding(long_name("t" * 5000, b"K"), block("./x", b"2", link="t")), "no target"),
    "a target of 4000 bytes": Case(holding(long_name("t/" * 2000, b"K"), block("./x", b"2", link="t"))),
    "a target that is not UTF-8": Case(holding(block("./x", b"2", link=b"\xff")), "not UTF-8", UTF8),
    "a target with a newline": Case(holding(block("./x", b"2", link="a\nb"))),
    "below a link that leads out": Case(holding(link("./x", "CANARY"), file("./x/f")), "lies below 'x'"),
    "below a link inside": Case(holding(folder("./d"), link("./x", "d"), file("./x/f")), "lies below 'x'"),
    "deep below a link": Case(holding(link("./x", "CANARY"), file("./x/a/b/c")), "lies below 'x'"),
    "below a link by dots": Case(holding(folder("./d"), link("./x", "CANARY"), file("./x/./f")), "lies below 'x'"),
    "a folder below a link": Case(holding(link("./x", "CANARY"), folder("./x/d")), "lies below 'x'"),
    "a link below a link": Case(holding(link("./x", "CANARY"), link("./x/l", "y")), "lies below 'x'"),
    "below a chain of links": Case(holding(link("./x", "y"), link("./y", "CANARY"), file("./x/f")), "lies below 'x'"),
    "a folder in place of a link": Case(holding(link("./x", "CANARY"), folder("./x"), file("./x/f")), "twice", TWICE),
    "a folder in place of a link inside": Case(
        holding(folder("./d"), link("./x", "d"), folder("./x"), file("./x/f")), "twice", TWICE
    ),
    "a file in place of a link": Case(holding(link("./x", "CANARY"), file("./x")), "twice", TWICE),
    "a link in place of a file": Case(holding(file("./x"), link("./x", "CANARY")), "twice", TWICE),
    "a link in place of an empty folder": Case(
        holding(folder("./x"), link("./x", "CANARY")),
        "stands where|twice",
        "dpkg keeps the folder, other readers do not",
    ),
    "a link in place of a folder with a file": Case(
        holding(folder("./x"), file("./x/f"), link("./x", "CANARY")), "twice", "as above"
    ),
    "a link in place of an implied folder": Case(
        holding(file("./x/f"), link("./x", "CANARY")), "stands where a folder is"
    ),
    "a link in place of a deep implied folder": Case(
        holding(file("./x/y/z/f"), link("./x/y", "CANARY")), "stands where a folder is"
    ),
    "a link in place of an implied folder by an alias": Case(
        holding(file("./bin/f"), link("./usr/bin", "CANARY")), "stands where a folder is"
    ),
    "below a file": Case(holding(file("./x"), file("./x/f")), "lies below 'x'"),
    "below a device": Case(holding(device("./x", b"3", 1, 3), file("./x/f")), "lies below 'x'"),
    "below a pipe": Case(holding(block("./x", b"6"), file("./x/f")), "lies below 'x'"),
    "a file in place of an implied folder": Case(holding(file("./x/f"), file("./x")), "stands where a folder is"),
    "/bin as a link out": Case(
        holding(link("./bin", "CANARY"), folder("./usr"), folder("./usr/bin"), file("./usr/bin/f"))
    ),
    "/bin as a link out, and a file in it": Case(
        holding(link("./bin", "CANARY"), file("./bin/f")), "", unasked="a merged /usr has it in /usr/bin"
    ),
    "/usr as a link out": Case(holding(link("./usr", "CANARY"), file("./bin/f")), "lies below 'usr'"),
}

HARD = {
    "to nothing": Case(holding(hard("./x", "./nothing")), "no earlier file"),
    "to a file outside": Case(holding(hard("./x", "CANARY")), "no earlier file"),
    "to a file outside, by dots": Case(holding(hard("./x", "../outside/canary")), "`..` component"),
    "to a later file": Case(holding(hard("./x", "./y"), file("./y")), "no earlier file"),
    "to itself": Case(holding(hard("./x", "./x")), "no earlier file"),
    "to a folder": Case(holding(folder("./d"), hard("./x", "./d")), "no earlier file"),
    "to the root": Case(holding(hard("./x", "./")), "no earlier file"),
    "to no name": Case(holding(block("./x", b"1")), "no earlier file"),
    "to a file": Case(holding(file("./f"), hard("./x", "./f"), hard("./y", "./x"))),
    "to a file, absolute": Case(holding(file("./f"), hard("./x", "/f"))),
    "to a file, without a dot": Case(holding(file("./f"), hard("./x", "f"))),
    "to a setuid file": Case(holding(file("./f", mode=0o4755), hard("./x", "./f", mode=0o4755))),
    "to a file, setuid": Case(holding(file("./f"), hard("./x", "./f", mode=0o4755)), "another mode or owner", TWICE),
    "to a file, another's": Case(holding(file("./f"), hard("./x", "./f", uid=7)), "another mode or owner", TWICE),
    "to a link that leads out": Case(holding(link("./l", "CANARY"), hard("./x", "./l")), "", unasked="nlink of a link"),
    "through a link that leads out": Case(holding(link("./l", "CANARY"), hard("./x", "./l/f")), "no earlier file"),
    "through a link inside": Case(
        holding(folder("./d"), file("./d/f"), link("./l", "d"), hard("./x", "./l/f")), "no earlier file"
    ),
    "below a link": Case(holding(file("./f"), link("./l", "CANARY"), hard("./l/x", "./f")), "lies below 'l'"),
    "to a device": Case(holding(device("./n", b"3", 1, 3), hard("./x", "./n")), "", unasked="nlink of a device"),
    "to a pipe": Case(holding(block("./p", b"6"), hard("./x", "./p")), "names the pipe", "it would be another pipe"),
    "with data": Case(holding(file("./f"), block("./x", b"1", b"data", link="./f")), "malformed after"),
    "with a size and no data": Case(holding(file("./f"), block("./x", b"1", size=b"%011o" % 9, link="./f"))),
    "in place of a file": Case(holding(file("./f"), file("./x"), hard("./x", "./f")), "twice", TWICE),
    "to a name with a newline": Case(holding(block("./x", b"1", link="a\nb")), "newline"),
    "to a name of 5000 bytes": Case(holding(long_name("t" * 5000, b"K"), block("./x", b"1", link="t")), "no earlier"),
    "two targets": Case(holding(file("./f"), long_name("./CANARY", b"K"), long_name("./f", b"K"), block("./x", b"1"))),
}

KINDS = {
    "a character device": Case(holding(device("./x", b"3", 1, 3))),
    "a block device": Case(holding(device("./x", b"4", 8, 0))),
    "the host's memory": Case(holding(device("./mem", b"3", 1, 1))),
    "device 0:0": Case(holding(device("./x", b"3", 0, 0)), "device 0:0", "a union takes it for a removal"),
    "block device 0:0": Case(holding(device("./x", b"4", 0, 0)), "device 0:0", "as above"),
    "a major number too big": Case(holding(block("./x", b"3", major="7777777", minor="0000001")), "device number"),
    "a minor number too big": Case(holding(block("./x", b"3", major="0000001", minor="7777777")), "device number"),
    "a major number beyond everything": Case(
        holding(block("./x", b"3", major=base256(1 << 54, 8), minor="0000001")),
        "device number",
        "there is no such device, and dpkg makes another",
    ),
    "a negative device": Case(holding(block("./x", b"3", major=base256(-1, 8))), "negative device"),
    "a pipe": Case(holding(block("./x", b"6"))),
    "a socket": Case(holding(block("./x", b"s")), "unknown kind"),
    "a contiguous file": Case(holding(block("./x", b"7", b"x")), "unknown kind"),
    "GNU's sparse file": Case(holding(block("./x", b"S", b"x")), "unknown kind"),
    "GNU's folder with names": Case(holding(block("./x", b"D", b"Yf\0\0")), "unknown kind"),
    "a volume's label": Case(holding(block("./x", b"V")), "unknown kind"),
    "the rest of another volume": Case(holding(block("./x", b"M", b"x")), "unknown kind"),
    "Solaris's attributes": Case(holding(block("./x", b"X", b"x")), "unknown kind"),
    "Solaris's list": Case(holding(block("./x", b"A", b"x")), "unknown kind"),
    "a long name of another kind": Case(holding(block("./x", b"N", b"x")), "unknown kind"),
    "no kind at all": Case(holding(block("./x", b"\0", b"x", magic=b""))),
    "a kind of eight bits": Case(holding(block("./x", b"\xff")), "unknown kind"),
    "an empty kind with a slash": Case(holding(block("./x/", b"\0", magic=b"")), "named like a folder", SLASH),
    "a folder with a size": Case(holding(block("./d", b"5", size=b"%011o" % 9))),
    "a folder with data": Case(holding(block("./d", b"5", b"data")), "malformed after"),
    "a link with data": Case(holding(block("./d", b"2", b"data", link="x")), "malformed after"),
    "a file twice": Case(holding(file("./x", b"1"), file("./x", b"2")), "twice", TWICE),
    "a file twice by slashes": Case(holding(file("./x", b"1"), file(".//x", b"2")), "twice", TWICE),
    "a file twice by an alias": Case(
        holding(
            folder("./bin"), folder("./usr"), folder("./usr/bin"), file("./bin/x", b"1"), file("./usr/bin/x", b"2")
        ),
        "twice",
        "with /bin as a link into /usr they are one",
    ),
    "a folder twice": Case(holding(folder("./d", 0o700), folder("./d", 0o755), file("./d/f")), unasked="which mode"),
    "a folder in place of a file": Case(holding(file("./x"), folder("./x")), "twice"),
    "a file in place of a folder": Case(holding(folder("./x"), file("./x")), "twice|stands where", TWICE),
    "setuid": Case(holding(file("./x", mode=0o6755), folder("./d", 0o3777))),
}

PAX = r"deb\(5\) does not allow"
HEADERS = {
    "a negative size": Case(holding(block("./x", size=base256(-1, 12))), "a negative size"),
    "a huge size": Case(holding(block("./x", size=base256(1 << 80, 12))), "an impossible size"),
    "a size beyond the archive": Case(holding(block("./x", size=base256(1 << 40, 12))), "truncated"),
    "a size of 8 GiB in octal": Case(holding(block("./x", size=b"7" * 12)), "truncated"),
    "a size in binary": Case(holding(block("./x", b"0", b"x" * 700, size=base256(700, 12)))),
    "a size with another mark": Case(holding(block("./x", size=b"\x81" + bytes(11))), "an impossible size"),
    "a size in decimal": Case(holding(block("./x", b"0", b"x" * 9, size=b"00000000009")), "an unreadable size"),
    "a size of letters": Case(holding(block("./x", size=b"lots")), "an unreadable size"),
    "a size with a sign": Case(holding(block("./x", size=b"-0000000001")), "an unreadable size"),
    "a size with a plus": Case(holding(block("./x", b"0", b"x", size=b"+0000000001")), "an unreadable size"),
    "no size": Case(holding(block("./x", size=b""))),
    "a size of blanks": Case(holding(block("./x", size=b" " * 12)), "an unreadable size"),
    "a size behind blanks": Case(holding(block("./x", b"0", b"x", size=b"          1"))),
    "a size behind a zero byte": Case(holding(block("./x", b"0", b"x", size=b"\x000000000001")), "an unreadable size"),
    "two sizes": Case(holding(block("./x", b"0", b"x", size=b"1 0000000002")), "unreadable size"),
    "a mode of letters": Case(holding(block("./x", mode=b"rw-r--r-")), "an unreadable mode", "dpkg takes it for 0"),
    "a mode of too many bits": Case(holding(block("./x", mode=b"7777777"))),
    "a negative owner": Case(holding(block("./x", uid=base256(-1, 8))), "a negative owner"),
    "an owner of 2**40": Case(holding(block("./x", uid=base256(1 << 40, 8))), "impossible owner"),
    "the owner nobody can have": Case(
        holding(block("./x", uid=base256((1 << 32) - 1, 8))), "impossible owner", "chown takes it for no change"
    ),
    "the group nobody can have": Case(
        holding(block("./x", gid=base256((1 << 32) - 1, 8))), "impossible owner", "as above"
    ),
    "a large owner": Case(holding(block("./x", uid=base256(4_000_000_000, 8))), unasked="its user has no name"),
    "a negative time": Case(holding(block("./x", mtime=base256(-5, 12))), "a negative time", "it is before 1970"),
    "a time of letters": Case(holding(block("./x", mtime=b"yesterday")), "an unreadable time"),
    "a time in the year 10000": Case(holding(block("./x", mtime=base256(260_000_000_000, 12)))),
    "a time beyond all": Case(holding(block("./x", mtime=base256(1 << 70, 12))), "an impossible time"),
    "a wrong checksum": Case(holding(block("./x", checksum=b"0000001\0")), "checksum does not match"),
    "no checksum": Case(holding(block("./x", checksum=bytes(8))), "checksum does not match"),
    "a checksum of signed bytes": Case(
        holding(block("./é", checksum=b"%06o\0 " % (sum(block("./é")) - sum(block("./é")[148:156]) + 256 - 512))),
        "checksum does not match",
    ),
    "a checksum in binary": Case(
        holding(block("./x", checksum=base256(sum(block("./x")[:148]) + sum(block("./x")[156:]) + 256, 8))),
        "",
        unasked="dpkg reads only octal ones here, or both",
    ),
    "pax: path": Case(holding(pax(path="./../x"), block("./y")), PAX),
    "pax: linkpath": Case(holding(pax(linkpath="/etc/passwd"), block("./y", b"2", link="x")), PAX),
    "pax: size": Case(holding(pax(size="99999"), block("./y", b"0", b"x")), PAX),
    "pax: uid": Case(holding(pax(uid="0"), block("./y", uid=b"0001750")), PAX),
    "pax: comment": Case(holding(pax(comment="nothing"), block("./y")), PAX),
    "pax: sparse": Case(holding(pax(GNU_sparse_major="1", GNU_sparse_minor="0"), block("./y")), PAX),
    "pax: an attribute": Case(holding(pax(SCHILY_xattr_user_x="1"), block("./y")), PAX),
    "pax: of all": Case(holding(pax(b"g", path="./../x"), block("./y")), PAX),
    "pax: a comment of all": Case(holding(pax(b"g", comment="nothing"), block("./y")), PAX),
    "pax behind a long name": Case(holding(long_name("./z"), pax(path="./x"), block("./y")), PAX),
    "another magic": Case(holding(block("./x", magic=b"ustarxxx"))),
    "no magic": Case(holding(block("./x", magic=b""))),
}

WHOLE = stream(GOOD)
STREAMS = {
    "nothing": Case(lambda c: package(b""), "without its end mark", SILENT),
    "an end mark alone": Case(lambda c: package(END)),
    "one block of zeros": Case(lambda c: package(WHOLE[:-512])),
    "no end mark": Case(cut(WHOLE, -1024), "without its end mark", SILENT),
    "cut in the first header": Case(cut(WHOLE, 200), "truncated"),
    "cut in a header": Case(cut(WHOLE, 1300), "truncated"),
    "cut in a file": Case(cut(WHOLE, 1800), "truncated"),
    "cut in a file's padding": Case(cut(WHOLE, 512 * 3 + 1010), "truncated|end mark"),
    "cut behind a file": Case(cut(WHOLE, 512 * 5), "without its end mark", SILENT),
    "cut in a long name": Case(lambda c: package(block("./", b"5") + long_name("./" + "n" * 600)[:700]), "truncated"),
    "cut behind a long name": Case(lambda c: package(block("./", b"5") + long_name("./x")), "end mark", SILENT),
    "data behind the end": Case(lambda c: package(WHOLE + b"more" * 128), "after the end", SILENT),
    "a member behind the end": Case(lambda c: package(WHOLE + block("./../x")), "after the end", SILENT),
    "padding behind the end": Case(lambda c: package(WHOLE + bytes(9216))),
    "one zero block, then a member": Case(
        lambda c: package(stream(GOOD)[:-512] + block("./x") + END), "after the end", SILENT
    ),
    "zeros for a header": Case(lambda c: package(bytes(512) + WHOLE), "after the end", SILENT),
    "no tar at all": Case(lambda c: package(b"no tar " * 300), "unreadable checksum|does not match"),
    "another archive": Case(lambda c: package(ar([("x", b"y" * 2000)])), "unreadable checksum|does not match"),
}
PACKAGES = {
    f"{group}: {name}": case
    for group, cases in (
        ("name", NAMES),
        ("link", LINKS),
        ("hard link", HARD),
        ("kind", KINDS),
        ("header", HEADERS),
        ("tar", STREAMS),
    )
    for name, case in cases.items()
}
