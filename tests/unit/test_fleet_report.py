"""`mkroot build --report`: the page of a run, read as a browser reads it."""

from __future__ import annotations

import base64
import hashlib
import re
import signal
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mkroot.cli.board import MARKS
from mkroot.cli.logtail import tail
from mkroot.cli.report import Report
from mkroot.cli.reportlook import COLOURS, SCRIPT
from mkroot.cli.reportpage import PAGE, Run, page
from mkroot.cli.terminal import amount
from mkroot.cli.timeline import PAGE as TIMINGS
from mkroot.errors import ArtifactError, MkrootError, UsageError
from mkroot.fleet.grid import grid
from mkroot.fleet.model import DONE, FAILED, RUNNING, SKIPPED, UNCHANGED, WAITING, Change, Fault, Job, Row
from tests.unit.commands import Program, small_archive

RUN = Run(begin=1_700_000_000, seconds=125.0, version="0.1.0")
VOID = {"meta", "br"}


def job(recipe: str = "recipes/box.yaml", suite: str = "trixie", architecture: str = "amd64", **defines: str) -> Job:
    return Job(
        recipe=recipe, defines=defines, varied=tuple(defines), name="box", suite=suite, architecture=architecture
    )


FAULT = Fault(what="script `postinst` of `tool` ended with status 3", where="recipes/web.yaml", hint="see its log")
ROWS = (
    Row(
        job=job(),
        state=DONE,
        seconds=61.5,
        size=3 << 20,
        packages=88,
        machine="worker-1",
        change=Change(added=("new 1.0",), removed=("old 2.0", "older 1.0"), changed=("libssl3 1 → 2",), bytes=-2048),
        log="  0.10 s  indices\n  1.25 s  configure base\n",
    ),
    Row(job=job(architecture="arm64"), state=UNCHANGED, size=1 << 20, packages=80),
    Row(job=job("recipes/web.yaml"), state=FAILED, seconds=4.0, faults=(FAULT,), log="said before\nits last words\n"),
    Row(job=job("recipes/web.yaml", architecture="arm64"), state=SKIPPED, faults=(FAULT,)),
    Row(job=job(suite="sid"), state=DONE, seconds=2.0, size=5, packages=3, change=Change(first=True)),
    Row(job=job(suite="sid", architecture="arm64"), state=DONE, seconds=2.5, size=5, packages=3, change=Change()),
    Row(
        job=Job(recipe="recipes/odd.yaml", defines={}),
        state=FAILED,
        faults=(Fault(what="unknown key `pakages`", where="recipes/odd.yaml:7", hint="did you mean `packages`?"),),
    ),
)  # fmt: skip


class Node:
    """An element of a page."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.parts: list[Node | str] = []

    @property
    def text(self) -> str:
        return "".join(p if isinstance(p, str) else p.text for p in self.parts)

    def all(self, tag: str = "", **attributes: str) -> list[Node]:
        found = []
        for part in self.parts:
            if isinstance(part, Node):
                fits = tag in ("", part.tag) and all(part.attributes.get(k) == v for k, v in attributes.items())
                found += ([part] if fits else []) + part.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> Node:
        (found,) = self.all(tag, **attributes)
        return found


class Reader(HTMLParser):
    """Reads a page, in which every tag must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].parts.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def read(text: str) -> Node:
    reader = Reader()
    reader.feed(text)
    reader.close()
    (root,) = reader.open
    return root


def build(root: Node, index: int) -> list[str]:
    """Return the cells of a build."""
    row = root.one("tbody", id=f"b{index}").parts[1]
    assert isinstance(row, Node)
    return [" ".join(cell.text.split()) for cell in row.parts if isinstance(cell, Node)]


def test_the_head_tells_counts_and_when_it_was() -> None:
    root = read(page(ROWS, RUN))
    assert root.one("h1").text == "7 builds, 2 failed"
    assert root.one("title").text == "mkroot build: 7 builds, 2 failed"
    assert [li.text for li in root.one("ul", **{"class": "counts"}).all("li")] == [
        "✓ 3 done", "= 1 unchanged", "✗ 2 failed", "– 1 skipped",
    ]  # fmt: skip
    assert root.one("time").attributes["datetime"] == "2023-11-14T22:13:20Z"
    assert "2 min 5 s in all" in root.text and "by mkroot 0.1.0" in root.text
    assert "its end" not in root.one("main").text


