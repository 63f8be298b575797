"""What of a recipe goes into a root beside its packages: local files, hooks, the sources that apt is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mkroot.archive import address
from mkroot.archive.mirror import SECURITY
from mkroot.digest import sha256
from mkroot.errors import RootfsError
from mkroot.recipe.model import Recipe
from mkroot.resolve.lock import LockedPackage, LockedRoot
from mkroot.rootfs.apt_sources import Source as AptSource
from mkroot.rootfs.apt_sources import Stanza, archive_stanzas
from mkroot.rootfs.inputs import Inputs, read_inputs

if TYPE_CHECKING:
    from mkroot.origins import Origin


class Inside(msgspec.Struct, frozen=True, kw_only=True):
    """What a root is made of beside its packages.

    inputs: the recipe's local files. hooks: their texts, as the recipe orders them. sources: apt's, for the image.
    key: the archive's keys, where the image must be given them. automatic: packages that are there for others' sake.
    """

    inputs: Inputs
    hooks: tuple[bytes, ...] = ()
    sources: tuple[AptSource, ...] = ()
    key: bytes | None = None
    automatic: tuple[tuple[str, str], ...] = ()


def _automatic(package: LockedPackage) -> bool:
    """Tell whether apt would have marked a package as installed for others' sake only (apt-mark(8))."""
    wished = package.why.split(" ", 1)[0] in ("priority", "requested", "variant", "essential")
    return package.stage != "essential" and not wished and not package.upgrades


def inside_of(recipe: Recipe, locked: LockedRoot, place: Origin) -> Inside:
    """Return what the root of a lock is made of beside its packages; raises RootfsError, RecipeError."""
    try:
        hooks = tuple(Path(hook.run.path).read_bytes() for hook in recipe.hooks)
        key = Path(recipe.keyring.path).read_bytes() if recipe.keyring is not None else None
        kept = [_kept(number, recipe) for number, s in enumerate(recipe.sources) if s.keep]
    except OSError as e:
        raise RootfsError(f"a file of the recipe cannot be read: {e.strerror}", where=e.filename) from None
    return Inside(
        inputs=read_inputs(recipe.config),
        hooks=hooks,
        sources=(*_apt_sources(recipe, place), *kept),
        key=key,
        automatic=tuple((p.name, p.architecture) for p in locked.packages if _automatic(p)),
    )


def _kept(number: int, recipe: Recipe) -> AptSource:
    source = recipe.sources[number]
    key = Path(source.key.file.path).read_bytes() if source.key is not None else None
    stanza = Stanza(
        uri=source.uri,
        suites=tuple(source.suites),
        components=tuple(source.components),
        key=key,
        trusted=source.trusted,
    )
    return AptSource(name=source.id, stanzas=(stanza,), origin=f"recipe: sources[{number}]")


def apt_mirror(recipe: Recipe, place: Origin) -> tuple[str, str | None]:
    """Return the archive's address for the image, "" for none, and that of Debian's security archive."""
    wanted = str(recipe.apt.mirror)
    if wanted == "none":
        return "", None
    if wanted == "used":
        security = place.mirror.security
        return place.mirror.archive.url, security.url if security is not None else None
    archive = address.parse(wanted, "`apt.mirror`")
    return archive.url, archive.sibling(SECURITY, recipe.distro).url if recipe.distro == "debian" else None


def _apt_sources(recipe: Recipe, place: Origin) -> tuple[AptSource, ...]:
    uri, security = apt_mirror(recipe, place)
    if not uri:
        return ()
    stanzas = archive_stanzas(recipe.distro, uri, recipe.suite, recipe.components, recipe.pockets, security)
    return (AptSource(name=recipe.distro, stanzas=stanzas),)


def digests(recipe: Recipe, inside: Inside) -> dict[str, str]:
    """Return the SHA-256 of what each local file of a recipe holds, by the key that names it.

    Of a folder it is that of its members' msgpack form (`mkroot.rootfs.inputs.Item`).
    """
    found = {f"hooks[{i}].run": sha256(text) for i, text in enumerate(inside.hooks)}
    for i, members in inside.inputs.trees.items():
        alone = len(members) == 1 and members[0].path == "" and not members[0].link
        found[f"config.files[{i}].from"] = sha256(members[0].content if alone else msgspec.msgpack.encode(members))
    for i, lines in inside.inputs.keys.items():
        found[f"config.users[{i}].ssh_keys"] = sha256("\n".join(lines).encode("utf-8", "surrogateescape"))
    if inside.key is not None:
        found["keyring"] = sha256(inside.key)
    for source in recipe.sources:
        if source.key is not None:
            found[f"sources.{source.id}.key"] = sha256(Path(source.key.file.path).read_bytes())
    return found
