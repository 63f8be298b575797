"""Resolution equals `apt-get install -s` in an empty root, and dose-debcheck has nothing against any answer."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from mkroot.debian.release import Index
from mkroot.errors import ResolutionError
from mkroot.resolve.resolver import resolve
from tests.apt_oracle import RELEASES, Apt, compare, missing, referee
from tests.resolve_cases import Case, cases

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.mark.parametrize("case", [c for c in cases() if c.apt != "differs"], ids=lambda c: c.name)
def test_case_is_what_apt_says(case: Case, tmp_path: Path) -> None:
    indices: list[Index] = []
    for index, text in case.texts(case.stanzas):
        path = tmp_path / index.path
        path.write_text(text)
        indices.append(_at(index, path))
    request = case.request
    theirs = Apt(tmp_path / "apt", indices, (request.architecture, *request.foreign)).install(request)
    if case.apt == "gives up" or case.expect is None:
        assert theirs.refused, theirs.output
    else:
        assert set(theirs.packages.items()) == case.expect, theirs.output
    if case.expect is not None:
        assert referee(resolve(case.universe(), request), tmp_path) is None
    else:
        with pytest.raises(ResolutionError):
            resolve(case.universe(), request)


def _at(index: Index, path: Path) -> Index:
    return Index(
        source=index.source,
        suite=index.suite,
        codename=index.codename,
        architecture=index.architecture,
        path=path,
        sha256=index.sha256,
        not_automatic=index.not_automatic,
    )


@pytest.mark.archive
@pytest.mark.parametrize("release", RELEASES)
def test_random_requests(release: str, tmp_path: Path) -> None:
    cache = Path(os.environ.get("MKROOT_TEST_CACHE") or Path(tempfile.gettempdir()) / f"mkroot-indices-{os.getuid()}")
    cache.mkdir(parents=True, exist_ok=True)
    try:
        tally = compare(release, range(1000, 1010), cache, tmp_path)
    except OSError as e:
        pytest.skip(f"the archive does not answer: {e}")
    assert not tally.different, "\n".join(tally.different)
    assert tally.equal == 10
