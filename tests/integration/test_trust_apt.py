"""apt is the judge: it, too, refuses an archive in a state that mkroot refuses, but for a known list."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.testarchive import DATE, DAY, Archive
from tests.unit.test_trust_build import BAD, SUITE, Bad

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt is the judge here")

# What apt 2.6 takes: with a warning, for somebody to read, or because gpgv judges neither keys nor clocks.
TAKEN_BY_APT = {
    "a short key",
    "a signature from the future",
    "another suite",
    "no Date",
    "a component that is not there",
    "an architecture that is not there",
}


def updated(folder: Path, archive: Archive) -> bool:
    """Tell whether `apt-get update` accepts the suite's Release and index."""
    for name in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/apt.conf.d", "etc/parts"):
        (folder / name).mkdir(parents=True)
    (folder / "status").write_text("")
    sources = folder / "etc/sources.list"
    sources.write_text(f"deb [arch=amd64 signed-by={archive.keyring}] file:{archive.tree} {SUITE} main\n")
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc": folder / "etc",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": folder / "etc/parts",
        "Dir::Log": folder,
        "APT::Architecture": "amd64",
        "APT::Update::Error-Mode": "any",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "true",
        "Acquire::Check-Date": "true",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    run = subprocess.run(["apt-get", "update", *words], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    lists = [p for p in (folder / "state/lists").iterdir() if p.name.endswith(("InRelease", "Release"))]
    return run.returncode == 0 and bool(lists)


def published(tmp_path: Path, bad: Bad | None) -> Archive:
    archive = Archive(tmp_path / "archive")
    archive.add("base", "2.0", architecture="amd64", files={"usr/share/base": b"base\n"})
    archive.suite(SUITE, **({"date": DATE + DAY} | (bad.suite if bad else {})))
    if bad and bad.key:
        archive.keyring.write_text(bad.key.public_armored())
    archive.publish()
    return archive


def test_apt_takes_the_good_one(tmp_path: Path) -> None:
    assert updated(tmp_path / "apt", published(tmp_path, None))


@pytest.mark.parametrize("bad", [b for b in BAD if (b.suite or b.key) and not b.fault], ids=lambda b: b.name)
def test_apt_refuses_what_mkroot_refuses(tmp_path: Path, bad: Bad) -> None:
    assert updated(tmp_path / "apt", published(tmp_path, bad)) <= (bad.name in TAKEN_BY_APT)
