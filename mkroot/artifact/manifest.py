"""What a build knows of itself, and `manifest.json`: packages, sizes and digests of every artifact."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mkroot.decoding import from_json
from mkroot.errors import ArtifactError

FORMAT = 1  # of manifest.json
FILE_NAME = "manifest.json"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
Count = Annotated[int, Meta(ge=0)]


class PackageFacts(Struct, frozen=True, kw_only=True):
    """A locked package. sha256: of the .deb, hexadecimal. size: of the .deb. installed_size: as it says. Bytes."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    sha256: str
    size: Count
    installed_size: Count = 0


class Facts(Struct, frozen=True, kw_only=True):
    """What the build says of a root besides its content; the same on every machine.

    name: of the recipe. architecture: Debian's name for it. lock, recipe: SHA-256, hexadecimal; "" where there is none.
    mirror: the address written into an image that has apt; "" where none is.
    """

    name: str
    architecture: str
    distro: str
    suite: str
    packages: tuple[PackageFacts, ...] = ()
    lock: str = ""
    recipe: str = ""
    mirror: str = ""


class Made(Struct, frozen=True, kw_only=True):
    """An artifact that was made.

    kind: as recipes name it. name: of the file or folder. size: bytes; of a folder, those of its files.
    digest: `sha256:…` of a file; of an image its manifest's; of `rootfs/` the tree's (see `tree_digest`).
    """

    kind: str
    name: str
    size: Count
    digest: str


class Manifest(Struct, frozen=True, kw_only=True):
    """`manifest.json`. epoch: seconds since 1970. installed: bytes in the root's files. tree: its digest."""

    version: int
    name: str
    architecture: str
    distro: str
    suite: str
    epoch: int
    lock: str
    recipe: str
    mirror: str
    tree: str
    entries: Count
    installed: Count
    packages: tuple[PackageFacts, ...]
    artifacts: tuple[Made, ...]


def encode(value: object) -> bytes:
    """Return canonical JSON: sorted keys, two spaces, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"


def make_manifest(
    facts: Facts, epoch: int, tree: str, entries: int, installed: int, artifacts: tuple[Made, ...]
) -> Manifest:
    """Return the manifest of a build, packages and artifacts in order of their names."""
    return Manifest(
        version=FORMAT,
        name=facts.name,
        architecture=facts.architecture,
        distro=facts.distro,
        suite=facts.suite,
        epoch=epoch,
        lock=facts.lock,
        recipe=facts.recipe,
        mirror=facts.mirror,
        tree=tree,
        entries=entries,
        installed=installed,
        packages=tuple(sorted(facts.packages, key=lambda p: (p.name, p.architecture, p.version))),
        artifacts=tuple(sorted(artifacts, key=lambda a: a.name)),
    )


def read_manifest(path: Path) -> Manifest:
    """Read a `manifest.json`; raises ArtifactError."""
    try:
        manifest = from_json(path.read_bytes(), Manifest)
    except OSError as e:
        raise ArtifactError(f"the manifest cannot be read: {e.strerror}", where=str(path)) from e
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise ArtifactError(f"not a manifest of mkroot: {e}", where=str(path)) from e
    if manifest.version != FORMAT:
        raise ArtifactError(f"a manifest of version {manifest.version}, not {FORMAT}", where=str(path))
    return manifest
