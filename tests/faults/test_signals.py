"""Ctrl-C and its kin end a command within two seconds, whatever it does, and leave nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.faults.archives import STATIC, static_archive
from tests.faults.forge import Forge
from tests.faults.works import Site, World
from tests.testarchive import Server

pytestmark = pytest.mark.counts("fault")

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SECONDS = 2.0


def ended_well(site: Site, ended: object, number: int) -> None:
    status, took, err, left = (getattr(ended, n) for n in ("status", "took", "err", "left"))
    assert status == 128 + number, err
    assert took < SECONDS
    assert "Traceback" not in err and "internal error" not in err
    assert left == ()
    assert site.rubbish() == []


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, forge: Forge) -> Iterator[tuple[Site, Server]]:
    folder = tmp_path_factory.mktemp("slow")
    archive = static_archive(folder / "archive")
    with archive.serve() as server:
        yield Site(folder / "site", forge, archive.recipe(uri=server.uri, **STATIC)), server


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("file", ["*/InRelease", "*/binary-amd64/*", "*/pool/*"])
@pytest.mark.parametrize("kind", ["stall", "status"])
def test_a_build_that_waits_for_a_mirror(
    slow: tuple[Site, Server], kind: str, file: str, number: signal.Signals
) -> None:
    """The mirror is silent, or the next attempt is half a minute away."""
    site, server = slow
    site.clear()
    server.faults.clear()
    server.fault(file, kind, times=None, after=20, status=503, headers=(("Retry-After", "25"),))
    ended = site.build(signal=int(number), after=0.8)
    ended_well(site, ended, number)
    assert not site.out.exists()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("after", [0.02, 0.1, 0.2, 0.3, 0.45])
def test_a_build_with_scripts(scripted: World, after: float, number: signal.Signals) -> None:
    site = scripted.fresh()
    ended = site.build(signal=int(number), after=after)
    if ended.status == 0:
        assert site.made() == scripted.right  # it was faster
    else:
        ended_well(site, ended, number)
        scripted.whole_or_none()
    scripted.heals()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("command", ["pull", "push"])
def test_a_registry_that_is_silent(
    slow: tuple[Site, Server], command: str, number: signal.Signals, silent: str
) -> None:
    site, server = slow
    site.clear()
    server.faults.clear()
    assert site.build().status == 0
    reference = f"{silent}/mini:latest"
    assert site.run("tag", "mini:latest", reference).status == 0
    ended = site.run(command, reference, signal=int(number), after=0.8)
    ended_well(site, ended, number)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(20)
        yield f"127.0.0.1:{s.getsockname()[1]}"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_container_whose_command_does_not_end(scripted: World, number: signal.Signals) -> None:
    site = scripted.fresh()
    scripted.heals()
    ended = site.run("run", "--rm", "mini:latest", "sh", "-c", "while :; do :; done", signal=int(number), after=0.8)
    assert ended.status in (128 + number, 0), ended.err
    assert ended.left == ()
    assert ended.took < 12
    assert '"id"' not in site.run("ps", "-a", "--json").out
