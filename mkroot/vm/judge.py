"""The verdict on a guest, from what is seen of it: a state that takes one observation after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from mkroot.recipe.booting import Test
from mkroot.vm import check
from mkroot.vm.check import Ran, Told
from mkroot.vm.console import Console, Stage
from mkroot.vm.monitor import Event

Kind = Literal[
    "passed", "failed", "missing", "rejected", "timeout", "panic", "loop", "hang", "off", "died",
]  # fmt: skip
QUIET = 30.0  # seconds without a word and without work, after which a guest hangs
WORK = 0.03  # of a processor: the timer's ticks of an idle kernel take less, even without KVM
RESETS = 2  # a system may start anew once, after its first set-up
PANIC_GRACE = 1.5  # seconds for the rest of a panic's words; a guest that still gives its verdict did not panic
LINGER = 20  # seconds to wait, after the guest's verdict, for text that the console is still to show


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a guest.

    kind: see `Kind`. text: in words. seconds: from QEMU's start to the verdict. stages: in order of time. console: its
    text without escapes. commands: those that the guest ran. told: what it said of itself, None where it did not come
    to that. accelerator: what QEMU ran it with.
    """

    kind: Kind
    text: str
    seconds: float
    stages: tuple[Stage, ...]
    console: str
    commands: tuple[Ran, ...] = ()
    told: Told | None = None
    accelerator: str = ""

    @property
    def passed(self) -> bool:
        """Tell whether the guest did all that was asked of it."""
        return self.kind == "passed"


