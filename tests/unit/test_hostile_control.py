"""Packages whose outer archive, control archive or control files lie: dpkg's answer is the measure here as well."""

from __future__ import annotations

import bz2
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mkroot.debian.deb import open_deb
from mkroot.errors import PackageError
from mkroot.rootfs import dpkg as database
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.unpack import layer_key, unpack
from mkroot.store.writer import Chown
from tests.testarchive import Content, Raw, ar, compress, member, tar
from tests.unit.hostile import SILENT, TWICE, Case, block, device, file, folder, hard, link
from tests.unit.judge import can_judge, dpkg
from tests.unit.layers import control
from tests.unit.test_hostile_packages import expected, taken

pytestmark = pytest.mark.counts("hostile")

CONTROL = control("a")
GOOD = Content(files={"x": b"x" * 1000, "etc/a": b"1"}, dirs={"etc": 0o755})
BINARY, INNER, DATA = (
    ("debian-binary", b"2.0\n"),
    ("control.tar", GOOD.control_tar(CONTROL)),
    ("data.tar", GOOD.data_tar()),
)
SCRIPT = b"#!/bin/sh\nexit 0\n"


def outer(*members: tuple[str, bytes]) -> Callable[[str], bytes]:
    return lambda canary: ar(members)


def changed(old: bytes, new: bytes) -> Callable[[str], bytes]:
    """Make the good package with one thing replaced."""

    def make(canary: str) -> bytes:
        data = ar([BINARY, INNER, DATA])
        assert old in data
        return data.replace(old, new, 1)

    return make


def inner(*rows: Raw, text: str | bytes | None = CONTROL) -> Callable[[str], bytes]:
    """Make a package with these control members beside `control`; CANARY in targets is the canary's path."""

    def make(canary: str) -> bytes:
        members = [Raw(member("./", tarfile.DIRTYPE))]
        if text is not None:
            members.append(Raw(member("./control"), text if isinstance(text, bytes) else text.encode()))
        for row in rows:
            info = member(row.info.name, row.info.type, linkname=row.info.linkname.replace("CANARY", canary))
            info.mode, info.devmajor, info.devminor = row.info.mode, row.info.devmajor, row.info.devminor
            members.append(Raw(info, row.content))
        return ar([BINARY, ("control.tar", tar(members)), DATA])

    return make


def version(data: bytes) -> Callable[[str], bytes]:
    return outer(("debian-binary", data), INNER, DATA)


def packed(name: str, data: bytes) -> Callable[[str], bytes]:
    return outer(BINARY, INNER, (name, data))


def has(name: str, text: bytes) -> Callable[[str], bytes]:
    return inner(file(f"./{name}", text))


