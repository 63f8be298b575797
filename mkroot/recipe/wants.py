"""What a recipe points to: packages that it wants and files of the building machine."""

from __future__ import annotations

import os
import re
from typing import ClassVar, Self

from mkroot.recipe.values import ARCHITECTURES, PACKAGE, Arch, Refused


class _Value:
    """A small immutable value with the fields of its `__slots__`."""

    __slots__: ClassVar[tuple[str, ...]] = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} does not change")

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._fields() == self._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._fields()!r}"

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self._fields())


class LocalPath(_Value):
    """A file or folder of the building machine that the recipe names; `open()` and `Path()` take it as it is.

    relative: from the folder of the recipe itself (not of an extended file); stands in the recipe's digest.
    path: what to open, relative to the current folder or absolute.
    """

    __slots__ = ("path", "relative")
    pattern: ClassVar[str] = r"[^\0\n]{1,4095}"
    expected: ClassVar[str] = "a path, relative to the file that names it"
    numbers: ClassVar[bool] = False
    relative: str
    path: str

    def __init__(self, path: str, relative: str) -> None:
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "relative", relative)

    @classmethod
    def parse(cls, text: str, folder: str = "", base: str = "") -> Self:
        """Return the path that `text`, named by a file in `folder`, means to a recipe in `base`; raises Refused."""
        if re.fullmatch(cls.pattern, text, re.ASCII) is None or "://" in text:
            raise Refused(f"expected {cls.expected}", "only local files are read here" if "://" in text else None)
        if text.startswith("~"):
            raise Refused(f"expected {cls.expected}", "`~` is not expanded; write the path itself, or `./~…`")
        path = os.path.join(folder, text.removeprefix("./") or ".")
        relative = os.path.normpath(text) if os.path.isabs(text) else os.path.relpath(path or ".", base or ".")
        return cls(path, relative)

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.relative


class Want(_Value):
    """A package that is asked for: `name[:arch][=VERSION|/suite]` or the path of a local .deb.

    name: the package's name, "" for a local .deb.
    arch: an architecture's name or `any`, "" for the recipe's own.
    version: a version or a glob for versions (`8.*`), "" for any.
    suite: the suite that it must come from, "" for any.
    file: a local .deb, or None.
    """

    __slots__ = ("arch", "file", "name", "suite", "version")
    pattern: ClassVar[str] = (
        rf"{PACKAGE}(?::[a-z0-9]+)?(?:=[A-Za-z0-9.+~:*?\[\]-]+|/[a-z0-9][a-z0-9.+-]*)?|\.{{0,2}}/[^\0\n]*\.deb"
    )
    expected: ClassVar[str] = "a package such as `vim`, `vim:arm64`, `vim=2:9.*`, `vim/noble-updates` or `./vim.deb`"
    numbers: ClassVar[bool] = False
    arch: str
    file: LocalPath | None
    name: str
    suite: str
    version: str

    def __init__(
        self, arch: str = "", file: LocalPath | None = None, name: str = "", suite: str = "", version: str = ""
    ) -> None:
        for slot, value in zip(self.__slots__, (arch, file, name, suite, version)):
            object.__setattr__(self, slot, value)

    @classmethod
    def parse(cls, text: str, folder: str = "", base: str = "") -> Self:
        """Return what `text`, named by a file in `folder`, asks for in a recipe in `base`; raises Refused."""
        if text.startswith(("./", "../", "/")):
            if not text.endswith(".deb"):
                raise Refused(f"expected {cls.expected}", "a local package's path ends in `.deb`")
            return cls(file=LocalPath.parse(text, folder, base))
        found = re.fullmatch(
            rf"({PACKAGE})(?::([a-z0-9]+))?(?:=([A-Za-z0-9.+~:*?\[\]-]+)|/([a-z0-9][a-z0-9.+-]*))?", text, re.ASCII
        )
        if found is None:
            lower = text.lower()
            known = lower != text and re.fullmatch(cls.pattern, lower, re.ASCII)
            hint = f"package names are lower case: `{lower}`" if known else None
            if re.search(r"[<>(]|\s=|=\s", text):
                hint = "ask for a version by `name=version` or `name=8.*`; ranges are not taken"
            raise Refused(f"expected {cls.expected}", hint)
        name, arch, version, suite = found.groups(default="")
        if name.endswith(".deb"):
            raise Refused(f"expected {cls.expected}", f"a local package is written `./{text}`")
        if arch and arch not in (*ARCHITECTURES, "any"):
            raise Refused(f"expected an architecture after `:`, not `{arch}`", Arch.advice(arch))
        return cls(arch, None, name, suite, version)

    def __str__(self) -> str:
        if self.file is not None:
            relative = self.file.relative
            return relative if relative.startswith(("/", "../")) else f"./{relative}"
        tail = f"={self.version}" if self.version else f"/{self.suite}" if self.suite else ""
        return self.name + (f":{self.arch}" if self.arch else "") + tail
