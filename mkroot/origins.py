"""From a recipe to the archives that it is built from: mirrors, keys, suites."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from mkroot.archive import address, config, keyring
from mkroot.archive.mirror import Mirror, mirror
from mkroot.archive.source import Source, SuiteSource, distribution
from mkroot.recipe.model import Recipe
from mkroot.recipe.model import Source as RecipeSource


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
    architectures = architectures_of(recipe, architecture)
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


def architectures_of(recipe: Recipe, architecture: str) -> tuple[str, ...]:
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