PLAIN = DATA[1]
LZMA = lzma.compress(PLAIN, format=lzma.FORMAT_ALONE)
OUTER = {
    "as it should be": Case(outer(BINARY, INNER, DATA)),
    "nothing": Case(lambda c: b"", "does not begin like an ar archive"),
    "another magic": Case(changed(b"!<arch>\n", b"!<thin>\n"), "does not begin like an ar archive"),
    "only the magic": Case(lambda c: b"!<arch>\n", "has no debian-binary"),
    "version 2.9": Case(version(b"2.9\n")),
    "version 3.0": Case(version(b"3.0\n"), "not a Debian package of format 2"),
    "version 0.939": Case(version(b"0.939000\n"), "not a Debian package of format 2"),
    "no newline in the version": Case(version(b"2.0"), "not a Debian package of format 2"),
    "a version of letters": Case(version(b"2.x\n"), "not a Debian package of format 2"),
    "a version without dot": Case(version(b"2\n"), "not a Debian package of format 2"),
    "a version with a blank": Case(version(b"2.0 \n"), "not a Debian package of format 2"),
    "no version": Case(version(b""), "not a Debian package of format 2"),
    "more lines behind the version": Case(version(b"2.0\nmore\n")),
    "a member before the version": Case(outer(("_x", b"1"), BINARY, INNER, DATA), "not a Debian package of format 2"),
    "underscores between": Case(outer(BINARY, ("_x", b"123"), INNER, ("_y", b""), DATA)),
    "another member between": Case(outer(BINARY, ("x", b"1"), INNER, DATA), "has member 'x' where control.tar should"),
    "another member before the data": Case(outer(BINARY, INNER, ("x", b"1"), DATA), "has member 'x' where data.tar"),
    "members behind the data": Case(outer(BINARY, INNER, DATA, ("x", b"1"), ("y", b""))),
    "the wrong order": Case(outer(BINARY, DATA, INNER), "has member 'data.tar' where control.tar"),
    "control twice": Case(outer(BINARY, INNER, INNER, DATA), "has member 'control.tar' where data.tar"),
    "data twice": Case(outer(BINARY, INNER, DATA, ("data.tar", tar([file("./../x")])))),
    "the version twice": Case(outer(BINARY, BINARY, INNER, DATA), "has member 'debian-binary' where control.tar"),
    "no control": Case(outer(BINARY, DATA), "where control.tar should stand"),
    "no data": Case(outer(BINARY, INNER), "has no data.tar"),
    "names with a slash": Case(outer(("debian-binary/", BINARY[1]), ("control.tar/", INNER[1]), ("data.tar/", PLAIN))),
    "names with two": Case(outer(("debian-binary//", BINARY[1]), INNER, DATA), "not a Debian package of format 2"),
    "a path for a name": Case(outer(BINARY, INNER, ("/data.tar", PLAIN)), "has member '/data.tar' where data.tar"),
    "a compression that nobody knows": Case(packed("data.tar.br", PLAIN), "where data.tar should stand"),
    "a negative size": Case(changed(b"4         `\n", b"-4        `\n"), "broken ar member header"),
    "a huge size": Case(changed(b"4         `\n", b"9999999999`\n"), "truncated in member 'debian-binary'"),
    "a size of letters": Case(changed(b"4         `\n", b"four      `\n"), "broken ar member header"),
    "an odd size": Case(changed(b"4         `\n", b"5         `\n"), "broken ar member header"),
    "no size": Case(changed(b"4         `\n", b"          `\n"), "broken ar member header"),
    "no end of a header": Case(changed(b"`\n", b"xx"), "broken ar member header"),
    "a date of letters": Case(
        changed(b"1700000000  ", b"yesterday   "), "broken ar member header", "the root's times come from it"
    ),
    "a date before 1970": Case(changed(b"1700000000  ", b"-5          "), "broken ar member header", "as above"),
    "a date in 10000": Case(changed(b"1700000000  ", b"260000000000"), "broken ar member header", "as above"),
    "no date": Case(changed(b"1700000000  ", b"            ")),
    "cut in a header": Case(lambda c: ar([BINARY, INNER, DATA])[:100], "broken ar member header"),
    "cut in control": Case(lambda c: ar([BINARY, INNER, DATA])[:600], "truncated in member 'control.tar'"),
    "cut in data": Case(lambda c: ar([BINARY, INNER, DATA])[:-700], "truncated in member 'data.tar'"),
    "no padding at the end": Case(packed("data.tar.xz", compress(PLAIN, "xz"))),
    "data by lzma": Case(packed("data.tar.lzma", LZMA)),
    "data by bzip2": Case(packed("data.tar.bz2", bz2.compress(PLAIN))),
    "control by bzip2": Case(
        outer(BINARY, ("control.tar.bz2", bz2.compress(INNER[1])), DATA), "where control.tar should stand"
    ),
    "control by lzma": Case(
        outer(BINARY, ("control.tar.lzma", lzma.compress(INNER[1], format=lzma.FORMAT_ALONE)), DATA),
        "where control.tar",
    ),
    "gzip that is xz": Case(packed("data.tar.gz", compress(PLAIN, "xz")), "stream is damaged"),
    "xz that is gzip": Case(packed("data.tar.xz", compress(PLAIN, "gz")), "stream is damaged"),
    "zstd that is plain": Case(packed("data.tar.zst", PLAIN), "stream is damaged"),
    "plain that is gzip": Case(packed("data.tar", compress(PLAIN, "gz")), "truncated|unreadable|does not match"),
    "gzip in gzip": Case(packed("data.tar.gz", compress(compress(PLAIN, "gz"), "gz")), "truncated|unreadable"),
    "gzip, cut": Case(packed("data.tar.gz", compress(PLAIN, "gz")[:-9]), "truncated"),
    "xz, cut": Case(packed("data.tar.xz", compress(PLAIN, "xz")[:-9]), "truncated"),
    "zstd, cut": Case(packed("data.tar.zst", compress(PLAIN, "zst")[:-9]), "truncated", SILENT),
    "gzip, a bit flipped": Case(packed("data.tar.gz", compress(PLAIN, "gz")[:-7] + b"\0" * 7), "damaged"),
    "xz, a bit flipped": Case(packed("data.tar.xz", compress(PLAIN, "xz")[:-30] + b"\1" * 30), "damaged"),
    "gzip in two parts": Case(packed("data.tar.gz", compress(PLAIN[:900], "gz") + compress(PLAIN[900:], "gz"))),
    "xz in two parts": Case(
        packed("data.tar.xz", compress(PLAIN[:900], "xz") + compress(PLAIN[900:], "xz")),
        "",
        unasked="dpkg's xz decoder reads one part or several, by version",
    ),
    "zstd in two parts": Case(
        packed("data.tar.zst", compress(PLAIN[:900], "zst") + compress(PLAIN[900:], "zst")),
        "",
        unasked="this dpkg stops after the first and finds the archive cut",
    ),
    "zstd and a frame to skip": Case(
        packed("data.tar.zst", b"\x50\x2a\x4d\x18\4\0\0\0skip" + compress(PLAIN, "zst")), "", unasked="as above"
    ),
    "gzip and something behind": Case(packed("data.tar.gz", compress(PLAIN, "gz") + b"behind"), "damaged", SILENT),
    "xz and something behind": Case(
        packed("data.tar.xz", compress(PLAIN, "xz") + b"behind!!"), "damaged|truncated", SILENT
    ),
    "zstd and something behind": Case(packed("data.tar.zst", compress(PLAIN, "zst") + b"behind!!"), "damaged", SILENT),
    "xz behind zeros": Case(packed("data.tar.xz", bytes(4) + compress(PLAIN, "xz")), "damaged"),
}

