"""A verdict as JUnit XML, in the form that build servers read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as xml

from mkroot.recipe.booting import Test
from mkroot.vm.judge import Verdict

_TAIL = 20_000  # characters of the console
_UNFIT = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2
_ERRORS = ("died",)  # not the guest's fault


def document(results: Sequence[tuple[str, Test, Verdict]]) -> bytes:
    """Return the document: a suite for each verdict. results: the suite's name, what was asked, the verdict."""
    top = xml.Element("testsuites", name="mkroot test")
    for name, wanted, verdict in results:
        _suite(top, name, wanted, verdict)
    xml.indent(top)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml.tostring(top, encoding="unicode")}\n'.encode()


def _suite(top: xml.Element, name: str, wanted: Test, verdict: Verdict) -> None:
    suite = xml.SubElement(top, "testsuite", name=_fit(name))
    cases: list[tuple[str, float, str]] = []
    failed = verdict.kind == "failed"  # then the boot itself is good
    cases.append(("boot", verdict.seconds, "" if verdict.passed or failed else f"{verdict.kind}: {verdict.text}"))
    for ran in verdict.commands:
        said = "" if ran.good else f"status {ran.status}, {ran.wanted} was wanted\n{ran.output}"
        cases.append((f"run: {ran.command}", ran.seconds, said))
    for check in wanted.run[len(verdict.commands) :]:
        cases.append((f"run: {check.cmd}", 0.0, "it did not come to that"))
    for text in wanted.expect:
        cases.append((f"expect: {text}", 0.0, "" if str(text) in verdict.console else "the console does not show it"))
    for text in wanted.reject:
        cases.append((f"reject: {text}", 0.0, "the console shows it" if str(text) in verdict.console else ""))
    kind = "error" if verdict.kind in _ERRORS else "failure"
    for title, seconds, fault in cases:
        case = xml.SubElement(suite, "testcase", classname=_fit(name), name=_fit(title), time=f"{seconds:.2f}")
        if fault:
            xml.SubElement(case, kind, message=_fit(fault.splitlines()[0])).text = _fit(fault)
    bad = sum(bool(fault) for _, _, fault in cases)
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(bad if kind == "failure" else 0))
    suite.set("errors", str(bad if kind == "error" else 0))
    suite.set("time", f"{verdict.seconds:.2f}")
    xml.SubElement(suite, "system-out").text = _fit(verdict.console[-_TAIL:])


def _fit(text: str) -> str:
    return _UNFIT.sub("�", text)
