"""Where the time went: what is made of spans, and the page that shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from mkroot.cli.timeline import PAGE, page
from mkroot.progress import Following, Progress, Span, Spans
from mkroot.store.timed import TimedWork, Work
from mkroot.tar.entry import Entry
from mkroot.timings import KINDS, Section, packages, rows, scripts, sections, sums, waits

VOID = {"meta", "br"}


def section(*spans: Span, end: float = 10.0) -> Section:
    return Section(title="box amd64", begin=0.0, end=end, spans=spans)


BUILD = section(
    Span("main", "step", "indices", 1.0, 2.0),
    Span("main", "step", "fetch and unpack", 2.0, 4.0),
    Span("network", "fetch", "dash", 2.0, 3.0, 100),
    Span("network", "fetch", "bash", 2.5, 2.9, 300),
    Span("unpack 1", "decompress", "bash", 2.9, 3.4, 900),
    Span("unpack 1", "write", "bash", 3.4, 3.6, 900),
    Span("unpack 2", "decompress", "dash", 3.0, 3.1, 200),
    Span("unpack 1", "compress", "bash", 4.0, 6.5, 900),
    Span("main", "step", "configure essential", 4.0, 6.0),
    Span("scripts", "script", "bash preinst", 4.2, 4.3),
    Span("scripts", "script", "bash postinst", 4.5, 5.0),
    Span("scripts", "script", "dash postinst", 5.0, 5.2),
    Span("main", "step", "write oci", 7.0, 9.0),
    Span("compress", "compress", "stage essential", 7.0, 7.5, 50),
    Span("hash", "hash", "the layer, uncompressed", 7.5, 9.0, 1100),
    Span("main", "settle", "outputs", 9.0, 9.25),
    Span("disk", "sync", "oci", 9.0, 9.2),
)


def test_what_was_waited_for_is_all_of_the_time() -> None:
    found = dict(waits(BUILD))
    assert found == {
        "indices": pytest.approx(1.0),
        "the network": pytest.approx(0.9),
        "unpacking": pytest.approx(0.7),
        "fetch and unpack": pytest.approx(0.4),  # nobody told what
        "scripts": pytest.approx(0.8),
        "mounts, dpkg's database and what scripts wrote": pytest.approx(1.2),
        "compressing": pytest.approx(0.5 + 0.5),  # the last frame, and one that the layer needed
        "writing and hashing outputs": pytest.approx(1.5),
        "the disk": pytest.approx(0.25),
        "start, lock and records": pytest.approx(1.0 + 0.5 + 0.75),
    }
    assert sum(found.values()) == pytest.approx(BUILD.seconds)
    assert [n for _, n in waits(BUILD)] == sorted(found.values(), reverse=True)


def test_spans_that_take_no_time_or_reach_out_harm_nothing() -> None:
    odd = section(
        Span("main", "step", "resolve", 1.0, 1.0),
        Span("main", "step", "resolve", 1.0, 3.0),
        Span("unpack 1", "compress", "late", 9.0, 12.0),
        Span("hash", "of another mkroot", "x", 2.0, 3.0),
    )
    assert sum(n for _, n in waits(odd)) == pytest.approx(10.0)
    assert dict(waits(odd))["resolve"] == pytest.approx(2.0)
    assert "<svg" in page([odd])
    assert waits(section(end=0.0)) == []
    assert "<svg" not in page([section(end=0.0)])


def test_rows_hold_what_does_not_overlap() -> None:
    found = rows(BUILD)
    assert [row.name for row in found] == [
        "main", "scripts", "network 1", "network 2", "unpack 1", "unpack 2", "compress", "hash", "disk",
    ]  # fmt: skip
    for row in found:
        assert all(a.end <= b.begin for a, b in zip(row.spans, row.spans[1:], strict=False))
    assert sum(len(row.spans) for row in found) == len(BUILD.spans)


def test_unpacking_processes_stand_in_the_order_of_their_numbers() -> None:
    found = section(*(Span(f"unpack {n}", "write", "x", 0.0, 1.0) for n in (10, 2, 1)))
    assert [row.name for row in rows(found)] == ["unpack 1", "unpack 2", "unpack 10"]


def test_scripts_and_packages() -> None:
    assert [(s.package, round(s.seconds, 3), [n for n, _ in s.parts]) for s in scripts(BUILD)] == [
        ("bash", 0.6, ["preinst", "postinst"]),
        ("dash", 0.2, ["postinst"]),
    ]
    bash, dash = packages(BUILD)
    assert (bash.name, bash.fetched, bash.size) == ("bash", 300, 900)
    assert {k: round(v, 3) for k, v in bash.seconds.items()} == {
        "fetch": 0.4, "decompress": 0.5, "write": 0.2, "compress": 2.5,
    }  # fmt: skip
    assert (dash.name, dash.fetched, dash.size) == ("dash", 100, 200)
    assert {s.kind: (s.count, round(s.seconds, 3), s.size) for s in sums(BUILD)}["compress"] == (2, 3.0, 950)


def test_every_architecture_has_a_section_and_no_time_is_lost() -> None:
    spans = [
        Span("main", "step", "indices", 1.0, 2.0),
        Span("main", "step", "write tar", 2.5, 3.0),
        Span("main", "build", "box amd64", 2.0, 4.0),
        Span("main", "step", "write tar", 4.5, 5.0),
        Span("main", "build", "box arm64", 4.0, 6.0),
    ]
    first, second = sections("r.yaml", 0.5, 7.0, spans)
    assert (first.title, first.begin, first.end) == ("box amd64", 0.5, 4.0)
    assert (second.title, second.begin, second.end) == ("box arm64", 4.0, 7.0)
    assert [s.name for s in first.spans] == ["indices", "write tar"]
    (failed,) = sections("r.yaml", 0.5, 7.0, [], "failed: no such package")
    assert (failed.title, failed.seconds, failed.note) == ("r.yaml", 6.5, "failed: no such package")


class Reader(HTMLParser):
    """Holds a page against what it may be: every tag closed, nothing that loads or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_by_itself() -> None:
    text = page([BUILD, section(end=0.2)])
    assert text.startswith(PAGE.start)
    found = read(text)
    assert not found.seen & {"script", "link", "img", "iframe", "object", "use", "image"}
    assert not found.attributes & {"src", "href", "srcset"}
    assert "://" not in text and "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text
    for rule in ("color-scheme: light dark", "prefers-color-scheme: dark", "@media print", "print-color-adjust: exact"):
        assert rule in text
    assert text.count("<rect ") == len(BUILD.spans)
    assert {KINDS[s.kind] for s in BUILD.spans} <= set(re.findall(r"</i>([^<]+)</span>", text))


