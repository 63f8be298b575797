"""The commands that are named already and come later."""

from __future__ import annotations

from typing import NoReturn

from mkroot.errors import MkrootError


def refuse(name: str) -> NoReturn:
    """Say that a command is not built yet; raises MkrootError."""
    raise MkrootError(f"`mkroot {name}` is not built yet")
