"""Gets the `Packages` indices that a verified Release vouches for, into the store, uncompressed."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mkroot.archive.address import Address
from mkroot.archive.answer import NotFoundError, WrongSizeError
from mkroot.archive.follower import Follower
from mkroot.archive.http import Http
from mkroot.archive.index import table_key
from mkroot.archive.mirror import PORTS, in_ports
from mkroot.archive.source import Source, SuiteSource
from mkroot.debian.release import Release
from mkroot.digest import is_sha256, sha256, sha256_file
from mkroot.errors import MirrorError, StoreError, TrustError
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store
from mkroot.tar.stream import Corrupt, decompress

KIND = "indices"
_UNPACKED = "unpacked"  # compressed digest → uncompressed digest, where a Release lists the first alone
LIMIT = 2 << 30  # bytes of an index, uncompressed; Debian's main, one of the largest, has 57 MB
EXPANSION = 64  # times; how far an index may expand whose uncompressed size the Release does not list
# In the order in which they are taken. Over a network size counts most and xz is smallest; zst wins because it
# unpacks ten times faster for a tenth more bytes. From a local folder nothing beats what need not be unpacked.
_REMOTE = (".zst", ".xz", ".gz", "")
_LOCAL = ("", ".zst", ".gz", ".xz")


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """An index to get: which suite lists it, its path without a compression's suffix, and what it is for."""

    source: Source
    suite: SuiteSource
    release: Release
    stem: str
    component: str
    architecture: str

    @property
    def name(self) -> str:
        """The index as messages call it: `trixie/main/amd64`."""
        return "/".join(filter(None, (self.suite.name.rstrip("/"), self.component, self.architecture)))

    @property
    def folder(self) -> Address:
        """Where the Release stands."""
        return self.suite.address

    @property
    def plain(self) -> tuple[str, int] | None:
        """Digest and size of the uncompressed text, None where the Release does not list it."""
        return self.release.files.get(self.stem)

    @property
    def weight(self) -> int:
        """The largest size listed, by which the longest work is begun first."""
        return max(self.release.files[self.stem + s][1] for s in _REMOTE if self.stem + s in self.release.files)


def listed(source: Source, suite: SuiteSource, release: Release) -> list[Listed]:
    """Return the indices of a suite that a source wants; raises MirrorError for what the suite has not."""

    def one(stem: str, component: str, architecture: str) -> Listed:
        return Listed(
            source=source,
            suite=suite,
            release=release,
            stem=stem,
            component=component,
            architecture=architecture,
        )

    if suite.flat:
        if not any("Packages" + suffix in release.files for suffix in _REMOTE):
            raise MirrorError("the Release lists no package index", where=str(suite.address))
        return [one("Packages", "", architecture) for architecture in source.architectures[:1]]
    out: list[Listed] = []
    for component in source.components:
        full = _component(release, component, suite)
        for architecture in _architectures(source, suite, release):
            for name in dict.fromkeys((component, full)):
                stem = f"{name}/binary-{architecture}/Packages"
                if any(stem + suffix in release.files for suffix in _REMOTE):
                    out.append(one(stem, component, architecture))
                    break
    return out


def _component(release: Release, component: str, suite: SuiteSource) -> str:
    """Return a component as the Release lists it: debian-security says `updates/main` and means the path `main/`."""
    for name in release.components:
        if name == component or name.endswith("/" + component):
            return name
    if not release.components and any(path.startswith(component + "/") for path in release.files):
        return component
    has = ", ".join(f"`{name}`" for name in release.components) or "none"
    raise MirrorError(
        f"the suite `{suite.name}` has no component `{component}`", where=str(suite.address), hint=f"it has {has}"
    )


def _architectures(source: Source, suite: SuiteSource, release: Release) -> Iterator[str]:
    """Yield the architectures whose indices are wanted.

    An index for `all` counts where the Release names `all` and does not say that the others contain it anyway
    (Debian wiki, RepositoryFormat, "No-Support-for-Architecture-all"); listed otherwise, it is passed over.
    """
    for architecture in source.architectures:
        if release.architectures and architecture not in release.architectures:
            has = ", ".join(f"`{a}`" for a in release.architectures)
            raise MirrorError(
                f"the suite `{suite.name}` has no packages for `{architecture}`",
                where=str(suite.address),
                hint=f"it has {has}",
            )
        yield architecture
    if "all" in release.architectures and not release.no_support_for_architecture_all:
        yield "all"


def lacking(store: Store, index: Listed) -> bool:
    """Tell whether neither the text of an index nor its table is in the store."""
    known = index.plain or _unpacked(store, index)
    return known is None or not (store.has(KIND, known[0]) or store.has(KIND, table_key(known[0])))


def get(
    store: Store, index: Listed, http: Http, *, offline: bool, follower: Follower | None = None
) -> tuple[Path, str, int]:
    """Return the uncompressed index in the store, its digest and its size, fetching it where the store has it not.

    follower: has made the index's table on return, where the text had to be unpacked.
    Raises MirrorError where the mirror has not what its Release lists, or something else; TrustError for an index
    that does not unpack to what was signed.
    """
    known = index.plain or _unpacked(store, index)
    if known is not None and (path := _in_store(store, *known)) is not None:
        return path, *known
    if offline:
        raise MirrorError(
            f"the store has no package index of `{index.name}`",
            where=str(index.folder),
            hint="run once without `--offline`",
        )
    if known == (_EMPTY, 0) or (index.plain is None and _all_empty(index)):
        return _kept(store, b"")
    with store.workshop("index.") as folder:
        packed, suffix = _download(index, http, folder)
        return _unpack(store, index, packed, suffix, folder, follower)