def test_every_build_has_its_line() -> None:
    root = read(page(ROWS, RUN))
    assert build(root, 0) == [
        "recipes/box.yaml", "trixie", "amd64", "✓ done", "61.50 s", "3.0 MiB", "88", "+1 −2 ~1, −2.0 KiB",
    ]  # fmt: skip
    assert build(root, 1)[3:] == ["= unchanged", "", "1.0 MiB", "80", ""]
    assert build(root, 2)[3:] == ["✗ failed", "4.00 s", "", "", ""]
    assert (build(root, 4)[-1], build(root, 5)[-1]) == ("first", "same")
    assert len(root.one("table", id="builds").all("tbody")) == len(ROWS)


def test_the_log_the_changes_and_the_machine_are_a_click_away() -> None:
    root = read(page(ROWS, RUN))
    details = root.one("tbody", id="b0").one("details")
    assert "open" not in details.attributes
    assert details.one("summary").text == "changes, log of 2 lines"
    assert details.one("pre").text == "  0.10 s  indices\n  1.25 s  configure base"
    assert [p.text for p in details.all("p")] == [
        "new: new 1.0", "gone: old 2.0, older 1.0", "other: libssl3 1 → 2", "made by worker-1",
    ]  # fmt: skip
    assert root.one("tbody", id="b1").all("details") == []


