"""What the files of this folder share: an interpreter that is kept, and two worlds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.archives import SCRIPTED, STATIC, scripted_archive, static_archive
from tests.faults.forge import Forge, forge
from tests.faults.works import Site, World


@pytest.fixture(scope="session", name="forge")
def _forge() -> Iterator[Forge]:
    with forge() as made:
        yield made


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory, forge: Forge) -> Iterator[World]:
    """A recipe that needs no script, from a mirror on loopback."""
    folder = tmp_path_factory.mktemp("static")
    archive = static_archive(folder / "archive")
    with archive.serve() as server:
        yield World(Site(folder / "site", forge, archive.recipe(uri=server.uri, **STATIC)))


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory, forge: Forge) -> Iterator[World]:
    """A recipe whose packages have scripts."""
    folder = tmp_path_factory.mktemp("scripted")
    archive = scripted_archive(folder / "archive")
    with archive.serve() as server:
        yield World(Site(folder / "site", forge, archive.recipe(uri=server.uri, **SCRIPTED)))
