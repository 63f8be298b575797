"""The engine of one machine: order, what a failure skips, how many at a time, and ends."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from mkroot.fleet.local import LocalEngine, fitting
from mkroot.fleet.model import DONE, FAILED, SKIPPED, STAGE, Began, Event, Order, Outcome, Step

Work = Callable[[Step], str]  # what a step comes to


def step(key: str, *after: str) -> Step:
    return Step(key=key, kind=STAGE, shown=key, order=Order(), after=after)


class Hands:
    """Does steps in threads; keeps how many there were at a time."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.busy = self.most = self.made = self.closed = 0
        self._lock = threading.Lock()

    def __call__(self, environ: Mapping[str, str]) -> Hands:
        self.made += 1
        return self

    def do(self, step: Step) -> Outcome:
        with self._lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        state = self.work(step)
        with self._lock:
            self.busy -= 1
        return Outcome(key=step.key, state=state, begin=1, end=2)

    def close(self) -> None:
        self.closed += 1


def played(
    jobs: int, steps: Sequence[Step], work: Work, more: Mapping[str, Sequence[Step]] | None = None
) -> list[Event]:
    """Return the events of a run. more: steps that are added when one has ended."""
    engine = LocalEngine(jobs, {}, Hands(work))
    engine.add(steps)
    events = []
    for event in engine.events():
        events.append(event)
        if isinstance(event, Outcome):
            engine.add((more or {}).get(event.key, ()))
    engine.close()
    return events


def done(step: Step) -> str:
    return DONE


def states(events: Sequence[Event]) -> dict[str, str]:
    outcomes = [event for event in events if isinstance(event, Outcome)]
    assert len({one.key for one in outcomes}) == len(outcomes)
    return {one.key: one.state for one in outcomes}


def test_no_step_no_event() -> None:
    assert played(2, [], done) == []


def test_a_step_begins_when_what_it_stands_on_is_done() -> None:
    events = played(3, [step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c")], done)
    assert set(states(events).values()) == {DONE}
    at = {(type(e), e.key): n for n, e in enumerate(events)}
    for key, below in (("b", "a"), ("c", "a"), ("d", "b"), ("d", "c")):
        assert at[Outcome, below] < at[Began, key]


def test_one_at_a_time_they_keep_their_order() -> None:
    events = played(1, [step(f"{n:02}") for n in range(20)], done)
    assert [e.key for e in events if isinstance(e, Began)] == [f"{n:02}" for n in range(20)]


def test_no_more_at_a_time_than_was_said() -> None:
    def slow(step: Step) -> str:
        time.sleep(0.005)
        return DONE

    hands = Hands(slow)
    engine = LocalEngine(3, {}, hands)
    engine.add([step(str(n)) for n in range(30)])
    assert len(list(engine.events())) == 60
    engine.close()
    assert (hands.most, hands.made, hands.closed) == (3, 3, 3)


def test_no_more_processes_than_steps() -> None:
    hands = Hands(done)
    engine = LocalEngine(8, {}, hands)
    engine.add([step("a"), step("b")])
    list(engine.events())
    engine.close()
    assert hands.made == 2


@pytest.mark.counts("fault")
def test_a_failure_skips_what_stands_on_it_and_nothing_else() -> None:
    steps = [
        step("bad"),
        step("good"),
        step("on-bad", "bad"),
        step("on-both", "good", "bad"),
        step("far", "on-bad", "on-both"),
        step("on-good", "good"),
    ]
    events = played(2, steps, lambda s: FAILED if s.key == "bad" else DONE)
    assert states(events) == {
        "bad": FAILED, "good": DONE, "on-bad": SKIPPED, "on-both": SKIPPED, "far": SKIPPED, "on-good": DONE
    }  # fmt: skip
    assert {e.cause for e in events if isinstance(e, Outcome) and e.state == SKIPPED} == {"bad"}
    assert not {e.key for e in events if isinstance(e, Began)} & {"on-bad", "on-both", "far"}


def test_steps_may_come_while_others_are_done() -> None:
    more = {"a": [step("b", "a"), step("c", "b")], "c": [step("d", "a", "c")], "bad": [step("e", "bad")]}
    events = played(2, [step("a"), step("bad")], lambda s: FAILED if s.key == "bad" else DONE, more)
    assert states(events) == {"a": DONE, "bad": FAILED, "b": DONE, "c": DONE, "d": DONE, "e": SKIPPED}


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_come_to_what_they_must(seed: int) -> None:
    chance = random.Random(seed)
    steps: list[Step] = []
    for n in range(200):
        after = chance.sample(range(n), min(n, chance.choice([0, 1, 1, 2, 3])))
        steps.append(step(str(n), *map(str, after)))
    bad = {str(n) for n in chance.sample(range(200), 8)}
    expected: dict[str, str] = {}
    for one in steps:
        below = {expected[key] for key in one.after}
        expected[one.key] = SKIPPED if below - {DONE} else FAILED if one.key in bad else DONE
    assert states(played(4, steps, lambda s: FAILED if s.key in bad else DONE)) == expected


def test_closing_does_not_wait_for_what_has_not_begun() -> None:
    going = threading.Event()

    class Slow(Hands):
        def close(self) -> None:
            going.set()

    def work(step: Step) -> str:
        going.wait(10)
        return FAILED

    engine = LocalEngine(2, {}, Slow(work))
    engine.add([step(str(n)) for n in range(100)])
    events = engine.events()
    assert isinstance(next(events), Began)
    start = time.monotonic()
    engine.close()
    assert time.monotonic() - start < 1
    assert threading.active_count() < 10


def test_the_cost_of_a_step_does_not_grow() -> None:
    """10,000 steps that stand on each other in bundles; the bound is far above what it takes."""
    steps = [step(str(n), *(str(n - k) for k in (1, 10, 100) if n >= k and n % k)) for n in range(10_000)]
    start = time.monotonic()
    assert set(states(played(2, steps, done)).values()) == {DONE}
    assert time.monotonic() - start < 10


def test_something_always_fits() -> None:
    assert 1 <= fitting() <= 1024
