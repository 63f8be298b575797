"""Builds on a real Dask cluster: two workers with stores of their own, a registry between them, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.building import needs
from tests.integration.clusters import Cluster, Registry, Worker, cluster, environ_of
from tests.testarchive import Archive, File, Server
from tests.unit.commands import PROGRAM, Done
from tests.unit.registryserver import Request, memory_registry

pytest.importorskip("distributed")

SECRET = "5a" * 32
NOISE = ("Traceback", "distributed.", "tornado", "asyncio", "Future ", "StreamClosed")


class Fleet:
    """An archive, a registry and a cluster, and a machine that builds there. Each test's recipes have its own name."""

    def __init__(self, folder: Path, archive: Archive, server: Server, registry: Registry, cluster: Cluster) -> None:
        self.folder, self.archive, self.server = folder, archive, server
        self.registry, self.cluster = registry, cluster
        self.alpha = cluster.worker("alpha", wait=False)
        self.beta = cluster.worker("beta", wait=False)
        cluster.await_(self.alpha)
        cluster.await_(self.beta)

    def recipe(self, place: Path, name: str, *include: str, **more: Any) -> str:
        """Write a recipe and return its name."""
        shutil.copy(self.archive.keyring, place / "archive.asc")
        data = {
            "version": 1,
            "name": name,
            "distro": "debian",
            "suite": "trixie",
            "arch": ["amd64"],
            "pockets": [],
            "mirror": self.server.uri,
            "keyring": "./archive.asc",
            "packages": {"variant": "essential", "include": list(include)},
            "configure": "none",
            "outputs": ["tar", "oci"],
        } | more
        (place / f"{name}.yaml").write_text(json.dumps(data))
        return f"{name}.yaml"

    def environ(self, place: Path, store: str = "store") -> dict[str, str]:
        """Return the variables of a machine that has the remote store."""
        return {
            **environ_of(place),
            "MKROOT_STORE": str(place / store),
            "MKROOT_STORE_REMOTE": f"{self.registry.host}/team/store",
            "MKROOT_STORE_KEY": SECRET,
        }

    def run(self, place: Path, *words: str, store: str = "store", **environ: str) -> Done:
        """Run the program in a folder; whatever it tells is mkroot's own, and the secret is nowhere."""
        return run(place, self.environ(place, store) | environ, *words)

    def build(self, place: Path, *recipes: str, **more: str) -> Done:
        """Build on the cluster, to the JSON of what was made."""
        done = self.run(place, "build", *recipes, "--dask", self.cluster.address, "--json", **more)
        assert done.status == 0, done.err
        return done


