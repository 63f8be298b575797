"""From jobs and locks to steps: what several need is made once, and nothing waits for what it does not need."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import msgspec
import pytest

from mkroot.fleet import graph
from mkroot.fleet.graph import GROUP, SMALL, Locked, plan
from mkroot.fleet.model import IMAGE, PACKAGES, STAGE, Order, Step
from mkroot.recipe.load import load
from mkroot.recipe.model import Recipe
from mkroot.resolve.lock import Lock, LockedPackage, LockedRoot

STAGES = {"e": "essential", "v": "variant", "i": "include", "b": "beside"}


def recipe(name: str, **more: Any) -> Recipe:
    import json

    data = {"version": 1, "name": name, "distro": "debian", "suite": "trixie", "arch": ["amd64"], "outputs": ["tar"]}
    return load("-", reader=lambda _: json.dumps(data | more).encode())


def package(name: str, size: int = 1000) -> LockedPackage:
    """A package whose first letter tells its stage."""
    return LockedPackage(
        name=name, version="1", architecture="all", source=name, source_version="1",
        sha256=hashlib.sha256(name.encode()).hexdigest(), size=size, installed_size=1, path=f"pool/{name}.deb",
        origin="debian", suite="trixie", component="main", stage=STAGES[name[0]], why="requested",
    )  # fmt: skip


def job(name: str, packages: str, sizes: dict[str, int] | None = None, **more: Any) -> Locked:
    found = [package(p, (sizes or {}).get(p, 1000)) for p in packages.split()]
    root = LockedRoot(
        packages=tuple(p for p in found if p.stage != "beside"), beside=tuple(p for p in found if p.stage == "beside")
    )
    return Locked(
        label=name,
        recipe=recipe(name, **more),
        lock=Lock(recipe="", sources=(), architectures={"amd64": root}),
        architecture="amd64",
        order=Order(recipe=name),
    )


def digest(name: str) -> str:
    return package(name).sha256


def kinds(steps: tuple[Step, ...], kind: str) -> list[Step]:
    return [step for step in steps if step.kind == kind]


def test_a_job_alone_is_one_step() -> None:
    made = plan([job("a", "e1 e2 v1 i1 b1")], {})
    (step,) = made.steps
    assert (step.kind, step.key, step.after) == (IMAGE, made.ends[0], ())
    assert step.asks == ("scripts", "run-amd64")


def test_a_stage_that_two_have_is_made_once_and_before_both() -> None:
    made = plan([job("a", "e1 v1 i1"), job("b", "e1 v1 i2")], {})
    (stage,) = kinds(made.steps, STAGE)
    assert stage.order.stage == "variant"  # with the essential one, which nobody has alone
    assert all(step.after == (stage.key,) for step in kinds(made.steps, IMAGE))
    assert not kinds(made.steps, PACKAGES)  # the stage itself fetches what all need


def test_a_build_that_is_somewhere_is_one_step_and_shares_nothing() -> None:
    jobs = [
        msgspec.structs.replace(job(name, f"e1 v1 {own}", {"e1": SMALL}), build=name)
        for name, own in (("a", "i1"), ("b", "i2"), ("c", "i3"))
    ]
    made = plan(jobs, {}, {"a", "b"})
    assert [(step.kind, step.known, step.after) for step in made.steps] == [
        (IMAGE, True, ()), (IMAGE, True, ()), (IMAGE, False, ())
    ]  # fmt: skip
    assert made.ends == plan(jobs, {}).ends  # whether it is known is not what makes the step
    others = plan([*jobs, job("d", "e1 v1 i4", {"e1": SMALL})], {}, {"a", "b"})
    (stage,) = kinds(others.steps, STAGE)
    assert [step.after for step in kinds(others.steps, IMAGE)] == [(), (), (stage.key,), (stage.key,)]


def test_stages_fork_where_jobs_do() -> None:
    made = plan([job("a", "e1 v1 i1"), job("b", "e1 v1 i2"), job("c", "e1 v2"), job("d", "e2 v1")], {})
    by_stage = {step.order.stage: step for step in kinds(made.steps, STAGE)}
    assert sorted(by_stage) == ["essential", "variant"]
    steps = {step.key: step for step in made.steps}
    assert [steps[end].after for end in made.ends[:3]] == [
        (by_stage["variant"].key,),
        (by_stage["variant"].key,),
        (by_stage["essential"].key,),
    ]
    (shared,) = kinds(made.steps, PACKAGES)
    assert shared.order.packages == (digest("v1"),)  # of the stage, and of d, which stand apart
    assert by_stage["variant"].after == (by_stage["essential"].key, shared.key)
    assert steps[made.ends[3]].after == (shared.key,)


@pytest.mark.parametrize(
    "other",
    [
        {"configure": "static"},
        {"mirror": "http://other.example/debian"},
        {"snapshot": "20261101T000000Z"},
    ],
    ids=["configured otherwise", "from another mirror", "of another day"],
)
def test_what_differs_is_not_shared(other: dict[str, Any]) -> None:
    made = plan([job("a", "e1 v1"), job("b", "e1 v1", **other)], {})
    assert not kinds(made.steps, STAGE)
    assert len(kinds(made.steps, PACKAGES)) == ("configure" in other)


def test_another_date_is_another_stage() -> None:
    one, other = job("a", "e1 i1"), job("b", "e1 i2")
    assert kinds(plan([one, other], {}).steps, STAGE)
    dated = msgspec.structs.replace(other, date=1)
    assert not kinds(plan([one, dated], {}).steps, STAGE)


def test_only_the_own_packages_scripts_see_the_recipe() -> None:
    boot = {"boot": {"kernel": "linux-image-amd64"}, "outputs": ["tar"]}
    both = [job("a", "e1 i1"), job("b", "e1 i1", **boot)]
    made = plan(both, {})
    assert [step.order.stage for step in kinds(made.steps, STAGE)] == ["essential"]


def test_packages_are_grouped_by_who_needs_them() -> None:
    wanted = (("a", "e1 i1 i2 b1"), ("b", "e1 i1 i3"), ("c", "e1 i2 b1"))
    large = dict.fromkeys(("e1", "i1", "i2", "b1"), SMALL)
    made = plan([job(n, p, large, configure="none") for n, p in wanted], {})
    groups = {step.order.packages: step.key for step in kinds(made.steps, PACKAGES)}
    assert set(groups) == {
        (digest("e1"),), (digest("i1"),), tuple(sorted((digest("i2"), digest("b1"))))
    }  # fmt: skip
    steps = {step.key: step for step in made.steps}
    a, b, c = (set(steps[end].after) for end in made.ends)
    assert a == set(groups.values())
    assert b == {groups[digest("e1"),], groups[digest("i1"),]}
    assert len(c) == 2
    assert all(step.asks == () for step in made.steps)


def test_small_groups_of_one_first_needer_are_one() -> None:
    wanted = (("a", "e1 i1 i2"), ("b", "e1 i1 i3"), ("c", "e1 i2 i3"))
    made = plan([job(n, p, configure="none") for n, p in wanted], {})
    groups = {step.order.packages for step in kinds(made.steps, PACKAGES)}
    assert groups == {tuple(sorted(map(digest, ("e1", "i1", "i2")))), (digest("i3"),)}
    many = [job(f"j{n}", " ".join(f"i{k}" for k in range(40) if k % (n + 1)), configure="none") for n in range(10)]
    assert len(kinds(plan(many, {}).steps, PACKAGES)) < len(many)


def test_a_large_group_is_cut() -> None:
    names = [f"i{n}" for n in range(40)]
    sizes = dict.fromkeys(names, GROUP // 8)
    made = plan([job(n, " ".join(names), sizes, configure="none") for n in "ab"], {})
    parts = kinds(made.steps, PACKAGES)
    assert len(parts) == 5
    assert max(len(step.order.packages) for step in parts) <= 9
    assert sorted(p for step in parts for p in step.order.packages) == sorted(map(digest, names))


def test_a_local_package_is_nobody_elses() -> None:
    mine = [job(n, "e1", configure="none") for n in "ab"]
    root = mine[0].root
    local = msgspec.structs.replace(root, packages=tuple(msgspec.structs.replace(p, origin="") for p in root.packages))
    lock = msgspec.structs.replace(mine[0].lock, architectures={"amd64": local})
    assert not kinds(plan([msgspec.structs.replace(j, lock=lock) for j in mine], {}).steps, PACKAGES)


def test_an_image_on_an_image_has_no_stages() -> None:
    def over(name: str) -> Locked:
        found = job(name, "i1", image={"from": "base"}, outputs=["oci"])
        root = msgspec.structs.replace(found.root, parent="sha256:" + "0" * 64)
        return msgspec.structs.replace(
            found, lock=msgspec.structs.replace(found.lock, architectures={"amd64": root}), after=("image-base",)
        )

    made = plan([over("a"), over("b")], {})
    assert not kinds(made.steps, STAGE)
    (shared,) = kinds(made.steps, PACKAGES)
    assert shared.after == ()  # what is fetched needs no image
    assert all(step.after == (shared.key, "image-base") for step in kinds(made.steps, IMAGE))


def test_what_an_earlier_plan_has_is_stood_on() -> None:
    first = plan([job("a", "e1 v1 i1"), job("b", "e1 v1 i2")], {})
    known = {step.key: step for step in first.steps}
    later = plan([job("c", "e1 v1 i3")], known)
    (step,) = later.steps
    assert step.after == (kinds(first.steps, STAGE)[0].key,)


def test_equal_jobs_in_another_order_are_the_same_steps() -> None:
    jobs = [job("a", "e1 v1 i1 i2"), job("b", "e1 v1 i2 i3"), job("c", "e1 v2 i3"), job("d", "e3 i1 i2 i3")]
    first = plan(jobs, {})
    for seed in range(5):
        random.Random(seed).shuffle(jobs)
        again = plan(jobs, {})
        assert {step.key for step in kinds(again.steps, STAGE)} == {step.key for step in kinds(first.steps, STAGE)}
        assert set(again.ends) == set(first.ends)


@pytest.mark.parametrize("seed", range(6))
def test_every_step_has_all_that_it_needs_and_no_package_is_fetched_twice(seed: int) -> None:
    """Over random fleets: along each way to an image every package is seen to, by exactly one step."""
    chance = random.Random(seed)
    jobs = []
    for number in range(12):
        packages = [f"{s}{n}" for s in "evib" for n in range(6) if chance.random() < 0.6]
        jobs.append(job(f"j{number}", " ".join(packages), configure=chance.choice(["scripts", "scripts", "none"])))
    made = plan(jobs, {})
    steps = {step.key: step for step in made.steps}
    assert len(steps) == len(made.steps)
    places = {step.key: n for n, step in enumerate(made.steps)}
    assert all(places[key] < places[step.key] for step in made.steps for key in step.after)

    def above(key: str) -> set[str]:
        return {key}.union(*(above(k) for k in steps[key].after))

    images = dict(zip(made.ends, jobs))
    fetchers: dict[str, set[str]] = {}
    for end, one in images.items():
        for wanted in (*one.root.packages, *one.root.beside):
            seeing = [k for k in above(end) if wanted.sha256 in steps[k].order.packages]
            seeing += [k for k in above(end) if steps[k].kind == STAGE and wanted.stage in _upto(steps[k].order.stage)]
            fetchers.setdefault(wanted.sha256, set()).add(_first(seeing, steps) if seeing else end)
    assert all(len(who) == 1 for who in fetchers.values())


def _upto(stage: str) -> tuple[str, ...]:
    return graph.STAGES[: graph.STAGES.index(stage) + 1]


def _first(keys: list[str], steps: dict[str, Step]) -> str:
    """The step that sees to a package first: a step of packages, else the lowest stage."""
    return min(keys, key=lambda k: (steps[k].kind != PACKAGES, graph.STAGES.index(steps[k].order.stage or "essential")))
