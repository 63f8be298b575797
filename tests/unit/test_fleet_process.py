"""A process that does steps: what it answers, how it ends, and what is left when somebody kills it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mkroot.build import Built, Options
from mkroot.bundle.parcel import parcel
from mkroot.errors import Faults, RecipeError
from mkroot.fleet.model import DONE, FAILED, IMAGE, LOCK, Order, Outcome, Step
from mkroot.fleet.perform import encode_options, faults_of
from mkroot.fleet.process import StepProcess
from mkroot.recipe.load import load
from mkroot.resolve.lock import decode_lock
from tests.testarchive import Archive
from tests.testarchive.server import Server
from tests.unit.commands import ROOT, Program, small_archive


class Bench:
    """A folder with a store, an archive that is served, and a recipe for it."""

    def __init__(self, folder: Path, server: Server, archive: Archive) -> None:
        self.folder, self.server, self.archive = folder, server, archive
        self.environ = Program(folder).environ
        data = archive.recipe(uri=server.uri, configure="none", outputs=["tar"], packages={"include": ["tool"]})
        self.recipe = folder / "r.yaml"
        self.recipe.write_text(json.dumps(data | {"keyring": "key.asc"}))
        (folder / "key.asc").write_bytes(archive.keyring.read_bytes())
        self.options = encode_options(Options(out=folder / "out", lock="auto"))

    def step(self, kind: str, key: str = "key", **order: object) -> Step:
        given = Order(recipe=str(self.recipe), options=self.options, architecture="amd64")
        return Step(key=key, kind=kind, shown="it", order=msgspec.structs.replace(given, **order))

    @property
    def left(self) -> list[str]:
        """What unfinished work has left in the store."""
        return [p.name for p in (self.folder / "store/tmp").glob("*")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    archive = small_archive(tmp_path / "archive")
    with archive.serve() as server:
        yield Bench(tmp_path, server, archive)


@pytest.fixture
def process(bench: Bench) -> Iterator[StepProcess]:
    made = StepProcess(bench.environ)
    yield made
    made.close()


def until(what: object, true: object = None) -> None:
    """Wait until a function says yes."""
    end = time.monotonic() + 10
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Tell whether a process has ended: one that nobody has waited for yet holds nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class Doing(threading.Thread):
    """A step that is done beside the test, which goes on when it fetches a package."""

    def __init__(self, bench: Bench, process: StepProcess, step: Step) -> None:
        super().__init__(daemon=True)
        self.outcome: Outcome | None = None
        self._process, self._step = process, step
        bench.server.fault("*/tool_*.deb", "stall", times=None)
        self.start()
        until(lambda: bench.server.paths("*/tool_*.deb"))

    def run(self) -> None:
        self.outcome = self._process.do(self._step)

    def end(self) -> Outcome:
        self.join(10)
        assert self.outcome is not None
        return self.outcome


def test_one_step_after_another(bench: Bench, process: StepProcess) -> None:
    locked = process.do(bench.step(LOCK))
    assert (locked.state, locked.key, locked.faults) == (DONE, "key", ())
    assert 0 < locked.begin <= locked.end
    assert "resolve" in locked.log
    assert [p.name for p in decode_lock(locked.result, "x").root("amd64").packages] == ["base", "lib", "tool"]
    assert not (bench.folder / "r.lock").exists()  # who runs the graph writes it
    (bench.folder / "r.lock").write_bytes(locked.result)
    pid = process.pid
    made = process.do(bench.step(IMAGE))
    assert made.state == DONE, made
    assert (bench.folder / "out/mini/amd64/rootfs.tar").exists()
    assert process.pid == pid
    process.close()
    assert pid is not None and gone(pid)
    assert bench.left == []


@pytest.mark.counts("bad-input")
def test_a_step_that_fails_is_told_as_an_error_is(bench: Bench, process: StepProcess) -> None:
    bench.recipe.write_text(bench.recipe.read_text().replace('"include": ["tool"]', '"include": ["nothing-such"]'))
    first = process.do(bench.step(LOCK))
    pid = process.pid
    assert first.state == FAILED
    assert [(f.what, f.internal) for f in first.faults] == [("no package is called `nothing-such`", False)]
    assert "trixie/main" in first.faults[0].hint
    bench.recipe.write_text("version: 1\nname: X Y\nfoo: bar\n")
    second = process.do(bench.step(LOCK))
    assert process.pid == pid  # it goes on
    assert all(f.where.startswith(str(bench.recipe)) for f in second.faults) and len(second.faults) > 1
    assert second.result == b""


@pytest.mark.counts("bad-input")
def test_options_of_another_version(bench: Bench, process: StepProcess) -> None:
    step = bench.step(LOCK)
    done = process.do(msgspec.structs.replace(step, order=msgspec.structs.replace(step.order, options=b"\xc1")))
    assert "another version of mkroot" in done.faults[0].what


def test_what_nobody_foresaw_is_internal_and_told_in_the_log_alone(bench: Bench, process: StepProcess) -> None:
    done = process.do(bench.step("nonsense"))
    assert [f.internal for f in done.faults] == [True]
    assert "Traceback" not in done.faults[0].what and done.faults[0].what.startswith("internal error: KeyError")
    assert "Traceback (most recent call last)" in done.log


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(28, "No space left on device", "/x"), "the disk is full"),
        (OSError(13, "Permission denied", "/x\x1b"), "permission denied"),
        (FileNotFoundError(2, "No such file", None), "internal error: FileNotFoundError: [Errno 2] No such file"),
        (MemoryError(), "not enough memory"),
        (ValueError("http://me:secret@mirror.example/"), "internal error: ValueError: http://***@mirror.example/"),
        (Faults([RecipeError("one"), RecipeError("two")]), "one"),
    ],
)
def test_an_error_is_told_in_words(error: Exception, fault: str) -> None:
    found = faults_of(error)
    assert found[0].what == fault
    assert found[0].internal == fault.startswith("internal")
    assert "\x1b" not in found[0].where
    assert len(found) == (2 if isinstance(error, Faults) else 1)


# ---- ends


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "was killed by signal 9"),
        (signal.SIGSEGV, "was killed by signal 11"),
        (signal.SIGTERM, "was ended by SIGTERM"),
    ],
)
def test_a_child_that_is_killed_is_a_step_that_failed(
    bench: Bench, process: StepProcess, number: int, says: str
) -> None:
    locked = process.do(bench.step(LOCK))
    (bench.folder / "r.lock").write_bytes(locked.result)
    doing = Doing(bench, process, bench.step(IMAGE))
    pid = process.pid
    assert pid is not None
    os.kill(pid, number)
    outcome = doing.end()
    assert (outcome.state, outcome.key) == (FAILED, "key")
    (fault,) = outcome.faults
    assert says in fault.what and fault.internal == (number == signal.SIGSEGV)
    assert ("memory" in fault.hint) == (number == signal.SIGKILL)
    bench.server.faults.clear()
    again = process.do(bench.step(IMAGE))  # another child, and nothing is in its way
    assert again.state == DONE, again
    assert process.pid != pid
    process.close()
    assert bench.left == []


@pytest.mark.counts("fault")
def test_closing_ends_a_step_at_once_and_leaves_nothing(bench: Bench, process: StepProcess) -> None:
    locked = process.do(bench.step(LOCK))
    (bench.folder / "r.lock").write_bytes(locked.result)
    doing = Doing(bench, process, bench.step(IMAGE))
    pid = process.pid
    assert pid is not None
    start = time.monotonic()
    process.close()
    assert time.monotonic() - start < 1.8
    assert doing.end().state == FAILED
    assert gone(pid)
    assert bench.left == []
    assert not (bench.folder / "out").exists() or not list((bench.folder / "out").rglob("*.tar"))
    assert process.do(bench.step(LOCK)).state == FAILED  # it stays closed


@pytest.mark.counts("fault")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent(bench: Bench, number: int) -> None:
    """Whatever ends the parent, and whether or not the child is in the middle of a step."""
    bench.server.fault("*/InRelease", "stall", times=None)
    code = (
        "import sys, os, threading, time, msgspec\n"
        "from mkroot.fleet.process import StepProcess\n"
        "from mkroot.fleet.model import Step\n"
        "step = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Step)\n"
        "process = StepProcess(os.environ)\n"
        "threading.Thread(target=process.do, args=(step,), daemon=True).start()\n"
        "while process.pid is None: time.sleep(0.01)\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=bench.environ, cwd=bench.folder
    )
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdin.write(msgspec.msgpack.encode(bench.step(LOCK)))
    parent.stdin.close()
    pid = int(parent.stdout.readline())
    until(lambda: bench.server.paths("*/InRelease"))
    start = time.monotonic()
    parent.send_signal(number)
    parent.wait(5)
    until(lambda: gone(pid))
    assert time.monotonic() - start < 2
    parent.stdout.close()


@pytest.mark.counts("hostile")
def test_nothing_of_the_current_folder_is_imported(bench: Bench) -> None:
    for name in ("msgspec", "mkroot", "struct", "ctypes"):
        (bench.folder / f"{name}.py").write_text(f"open({str(bench.folder / 'imported')!r}, 'w').close()\n")
    run = subprocess.run(
        [sys.executable, "-c", f"""