def run(place: Path, environ: dict[str, str], *words: str) -> Done:
    ended = subprocess.run([*PROGRAM, *words], cwd=place, env=environ, capture_output=True, text=True, timeout=90)
    assert not [word for word in NOISE if word in ended.stderr], ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
    return Done(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    archive = Archive(folder / "archive", architectures=("amd64", "arm64"))
    tool = File(content=b"#!", mode=0o755)
    archive.add("base", "1.0", essential=True, files={"etc/base.conf": b"base\n", "usr/bin/base": tool})
    archive.add("lib", "1.5", files={"usr/lib/lib.so": os.urandom(200_000)})
    archive.add("only", "1.0", architecture="amd64", files={"usr/bin/only": tool})
    for name in ("tool", "other", "third", "fourth"):
        archive.add(name, "2.0", files={f"usr/bin/{name}": tool}, depends="lib (>= 1)")
    for name in ("slow", "held", "stuck", "late", "gone", "orphan"):
        archive.add(name, "1.0", files={f"usr/bin/{name}": tool}, depends="lib")
    with (
        archive.serve() as server,
        Registry(folder / "registry") as registry,
        cluster(folder / "cluster") as dask,
    ):
        yield Fleet(folder, archive, server, registry, dask)


def artifacts(place: Path) -> dict[str, bytes]:
    """Return every file below the output folder."""
    out = place / "out"
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def alone(fleet: Fleet, place: Path, *recipes: str) -> dict[str, bytes]:
    """Build on one machine that has nothing of the others'; return its artifacts."""
    apart = place / "alone"
    shutil.copytree(place, apart, ignore=shutil.ignore_patterns("out", "store*", "alone"))
    environ = fleet.environ(apart) | {"MKROOT_STORE_REMOTE": ""}
    for recipe in recipes:
        done = run(apart, environ, "build", recipe)
        assert done.status == 0, done.err
    return artifacts(apart)


def eventually(wanted: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.02)


@contextlib.contextmanager
def building(fleet: Fleet, place: Path, *words: str, address: str = "") -> Iterator[subprocess.Popen[str]]:
    """Begin a build on the cluster, or on that of an address."""
    process = subprocess.Popen(
        [*PROGRAM, "build", *words, "--dask", address or fleet.cluster.address],
        cwd=place,
        env=fleet.environ(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.counts("rebuild")
def test_two_workers_make_what_one_machine_makes(fleet: Fleet, tmp_path: Path) -> None:
    fleet.server.requests.clear()
    names = ("tool", "other", "third", "fourth")
    recipes = [fleet.recipe(tmp_path, f"two-{name}", name) for name in names]
    done = fleet.build(tmp_path, *recipes)
    assert [build["name"] for build in done.json["builds"]] == [f"two-{name}" for name in names]
    debs = fleet.server.paths("*.deb")
    assert len(debs) == len(set(debs)) == 6, "a package is fetched once, whoever needs it"
    assert artifacts(tmp_path) == alone(fleet, tmp_path, *recipes)
    for worker in (fleet.alpha, fleet.beta):
        assert list((worker.store / "layers").rglob("*")), "each worker did something"
        assert SECRET not in worker.told
        assert not [p for p in (worker.store / "tmp").iterdir() if p.name.startswith(("parcel.", "out."))]


@pytest.mark.counts("rebuild")
def test_empty_workers_make_nothing_again(fleet: Fleet, tmp_path: Path) -> None:
    """The registry has it all: a second cluster asks the mirror for nothing, and makes no layer."""
    recipes = [fleet.recipe(tmp_path, f"again-{name}", name) for name in ("tool", "other")]
    fleet.build(tmp_path, *recipes)
    first, held = artifacts(tmp_path), fleet.registry.entries()
    shutil.rmtree(tmp_path / "out")
    fleet.server.requests.clear()
    with cluster(tmp_path / "second") as second:
        workers = [second.worker(name, wait=False) for name in ("gamma", "delta")]
        for worker in workers:
            second.await_(worker)
        done = fleet.run(tmp_path, "build", *recipes, "--dask", second.address, "--json", store="fresh")
        assert done.status == 0, done.err
        assert not fleet.server.paths()
        assert artifacts(tmp_path) == first
        assert fleet.registry.entries() == held, "nothing was pushed that was there"
        assert not [w for w in workers if list((w.store / "layers").rglob("*"))], "no worker was asked for anything"


@pytest.mark.counts("fault")
def test_what_cannot_be_brought_home_is_made_by_a_worker(fleet: Fleet, tmp_path: Path) -> None:
    """The registry says that it has the build, has not all of it, and this machine cannot make it."""
    recipe = fleet.recipe(tmp_path, "halved", "tool", "third")
    fleet.build(tmp_path, recipe)
    first = artifacts(tmp_path)
    shutil.rmtree(tmp_path / "out")
    for blob in fleet.registry.blobs():
        if len(blob.read_bytes()) > 4000:
            blob.write_bytes(b"")
    fault = fleet.server.fault("*/lib_*.deb", "status", status=404)  # the one time that this machine asks
    done = fleet.run(tmp_path, "build", recipe, "--dask", fleet.cluster.address, store="fresh")
    assert done.status == 0, done.err
    assert fault.seen == 1
    assert artifacts(tmp_path) == first


@pytest.mark.counts("fault")
def test_a_killed_worker_costs_its_running_step(fleet: Fleet, tmp_path: Path) -> None:
    """A machine loses its power in the middle of a step: one that came later does it, and nothing that was done."""
    recipes = [fleet.recipe(tmp_path, f"killed-{name}", name) for name in ("slow", "tool")]
    fleet.server.fault("*/slow_*.deb", "stall", after=10)
    with cluster(tmp_path / "killing") as killing:
        victim = killing.worker("victim")
        with building(fleet, tmp_path, *recipes, address=killing.address) as process:
            eventually(lambda: fleet.server.paths("*/slow_*.deb"))
            late = killing.worker("late")
            victim.kill()
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, out + err
        assert fleet.server.paths("*/slow_*.deb") == fleet.server.paths("*/slow_*.deb")[:1] * 2, "once more, by another"
        assert list((late.store / "layers").rglob("*"))
    assert artifacts(tmp_path) == alone(fleet, tmp_path, *recipes)


@pytest.mark.counts("fault")
def test_the_scheduler_dies(fleet: Fleet, tmp_path: Path) -> None:
    recipe = fleet.recipe(tmp_path, "orphan", "orphan")
    fleet.server.fault("*/orphan_*.deb", "stall", after=10)
    with cluster(tmp_path / "dying") as dying:
        worker = dying.worker("last")
        with building(fleet, tmp_path, recipe, address=dying.address) as process:
            eventually(lambda: fleet.server.paths("*/orphan_*.deb"))
            dying.scheduler.kill()
            out, err = process.communicate(timeout=30)
        assert process.returncode == 1, out + err
        assert f"error: the scheduler {dying.address} was lost" in err and "begin the run again" in err
        assert not [word for word in NOISE if word in err], err
        eventually(lambda: not doing(worker))
    assert not (tmp_path / "out").exists()


def doing(worker: Worker) -> list[int]:
    """Return the processes that do a worker's steps now."""
    if worker.process.poll() is not None:
        return []
    listed = subprocess.run(
        ["pgrep", "-g", str(worker.process.pid), "-f", "mkroot.fleet.process"], capture_output=True, text=True
    )
    return [int(word) for word in listed.stdout.split()]


@pytest.mark.counts("fault")
def test_a_registry_that_is_away_for_ten_seconds(fleet: Fleet, tmp_path: Path) -> None:
    recipes = [fleet.recipe(tmp_path, f"away-{name}", name) for name in ("held", "tool")]
    fleet.server.fault("*/held_*.deb", "slow", seconds=1.0)
    with building(fleet, tmp_path, *recipes) as process:
        eventually(lambda: fleet.server.paths("*/held_*.deb"))
        fleet.registry.stop()
        try:
            time.sleep(10)
        finally:
            fleet.registry.start()
        out, err = process.communicate(timeout=80)
    assert process.returncode == 0, out + err
    assert artifacts(tmp_path) == alone(fleet, tmp_path, *recipes)
    assert any(tag.startswith("result-") for tag in fleet.registry.entries())


@pytest.mark.counts("hostile")
def test_a_corrupted_blob_is_no_wrong_byte(fleet: Fleet, tmp_path: Path) -> None:
    """Every large blob of the registry is changed on its disk: what comes of it is told, and made again."""
    recipe = fleet.recipe(tmp_path, "corrupted", "tool", "lib")
    fleet.build(tmp_path, recipe)
    first = artifacts(tmp_path)
    shutil.rmtree(tmp_path / "out")
    for blob in fleet.registry.blobs():
        data = bytearray(blob.read_bytes())
        if len(data) > 4000:
            data[len(data) // 2] ^= 1
            blob.write_bytes(data)
    done = fleet.build(tmp_path, recipe, store="fresh")
    assert artifacts(tmp_path) == first
    assert "warning: the remote store" in done.err


def test_a_recipe_that_fails_on_one_architecture(fleet: Fleet, tmp_path: Path) -> None:
    """The other architecture, and the other recipe, are built; the error names recipe and architecture."""
    half = fleet.recipe(tmp_path, "half", "only", arch=["amd64", "arm64"])
    whole = fleet.recipe(tmp_path, "whole", "tool")
    done = fleet.run(tmp_path, "build", half, whole, "--dask", fleet.cluster.address)
    assert done.status == 1
    assert "half.yaml" in done.err and "only" in done.err and "arm64" in done.err
    assert (tmp_path / "out/whole/amd64/rootfs.tar").exists() and (tmp_path / "out/half/amd64/rootfs.tar").exists()
    assert not (tmp_path / "out/half/arm64").exists()


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGINT, "stuck"), (signal.SIGTERM, "late"), (signal.SIGKILL, "gone")],
    ids=["interrupt", "terminate", "kill"],
)
def test_a_signal_ends_it_within_two_seconds(number: int, name: str, fleet: Fleet, tmp_path: Path) -> None:
    """The steps end on their workers too, which leave nothing half-done and take the next run."""
    recipe = fleet.recipe(tmp_path, f"signal-{name}", name)
    fault = fleet.server.fault(f"*/{name}_*.deb", "stall", after=10, times=None)
    with building(fleet, tmp_path, recipe) as process:
        eventually(lambda: fleet.server.paths(f"*/{name}_*.deb"))
        begin = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert time.monotonic() - begin < 2.5
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), out + err
    assert not [word for word in NOISE if word in err], err
    assert not (tmp_path / "out").exists() or not artifacts(tmp_path)
    eventually(lambda: not doing(fleet.alpha) and not doing(fleet.beta), 5)
    fault.times = 0
    fleet.build(tmp_path, recipe)


