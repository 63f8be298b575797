"""Whole builds from an archive in a bad state: told in words of its own, exit 1, nothing kept, the next build right."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.testarchive import DATE, DAY, Archive, Key, Server, Signing
from tests.testarchive.openpgp import COMPROMISED, CREATED
from tests.unit.commands import Done, Program

NOW = int(time.time())
OTHER = Key(number=1)
SUITE = "trixie"


def add(archive: Archive, version: str, index: dict[str, str | None] | None = None) -> None:
    files: dict[str, Any] = {"usr/share/base": b"base\n"}
    archive.add("base", version, essential=True, architecture="amd64", index=index, files=files)


class Place:
    """A folder with an archive, its server, a recipe, and a store in which it was built once."""

    def __init__(self, folder: Path, archive: Archive, server: Server) -> None:
        self.archive = archive
        self.server = server
        self.program = Program(folder)
        self.folder = folder

    def build(self, *more: str, out: str = "out") -> Done:
        return self.program("build", "mini.yaml", "-o", out, "--mirror", self.server.uri, *more)

    def outputs(self, out: str = "out") -> dict[str, bytes]:
        root = self.folder / out
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    def store(self) -> dict[str, bytes]:
        """Return what in the store says what is right: all but the marks of use."""
        root = self.folder / "store"
        kinds = ("indices", "releases", "debs", "layers")
        return {str(p): p.read_bytes() for kind in kinds for p in sorted((root / kind).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good archive and a store that has it."""
    folder = tmp_path_factory.mktemp("built")
    archive = Archive(folder / "archive")
    add(archive, "1.0")
    with archive.serve() as server:
        program = Program(folder)
        # No lock, so that each build looks at the archive.
        recipe = archive.recipe(
            packages={"variant": "none", "include": ["base"]}, configure="none", outputs=["tar"], pockets=[]
        )
        del recipe["mirror"]
        program.recipe("mini.yaml", recipe | {"keyring": "archive/archive-key.asc"})
        assert (done := program("build", "mini.yaml", "--no-lock", "--mirror", server.uri)).status == 0, done.err
    return folder


@dataclass(frozen=True, kw_only=True)
class Bad:
    """What is done to the archive whose `base` is 2.0 by now, and what is said of it.

    suite: what its Release becomes. index: fields of the package's stanza. fault: of the server. key: the keyring.
    """

    name: str
    said: str
    suite: dict[str, Any] = field(default_factory=dict)
    index: dict[str, str | None] = field(default_factory=dict)
    fault: tuple[str, str, dict[str, Any]] | None = None
    key: Key | None = None
    after: Callable[[Archive], None] = field(default=lambda _: None)


def signed(*, key: Key | None = None, created: int = DATE + DAY, **more: Any) -> dict[str, Any]:
    return {"signers": [Signing(key=key or Key(), created=created, **more)]}


def swapped(archive: Archive) -> None:
    """Put other bytes of the same size into the pool."""
    for path in archive.tree.glob("pool/*/*/*/*_2.0_*.deb"):
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(bytes(data))


def grown(archive: Archive) -> None:
    for path in archive.tree.glob("pool/*/*/*/*_2.0_*.deb"):
        path.write_bytes(path.read_bytes() + b"\n")


