"""The real archives of Debian and Ubuntu: their signatures, indices and packages, with gpgv and dpkg as judges."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mkroot.archive import config, keyring, mirror, source
from mkroot.archive.download import Wanted, fetch
from mkroot.archive.http import Http
from mkroot.archive.inrelease import Policy
from mkroot.archive.refresh import Refreshed, refresh
from mkroot.errors import MirrorError, TrustError
from mkroot.store.store import Store

pytestmark = pytest.mark.archive
SUITES = [("debian", "trixie"), ("debian", "bookworm"), ("ubuntu", "noble"), ("ubuntu", "jammy")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def sources(distro: str, suite: str, ring: keyring.Keyring | None = None) -> source.Source:
    found = mirror.mirror(distro, "amd64", config=config.load(os.environ), environ=os.environ)
    return source.distribution(
        distro,
        suite,
        mirror=found,
        keyring=ring or keyring.shipped(distro, host=None),
        architectures=["amd64"],
    )


def run(store: Store, wanted: source.Source) -> Refreshed:
    """Refresh, or skip where the archive does not answer; what it answers is never a reason to skip."""
    try:
        return refresh(store, [wanted], http=Http(attempts=3, timeout=20), policy=Policy(now=int(time.time())))
    except MirrorError as e:
        if "no luck after" in e.what:
            pytest.skip(f"the archive does not answer: {e.what}")
        raise


@pytest.mark.parametrize(("distro", "suite"), SUITES)
def test_a_suite_with_its_pockets(store: Store, distro: str, suite: str) -> None:
    wanted = sources(distro, suite)
    found = run(store, wanted)
    assert [i.suite for i in found.indices] == [suite, f"{suite}-updates", f"{suite}-security"]
    accepted = {c.fingerprint for c in keyring.shipped(distro, host=None).certificates}
    for record in found.suites:
        assert record.fingerprint in accepted
        assert 0 < record.date <= time.time()
    text = found.indices[0].path.read_bytes()
    assert text.count(b"\nPackage: ") > 5000
    assert len(text) == found.indices[0].size
    again = refresh(store, [wanted], http=Http({}), policy=Policy(now=int(time.time()), offline=True))
    assert again == found


@pytest.mark.parametrize(("distro", "suite"), SUITES)
@pytest.mark.skipif(shutil.which("gpgv") is None, reason="gpgv is the judge here")
def test_gpgv_agrees_about_the_signatures(store: Store, tmp_path: Path, distro: str, suite: str) -> None:
    ring = Path(keyring.__file__).parent / "keys" / f"{distro}.pgp"
    for record in run(store, sources(distro, suite)).suites:
        inrelease = store.path("releases", record.sha256)
        out = tmp_path / record.suite
        said = subprocess.run(
            ["gpgv", "--keyring", str(ring), "--status-fd", "1", "-o", str(out), str(inrelease)],
            capture_output=True,
            text=True,
        ).stdout
        assert re.search(rf"VALIDSIG .* {record.fingerprint.upper()}$", said, re.MULTILINE)


@pytest.mark.parametrize(("distro", "suite"), [("debian", "trixie"), ("ubuntu", "noble")])
def test_the_keys_of_another_distribution_do_not_count(tmp_path: Path, distro: str, suite: str) -> None:
    other = keyring.shipped("ubuntu" if distro == "debian" else "debian", host=None)
    with pytest.raises(TrustError, match="is not an accepted one"):
        run(Store(tmp_path), sources(distro, suite, other))


@pytest.mark.parametrize(
    ("distro", "suite", "names"),
    [("debian", "trixie", ("hostname", "base-files")), ("ubuntu", "noble", ("hostname", "base-files"))],
)
def test_packages_of_every_pool(store: Store, distro: str, suite: str, names: tuple[str, ...]) -> None:
    wanted = sources(distro, suite)
    jobs: list[Wanted] = []
    found = run(store, wanted)
    for index in found.indices:
        stanzas = index.path.read_text("utf-8", "surrogateescape").split("\n\n")
        chosen = [s for s in stanzas if any(s.startswith(f"Package: {name}\n") for name in names)]
        small = min(filter(None, stanzas), key=lambda s: _number("Size", s))
        for stanza in {*chosen, small}:
            jobs.append(
                Wanted(
                    name=_field("Package", stanza),
                    address=wanted.locate(index.base + _field("Filename", stanza)),
                    sha256=_field("SHA256", stanza),
                    size=_number("Size", stanza),
                )
            )
    assert len(jobs) >= 4
    got = dict(fetch(store, jobs, http=Http(attempts=3)))
    for job in {j.sha256: j for j in jobs}.values():
        path = next(p for j, p in got.items() if j.sha256 == job.sha256)
        if shutil.which("dpkg-deb"):
            name = subprocess.run(["dpkg-deb", "-f", path, "Package"], capture_output=True, text=True, check=True)
            assert name.stdout.strip() == job.name
    assert not list((store.root / "tmp").iterdir())


def _field(name: str, stanza: str) -> str:
    match = re.search(rf"^{name}: (.*)$", stanza, re.MULTILINE)
    assert match is not None
    return match[1]


def _number(name: str, stanza: str) -> int:
    return int(_field(name, stanza))


def _digit(data: bytes) -> bytes:
    """Change the first digit of the first SHA-256."""
    at = data.index(b"\nSHA256:\n ") + len(b"\nSHA256:\n ")
    return data[:at] + (b"1" if data[at : at + 1] == b"0" else b"0") + data[at + 1 :]


CHANGES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("a digit of a digest", _digit),
    ("the date", lambda data: data.replace(b"\nDate: ", b"\nDate:  ", 1)),
    ("the suite", lambda data: data.replace(b"\nCodename: ", b"\nCodename: x", 1)),
    ("a line at the front", lambda data: b"Origin: Debian\n" + data),
    ("a line at the end", lambda data: data + b"Origin: Debian\n"),
    ("half of it", lambda data: data[: len(data) // 2]),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[c[0] for c in CHANGES])
@pytest.mark.parametrize(("distro", "suite"), [("debian", "trixie"), ("ubuntu", "noble-updates")])
def test_a_real_inrelease_changed_is_refused(
    store: Store, tmp_path: Path, distro: str, suite: str, name: str, change: Callable[[bytes], bytes]
) -> None:
    record = next(r for r in run(store, sources(distro, suite.partition("-")[0])).suites if r.suite == suite)
    before = store.path("releases", record.sha256).read_bytes()
    after = change(before)
    assert after != before
    folder = tmp_path / "dists" / suite
    folder.mkdir(parents=True)
    (folder / "InRelease").write_bytes(after)
    here = source.Source(
        id=distro,
        suites=(source.SuiteSource(name=suite, archive=source.parse(f"file:{tmp_path}", "test")),),
        components=("main",),
        architectures=("amd64",),
        keyring=keyring.shipped(distro, host=None),
    )
    with pytest.raises(TrustError):
        refresh(Store(tmp_path / "store"), [here], http=Http({}), policy=Policy(now=int(time.time())))
