"""Has a stage's scripts do again what they did when all that they read was the same, without running them.

dpkg runs as ever: order, conffiles, triggers and database are its own. Only where it would execute a maintainer script
whose effects are known, and whose every input is as it was, the effects take the script's place. Every other script
runs, is followed, and leaves a record for the next build.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.rootfs.effects import DATED, LARGEST, STRANGE, Effects, Unknowable, difference, gather, put
from mkroot.rootfs.foreign import native
from mkroot.rootfs.identity import SINGLE
from mkroot.rootfs.pathcalls import MACHINE
from mkroot.rootfs.states import States
from mkroot.rootfs.trace import Trace, identity
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.watch import Watch
from mkroot.store.layer import Layer
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store

KIND = "effects"
FORMAT = "1"  # of the record, and of what a sandbox is to a script; part of every key
KEPT = 8  # records a script: the latest
_WHOLE = 2 * KEPT * LARGEST  # bytes of a script's records at most


class Memo:
    """The memory of what scripts did, for one run of a stage.

    ran: the scripts that ran, each with why. known: how many did not. writers: by path, who changed it last and the
    file's ctime after that (nanoseconds); exact where the clock that files have is not.
    """

    def __init__(self, store: Store, identity: str, start: float, *, follow: bool = True) -> None:
        """identity: the kind of identity as which scripts run. start: when the stage begins, seconds.

        follow: whether scripts that run are followed, to know their effects the next time.
        """
        self._store, self._identity, self._start = store, identity, start
        self.follow = follow
        self.ran: list[tuple[str, str]] = []
        self.known = 0
        self.writers: dict[str, tuple[int, str]] = {}
        self._states: States | None = None
        self._running: tuple[str, str, tuple[str, ...], dict[str, str], Trace, tuple[int, str]] | None = None
        self._new: list[tuple[str, Effects]] = []
        self._watch: Watch | None = None

    @contextlib.contextmanager
    def at(self, root: Path, upper: Path, tree: Tree) -> Iterator[None]:
        """Look at a mounted root meanwhile. upper: its top. tree: what the layers below that hold."""
        with contextlib.ExitStack() as stack:
            fds = []
            for folder in (root, upper):
                fds.append(os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
            self._states = States(fds[0], fds[1], tree, self._start)
            yield
        self._states = None

    def watch(self, listener: int, first: int) -> Watch:
        """Return what follows a sandbox whose process 1 is `first`."""
        self._watch = Watch(listener, first, self)
        return self._watch

    def settle(self, left: int) -> None:
        """A command of the sandbox has ended, and left so many processes behind; raises what went wrong in between."""
        if self._watch is not None:
            self._watch.settle(bool(left))
            if self._watch.fault is not None:
                raise Unusable from self._watch.fault

    # ---- scripts

    def begin(self, script: str, argv: list[str], environment: dict[str, str]) -> Trace | None:
        """Put a script's effects in its place and return None, or return a trace of it, for it must run."""
        assert self._states is not None
        states = self._states
        package = environment.get("DPKG_MAINTSCRIPT_PACKAGE", "?")
        name = "triggers" if argv[1:2] == ["triggered"] else environment["DPKG_MAINTSCRIPT_NAME"]
        what = f"{package} {name}"
        words = tuple(argv)
        key = script_key(states.read(script.lstrip("/")), self._identity)
        found: list[tuple[int, str]] = []
        for effects in load(self._store, key):
            if effects.argv != words:
                continue
            found.append(difference(effects, states, words, environment))
            if not found[-1][1]:
                put(effects, states.at)
                self._note(what, effects.paths())
                self.known += 1
                self._new.append((key, effects))
                return None
        trace = Trace(states)
        why = max(found, default=(0, ""))
        # To follow a script costs more than to run it. One that nobody can follow is not tried again, nor one that
        # comes with another date each time.
        known = any(n == STRANGE for n, _ in found) or sum(n == DATED for n, _ in found) > 1
        trace.idle = known or not self.follow
        self._running = (what, key, words, environment, trace, why)
        return trace

    def end(self, left: bool) -> None:
        """The script that ran has ended. left: whether it left a process behind."""
        if self._running is None or self._states is None:
            return
        what, key, words, environment, trace, why = self._running
        self._running = None
        reason = _reason(why)
        if left:
            trace.odd("it leaves a process behind")
        if trace.idle:
            self.ran.append((what, reason))
            return
        try:
            self._new.append((key, gather(trace, words, environment, self._start)))
        except (Unknowable, OSError) as e:
            reason = f"its effects cannot be known: {e}"
            odd = Effects(argv=words, environment=(), volatile=(), reads=(), writes=(), parents=(), strange=str(e))
            self._new.append((key, odd))
        self.ran.append((what, reason))
        self._note(what, [p for p, old in trace.own.items() if identity(self._states.at, p) != old])
        self._note(what, trace.parents)

    def _note(self, what: str, paths: Iterator[str] | list[str] | set[str]) -> None:
        assert self._states is not None
        for path in paths:
            found = identity(self._states.at, path)
            if found is not None:
                self.writers[path] = (found[2], what)

    # ---- records

    def told(self) -> Iterator[str]:
        """Yield a sentence on how many scripts did not run, and one on each that did."""
        yield f"the effects of {self.known} scripts were known, {len(self.ran)} scripts ran"
        for what, why in self.ran:
            yield f"{what} ran, for {why}"

    def save(self) -> None:
        """Keep the records; the stage must have come to a good end. A record that cannot be written is no loss."""
        by_key: dict[str, list[Effects]] = {}
        for key, effects in reversed(self._new):
            by_key.setdefault(key, []).append(effects)
        for key, new in by_key.items():
            old = load(self._store, key)
            kept = [*new, *(e for e in old if e not in new)][: max(KEPT, len(new))]
            if kept != list(old):
                keep(self._store, key, kept)