# ---- what cannot be begun


def nowhere(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    return "tcp://127.0.0.1:1", {}


def another_server(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    return fleet.server.base.replace("http", "tcp"), {}


def no_address(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    return "scheduler", {}


def no_file(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    return "./scheduler.json", {}


def no_worker(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    return stack.enter_context(cluster(place / "empty")).address, {}


def no_remote(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    return fleet.cluster.address, {"MKROOT_STORE_REMOTE": ""}


def remote_gone(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    return fleet.cluster.address, {"MKROOT_STORE_REMOTE": "127.0.0.1:1/team/store"}


def other_key(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    fleet.build(place, fleet.recipe(place, "sealed", "base"))
    shutil.rmtree(place / "out")
    return fleet.cluster.address, {"MKROOT_STORE_KEY": "6b" * 32}


def read_only(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    registry = stack.enter_context(Registry(place / "registry", read_only=True))
    return fleet.cluster.address, {"MKROOT_STORE_REMOTE": f"{registry.host}/team/store"}


def full(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    """A registry that takes what is tiny, and has no room for a package."""
    registry = stack.enter_context(memory_registry())

    def fault(request: Request) -> bool:
        if request.command not in ("PUT", "PATCH") or int(request.headers.get("Content-Length") or 0) < 1000:
            return False
        request.body()
        request.refuse(507, "DENIED", "no space left on device")
        return True

    registry.faults.append(fault)
    return fleet.cluster.address, {"MKROOT_STORE_REMOTE": f"{registry.host}/team/store"}


def other_version(fleet: Fleet, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict[str, str]]:
    info = place / "older/mkroot-0.0.7.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mkroot\nVersion: 0.0.7\n")
    made = stack.enter_context(cluster(place / "older"))
    path = f"{place / 'older'}:{made.environ['PYTHONPATH']}"
    made.worker("epsilon", environ={"PYTHONPATH": path})
    return made.address, {}


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (nowhere, ["no scheduler answers at tcp://127.0.0.1:1", "hint:"]),
        (another_server, ["is no Dask scheduler", "hint:"]),
        (no_address, ["`scheduler` is no scheduler's address", "tcp://HOST:PORT"]),
        (no_file, ["./scheduler.json: there is no such scheduler file"]),
        (no_worker, ["no worker has joined", "mkroot worker tcp://"]),
        (no_remote, ["needs a remote store", "MKROOT_STORE_REMOTE"]),
        (remote_gone, ["worker", "the remote store 127.0.0.1:1/team/store cannot be reached"]),
        (other_key, ["worker", "is sealed with another key"]),
        (read_only, ["worker", "the remote store", "cannot be written"]),
        (full, ["the remote store", "cannot be written", "no space left on device"]),
        (other_version, ["has mkroot 0.0.7, and this machine has", "install the same version"]),
    ],
    ids=lambda value: value.__name__.replace("_", "-") if callable(value) else "",
)
def test_what_cannot_be_begun(
    made: Callable[..., tuple[str, dict[str, str]]], words: list[str], fleet: Fleet, tmp_path: Path
) -> None:
    recipe = fleet.recipe(tmp_path, f"bad-{made.__name__.replace('_', '-')}", "tool")
    with contextlib.ExitStack() as stack:
        address, environ = made(fleet, tmp_path, stack)
        begin = time.monotonic()
        done = fleet.run(tmp_path, "build", recipe, "--dask", address, **environ)
        assert time.monotonic() - begin < (20 if made is not full else 80)
    assert done.status == 1
    for word in words:
        assert word in done.err, done.err
    assert not (tmp_path / "out").exists(), "nothing is half-made"


@pytest.mark.counts("bad-input")
def test_a_worker_without_namespaces_gets_no_scripts(fleet: Fleet, tmp_path: Path) -> None:
    """It says so when it starts; what needs no scripts it does, and what does fails at once, naming worker and lack."""
    needs("unshare", "setpriv")
    if subprocess.run(["unshare", "-U", "-r", "true"], capture_output=True).returncode:
        pytest.skip("no user namespace can be made here")
    with cluster(tmp_path / "weak") as weak:
        worker = weak_worker(weak)
        assert "cannot run maintainer scripts" in worker.told
        plain = fleet.recipe(tmp_path, "weak-plain", "tool")
        scripted = fleet.recipe(tmp_path, "weak-scripted", "tool", configure="scripts")
        done = fleet.run(tmp_path, "build", plain, scripted, "--dask", weak.address)
    assert done.status == 1
    assert (tmp_path / "out/weak-plain/amd64/rootfs.tar").exists()
    assert "weak-scripted" in done.err and "can run maintainer scripts" in done.err and "user namespaces" in done.err


def weak_worker(weak: Cluster) -> Worker:
    """Start a worker that is root of nothing, in a user namespace that may have no other."""
    script = (
        "echo 0 >/proc/sys/user/max_user_namespaces && "
        'exec setpriv --bounding-set=-all --inh-caps=-all --securebits=+noroot,+noroot_locked "$@"'
    )
    return weak.worker("weak", before=("unshare", "-U", "-r", "sh", "-c", script, "sh"))


# ---- building again elsewhere


@pytest.mark.counts("rebuild")
def test_another_worker_builds_it_again(fleet: Fleet, tmp_path: Path) -> None:
    recipe = fleet.recipe(tmp_path, "verified", "only")
    fleet.build(tmp_path, recipe)
    done = fleet.run(tmp_path, "verify", recipe, "--dask", fleet.cluster.address, "--json")
    assert done.status == 0, done.err
    (one,) = done.json["builds"]
    assert {a["state"] for a in one["artifacts"]} == {"same"} and one["ok"]
    builders = {worker: (worker.store / "machine").read_text().strip() for worker in (fleet.alpha, fleet.beta)}
    assert [worker for worker, builder in builders.items() if one["by"].endswith(builder[:8])]
    (tmp_path / "out/verified/amd64/rootfs.tar").write_bytes(b"another")
    done = fleet.run(tmp_path, "verify", recipe, "--dask", fleet.cluster.address)
    assert done.status == 1
    assert "out/verified/amd64/rootfs.tar: not what the remote store has of this build" in done.err


@pytest.mark.counts("hostile")
def test_a_tampered_build_is_found(fleet: Fleet, tmp_path: Path) -> None:
    """Whoever has the key gives out a root that is not the lock's: the second builder names the step and the file."""
    recipe = fleet.recipe(tmp_path, "tampered", "only", outputs=["tar"])
    fleet.build(tmp_path, recipe)
    tamper(fleet, tmp_path)
    shutil.rmtree(tmp_path / "out")
    fleet.build(tmp_path, recipe, store="fresh")
    assert b"\0ev\0" in (tmp_path / "out/tampered/amd64/rootfs.tar").read_bytes(), "the seal is right: it is taken"
    done = fleet.run(tmp_path, "verify", recipe, "--dask", fleet.cluster.address, store="fresh")
    assert done.status == 1
    assert "tampered/amd64/rootfs.tar" in done.err and "/usr/bin/only: content differs" in done.err
    assert "the first difference is in `only`" in done.err


def tamper(fleet: Fleet, place: Path) -> None:
    """Have the remote store's result say that its root holds another program."""
    code = """
import contextlib, hashlib, msgspec, os, shutil, sys
from pathlib import Path
from mkroot import remote
from mkroot.digest import oci
from mkroot.oci.model import Descriptor
from mkroot.progress import Progress
from mkroot.remote.restoring import look
from mkroot.remote.seal import RESULT, TYPES
from mkroot.store.store import Store
tags, key, stack = Path(sys.argv[1]), sys.argv[2], contextlib.ExitStack()
store = Store(Path(os.environ["MKROOT_STORE"]))
stack.enter_context(remote.attached(store, os.environ, Progress()))
floor = remote.remote_of(store)
found = look(floor, store, key)
files, steps = list(found.result.files), list(found.result.steps)
at = next(n for n, f in enumerate(files) if f.path == "rootfs.tar")
data = files[at].data
where = data.index(b"#!", data.index(b"usr/bin/only"))
data = data[:where] + b"ev" + data[where + 2:]
digest = hashlib.sha256(data).hexdigest()
files[at] = msgspec.structs.replace(files[at], data=data, sha256=digest)
old = found.result.files[at].sha256
for n, f in enumerate(files):
    if old.encode() in f.data:
        changed = f.data.replace(old.encode(), digest.encode())
        files[n] = msgspec.structs.replace(f, data=changed, sha256=hashlib.sha256(changed).hexdigest())
n = next(n for n, s in enumerate(steps) if s.name == "only")
steps[n] = msgspec.structs.replace(steps[n], record="0" * 64)
built = found.result.built.replace(old.encode(), digest.encode())
record = msgspec.structs.replace(found.result, files=tuple(files), steps=tuple(steps), built=built)
packed = msgspec.msgpack.encode(record)
aside = store.root / "tmp/evil"
aside.write_bytes(packed)
shutil.rmtree(tags / f"result-{key}")
first = Descriptor(media_type=TYPES[RESULT], digest=oci(hashlib.sha256(packed).hexdigest()), size=len(packed))
floor.remote.put(RESULT, key, [(first, aside)])
aside.unlink()
"""
    tags = fleet.registry.data / "repositories/team/store/_manifests/tags"
    newest = max(tags.glob("result-*"), key=lambda path: path.stat().st_mtime_ns)
    words = [PROGRAM[0], "-c", code, str(tags), newest.name.removeprefix("result-")]
    done = subprocess.run(words, env=fleet.environ(place, "tampering"), cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.counts("bad-input")
def test_the_builder_does_not_verify_itself(fleet: Fleet, tmp_path: Path) -> None:
    recipe = fleet.recipe(tmp_path, "lonely", "only")
    with cluster(tmp_path / "lonely-cluster") as lonely:
        lonely.worker("only")
        done = fleet.run(tmp_path, "build", recipe, "--dask", lonely.address)
        assert done.status == 0, done.err
        done = fleet.run(tmp_path, "verify", recipe, "--dask", lonely.address)
    assert done.status == 1
    assert "is another machine than the one that built it" in done.err
    assert "start a worker with a store of its own" in done.err


# ---- real packages, real scripts


@pytest.mark.archive
@pytest.mark.counts("rebuild")
def test_real_packages_and_their_scripts(tmp_path: Path) -> None:
    """Two recipes that share the essential set; then workers that have nothing, and a mirror that is away."""
    needs("docker-registry")
    mirrors = {k: v for k, v in os.environ.items() if k.startswith("MKROOT_MIRROR_") or k == "MKROOT_CONFIG"}
    with Registry(tmp_path / "registry") as registry, cluster(tmp_path / "cluster") as dask:
        shared = {"MKROOT_STORE_REMOTE": f"{registry.host}/store", "MKROOT_STORE_KEY": SECRET}
        environ = environ_of(tmp_path) | mirrors | shared | {"MKROOT_STORE": str(tmp_path / "store")}
        for name, include in (("real-a", ["netbase"]), ("real-b", ["media-types", "netbase"])):
            data = {"version": 1, "name": name, "distro": "debian", "suite": "bookworm", "arch": ["amd64"]}
            data |= {"packages": {"variant": "essential", "include": include}, "apt": {"mirror": "none"}}
            (tmp_path / f"{name}.yaml").write_text(json.dumps({**data, "outputs": ["oci"]}))
        for worker in [dask.worker(name, environ=mirrors, wait=False) for name in ("alpha", "beta")]:
            dask.await_(worker)
        recipes = ("real-a.yaml", "real-b.yaml")
        done = run(tmp_path, environ, "build", *recipes, "--dask", dask.address)
        if any(text in done.err for text in ("does not answer", "cannot be reached", "no mirror of")):
            pytest.skip(f"the archive does not answer: {done.err[-300:]}")
        assert done.status == 0, done.err
        first = artifacts(tmp_path)
        alone = environ | {"MKROOT_STORE_REMOTE": "", "MKROOT_STORE": str(tmp_path / "apart")}
        done = run(tmp_path, alone, "build", "real-b.yaml", "-o", "apart-out")
        assert done.status == 0, done.err
        apart = tmp_path / "apart-out/real-b/amd64"
        assert {str(p.relative_to(apart)): p.read_bytes() for p in apart.rglob("*") if p.is_file()} == {
            path.removeprefix("real-b/amd64/"): data for path, data in first.items() if path.startswith("real-b/")
        }
        shutil.rmtree(tmp_path / "out")
        away = {"MKROOT_MIRROR_DEBIAN": "http://127.0.0.1:1/debian"}
        with cluster(tmp_path / "second") as second:
            worker = second.worker("gamma", environ=away)
            fresh = environ | away | {"MKROOT_STORE": str(tmp_path / "fresh")}
            done = run(tmp_path, fresh, "build", *recipes, "--dask", second.address)
            assert done.status == 0, done.err
            assert artifacts(tmp_path) == first
            assert not (worker.store / "debs").exists() or not any((worker.store / "debs").iterdir())


def test_a_worker_needs_a_store_and_a_scheduler_file(tmp_path: Path) -> None:
    environ = environ_of(tmp_path)
    done = run(tmp_path, environ | {"MKROOT_STORE": "/proc/none"}, "worker", "tcp://127.0.0.1:1")
    assert done.status == 1 and "takes no step" in done.err and "cannot be a worker" in done.err
    done = run(tmp_path, environ, "worker", "./none.json")
    assert done.status == 1 and "there is no such scheduler file" in done.err
    done = run(tmp_path, environ, "worker", "tcp://127.0.0.1:1", "--jobs", "0")
    assert done.status == 2 and "`0` is not a number from 1 to 1024" in done.err
