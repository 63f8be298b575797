"""A remote store in Debian's docker-registry: what one store made, another takes; whatever happens to the registry."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.building import as_user, build, needs_root, ordinary_user
from tests.integration.registries import PASSWORD, USER, Served, served
from tests.testarchive import Archive, File
from tests.unit.commands import Done, Program
from tests.unit.remotes import BIG, SECRET, tree

REPOSITORY = "team/store"
HAD = "a build that it has"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "registry") as found:
        yield found


class Fleet:
    """A folder with an archive that is served, so that requests can be counted, and a recipe of two packages."""

    def __init__(self, folder: Path, uri: str, archive: Archive, **more: Any) -> None:
        self.program = Program(folder)
        self.folder = folder
        settings = {"configure": "none", "outputs": ["tar.zst", "oci"], "packages": {"include": ["tool"]}}
        self.program.recipe("r.yaml", archive.recipe(uri=uri, **settings | more))

    def build(self, registry: Served, name: str, *more: str, **environ: str) -> Done:
        return self.program("build", "r.yaml", "-o", f"out-{name}", *more, **self.given(registry, name) | environ)

    def given(self, registry: Served, name: str) -> dict[str, str]:
        return {
            "MKROOT_STORE": str(self.folder / f"store-{name}"),
            "MKROOT_STORE_REMOTE": f"{registry.host}/{REPOSITORY}",
            "MKROOT_STORE_KEY": SECRET.hex(),
        }

    def tree(self, name: str) -> Mapping[str, tuple[int, str]]:
        return tree(self.folder / f"out-{name}")

    def left(self, name: str) -> list[str]:
        return os.listdir(self.folder / f"store-{name}" / "tmp")


def an_archive(folder: Path, big: bytes = BIG) -> Archive:
    archive = Archive(folder)
    archive.add("base", "1.0", essential=True, files={"etc/base.conf": b"base\n"})
    archive.add("tool", "2.0-1", files={"usr/bin/tool": File(content=big, mode=0o755)})
    return archive


def test_a_second_store_reaches_no_mirror(registry: Served, tmp_path: Path) -> None:
    archive = an_archive(tmp_path / "archive")
    with archive.serve() as server:
        fleet = Fleet(tmp_path, server.uri, archive)
        first = fleet.build(registry, "one")
        assert first.status == 0, first.err
        kept = registry.blobs()
    # The mirror is gone; the lock pins what there is to build.
    second = fleet.build(registry, "two")
    assert second.status == 0, second.err
    assert HAD in second.err and "warning" not in second.err
    assert fleet.tree("one") == fleet.tree("two")
    assert not fleet.left("one") and not fleet.left("two")
    # A further output of the same packages: layers come from the registry, nothing from the mirror.
    third = fleet.build(registry, "three", "--output", "tar.gz", "--output", "squashfs")
    assert third.status == 0, third.err
    assert "packages: 0 fetched" in third.err and HAD not in third.err
    # What is there is not sent again.
    (tmp_path / "store-two" / "machine").unlink(missing_ok=True)
    before = len(registry.requests("PUT"))
    again = fleet.build(registry, "two-again", MKROOT_STORE=str(tmp_path / "store-two"))
    assert again.status == 0 and len(registry.requests("PUT")) == before and not registry.requests("PATCH")
    assert registry.blobs() >= kept


@pytest.mark.counts("fault")
def test_a_blob_that_the_registrys_disk_spoilt(registry: Served, tmp_path: Path) -> None:
    archive = an_archive(tmp_path / "archive")
    with archive.serve() as server:
        fleet = Fleet(tmp_path, server.uri, archive)
        assert fleet.build(registry, "one").status == 0
        blobs = list(registry.data.glob("docker/registry/v2/blobs/sha256/*/*/data"))
        for blob in blobs:
            data = blob.read_bytes()
            if len(data) > 100_000:  # the archive, the image's layer, the package's layer
                blob.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
        second = fleet.build(registry, "two")
        assert second.status == 0, second.err
        assert "the registry sends something else" in second.err and f"{registry.host}/{REPOSITORY}" in second.err
        assert fleet.tree("one") == fleet.tree("two")
        third = fleet.build(registry, "three")
        assert HAD in third.err and "warning" not in third.err, "it was put there anew"
        assert fleet.tree("one") == fleet.tree("three")


@pytest.mark.counts("fault")
@pytest.mark.parametrize("strict", [True, False])
def test_the_registry_stops_for_ten_seconds(registry: Served, tmp_path: Path, strict: bool) -> None:
    """It is stopped in the middle of what is kept; a strict build waits, another one ends and warns."""
    archive = an_archive(tmp_path / "archive")
    with archive.serve() as server:
        fleet = Fleet(tmp_path, server.uri, archive)
        [pid] = [int(p) for p in _listeners(registry)]
        more = {"MKROOT_STORE_REMOTE_STRICT": "1"} if strict else {}
        stopped = threading.Event()

        def stop() -> None:
            until = time.monotonic() + 30
            while not registry.requests("POST") and time.monotonic() < until:
                time.sleep(0.002)
            os.kill(pid, signal.SIGSTOP)
            stopped.set()
            time.sleep(10)
            os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=stop)
        thread.start()
        done = fleet.build(registry, "one", **more)
        thread.join()
        assert stopped.is_set() and done.status == 0, done.err
        assert not fleet.left("one")
        again = fleet.build(registry, "two")
        assert again.status == 0 and fleet.tree("one") == fleet.tree("two")
        if strict:
            assert HAD in again.err, "the result is there in the end"


def _listeners(registry: Served) -> list[str]:
    """The processes that listen on the registry's port."""
    port = registry.host.rpartition(":")[2]
    config = str(registry.data.parent / "config.yml")
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if config.encode() in words:
            found.append(entry.parent.name)
    assert found, f"nobody listens on {port}"
    return found


