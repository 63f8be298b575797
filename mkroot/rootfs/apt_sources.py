"""Writes the apt sources of an image: one deb822 file for the distribution, one for each source that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import msgspec

from mkroot.errors import RecipeError

if TYPE_CHECKING:
    from mkroot.rootfs.recorder import Recorder
    from mkroot.rootfs.tree import Tree

SOURCES = "etc/apt/sources.list.d"
KEYRINGS = "etc/apt/keyrings"
ARCHIVE_KEYS = {  # where the distributions' own packages keep the archive's keys
    "debian": ("usr/share/keyrings/debian-archive-keyring.pgp", "usr/share/keyrings/debian-archive-keyring.gpg"),
    "ubuntu": ("usr/share/keyrings/ubuntu-archive-keyring.gpg",),
}


class Stanza(msgspec.Struct, frozen=True, kw_only=True):
    """One deb822 paragraph (sources.list(5)).

    uri: of the archive. suites, components: in order; a flat suite ends in a slash and has no components.
    key: the public key that signs it, armoured or binary; None where the image's own archive keyring does.
    trusted: taken without a signature.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...] = ()
    key: bytes | None = None
    trusted: bool = False


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One file below SOURCES. name: without its suffix. stanzas: at least one. origin: the recipe's key."""

    name: str
    stanzas: tuple[Stanza, ...]
    origin: str = "recipe: apt.mirror"


def without_credentials(uri: str) -> str:
    """Return an address without user name and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def archive_stanzas(
    distro: str, uri: str, suite: str, components: Sequence[str], pockets: Sequence[str], security_uri: str | None
) -> tuple[Stanza, ...]:
    """Return the paragraphs of a distribution's archive.

    pockets: `updates`, `security`, `backports`. security_uri: Debian's security archive, where it stands by itself.
    """
    own = [suite, *(f"{suite}-{p}" for p in pockets if p != "security" or security_uri is None)]
    stanzas = [Stanza(uri=uri, suites=tuple(own), components=tuple(components))]
    if security_uri is not None and "security" in pockets:
        stanzas.append(Stanza(uri=security_uri, suites=(f"{suite}-security",), components=tuple(components)))
    return tuple(stanzas)


def has_apt(tree: Tree) -> bool:
    """Tell whether apt is in the image."""
    return tree.exists("usr/bin/apt-get")


def write_apt_sources(
    tree: Tree, distro: str, sources: Sequence[Source], *, key: bytes | None = None
) -> dict[str, str]:
    """Write the sources of an image that has apt; return the origin of each path written.

    distro: `debian` or `ubuntu`. sources: in order, the distribution's first; none leaves the image without any.
    key: the archive's keys, written to KEYRINGS where the image has no keyring package of its own, or where the recipe
    names other keys than the distribution's. Raises RecipeError where a source could not be verified in the image.
    """
    if not has_apt(tree):
        return {}
    from mkroot.rootfs.recorder import Recorder

    recorder = Recorder(tree)
    for source in sources:
        with recorder.at(source.origin, key=source.origin.removeprefix("recipe: ")):
            paragraphs = []
            for number, stanza in enumerate(source.stanzas):
                signed = _signed_by(recorder, distro, source, number, key)
                paragraphs.append(_paragraph(stanza, signed))
            recorder.write(f"{SOURCES}/{source.name}.sources", "\n".join(paragraphs).encode(), 0o644, 0, 0)
    return recorder.origins


def _signed_by(recorder: Recorder, distro: str, source: Source, number: int, key: bytes | None) -> str:
    """Return the path of the keys that sign a paragraph, written where the image lacks it; "" for none needed."""
    stanza = source.stanzas[number]
    own = stanza.key
    if stanza.trusted and own is None:
        return ""
    if own is None:
        if key is None:
            for path in ARCHIVE_KEYS.get(distro, ()):
                if recorder.tree.exists(path):
                    return f"/{path}"
            raise RecipeError(
                "the image has apt but no keys of the archive",
                where="apt",
                hint=f"add `{distro}-{'archive-' if distro == 'debian' else ''}keyring` to `packages.include`, "
                "or set `apt: {mirror: none}`",
            )
        own, name = key, f"{distro}-archive"
    else:
        name = source.name if number == 0 else f"{source.name}-{number}"
    suffix = "asc" if own.lstrip().startswith(b"-----BEGIN") else "gpg"  # apt tells the two apart by it
    path = f"{KEYRINGS}/{name}.{suffix}"
    recorder.write(path, own, 0o644, 0, 0)
    return f"/{path}"


def _paragraph(stanza: Stanza, signed: str) -> str:
    lines = [
        "Types: deb",
        f"URIs: {without_credentials(stanza.uri)}",
        f"Suites: {' '.join(stanza.suites)}",
    ]
    if stanza.components and not all(s.endswith("/") for s in stanza.suites):
        lines.append(f"Components: {' '.join(stanza.components)}")
    if stanza.trusted:
        lines.append("Trusted: yes")
    if signed:
        lines.append(f"Signed-By: {signed}")
    return "\n".join(lines) + "\n"