HUGE = file("./templates", bytes(70 << 20))
ODD = "no tool makes such a file, and dpkg's own name for a package's files has none"
INNERS = {
    "no control": Case(inner(text=None), "has no control file"),
    "a link out for control": Case(inner(link("./control", "CANARY"), text=None), "'control' is not a file"),
    "a link to a device for control": Case(
        inner(link("./control", "/dev/zero"), text=None), "is not a file", unasked="it would read for ever"
    ),
    "a hard link out for control": Case(inner(hard("./control", "CANARY"), text=None), "'control' is not a file"),
    "a folder for control": Case(inner(folder("./control"), text=None), "'control' is not a file"),
    "a device for control": Case(inner(device("./control", b"3", 1, 3), text=None), "'control' is not a file"),
    "a pipe for control": Case(
        inner(Raw(member("./control", tarfile.FIFOTYPE)), text=None), "'control' is not a file", unasked="it hangs"
    ),
    "control twice": Case(inner(file("./control", CONTROL.encode())), "two control files 'control'", TWICE),
    "a link out for a script": Case(inner(link("./postinst", "CANARY")), "'postinst' is not a file", "it follows it"),
    "a link out for md5sums": Case(inner(link("./md5sums", "CANARY")), "'md5sums' is not a file", "it follows it"),
    "a link out for triggers": Case(inner(link("./triggers", "CANARY")), "'triggers' is not a file"),
    "a link out for conffiles": Case(inner(link("./conffiles", "CANARY")), "'conffiles' is not a file"),
    "a hard link of scripts": Case(
        inner(file("./postrm", SCRIPT), hard("./postinst", "./postrm")), "'postinst' is not a file", "they are files"
    ),
    "a pipe for a script": Case(
        inner(Raw(member("./postinst", tarfile.FIFOTYPE))), "'postinst' is not a file", unasked="it hangs"
    ),
    "a device for a script": Case(inner(device("./postinst", b"3", 1, 3)), "'postinst' is not a file"),
    "a folder for a script": Case(inner(folder("./postinst")), "'postinst' is not a file"),
    "a folder": Case(inner(folder("./sub"), file("./sub/x")), "'sub' is not a file"),
    "a file in a folder": Case(inner(file("./sub/x")), "control file with the name 'sub/x'"),
    "dots": Case(inner(file("./../x")), "`..` component"),
    "an absolute name": Case(inner(file("/postrm", SCRIPT))),
    "an odd name": Case(inner(file("./Odd Name")), "control file with the name 'Odd Name'", ODD),
    "a hidden name": Case(inner(file("./.hidden")), "control file with the name '.hidden'", ODD),
    "a name with an escape": Case(inner(file("./x\x1b[2J")), "control file with the name", ODD),
    "a name with a newline": Case(inner(file("./x\ny")), "newline", ODD),
    "a long name": Case(inner(file("./" + "n" * 120)), "control file with the name 'nnn"),
    "a list of its own": Case(inner(file("./list", b"/etc/passwd\n"))),
    "a setuid script": Case(inner(file("./postrm", SCRIPT, mode=0o6777))),
    "a script that is not to be run": Case(inner(file("./postrm", SCRIPT, mode=0o644))),
    "a script twice": Case(inner(file("./postrm", SCRIPT), file("./postrm", SCRIPT)), "two control files", TWICE),
    "two MiB of templates": Case(inner(file("./templates", b"Template: x\n" * 180_000))),
    "seventy MiB of templates": Case(
        outer(BINARY, ("control.tar.xz", compress(tar([file("./control", CONTROL.encode()), HUGE]), "xz")), DATA),
        "more than the 67108864 bytes",
        "dpkg has no bound",
    ),
    "md5sums that lead out": Case(inner(file("./md5sums", b"0" * 32 + b"  ../../etc/passwd\n"))),
    "md5sums of nonsense": Case(inner(file("./md5sums", b"\xff\xfe\0" * 40))),
}