@pytest.mark.counts("fault")
def test_a_registry_that_dies_and_comes_back(tmp_path: Path) -> None:
    """Killed while a strict build keeps its result, and started again on the same port ten seconds later."""
    archive = an_archive(tmp_path / "archive")
    with archive.serve() as server, served(tmp_path / "registry") as registry:
        fleet = Fleet(tmp_path, server.uri, archive)
        [pid] = [int(p) for p in _listeners(registry)]
        again: list[subprocess.Popen[bytes]] = []

        def kill() -> None:
            until = time.monotonic() + 30
            while not registry.requests("POST") and time.monotonic() < until:
                time.sleep(0.002)
            os.kill(pid, signal.SIGKILL)
            time.sleep(10)
            config = str(registry.data.parent / "config.yml")
            again.append(subprocess.Popen(["docker-registry", "serve", config], stderr=subprocess.DEVNULL))

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            done = fleet.build(registry, "one", MKROOT_STORE_REMOTE_STRICT="1")
            thread.join()
            assert done.status == 0, done.err
            second = fleet.build(registry, "two")
            assert HAD in second.err and fleet.tree("one") == fleet.tree("two"), second.err
        finally:
            thread.join()
            for process in again:
                process.kill()
                process.wait()


@pytest.mark.counts("fault")
def test_no_right_to_push_and_the_right_by_login(tmp_path: Path) -> None:
    archive = an_archive(tmp_path / "archive")
    with archive.serve() as server, served(tmp_path / "registry", login=True) as registry:
        fleet = Fleet(tmp_path, server.uri, archive)
        done = fleet.build(registry, "none")
        assert done.status == 0 and "the registry wants a login for this" in done.err, done.err
        assert done.err.count("warning") <= 2
        strict = fleet.build(registry, "strict", MKROOT_STORE_REMOTE_STRICT="1")
        assert strict.status == 1 and f"`mkroot login {registry.host}`" in strict.err, strict.err
        login = fleet.program("login", registry.host, "-u", USER, "--password-stdin", stdin=PASSWORD)
        assert login.status == 0, login.err
        assert "warning" not in fleet.build(registry, "one").err
        second = fleet.build(registry, "two")
        assert HAD in second.err and fleet.tree("one") == fleet.tree("two"), second.err
        assert PASSWORD not in second.err + strict.err + done.err


def test_layers_of_root_serve_an_ordinary_user(registry: Served, tmp_path_factory: pytest.TempPathFactory) -> None:
    needs_root()
    user = ordinary_user()
    folder = tmp_path_factory.mktemp("shared")
    for path in (folder, *folder.parents[:3]):
        path.chmod(0o755)
    archive = an_archive(folder / "archive")
    with archive.serve() as server:
        fleet = Fleet(folder, server.uri, archive)
        assert fleet.build(registry, "one").status == 0
        home = folder / "home-of-user"
        home.mkdir()
        subprocess.run(["chown", "-R", user, home], check=True)
        given = fleet.given(registry, "user") | {"MKROOT_STORE": str(home / "store")}
        command = [*as_user(user, given), "build", str(folder / "r.yaml"), "-o", str(home / "out"), "--locked"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=home)
        assert done.returncode == 0, done.stderr
        assert HAD in done.stderr
        assert tree(home / "out") == fleet.tree("one")
        other = [*command, "--output", "tar.gz"]
        more = subprocess.run(other, capture_output=True, text=True, cwd=home)
        assert more.returncode == 0 and "packages: 0 fetched" in more.stderr, more.stderr


@pytest.mark.archive
@pytest.mark.counts("rebuild")
def test_no_script_runs_twice_in_a_fleet(registry: Served, tmp_path: Path) -> None:
    """A real base: another store takes packages and stages from the first one's, and gives the same bytes."""
    given = {"MKROOT_STORE_REMOTE": f"{registry.host}/{REPOSITORY}", "MKROOT_STORE_KEY": SECRET.hex()}
    build("recipes/ubuntu-base.yaml", tmp_path / "one", tmp_path / "store-one", "--output", "tar.zst", env=given)
    made = [
        build("recipes/ubuntu-base.yaml", tmp_path / name, tmp_path / f"store-{name}", "--output", "tar", env=env)
        for name, env in (("two", given), ("alone", {}))
    ]
    shared, alone = (one["sources"] for one in made)
    assert shared["fetched"] == 0 and shared["stages_stored"] == shared["stages"] == alone["stages"] > 1
    assert alone["fetched"] > 50 and alone["stages_stored"] == 0
    assert made[0]["artifacts"][0]["digest"] == made[1]["artifacts"][0]["digest"]
