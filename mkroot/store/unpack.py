"""Unpacks a package once: its record and frame for every build, and its tree for the union (deb(5)).

Names are put into the form they have in a merged-/usr system: `bin/x` becomes `usr/bin/x`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from mkroot.debian.deb import Deb, open_deb
from mkroot.debian.deb822 import parse_stanza
from mkroot.errors import PackageError
from mkroot.store.layer import FORMAT, LARGE, STEP, FrameBuilder, Layer, LayerStore
from mkroot.store.packing import Packing
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.store.writer import Chown, TreeWriter, Writer
from mkroot.tar.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from mkroot.tar.footing import Footing
from mkroot.tar.stream import Corrupt
from mkroot.tar.write import padding

ALIASED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32")  # top-level links into usr/
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-:~")
INFO = "var/lib/dpkg/info"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "config")
EXPANSION = 8  # the data archive may be this many times Installed-Size,
ALLOWANCE = 64 << 20  # … and this many bytes, before it is called a bomb
UNPACKED_MAX = 255 - len(".dpkg-new")  # bytes of a name: dpkg unpacks under this one first
PENDING = 80 << 20  # bytes of tar stream that a worker keeps to compress later


class Expected(msgspec.Struct, frozen=True):
    """What the signed index says of a package: the control file must say the same. installed_size: KiB."""

    sha256: str
    name: str
    version: str
    architecture: str
    installed_size: int = 0


def layer_key(sha256: str) -> str:
    """Return the store key of the layer made from the package with this digest."""
    return hashlib.sha256(f"package {FORMAT} {sha256}".encode()).hexdigest()


def merged(path: str) -> str:
    """Return `path` as it is named where /bin, /sbin and /lib* are links into /usr."""
    head, slash, _ = path.partition("/")
    return "usr/" + path if slash and head in ALIASED else path


def unpack(
    store: Store,
    deb_path: Path,
    expected: Expected,
    trees: Trees | None,
    chown: Chown,
    codecs: tuple[str, ...] = (),
    *,
    around: Callable[[Writer], Writer] = lambda writer: writer,
) -> tuple[Layer, int, Callable[[], None]]:
    """Unpack a package; return its layer, and what is left to do: compress and write frame and record.

    Between them is how many bytes are held until that is done. deb_path: the file, whose digest the caller has checked.
    trees: where to unpack it; None: no tree. codecs: of further frames that this build will want. around: what is put
    between the reader and the tree's writer.
    The tree is complete on return. Raises PackageError naming package, member and reason.
    """
    key = layer_key(expected.sha256)
    with open(deb_path, "rb") as f:
        # an empty file cannot be mapped; the mapping goes when nothing refers to it any more
        view = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(f.fileno()).st_size else b"")
    deb = open_deb(view, f"{expected.name} {expected.version}" if expected.name else deb_path.name)
    check_control(deb, expected)
    with Packing(LayerStore(store), key) as packing:
        if trees is None or trees.has(key):
            layer = _read(deb, key, expected, packing, None)
        else:
            with trees.writing(key) as aside:
                aside.mkdir(mode=0o755)
                with TreeWriter(aside, chown) as writer:
                    layer = _read(deb, key, expected, packing, around(writer))
        packing.complete()
    return layer, packing.held, lambda: packing.save(layer, codecs)


def control_fields(text: bytes) -> dict[str, str]:
    """Return a control file's fields by lower-case name (Policy 5.1); raises PackageError where it names no package."""
    fields = parse_stanza(text)
    for name in ("package", "version", "architecture"):
        if not fields.get(name) or not set(fields[name]) <= NAME_CHARACTERS:
            raise PackageError(f"its control file has no usable {name.capitalize()} field")
    return fields


def check_control(deb: Deb, expected: Expected) -> dict[str, str]:
    """Return the control fields after comparing them with the index's; raises PackageError."""
    fields = control_fields(deb.control["control"])
    for name, want in (
        ("package", expected.name),
        ("version", expected.version),
        ("architecture", expected.architecture),
    ):
        if want and fields.get(name) != want:
            raise PackageError(
                f"its control file says {name.capitalize()}: {fields.get(name)!r}, the index promised {want!r}",
                where=deb.name,
                hint="the archive is inconsistent; do not use this package",
            )
    return fields


