"""The errors that mkroot raises on purpose.

    MkrootError             what went wrong, where, and what to do about it
    ├── UsageError          the command line is wrong (exit status 2)
    ├── RecipeError         a recipe, its schema or its composition
    ├── MirrorError         a mirror is unknown, down, or sends something else than asked for
    ├── TrustError          a signature, a date, a digest: something is not what was signed
    ├── PackageError        a .deb, its members or its control data
    ├── ResolutionError     the request has no answer
    ├── LockError           a lock is stale, malformed or does not fit
    ├── StoreError          the store cannot be read or written, or holds a damaged entry
    ├── RootfsError         the packages do not fit together in one tree
    ├── SandboxError        this host cannot run maintainer scripts, or a script failed
    ├── ArtifactError       an output cannot be written
    ├── ImageError          an OCI image, reference or registry
    ├── ContainerError      a container is gone, in use, or cannot be run
    ├── BootError           kernel, initramfs and boot loader do not fit together
    ├── VmError             QEMU is missing, dies, or does not fit the machine
    └── Faults              several errors of one file, reported together

Only `mkroot.cli` prints them or exits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MESSAGE_LIMIT = 16_000  # characters; a message stays under 20 kB whatever a mirror or a package put into it


def printable(text: str) -> str:
    """Return `text` with control characters and undecodable bytes escaped, newlines and tabs kept."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii")
        for c in text
    )


def shortened(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Return `text` cut to at most `limit` characters, saying so when something was cut."""
    return text if len(text) <= limit else text[:limit] + f" … ({len(text) - limit} more characters)"


class MkrootError(Exception):
    """Something that the user can understand and act on.

    what: one sentence without a final period, naming the user's thing.
    where: file:line:column, a package, a URL: the place of the fault.
    hint: the next step.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = shortened(printable(what))
        self.where = None if where is None else shortened(printable(where), 1000)
        self.hint = None if hint is None else shortened(printable(hint), 2000)
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.hint))


def _rebuild(kind: type[MkrootError], what: str, where: str | None, hint: str | None) -> MkrootError:
    return kind(what, where=where, hint=hint)


class UsageError(MkrootError):
    """The command line is wrong; exit status 2."""


class RecipeError(MkrootError):
    """A recipe, its schema or its composition is wrong."""


class MirrorError(MkrootError):
    """A mirror is not known, does not answer, or sends something else than asked for."""


class TrustError(MkrootError):
    """What arrived is not what was signed or locked."""


class PackageError(MkrootError):
    """A .deb is malformed, hostile, or not the package that the index promised."""


class ResolutionError(MkrootError):
    """No set of packages satisfies the request."""


class LockError(MkrootError):
    """A lock is stale, malformed or does not fit the recipe."""


class StoreError(MkrootError):
    """The store cannot be read or written, or holds a damaged entry."""


class RootfsError(MkrootError):
    """The packages or the recipe's files do not fit together in one tree."""


class SandboxError(MkrootError):
    """This host cannot run maintainer scripts, or one of them failed."""


class ArtifactError(MkrootError):
    """An output cannot be written."""


class ImageError(MkrootError):
    """An OCI image, a reference or a registry."""


class ContainerError(MkrootError):
    """A container is gone, ambiguous or in use, or this host cannot run it."""


class BootError(MkrootError):
    """Kernel, initramfs, boot loader and root do not fit together."""


class VmError(MkrootError):
    """QEMU or its firmware is missing, dies, or does not fit the machine."""


class Faults(MkrootError):
    """Several errors found in one pass, in order of their places."""

    def __init__(self, faults: Iterable[MkrootError]) -> None:
        self.faults: Sequence[MkrootError] = tuple(faults)
        super().__init__("\n".join(str(f) for f in self.faults))

    def __reduce__(self) -> tuple[object, ...]:
        return (Faults, (self.faults,))
