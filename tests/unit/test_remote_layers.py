"""A layer on the second floor: the same bytes in another store, fetched once, and no other blob taken for it."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mkroot.progress import Progress
from mkroot.remote import Settings, attached, remote_of
from mkroot.remote import entries as patience
from mkroot.remote import layers as waiting
from mkroot.remote.layers import RemoteLayers
from mkroot.remote.parcel import packed, unpacked
from mkroot.remote.seal import EntryError
from mkroot.store.damage import DamageError
from mkroot.store.layer import Layer, LayerStore, frame_key
from mkroot.store.store import Store
from tests.testarchive import File
from tests.unit.layers import layer
from tests.unit.registryserver import MemoryRegistry, Request, memory_registry
from tests.unit.remotes import SECRET, tags

CONTENT = random.Random(3).randbytes(30_000)


class Told(Progress):
    """Keeps what the user is warned of."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def warn(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with memory_registry() as found:
        yield found


def floor_of(registry: MemoryRegistry, store: Store, told: Told | None = None, *, strict: bool = False) -> RemoteLayers:
    settings = Settings(host=registry.host, path="team/store", secret=SECRET, strict=strict)
    return RemoteLayers(store, settings, {"HOME": str(store.root)}, told or Told())


def made(folder: Path, count: int = 1) -> tuple[Store, list[Layer]]:
    """A store with layers of packages."""
    store = Store(folder / "made")
    files = [{"usr/bin/x": File(content=CONTENT + bytes([n]), mode=0o755), "etc/x": b"x"} for n in range(count)]
    return store, [layer(store, folder, f"pkg{n}", files=f) for n, f in enumerate(files)]


def kept(registry: MemoryRegistry, folder: Path, count: int = 1) -> tuple[Store, list[str]]:
    """Layers that a store has kept on the second floor."""
    store, layers = made(folder, count)
    floor = floor_of(registry, store)
    floor.offer(one.key for one in layers)
    floor.flush()
    floor.close()
    assert len(tags(registry, "layer")) == count
    registry.requests.clear()
    return store, [one.key for one in layers]


def bytes_of(store: Store, key: str) -> tuple[bytes, bytes]:
    return store.path("layers", key).read_bytes(), store.path("frames", frame_key(key, "zstd")).read_bytes()


def test_another_store_gets_the_same_bytes(registry: MemoryRegistry, tmp_path: Path) -> None:
    store, keys = kept(registry, tmp_path, 5)
    other = Store(tmp_path / "other")
    told = Told()
    other.beyond = floor_of(registry, other, told)
    assert all(LayerStore(other).has(key) for key in keys)
    assert all(bytes_of(store, key) == bytes_of(other, key) for key in keys)
    assert len(registry.asked("GET", "/blobs/")) == 5 and not told.lines
    assert LayerStore(other).load(keys[0]) == LayerStore(store).load(keys[0])
    assert not list((other.root / "tmp").iterdir())