def test_the_page_tells_names_seconds_and_bytes() -> None:
    text = page([BUILD])
    assert "<title>bash: 0.40 s, 300 B (fetching packages, from 2.500 s)</title>" in text
    assert "<title>bash postinst: 0.50 s (scripts, from 4.500 s)</title>" in text
    words = " ".join(read(text).text.split())
    assert "Of 10.00 s the build waited for: start, lock and records 2.25 s, " in words
    assert "scripts 0.80 s" in words
    assert "bash0.60 spreinst 0.10 s, postinst 0.50 s" in words


@pytest.mark.counts("hostile")
@pytest.mark.parametrize(
    "name", ["</title><script>alert(1)</script>", "a' onload='x", "\x1b[31mred", "&lt;b>", "</style><img src=x>"]
)
def test_a_name_is_no_markup(name: str) -> None:
    spans = (
        Span("main", "step", name, 0.0, 9.0),
        Span("scripts", "script", name, 1.0, 2.0),
        Span(name, "x", name, 1, 2),
    )
    found = read(page([Section(title=name, begin=0.0, end=10.0, spans=spans, note=name)]))
    assert not found.seen & {"script", "img", "b"}
    assert "onload" not in found.attributes
    assert "\x1b" not in found.text


def test_scripts_are_followed_only_where_it_is_asked() -> None:
    progress = Progress()
    for what in ("a preinst", "", "a postinst", "b triggers", ""):
        Following(progress)(what)
    assert progress.spans is None
    done: list[tuple[int, str]] = []
    progress.advance = lambda amount, item="": done.append((amount, item))  # type: ignore[method-assign]
    progress.spans = Spans()
    follow = Following(progress)
    for what in ("a preinst", "", "a postinst", "b triggers", ""):
        follow(what)
    assert [(s.lane, s.kind, s.name) for s in progress.spans] == [
        ("scripts", "script", name) for name in ("a preinst", "a postinst", "b triggers")
    ]
    assert done == [(0, "a preinst"), (1, "a postinst"), (1, "b triggers")]
    assert all(a.end <= b.begin for a, b in zip(progress.spans, progress.spans[1:], strict=False))


def test_a_process_that_nobody_asked_tells_nothing_and_puts_nothing_between() -> None:
    work, writer = Work(), object()
    with work.unpacking("x"):
        assert work.around(writer) is writer  # type: ignore[arg-type, comparison-overlap]
    assert work.told() == []


def test_writing_is_told_apart_from_what_the_parts_of_a_large_file_took() -> None:
    import time

    class Slow:
        def add(self, entry: Entry, content: object) -> None:
            assert isinstance(content, bytes) or b"".join(content) == b"xx"  # type: ignore[call-overload]
            time.sleep(0.02)

    def parts() -> object:
        for _ in range(2):
            time.sleep(0.05)
            yield b"x"

    work = TimedWork("unpack 1")
    with work.unpacking("big"):
        writer = work.around(Slow())
        writer.add(Entry("a", "f", 0o644, size=1), b"a")
        writer.add(Entry("b", "f", 0o644, size=2), parts())  # type: ignore[arg-type]
    unpacked, written = work.told()
    assert (unpacked.kind, written.kind, written.size) == ("decompress", "write", 3)
    assert unpacked.end == written.begin
    assert 0.04 <= written.end - written.begin < 0.1 <= unpacked.end - unpacked.begin
    assert work.told() == []
