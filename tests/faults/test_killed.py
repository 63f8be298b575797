"""kill -9 at moments spread over every call by which a build changes something: nothing wrong, nothing left."""

from __future__ import annotations

import shutil

import pytest

from tests.faults.hook import Plan
from tests.faults.works import World, said_once

pytestmark = pytest.mark.counts("fault")


def killed(world: World, whom: str, moment: int, moments: int) -> None:
    """Kill a cold build at a moment; then build undisturbed."""
    plan = world.plan(moment, moments, kill=whom)
    site = world.fresh()
    ended = site.build(plan=plan)
    assert ended.left == ()
    world.whole_or_none()
    if whom != "one":
        assert ended.status == -9
    elif ended.status == 1:  # a process that unpacks packages: its parent lives, and says so
        assert "a process that unpacks packages ended unexpectedly" in said_once(ended)
        assert site.rubbish() == []
    world.heals()


@pytest.mark.parametrize("moment", range(36))
def test_everything_dies_at_once(static: World, moment: int) -> None:
    killed(static, "all", moment, 36)


@pytest.mark.parametrize("moment", range(16))
def test_the_program_dies_and_its_processes_follow(static: World, moment: int) -> None:
    killed(static, "main", moment, 16)


@pytest.mark.parametrize("moment", range(12))
def test_one_of_its_processes_dies(static: World, moment: int) -> None:
    killed(static, "one", moment, 12)


@pytest.mark.parametrize("moment", range(16))
def test_everything_dies_while_scripts_are_about(scripted: World, moment: int) -> None:
    killed(scripted, "all", moment, 16)


@pytest.mark.parametrize("moment", range(8))
def test_the_program_dies_and_the_sandbox_follows(scripted: World, moment: int) -> None:
    killed(scripted, "main", moment, 8)


@pytest.mark.parametrize("moment", range(10))
def test_a_warm_build_dies_and_the_output_before_it_stands(static: World, moment: int) -> None:
    """What an earlier build made is replaced in one step: until then it is whole, and then the new one is."""
    site = static.fresh()
    static.heals()
    shutil.rmtree(site.store / "built")  # else there is nothing to do
    ended = site.build(plan=Plan(at=1 + 18 * moment, kill="all", folder=str(site.folder)))
    assert ended.status == -9
    assert {k for k in static.right if k.startswith("out/")} <= set(site.made())
    static.whole_or_none()
    static.heals()
