"""Every parser of outside bytes on its corpus, on what hypothesis makes of it, and on texts that go on and on."""

from __future__ import annotations

import functools
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mkroot.debian.relation import Relation, clause_text, parse_relations
from mkroot.errors import PackageError
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK, Entry
from mkroot.tar.read import entries
from mkroot.tar.stream import Stream
from mkroot.tar.write import END, header, padding
from tests.fuzz.corpus import PLACE
from tests.fuzz.packages import TARGETS as PACKAGES
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS
from tests.testarchive import Raw, member, tar

FIVE = ("ar", "tar", "deb822", "version", "relation")
FILES = 60  # of a corpus at most
BYTES = 4096  # of a file of it at most
SECONDS = 3  # of the processor that a parser may take for any input of some kilobytes
EXAMPLES = 60


@functools.cache
def corpus(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((PLACE / name).iterdir())}


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Fail what takes longer than SECONDS, whatever else this machine does; a signal gets into expressions, too."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"{what} takes more than {SECONDS} seconds of the processor")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_every_target_has_a_small_corpus() -> None:
    assert {path.name for path in PLACE.iterdir()} == set(TARGETS)
    assert {target.name for target in PACKAGES} >= set(FIVE)
    for name in TARGETS:
        files = corpus(name)
        assert 3 <= len(files) <= FILES, name
        assert all(len(data) <= BYTES for data in files.values()), name
        assert any(file.startswith("good-") for file in files), name


@pytest.mark.counts("fuzz")
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_the_corpus(target: Target, record_property: Callable[[str, object], None]) -> None:
    for file, data in corpus(target.name).items():
        with bounded(f"{target.name}/{file}"):
            taken = target(data)
        if not file.startswith("found-"):
            assert taken == file.startswith("good-"), f"{target.name}/{file} is {'taken' if taken else 'refused'}"
    record_property("cases", len(corpus(target.name)))


PUMPS = (
    b" ",
    b"\n",
    b"\t",
    b"0",
    b"9",
    b"a",
    b"-",
    b".",
    b"/",
    b"\\",
    b'"',
    b"[",
    b"{",
    b"(",
    b"<",
    b",",
    b"|",
    b"=",
    b":",
    b"~",
    b"a ",
    b" a",
    b"a,",
    b"\n\n",
    b"- ",
    b'="',
    b"\0",
    b"\xff",
)


@pytest.mark.counts("fuzz")
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_nothing_hangs_on_what_repeats(target: Target, record_property: Callable[[str, object], None]) -> None:
    """Forty thousand times the same, in the middle of a good input and at the end of one."""
    good = sorted((data for file, data in corpus(target.name).items() if file.startswith("good-")), key=len)
    good = [data for data in good if data] or good
    for pump in PUMPS:
        for head, tail in ((good[0], b""), (good[-1][: len(good[-1]) // 2], good[-1][len(good[-1]) // 2 :])):
            with bounded(f"{target.name} with {pump!r}"):
                target(head + pump * 40_000 + b"!" + tail)
    record_property("cases", 2 * len(PUMPS))


@st.composite
def changed(draw: st.DrawFn, name: str) -> bytes:
    """Return an input of the corpus with pieces cut out, doubled, overwritten, or taken from another."""
    files = list(corpus(name).values())
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 64)))
        piece = draw(st.one_of(st.binary(max_size=8), st.sampled_from([*(TARGETS[name].words or (b"",))])))
        how = draw(st.integers(0, 3))
        if how == 0:
            data[at : at + len(piece)] = piece
        elif how == 1:
            data[at:at] = piece
        elif how == 2:
            del data[at:end]
        else:
            data[at:at] = data[at:end]
    return bytes(data)


@pytest.mark.counts("fuzz")
@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs(name: str, record_property: Callable[[str, object], None]) -> None:
    count = 0

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(changed(name))
    def once(data: bytes) -> None:
        nonlocal count
        count += 1
        TARGETS[name](data)

    once()
    record_property("cases", count)


_VERSION = st.from_regex(r"(?:[0-9]{1,2}:)?[0-9][a-z0-9.+~]{0,8}(?:-[a-z0-9.+~]{1,6})?", fullmatch=True)
_NAME = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,10}", fullmatch=True)
_RELATION = st.builds(
    lambda name, qualifier, op, version: Relation(name, qualifier, op, version if op else ""),
    _NAME,
    st.sampled_from(["", "any", "native", "amd64"]),
    st.sampled_from(["", "<<", "<=", "=", ">=", ">>"]),
    _VERSION,
)


@settings(max_examples=50)
@given(st.lists(st.lists(_RELATION, min_size=1, max_size=3).map(tuple), max_size=4).map(tuple))
def test_relations_are_read_as_they_were_written(clauses: tuple[tuple[Relation, ...], ...]) -> None:
    assert parse_relations(", ".join(map(clause_text, clauses))) == clauses


@given(st.lists(_VERSION, min_size=3, max_size=3))
def test_valid_versions(versions: list[str]) -> None:
    assert TARGETS["version"](" ".join(versions).encode())


_PART = st.text(st.characters(exclude_characters="/\n\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda part: part not in (".", "..")
)
_PATH = st.lists(_PART, min_size=1, max_size=6).map("/".join).filter(lambda path: len(path.encode()) < 1000)
_ENTRY = st.builds(
    lambda path, kind, mode, uid, mtime, link, content: (
        Entry(
            path, kind, mode, uid, uid, mtime, len(content) if kind == FILE else 0,
            link if kind in (SYMLINK, HARDLINK) else "",
        ),
        content if kind == FILE else b"",
    ),
    _PATH, st.sampled_from([FILE, DIR, SYMLINK, HARDLINK]), st.integers(0, 0o7777), st.integers(0, 0xFFFFFFFE),
    st.integers(0, (1 << 33) - 1), _PATH, st.binary(max_size=1100),
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(_ENTRY, max_size=4))
@example([(Entry("d" * 100 + "/" + "n" * 101, FILE, 0o644), b"")])
@example([(Entry("l", SYMLINK, 0o777, link="t" * 101), b"")])
def test_members_are_read_as_they_were_written(members: list[tuple[Entry, bytes]]) -> None:
    data = b"".join(part for e, content in members for part in (header(e), content, padding(len(content)))) + END
    stream = Stream(iter([data]))
    found = []
    for entry, _ in entries(stream, pax=True):
        found.append((entry, stream.read(entry.size)))
    assert [(e.path, e.kind, e.mode, e.uid, e.mtime, e.size, e.link) for e, _ in found] == [
        (e.path, e.kind, e.mode, e.uid, e.mtime, e.size, e.link) for e, _ in members
    ]
    assert [content for _, content in found] == [content for _, content in members]
    assert TARGETS["tar"](data)


@given(st.lists(st.tuples(_PATH.filter(lambda path: len(path.encode()) < 90), st.binary(max_size=600)), max_size=4))
def test_archives_of_another_hand(files: list[tuple[str, bytes]]) -> None:
    """What Python's tarfile writes, in GNU's form, is read as it reads it (the target compares)."""
    assert TARGETS["tar"](tar([Raw(member(path, tarfile.REGTYPE), content) for path, content in files]))


def test_what_is_no_refusal_is_no_accident() -> None:
    """The targets let nothing but a refusal with words pass."""

    def wrong(data: bytes) -> None:
        raise ValueError("a parser that breaks")

    def mute(data: bytes) -> None:
        raise PackageError(" ")

    with pytest.raises(ValueError, match="breaks"):
        Target(name="x", run=wrong)(b"")
    with pytest.raises(AssertionError, match="without a word"):
        Target(name="x", run=mute)(b"")