STANZAS = {
    "two stanzas": Case(inner(text=CONTROL + "\n" + control("b")), "has 2 stanzas"),
    "a second stanza behind blanks": Case(inner(text=CONTROL + " \n" + control("b")), "has 2 stanzas"),
    "blank lines around it": Case(inner(text="\n\n" + CONTROL + "\n\n")),
    "a field twice": Case(inner(text=CONTROL + "Version: 2\n"), "`Version` is given twice"),
    "a field twice in other letters": Case(inner(text=CONTROL + "vErSion: 2\n"), "`vErSion` is given twice"),
    "a state": Case(inner(text=CONTROL + "Status: install ok installed\n"), "field Status, which only dpkg's"),
    "a state in other letters": Case(inner(text=CONTROL + "sTATUS: install ok installed\n"), "field Status"),
    "a configured version": Case(inner(text=CONTROL + "Config-Version: 1\n"), "field Config-Version"),
    "triggers that wait": Case(inner(text=CONTROL + "Triggers-Pending: x\n"), "field Triggers-Pending"),
    "triggers that are awaited": Case(inner(text=CONTROL + "Triggers-Awaited: x\n"), "field Triggers-Awaited"),
    "conffiles of its own": Case(
        inner(text=CONTROL + "Conffiles:\n /etc/passwd 0123456789abcdef0123456789abcdef\n"),
        "field Conffiles",
        "dpkg warns and forgets them; here they would reach the database",
    ),
    "a line of junk": Case(inner(text=CONTROL + "junk\n"), "not a `Field: value` line"),
    "a continuation first": Case(inner(text=" x\n" + CONTROL), "continues nothing"),
    "a comment": Case(inner(text="# x\n" + CONTROL), "has a comment"),
    "a signature around it": Case(
        inner(text="-----BEGIN PGP SIGNED MESSAGE-----\nHash: X\n\n" + CONTROL), "not a `Field"
    ),
    "no newline at the end": Case(inner(text=CONTROL.rstrip("\n")), "does not end with a newline"),
    "a zero byte": Case(inner(text=CONTROL + "X-Field: a\0b\n"), "has a NUL", "dpkg's own database cannot hold it"),
    "Latin-1": Case(inner(text=CONTROL.encode() + b"X-Field: \xe9\n")),
    "an escape in a value": Case(inner(text=CONTROL + "X-Field: \x1b[2J\n")),
    "empty": Case(inner(text=""), "has 0 stanzas"),
    "no name": Case(inner(text=CONTROL.replace("Package: a\n", "")), "no usable Package field"),
    "an empty name": Case(inner(text=CONTROL.replace("Package: a\n", "Package:\n")), "no usable Package field"),
    "no version": Case(inner(text=CONTROL.replace("Version: 1\n", "")), "not a version number"),
    "no architecture": Case(inner(text=CONTROL.replace("Architecture: all\n", "")), "no usable Architecture field"),
    "a path for a name": Case(inner(text=control("../../etc/x")), "no usable Package field"),
    "a dot before the name": Case(inner(text=control(".a")), "no usable Package field"),
    "an architecture in the name": Case(inner(text=control("a:b")), "no usable Package field"),
    "a tilde in the name": Case(inner(text=control("a~b")), "no usable Package field"),
    "a name of 300 letters": Case(inner(text=control("n" * 300)), "no usable Package field"),
    "a name on two lines": Case(inner(text=CONTROL.replace("Package: a\n", "Package: a\n b\n")), "no usable Package"),
    "a version with a blank": Case(inner(text=control("a", "1 2")), "not a version number"),
    "a version of letters": Case(inner(text=control("a", "one")), "not a version number"),
    "a version without epoch": Case(inner(text=control("a", ":1")), "not a version number"),
    "a version without revision": Case(inner(text=control("a", "1-")), "not a version number"),
    "a path for an architecture": Case(
        inner(text=control("a", "1", "../x")), "no usable Architecture field", "", "dpkg --force-architecture takes it"
    ),
    "another name than promised": Case(
        inner(text=control("b")), "Package: 'b', the index promised 'a'", "nobody promised"
    ),
    "another version": Case(inner(text=control("a", "2")), "Version: '2', the index promised '1'", "as above"),
    "another architecture": Case(
        inner(text=control("a", "1", "amd64")), "Architecture: 'amd64', the index", "as above"
    ),
    "an unknown Multi-Arch": Case(inner(text=CONTROL + "Multi-Arch: maybe\n"), "no usable Multi-Arch field"),
}

