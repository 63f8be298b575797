"""Writes /etc/ld.so.cache as ldconfig(8) does, in the format `glibc-ld.so.cache1.1` (glibc, dl-cache.h)."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator

import msgspec

from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.static.elf import Library, read_library
from mkroot.rootfs.tree import Tree
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK

CACHE = "etc/ld.so.cache"
MAGIC = b"glibc-ld.so.cache1.1"
HEADER, ENTRY, SECTION = "<20sIIB3xI12x", "<iIIIQ", "<IIII"
LITTLE_ENDIAN = 2  # cache_file_new_flags_endian_little
EXTENSIONS, GENERATOR, HWCAPS = 0xEAA42174, 0, 1  # cache_extension_magic and its tags
HWCAP_EXTENSION = 1 << 62  # DL_CACHE_HWCAP_EXTENSION
ELF_LIBC6 = 3
NAME_LIMIT = 255  # NAME_MAX; a SONAME must be a file's name
ABI = {  # by e_machine and width: the flags of sysdeps/generic/ldconfig.h
    (62, 64): 0x0300, (62, 32): 0x0800, (183, 64): 0x0A00, (3, 32): 0, (21, 64): 0x0500, (22, 64): 0x0400,
    (22, 32): 0, (243, 64): 0x1000, (40, 32): 0x0900, (258, 64): 0x1200,
}  # fmt: skip
DIGITS = frozenset("0123456789")
EM_ARM, ARM_HARD_FLOAT = 40, 0x400  # EF_ARM_ABI_FLOAT_HARD
SYSTEM = ("/lib", "/usr/lib")  # searched after what ld.so.conf names; Debian's ldconfig has no lib64


class Cached(msgspec.Struct, frozen=True):
    """One line of the cache. name: of the library. path: absolute. flags: kind and ABI. hwcap: a glibc-hwcaps name."""

    name: str
    path: str
    flags: int
    hwcap: str = ""


def write_cache(recorder: Recorder) -> int:
    """Write the cache of all libraries in the loader's search path; return how many lines it has.

    A missing link from a SONAME to its library is made, as ldconfig makes it.
    """
    found = list(libraries(recorder))
    if found:
        recorder.write(CACHE, render(found), 0o644, 0, 0)
    return len(found)


def search_path(tree: Tree) -> list[str]:
    """Return the folders in which ldconfig looks, absolute, in order; one that is there twice counts once."""
    named = list(_conf(tree, "etc/ld.so.conf", set()))
    folders: list[str] = []
    seen: set[str] = set()
    for folder in [*named, *_own_folders(tree), *SYSTEM]:
        place = tree.resolve(folder)
        node = tree.nodes.get(place)
        if node is not None and node.entry.kind == DIR and place not in seen:
            seen.add(place)
            folders.append("/" + folder.strip("/"))
    return folders


def _own_folders(tree: Tree) -> list[str]:
    """Return the architecture's folders, which Debian's loader knows without ld.so.conf."""
    triplets = [n for n in tree.children("usr/lib") if re.fullmatch(r"[a-z0-9_]+-linux-gnu[a-z0-9]*", n)]
    return [f"/{up}/{triplet}" for triplet in triplets for up in ("lib", "usr/lib")]


def _conf(tree: Tree, path: str, seen: set[str]) -> Iterator[str]:
    """Yield the folders that ld.so.conf and what it includes name, in order; each file is read once."""
    entry = tree.get(path)
    if entry is None or entry.kind not in (FILE, HARDLINK) or entry.path in seen:
        return
    seen.add(entry.path)
    for line in tree.read(path).decode("utf-8", "replace").splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                for match in tree.glob(pattern if pattern.startswith("/") else f"etc/{pattern}"):
                    yield from _conf(tree, match, seen)
        elif words and words[0] != "hwcap":
            yield from words


def libraries(recorder: Recorder) -> Iterator[Cached]:
    """Yield what the cache holds, folder by folder."""
    tree = recorder.tree
    for folder in search_path(tree):
        place = tree.resolve(folder)
        names = tree.children(place)
        yield from _in_folder(recorder, folder, names, "")
        if "glibc-hwcaps" in names:
            for level in tree.children(f"{place}/glibc-hwcaps"):
                below = f"{folder}/glibc-hwcaps/{level}"
                yield from _in_folder(recorder, below, tree.children(tree.resolve(below)), level)


def _in_folder(recorder: Recorder, folder: str, names: list[str], hwcap: str) -> Iterator[Cached]:
    tree = recorder.tree
    best: dict[str, tuple[str, int]] = {}
    for name in names:
        if not ((name.startswith(("lib", "ld-", "ld64."))) and ".so" in name):
            continue
        path = f"{folder}/{name}"
        entry, own = tree.get(path), tree.get(path, follow=False)
        if entry is None or own is None or entry.kind not in (FILE, HARDLINK):
            continue
        library = read_library(tree.read(path))
        flags = None if library is None else _flags(library)
        if library is None or flags is None:
            continue
        soname = library.soname or name
        if "/" in soname or len(soname) > NAME_LIMIT or not soname.isprintable():
            continue
        if own.kind == SYMLINK and soname != name:
            if not name.endswith(".so"):
                continue
            soname = name  # what ld(1) finds by -l
        known = best.get(soname)
        if known is None or (known[0] != soname and (name == soname or _compare(known[0], name) < 0)):
            best[soname] = (name, flags)
    for soname, (name, flags) in sorted(best.items()):
        if tree.get(f"{folder}/{soname}", follow=False) is None and "/" not in soname:
            recorder.link(f"{folder}/{soname}", name)
        yield Cached(soname, f"{folder}/{soname}", flags, hwcap)


def _flags(library: Library) -> int | None:
    abi = ABI.get((library.machine, library.bits))
    if abi is None:
        return None
    if library.machine == EM_ARM and not library.flags & ARM_HARD_FLOAT:
        abi = 0x0B00
    return ELF_LIBC6 | abi


def _compare(one: str, two: str) -> int:
    """Compare library names as _dl_cache_libcmp does: runs of digits by their number, a digit after anything else."""
    i = j = 0
    while i < len(one):
        if one[i] in DIGITS:
            if j >= len(two) or two[j] not in DIGITS:
                return 1
            first, second = i, j
            while i < len(one) and one[i] in DIGITS:
                i += 1
            while j < len(two) and two[j] in DIGITS:
                j += 1
            if difference := int(one[first:i]) - int(two[second:j]):
                return difference
        elif j < len(two) and two[j] in DIGITS:
            return -1
        elif j >= len(two) or one[i] != two[j]:
            return ord(one[i]) - (ord(two[j]) if j < len(two) else 0)
        else:
            i, j = i + 1, j + 1
    return -1 if j < len(two) else 0


def _order(one: Cached, two: Cached) -> int:
    """Order lines as the loader's binary search wants them: names falling, then flags, then extensions first."""
    if by_name := _compare(two.name, one.name):
        return by_name
    if one.flags != two.flags:
        return two.flags - one.flags
    if bool(one.hwcap) != bool(two.hwcap):
        return -1 if one.hwcap else 1
    return (one.hwcap > two.hwcap) - (one.hwcap < two.hwcap)