def _read(deb: Deb, key: str, expected: Expected, packing: Packing, writer: Writer | None) -> Layer:
    limit = expected.installed_size * 1024 * EXPANSION + ALLOWANCE
    stream = deb.stream(limit)
    builder = FrameBuilder()
    names: list[str] = []
    seen: dict[str, Entry] = {}
    footing = Footing()
    conffiles = _conffile_names(deb)
    sums: dict[str, str] = {}

    def passed(entry: Entry) -> Iterator[bytes]:
        """Yield the parts of a large file, each when the stream has it."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        packing.add(builder.begin(entry))
        for part in deb.parts(stream, entry, STEP):
            sha256.update(part)
            if entry.path in conffiles:
                md5.update(part)
            packing.add(part)
            yield part
        packing.add(padding(entry.size))
        packing.ended()
        builder.end(sha256.hexdigest())
        if entry.path in conffiles:
            sums[entry.path] = md5.hexdigest()

    def add(entry: Entry, content: bytes) -> None:
        if chunk := builder.add(entry, content):
            packing.add(chunk)
            packing.ended()
        if writer is not None:
            writer.add(entry, content)

    for entry, written in deb.members(stream):
        if written.endswith("/") and entry.kind != DIR:
            raise PackageError(f"member {written[:200]!r} is named like a folder and is none", where=deb.name)
        names.append("/" + (entry.path or "."))
        placed = _placed(deb.name, entry, seen)
        if placed is None:
            continue
        entry = placed
        try:
            footing.add(entry)
        except Corrupt as e:
            raise PackageError(f"the package is refused: {e}", where=deb.name) from None
        if entry.kind == FILE and entry.size > LARGE:
            if writer is not None:
                writer.add(entry, passed(entry))
            else:
                for _ in passed(entry):
                    pass
            seen[entry.path] = builder.entries[-1]
            continue
        content = b""
        if entry.kind == FILE and entry.size:
            content = deb.content(stream, entry)
        if entry.path in conffiles and entry.kind == FILE:
            sums[entry.path] = hashlib.md5(content, usedforsecurity=False).hexdigest()
        add(entry, content)
        seen[entry.path] = builder.entries[-1]
    for entry, content in _info(deb, names, seen):
        add(entry, content)
    return Layer(
        key=key,
        name=expected.name or deb.name,
        entries=tuple(builder.entries),
        control=deb.control,
        conffiles=tuple((shown, sums[path]) for path, shown in conffiles.items() if path in sums),
        date=deb.date,
    )


def info_name(fields: dict[str, str]) -> str:
    """Return the name of a package in dpkg's database: with its architecture where it may be there several times."""
    return f"{fields['package']}:{fields['architecture']}" if fields.get("multi-arch") == "same" else fields["package"]


def _info(deb: Deb, names: list[str], seen: dict[str, Entry]) -> Iterator[tuple[Entry, bytes]]:
    """Yield the files that dpkg would keep of the package under INFO: its control files and the list of its names."""
    up = ""
    for part in INFO.split("/"):
        up = f"{up}/{part}" if up else part
        if up not in seen:
            yield Entry(up, DIR, 0o755, mtime=deb.date), b""
        elif seen[up].kind != DIR:
            raise PackageError(f"member {up!r} stands where dpkg's database is", where=deb.name)
    files = {name: data for name, data in deb.control.items() if name != "control"}
    files["list"] = _encoded("".join(n + "\n" for n in names))
    stem = info_name(control_fields(deb.control["control"]))
    for name in sorted(files):
        path = f"{INFO}/{stem}.{name}"
        if path in seen:
            raise PackageError(f"member {path!r} stands where dpkg's database is", where=deb.name)
        mode = 0o755 if name in SCRIPTS else 0o644
        yield Entry(path, FILE, mode, mtime=deb.date, size=len(files[name])), files[name]


def _conffile_names(deb: Deb) -> dict[str, str]:
    """Return the conffiles (deb-conffiles(5)) by their place in the tree, each as the package writes it."""
    names: dict[str, str] = {}
    for line in deb.control.get("conffiles", b"").decode("utf-8", "surrogateescape").split("\n"):
        if line.startswith("/"):
            names[merged(line.rstrip()[1:])] = line.rstrip()
    return names


def _placed(package: str, entry: Entry, seen: dict[str, Entry]) -> Entry | None:
    """Return the entry at its place in a merged tree, or None where it adds nothing; raises PackageError."""
    path = merged(entry.path)
    if path in ALIASED and entry.kind == DIR:
        path = "usr/" + path
    if len(path) > UNPACKED_MAX // 4 and len(_encoded(path.rpartition("/")[2])) > UNPACKED_MAX:
        raise PackageError(f"member {entry.path[:200]!r} has a longer name than dpkg can unpack", where=package)
    if entry.kind in (CHAR, BLOCK) and entry.device == (0, 0):
        raise PackageError(f"member {entry.path!r} is device 0:0, which a union reads as a removal", where=package)
    known = seen.get(path)
    if known is not None:
        if known.kind == DIR and entry.kind == DIR:
            return None
        raise PackageError(
            f"it has member {entry.path!r} twice (with /bin, /sbin and /lib as links into /usr)", where=package
        )
    link = entry.link
    if entry.kind == HARDLINK:
        link = merged(link)
        target = seen.get(link)
        if target is not None and target.kind == HARDLINK:
            link = target.link
            target = seen.get(link)
        if target is None or target.kind == DIR:
            raise PackageError(
                f"hard link {entry.path!r} names {entry.link!r}, which is no earlier file", where=package
            )
        if target.kind in (SYMLINK, CHAR, BLOCK):  # a second name of one is one of its own, with the same meaning
            return msgspec.structs.replace(target, path=path)
        if (entry.mode, entry.uid, entry.gid) != (
            target.mode,
            target.uid,
            target.gid,
        ):  # readers differ on which counts
            raise PackageError(f"hard link {entry.path!r} has another mode or owner than {entry.link!r}", where=package)
        if target.kind == FIFO:
            raise PackageError(f"hard link {entry.path!r} names the pipe {entry.link!r}", where=package)
    if path == entry.path and link == entry.link:
        return entry
    return msgspec.structs.replace(entry, path=path, link=link)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
