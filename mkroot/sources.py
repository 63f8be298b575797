"""From a recipe's archives to what they have now, and to what the recipe asks of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mkroot.archive import config
from mkroot.archive.download import local_deb
from mkroot.archive.http import Http
from mkroot.archive.inrelease import Policy, SuiteRecord
from mkroot.archive.refresh import refresh, snapshot
from mkroot.debian.deb import open_deb
from mkroot.debian.package import Package
from mkroot.debian.release import Index
from mkroot.origins import Origin, architectures_of
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe
from mkroot.resolve.request import Pin, Request
from mkroot.store.store import Store

if TYPE_CHECKING:
    from mkroot.archive.index import ArchiveUniverse


def dated(
    store: Store, recipe: Recipe, found: Origin, *, http: Http, policy: Policy, environ: Mapping[str, str]
) -> Origin:
    """Return a recipe's archives as they were at its `snapshot`; as they are where it has none. Raises MirrorError.

    Where the configuration names no pattern of dated copies, the live Release is asked for one.
    """
    if not recipe.snapshot:
        return found
    first = snapshot(
        store, found.sources[0], str(recipe.snapshot), config=config.load(environ), http=http, policy=policy
    )
    return msgspec.structs.replace(found, sources=(first, *found.sources[1:]))


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """What the archives have now. suites: what the lock keeps of each. local: the recipe's own .debs, parsed."""

    store: Store
    indices: tuple[Index, ...] = ()
    suites: tuple[SuiteRecord, ...] = ()
    local: tuple[Package, ...] = ()

    def universe(self) -> ArchiveUniverse:
        """Open the indices; raises TrustError, StoreError."""
        from mkroot.archive.index import ArchiveUniverse

        return ArchiveUniverse(self.store, self.indices)


def look(
    store: Store,
    recipe: Recipe,
    found: Origin,
    *,
    http: Http,
    offline: bool,
    allow_expired: bool,
    not_before: dict[tuple[str, str], int],
    environ: Mapping[str, str],
    progress: Progress,
) -> Archive:
    """Bring the store up to date with the archives and their indices; raises MirrorError, TrustError."""
    policy = Policy(now=int(time.time()), offline=offline, allow_expired=allow_expired, not_before=not_before)
    sources = dated(store, recipe, found, http=http, policy=policy, environ=environ).sources
    fresh = refresh(store, sources, http=http, policy=policy, progress=lambda item: progress.advance(1, item))
    return Archive(store=store, indices=fresh.indices, suites=fresh.suites, local=tuple(local_packages(store, recipe)))


def local_packages(store: Store, recipe: Recipe) -> list[Package]:
    """Return the stanzas of the recipe's local .debs, which are in the store then; raises PackageError."""
    packages = []
    for want in recipe.packages.include:
        if want.file is not None:
            file = local_deb(store, Path(want.file.path))
            deb = open_deb(memoryview(file.path.read_bytes()), str(want.file))
            stanza = deb.control["control"].rstrip(b"\n")
            packages.append(
                Package.parse(
                    b"%b\nFilename: %b\nSize: %d\nSHA256: %b\n"
                    % (stanza, str(want.file).encode("utf-8", "surrogateescape"), file.size, file.sha256.encode())
                )
            )
    return packages


def _for_boot(recipe: Recipe) -> list[str]:
    """Return the packages that the root must have for `boot` and `disk`."""
    if recipe.boot is None or recipe.boot.rootfs != "own":
        return []
    names = [str(recipe.boot.kernel)]
    asked = {want.name for want in recipe.packages.include}
    if recipe.boot.initramfs == "distro" and not asked & {"initramfs-tools", "dracut"}:
        names.append("initramfs-tools")
    if recipe.disk.grow and recipe.distro == "debian" and recipe.suite not in ("bookworm", "bullseye"):
        names.append("systemd-repart")  # part of systemd itself in Debian 12 and in Ubuntu
    return names


def request(recipe: Recipe, architecture: str, local: tuple[Package, ...]) -> Request:
    """Return what the recipe asks of the resolver."""
    include = [str(w) for w in recipe.packages.include if w.file is None]
    include += [name for name in _for_boot(recipe) if name not in include]
    return Request(
        architecture=architecture,
        foreign=architectures_of(recipe, architecture)[1:],
        suite=recipe.suite,
        variant=recipe.packages.variant,
        include=tuple(include),
        local=local,
        exclude=tuple(recipe.packages.exclude),
        recommends=recipe.packages.recommends,
        pins=tuple(Pin(package=p.package, source=p.source, priority=p.priority) for p in recipe.pins),
    )