LISTS = {
    "conffiles: relative": Case(has("conffiles", b"etc/a\n"), "conffile 'etc/a' is not an absolute path"),
    "conffiles: behind a blank": Case(has("conffiles", b" /etc/a\n"), "is not an absolute path"),
    "conffiles: an unknown flag": Case(has("conffiles", b"odd /etc/a\n"), "is not an absolute path"),
    "conffiles: no newline": Case(has("conffiles", b"/etc/a"), "does not end with a newline"),
    "conffiles: dots": Case(has("conffiles", b"/etc/../../../etc/passwd\n")),
    "conffiles: slashes": Case(has("conffiles", b"//etc//a\n")),
    "conffiles: twice": Case(has("conffiles", b"/etc/a\n/etc/a\n")),
    "conffiles: of nothing": Case(has("conffiles", b"/etc/none\n")),
    "conffiles: an empty line": Case(has("conffiles", b"\n/etc/a\n")),
    "conffiles: blanks behind": Case(has("conffiles", b"/etc/a  \n")),
    "conffiles: removed on upgrade": Case(has("conffiles", b"remove-on-upgrade /etc/b\n")),
    "conffiles: a vertical tab": Case(has("conffiles", b"/etc/a\x0b/etc/b\n")),
    "conffiles: a line separator": Case(has("conffiles", "/etc/a\u2028/etc/b\n".encode())),
    "triggers: dots": Case(has("triggers", b"interest ../../../../outside/x\n"), "impossible name '../../"),
    "triggers: dots in a path": Case(
        has("triggers", b"interest /usr/../../x\n"), "impossible name", "it would be a path elsewhere"
    ),
    "triggers: a slash": Case(has("triggers", b"interest x/y\n"), "impossible name 'x/y'"),
    "triggers: the root": Case(has("triggers", b"interest /\n"), "impossible name '/'"),
    "triggers: a dot": Case(has("triggers", b"interest .\n"), "impossible name '.'"),
    "triggers: of dpkg's own files": Case(has("triggers", b"interest File\ninterest Unincorp\n")),
    "triggers: activating dots": Case(
        has("triggers", b"activate ../x\n"), "impossible name", "no package waits for it"
    ),
    "triggers: a long name": Case(has("triggers", b"interest " + b"n" * 300 + b"\n"), "impossible name"),
    "triggers: Latin-1": Case(has("triggers", b"interest \xe9\n"), "impossible name"),
    "triggers: a control character": Case(has("triggers", b"interest a\x01\n"), "impossible name"),
    "triggers: no name": Case(has("triggers", b"interest\n"), "no directive"),
    "triggers: two names": Case(has("triggers", b"interest a b\n"), "no directive"),
    "triggers: an unknown directive": Case(has("triggers", b"depend x\n"), "no directive"),
    "triggers: no newline": Case(has("triggers", b"interest x"), "does not end with a newline"),
    "triggers: comments": Case(has("triggers", b"# ../x\n\ninterest-noawait x\n")),
    "triggers: a comment behind": Case(has("triggers", b"interest x # ../y\n"), "no directive"),
}
CASES = {
    f"{group}: {name}": case
    for group, cases in (("ar", OUTER), ("control archive", INNERS), ("control", STANZAS), ("lists", LISTS))
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_a_package_that_lies(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    made = taken(case, tmp_path)
    if case.unasked or not can_judge():
        return
    status, tree, said = dpkg(tmp_path / "judge", case.make)
    assert (status == 0) == (made is not None or bool(case.lenient)), f"dpkg: {status}\n{said}"
    if made is not None:
        assert sorted(p.name for p in made.iterdir() if p.name != "var") == sorted(n for n in tree if "/" not in n)


def bomb(kind: str, size: int) -> bytes:
    data = tar([file("./z", bytes(size))])
    return ar([BINARY, INNER, (f"data.tar.{kind}", data if kind == "" else compress(data, kind))])


def blocks_of_zstd(count: int) -> bytes:
    """A zstd frame of blocks that each give 128 KiB for four bytes (RFC 8878, 3.1.1.2, RLE blocks)."""
    one = (1 << 1 | (128 << 10) << 3).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\0\x58" + one * count + (1 | 1 << 1 | 1 << 3).to_bytes(3, "little") + b"\0"


BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: bomb("gz", 80 << 20),
    "xz": lambda: bomb("xz", 80 << 20),
    "zstd": lambda: bomb("zst", 80 << 20),
    "zstd, 4 GiB in 128 KiB": lambda: ar([BINARY, INNER, ("data.tar.zst", blocks_of_zstd(32_000))]),
    "a quarter of a million entries": lambda: ar(
        [BINARY, INNER, ("data.tar.xz", compress(b"".join(block(f"./{n:06}") for n in range(140_000)), "xz"))]
    ),
    "zeros before a header": lambda: ar([BINARY, INNER, ("data.tar.gz", compress(bytes(80 << 20), "gz"))]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_given_up_soon(name: str, tmp_path: Path) -> None:
    """What the index leads one to expect bounds what is read, and no piece of input gives much at once."""
    import resource

    path = tmp_path / "a.deb"
    path.write_bytes(BOMBS[name]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PackageError, match="unpacks to more than the") as caught:
        unpack(Store(tmp_path / "store"), path, expected(path.read_bytes()), None, Chown())
    assert caught.value.where == "a 1"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 << 10


@pytest.mark.parametrize("field", ["Package: b", "Version: 2", "Status: x", "A: b\n\nPackage: c"])
def test_the_database_holds_one_stanza_of_each_package(field: str, tmp_path: Path) -> None:
    """What control files say becomes part of the image's own database: never another package, nor another state."""
    with pytest.raises(PackageError):
        open_deb(memoryview(inner(text=f"{CONTROL}{field}\n")("")), "a 1")
    data = inner(text=CONTROL + "X-Field: a\n .\n Status: install ok installed\n")("")
    (tmp_path / "a.deb").write_bytes(data)
    store = Store(tmp_path / "store")
    unpack(store, tmp_path / "a.deb", expected(data), None, Chown())[2]()
    stanza = database.unpacked_stanza(LayerStore(store).load(layer_key(expected(data).sha256)))
    assert database.states(stanza + b"\n") == {"a:all": "unpacked"}
