"""Counts what the tests showed about trust and faults, and prints the table at the end of a run.

A test that belongs to the table carries `@pytest.mark.counts("fault")`, with one of the kinds below. It counts as one
case when it passes; one that goes through many by itself says how many with `record_property("cases", n)`.
"""

from __future__ import annotations

from collections import Counter

import pytest

# kind: (what is counted, how many there must be at least)
COUNTED = {
    "trust-refused": ("bad states of signatures and indices, refused", 40),
    "trust-accepted": ("good ones, accepted", 10),
    "hostile": ("hostile packages and archives, none of which gets out", 200),
    "bad-input": ("faulty recipes and command lines, told without a traceback", 150),
    "fault": ("faults injected: right or told, nothing left over", 300),
    "rebuild": ("rebuilds under other circumstances, the same bytes", 50),
    "fuzz": ("random inputs to a parser, without a crash", 0),
}


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest) -> None:
    for marker in request.node.iter_markers("counts"):
        assert marker.args[0] in COUNTED
        request.node.user_properties.append(("counts", marker.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, where any test of it ran."""
    found: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        if report.when == "call":
            properties = dict(report.user_properties)
            if kind := properties.get("counts"):
                found[str(kind)] += int(str(properties.get("cases", 1)))
    if found:
        terminalreporter.section("trust and faults")
        for kind, (about, goal) in COUNTED.items():
            if found[kind]:
                terminalreporter.line(f"{found[kind]:>10,}  {about}" + (f" (goal: {goal})" if goal else ""))
