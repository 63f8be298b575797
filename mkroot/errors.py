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
    ├── ClusterError        a cluster, its scheduler or a worker cannot be used
    └── Faults              several errors of one file, reported together

Only `mkroot.cli` prints them or exits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MESSAGE_LIMIT = 16_000  # characters; a message stays under 20 kB whatever a mirror or a package put into it
_LOOKED_AT = 4 * MESSAGE_LIMIT  # characters that are looked through at all
_LONG = 2048  # characters of a word; in a longer one all from its first address to its last @ is taken for a login

# A password may hold an @ that should have been escaped, and after a colon that begins no port a slash.
_USERINFO = re.compile(r"(?<![\w/.])((?:[a-z][a-z0-9+.-]*:)?//)(?:[^\s/@:]*:(?!\d+/)\S*|[^\s/]*)@", re.IGNORECASE)


def masked(text: str) -> str:
    """Return `text` with the user and the password of every URL in it replaced."""
    if "@" not in text:
        return text
    return "".join(_masked(word) if "@" in word and "//" in word else word for word in re.split(r"(\s+)", text))


def _masked(word: str) -> str:
    if len(word) > _LONG:
        before, _, rest = word.partition("//")
        return f"{before}//***@{rest.rpartition('@')[2]}"
    return _USERINFO.sub(r"\1***@", word)


def masked_address(text: str) -> str:
    """Return a text that was meant as an address, well formed or not, with all before its last `@` replaced."""
    return re.sub(r"^([\w+.-]+:/+)?.*@", r"\1***@", text, flags=re.DOTALL)


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


def shown(text: str, limit: int) -> str:
    """Return `text` as a message may have it: masked, printable, and of at most so many characters."""
    looked = text[:_LOOKED_AT]
    if len(text) > len(looked) and "//" in (last := re.split(r"\s", looked)[-1]):
        looked = looked[: -len(last)]  # an address that is cut may end in the middle of a password
    kept = printable(masked(looked))
    more = max(0, len(kept) - limit) + len(text) - len(looked)
    return kept[:limit] + f" … ({more} more characters)" if more else kept


class MkrootError(Exception):
    """Something that the user can understand and act on.

    what: one sentence without a final period, naming the user's thing.
    where: file:line:column, a package, a URL: the place of the fault.
    hint: the next step.
    All three come out masked: wherever a message has a URL from, its user and password are not shown.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = shown(what, MESSAGE_LIMIT)
        self.where = None if where is None else shown(where, 1000)
        self.hint = None if hint is None else shown(hint, 2000)
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


class ClusterError(MkrootError):
    """A cluster cannot be reached, or none of its workers can be used."""


class Faults(MkrootError):
    """Several errors found in one pass, in order of their places."""

    def __init__(self, faults: Iterable[MkrootError]) -> None:
        self.faults: Sequence[MkrootError] = tuple(faults)
        super().__init__("\n".join(str(f) for f in self.faults))

    def __reduce__(self) -> tuple[object, ...]:
        return (Faults, (self.faults,))
