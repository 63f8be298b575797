"""A container's name: what is allowed, and one made up where none is given."""

from __future__ import annotations

import re
from collections.abc import Collection
from random import SystemRandom

from mkroot.errors import ContainerError

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
_ADJECTIVES = """
able amber apt bold brave brisk calm clear clever cosy crisp deft eager early fair fast fine fond free fresh gentle glad
golden good grand green happy keen kind large late light lively lucky merry mild modest neat nimble noble patient plain
polite prompt proud pure quick quiet rapid ready rich round sharp shiny silent silver simple smart smooth solid steady
still strong sunny swift tidy true warm wise witty young
"""
_NOUNS = """
acorn alder anchor anvil apple arch ash aspen badger barley basil beacon bee birch bridge brook canal cedar clover comet
copper coral crane creek cricket daisy delta dove dune elder elm falcon fern field finch flint forest fox garden ginger
grove harbour hare hazel heron hill holly island ivy juniper kestrel lake lantern larch lark linden lynx maple marsh
meadow mill mint moss oak olive orchard otter owl pebble pine plum pond poplar quarry quill raven reed river robin rowan
sage salmon sparrow spruce stone stork swan thistle thrush tiger tower trout tulip valley walnut wave willow wren yew
"""


def check_name(name: str) -> str:
    """Return the name, or raise ContainerError where it cannot be one."""
    if not _NAME.fullmatch(name):
        raise ContainerError(
            f"`{name}` is not a name for a container",
            hint="letters, digits, `_`, `.` and `-`, the first a letter or digit, 64 at most",
        )
    return name


def make_name(taken: Collection[str]) -> str:
    """Return a name of two words that is not taken."""
    choice = SystemRandom().choice
    adjectives, nouns = _ADJECTIVES.split(), _NOUNS.split()
    for _ in range(100):
        name = f"{choice(adjectives)}-{choice(nouns)}"
        if name not in taken:
            return name
    number = 2
    while (numbered := f"{name}-{number}") in taken:
        number += 1
    return numbered
