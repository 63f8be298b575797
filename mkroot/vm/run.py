"""Runs a guest to its verdict, or on the terminal; with KVM where a guest gets on in it, else without."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from mkroot.errors import VmError
from mkroot.recipe.booting import Test
from mkroot.vm import check, host
from mkroot.vm.command import Accelerator
from mkroot.vm.console import Console
from mkroot.vm.guest import Guest, check_guest
from mkroot.vm.judge import LINGER, Judge, Verdict
from mkroot.vm.monitor import Monitor
from mkroot.vm.process import Qemu, running

Accel = Literal["auto", "kvm", "tcg"]
TICK = 0.02  # seconds between two looks
HALTS = 20  # a kernel that has waited for work so often is at work, whatever its console says
Tell = Callable[[str], None]
T = TypeVar("T")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How guests are run here.

    accel: see `Accel`. environ: finds the store. tell: takes notes for the user. kvm: the device. stall: seconds
    without a byte on the console, before its kernel spoke, after which a guest is thought to hang in KVM.
    """

    accel: Accel = "auto"
    environ: Mapping[str, str]
    tell: Tell
    kvm: str = "/dev/kvm"
    stall: float = 6.0


class _GivenUp(Exception):
    """A guest makes no progress in KVM. why: in words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def test(guest: Guest, wanted: Test, run: Run, console: Path | None = None, timeout: float | None = None) -> Verdict:
    """Start a guest without a terminal and return the verdict on it.

    wanted: what is asked of it. console: its console is kept in this file, as it came. timeout: seconds, in place of
    the recipe's. Raises VmError where QEMU or its firmware is missing or the guest cannot start, and OSError.
    """
    nonce = secrets.token_hex(8)
    linger = LINGER if wanted.expect else 0
    text = check.script(nonce, guest.machine.verdict, linger, wanted.run)
    if len(text) > check.MOST:
        raise VmError(f"the commands under `test.run` make {len(text)} bytes, and {check.MOST} are the most")
    guest = msgspec.structs.replace(guest, check=text)

    def attempt(accelerator: Accelerator, stall: float) -> Verdict:
        judge = Judge(wanted, nonce, wanted.timeout if timeout is None else timeout)
        with _started(guest, accelerator) as qemu:
            try:
                asyncio.run(_judged(qemu, judge, stall))
            finally:
                if console is not None:
                    qemu.keep_console(console)
            return judge.verdict(accelerator)

    return _with_either(guest, run, attempt)


test.__test__ = False  # type: ignore[attr-defined]  # not a test case of pytest


def boot(guest: Guest, run: Run, console: Path | None = None) -> None:
    """Run a guest with its console on the terminal until it powers off or the user leaves.

    Raises VmError where it cannot be started, or QEMU dies.
    """

    def attempt(accelerator: Accelerator, stall: float) -> None:
        with _terminal(), _started(guest, accelerator, terminal=True) as qemu:
            try:
                status = asyncio.run(_followed(qemu, stall))
            finally:
                if console is not None:
                    qemu.keep_console(console)
            if status:
                how = f"by signal {-status}" if status < 0 else f"with status {status}"
                raise VmError(f"QEMU ended {how}: {qemu.words() or 'it said nothing'}")

    _with_either(guest, run, attempt)


def _started(
    guest: Guest, accelerator: Accelerator, *, terminal: bool = False
) -> contextlib.AbstractContextManager[Qemu]:
    emulator = host.find_emulator(guest.machine)
    firmware = host.find_firmware(guest.machine) if guest.direct is None else None
    tsc = host.tsc_rate() if guest.machine.cmdline_tcg and guest.direct is not None and accelerator == "tcg" else 0
    return running(emulator, guest, accelerator, firmware, tsc=tsc, terminal=terminal)


def _with_either(guest: Guest, run: Run, attempt: Callable[[Accelerator, float], T]) -> T:
    """Return what comes of a guest: with KVM, and without it where the guest does not get on in KVM."""
    check_guest(guest)
    host.find_emulator(guest.machine)
    host.check_ports(guest)
    if run.accel == "tcg":
        return attempt("tcg", 0)
    lack = host.why_no_kvm(guest.machine, run.kvm)
    if run.accel == "kvm":
        if lack:
            raise VmError(f"KVM cannot be used: {lack}", hint="`--accel auto` does without where it must")
        return attempt("kvm", 0)
    memory = host.Memory(run.environ)
    if lack or memory.recall():
        return attempt("tcg", 0)
    try:
        return attempt("kvm", run.stall)
    except _GivenUp as e:
        run.tell(f"the guest makes no progress in KVM ({e.why}); it is started anew without")
        memory.keep(e.why)
    return attempt("tcg", 0)


async def _judged(qemu: Qemu, judge: Judge, stall: float) -> None:
    """Watch a guest until the judge has a verdict.

    stall: see Run; not 0 where it is on trial in KVM: then raises _GivenUp where it makes no progress.
    """
    trial = stall > 0
    start = time.monotonic()
    monitor = Monitor(qemu.monitor)
    asked = 0.0
    try:
        while judge.kind is None:
            await asyncio.sleep(TICK)
            now = time.monotonic() - start
            status = qemu.status()  # first: what is read below is then all that it has written
            events = monitor.take()
            judge.hear(qemu.console(), now)
            for line in qemu.verdicts():
                judge.port(line, now)
            for event in events:
                judge.event(event, now)
            if now - asked >= 1:
                asked = now
                judge.load(qemu.busy(), now)
            trial = trial and not (judge.console.alive or judge.told is not None)
            if trial:
                await _tried(qemu, monitor, judge.console, now, status, stall)
            elif any(e.name == "STOP" for e in events) and (state := await _state(monitor)):
                judge.stopped(state, qemu.words(), now)
            if status is not None:
                for event in monitor.take():
                    judge.event(event, now)
                judge.ended(status, qemu.words(), now)
            judge.look(now)
    finally:
        await monitor.close()


async def _tried(qemu: Qemu, monitor: Monitor, console: Console, now: float, status: int | None, stall: float) -> None:
    """Raise _GivenUp where a guest whose kernel has not spoken yet does not get on in KVM.

    A firmware may speak and the kernel hang all the same, so bytes alone prove nothing. A kernel that is told to be
    silent gives itself away by waiting for work.
    """
    if status is not None:
        words = qemu.words()
        if status < 0 or "kvm" in words.lower():
            raise _GivenUp(words.splitlines()[0] if words else f"QEMU ended with status {status}")
        return
    if now - console.last > stall and await monitor.halts() < HALTS:
        raise _GivenUp(f"its kernel is silent for {stall:.0f} s")
    if int(now / TICK) % 25 == 0 and (state := await _state(monitor)):
        raise _GivenUp(f"QEMU stopped it: {state}")


async def _state(monitor: Monitor) -> str:
    """Return why QEMU has stopped the guest, "" where it has not."""
    answer = await monitor.ask("query-status")
    state = str(answer.get("status", "")) if isinstance(answer, dict) else ""
    return state if state in ("internal-error", "io-error", "guest-panicked") else ""


async def _followed(qemu: Qemu, stall: float) -> int:
    """Wait for the end of a guest that is on the terminal; return QEMU's exit status. stall: as in `_judged`."""
    trial = stall > 0
    start = time.monotonic()
    console = Console()
    monitor = Monitor(qemu.monitor)
    try:
        while True:
            await asyncio.sleep(TICK if trial else 5 * TICK)
            now = time.monotonic() - start
            status = qemu.status()
            if trial:
                console.feed(qemu.console(), now)
                trial = not console.alive
            if trial:
                await _tried(qemu, monitor, console, now, status, stall)
            if status is not None:
                return status
            if any(e.name == "STOP" for e in monitor.take()) and (state := await _state(monitor)):
                raise VmError(f"QEMU has stopped the guest: {state}; {qemu.words() or 'it said nothing'}")
    finally:
        await monitor.close()


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Give the terminal back as it was: QEMU that is killed leaves it raw."""
    import sys
    import termios

    try:
        before = termios.tcgetattr(sys.stdin.fileno())
    except (termios.error, ValueError, OSError):
        yield
        return
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)