def can_follow(identity: str, architecture: str) -> bool:
    """Tell whether scripts can be followed: a process has one listener, and the owners of a single id need it.

    Of another architecture's programs it is not: their calls are others, or an emulator's.
    """
    return identity != SINGLE and os.uname().machine == MACHINE and architecture == native()


def mostly_known(store: Store, identity: str, packages: Sequence[Layer]) -> bool:
    """Tell whether the store has records of most of the scripts that packages bring."""
    scripts = [p.control[name] for p in packages for name in ("preinst", "postinst") if name in p.control]
    return 2 * sum(store.has(KIND, script_key(script, identity)) for script in scripts) > len(scripts)


def _reason(why: tuple[int, str]) -> str:
    number, what = why
    if number == STRANGE:
        return f"its effects cannot be known: {what}"
    return f"{what} is not as it was" if what else "its effects are not known"


class Unusable(Exception):
    """A script's effects were put only half in place: the stage must be made again, with scripts that run."""


def script_key(script: bytes, identity: str) -> str:
    """Return the store's key for the records of a script with these bytes, of runs on a machine like this one."""
    return hashlib.sha256(f"effects {FORMAT} {identity} {os.uname().machine} ".encode() + script).hexdigest()


def load(store: Store, key: str) -> tuple[Effects, ...]:
    """Return the records of a script, the latest first; none where they are damaged."""
    import zstandard

    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError, zstandard.ZstdError):
        blob = opened(store.path(KIND, key).read_bytes())
        data = zstandard.ZstdDecompressor().decompress(blob, max_output_size=_WHOLE)
        return from_msgpack(data, tuple[Effects, ...])
    return ()


def keep(store: Store, key: str, records: list[Effects]) -> None:
    """Write the records of a script in place of the ones before."""
    import zstandard

    data = zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(records))
    store.path(KIND, key).unlink(missing_ok=True)
    with store.writing(KIND, key, sync=False) as aside:
        aside.write_bytes(sealed(data))