def test_what_is_not_there_is_asked_for_once(registry: MemoryRegistry, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.beyond = floor_of(registry, store)
    assert not LayerStore(store).has("0" * 64) and not LayerStore(store).has("0" * 64)
    assert len(registry.asked("GET", "/manifests/")) == 1


def test_a_frame_that_is_gone_comes_back(registry: MemoryRegistry, tmp_path: Path) -> None:
    store, [key] = kept(registry, tmp_path)
    store.path("frames", frame_key(key, "zstd")).unlink()
    store.beyond = floor_of(registry, store)
    layers = LayerStore(store)
    found = layers.load(key)
    assert layers.read(found, next(e for e in found.entries if e.path == "usr/bin/x")) == CONTENT + b"\0"


def test_two_builds_on_one_store_fetch_it_once(registry: MemoryRegistry, tmp_path: Path) -> None:
    _, keys = kept(registry, tmp_path, 4)
    stores = [Store(tmp_path / "other") for _ in range(3)]
    registry.once("GET", "/blobs/", lambda r: (time.sleep(0.1), r.cut()), times=1)  # type: ignore[arg-type]
    floors = [floor_of(registry, store) for store in stores]
    threads = [threading.Thread(target=floor.bring, args=(keys,)) for floor in floors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(stores[0].has("layers", key) for key in keys)
    assert len(registry.asked("GET", "/blobs/")) == 5, "each once, and the one that broke off again"


def test_what_is_there_is_not_sent_again(registry: MemoryRegistry, tmp_path: Path) -> None:
    store, keys = kept(registry, tmp_path, 3)
    floor = floor_of(registry, store)
    floor.offer(keys)
    floor.offer(keys)
    floor.flush()
    assert len(registry.asked("HEAD", "/manifests/")) == 3
    assert not registry.asked("PUT") and not registry.asked("POST")


def test_nothing_works_while_processes_are_forked(registry: MemoryRegistry, tmp_path: Path) -> None:
    store, layers = made(tmp_path, 6)
    floor = floor_of(registry, store)
    before = threading.active_count()
    floor.begin()
    floor.offer(one.key for one in layers)
    floor.rest()
    mine = [t for t in threading.enumerate() if t.name == "mkroot-keep"]
    assert not mine and threading.active_count() <= before + 6, "the registry's own may linger"
    there = len(tags(registry, "layer"))
    floor.offer(["1" * 64])
    time.sleep(0.05)
    assert len(tags(registry, "layer")) == there
    floor.flush()
    assert len(tags(registry, "layer")) == 6, "what was held back goes out afterwards"


def test_attached_is_for_a_while(registry: MemoryRegistry, tmp_path: Path) -> None:
    store, [one] = made(tmp_path)
    environ = {
        "HOME": str(tmp_path),
        "MKROOT_STORE_REMOTE": f"{registry.host}/team/store",
        "MKROOT_STORE_KEY": SECRET.hex(),
    }
    with attached(store, environ, Told()):
        floor = remote_of(store)
        assert floor is not None
        with attached(store, environ, Told()):
            assert remote_of(store) is floor
        assert remote_of(store) is floor
        floor.offer([one.key])
    assert remote_of(store) is None and len(tags(registry, "layer")) == 1
    with pytest.raises(ZeroDivisionError), attached(store, environ, Told()):
        raise ZeroDivisionError
    assert remote_of(store) is None


# The blob


def parcel(folder: Path, *, salted: bool = False) -> tuple[Store, str, Path]:
    store, [one] = made(folder)
    path = folder / "parcel"
    blob = packed(store, one.key, path, salted=salted)
    assert blob.size == path.stat().st_size
    return store, one.key, path


@pytest.mark.parametrize("salted", [False, True])
def test_there_and_back(tmp_path: Path, salted: bool) -> None:
    store, key, path = parcel(tmp_path, salted=salted)
    record, frame = bytes_of(store, key)
    assert unpacked(path, key) == ("pkg0", record) and path.read_bytes() == frame


def test_one_layer_is_one_blob_whoever_packs_it(tmp_path: Path) -> None:
    store, [one] = made(tmp_path)
    found = {packed(store, one.key, tmp_path / f"p{n}").digest for n in range(2)}
    assert len(found) == 1
    assert packed(store, one.key, tmp_path / "salted", salted=True).digest not in found


@pytest.mark.counts("hostile")
def test_a_blob_cut_anywhere_is_none(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    _, key, path = parcel(tmp_path)
    data = path.read_bytes()
    cuts = [*range(64), *range(64, len(data), 997), *range(len(data) - 64, len(data))]
    for at in cuts:
        path.write_bytes(data[:at])
        with pytest.raises(EntryError, match="not a layer of this store"):
            unpacked(path, key)
    record_property("cases", len(cuts))


@pytest.mark.counts("hostile")
def test_a_record_or_a_table_with_another_bit_is_none(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    store, key, path = parcel(tmp_path)
    data = path.read_bytes()
    record = len(store.path("layers", key).read_bytes())
    begin = len(data) - 16 - record - 60
    places = [*range(begin, len(data), 7)]
    for at in places:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(EntryError, match="not a layer of this store"):
            unpacked(path, key)
    record_property("cases", len(places))


@pytest.mark.counts("hostile")
def test_another_layer_is_none(tmp_path: Path) -> None:
    _, key, path = parcel(tmp_path)
    with pytest.raises(EntryError, match=f"it is the layer {key}"):
        unpacked(path, "0" * 64)


@pytest.mark.counts("fault")
@pytest.mark.parametrize("kind", ["layers", "frames"])
@pytest.mark.parametrize("damage", ["bit", "cut", "empty"])
def test_damage_is_not_packed(tmp_path: Path, kind: str, damage: str) -> None:
    store, [one] = made(tmp_path)
    path = store.path(kind, one.key if kind == "layers" else frame_key(one.key, "zstd"))
    data = path.read_bytes()
    at = len(data) // 2
    changed = {"bit": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "cut": data[:at], "empty": b""}
    path.write_bytes(changed[damage])
    with pytest.raises(DamageError):
        packed(store, one.key, tmp_path / "parcel")


# A registry in trouble


def status(number: int) -> object:
    def deal(request: Request) -> None:
        request.body()
        request.refuse(number, "UNKNOWN")

    return deal


def stall(request: Request) -> None:
    """Answer nothing until the other side has gone."""
    request.connection.recv(1)


@pytest.mark.counts("fault")
def test_three_in_a_row_and_it_is_left_alone(registry: MemoryRegistry, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    told = Told()
    floor = floor_of(registry, store, told)
    registry.once("GET", "/manifests/", status(400), times=10**6)  # type: ignore[arg-type]
    for n in range(8):
        floor.bring([f"{n}" * 64])
    assert len(registry.asked("GET", "/manifests/")) == 3
    assert len(told.lines) == 3 and "cannot be read" in told.lines[-1] and "goes on without it" in told.lines[-1]


@pytest.mark.counts("fault")
def test_one_that_fails_now_and_then_is_not(registry: MemoryRegistry, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    floor = floor_of(registry, store)
    for n in range(8):
        if n % 2:
            registry.once("GET", "/manifests/", status(400))  # type: ignore[arg-type]
        floor.bring([f"{n}" * 64])
    assert len(registry.asked("GET", "/manifests/")) == 8


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("method", "part"), [("GET", "/v2/"), ("GET", "/manifests/"), ("GET", "/blobs/"), ("POST", "/uploads/")]
)
def test_one_that_is_silent_costs_a_bounded_wait(
    registry: MemoryRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, part: str
) -> None:
    store, keys = kept(registry, tmp_path, 12)
    monkeypatch.setattr(patience, "TIMEOUT", 0.2)
    told = Told()
    registry.once(method, part, stall, times=10**6)
    begin = time.monotonic()
    if method == "GET":
        other = Store(tmp_path / "other")
        floor = floor_of(registry, other, told)
        floor.bring(keys)
        assert not any(other.has("layers", key) for key in keys)
    else:
        registry.manifests.clear()
        registry.blobs.clear()
        floor = floor_of(registry, store, told)
        floor.offer(keys)
        floor.flush()
    floor.close()
    assert time.monotonic() - begin < 8
    assert any("goes on without it" in line for line in told.lines) and len(told.lines) <= 4, told.lines


@pytest.mark.counts("fault")
def test_one_that_takes_nothing_is_not_waited_for(
    registry: MemoryRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SILENCE", 0.3)
    store, layers = made(tmp_path, 2)
    told = Told()
    registry.once("POST", "/uploads/", stall, times=10**6)
    floor = floor_of(registry, store, told)
    floor.offer(one.key for one in layers)
    begin = time.monotonic()
    floor.flush()
    floor.close()
    assert time.monotonic() - begin < 3
    [line] = told.lines
    assert "takes nothing for" in line and registry.host in line


@pytest.mark.counts("fault")
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_blob_that_is_gone_for_a_moment(registry: MemoryRegistry, tmp_path: Path, times: int) -> None:
    """As docker-registry has it, where two machines send the same."""
    store, [one] = made(tmp_path)

    def vanish(request: Request) -> None:
        request.body()
        registry.blobs.clear()
        request.refuse(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")

    registry.once("PUT", "/manifests/", vanish, times=times)
    told = Told()
    floor = floor_of(registry, store, told)
    floor.offer([one.key])
    floor.flush()
    assert len(tags(registry, "layer")) == (times < 3)
    assert [line for line in told.lines if "blob unknown to registry" in line] == told.lines
    assert len(told.lines) == (times == 3)
    if times < 3:
        assert len(registry.blobs["team/store"]) == 2, "what had vanished was sent again"


@pytest.mark.counts("fault")
@pytest.mark.parametrize("way", ["reading", "writing"])
def test_a_strict_build_waits_for_one_that_comes_back(
    registry: MemoryRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    store, keys = kept(registry, tmp_path, 2)
    monkeypatch.setattr(patience, "PAUSE", 0.05)
    told = Told()
    full = copy.deepcopy((registry.blobs, registry.manifests))
    target = Store(tmp_path / "other") if way == "reading" else store
    floor = floor_of(registry, target, told, strict=True)
    monkeypatch.setattr(floor.remote._registry, "attempts", 1)
    if way == "reading":
        registry.once("GET", "/blobs/", status(503), times=7)  # type: ignore[arg-type]
        floor.bring(keys)
        assert all(bytes_of(target, key) == bytes_of(store, key) for key in keys)
    else:
        registry.blobs, registry.manifests = {}, {}
        registry.once("PUT", "/manifests/", status(503), times=7)  # type: ignore[arg-type]
        floor.offer(keys)
        floor.flush()
        assert registry.manifests.keys() == full[1].keys()
    assert not told.lines


@pytest.mark.counts("fault")
def test_a_strict_build_does_not_wait_for_ever(
    registry: MemoryRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSE", 0.05)
    monkeypatch.setattr(patience, "PATIENCE", 0.3)
    told = Told()
    floor = floor_of(registry, Store(tmp_path / "store"), told, strict=True)
    monkeypatch.setattr(floor.remote._registry, "attempts", 1)
    registry.once("GET", "/manifests/", status(503), times=10**6)  # type: ignore[arg-type]
    begin = time.monotonic()
    for n in range(8):
        floor.bring([f"{n}" * 64])
    assert 0.3 <= time.monotonic() - begin < 3
    assert "goes on without it" in told.lines[-1]
