"""A mirror that fails in the middle of a build: patience where it may pass, else one message; and no wrong byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.archives import STATIC, static_archive
from tests.faults.forge import Forge
from tests.faults.works import Site, World, said_once
from tests.testarchive import DAY, Server

pytestmark = pytest.mark.counts("fault")

FILES = {
    "release": "*Release*",
    "index": "*/binary-amd64/*",
    "index-by-digest": "*/by-hash/*",
    "package": "*/pool/*/lib_*",
}
PASSING: dict[str, dict[str, Any]] = {
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503, "headers": (("Retry-After", "1"),)},
    "hangs-up": {"kind": "reset"},
    "breaks-off": {"kind": "truncate", "after": 40},
    "stalls-a-moment": {"kind": "slow", "seconds": 0.7},
}
LASTING: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {  # and what is said, one of these
    "500": ({"kind": "status", "status": 500}, ("status 500",)),
    "403": ({"kind": "status", "status": 403}, ("refuses access (status 403)",)),
    "404": ({"kind": "status", "status": 404}, ("does not have it", "has none of the forms", "there is no suite")),
    "garbage": ({"kind": "corrupt", "after": 60}, ("is not", "signed", "signature")),
    "a-web-page": (
        {"kind": "body", "content": b"<html><body>Please sign in</body></html>"},
        ("is not", "signed", "promised"),
    ),
    "endless": ({"kind": "oversend", "after": 40 << 20}, ("longer than", "is not", "more than")),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, forge: Forge) -> Iterator[tuple[World, Server]]:
    folder = tmp_path_factory.mktemp("mirror")
    archive = static_archive(folder / "archive")
    with archive.serve() as server:
        yield World(Site(folder / "site", forge, archive.recipe(uri=server.uri, **STATIC))), server


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("file", ["release", "index", "package"])
def test_trouble_that_passes(world: tuple[World, Server], file: str, fault: str) -> None:
    static, server = world
    static.fresh()
    server.faults.clear()
    met = server.fault(FILES[file], **PASSING[fault])
    ended = static.heals()
    assert met.seen == 1
    if PASSING[fault]["kind"] != "slow":
        assert "trying again in" in ended.err, "it says what it waits for"


@pytest.mark.parametrize("fault", LASTING)
@pytest.mark.parametrize("file", ["release", "index", "package"])
def test_trouble_that_stays(world: tuple[World, Server], file: str, fault: str) -> None:
    static, server = world
    site = static.fresh()
    server.faults.clear()
    more, words = LASTING[fault]
    met = server.fault(FILES[file], times=None, **more)
    ended = site.build()
    assert met.seen
    said = said_once(ended)
    assert any(w in said for w in words), said
    assert "127.0.0.1" in said or "lib 1.5" in said, "it names the file"
    assert met.seen <= 24, "patience ends"
    assert site.rubbish() == []
    assert not site.out.exists()
    server.faults.clear()
    static.heals()


def test_an_index_by_digest_that_is_missing_is_taken_by_name(world: tuple[World, Server]) -> None:
    static, server = world
    static.fresh()
    server.faults.clear()
    met = server.fault(FILES["index-by-digest"], "status", status=404, times=None)
    static.heals()
    assert met.seen
    server.faults.clear()


@pytest.mark.parametrize("old", ["index", "packages"])
def test_yesterdays_part_of_an_archive_beside_todays(tmp_path: Path, forge: Forge, old: str) -> None:
    """A mirror in the middle of its update: what is signed and what is there do not fit."""
    archive = static_archive(tmp_path / "archive")
    archive.publish()
    shutil.copytree(archive.tree, tmp_path / "yesterday")
    for suite in list(archive.suites.values()):
        suite.date += DAY
        suite.by_hash = False
        suite.stanzas.clear()
    for name, version in (("tool", "2.0-1"), ("lib", "1.5"), ("base", "1.0")):
        archive.add(name, version, files={f"usr/share/{name}": b"new"}, depends="lib" if name == "tool" else None)
    archive.publish()
    with archive.serve() as server:
        site = Site(tmp_path / "site", forge, archive.recipe(uri=server.uri, **STATIC))
        yesterday = tmp_path / "yesterday"
        today = tmp_path / "today"
        shutil.copytree(archive.tree, today)
        part = "dists/trixie/main" if old == "index" else "pool"
        shutil.rmtree(archive.tree / part)
        shutil.copytree(yesterday / part, archive.tree / part)
        ended = site.build()
        said = said_once(ended)
        assert "is not the one that its signed Release lists" in said or "is not what the signed index promises" in said
        assert site.rubbish() == []
        assert not site.out.exists()
        shutil.rmtree(archive.tree)
        shutil.copytree(today, archive.tree)
        ended = site.build()
        assert ended.status == 0, ended.err
        assert (site.out / "mini/amd64/rootfs/usr/share/lib").read_bytes() == b"new"
        assert site.rubbish() == []