class Judge:
    """Takes what is seen of a guest, in order of time; `kind` is set once the verdict is clear.

    Times are seconds since QEMU was started.
    """

    def __init__(self, test: Test, nonce: str, timeout: float) -> None:
        self.console = Console()
        self.kind: Kind | None = None
        self.text = ""
        self.seconds = 0.0
        self.told: Told | None = None
        self._test = test
        self._nonce = nonce
        self._timeout = timeout
        self._begun = False
        self._verdict_at = 0.0
        self._resets = 0
        self._off = False
        self._worked = 0.0  # when the guest was last seen at work
        self._busy = 0.0
        self._load_at = 0.0
        self._stages: list[Stage] = []

    def _decide(self, kind: Kind, text: str, now: float) -> None:
        if self.kind is None:
            self.kind, self.text, self.seconds = kind, text, now

    def hear(self, data: bytes, now: float) -> None:
        """Take what came on the console."""
        self.console.feed(data, now)
        if data and (text := self._rejected()) and not self.console.panic:  # of a panic, more is known in a moment
            self._decide("rejected", f"the console shows `{text}`", now)

    def _rejected(self) -> str:
        return next((str(t) for t in self._test.reject if self.console.shows(str(t))), "")

    def port(self, line: str, now: float) -> None:
        """Take a line of the verdict port; one without this run's secret is nothing."""
        if check.begins(line, self._nonce):
            self._begun = True
            self._stages.append(Stage("check", now, "begins"))
        elif self.told is None and (told := check.verdict(line, self._nonce, self._test.run)) is not None:
            self.told, self._verdict_at = told, now
            self._stages.append(Stage("verdict", now, "of the guest"))

    def event(self, event: Event, now: float) -> None:
        """Take an event of QEMU."""
        if event.name == "RESET" and event.guest:
            self._resets += 1
            self._begun = False
            self._stages.append(Stage("reset", now, "the guest starts anew"))
        elif event.name == "SHUTDOWN" and event.guest:
            self._off = True
        elif event.name == "GUEST_PANICKED" and not self.console.panic:
            self.console.panic, self.console.panicked = "told by the guest's kernel", now

    def load(self, busy: float, now: float) -> None:
        """Take the processor time that the guest has used so far, once a second or so."""
        if now > self._load_at:
            if (busy - self._busy) / (now - self._load_at) >= WORK:
                self._worked = now
            self._busy, self._load_at = busy, now

    def stopped(self, state: str, words: str, now: float) -> None:
        """Take that QEMU has stopped the guest. state: of QEMU's `query-status`."""
        self._decide("died", f"QEMU has stopped the guest: {state}; {_said(words)}", now)

    def ended(self, status: int, words: str, now: float) -> None:
        """Take the end of QEMU, after all that it had still written was taken."""
        self.look(now, final=True)
        if self._off and status == 0:
            told = "without a verdict" if not self._begun else "before the check was through"
            self._decide("off", f"the guest powered off {told}{self._lacking()}", now)
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        self._decide("died", f"QEMU ended {how}: {_said(words)}", now)

    def look(self, now: float, *, final: bool = False) -> None:
        """Decide, if what was taken so far suffices. final: nothing more will come."""
        missing = [str(t) for t in self._test.expect if not self.console.shows(str(t))]
        if self.told is not None:
            bad = [c for c in self.told.commands if not c.good]
            if bad:
                self._decide("failed", _failed(bad), now)
            elif text := self._rejected():
                self._decide("rejected", f"the console shows `{text}`", now)
            elif not missing:
                self._decide("passed", "the guest did all that was asked of it", now)
            elif final or now - self._verdict_at > LINGER:
                self._decide("missing", f"the console never shows {_named(missing)}", now)
        elif self.console.panic and (final or now - self.console.panicked > PANIC_GRACE):
            self._decide("panic", f"the kernel panics: {self.console.panic}", now)
        elif self._resets >= RESETS:
            self._decide("loop", f"the guest started anew {self._resets} times without a verdict", now)
        elif not self._begun and now - max(self._worked, self.console.last) > QUIET:
            since = " since it started anew" if self._resets else ""
            self._decide("hang", f"no word and no work of the guest for {QUIET:.0f} s{since}{self._lacking()}", now)
        if now > self._timeout:
            self._decide("timeout", f"no verdict within {self._timeout:.0f} s{self._lacking()}", now)

    def _lacking(self) -> str:
        missing = [str(t) for t in self._test.expect if not self.console.shows(str(t))]
        parts = [] if self._begun or self._off else ["the guest's check did not begin"]
        parts += [f"the console does not show {_named(missing)}"] if missing else []
        return f"; {', '.join(parts)}" if parts else ""

    def verdict(self, accelerator: str) -> Verdict:
        """Return the verdict; only after one was found."""
        assert self.kind is not None
        shown = {s.name for s in self.console.stages}
        own = [s for s in _own(self.told, self._verdict_at) if s.name not in shown]  # a quiet console shows none
        stages = [*self.console.stages, *self._stages, *own]
        return Verdict(
            kind=self.kind,
            text=self.text,
            seconds=round(self.seconds, 3),
            stages=tuple(sorted(stages, key=lambda s: s.seconds)),
            console=self.console.text,
            commands=self.told.commands if self.told is not None else (),
            told=self.told,
            accelerator=accelerator,
        )


def _own(told: Told | None, at: float) -> list[Stage]:
    """Return the stages that the guest told, on the host's clock. at: when it told them."""
    if told is None:
        return []
    start = max(at - told.uptime, 0.0)
    stages = [Stage("up", start + told.ready, told.state)]
    for key, note in (
        ("UPTIME_INIT", "begins"),
        ("UPTIME_SWITCH", f"gives way to {told.boot.get('ROOT', 'the root')}"),
    ):
        try:
            stages.append(Stage("initramfs", start + float(told.boot[key]), note))
        except (KeyError, ValueError):
            continue
    return stages


def _failed(bad: Sequence[Ran]) -> str:
    lines = []
    for one in bad:
        lines.append(f"`{one.command}` ended with status {one.status}, {one.wanted} was wanted")
        lines += [f"  {row}" for row in one.output.splitlines()[-10:]]
    return "\n".join(lines)


def _said(words: str) -> str:
    return "; ".join(words.splitlines()[-3:]) or "it said nothing"


def _named(texts: Sequence[str]) -> str:
    return ", ".join(f"`{t}`" for t in texts)
