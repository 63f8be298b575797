"""Reads the local files that a recipe names into values: the only place where customisation touches the disk."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

import msgspec

from mkroot.errors import RecipeError
from mkroot.recipe.model import Config
from mkroot.recipe.wants import LocalPath
from mkroot.tar.entry import DIR, FILE, SYMLINK

INPUT_LIMIT = 1 << 30  # bytes of a recipe's local files; more does not belong into a recipe
KEY_LINE = re.compile(
    r"(?:[^\s\"]*(?:\"[^\"]*\")?[^\s\"]*[ \t]+)?(?:ssh|ecdsa|sk)-[a-z0-9@.-]+[ \t]+[A-Za-z0-9+/]+=*(?:[ \t].*)?"
)


class Item(msgspec.Struct, frozen=True, array_like=True):
    """A member of a recipe's local tree.

    path: relative to the tree, "" for its top. kind: FILE, DIR or SYMLINK. mode: 0755 or 0644, by the owner's x bit.
    """

    path: str
    kind: str
    mode: int
    content: bytes = b""
    link: str = ""


class Inputs(msgspec.Struct, frozen=True):
    """What the recipe's local files hold; its msgpack form is the same for the same files on every machine.

    trees: by index in `config.files`, the members of `from`, folders first. keys: by index in `config.users`, the lines
    of the public key files.
    """

    trees: dict[int, tuple[Item, ...]] = {}
    keys: dict[int, tuple[str, ...]] = {}


def read_inputs(config: Config) -> Inputs:
    """Read the files that `config.files[].from` and `config.users[].ssh_keys` name.

    Owners and times of the building machine are not taken over, of the mode only whether a file is a program. Raises
    RecipeError naming the recipe's key where something is missing, unreadable, or neither file, folder nor link.
    """
    left = [INPUT_LIMIT]
    trees = {
        i: tuple(_tree(file.source, f"config.files[{i}].from", left))
        for i, file in enumerate(config.files)
        if file.source is not None
    }
    keys = {
        i: tuple(line for n, key in enumerate(user.ssh_keys) for line in _keys(key, f"config.users[{i}].ssh_keys[{n}]"))
        for i, user in enumerate(config.users)
        if user.ssh_keys
    }
    return Inputs(trees, keys)


def _read(path: str, shown: str, where: str, limit: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as f:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise RecipeError(f"`{shown}` is neither a file nor a folder", where=where)
            data = f.read(limit + 1)
    except OSError as e:
        raise RecipeError(f"cannot read `{shown}`: {(e.strerror or str(e)).lower()}", where=where) from e
    if len(data) > limit:
        raise RecipeError(f"the recipe's local files hold more than {INPUT_LIMIT >> 20} MiB", where=where)
    return data


def _tree(source: LocalPath, where: str, left: list[int]) -> Iterator[Item]:
    """Yield the members of a local file or folder; a link at its top is followed, as the user named it."""

    def file(path: str, relative: str, mode: int) -> Item:
        content = _read(path, os.path.join(str(source), relative) if relative else str(source), where, left[0])
        left[0] -= len(content)
        return Item(relative, FILE, 0o755 if mode & 0o100 else 0o644, content)

    def walk(folder: str, relative: str) -> Iterator[Item]:
        yield Item(relative, DIR, 0o755)
        with os.scandir(folder) as found:
            names = sorted((e.name for e in found), key=os.fsencode)
        for name in names:
            path, below = os.path.join(folder, name), f"{relative}/{name}" if relative else name
            kind = os.lstat(path).st_mode
            if stat.S_ISDIR(kind):
                yield from walk(path, below)
            elif stat.S_ISLNK(kind):
                yield Item(below, SYMLINK, 0o777, link=os.readlink(path))
            elif stat.S_ISREG(kind):
                yield file(path, below, kind)
            else:
                raise RecipeError(f"`{source}/{below}` is neither a file, a folder nor a link", where=where)

    top = os.fspath(source)
    try:
        kind = os.stat(top).st_mode
        if stat.S_ISDIR(kind):
            yield from walk(top, "")
        else:
            yield file(top, "", kind)
    except OSError as e:
        raise RecipeError(f"cannot read `{source}`: {(e.strerror or str(e)).lower()}", where=where) from e


def _keys(source: LocalPath, where: str) -> Iterator[str]:
    """Yield the lines of a public key file (sshd(8), AUTHORIZED_KEYS FILE FORMAT)."""
    data = _read(os.fspath(source), str(source), where, 1 << 20)
    if b"PRIVATE KEY-----" in data:
        raise RecipeError(
            f"`{source}` is a private key; it must never be in an image", where=where, hint=f"name `{source}.pub`"
        )
    lines = [line.strip() for line in data.decode("utf-8", "surrogateescape").splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    for line in found:
        if KEY_LINE.fullmatch(line) is None:
            raise RecipeError(f"`{source}` has a line that is no public SSH key", where=where)
    if not found:
        raise RecipeError(f"`{source}` holds no public SSH key", where=where)
    yield from found
