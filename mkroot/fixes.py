"""Which changes of a lock are security fixes: by what the security pockets offer, wherever the new version is from.

Ubuntu copies a security update to the updates pocket, and a point release of Debian moves it into the suite itself, so
that a fix is often taken from elsewhere than the pocket that it came out in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

import msgspec

from mkroot.archive.scan import whole
from mkroot.archive.table import blocks
from mkroot.debian.release import Index
from mkroot.debian.version import version_key
from mkroot.resolve.lock import LockedPackage

SECURITY = "-security"  # how the name of a suite ends that holds nothing but security updates
_BLOCK = 1 << 20  # bytes of an index read at a time
_READ = 32  # indices that a process remembers
_FIELD = re.compile(rb"^(package|source|version|architecture):[ \t]*([^\n]*)", re.IGNORECASE | re.MULTILINE)


class Offered(msgspec.Struct, frozen=True):
    """What an index offers: versions by a package's name and architecture, and by a source package's name."""

    packages: dict[tuple[str, str], tuple[str, ...]]
    sources: dict[str, tuple[str, ...]]


def security(indices: Iterable[Index]) -> tuple[Index, ...]:
    """Return the indices of security pockets."""
    return tuple(i for i in indices if i.suite.rstrip("/").endswith(SECURITY))


def fixed(before: LockedPackage, after: LockedPackage | None, pockets: Sequence[Index]) -> bool:
    """Tell whether a new version of a package brings a security fix; raises OSError.

    after: None where the package goes: whether it has a fix that the locked version lacks.
    It does where a security pocket of the source that the locked version is from offers a version of the package that
    is newer than the locked one and not newer than the new one, or offers the like of its source package.
    """
    for index in pockets:
        if index.source != before.origin:
            continue
        offered = offers(index)
        own = offered.packages.get((before.name, before.architecture), ())
        sources = offered.sources.get(before.source, ()) if after is None or after.source == before.source else ()
        limits = (None, None) if after is None else (after.version, after.source_version)
        if _between(before.version, own, limits[0]) or _between(before.source_version, sources, limits[1]):
            return True
    return False


def _between(old: str, offered: Iterable[str], new: str | None) -> bool:
    """Tell whether a version is offered that is newer than `old` and not newer than `new`, where that is given."""
    newer = [key for one in offered if (key := version_key(one)) > version_key(old)]
    return any(new is None or key <= version_key(new) for key in newer)


@functools.lru_cache(maxsize=_READ)
def offers(index: Index) -> Offered:
    """Return what an index offers, read once in a process; raises OSError."""
    packages: dict[tuple[str, str], set[str]] = {}
    sources: dict[str, set[str]] = {}
    for piece in whole(blocks(index.path, _BLOCK)):
        for stanza in piece.split(b"\n\n"):
            fields = {m[1].lower(): m[2].strip().decode("utf-8", "surrogateescape") for m in _FIELD.finditer(stanza)}
            name, version = fields.get(b"package", ""), fields.get(b"version", "")
            if not name:
                continue
            source, _, rest = fields.get(b"source", name).partition(" ")
            packages.setdefault((name, fields.get(b"architecture", "")), set()).add(version)
            stated = rest.partition("(")[2].partition(")")[0].strip()
            sources.setdefault(source or name, set()).add(stated or version)
    return Offered(
        {key: tuple(sorted(found)) for key, found in packages.items()},
        {key: tuple(sorted(found)) for key, found in sources.items()},
    )
