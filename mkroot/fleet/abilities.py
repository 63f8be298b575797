"""What a machine can do for a run. `python -m mkroot.fleet.abilities` tells it of this one, as JSON.

A worker asks a process of its own: what a machine allows is known when an identity is assumed, which a process with
threads cannot do, and which it cannot take back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mkroot.decoding import from_json
from mkroot.errors import MkrootError, masked, printable
from mkroot.fleet.model import RUN, SCRIPTS, Fault

if TYPE_CHECKING:
    from mkroot.rootfs.identity import Identity

COMMAND = (sys.executable, "-P", "-m", "mkroot.fleet.abilities")  # -P: nothing of the current folder is imported
SECONDS = 90  # a process that tries all of this takes at most
SKEW = 86400  # seconds that a signature may come from the future (mkroot.archive.inrelease)
VERSIONS = ("mkroot", "deflate", "zstandard", "pycdlib")  # packages that decide bytes: pyproject.toml pins the others


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine can do.

    able: abilities, as steps ask for them. lacks: why not, by the ability. fault: why it can do no step at all; None
    where it can. machine: its store's name. clock: its time, in seconds since 1970. seconds: how long it took to find
    all this.
    """

    able: tuple[str, ...] = ()
    lacks: dict[str, Fault] = {}
    fault: Fault | None = None
    machine: str = ""
    clock: float = 0.0
    seconds: float = 0.0

    def lack(self, asks: Iterable[str]) -> Fault | None:
        """Return why this machine cannot do a step that asks for something; None where it can."""
        if self.fault is not None:
            return self.fault
        missing = next((name for name in asks if name not in self.able), None)
        if missing is None:
            return None
        return self.lacks.get(missing, Fault(what=f"it does not know `{missing}`"))


def worded(ability: str) -> str:
    """Return an ability as the end of `it can …`."""
    if ability.startswith(RUN):
        return f"run programs of {ability.removeprefix(RUN)}"
    return "run maintainer scripts" if ability == SCRIPTS else f"`{ability}`"


def told(found: Abilities) -> list[str]:
    """Return lines that tell what a machine can and cannot do, and why."""
    if found.fault is not None:
        return [f"takes no step: {_reason(found.fault)}"]
    names = {name: worded(name) for name in found.able if not name.startswith(RUN)}
    runs = [name.removeprefix(RUN) for name in found.able if name.startswith(RUN)]
    programs = [f"run programs of {', '.join(runs)}"] if runs else []
    lines = ["can " + ", ".join(["unpack and pack", *names.values(), *programs])]
    reasons: dict[str, list[str]] = {}
    for name, fault in found.lacks.items():
        reasons.setdefault(_reason(fault), []).append(worded(name))
    return [*lines, *(f"cannot {', '.join(what)}: {reason}" for reason, what in reasons.items())]


def _reason(fault: Fault) -> str:
    return f"{fault.what} ({fault.hint})" if fault.hint else fault.what


def asked(environ: Mapping[str, str]) -> Abilities:
    """Return what a process with these variables finds out about this machine; where it fails, that is the fault."""
    try:
        done = subprocess.run(
            COMMAND,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(environ),
            check=False,
            timeout=SECONDS,
        )
        return from_json(done.stdout, Abilities)
    except subprocess.TimeoutExpired:
        return Abilities(fault=Fault(what=f"its abilities are not known after {SECONDS} seconds"))
    except OSError as e:
        return Abilities(fault=Fault(what=f"no process can be started: {(e.strerror or str(e)).lower()}"))
    except msgspec.MsgspecError:
        last = printable(masked(done.stderr.decode("utf-8", "replace"))).strip().rpartition("\n")[2][:300]
        what = f"the process that asks for its abilities ended with status {done.returncode}"
        return Abilities(fault=Fault(what=f"{what}: {last}" if last else what, internal=True))


def find(identity: Identity, environ: Mapping[str, str], *, uid: int, user: str) -> Abilities:
    """Return what this machine can do, each tried for real, with what it shares by `environ`.

    uid, user: of whoever asks, before the identity was assumed.
    """
    from mkroot import remote
    from mkroot.archive import config
    from mkroot.fleet.perform import faults_of
    from mkroot.store.store import Store, default_root

    begin, machine = time.monotonic(), ""
    try:
        store = Store(default_root(environ))
        machine = remote.machine_id(store)
        able, lacks = _tried(identity, store.root, uid, user)
        settings = remote.settings(environ, config.load(environ))
        if settings is not None:
            remote.check(settings, environ, store)
    except (MkrootError, OSError) as e:
        return Abilities(fault=faults_of(e)[0], machine=machine, clock=time.time())
    return Abilities(able=able, lacks=lacks, machine=machine, clock=time.time(), seconds=time.monotonic() - begin)


def _tried(identity: Identity, root: Path, uid: int, user: str) -> tuple[tuple[str, ...], dict[str, Fault]]:
    from mkroot.rootfs import foreign
    from mkroot.rootfs.probe import probe

    able, lacks = [], {}
    facts = {fact.name: fact for fact in probe(identity, root, uid=uid, user=user)}
    broken = next((fact for name in ("identity", "sandbox") if not (fact := facts[name]).works), None)
    if broken is None:
        able.append(SCRIPTS)
    else:
        lacks[SCRIPTS] = Fault(what=broken.detail, hint=broken.hint)
    for architecture, way in foreign.ways(list(foreign.MACHINES)).items():
        if isinstance(way, foreign.Missing):
            lacks[RUN + architecture] = Fault(what=way.why, hint=way.hint)
        else:
            able.append(RUN + architecture)
    return tuple(able), lacks


# ---- versions and clocks of several machines


def versions() -> dict[str, str]:
    """Return the versions of what decides bytes, as this machine has it; "" of what is not installed."""
    from importlib import metadata

    found = {}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def differing(mine: Mapping[str, str | None], theirs: Mapping[str, str | None], worker: str) -> Fault | None:
    """Return what is wrong with a worker's versions; None where they are this machine's."""
    for name in VERSIONS:
        here, there = mine.get(name) or "", theirs.get(name) or ""
        if here == there:
            continue
        if not there:
            what = f"worker {worker} has no `{name}` in its Python"
        else:
            what = f"worker {worker} has {name} {there}, and this machine has {here or 'none'}"
        hint = "install the same version of mkroot everywhere: another one may make other bytes"
        return Fault(what=what, hint=hint)
    return None


def skew(found: Abilities, now: float, worker: str) -> str:
    """Return a warning where a worker's clock is more than a day off; "" where it is not. now: this machine's time."""
    off = found.clock - now
    if not found.clock or abs(off) <= SKEW:
        return ""
    days = abs(off) / 86400
    return (
        f"the clock of worker {worker} is {days:.1f} days {'ahead' if off > 0 else 'behind'}: signatures may be refused"
        " there as of the future or expired"
    )


def main() -> None:
    """Write this machine's abilities to standard output."""
    import pwd

    from mkroot.rootfs.identity import assume

    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    identity = assume()
    data = msgspec.json.encode(find(identity, os.environ, uid=uid, user=user))
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
