"""From a recipe to the archives that it is built from: mirrors, keys, suites; and to what they have."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mkroot.archive import address, config, keyring
from mkroot.archive.download import local_deb
from mkroot.archive.http import Http
from mkroot.archive.index import ArchiveUniverse
from mkroot.archive.inrelease import Policy, SuiteRecord
from mkroot.archive.mirror import Mirror, mirror
from mkroot.archive.refresh import refresh, snapshot
from mkroot.archive.source import Source, SuiteSource, distribution
from mkroot.debian.deb import open_deb
from mkroot.debian.package import Package
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe
from mkroot.recipe.model import Source as RecipeSource
from mkroot.resolve.request import Pin, Request
from mkroot.store.store import Store


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a recipe's packages come from, for one architecture.

    sources: the distribution's archive first, then the recipe's further ones. mirror: the distribution's.
    """

    sources: tuple[Source, ...]
    mirror: Mirror

    def locate(self, source: str, path: str) -> address.Address:
        """Return a package's address by its source's id and its path in the lock; raises MirrorError."""
        return next(s for s in self.sources if s.id == source).locate(path)

    def written_as(self, archive: str, security: str) -> Origin:
        """Return the same places under another name of the mirror, which is what apt in an image is given.

        archive, security: addresses; "" for the mirror's own, and for no security archive. Raises MirrorError.
        """
        if not archive:
            return self
        where = "the mirror of an earlier build"
        apart = address.parse(security, where) if security else None
        named = Mirror(archive=address.parse(archive, where), security=apart, origin=where)
        return msgspec.structs.replace(self, mirror=named)


def origin(recipe: Recipe, architecture: str, option: str | None, environ: Mapping[str, str]) -> Origin:
    """Return a recipe's archives as they are now; raises MirrorError, TrustError, RecipeError.

    option: the mirror that the command line names.
    """
    settings = config.load(environ)
    named = mirror(recipe.distro, architecture, config=settings, environ=environ, recipe=recipe.mirror, option=option)
    keys = keyring.load(Path(recipe.keyring.path)) if recipe.keyring else keyring.shipped(recipe.distro)
    architectures = _architectures(recipe, architecture)
    main = distribution(
        recipe.distro,
        str(recipe.suite),
        mirror=named,
        keyring=keys,
        architectures=architectures,
        pockets=recipe.pockets,
        components=tuple(map(str, recipe.components)),
    )
    further = tuple(_further(s, architectures, keys) for s in recipe.sources)
    return Origin(sources=(main, *further), mirror=named)


def _architectures(recipe: Recipe, architecture: str) -> tuple[str, ...]:
    """Return the recipe's architecture and the foreign ones that its includes name."""
    foreign = (w.arch for w in recipe.packages.include if w.arch not in ("", "any", "all"))
    return tuple(dict.fromkeys(map(str, (architecture, *foreign))))


def _further(source: RecipeSource, architectures: tuple[str, ...], keys: keyring.Keyring) -> Source:
    where = address.with_credentials(address.parse(source.uri, f"`sources` {source.id}"))
    ring: keyring.Keyring | None = keys
    if source.trusted:
        ring = None
    elif source.key is not None:
        ring = keyring.load(Path(source.key.file.path))
        if source.key.fingerprint:
            ring = ring.only(source.key.fingerprint)
    return Source(
        id=str(source.id),
        suites=tuple(SuiteSource(name=str(s), archive=where) for s in source.suites),
        components=tuple(map(str, source.components)),
        architectures=architectures,
        keyring=ring,
    )


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

    universe: ArchiveUniverse
    suites: tuple[SuiteRecord, ...]
    local: tuple[Package, ...]


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
    """Bring the store up to date with the archives and open their indices; raises MirrorError, TrustError."""
    policy = Policy(now=int(time.time()), offline=offline, allow_expired=allow_expired, not_before=not_before)
    sources = dated(store, recipe, found, http=http, policy=policy, environ=environ).sources
    fresh = refresh(store, sources, http=http, policy=policy, progress=lambda item: progress.advance(1, item))
    return Archive(
        universe=ArchiveUniverse(store, fresh.indices),
        suites=fresh.suites,
        local=tuple(local_packages(store, recipe)),
    )


def nothing(store: Store) -> Archive:
    """Return what archives have that nobody asks."""
    return Archive(universe=ArchiveUniverse(store, ()), suites=(), local=())


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
        foreign=_architectures(recipe, architecture)[1:],
        suite=recipe.suite,
        variant=recipe.packages.variant,
        include=tuple(include),
        local=local,
        exclude=tuple(recipe.packages.exclude),
        recommends=recipe.packages.recommends,
        pins=tuple(Pin(package=p.package, source=p.source, priority=p.priority) for p in recipe.pins),
    )