import os, msgspec
from mkroot.fleet.model import Step
from mkroot.fleet.process import StepProcess
os.chdir({str(bench.folder)!r})
process = StepProcess(os.environ)
print(process.do(msgspec.msgpack.decode({msgspec.msgpack.encode(bench.step(LOCK))!r}, type=Step)).state)
process.close()
"""],
        env=bench.environ, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout == "done\n", run.stderr
    assert not (bench.folder / "imported").exists()


# ---- parcels


@pytest.fixture
def packed(bench: Bench) -> bytes:
    """A recipe with a part, a local file and its lock, as a parcel."""
    data = json.loads(bench.recipe.read_text())
    data |= {"config": {"files": [{"path": "/etc/mine", "from": "./mine"}]}}
    (bench.folder / "mine").write_text("mine\n")
    bench.recipe.write_text(json.dumps(data))
    locked = StepProcess(bench.environ)
    outcome = locked.do(bench.step(LOCK))
    locked.close()
    lock = decode_lock(outcome.result, "x")
    made = parcel(str(bench.recipe), load(bench.recipe), lock, {})
    assert made == parcel(str(bench.recipe), load(bench.recipe), lock, {})
    return made


def test_a_parcel_is_all_that_a_step_needs_of_the_recipe(bench: Bench, process: StepProcess, packed: bytes) -> None:
    for name in ("r.yaml", "key.asc", "mine"):
        (bench.folder / name).unlink()
    done = process.do(bench.step(IMAGE, parcel=packed))
    assert done.state == DONE, done
    assert msgspec.msgpack.decode(done.result, type=Built).packages == 3
    assert not (bench.folder / "out").exists()  # it is another machine's
    assert bench.left == []


@pytest.mark.counts("bad-input")
def test_a_fault_in_a_parcel_names_the_recipe_as_its_owner_does(bench: Bench, process: StepProcess) -> None:
    data = json.loads(bench.recipe.read_text()) | {"packages": {"include": ["not-there"]}, "arch": ["amd64"]}
    bench.recipe.write_text(json.dumps(data))
    made = parcel(str(bench.recipe), load(bench.recipe), None, {})
    done = process.do(bench.step(LOCK, parcel=made))
    assert done.faults[0].what == "no package is called `not-there`"
    data["image"] = {"from": "no-such-image"}
    del data["configure"]
    bench.recipe.write_text(json.dumps(data))
    made = parcel(str(bench.recipe), load(bench.recipe), None, {})
    done = process.do(bench.step(LOCK, parcel=made, recipe="team/r.yaml"))
    assert done.faults[0].where.startswith("team/r.yaml:1:"), done.faults
    assert "store" not in done.faults[0].where


@pytest.mark.counts("hostile")
def test_no_damaged_parcel_is_used(bench: Bench, process: StepProcess, packed: bytes, record_property: object) -> None:
    places = range(0, len(packed), max(1, len(packed) // 24))
    damaged = [packed[:at] + bytes([packed[at] ^ 0x41]) + packed[at + 1 :] for at in places]
    damaged += [packed[:at] for at in (1, 100, len(packed) // 2, len(packed) - 1)] + [packed + b"\0" * 512, b"x" * 512]
    for one in damaged:
        done = process.do(bench.step(IMAGE, parcel=one))
        assert done.state == FAILED
        assert "the bundle is damaged" in done.faults[0].what, done.faults
        assert not done.faults[0].internal
    assert bench.left == []
    assert not (bench.folder / "out").exists()
    record_property("cases", len(damaged))  # type: ignore[operator]


@pytest.mark.counts("hostile")
def test_a_parcels_recipe_reads_nothing_else(bench: Bench, process: StepProcess) -> None:
    secret = bench.folder / "secret"
    secret.write_text("secret")
    bench.recipe.write_text(json.dumps(json.loads(bench.recipe.read_text()) | {"vars": {"k": "mine"}}))
    (bench.folder / "mine").write_text("mine")
    data = json.loads(bench.recipe.read_text())
    data["config"] = {"files": [{"path": "/etc/x", "from": "${k}"}]}
    bench.recipe.write_text(json.dumps(data))
    made = parcel(str(bench.recipe), load(bench.recipe), None, {})
    options = encode_options(Options(out=bench.folder / "out", defines={"k": str(secret)}))
    done = process.do(bench.step(LOCK, parcel=made, options=options))
    assert done.state == FAILED
    assert "which did not come with it" in done.faults[0].what
