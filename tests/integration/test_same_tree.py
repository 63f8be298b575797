"""The tree equals what mmdebstrap makes of the same packages, but for a short list that the docs explain."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.integration.building import ROOT, build, differences, members, needs, needs_root

pytestmark = pytest.mark.archive
DOCS = ROOT / "docs/differences.md"
RECIPE = "version: 1\nname: same\ndistro: {distro}\nsuite: {suite}\noutputs: [tar]\n"


def explained() -> list[str]:
    """Return the globs of the table in the docs: what is not in it must be equal."""
    return re.findall(r"^\| `(/[^`]*)` \|", DOCS.read_text(), re.MULTILINE)


def sources(distro: str, suite: str) -> list[str]:
    """Return the one-line sources that mkroot itself would take."""
    from mkroot.origins import origin
    from mkroot.recipe.load import load

    def reader(path: str) -> bytes:
        return RECIPE.format(distro=distro, suite=suite).encode()

    found = origin(load("same.yaml", reader=reader), "amd64", None, os.environ)
    return [f"deb {s.archive} {s.name} {' '.join(found.sources[0].components)}" for s in found.sources[0].suites]


def mmdebstraps(path: Path, distro: str, suite: str, epoch: int, *words: str) -> Path:
    """Have mmdebstrap make a root's tar archive from the sources that mkroot takes."""
    keys = (ROOT / f"mkroot/archive/keys/{distro}.pgp").read_bytes()
    suffix = ".asc" if keys.startswith(b"-----BEGIN") else ".gpg"
    with tempfile.NamedTemporaryFile(suffix=suffix) as ring:  # apt's own user has to read it
        ring.write(keys)
        ring.flush()
        os.chmod(ring.name, 0o644)
        done = subprocess.run(
            ["mmdebstrap", *words, "--mode=root", f"--keyring={ring.name}", suite, str(path), *sources(distro, suite)],
            capture_output=True,
            text=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        )
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize(("distro", "suite"), [("debian", "trixie"), ("ubuntu", "noble")])
def test_tree_equals_mmdebstraps(distro: str, suite: str, store: Path, tmp_path: Path) -> None:
    needs("mmdebstrap")
    needs_root()
    recipe = tmp_path / "same.yaml"
    recipe.write_text(RECIPE.format(distro=distro, suite=suite))
    build(recipe, tmp_path / "out", store)
    ours = tmp_path / "out/same/amd64"
    epoch = json.loads((ours / "manifest.json").read_text())["epoch"]
    theirs = mmdebstraps(tmp_path / "theirs.tar", distro, suite, epoch, "--variant=minbase")
    assert differences(members(ours / "rootfs.tar"), members(theirs), explained()) == []
