"""The program on one page: a recipe becomes a lock, a root and artifacts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mkroot.progress import Progress, Step


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line adds to a recipe.

    out: the output folder. outputs: kinds in place of the recipe's. lock: "auto" (use one, make one where there is
    none), "locked" (there must be one), "none" (neither read nor write one). tags: image references besides the recipe's.
    architectures: in place of the recipe's. mirror: in place of the one mkroot would find.
    """

    out: Path = Path("out")
    outputs: tuple[str, ...] = ()
    lock: str = "auto"
    offline: bool = False
    tags: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    mirror: str | None = None
    defines: dict[str, str] = {}
    allow_expired: bool = False
    explain_cache: bool = False


class Artifact(msgspec.Struct, frozen=True):
    """A file or folder that was made. size: bytes. digest: `sha256:…`, of an image its manifest's."""

    kind: str
    path: str
    size: int
    digest: str


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What one build made: artifacts, package count, steps, and what was already there."""

    name: str
    architecture: str
    artifacts: tuple[Artifact, ...]
    packages: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    unchanged: bool = False


def build(recipe: str, options: Options, environ: dict[str, str], progress: Progress) -> tuple[Built, ...]:
    """Build a recipe (a path, or "-" for standard input), one result an architecture; raises MkrootError."""
    raise NotImplementedError
