"""Makes an image with one layer of any root's tar archive: checked, and written in canonical order."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from mkroot.errors import ImageError, RootfsError
from mkroot.oci.instructions import changed
from mkroot.oci.layerfile import layer_members, write_layer
from mkroot.oci.model import CONFIG, MANIFEST, Descriptor, ManifestWritten, Platform, encode, timestamp
from mkroot.oci.store import ImageStore
from mkroot.rootfs.tree import Node, Tree
from mkroot.tar.entry import BLOCK, CHAR, DIR, FILE, HARDLINK, SYMLINK, Entry, parent
from mkroot.tar.footing import Footing
from mkroot.tar.read import entries
from mkroot.tar.stream import Corrupt, Stream

_KEPT = ("user.", "system.posix_acl_")
_MARKS = ("trusted.overlay.", "user.overlay.", "user.mkroot.")
_STEP = 4 << 20
# Programs by which a root's architecture is known, the likeliest first
_PROGRAMS = ("bin/sh", "usr/bin/sh", "bin/busybox", "sbin/init", "usr/lib/systemd/systemd", "usr/bin/env", "init")
# ELF's e_machine (gABI, "ELF Header"), with its class and byte order, in the words of Go and with the usual variant
_MACHINES = {
    (62, 2, 1): ("amd64", ""), (3, 1, 1): ("386", ""), (183, 2, 1): ("arm64", "v8"), (40, 1, 1): ("arm", "v7"),
    (243, 2, 1): ("riscv64", ""), (21, 2, 1): ("ppc64le", ""), (22, 2, 2): ("s390x", ""), (258, 2, 1): ("loong64", ""),
    (8, 2, 1): ("mips64le", ""), (8, 1, 1): ("mipsle", ""),
}  # fmt: skip


class Import(Struct, frozen=True, kw_only=True):
    """What the user says of the image.

    changes: of its config, as `mkroot.oci.instructions` reads them. created: seconds since 1970. latest: no time in the
    layer is later, where SOURCE_DATE_EPOCH is set. platform: None to read it from the archive; machine: what is taken
    where the archive does not tell.
    """

    message: str = ""
    changes: tuple[str, ...] = ()
    created: int
    latest: int | None = None
    platform: Platform | None = None
    machine: Platform
    compression: str = "gzip"


def import_root(images: ImageStore, path: Path, shown: str, words: Import) -> Descriptor:
    """Put an image of an archive into the store; return its descriptor. The caller tags it and holds `images.using`.

    path: a tar archive that is not compressed. shown: what to call it in errors. Raises ImageError where the archive is
    damaged or hostile, StoreError, UsageError.
    """
    execution = changed({}, words.changes)
    try:
        with open(path, "rb") as f:
            mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped when its last view goes
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is empty"
        raise ImageError(f"the archive cannot be read: {why}", where=shown) from None
    view = memoryview(mapped)
    try:
        members = canonical(root_entries(mapped.read))
    except Corrupt as e:
        raise ImageError(f"not a tar archive of a root, or a hostile one: {e}", where=shown) from None
    if not any(e.kind == FILE for e in members):
        raise ImageError("there is no file in the archive", where=shown)

    def content(entry: Entry) -> Iterator[bytes]:
        for at in range(entry.data, entry.data + entry.size, _STEP):
            yield bytes(view[at : min(at + _STEP, entry.data + entry.size)])

    platform = words.platform or architecture(members, lambda e: bytes(view[e.data : e.data + 64])) or words.machine
    with images.aside() as aside:
        layer = write_layer(aside, layer_members(members, content, latest=words.latest), words.compression)
        if not images.layout().has(layer.descriptor):
            images.adopt(aside, layer.descriptor)
    created = timestamp(words.created)
    step = {"created": created, "created_by": "mkroot import"}
    document: dict[str, object] = {
        "created": created,
        "architecture": platform.architecture,
        "os": "linux",
        "config": execution,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [step | ({"comment": words.message} if words.message else {})],
    }
    if platform.variant:
        document["variant"] = platform.variant
    config = images.put(encode(document), CONFIG)
    put = images.put(encode(ManifestWritten(config=config, layers=(layer.descriptor,))), MANIFEST)
    return Descriptor(media_type=MANIFEST, digest=put.digest, size=put.size, platform=platform)


def root_entries(read: Callable[[int], bytes]) -> dict[str, Entry]:
    """Return a root's members by path, of several with one path the last, as tar(1) unpacks them; raises Corrupt.

    Refused are names with `..`, members below a link or a file, hard links to nothing, names and devices that a layer
    gives another meaning, and overlayfs's attributes. What a label of SELinux or the like says is left out.
    """
    found: dict[str, Entry] = {}
    linked: set[str] = set()
    footing = Footing()
    for entry, name in entries(Stream(iter(lambda: read(1 << 20), b"")), pax=True):
        _check(entry, name[:200], found)
        old = found.get(entry.path)
        if old is not None and old.kind == DIR and entry.kind != DIR:
            raise Corrupt(f"member {name[:200]!r} replaces a folder")
        if entry.path in linked:
            raise Corrupt(f"member {name[:200]!r} replaces a file of which there is a hard link")
        footing.add(entry)
        xattrs = {k: v for k, v in entry.xattrs.items() if k.startswith(_KEPT) or k == "security.capability"}
        if xattrs != entry.xattrs:
            entry = msgspec.structs.replace(entry, xattrs=xattrs)
        if entry.kind == HARDLINK:
            target = found[entry.link]
            if target.kind in (HARDLINK, SYMLINK):  # a second name of a link is a link of its own
                entry = msgspec.structs.replace(target, path=entry.path)
            linked.add(entry.link)
        found[entry.path] = entry
    return found


def _check(entry: Entry, name: str, found: dict[str, Entry]) -> None:
    if entry.kind in (CHAR, BLOCK) and entry.device == (0, 0):
        raise Corrupt(f"member {name!r} is device 0:0, which a union reads as a removal")
    if any(attribute.startswith(_MARKS) for attribute in entry.xattrs):
        raise Corrupt(f"member {name!r} has an attribute by which a union marks its own files")
    if entry.kind == HARDLINK and (entry.link not in found or found[entry.link].kind == DIR or not entry.path):
        raise Corrupt(f"hard link {name!r} names {entry.link[:200]!r}, which is no earlier file")


def canonical(found: dict[str, Entry]) -> list[Entry]:
    """Return members in order of their paths, folders above them put in, the first name of a file holding its content.

    So archives of one tree that have it in another order give the same layer.
    """
    members = dict(found)
    for path in found:
        while path := parent(path):
            if path in members:
                break
            members[path] = Entry(path, DIR, 0o755)
    order = sorted(members.values(), key=lambda e: (e.path != "", e.path.split("/")))
    first: dict[str, str] = {}
    placed = []
    for entry in order:
        source = entry.link if entry.kind == HARDLINK else entry.path
        if entry.kind not in (FILE, HARDLINK):
            placed.append(entry)
        elif source not in first:
            first[source] = entry.path
            placed.append(msgspec.structs.replace(members[source], path=entry.path))
        else:
            placed.append(msgspec.structs.replace(members[source], path=entry.path, kind=HARDLINK, link=first[source]))
    return placed


def architecture(members: Sequence[Entry], head: Callable[[Entry], bytes]) -> Platform | None:
    """Return what a root's programs are for, by the ELF header of the first that there is; None where none tells.

    head: returns the first bytes of a FILE.
    """

    def nothing(*_: object) -> bytes:
        return b""

    tree = Tree(nothing)
    tree.nodes = {e.path: Node(e, 0) for e in members}
    for program in _PROGRAMS:
        entry = None
        with contextlib.suppress(RootfsError):  # a loop of links, which is no program
            entry = tree.get(program)
            if entry is not None and entry.kind == HARDLINK:
                entry = tree.get(entry.link)
        if entry is None or entry.kind != FILE:
            continue
        data = head(entry)
        if len(data) >= 20 and data.startswith(b"\x7fELF"):
            machine = int.from_bytes(data[18:20], "little" if data[5] == 1 else "big")
            if known := _MACHINES.get((machine, data[4], data[5])):
                return Platform(architecture=known[0], variant=known[1])
    return None
