"""Calls that fail at moments spread over a build: the run ends right, or says so once and leaves nothing."""

from __future__ import annotations

import errno

import pytest

from tests.faults.works import World, said_once

pytestmark = pytest.mark.counts("fault")

WORDS = {  # what must stand in the message
    "ENOSPC": ("the disk is full", "No space left"),
    "EDQUOT": ("the disk is full", "Disk quota exceeded", "quota is used up"),
    "EIO": ("Input/output error", "input or output error"),
    "EROFS": ("Read-only file system", "read-only"),
    "EACCES": ("Permission denied", "permission denied"),
}  # fmt: skip
LASTING = ("EROFS", "EDQUOT")  # a file system that was remounted, a quota: what follows fails as well


def failing(world: World, name: str, moment: int, moments: int) -> None:
    """Have a call fail in a cold build; then build undisturbed."""
    lasting = name in LASTING
    plan = world.plan(moment, moments, error=getattr(errno, name), lasting=lasting)
    site = world.fresh()
    ended = site.build(plan=plan)
    assert ended.calls >= plan.at, "the call never came"
    assert ended.left == ()
    world.whole_or_none()
    if ended.status == 0:
        assert site.made() == world.right
    else:
        said = said_once(ended)
        assert any(words in said for words in WORDS[name]), said
    if not lasting:  # where nothing can be removed, the next build does it
        assert site.rubbish() == []
    world.heals()


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("moment", range(10))
def test_a_call_of_a_build_fails(static: World, name: str, moment: int) -> None:
    failing(static, name, moment, 10)


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EROFS"])
@pytest.mark.parametrize("moment", range(5))
def test_a_call_of_a_build_with_scripts_fails(scripted: World, name: str, moment: int) -> None:
    failing(scripted, name, moment, 5)