def test_a_fault_stands_once_with_its_hint_and_links_to_the_builds_that_it_hit() -> None:
    root = read(page(ROWS, RUN))
    first, second = root.one("ol").all("li")
    assert [p.text for p in first.all("p")] == [
        FAULT.what,
        "recipes/web.yaml",
        "hint: see its log",
        "in recipes/web.yaml trixie amd64, recipes/web.yaml trixie arm64",
    ]
    assert [a.attributes["href"] for a in first.all("a")] == ["#b2", "#b3"]
    assert second.all("p")[1].text == "recipes/odd.yaml:7"
    back = root.one("tbody", id="b3").one("a")
    assert (back.attributes["href"], back.text) == ("#f1", FAULT.what)
    ids = [node.attributes["id"] for node in root.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    assert {a.attributes["href"][1:] for a in root.all("a")} <= set(ids)


def test_an_internal_error_is_called_one() -> None:
    root = read(page([Row(job=job(), state=FAILED, faults=(Fault(what="KeyError: 'x'", internal=True),))], RUN))
    assert root.one("ol").one("strong").text == "internal error: KeyError: 'x'"


def test_the_grid_has_recipes_down_and_suites_and_architectures_across() -> None:
    table = read(page(ROWS, RUN)).one("table", **{"class": "grid"})
    top, below = table.one("thead").all("tr")
    assert [(th.text, th.attributes["scope"], th.attributes.get("colspan")) for th in top.all("th")] == [
        ("recipe", "col", None), ("trixie", "colgroup", "2"), ("sid", "colgroup", "2"),
    ]  # fmt: skip
    assert [th.text for th in below.all("th")] == ["amd64", "arm64"] * 2
    lines = table.one("tbody").all("tr")
    assert [line.one("th", scope="row").text for line in lines] == ["box", "web", "odd"]
    box, web, odd = ([(td.attributes.get("class"), td.text) for td in line.all("td")] for line in lines)
    assert box == [
        ("done", "✓ done, 61.50 s3.0 MiB+1 −2 ~1, −2.0 KiB"),
        ("unchanged", "= unchanged1.0 MiB"),
        ("done", "✓ done, 2.00 s5 Bfirst"),
        ("done", "✓ done, 2.50 s5 Bsame"),
    ]
    assert web == [("failed", "✗ failed"), ("skipped", "– skipped"), (None, ""), (None, "")]
    assert odd == [("failed", "✗ failed")]
    assert lines[2].one("td").attributes["colspan"] == "4"


def test_a_single_column_is_no_grid() -> None:
    assert read(page(ROWS[:1], RUN)).all("table", **{"class": "grid"}) == []
    assert read(page([], RUN)).one("h1").text == "0 builds"


def test_values_that_the_suite_does_not_tell_make_lines_of_their_own() -> None:
    jobs = [
        job(release="trixie", size="big"),
        job(release="trixie", size="small"),
        job(suite="sid", release="sid", size="big"),
        job("other/box.yaml"),
    ]
    found = grid(jobs)
    assert [line.label for line in found.lines] == [
        "recipes/box.yaml size=big",
        "recipes/box.yaml size=small",
        "other/box.yaml",
    ]
    assert found.lines[0].cells == ((0,), (2,))
    assert found.filled == pytest.approx(4 / 6)
    assert found.labels[2] == "recipes/box.yaml size=big"


def test_a_recipe_named_twice_shows_the_worse_of_both() -> None:
    rows = [Row(job=job(), state=DONE), Row(job=job(), state=FAILED), Row(job=job(suite="sid"), state=DONE)]
    first, _ = read(page(rows, RUN)).one("table", **{"class": "grid"}).all("td")
    assert first.attributes["class"] == "failed" and len(first.all("a")) == 2


def test_an_interrupted_run_says_what_was_not_finished() -> None:
    rows = [
        ROWS[0],
        Row(job=job("a.yaml"), state=RUNNING, doing="box: stage base"),
        Row(job=job("b.yaml"), state=WAITING),
    ]
    root = read(page(rows, msgspec.structs.replace(RUN, ended="it was interrupted")))
    assert "The run did not come to its end: it was interrupted" in root.text
    assert [li.text for li in root.one("ul").all("li")] == ["✓ 1 done", "… 1 not finished", "· 1 not begun"]
    assert (build(root, 1)[3], build(root, 2)[3]) == ("… not finished", "· not begun")
    assert "it was at: box: stage base" in root.one("tbody", id="b1").text


def test_the_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    text = page(ROWS, RUN)
    root = read(text)
    assert text.startswith(PAGE.start)
    assert not {"link", "img", "iframe", "object", "base"} & {node.tag for node in root.all()}
    names = {name for node in root.all() for name in node.attributes}
    assert not {"src", "srcset"} & names and not [name for name in names if name.startswith("on")]
    assert "://" not in text and "url(" not in text and "@import" not in text
    policy = root.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert root.one("script").text == SCRIPT
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_tables_say_what_they_are_and_their_heads_for_what_they_stand() -> None:
    root = read(page(ROWS, RUN))
    for table in root.all("table"):
        assert table.one("caption").text
        for head in table.all("th"):
            assert head.attributes["scope"] in ("col", "row", "colgroup")
    assert root.one("html").attributes["lang"] == "en"
    assert all(pre.attributes["tabindex"] == "0" for pre in root.all("pre"))  # a keyboard can scroll it


def test_every_state_has_a_mark_and_a_contrast_of_seven_to_one() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    assert set(COLOURS) == set(MARKS) and len(set(MARKS.values())) == len(MARKS)
    for colours in COLOURS.values():
        for ground, text in (colours[:2], colours[2:]):
            high, low = sorted((light(ground), light(text)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 7
    assert "prefers-color-scheme: dark" in page(ROWS, RUN)


def test_the_page_is_the_same_for_the_same_rows() -> None:
    assert page(ROWS, RUN) == page(ROWS, RUN)


HOSTILE = {
    "a-tag": "</title></style><script>alert(1)</script>",
    "an-attribute": "a' onload='x\" onclick=\"y",
    "an-image": "<img src=x onerror=alert(1)>",
    "the-end-of-a-log": "</pre></details></table><b>",
    "a-comment": "<!-- ",
    "an-entity": "&lt;b&gt;",
    "control-bytes": "a\x00b\x07c\x1b[31md\x9b31me",
    "a-surrogate": "a\udcffb",
    "a-right-to-left-override": "a\u202eb",
}


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_name_is_no_markup_wherever_it_stands(name: str) -> None:
    fault = Fault(what=name, where=name, hint=name)
    odd = Job(recipe=name, defines={"x": name}, varied=("x",), name=name, suite=name, architecture=name)
    change = Change(added=(name,), removed=(name,), changed=(name,))
    rows = [
        Row(job=odd, state=state, doing=name, machine=name, log=name, faults=(fault,), change=change, size=1)
        for state in MARKS
    ]
    text = page([*rows, *ROWS], msgspec.structs.replace(RUN, version=name, ended=name))
    plain = page(ROWS, RUN)
    text.encode()
    root = read(text)
    assert {node.tag for node in root.all()} == {node.tag for node in read(plain).all()}
    assert len(root.all("script")) == 1
    assert not [a for node in root.all() for a in node.attributes if a.startswith("on") or a == "src"]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    shown = root.one("tbody", id="b0").one("th").text
    assert shown.startswith(name[:1]) and len(shown) >= len(name)


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("place", ["log", "what", "where", "hint", "doing", "recipe", "machine", "changed"])
def test_a_password_is_not_shown(place: str) -> None:
    text = "http://user:hunter2@mirror.example/debian"
    row = Row(job=job(), state=RUNNING)
    if place in ("what", "where", "hint"):
        row = msgspec.structs.replace(row, faults=(Fault(**{"what": "x", place: text}),))
    elif place == "recipe":
        row = msgspec.structs.replace(row, job=job(text))
    elif place == "changed":
        row = msgspec.structs.replace(row, change=Change(changed=(text,)))
    else:
        row = msgspec.structs.replace(row, **{place: text})
    shown = page([row], RUN)
    assert "hunter2" not in shown and "mirror.example/debian" in shown


# ---- logs


def test_a_log_loses_what_only_a_terminal_understands() -> None:
    found = tail("\x1b[1;31mred\x1b[0m <b>\r\n\x1b]0;title\x07next\rover\x07\n\n", 1000)
    assert found.html == "red &lt;b&gt;\nnext\nover\\x07"
    assert (found.lines, found.left) == (3, 0)
    assert tail("\n", 100).lines == 0


def test_of_a_long_log_the_end_is_kept_and_the_page_says_so() -> None:
    log = "".join(f"line {n}\n" for n in range(100_000))
    found = tail(log, 1000)
    assert found.html.endswith("line 99999") and 500 < len(found.html) <= 1000
    assert found.lines == 100_000 and found.left + found.html.count("\n") + 1 == 100_000
    root = read(page([Row(job=job(), state=FAILED, log=log)], RUN))
    kept = root.one("pre").text.count("\n") + 1
    assert root.one("details").all("p")[0].text == f"the last {kept} lines of 100,000"


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("cut", range(20), ids=lambda cut: f"after-{cut}")
def test_a_password_that_the_cut_meets_is_not_shown(cut: int) -> None:
    """What is left of the log is short enough to be shown whole: control sequences take no room on the page."""
    address = "http://user:hunter2@mirror.example/debian"
    end = " done" + "\x1b[0m" * 50
    found = tail(address + "x" * (cut % 2) + end, (len(address) + len(end) - cut) // 2)
    assert found.html.endswith("done") and not re.search("hunter|unter2|nter2|ter2|er2|r2@", found.html)


def test_one_line_without_end_is_cut() -> None:
    assert len(tail("<" * 1_000_000, 2000).html) <= 2000
    assert len(tail("x " * 1_000_000, 2000).html) <= 2000


def test_ten_thousand_builds_stay_a_page_that_opens() -> None:
    log = "Setting up <tool> \x1b[1m(1.0)\x1b[0m ...\n" * 400
    long = tuple(f"package-{n} 1.0-{n}" for n in range(300))
    rows = []
    for n in range(10_000):
        row = Row(
            job=job(f"recipes/box-{n // 4}.yaml", ("trixie", "sid")[n % 2], ("amd64", "arm64")[n // 2 % 2]), state=DONE
        )
        rows.append(msgspec.structs.replace(row, seconds=1.0, size=n, packages=n, log=log, change=Change(changed=long)))
    for n in range(0, 10_000, 3):
        rows[n] = Row(job=rows[n].job, state=FAILED, log=log, faults=(Fault(what=f'{n} "&"' * 500, hint="h" * 900),))
    text = page(rows, RUN)
    assert len(text.encode()) < 20_000_000
    assert text.count("<tbody id=b") == 10_000 and text.count("<pre ") == 10_000
    assert "<p class=soft>the last " in text and "of 400</p>" in text and "more characters)" in text


# ---- the file


def test_the_page_is_written_however_the_run_ends(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    with Report(str(path), tmp_path / "out") as report:
        report.change(1, ROWS[1])
        report.change(0, Row(job=job()))
        report.change(0, ROWS[0])
        assert not path.exists()
    first = read(path.read_text())
    assert first.one("h1").text == "2 builds" and build(first, 0)[3] == "✓ done"
    with pytest.raises(KeyboardInterrupt), Report(str(path), tmp_path / "out") as report:
        report.change(0, Row(job=job(), state=RUNNING))
        raise KeyboardInterrupt
    assert "come to its end: it was interrupted" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


BAD = {
    "a-recipe": ("r.yaml", ArtifactError, "is there already and is not a report"),
    "a-page-of-timings": ("t.html", ArtifactError, "is there already and is not a report"),
    "a-folder": ("folder", ArtifactError, "is there already and is not a report"),
    "standard-output": ("-", UsageError, "`--report -`: the page is a file"),
    "among-the-outputs": ("out/box/r.html", UsageError, "lies in a folder of outputs"),
    "no-such-folder": ("none/r.html", ArtifactError, "the report cannot be written: its folder is not there"),
}


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("case", BAD)
def test_a_page_that_cannot_be_is_told_before_anything_is_built(case: str, tmp_path: Path) -> None:
    name, error, message = BAD[case]
    (tmp_path / "r.yaml").write_text("version: 1\n")
    (tmp_path / "t.html").write_text(f"{TIMINGS.start}\n")
    (tmp_path / "folder").mkdir()
    before = {p: p.is_file() and p.read_text() for p in tmp_path.rglob("*")}
    with pytest.raises(error, match=re.escape(message)) as told:
        Report(name if name == "-" else str(tmp_path / name), tmp_path / "out")
    assert "--report" in told.value.hint or "name" in told.value.hint
    assert {p: p.is_file() and p.read_text() for p in tmp_path.rglob("*")} == before


def test_a_page_that_cannot_be_written_is_told_and_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    report = Report(str(folder / "r.html"), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt), report:
        folder.rmdir()
        raise KeyboardInterrupt
    err = capsys.readouterr().err
    assert report.failed and f"error: {folder}/r.html: the report cannot be written: No such file" in err
    assert "hint: name another file with `--report FILE`" in err


def test_the_page_says_why_a_run_ended(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    with pytest.raises(MkrootError), Report(str(path), tmp_path / "out"):
        raise MkrootError("the scheduler was <lost>", where="tcp://127.0.0.1:1")
    assert "its end: tcp://127.0.0.1:1: the scheduler was &lt;lost&gt;" in path.read_text()


# ---- as a user runs it

SMALL: dict[str, Any] = {
    "packages": {"variant": "none", "include": ["tool"]}, "configure": "none", "outputs": ["tar.zst"],
}  # fmt: skip


def test_a_run_leaves_its_page_and_the_next_one_tells_what_changed(tmp_path: Path) -> None:
    program = Program(tmp_path)
    archive = small_archive(tmp_path / "archive")
    with archive.serve() as server:
        recipe = archive.recipe(uri=server.uri, **SMALL)
        for name in ("one", "two"):
            program.recipe(f"{name}.yaml", {**recipe, "name": name})
        secret = server.uri.replace("//", "//user:hunter2@")
        program.recipe("none.yaml", {**recipe, "name": "none", "mirror": secret, "suite": "sid"})
        words = ("build", "one.yaml", "two.yaml", "none.yaml", "--no-lock", "--report", "r.html")
        done = program(*words)
        text = (tmp_path / "r.html").read_text()
        root = read(text)
        assert done.status == 1 and root.one("h1").text == "3 builds, 1 failed"
        assert [build(root, n)[3] for n in range(3)] == ["✓ done", "✓ done", "✗ failed"]
        assert build(root, 0)[5:] == [amount((tmp_path / "out/one/amd64/rootfs.tar.zst").stat().st_size), "2", "first"]
        assert "fetch and unpack" in root.one("tbody", id="b0").one("pre").text
        fault = root.one("ol").one("li")
        assert f"{server.uri}/dists/sid" in fault.text and "hint: " in fault.text
        assert "hunter2" not in text + done.err

        more = {"packages": {"variant": "none", "include": ["tool", "other"]}}
        program.recipe("two.yaml", {**recipe, "name": "two", **more})
        assert program(*words).status == 1
        root = read((tmp_path / "r.html").read_text())
    assert build(root, 0)[3] == "= unchanged"
    assert build(root, 1)[-1].startswith("+1, +")
    assert root.one("tbody", id="b1").one("details").all("p")[0].text == "new: other 1.0"


@pytest.mark.counts("fault")
def test_a_run_that_is_interrupted_leaves_its_page(tmp_path: Path) -> None:
    program = Program(tmp_path)
    archive = small_archive(tmp_path / "archive")
    with archive.serve() as server:
        server.fault("*.deb", "stall", times=None)
        recipe = archive.recipe(uri=server.uri, **SMALL)
        for name, package in (("one", "tool"), ("two", "base")):
            packages = {"variant": "none", "include": [package]}
            program.recipe(f"{name}.yaml", {**recipe, "name": name, "packages": packages})
        words = ("build", "one.yaml", "two.yaml", "--no-lock", "--jobs", "1", "--report", "r.html")
        with program.started(*words) as process:
            deadline = time.monotonic() + 20
            while not server.paths("*.deb") and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in err
    root = read((tmp_path / "r.html").read_text())
    assert "The run did not come to its end: it was interrupted" in root.text
    assert [build(root, n)[3] for n in range(2)] == ["… not finished", "… not finished"]
    assert "it was at: one.yaml amd64: " in root.one("tbody", id="b0").text
    assert [p.name for p in tmp_path.glob("*r.html*")] == ["r.html"]
