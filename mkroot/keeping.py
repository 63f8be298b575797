"""Packages of a lock that no index has any more: had from the store, or from their old place at the mirror.

An archive lists the newest version of a package alone, and keeps the files of older ones for some days at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from mkroot.archive.download import Wanted, fetch
from mkroot.archive.http import Http
from mkroot.debian.deb import open_deb
from mkroot.debian.package import Package
from mkroot.debian.release import Index
from mkroot.errors import MirrorError, PackageError, StoreError, TrustError
from mkroot.origins import Origin
from mkroot.resolve.lock import Key, LockedPackage
from mkroot.resolve.universe import Universe
from mkroot.sources import Archive
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.unpack import layer_key


def unlisted(universe: Universe, packages: Iterable[LockedPackage]) -> Iterator[LockedPackage]:
    """Yield the packages whose version no index has; local ones, which never stood in one, are left out."""
    for package in packages:
        listed = ((p.architecture, p.version) for p in universe.packages(package.name))
        if package.origin and (package.architecture, package.version) not in listed:
            yield package


def kept(
    packages: Sequence[LockedPackage], archive: Archive, place: Origin, http: Http, *, offline: bool
) -> dict[Key, Package]:
    """Return those of some locked packages that are to be had, as their indices had them.

    The store is asked first, with its second floor where it has one, then the mirror. What neither has no build could
    take. Raises StoreError.
    """
    store = archive.store
    if store.beyond is not None:  # all at once
        store.beyond.bring(layer_key(p.sha256) for p in packages)
    found: dict[Key, Package] = {}
    for package in packages:
        index = next((i for i in archive.indices if _same(i, package)), None)
        if index is not None and package.path.startswith(index.base):
            control = _control(package, store, place, http, offline)
            stanza = None if control is None else _listed(package, control, index)
            if stanza is not None:
                found[package.key] = stanza
    return found


def _listed(package: LockedPackage, control: bytes, index: Index) -> Package | None:
    """Return a package as an index lists it, None where its control file is another package's."""
    path = package.path.removeprefix(index.base).encode("utf-8", "surrogateescape")
    told = b"\nFilename: %b\nSize: %d\nSHA256: %b\n" % (path, package.size, package.sha256.encode())
    try:
        found = Package.parse(control.strip(b"\n") + told, index)
    except PackageError:
        return None
    same = (found.name, found.version, found.architecture) == (package.name, package.version, package.architecture)
    return found if same else None


def _same(index: Index, package: LockedPackage) -> bool:
    """Tell whether a package's lock was made from this index: of which architecture does not matter."""
    return (index.source, index.suite, index.component) == (package.origin, package.suite, package.component)


def _control(package: LockedPackage, store: Store, place: Origin, http: Http, offline: bool) -> bytes | None:
    """Return a package's control file: that of its layer, else of its .deb, fetched where the store has neither."""
    layers = LayerStore(store)
    key = layer_key(package.sha256)
    if layers.has(key):
        with suppress(StoreError):  # a build mends the entry; here the .deb serves as well
            return layers.load(key).control.get("control")
    wanted = Wanted(
        name=f"{package.name} {package.version} {package.architecture}",
        address=place.locate(package.origin, package.path),
        sha256=package.sha256,
        size=package.size,
    )
    try:
        ((_, path),) = fetch(store, [wanted], http=http, offline=offline)
        return open_deb(memoryview(path.read_bytes()), wanted.name).control["control"]
    except (MirrorError, TrustError, PackageError):
        return None
