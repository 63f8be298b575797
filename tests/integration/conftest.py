"""One store for all integration tests of a run, so that a package is fetched once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's store; MKROOT_TEST_STORE names one to keep between runs."""
    if named := os.environ.get("MKROOT_TEST_STORE"):
        return Path(named)
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "store"
