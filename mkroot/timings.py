"""Where a build's time went: rows of a timeline, what was waited for, sums and the packages that took most.

All of it is made of spans (mkroot.progress) and of nothing else, so it is the same for a page and for JSON.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from mkroot.progress import Progress, Span

WHOLE = "build"  # the kind of the span that frames one recipe's build for one architecture
KINDS = {  # kind: what it is called
    "step": "steps",
    "script": "scripts",
    "fetch": "fetching packages",
    "check": "checking stored packages",
    "decompress": "decompressing packages",
    "write": "writing trees",
    "compress": "compressing",
    "hash": "hashing",
    "assemble": "putting the tree together",
    "store": "storing the image",
    "settle": "waiting for the disk",
    "sync": "writing to the disk",
}
LANES = (Progress.MAIN, "scripts", "network", "unpack", "compress", "hash", "disk")  # from top to bottom


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A build of one recipe for one architecture. begin, end: seconds by the monotonic clock. note: how it ended."""

    title: str
    begin: float
    end: float
    spans: tuple[Span, ...]
    note: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


class Row(msgspec.Struct, frozen=True):
    """A line of the timeline: its name, and spans of which none overlaps another."""

    name: str
    spans: tuple[Span, ...]


class Sum(msgspec.Struct, frozen=True):
    """All work of a kind: how often, seconds of all processes together, bytes."""

    kind: str
    count: int
    seconds: float
    size: int


class Scripts(msgspec.Struct, frozen=True):
    """What a package's scripts took: seconds, and each script's."""

    package: str
    seconds: float
    parts: tuple[tuple[str, float], ...]


class Package(msgspec.Struct, frozen=True):
    """What a package took on its way into the store. fetched, size: bytes packed and unpacked. seconds: by kind."""

    name: str
    fetched: int
    size: int
    seconds: dict[str, float]


def sections(title: str, begin: float, end: float, spans: Sequence[Span], note: str = "") -> tuple[Section, ...]:
    """Return one section an architecture of a recipe that was built from `begin` to `end`.

    What came before the first architecture, such as the indices, is the first one's. title: of what ended before it
    came to an architecture. note: how the last one ended.
    """
    wholes = [span for span in spans if span.kind == WHOLE] or [Span("", WHOLE, title, begin, end)]
    found = []
    for number, whole in enumerate(wholes, 1):
        last = number == len(wholes)
        until = end if last else whole.end
        mine = tuple(s for s in spans if s.kind != WHOLE and begin <= s.begin < until)
        found.append(Section(title=whole.name, begin=begin, end=until, spans=mine, note=note if last else ""))
        begin = until
    return tuple(found)


def rows(section: Section) -> list[Row]:
    """Return the timeline: a lane's work in one row, in more where it was done side by side."""
    found: list[Row] = []
    for lane in sorted({s.lane for s in section.spans}, key=_rank):
        lines: list[list[Span]] = []
        for span in sorted((s for s in section.spans if s.lane == lane), key=lambda s: (s.begin, s.end)):
            free = next((line for line in lines if line[-1].end <= span.begin), None)
            if free is None:
                lines.append([span])
            else:
                free.append(span)
        names = [lane] if len(lines) == 1 else [f"{lane} {n}" for n in range(1, len(lines) + 1)]
        found += [Row(name, tuple(line)) for name, line in zip(names, lines, strict=True)]
    return found


def _rank(lane: str) -> tuple[int, int, str]:
    name, _, number = lane.partition(" ")
    return LANES.index(name) if name in LANES else len(LANES), int(number) if number.isdigit() else 0, lane


def waits(section: Section) -> list[tuple[str, float]]:
    """Return what the build waited for, and how long, the longest first: the sum is all of its time.

    At each moment one thing is named: what the main process was at, and where it waited for others, what they did.
    """
    found: defaultdict[str, float] = defaultdict(float)
    at = section.begin
    active: Counter[str] = Counter()
    steps: list[str] = []
    for when, span, begins in _edges(section):
        when = min(max(when, section.begin), section.end)
        found[_blamed(steps[-1] if steps else "", active)] += when - at
        at = when
        if span.kind == "step":
            steps.append(span.name) if begins else steps.remove(span.name)
        else:
            active[span.kind] += 1 if begins else -1
    found[_blamed("", active)] += section.end - at
    return sorted(((what, n) for what, n in found.items() if n > 0), key=lambda one: (-one[1], one[0]))


def _edges(section: Section) -> Iterator[tuple[float, Span, bool]]:
    """Yield begins and ends in their order; at one moment ends come first."""
    lasting = [s for s in section.spans if s.end > s.begin]
    edges = [(s.begin, 1, i) for i, s in enumerate(lasting)] + [(s.end, 0, i) for i, s in enumerate(lasting)]
    for when, begins, index in sorted(edges):
        yield when, lasting[index], bool(begins)


def _blamed(step: str, active: Counter[str]) -> str:
    """Return what is named for a moment at which the main process is in a step ("": in none)."""
    if active["script"] > 0:
        return "scripts"
    if step.startswith(("configure ", "install")):
        return "mounts, dpkg's database and what scripts wrote"
    if step.startswith("write "):
        return "compressing" if active["compress"] > 0 else "writing and hashing outputs"
    if step.startswith("fetch") or not step:
        for kinds, name in _BEHIND:
            if any(active[kind] > 0 for kind in kinds):
                return name
    return step or "start, lock and records"


_BEHIND = (  # what others may be at while the main process waits; the first that fits is named
    (("assemble",), "putting the tree together"),
    (("store",), "writing and hashing outputs"),
    (("settle",), "the disk"),
    (("decompress", "write"), "unpacking"),
    (("fetch",), "the network"),
    (("check",), "checking stored packages"),
    (("compress",), "compressing"),
)


def sums(section: Section) -> list[Sum]:
    """Return the sums by kind, in the order of KINDS."""
    found = []
    for kind in KINDS:
        spans = [s for s in section.spans if s.kind == kind]
        if spans:
            found.append(Sum(kind, len(spans), sum(s.end - s.begin for s in spans), sum(s.size for s in spans)))
    return found


def scripts(section: Section) -> list[Scripts]:
    """Return the packages whose scripts ran, the slowest first."""
    parts: dict[str, defaultdict[str, float]] = {}
    for span in section.spans:
        if span.kind == "script":
            package, _, script = span.name.rpartition(" ")
            parts.setdefault(package or span.name, defaultdict(float))[script] += span.end - span.begin
    found = [Scripts(name, sum(own.values()), tuple(own.items())) for name, own in parts.items()]
    return sorted(found, key=lambda one: (-one.seconds, one.package))


def packages(section: Section) -> list[Package]:
    """Return the packages that came into the store, the biggest first."""
    seconds: dict[str, dict[str, float]] = {}
    fetched: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for s in _of_packages(section.spans):
        own = seconds.setdefault(s.name, {})
        own[s.kind] = own.get(s.kind, 0.0) + s.end - s.begin
        place = fetched if s.kind in ("fetch", "check") else sizes
        place[s.name] = max(place.get(s.name, 0), s.size)
    found = [Package(name, fetched.get(name, 0), sizes.get(name, 0), own) for name, own in seconds.items()]
    return sorted(found, key=lambda one: (-one.size, -one.fetched, one.name))


def _of_packages(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield what was done to packages: not what the main process compressed, which may be of a stage."""
    for span in spans:
        if span.kind in ("fetch", "check", "decompress", "write") or (
            span.kind == "compress" and span.lane != "compress"
        ):
            yield span
