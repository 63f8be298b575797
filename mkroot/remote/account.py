"""Which repository is the store's second floor, and the secret that its entries are sealed with."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mkroot.archive.config import Config, default_path
from mkroot.errors import StoreError

if TYPE_CHECKING:
    from mkroot.oci.reference import Reference

REMOTE, KEY, STRICT = "MKROOT_STORE_REMOTE", "MKROOT_STORE_KEY", "MKROOT_STORE_REMOTE_STRICT"
KEY_FILE = "store.key"
SECRET = 32  # bytes of a secret that is made here
SHORTEST = 16  # bytes of one that somebody else made
_FILE_LIMIT = 4096  # bytes of a key file
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A remote store.

    host, path: of the repository. secret: of all machines that share it. strict: what cannot be pushed is an error.
    """

    host: str
    path: str
    secret: bytes
    strict: bool = False

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.host}/{self.path}"

    def environ(self) -> dict[str, str]:
        """Return the variables by which another process has the same settings."""
        return {REMOTE: self.name, KEY: self.secret.hex(), **({STRICT: "1"} if self.strict else {})}

    def __repr__(self) -> str:
        return f"Settings({self.name!r})"  # the secret is in no message and no log


def settings(
    environ: Mapping[str, str], config: Config, tell: Callable[[str], None] = lambda line: None
) -> Settings | None:
    """Return the remote store that the environment or the configuration names, None where neither does.

    `MKROOT_STORE_REMOTE` wins over the configuration; empty, it stands for none. The secret is `MKROOT_STORE_KEY`
    (hex), else the configuration's file, else `store.key` beside it, which is made where it is missing. tell: called
    with a line when that happens. Raises StoreError.
    """
    text = environ.get(REMOTE, config.remote)
    if not text:
        return None
    where = f"`{REMOTE}`" if REMOTE in environ else f"{config.path}: store.remote"
    reference = _reference(text, where)
    strict = environ.get(STRICT, "") not in ("", "0")
    return Settings(host=reference.host, path=reference.path, secret=_secret(environ, config, tell), strict=strict)


def _reference(text: str, where: str) -> Reference:
    from mkroot.errors import ImageError, masked_address
    from mkroot.oci.reference import Reference

    shown = masked_address(text)
    hint = "write it as `registry.example:5000/team/store`"
    if "://" in text:
        raise StoreError(f"the remote store `{shown}` is an address, not a repository", where=where, hint=hint)
    if "@" in text:
        what = f"the remote store `{shown}` has a login or a digest in its name"
        raise StoreError(what, where=where, hint=f"{hint}; `mkroot login HOST` keeps a login")
    try:
        reference = Reference.parse(text)
    except ImageError as e:
        raise StoreError(f"the remote store is none: {e.what}", where=where, hint=hint) from None
    if not reference.host:
        raise StoreError(f"the remote store `{text}` names no registry", where=where, hint=hint)
    if text != reference.name:
        raise StoreError(f"the remote store `{text}` has a tag: it is a whole repository", where=where, hint=hint)
    return reference


def _secret(environ: Mapping[str, str], config: Config, tell: Callable[[str], None]) -> bytes:
    if KEY in environ:
        return _decoded(environ[KEY], f"`{KEY}`")
    folder = Path(config.path or default_path(environ)).absolute().parent
    path = folder / (config.key or KEY_FILE)
    try:
        return _decoded(_read(path), str(path))
    except FileNotFoundError:
        if config.key:
            raise StoreError(
                "the key of the remote store is not there, and `store.key` names it",
                where=str(path),
                hint="copy it from a machine that shares the store; it is the same on all of them",
            ) from None
    except OSError as e:
        raise StoreError(f"the key of the remote store cannot be read: {e.strerror}", where=str(path)) from None
    _make(path)
    tell(f"{path}: a new key for the remote store; every machine that shares the store needs the same one")
    return _decoded(_read(path), str(path))


def _read(path: Path) -> str:
    with open(path, "rb") as f:
        return f.read(_FILE_LIMIT).decode("ascii", "replace")


def _decoded(text: str, where: str) -> bytes:
    digits = text.strip()
    if not _HEX.fullmatch(digits) or len(digits) < 2 * SHORTEST:
        raise StoreError(
            f"the key of the remote store must be {2 * SHORTEST} hexadecimal digits or more",
            where=where,
            hint=f"`openssl rand -hex {SECRET}` makes one; it is the same on all machines that share the store",
        )
    return bytes.fromhex(digits)


def _make(path: Path) -> None:
    """Make a key that only its user can read; one that another process made meanwhile is kept."""
    aside = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as f:
                f.write(os.urandom(SECRET).hex().encode() + b"\n")
                f.flush()
                os.fsync(f.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as e:
        raise StoreError(
            f"a key for the remote store cannot be made: {e.strerror}",
            where=str(path),
            hint=f"name one in `{KEY}`, or in `store.key` of the configuration",
        ) from None