BAD = [
    Bad(name="unsigned", suite={"signers": [], "forms": ("Release",)}, said="the source `debian` is not signed"),
    Bad(name="an InRelease that is not signed", suite={"signers": []}, said="it is not a signed message"),
    Bad(name="an unknown key", suite=signed(key=OTHER), said="is not an accepted one"),
    Bad(name="a revoked key", key=Key().but(revocations=[(DATE, COMPROMISED)]), said="was revoked on 2025-06-15"),
    Bad(
        name="a key that expired before it signed",
        key=Key().but(lifetime=DATE - CREATED),
        said="expired on 2025-06-15 15:06 UTC, before it signed on 2025-06-16",
    ),
    Bad(name="SHA-1", suite=signed(hash_name="sha1"), said="uses SHA-1, which is broken"),
    Bad(name="MD5", suite=signed(hash_name="md5"), said="uses MD5, which is broken"),
    Bad(name="a short key", suite=signed(key=Key(number=3)), key=Key(number=3), said="has 1024 bits, fewer than 2048"),
    Bad(name="a signature over another text", suite=signed(broken=True), said="does not match the text"),
    Bad(name="a signature from the future", suite=signed(created=NOW + 3 * DAY), said="in the future; is this machine"),
    Bad(name="text before", suite={"wrap": lambda data: b"SHA256:\n" + data}, said="text before the signed message"),
    Bad(name="text after", suite={"wrap": lambda data: data + b"SHA256:\n"}, said="text around the signature"),
    Bad(
        name="another suite",
        suite={"fields": {"Suite": "unstable", "Codename": "sid"}},
        said="asked for the suite `trixie`, the signed Release is of `sid` or `unstable`",
    ),
    Bad(name="no SHA256", suite={"edit": lambda text: text.replace("SHA256:", "SHA1:")}, said="has no SHA256 section"),
    Bad(name="no Date", suite={"fields": {"Date": None}}, said="the Release file has no Date"),
    Bad(name="a Date in the future", suite={"date": NOW + 3 * DAY} | signed(), said="is dated 20.*, in the future"),
    Bad(
        name="valid no more",
        suite={"valid_until": DATE + 2 * DAY},
        said="was valid until 2025-06-17 15:06 UTC\n.*--allow-expired",
    ),
    Bad(name="an InRelease without end", fault=("*/InRelease", "oversend", {"after": 5 << 20}), said="longer than the"),
    Bad(
        name="yesterday's index beside today's Release",
        suite={"by_hash": False},
        fault=("*/Packages*", "body", {"content": b"Package: base\nVersion: 1.0\n"}),
        said="the package index `trixie/main/amd64` is not the one that its signed Release lists",
    ),
    Bad(name="a component that is not there", suite={"fields": {"Components": "contrib"}}, said="no component `main`"),
    Bad(
        name="an architecture that is not there",
        suite={"fields": {"Architectures": "arm64"}},
        said="has no packages for `amd64`",
    ),
    Bad(
        name="an index of another architecture",
        index={"Architecture": "arm64"},
        said="no package is called `base`\nhint: it is there for `arm64` alone",
    ),
    Bad(name="a package with other bytes", after=swapped, said="base 2.0 amd64 is not what the signed index promises"),
    Bad(name="a package with more bytes", after=grown, said=r"base 2.0 amd64 is not what .* bytes were|were promised"),
    Bad(name="a package with no digest", index={"SHA256": None}, said="the index gives no SHA256 for base 2.0"),
    Bad(
        name="a package with an MD5 sum alone",
        index={"SHA256": None, "MD5sum": "0" * 32},
        said="the index gives no SHA256 for base 2.0",
    ),
    Bad(name="a package of no size", index={"Size": None}, said="base 2.0 amd64: it is promised to have 0 bytes"),
    Bad(name="a package of 0 bytes", index={"Size": "0"}, said="it is promised to have 0 bytes, and 1 to"),
    Bad(name="a package of 9 EB", index={"Size": str(9 << 60)}, said="it is promised to have \\d{17,} bytes, and 1 to"),
    Bad(name="a size in words", index={"Size": "some"}, said="it is promised to have 0 bytes"),
    Bad(name="a path outside", index={"Filename": "../../../etc/passwd"}, said="not a path inside an archive"),
    Bad(name="an absolute path", index={"Filename": "/etc/passwd"}, said="not a path inside an archive"),
    Bad(
        name="a redirect to a file",
        fault=("*.deb", "redirect", {"location": "file:///etc/passwd"}),
        said="a redirect to `file:///etc/passwd`, which is neither http nor https",
    ),
    Bad(
        name="a redirect in a circle", fault=("*/InRelease", "redirect", {"location": ""}), said="more than 5 redirects"
    ),
]


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("bad", BAD, ids=lambda b: b.name)
def test_a_bad_state_is_refused_and_forgotten(built: Path, tmp_path: Path, bad: Bad) -> None:
    folder = tmp_path / "place"
    shutil.copytree(built, folder)
    archive = Archive(folder / "archive")
    add(archive, "2.0", bad.index)
    archive.suite(SUITE, **({"date": DATE + DAY} | bad.suite))
    if bad.key:
        archive.keyring.write_text(bad.key.public_armored())
    with archive.serve() as server:
        place = Place(folder, archive, server)
        bad.after(archive)
        if bad.fault:
            server.fault(bad.fault[0], bad.fault[1], times=None, **bad.fault[2])
        before, kept = place.outputs(), place.store()
        done = place.build("--no-lock")
        assert done.status == 1, done.out + done.err
        assert re.search(bad.said, done.err, re.DOTALL), done.err
        assert len(re.findall("^error: ", done.err, re.MULTILINE)) == 1 and "Traceback" not in done.err
        assert place.outputs() == before, "what was built before stays as it was"
        assert not (folder / "mini.lock").exists()
        assert not list((folder / "store/tmp").iterdir())
        assert kept.items() <= place.store().items(), "what the store had, it has still"
        # Whatever it was, it does not stay: the archive is mended.
        server.faults.clear()
        good = Archive(folder / "archive")
        add(good, "2.0")
        good.suite(SUITE, date=DATE + 2 * DAY)
        good.publish()
        assert (done := place.build("--no-lock")).status == 0, done.err
        assert b'"version": "2.0"' in place.outputs()["mini/amd64/manifest.json"]


