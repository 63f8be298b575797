"""What workers can do and say, and what a cluster's client makes of it; no scheduler runs here."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mkroot.errors import ClusterError
from mkroot.fleet import abilities
from mkroot.fleet.abilities import Abilities
from mkroot.fleet.model import DONE, FAILED, IMAGE, INDEX, SCRIPTS, SKIPPED, STAGE, Fault, Order, Outcome, Step

pytest.importorskip("distributed")

from mkroot.fleet import cluster, connection, worker  # they need Dask

SECRET = "7c" * 32
ABLE = Abilities(able=(SCRIPTS, "run-amd64"), lacks={"run-arm64": Fault(what="no emulator", hint="install one")})
WEAK = Abilities(able=(), lacks={SCRIPTS: Fault(what="user namespaces are forbidden here", hint="run it as root")})
BROKEN = Abilities(able=(SCRIPTS,), fault=Fault(what="the remote store cannot be written", hint="log in"))


# ---- of one machine


def test_a_machine_tells_what_it_can(tmp_path: Path) -> None:
    import os

    found = abilities.asked({**os.environ, "MKROOT_STORE": str(tmp_path / "store"), "MKROOT_STORE_REMOTE": ""})
    assert found.fault is None and len(found.machine) == 32 and found.clock > 1_700_000_000
    assert set(found.able).isdisjoint(found.lacks) and SCRIPTS in (*found.able, *found.lacks)
    assert abilities.asked({**os.environ, "MKROOT_STORE": str(tmp_path / "store")}).machine == found.machine


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"MKROOT_STORE": "/proc/none"}, "/proc/none"),
        ({"MKROOT_CONFIG": "/none/config.toml"}, "there is no such file"),
        ({"MKROOT_STORE_REMOTE": "http://registry.example/x"}, "is an address, not a repository"),
        ({"MKROOT_STORE_REMOTE": "registry.example/x", "MKROOT_STORE_KEY": "12"}, "hexadecimal digits"),
        ({"PYTHONHOME": "/none"}, "ended with status"),
    ],
    ids=["store", "config", "remote", "key", "python"],
)
def test_a_machine_that_can_do_nothing_says_why(environ: dict[str, str], words: str, tmp_path: Path) -> None:
    import os

    found = abilities.asked({**os.environ, "MKROOT_STORE": str(tmp_path / "store"), **environ})
    assert found.fault is not None and words in f"{found.fault.where} {found.fault.what}"
    assert "Traceback" not in found.fault.what
    assert abilities.told(found)[0].startswith("takes no step: ")


def test_lines_for_a_log() -> None:
    assert abilities.told(ABLE) == [
        "can unpack and pack, run maintainer scripts, run programs of amd64",
        "cannot run programs of arm64: no emulator (install one)",
    ]
    assert ABLE.lack((SCRIPTS, "run-amd64")) is None
    assert ABLE.lack(("run-arm64",)) == Fault(what="no emulator", hint="install one")
    assert ABLE.lack(("run-vax",)) == Fault(what="it does not know `run-vax`")
    assert BROKEN.lack(()) == BROKEN.fault


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("name", abilities.VERSIONS)
@pytest.mark.parametrize("other", ["9.9", None], ids=["another", "missing"])
def test_another_version_is_told(name: str, other: str | None) -> None:
    mine = dict.fromkeys(abilities.VERSIONS, "1.0")
    assert abilities.differing(mine, dict(mine), "`w`") is None
    fault = abilities.differing(mine, {**mine, name: other}, "`w`")
    assert fault is not None and "worker `w`" in fault.what and name in fault.what
    assert other is None or ("9.9" in fault.what and "1.0" in fault.what)


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(("off", "words"), [(-3, "3.0 days behind"), (2, "2.0 days ahead")], ids=["behind", "ahead"])
def test_a_clock_that_is_days_off_is_told(off: int, words: str) -> None:
    now = 1_750_000_000.0
    assert abilities.skew(Abilities(clock=now + off * 86400), now, "`w`").startswith(
        f"the clock of worker `w` is {words}"
    )
    assert abilities.skew(Abilities(clock=now + 86000), now, "`w`") == ""


# ---- as Dask knows it


def test_resources() -> None:
    base = worker.base({"mkroot": "1"}, "registry.example/store")
    assert base != worker.base({"mkroot": "2"}, "registry.example/store") != worker.base({"mkroot": "2"}, "other")
    offers = worker.offered(base, ABLE)
    assert all(offers[name] > 0 for name in worker.demanded(base, (SCRIPTS, "run-amd64")))
    assert offers["mkroot-run-arm64"] == 0, "what an earlier run saw is taken back"
    assert worker.offered(base, BROKEN) == {base: 0}


@pytest.mark.counts("hostile")
def test_the_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = worker.Plugin("run", "registry.example/store", {"MKROOT_STORE_KEY": SECRET}, {})
    assert SECRET not in f"{plugin!r} {plugin}"
    again = pickle.loads(pickle.dumps(plugin))
    monkeypatch.setenv("MKROOT_STORE_KEY", "a worker's own")
    assert again._environ()["MKROOT_STORE_KEY"] == SECRET


def test_what_a_step_gets_of_its_worker_and_of_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The date is the client's or nobody's; the worker's mirrors win, by variable or file."""
    (tmp_path / "config.toml").write_text('[mirrors]\nubuntu = "http://mirror.example/near"\n')
    monkeypatch.setenv("MKROOT_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.delenv("MKROOT_MIRROR_UBUNTU", raising=False)
    monkeypatch.setenv("MKROOT_MIRROR_DEBIAN", "http://mirror.example/own")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    mirrors = {f"MKROOT_MIRROR_{name}": "http://mirror.example/far" for name in ("DEBIAN", "UBUNTU", "OTHER")}
    environ = worker.Plugin("run", "r", {}, mirrors)._environ()
    assert "SOURCE_DATE_EPOCH" not in environ and "MKROOT_MIRROR_UBUNTU" not in environ
    assert environ["MKROOT_MIRROR_DEBIAN"] == "http://mirror.example/own"
    assert environ["MKROOT_MIRROR_OTHER"] == "http://mirror.example/far"
    assert worker.Plugin("run", "r", {"SOURCE_DATE_EPOCH": "7"}, {})._environ()["SOURCE_DATE_EPOCH"] == "7"


# ---- a run, on a cluster that a test plays


class Result:
    """A task's future."""

    def __init__(self, key: str) -> None:
        self.key, self.status, self.value = key, "pending", b""
        self.error: Exception | None = None

    def exception(self) -> Exception | None:
        return self.error

    def cancel(self) -> None:
        self.status = "cancelled"

    def release(self) -> None:
        pass


class Client:
    """Takes graphs, and has each task end as its step's name says: done, failed, lost, or not at all.

    Tasks that stand on one that did not end well end as `mkroot.fleet.worker.work` or Dask have it.
    """

    def __init__(self, members: dict[str, tuple[str, Abilities]]) -> None:
        self.status = "running"
        self.members = members
        self.graphs: list[dict[str, Any]] = []
        self.places: list[Any] = []
        self.results: dict[str, Result] = {}
        self.scheduler = self

    identity = None

    def sync(self, function: Any, **_: Any) -> Any:
        if self.status != "running":
            raise OSError("connection lost")
        workers = {}
        for address, (name, known) in self.members.items():
            workers[address] = {"name": name, "resources": worker.offered("base", known)}
        return {"workers": workers}

    def run(self, function: Any, run: str, workers: list[str], on_error: str) -> dict[str, bytes]:
        return {address: msgspec.msgpack.encode(self.members[address][1]) for address in workers}

    def subscribe_topic(self, topic: str, handler: Any) -> None:
        self.handler = handler

    def get(self, graph: dict[str, Any], keys: list[str], resources: Any, workers: Any, sync: bool) -> list[Result]:
        pickle.dumps(resources)
        self.graphs.append(graph)
        self.places.append(workers)
        for key in keys:
            result = self.results[key] = Result(key)
            step = msgspec.msgpack.decode(graph[key].args[1], type=Step)
            before = [self.results[name] for name in graph[key].dependencies if name in self.results]
            self._end(result, step, before)
        return [self.results[key] for key in keys]

    def _end(self, result: Result, step: Step, before: list[Result]) -> None:
        from distributed.scheduler import KilledWorker, WorkerState

        if blamed := next((r.error for r in before if r.error is not None), None):
            result.status, result.error = "error", blamed
        elif cause := next((r.value[1] for r in before if r.value and r.value[0] != DONE), ""):
            result.status = "finished"
            result.value = worker.came(Outcome(key=step.key, state=SKIPPED, cause=cause))
        elif "lost" in step.key:
            state = WorkerState.__new__(WorkerState)
            state.address, state.name = "tcp://127.0.0.1:1", "gone"
            result.status, result.error = "error", KilledWorker(result.key, state, 3)
        elif "forgotten" in step.key:
            result.status = "cancelled"
        elif "pending" not in step.key:
            result.status = "finished"
            bad = (Fault(what="no such package"),)
            state_, faults = (FAILED, bad) if "bad" in step.key else (DONE, ())
            outcome = Outcome(key=step.key, state=state_, faults=faults, machine="alpha", log="far\n", begin=1, end=2)
            result.value = worker.came(outcome)

    def gather(self, futures: list[Result], errors: str) -> list[Any]:
        return [future.value for future in futures]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return what makes an engine of workers; what is brought home is done at once."""
    monkeypatch.setattr(cluster, "WATCH", 0.05)
    monkeypatch.setattr(cluster, "PATIENCE", 0.2)
    monkeypatch.setattr(connection, "told", connection.told)

    class Here:
        def __init__(self, environ: object, put: Any, jobs: int) -> None:
            self.put, self.brought = put, []

        def bring(self, step: Step) -> None:
            self.brought.append(step.key)
            self.put(Outcome(key=step.key, state=DONE, log="here\n", begin=3, end=4, result=b"built"))

    monkeypatch.setattr(cluster, "Home", Here)

    def made(**known: Abilities) -> cluster.ClusterEngine:
        client = Client({f"tcp://{name}": (name, found) for name, found in known.items()})
        joined = connection.Connection("tcp://scheduler:1", client, "run", "base")  # type: ignore[arg-type]
        return cluster.ClusterEngine(joined, {})

    yield made


def step(key: str, *after: str, asks: tuple[str, ...] = (), kind: str = STAGE, elsewhere: str = "") -> Step:
    order = Order(recipe="x.yaml", parcel=b"parcel")
    return Step(key=key, kind=kind, shown=f"shown {key}", order=order, after=after, asks=asks, elsewhere=elsewhere)


def outcomes(doing: cluster.ClusterEngine) -> dict[str, Outcome]:
    return {event.key: event for event in doing.events() if isinstance(event, Outcome)}


def test_a_failure_skips_what_stands_on_it_and_nothing_else(engine: Any) -> None:
    doing = engine(alpha=ABLE)
    doing.add(
        [step("stage-bad"), step("stage-b", "stage-bad"), step("image-c", "stage-b", kind=IMAGE), step("stage-d")]
    )
    found = outcomes(doing)
    assert found["stage-bad"].faults[0].what == "no such package (in `shown stage-bad`, on worker `alpha`)"
    assert {key: (o.state, o.cause) for key, o in found.items() if key != "stage-bad"} == {
        "stage-b": (SKIPPED, "stage-bad"),
        "image-c": (SKIPPED, "stage-bad"),
        "stage-d": (DONE, ""),
    }
    doing.add([step("stage-e", "stage-b")])
    assert outcomes(doing)["stage-e"].cause == "stage-bad"


def test_images_come_home_and_indices_are_made_there(engine: Any) -> None:
    doing = engine(alpha=ABLE)
    steps = [step(f"image-{n}", kind=IMAGE) for n in "ab"]
    doing.add([*steps, step("index-1", "image-a", "image-b", kind=INDEX)])
    found = outcomes(doing)
    assert doing._home.brought == ["image-a", "image-b", "index-1"]
    image = found["image-a"]
    assert (image.machine, image.log, image.begin, image.end, image.result) == ("alpha", "far\nhere\n", 1, 4, b"built")
    assert found["index-1"].machine == ""
    doing.add([step("stage-on-image", "image-a")])
    assert outcomes(doing)["stage-on-image"].machine == "", "its base is in this machine's store alone"


def test_a_graph_names_its_function_and_shares_parcels(engine: Any) -> None:
    """The scheduler must be able to unpack it without mkroot."""
    doing = engine(alpha=ABLE)
    doing.add([step(f"stage-{n}") for n in range(5)])
    (graph,) = doing._connection.client.graphs
    assert len(graph) == 6
    for task in graph.values():
        assert b"mkroot.fleet" not in pickle.dumps(task.func)
    assert pickle.dumps(graph).count(b"mkroot.fleet.worker") == 1, "as a text"


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("known", "asks", "words"),
    [
        ({}, (), "the cluster tcp://scheduler:1 has no worker"),
        ({"weak": WEAK}, (SCRIPTS,), "can run maintainer scripts: worker `weak`: user namespaces are forbidden here"),
        ({"able": ABLE, "weak": WEAK}, (SCRIPTS, "run-arm64"), "worker `able`: no emulator; worker `weak`: user"),
        ({"broken": BROKEN}, (), "worker `broken`: the remote store cannot be written"),
    ],
    ids=["none", "no-scripts", "no-architecture", "no-remote"],
)
def test_what_no_worker_can_do_fails_at_once(
    known: dict[str, Abilities], asks: tuple[str, ...], words: str, engine: Any
) -> None:
    doing = engine(**known)
    doing.add([step("stage-a", asks=asks), step("stage-b", "stage-a")])
    found = outcomes(doing)
    assert words in found["stage-a"].faults[0].what and found["stage-a"].faults[0].hint
    assert found["stage-b"].cause == "stage-a"
    assert not doing._connection.client.graphs


@pytest.mark.counts("fault")
def test_workers_lost_over_a_step(engine: Any) -> None:
    doing = engine(alpha=ABLE)
    doing.add([step("stage-lost"), step("stage-b", "stage-lost"), step("stage-forgotten"), step("stage-ok")])
    found = outcomes(doing)
    assert found["stage-lost"].state == FAILED
    assert (
        found["stage-lost"].faults[0].what.startswith("4 workers were lost over this step, the last one `gone` (in `sh")
    )
    assert (found["stage-b"].state, found["stage-b"].cause) == (SKIPPED, "stage-lost")
    assert found["stage-forgotten"].faults[0].what == "the scheduler forgot the step"
    assert found["stage-ok"].state == DONE


@pytest.mark.counts("fault")
def test_the_last_able_worker_leaves(engine: Any) -> None:
    """A step that nobody can do any more fails after a while, and does not wait for ever."""
    doing = engine(able=ABLE, weak=WEAK)
    doing.add([step("stage-pending", asks=(SCRIPTS,))])
    del doing._connection.client.members["tcp://able"]
    found = outcomes(doing)
    assert "worker `weak`: user namespaces" in found["stage-pending"].faults[0].what


@pytest.mark.counts("fault")
def test_the_scheduler_is_lost(engine: Any) -> None:
    doing = engine(alpha=ABLE)
    doing.add([step("stage-pending")])
    doing._connection.client.status = "connecting"
    with pytest.raises(ClusterError, match="the scheduler tcp://scheduler:1 was lost"):
        outcomes(doing)


def test_a_second_build_is_not_its_builders(engine: Any) -> None:
    machines = {name: msgspec.structs.replace(ABLE, machine=name * 32) for name in "ab"}
    doing = engine(**machines)
    doing.add([step("verify-1", kind="verify", elsewhere="a" * 32)])
    assert outcomes(doing)["verify-1"].state == DONE
    assert doing._connection.client.places == [["tcp://b"]]
    doing = engine(a=machines["a"])
    doing.add([step("verify-1", kind="verify", elsewhere="a" * 32)])
    fault = outcomes(doing)["verify-1"].faults[0]
    assert "is another machine than the one that built it: `a`" in fault.what


# ---- what travels


def test_a_step_travels_with_its_recipe_and_this_machines_mirror(tmp_path: Path) -> None:
    """One parcel for all steps of a recipe, another one when it is locked; where it is done makes no difference."""
    import zlib

    from mkroot.build import Options
    from mkroot.bundle.parcel import EMPTY, opened
    from mkroot.fleet.perform import decode_options, encode_options
    from mkroot.fleet.sending import Sending
    from mkroot.recipe.load import load
    from mkroot.recipe.normal import digest
    from mkroot.store.store import Store

    (tmp_path / "motd").write_text("hello\n")
    path = tmp_path / "x.yaml"
    path.write_text(
        "{version: 1, name: x, distro: debian, suite: trixie, arch: [amd64],"
        " config: {files: [{path: /etc/motd, from: ./motd}]}, outputs: [tar]}"
    )
    sending = Sending({"MKROOT_MIRROR_DEBIAN": "http://me:secret@mirror.example/debian"})
    order = Order(recipe=str(path), options=encode_options(Options()), architecture="amd64")
    steps = [Step(key=f"stage-{n}", kind=STAGE, shown="s", order=order, after=("a",)) for n in range(2)]
    first, second = map(sending.sent, steps)
    assert first.parcel is second.parcel and first.name == second.name
    read = msgspec.msgpack.decode(first.data, type=Step)
    assert read.order.parcel == b"" and read.order.lock == "" and read.after == ()
    written = decode_options(read.order.options).written
    assert written == ("http://mirror.example/debian", "http://mirror.example/debian-security"), "without the login"
    with opened(Store(tmp_path / "store"), zlib.decompress(first.parcel), str(path), {}) as parcel:
        assert digest(load(parcel.recipe, {})) == digest(load(str(path), {}))
    (tmp_path / "x.lock").write_bytes(msgspec.structs.replace(EMPTY, recipe="1" * 64).encode())
    assert sending.sent(steps[0]).name != first.name
    with pytest.raises(ClusterError, match="an offline build is this machine's alone"):
        offline = msgspec.structs.replace(order, options=encode_options(Options(offline=True)))
        sending.sent(msgspec.structs.replace(steps[0], order=offline))


def test_differing_steps() -> None:
    from mkroot.fleet.rebuilding import differing
    from mkroot.remote.results import Step as Layer

    first = [Layer(name, name, "r", "f") for name in ("base", "essential", "include")]
    other = [*first[:1], Layer("essential", "k", "r", "other"), *first[2:]]
    assert differing(first, other) == "`essential`"
    assert differing(first, first).startswith("image: ")
    assert "3 and 2" in differing(first, first[:2])


def test_the_secret_is_not_in_json() -> None:
    assert SECRET not in json.dumps(msgspec.to_builtins(ABLE))