_EMPTY = hashlib.sha256().hexdigest()


def _all_empty(index: Listed) -> bool:
    sizes = [index.release.files[index.stem + s][1] for s in _REMOTE if index.stem + s in index.release.files]
    return not any(sizes)


def _in_store(store: Store, digest: str, size: int) -> Path | None:
    """Return the entry, None where it is missing; a damaged one is removed, to be fetched anew."""
    path = store.path(KIND, digest)
    try:
        if path.stat().st_size == size and sha256_file(path) == digest:
            return path
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as e:
        raise StoreError(f"an index cannot be read: {e.strerror}", where=str(path)) from None
    return None


def _unpacked(store: Store, index: Listed) -> tuple[str, int] | None:
    """Return digest and size that an index without a listed uncompressed form had the last time."""
    for suffix in _REMOTE:
        row = index.release.files.get(index.stem + suffix)
        if row is not None:
            with contextlib.suppress(OSError, ValueError):
                digest, _, size = opened(store.path(_UNPACKED, row[0]).read_bytes()).decode().partition(" ")
                if is_sha256(digest):
                    return digest, int(size)
    return None


def _download(index: Listed, http: Http, folder: Path) -> tuple[Path, str]:
    """Write the first compressed form that is there and right into `folder`; return it and its suffix."""
    wrong: list[str] = []
    for suffix in _LOCAL if index.folder.scheme == "file" else _REMOTE:
        row = index.release.files.get(index.stem + suffix)
        if row is None or (not row[1] and suffix):
            continue
        for place, fresh in _places(index, suffix, row[0]):
            path = folder / "packed"
            try:
                if _fetch(http, place, path, *row, fresh=fresh):
                    return path, suffix
                wrong.append(f"{place}: another digest than the signed one")
            except NotFoundError:
                continue
            except WrongSizeError as e:
                wrong.append(f"{place}: {e.what}")
    if not wrong:
        ports = (
            "this mirror may have Ubuntu's main archive alone: name one of its ports by `MKROOT_MIRROR_UBUNTU_PORTS`"
        )
        raise MirrorError(
            f"the mirror has none of the forms of the package index `{index.name}`",
            where=str(index.folder),
            hint=f"{ports}, or as `{PORTS}` in `config.toml`"
            if in_ports(index.source.id, index.architecture)
            else None,
        )
    raise MirrorError(
        f"the package index `{index.name}` is not the one that its signed Release lists ({wrong[0]})",
        where=str(index.folder),
        hint="the mirror or a cache on the way is being updated: try again in some minutes, or name another mirror",
    )


def _places(index: Listed, suffix: str, digest: str) -> Iterator[tuple[Address, bool]]:
    """Yield where a form of an index may be: by its digest, which no update can overtake; by name; by name past
    caches."""
    path = index.stem + suffix
    if index.release.acquire_by_hash:
        yield index.folder.join(f"{path.rpartition('/')[0]}/by-hash/SHA256/{digest}"), False
    yield index.folder.join(path), False
    if index.folder.scheme != "file":
        yield index.folder.join(path), True


def _fetch(http: Http, address: Address, path: Path, digest: str, size: int, *, fresh: bool) -> bool:
    """Write a file of `size` bytes; return whether its digest is right."""
    if size > LIMIT:
        raise TrustError(f"an index of {size} bytes is larger than the {LIMIT} that are taken", where=str(address))
    hasher = hashlib.sha256()
    with open(path, "wb", buffering=0) as f:
        for chunk in http.stream(address, limit=size, size=size, fresh=fresh):
            hasher.update(chunk)
            f.write(chunk)
    return hasher.hexdigest() == digest


def _unpack(
    store: Store, index: Listed, packed: Path, suffix: str, folder: Path, follower: Follower | None
) -> tuple[Path, str, int]:
    """Unpack a verified form into the store; only verified bytes ever reach a decompressor."""
    plain = index.plain
    size = packed.stat().st_size
    limit = min(plain[1] if plain else size * EXPANSION + (1 << 20), LIMIT)
    where = f"{index.folder}/{index.stem}{suffix}"
    out = folder / "plain"
    hasher = hashlib.sha256()
    total = 0
    try:
        with open(packed, "rb") as f, open(out, "w+b", buffering=0) as o:
            if follower is not None:
                follower.begin(o.fileno())
            view = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
            for piece in decompress(suffix.lstrip("."), view, limit):
                hasher.update(piece)
                o.write(piece)
                total += len(piece)
                if follower is not None:
                    follower.grown(total)
    except Corrupt as e:
        raise TrustError(f"a signed index cannot be unpacked: {e}", where=where) from None
    digest = hasher.hexdigest()
    if plain is not None and (digest, total) != plain:
        raise TrustError("an index does not unpack to what its Release lists", where=where)
    path = _rename(store, out, digest)
    if plain is None:
        row = index.release.files[index.stem + suffix]
        with store.writing(_UNPACKED, row[0], sync=False) as aside:
            aside.write_bytes(sealed(f"{digest} {total}".encode()))
    if follower is not None:
        follower.finish(digest)
    return path, digest, total


def _kept(store: Store, data: bytes) -> tuple[Path, str, int]:
    digest = sha256(data)
    with store.writing(KIND, digest, sync=False) as aside:
        aside.write_bytes(data)
    return store.path(KIND, digest), digest, len(data)


def _rename(store: Store, made: Path, digest: str) -> Path:
    path = store.path(KIND, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.rename(made, path)
    return path
