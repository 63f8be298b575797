"""Deciding what to install: everything known, indices there and not read yet, nothing known; against apt-get -s."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Contender, in_turn, run
from tests.bench.table import part, table
from tests.bench.works import MKROOT, Site, plans

TITLE = "Ubuntu main and universe, what to install"


def tables(site: Site, runs: int, open_mirror: Path) -> Iterator[str]:
    """Measure and yield the tables; raises Failed. open_mirror: the file whose absence lets the mirror fetch."""
    everything = plans(site)
    apt = everything[2]
    open_mirror.unlink(missing_ok=True)
    run(Contender("apt's lists", [["apt-get", "-qq", "update"]], apt.environ), site.log)
    for contender in everything:
        print(f"  warming up  {contender.name}", flush=True)
        run(contender, site.log)
    contenders = [*everything[:3], *_unread(site, everything)]
    known = [*contenders, *everything[3:]]
    open_mirror.touch()
    in_turn(known, runs, site.log)
    goals = {name.name: [part(50, apt)] for name in contenders[:2]}
    goals[contenders[3].name] = [part(5, apt)]
    yield from table(f"{TITLE}: indices known", contenders, apt, goals, _python(site, runs))
    yield from table(f"{TITLE}: first time, with the download", everything[3:], everything[-1])


def _unread(site: Site, everything: list[Contender]) -> list[Contender]:
    """Both with the archive's lists on disk and nothing made of them yet: there is no download in it."""
    known, store = site.work / "plan-store", site.work / "plan-unread"
    cache = site.work / "apt" / "known" / "var/cache/apt"
    plan = [*everything[1].commands[0]]
    assert plan[0] == MKROOT

    def forget() -> None:
        shutil.copytree(known, store)
        for path in store.glob("indices/*/*.*"):  # the tables; the lists themselves have no suffix
            path.unlink()
        shutil.rmtree(store / "decided", ignore_errors=True)

    def clear() -> None:
        for path in cache.glob("*.bin"):
            path.unlink()

    apt = everything[2]
    return [
        Contender("mkroot plan, lists there and not read yet", [plan], site.environ(store), [store], forget),
        Contender("apt-get -s, lists there and not read yet", apt.commands, apt.environ, before=clear),
    ]


def _python(site: Site, runs: int) -> float:
    """Return what Python itself takes to start, the floor of every plan."""
    import sys

    bare = Contender("python -c pass", [[sys.executable, "-c", "pass"]])
    in_turn([bare], runs, site.log)
    return bare.median
