"""What a build changed in its output folder since the last one."""

from __future__ import annotations

from pathlib import Path

from mkroot.artifact.manifest import FILE_NAME, Manifest, read_manifest
from mkroot.errors import ArtifactError
from mkroot.fleet.model import Change


def manifest(folder: Path) -> Manifest | None:
    """Return the manifest in an output folder; None where there is none that can be read."""
    try:
        return read_manifest(folder / FILE_NAME)
    except ArtifactError:
        return None


def change(before: Manifest | None, after: Manifest | None) -> Change:
    """Return what a build changed in its output folder."""
    if before is None or after is None:
        return Change(first=True)
    old, new = ({(p.name, p.architecture): p.version for p in m.packages} for m in (before, after))
    return Change(
        added=tuple(f"{n} {new[n, a]}" for n, a in new if (n, a) not in old),
        removed=tuple(f"{n} {old[n, a]}" for n, a in old if (n, a) not in new),
        changed=tuple(f"{n} {old[n, a]} to {new[n, a]}" for n, a in new if (n, a) in old and old[n, a] != new[n, a]),
        bytes=sum(a.size for a in after.artifacts) - sum(a.size for a in before.artifacts),
    )
