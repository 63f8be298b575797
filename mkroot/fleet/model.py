"""What a run over many recipes is made of: jobs, the steps that they share, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

LOCK, PACKAGES, STAGE, IMAGE, INDEX, VERIFY = "lock", "packages", "stage", "image", "index", "verify"  # kinds of step
DONE, FAILED, SKIPPED = "done", "failed", "skipped"  # states of an outcome
WAITING, RUNNING, UNCHANGED = "waiting", "running", "unchanged"  # further states of a row
SCRIPTS = "scripts"  # the ability to run maintainer scripts
RUN = "run-"  # … and, before an architecture's name, to run programs of that one


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe with one choice of values, for one architecture: a row of the table.

    recipe: its path. defines: values that the command line gives its variables; varied: the names among them of which
    the run takes several values. name, suite: the recipe's; "" of one that cannot be read.
    """

    recipe: str
    defines: dict[str, str]
    varied: tuple[str, ...] = ()
    name: str = ""
    suite: str = ""
    architecture: str = ""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a step does, in values that any machine understands.

    recipe: a path on this machine; with a parcel, which is the recipe with its files and its lock, as a bundle without
    packages, it is what to call it. lock: where the lock stands, "" for the usual place. options:
    `mkroot.build.Options` as msgpack. stage: the last stage to configure, of a STAGE. packages: digests to have in the
    store, of PACKAGES. record: of a VERIFY, the key of the first build (`mkroot.making`).
    """

    recipe: str = ""
    parcel: bytes = b""
    lock: str = ""
    options: bytes = b""
    architecture: str = ""
    stage: str = ""
    packages: tuple[str, ...] = ()
    record: bytes = b""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Work that is done once, however many jobs stand on it.

    key: of what it makes, unique in a run. shown: what to call it in messages, with the recipe that asked first.
    after: keys of the steps that it stands on. asks: abilities that its machine must have. elsewhere: the machine, by
    its store's name, that must not do it. known: what it makes is said to be in the store or in the remote one, and is
    brought from there.
    """

    key: str
    kind: str
    shown: str
    order: Order
    after: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    elsewhere: str = ""
    known: bool = False


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that went wrong, as an error tells it. internal: it is a fault of mkroot's."""

    what: str
    where: str = ""
    hint: str = ""
    internal: bool = False


class Began(msgspec.Struct, frozen=True, kw_only=True):
    """A step is under way. machine: which one does it, "" for this one."""

    key: str
    machine: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a step.

    state: DONE, FAILED or SKIPPED, of one that stands on a step that failed (`cause`, its key). begin, end: seconds
    since 1970 on the machine that did it. log: what it told on the way. result: by kind; msgpack of
    `mkroot.build.Built` of an IMAGE, the lock's text of a LOCK.
    """

    key: str
    state: str
    begin: float = 0.0
    end: float = 0.0
    machine: str = ""
    log: str = ""
    faults: tuple[Fault, ...] = ()
    cause: str = ""
    result: bytes = b""


Event = Began | Outcome


class Engine(Protocol):
    """What does the steps of a run: processes of this machine, or a cluster's."""

    def add(self, steps: Sequence[Step]) -> None:
        """Take steps, each after those that it stands on; called at any time before the last event."""
        ...

    def events(self) -> Iterator[Event]:
        """Yield what happens, until no step is left. Every step has one Outcome; not every one a Began."""
        ...

    def close(self) -> None:
        """End what runs, and leave nothing behind."""
        ...


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is other than at the last run: packages, and bytes of all artifacts. first: there was no last run."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    bytes: int = 0
    first: bool = False


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the table shows it.

    state: WAITING, RUNNING, DONE, UNCHANGED, FAILED or SKIPPED. doing: the step under way. seconds: from the begin of
    its first step to the end of its last. size: bytes of its artifacts. change: None where it was not built. machine:
    that made the image. log: what all its steps told.
    """

    job: Job
    state: str = WAITING
    doing: str = ""
    seconds: float = 0.0
    size: int = 0
    packages: int = 0
    change: Change | None = None
    machine: str = ""
    faults: tuple[Fault, ...] = ()
    log: str = ""
