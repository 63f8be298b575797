"""From jobs and their locks to steps: what several jobs need is one step, and stands before all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from mkroot.fleet.model import IMAGE, INDEX, LOCK, PACKAGES, RUN, SCRIPTS, STAGE, Order, Step
from mkroot.recipe.model import Recipe
from mkroot.resolve.lock import Lock, LockedPackage, LockedRoot
from mkroot.rooting import environment_of

GROUP = 64 << 20  # bytes of .debs that one step fetches and unpacks,
SMALL = 4 << 20  # … and bytes that are worth a step for those alone that need just them
STAGES = ("essential", "variant", "include")


class Locked(msgspec.Struct, frozen=True, kw_only=True):
    """A job with its lock. label: what to call it. order: what all its steps have in common.

    after: keys of steps that it stands on beside those of its packages. date: SOURCE_DATE_EPOCH. build: key of its
    outputs, "" where those that are known will not do.
    """

    label: str
    recipe: Recipe
    lock: Lock
    architecture: str
    order: Order
    mirror: str | None = None
    after: tuple[str, ...] = ()
    date: int | None = None
    build: str = ""

    @property
    def root(self) -> LockedRoot:
        """What of the lock is its own."""
        return self.lock.root(self.architecture)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Steps, each after those that it stands on, and for each job the key of the one that makes its outputs."""

    steps: tuple[Step, ...]
    ends: tuple[str, ...]


def lock_step(label: str, order: Order, after: tuple[str, ...]) -> Step:
    """Return the step that locks a recipe for the order's architecture."""
    key = _key(LOCK, order.recipe, order.options, order.architecture)
    return Step(key=key, kind=LOCK, shown=f"{label} {order.architecture}: lock", order=order, after=after)


def index_step(label: str, order: Order, after: Sequence[str]) -> Step:
    """Return the step that makes one image for all architectures of a recipe, each of which is there by then."""
    order = msgspec.structs.replace(order, architecture="")
    key = _key(INDEX, order.recipe, order.options)
    return Step(key=key, kind=INDEX, shown=f"{label}: image index", order=order, after=tuple(after))


def plan(jobs: Sequence[Locked], known: Mapping[str, Step], builds: Collection[str] = ()) -> Plan:
    """Return the steps that make some jobs' outputs; those that are `known` by their key are stood on, not made again.

    builds: keys of those that are said to be in the store or in the remote one: each is one step, and needs no other.
    A stage that several jobs have in common is a step, the last of such where they have several. A package that several
    steps need of which none stands on another is fetched and unpacked by a step before them.
    """
    chains = [[] if job.build in builds else _chain(job) for job in jobs]
    users: dict[str, set[int]] = {}
    for number, chain in enumerate(chains):
        for key, _ in chain:
            users.setdefault(key, set()).add(number)
    steps: dict[str, _Draft] = {}
    ends = []
    for job, chain in zip(jobs, chains):
        before = ""
        for key, stage in _shared(chain, users, known):
            if key not in known and key not in steps:
                steps[key] = _Draft(job, STAGE, stage, (before,) if before else ())
            before = key
        end = _key(IMAGE, job.order.recipe, job.order.options, job.architecture)
        there = job.build in builds
        steps[end] = _Draft(job, IMAGE, "", (before,) if before else (), job.after, there)
        ends.append(end)
    needed = _supplies(steps)
    made = [step for step, _ in needed if step.key not in known]
    supplies: dict[str, list[str]] = {}
    for step, needers in needed:
        for needer in needers:
            supplies.setdefault(needer, []).append(step.key)
    made += [draft.step(key, tuple(supplies.get(key, ()))) for key, draft in steps.items()]
    return Plan(steps=tuple(made), ends=tuple(ends))


class _Draft(msgspec.Struct, frozen=True):
    """A step of a job that is not whole yet.

    before: keys of stages that it stands on; after: of other steps. there: what it makes is somewhere already.
    """

    job: Locked
    kind: str
    stage: str
    before: tuple[str, ...]
    after: tuple[str, ...] = ()
    there: bool = False

    @property
    def needs(self) -> tuple[LockedPackage, ...]:
        """The packages of an archive that it unpacks or takes from the store."""
        root = self.job.root
        if self.kind == IMAGE:
            return () if self.there else tuple(p for p in (*root.packages, *root.beside) if p.origin)
        upto = STAGES[: STAGES.index(self.stage) + 1]
        return tuple(p for p in root.packages if p.stage in upto and p.origin)

    def step(self, key: str, supplies: tuple[str, ...]) -> Step:
        """Return the step. supplies: keys of those that fetch its packages."""
        job = self.job
        what = f"stage {self.stage}" if self.kind == STAGE else "outputs"
        return Step(
            key=key,
            kind=self.kind,
            shown=f"{job.label} {job.architecture}: {what}",
            order=msgspec.structs.replace(job.order, architecture=job.architecture, stage=self.stage),
            after=(*self.before, *supplies, *self.after),
            asks=asks(job.recipe, job.architecture),
            known=self.there,
        )