def render(lines: list[Cached], generator: str = "mkroot") -> bytes:
    """Return the cache file's bytes."""
    ordered = sorted(lines, key=functools.cmp_to_key(_order))
    levels = sorted({line.hwcap for line in lines if line.hwcap})
    start = struct.calcsize(HEADER) + len(lines) * struct.calcsize(ENTRY)
    strings, offsets = _strings({s for n in lines for s in (n.name, n.path)} | set(levels), start)
    entries = b"".join(
        struct.pack(
            ENTRY, n.flags, offsets[n.name], offsets[n.path], 0,
            HWCAP_EXTENSION | levels.index(n.hwcap) if n.hwcap else 0,
        )
        for n in ordered
    )  # fmt: skip
    end = start + len(strings)
    extension = -(-end // 4) * 4
    names = generator.encode()
    numbers = b"".join(struct.pack("<I", offsets[level]) for level in levels)
    count = 2 if levels else 1
    at = extension + 8 + count * struct.calcsize(SECTION)  # the numbers stand first, so that they are aligned
    table = struct.pack(SECTION, GENERATOR, 0, at + len(numbers), len(names))
    if levels:
        table += struct.pack(SECTION, HWCAPS, 0, at, len(numbers))
    head = struct.pack(HEADER, MAGIC, len(lines), len(strings), LITTLE_ENDIAN, extension)
    return b"".join(
        (
            head,
            entries,
            strings,
            b"\0" * (extension - end),
            struct.pack("<II", EXTENSIONS, count),
            table,
            numbers,
            names,
        )
    )


def _strings(words: set[str], start: int) -> tuple[bytes, dict[str, int]]:
    """Return the string table and each word's offset; a word that ends another one shares its bytes."""
    encoded = {w: w.encode("utf-8", "surrogateescape") for w in words}
    table, offsets = b"", {}
    last = b""

    def order(one: str, two: str) -> int:
        a, b = encoded[one][::-1], encoded[two][::-1]
        short = min(len(a), len(b))
        if a[:short] == b[:short]:
            return len(b) - len(a)
        return -1 if a > b else 1

    parts: list[bytes] = []
    at = start
    for word in sorted(words, key=functools.cmp_to_key(order)):
        data = encoded[word]
        if last.endswith(data) and parts:
            offsets[word] = at - 1 - len(data)
            continue
        offsets[word] = at
        parts.append(data + b"\0")
        at += len(data) + 1
        last = data
    table = b"".join(parts)
    return table, offsets
