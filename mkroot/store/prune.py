"""What the store holds, how big it is, and what of it nobody has used for a while."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from mkroot.errors import StoreError
from mkroot.store.frame import every_codec
from mkroot.store.layer import frame_key
from mkroot.store.store import Store
from mkroot.store.use import alone, remove

KINDS = {  # what each kind of entry is
    "debs": "packages as they were fetched",
    "layers": "records of unpacked packages and of what builds wrote",
    "frames": "compressed contents of layers",
    "trees": "unpacked packages, for the union",
    "joined": "digests of joined archives",
    "tails": "tables of contents of zstd:chunked layers",
    "made": "file systems and initramfs of earlier builds",
    "indices": "package indices and their tables",
    "unpacked": "digests of indices that their Release lists compressed only",
    "releases": "signed Release files",
    "seen": "dates of the Releases that were seen; keeps older ones out",
    "built": "what went into the outputs of earlier builds",
    "decided": "answers of the resolver",
    "finished": "where the bytes of earlier builds stand, to copy them",
    "roots": "what outputs and images were made of, to explain them",
    "effects": "what scripts read and did, so that they need not run again",
    "causes": "what stages were made of, to tell why one is made again",
    "unions": "which layers an image's root has",
    "oci": "images",
    "referrers": "what came along with images",
    "registries": "which repository of a registry had which blob",
    "containers": "containers, and what they wrote",
    "tmp": "unfinished work",
}
# never pruned by age: what protects from a replayed archive, and the user's images and containers
KEPT = ("seen", "oci", "containers", "locks")
UNFINISHED = 24 * 3600  # seconds after which a folder in tmp/ is nobody's any more


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of entries takes. entries: their number. size: bytes on disk."""

    kind: str
    about: str
    entries: int
    size: int


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """An entry. key: its name, or a file's in a kind without keys. used: seconds since 1970, when last read or made."""

    kind: str
    key: str
    path: Path
    size: int
    used: float


def items(store: Store) -> Iterator[Item]:
    """Yield every entry, in order of kinds and keys; raises StoreError."""
    try:
        for kind in sorted(os.listdir(store.root)):
            folder = store.root / kind
            if kind in ("locks", "format") or not folder.is_dir():
                continue
            if kind in ("oci", "tmp", "containers"):
                flat = folder / "blobs" / "sha256" if kind == "oci" else folder
                if flat.is_dir():
                    yield from _entries(kind, flat)
                continue
            for bucket in sorted(os.listdir(folder)):
                yield from _entries(kind, folder / bucket)
    except OSError as e:
        raise StoreError(f"the store cannot be read: {e.strerror}", where=str(e.filename or store.root)) from e


def _entries(kind: str, folder: Path) -> Iterator[Item]:
    for name in sorted(os.listdir(folder)):
        path = folder / name
        with contextlib.suppress(FileNotFoundError):
            size, used = _measure(path)
            yield Item(kind=kind, key=name, path=path, size=size, used=used)


def _measure(path: Path) -> tuple[int, float]:
    """Return the bytes that a file or a folder takes on disk, a hard link's once, and when it was last used."""
    s = os.lstat(path)
    size, used = s.st_blocks * 512, max(s.st_atime, s.st_mtime)
    if stat.S_ISDIR(s.st_mode):
        seen: set[int] = set()
        for at, names, files in os.walk(path):
            for name in (*names, *files):
                with contextlib.suppress(FileNotFoundError):
                    one = os.lstat(os.path.join(at, name))
                    if one.st_nlink == 1 or stat.S_ISDIR(one.st_mode) or one.st_ino not in seen:
                        seen.add(one.st_ino)
                        size += one.st_blocks * 512
        used = s.st_ctime  # a tree's own times are its package's; it counts as used when its layer is
    return size, used


def usage(store: Store) -> list[Usage]:
    """Return what each kind takes, the biggest first; raises StoreError."""
    sums: dict[str, tuple[int, int]] = {}
    for item in items(store):
        count, size = sums.get(item.kind, (0, 0))
        sums[item.kind] = count + 1, size + item.size
    rows = [
        Usage(kind=kind, about=KINDS.get(kind.partition("-")[0], ""), entries=count, size=size)
        for kind, (count, size) in sums.items()
    ]
    return sorted(rows, key=lambda row: (-row.size, row.kind))


def prune(
    store: Store, *, before: float, now: float, dry: bool = False, keep: Callable[[], Collection[str]] = tuple
) -> list[Item]:
    """Remove what was last used before a time (seconds since 1970), and return it; `dry` only returns it.

    A layer goes with its frame and its trees, when none of them was used since: a record never stands without its
    frame. Images and containers stay, and so does the memory of Releases. keep: returns the keys of layers that stay
    whenever they were used, those of containers; it is asked when nobody else is at work. Raises StoreError, also
    where a build is running.
    """
    with alone(store):
        groups: dict[str, list[Item]] = {}
        frames: dict[str, str] = {}
        kept = {f"layer {key}" for key in keep()}
        everything = list(items(store))
        for item in everything:
            if item.kind == "layers":
                frames[frame_key(item.key, "zstd")] = item.key
        for item in everything:
            if item.kind in KEPT:
                continue
            if item.kind == "layers" or item.kind.startswith("trees"):
                name = f"layer {item.key}"
            elif item.kind == "frames" and item.key in frames:
                name = f"layer {frames[item.key]}"
            else:
                name = f"{item.kind} {item.key}"
            groups.setdefault(name, []).append(item)
        gone: list[Item] = []
        for name, group in groups.items():
            if name in kept:
                continue
            limit = now - UNFINISHED if group[0].kind == "tmp" else before
            if all(item.used < limit for item in group):
                gone += sorted(group, key=lambda item: item.kind != "layers")  # the record first
        for item in gone if not dry else ():
            remove(item.path)
        return gone


def forget(store: Store, keys: Collection[str]) -> int:
    """Remove layers with their frames and trees, and return the bytes won; nothing where somebody uses the store.

    What is wanted again is made again; a record goes before its frame. Raises StoreError where one cannot be removed.
    """
    won = 0
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone(store))
        except StoreError:
            return 0
        kinds = [name for name in os.listdir(store.root) if name.startswith("trees-")]
        for key in sorted(keys):
            paths = [
                store.path("layers", key),
                *(store.path("frames", frame_key(key, codec)) for codec in every_codec()),
            ]
            for path in (*paths, *(store.path(kind, key) for kind in kinds)):
                if path.exists():
                    won += _measure(path)[0]
                    remove(path)
    return won