def asks(recipe: Recipe, architecture: str) -> tuple[str, ...]:
    """Return the abilities that a machine must have on which a recipe's scripts, hooks and commands run."""
    runs = recipe.configure == "scripts" or recipe.hooks or recipe.config.locale
    return (SCRIPTS, f"{RUN}{architecture}") if runs else ()


# ---- stages


def _chain(job: Locked) -> list[tuple[str, str]]:
    """Return key and name of each stage of a job that a step can make."""
    root = job.root
    if job.recipe.configure != "scripts" or root.parent is not msgspec.UNSET:
        return []
    found = []
    before = ""
    for name in STAGES:
        members = [p for p in root.packages if p.stage == name]
        if members:
            seen = environment_of(job.recipe) if name == "include" else ()
            packages = [(p.sha256, *_place(job, p)) for p in members]
            before = _key(STAGE, before, job.architecture, job.date, job.recipe.configure, packages, seen)
            found.append((before, name))
    return found


def _place(job: Locked, package: LockedPackage) -> tuple[str, str]:
    """Return where a package is fetched from: what two recipes have from two mirrors is not one step's work.

    A mirror that is down would keep the one's packages from the other, which has its own.
    """
    recipe = job.recipe
    if package.origin == recipe.distro:
        return package.origin, f"{job.mirror or recipe.mirror or ''} {recipe.snapshot or ''}"
    return package.origin, next((str(s.uri) for s in recipe.sources if str(s.id) == package.origin), "")


def _shared(
    chain: Sequence[tuple[str, str]], users: Mapping[str, set[int]], known: Mapping[str, Step]
) -> Iterator[tuple[str, str]]:
    """Yield the stages of a chain that are steps of their own: those that not all of its users go on from alike."""
    for number, (key, name) in enumerate(chain):
        further = users[chain[number + 1][0]] if number + 1 < len(chain) else set()
        if key in known or (len(users[key]) > 1 and users[key] != further):
            yield key, name


# ---- packages


Wanted = tuple[str, str, str]  # a package: its digest, and where it is fetched from


def _supplies(steps: Mapping[str, _Draft]) -> list[tuple[Step, tuple[str, ...]]]:
    """Return the steps that fetch and unpack what several need, each with the keys of those that need it."""
    above: dict[str, frozenset[Wanted]] = {}  # by step: what it sees to, and those that it stands on
    needers: dict[Wanted, list[str]] = {}
    packages: dict[Wanted, tuple[Locked, LockedPackage]] = {}
    for key, draft in steps.items():  # each comes after those that it stands on
        none: frozenset[Wanted] = frozenset()
        have = none.union(*(above.get(before, none) for before in draft.before))
        own = {(p.sha256, *_place(draft.job, p)): p for p in draft.needs}
        for what, package in own.items():
            if what not in have:
                needers.setdefault(what, []).append(key)
                packages.setdefault(what, (draft.job, package))
        above[key] = have | own.keys()
    groups: dict[tuple[str, ...], list[Wanted]] = {}
    for what, keys in needers.items():
        if len(keys) > 1:
            groups.setdefault(tuple(keys), []).append(what)
    return [
        (_supply(part), keys)
        for keys, members in _gathered(groups, {what: p.size for what, (_, p) in packages.items()})
        for part in _parts([packages[what] for what in members])
    ]


def _gathered(
    groups: Mapping[tuple[str, ...], list[Wanted]], sizes: Mapping[Wanted, int]
) -> Iterator[tuple[tuple[str, ...], list[Wanted]]]:
    """Yield the groups, small ones of one first needer as one: else there might be hundreds, of a package each."""
    small: dict[str, tuple[dict[str, None], list[Wanted]]] = {}
    for keys, members in groups.items():
        if sum(sizes[what] for what in members) >= SMALL:
            yield keys, members
        else:
            needers, gathered = small.setdefault(keys[0], ({}, []))
            needers.update(dict.fromkeys(keys))
            gathered += members
    for needers, gathered in small.values():
        yield tuple(needers), gathered


def _parts(members: Sequence[tuple[Locked, LockedPackage]]) -> Iterator[list[tuple[Locked, LockedPackage]]]:
    """Yield packages in parts of about equal sizes, none much larger than GROUP."""
    total = sum(p.size for _, p in members)
    limit = total / max(1, round(total / GROUP)) or 1
    part: list[tuple[Locked, LockedPackage]] = []
    size = 0
    for one in members:
        if part and size >= limit:
            yield part
            part, size = [], 0
        part.append(one)
        size += one[1].size
    yield part


def _supply(part: Sequence[tuple[Locked, LockedPackage]]) -> Step:
    job = part[0][0]
    digests = tuple(sorted(p.sha256 for _, p in part))
    return Step(
        key=_key(PACKAGES, job.architecture, digests, *_place(job, part[0][1])),
        kind=PACKAGES,
        shown=f"{job.label} {job.architecture}: {len(part)} shared package{'s' if len(part) > 1 else ''}",
        order=msgspec.structs.replace(job.order, architecture=job.architecture, packages=digests),
    )


def _key(kind: str, *parts: object) -> str:
    """Return a step's key: its kind, and a digest of what it is made of."""
    return f"{kind}-{hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()[:32]}"