@pytest.mark.counts("trust-refused")
def test_a_replayed_archive_is_refused_for_the_store_and_for_the_lock(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "place"
    shutil.copytree(built, folder)
    archive = Archive(folder / "archive")
    add(archive, "2.0")
    archive.suite(SUITE, date=DATE + DAY)
    with archive.serve() as server:
        place = Place(folder, archive, server)
        assert (done := place.build()).status == 0, done.err
        lock, before = (folder / "mini.lock").read_bytes(), place.outputs()
        old = Archive(folder / "archive")
        add(old, "1.0")
        old.publish()
        lines = "is dated 2025-06-15 15:06 UTC, and {} knows one of 2025-06-16 15:06 UTC: the mirror went back in time"
        for arguments, environ, who in (
            (("lock", "mini.yaml"), {}, "the lock"),
            (("build", "mini.yaml", "--no-lock"), {}, "this store"),
            (("plan", "mini.yaml"), {}, "the lock|this store"),
            (("lock", "mini.yaml"), {"MKROOT_STORE": str(folder / "other")}, "the lock"),
        ):
            done = place.program(*arguments, "--mirror", server.uri, **environ)
            if arguments[0] == "plan" and done.status == 0:
                continue  # a lock that fits is what it plans from: no Release is read
            assert done.status == 1
            assert re.search(lines.format(f"({who})"), done.err), done.err
            assert ((folder / "mini.lock").read_bytes(), place.outputs()) == (lock, before)
        # The lock alone decides: what it names is in the store, and no Release is read.
        server.requests.clear()
        done = place.build()
        assert done.status == 0, done.err
        assert place.outputs() == before and server.paths("*Release*") == []


@pytest.mark.counts("trust-accepted")
def test_what_is_over_is_accepted_aloud(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "place"
    shutil.copytree(built, folder)
    archive = Archive(folder / "archive")
    add(archive, "2.0")
    archive.suite(SUITE, date=DATE + DAY, valid_until=DATE + 2 * DAY)
    with archive.serve() as server:
        place = Place(folder, archive, server)
        assert (done := place.build("--allow-expired")).status == 0, done.err
        assert '"allow_expired": true' in (folder / "mini.lock").read_text().replace("allow-expired", "allow_expired")
