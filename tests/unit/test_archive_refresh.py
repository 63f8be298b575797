"""Release files and package indices of a miniature archive: what is taken, what is refused, what is kept."""

from __future__ import annotations

import lzma
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mkroot.archive import inrelease, keyring, mirror, source
from mkroot.archive.address import parse
from mkroot.archive.config import Config
from mkroot.archive.http import Http
from mkroot.archive.inrelease import Policy
from mkroot.archive.refresh import Refreshed, refresh, snapshot
from mkroot.digest import sha256
from mkroot.errors import MirrorError, MkrootError, RecipeError, StoreError, TrustError
from mkroot.store.store import Store
from tests.testarchive import DATE, DAY, Archive, Key, Server, Signing, clearsign

NOW = DATE + DAY
OTHER = Key(number=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive(tmp_path / "archive")
    made.add("hello", "1.0", architecture="amd64")
    made.add("hello", "1.1", architecture="amd64", suite="trixie-security")
    return made


def sources(archive: Archive, uri: str | None = None, **more: Any) -> source.Source:
    found = mirror.mirror(
        archive.distro, "amd64", config=Config(), environ={}, recipe=uri or archive.uri, root=archive.root
    )
    more.setdefault("architectures", ["amd64"])
    more.setdefault("keyring", keyring.load(archive.keyring))
    return source.distribution(archive.distro, archive.codename, mirror=found, **more)


def http(**more: Any) -> Http:
    return Http({}, backoff=0.01, timeout=2.0, **more)


def run(store: Store, *wanted: source.Source, **policy: Any) -> Refreshed:
    return refresh(store, wanted, http=http(), policy=Policy(**{"now": NOW, **policy}))


def texts(found: Refreshed) -> dict[str, str]:
    return {f"{i.suite}/{i.component}/{i.architecture}": i.path.read_text() for i in found.indices}


@pytest.mark.parametrize("distro", ["debian", "ubuntu"])
def test_every_pocket_is_read(tmp_path: Path, store: Store, distro: str) -> None:
    archive = Archive(tmp_path / "a", distro=distro)
    for n, suite in enumerate(archive.suites):
        archive.add("hello", f"1.{n}", suite=suite)
    found = run(store, sources(archive))
    name = archive.codename
    assert [i.suite for i in found.indices] == [name, f"{name}-updates", f"{name}-security"]
    assert all(f"Version: 1.{n}\n" in text for n, text in enumerate(texts(found).values()))
    assert [i.base for i in found.indices] == ["", "", "debian-security/" if distro == "debian" else ""]
    assert {s.fingerprint for s in found.suites} == {archive.key.fingerprint}
    assert {s.date for s in found.suites} == {DATE}


def test_the_pools_of_all_pockets_are_found(archive: Archive, store: Store) -> None:
    wanted = sources(archive)
    for index in run(store, wanted).indices:
        for filename in re.findall("^Filename: (.*)$", index.path.read_text(), re.MULTILINE):
            assert wanted.locate(index.base + filename).path.is_file()


@pytest.mark.counts("trust-accepted")
@pytest.mark.parametrize("listed", [("xz",), ("zst",), ("gz",), ("none",), ("none", "gz", "xz", "zst"), ("gz", "xz")])
@pytest.mark.parametrize("by_hash", [True, False])
@pytest.mark.parametrize("remote", [True, False])
def test_every_compression(
    archive: Archive, store: Store, listed: tuple[str, ...], by_hash: bool, remote: bool
) -> None:
    for suite in archive.suites:
        archive.suite(suite, listed=listed, by_hash=by_hash)
    plain = "Package: hello\nVersion: 1.0\n"
    with archive.serve() as server:
        wanted = sources(archive, server.uri if remote else None)
        assert texts(run(store, wanted))["trixie/main/amd64"].startswith(plain)
        # The second time nothing but Release files is asked for, even where Release does not list the plain form.
        server.requests.clear()
        assert texts(run(store, wanted))["trixie/main/amd64"].startswith(plain)
        assert server.paths("*Packages*") == server.paths("*by-hash*") == []
        offline = run(store, wanted, offline=True)
        assert texts(offline)["trixie/main/amd64"].startswith(plain)


def test_what_is_smallest_or_fastest_is_fetched(archive: Archive, store: Store) -> None:
    archive.suite("trixie", listed=("none", "gz", "xz", "zst"), by_hash=False)
    with archive.serve() as server:
        run(store, sources(archive, server.uri, pockets=()))
        assert [p.rpartition("/")[2] for p in server.paths("*Packages*")] == ["Packages.zst"]


def test_components_and_architectures(tmp_path: Path, store: Store) -> None:
    archive = Archive(tmp_path / "a", components=("main", "universe"), architectures=("amd64", "arm64"))
    archive.add("one", component="main")
    archive.add("two", component="universe", architecture="arm64")
    wanted = sources(archive, components=["main", "universe"], architectures=["amd64", "arm64"], pockets=["security"])
    found = texts(run(store, wanted))
    assert list(found) == [
        f"trixie{pocket}/{component}/{architecture}"
        for pocket in ("", "-security")
        for component in ("main", "universe")
        for architecture in ("amd64", "arm64")
    ]
    assert "Package: two" in found["trixie/universe/arm64"]
    assert "Package: two" not in found["trixie/universe/amd64"]


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({"index_all": True}, ["amd64", "all"]),
        ({"index_all": True, "fields": {"No-Support-for-Architecture-all": "Packages"}}, ["amd64"]),
        ({"index_all": True, "fields": {"Architectures": "amd64"}}, ["amd64"]),
        ({}, ["amd64"]),
    ],
)
def test_the_index_of_architecture_all(
    archive: Archive, store: Store, changes: dict[str, Any], read: list[str]
) -> None:
    archive.suite("trixie", **changes)
    found = run(store, sources(archive, pockets=()))
    assert [i.architecture for i in found.indices] == read


@pytest.mark.counts("trust-accepted")
def test_two_indices_with_one_digest(tmp_path: Path, store: Store) -> None:
    archive = Archive(tmp_path / "a", components=("main", "contrib", "non-free"))
    archive.add("one", component="main")
    archive.add("one", component="contrib")
    found = run(store, sources(archive, components=["main", "contrib", "non-free"], pockets=()))
    assert [i.component for i in found.indices] == ["main", "contrib", "non-free"]
    assert found.indices[2].size == 0
    assert found.indices[2].path.read_bytes() == b""


@pytest.mark.counts("trust-accepted")
def test_a_flat_repository(tmp_path: Path, archive: Archive, store: Store) -> None:
    archive.publish()
    flat = tmp_path / "flat"
    flat.mkdir()
    data = b"Package: flat\nVersion: 1\nArchitecture: all\n"
    rows = []
    for name, content in (("Packages", data), ("Packages.xz", lzma.compress(data))):
        (flat / name).write_bytes(content)
        rows.append((sha256(content), len(content), name))
    suite = archive.suite("flat", fields={"Suite": None, "Codename": None, "Acquire-By-Hash": None})
    text = clearsign(archive.release_text(suite, rows), [Signing(key=archive.key, created=DATE)])
    (flat / "InRelease").write_text(text)
    wanted = source.Source(
        id="flat",
        suites=(source.SuiteSource(name="./", archive=parse(f"file:{flat}", "test")),),
        components=(),
        architectures=("amd64",),
        keyring=keyring.load(archive.keyring),
    )
    found = run(store, wanted)
    assert found.indices[0].path.read_bytes() == data


def test_the_store_is_used_offline_and_only_the_store(archive: Archive, store: Store, tmp_path: Path) -> None:
    wanted = sources(archive)
    with pytest.raises(MirrorError, match="the store has no Release of `trixie"):
        run(store, wanted, offline=True)
    before = texts(run(store, wanted))
    archive.tree.rename(tmp_path / "gone")
    assert texts(run(store, wanted, offline=True)) == before


@pytest.mark.counts("fault")
@pytest.mark.parametrize("kind", ["indices", "releases"])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: b""])
def test_damage_in_the_store_is_noticed_and_mended(
    archive: Archive, store: Store, kind: str, change: Callable[[bytes], bytes]
) -> None:
    with archive.serve() as server:
        wanted = sources(archive, server.uri)
        before = texts(run(store, wanted))
        for path in (store.root / kind).glob("*/*"):
            path.write_bytes(change(path.read_bytes()))
        with pytest.raises(MirrorError, match="the store has no"):
            run(store, wanted, offline=True)
        assert texts(run(store, wanted)) == before
        assert texts(run(store, wanted, offline=True)) == before


def test_a_damaged_memory_of_dates_is_told(archive: Archive, store: Store) -> None:
    run(store, sources(archive))
    for path in (store.root / "seen").glob("*/*"):
        path.write_bytes(b"{")
    with pytest.raises(StoreError, match="cannot be read"):
        run(store, sources(archive))


def test_no_address_is_kept_in_the_store(archive: Archive, store: Store) -> None:
    with archive.serve() as server:
        run(store, sources(archive, server.uri.replace("//", "//user:secret@")))
        for path in store.root.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert b"secret" not in data and b"127.0.0.1" not in data


@dataclass(frozen=True, kw_only=True)
class Odd:
    """What is odd about the archive's Release, and what is said to it; error None where it is accepted."""

    name: str
    suite: dict[str, Any]
    said: str = ""
    error: type[MkrootError] | None = TrustError
    policy: dict[str, Any] | None = None
    target: str = "trixie"


def signed_by(*signings: Signing) -> dict[str, Any]:
    return {"signers": list(signings)}


def edited(old: str, new: str) -> dict[str, Any]:
    return {"edit": lambda text: text.replace(old, new)}


DETACHED = ("Release", "Release.gpg")
ODD = [
    Odd(name="Release with Release.gpg, armoured", suite={"forms": DETACHED}, error=None),
    Odd(name="Release with Release.gpg, binary", suite={"forms": DETACHED, "armored": False}, error=None),
    Odd(name="InRelease alone", suite={"forms": ("InRelease",)}, error=None),
    Odd(name="Release without a signature", suite={"forms": ("Release",)}, said="is not signed"),
    Odd(name="nothing", suite={"forms": ()}, said="there is no suite `trixie`", error=MirrorError),
    Odd(name="InRelease without a signature", suite=signed_by(), said="not a signed message"),
    Odd(name="a key that is not accepted", suite=signed_by(Signing(key=OTHER, created=DATE)), said="not an accepted"),
    Odd(name="SHA-1", suite=signed_by(Signing(key=Key(), created=DATE, hash_name="sha1")), said="SHA-1"),
    Odd(
        name="detached by another key",
        suite={"forms": DETACHED, **signed_by(Signing(key=OTHER, created=DATE))},
        said="not an accepted",
    ),
    Odd(name="Suite is the name asked for", suite={"fields": {"Codename": "x", "Suite": "trixie"}}, error=None),
    Odd(name="another codename and suite", suite={"fields": {"Codename": "sid", "Suite": "unstable"}}, said="of `sid`"),
    Odd(name="no codename and suite", suite={"fields": {"Codename": None, "Suite": None}}, said="no suite by name"),
    Odd(
        name="another pocket of the same codename",
        suite={"fields": {"Suite": "trixie-proposed"}},
        said="is of `trixie-proposed`",
    ),
    Odd(name="no Date", suite={"fields": {"Date": None}}, said="has no Date"),
    Odd(name="an unreadable Date", suite={"fields": {"Date": "tomorrow"}}, said="Date cannot be read"),
    Odd(name="a Date twice", suite=edited("Date:", "Date: x\nDate:"), said="Date|twice"),
    Odd(name="a Date in a day", suite={"date": NOW + DAY - 60}, policy={}, error=None),
    Odd(name="a Date in more than a day", suite={"date": NOW + DAY + 60}, said="in the future"),
    Odd(name="valid still", suite={"valid_until": NOW + 60}, error=None),
    Odd(name="valid no more", suite={"valid_until": NOW - 60}, said="was valid until 2025-06-16"),
    Odd(name="valid no more, accepted", suite={"valid_until": NOW - 60}, policy={"allow_expired": True}, error=None),
    Odd(name="an unreadable Valid-Until", suite={"fields": {"Valid-Until": "x"}}, said="Valid-Until cannot be read"),
    Odd(
        name="older than the lock",
        suite={},
        policy={"not_before": {("debian", "trixie"): DATE + 1}},
        said="the lock knows one of 2025-06-15 15:06",
    ),
    Odd(name="as old as the lock", suite={}, policy={"not_before": {("debian", "trixie"): DATE}}, error=None),
    Odd(name="no SHA256 section", suite=edited("SHA256:", "SHA1:"), said="no SHA256 section"),
    Odd(name="a path twice", suite={"edit": lambda text: text + text.splitlines()[-1] + "\n"}, said="twice"),
    Odd(name="a section twice", suite={"edit": lambda t: t + t[t.index("SHA256:") :]}, said="twice"),
    Odd(
        name="a path outside",
        suite={"edit": lambda text: text + f" {'0' * 64} 1 ../../../etc/passwd\n"},
        said="outside its folder",
    ),
    Odd(
        name="an absolute path",
        suite={"edit": lambda text: text + f" {'0' * 64} 1 /etc/passwd\n"},
        said="outside its folder",
    ),
    Odd(name="a size in words", suite={"edit": lambda text: text + f" {'0' * 64} many x\n"}, said="not a line of"),
    Odd(name="a size below zero", suite={"edit": lambda text: text + f" {'0' * 64} -1 x\n"}, said="not a line of"),
    Odd(
        name="a size of twenty digits",
        suite={"edit": lambda text: text + f" {'0' * 64} {'1' * 20} x\n"},
        said="not a line of a SHA256 section",
    ),
    Odd(name="a short digest", suite={"edit": lambda text: text + f" {'0' * 40} 1 x\n"}, said="not a line of"),
    Odd(
        name="an MD5 section beside it",
        suite={"edit": lambda text: text.replace("SHA256:", f"MD5Sum:\n {'0' * 32} 1 main/x\nSHA256:")},
        error=None,
    ),
    Odd(name="lines that end in CR LF", suite={"wrap": lambda data: data.replace(b"\n", b"\r\n")}, error=None),
    Odd(
        name="the debug suite of the same name",
        suite={"fields": {"Suite": "stable-debug", "Codename": "trixie-debug"}},
        said="asked for the suite `trixie`, the signed Release is of `stable-debug` or `trixie-debug`",
    ),
    Odd(name="two stanzas", suite=edited("Description", "\nDescription"), said="one stanza|SHA256|Date"),
    Odd(
        name="no such component",
        suite={"fields": {"Components": "contrib"}},
        said="no component `main`",
        error=MirrorError,
    ),
    Odd(
        name="no such architecture",
        suite={"fields": {"Architectures": "arm64 s390x"}},
        said="no packages for `amd64`",
        error=MirrorError,
    ),
]


def counted(odd: Odd) -> Any:
    kind = "trust-accepted" if odd.error is None else "trust-refused"
    return pytest.param(odd, marks=pytest.mark.counts(kind), id=odd.name)


@pytest.mark.parametrize("odd", [counted(odd) for odd in ODD])
def test_release_files(archive: Archive, store: Store, odd: Odd) -> None:
    archive.suite(odd.target, **odd.suite)
    wanted = sources(archive, pockets=())
    policy = odd.policy or {}
    if odd.error is None:
        found = run(store, wanted, **policy)
        assert "Package: hello" in texts(found)["trixie/main/amd64"]
        assert found.suites[0].expired == ("allow_expired" in policy)
        return
    with pytest.raises(odd.error, match=odd.said):
        run(store, wanted, **policy)
    assert not list((store.root / "indices").glob("*/*"))
    assert not list((store.root / "seen").glob("*/*")), "a refused Release must not count as seen"


@pytest.mark.counts("trust-refused")
def test_an_older_release_than_the_one_seen_is_refused(archive: Archive, store: Store) -> None:
    run(store, sources(archive))
    archive.suite("trixie-security", date=DATE - DAY)
    with pytest.raises(TrustError, match="this store knows one of 2025-06-15") as caught:
        run(store, sources(archive))
    assert "trixie-security" in caught.value.what
    archive.suite("trixie-security", date=DATE + 1)
    run(store, sources(archive))
    archive.suite("trixie-security", date=DATE)
    with pytest.raises(TrustError, match="this store knows"):
        run(store, sources(archive))


@pytest.mark.counts("trust-refused")
def test_a_replay_by_another_mirror_is_refused_for_the_lock_and_told_without_one(
    tmp_path: Path, archive: Archive, store: Store
) -> None:
    old = Archive(tmp_path / "old")
    old.add("hello", "0.9", architecture="amd64")
    for suite in old.suites:
        old.suite(suite, date=DATE - DAY)
    found = run(store, sources(archive))
    dates = {(s.source, s.suite): s.date for s in found.suites}
    with pytest.raises(TrustError, match="the lock knows one of 2025-06-15"):
        run(store, sources(old), not_before=dates)
    said: list[str] = []
    again = refresh(store, [sources(old)], http=http(tell=said.append), policy=Policy(now=NOW))
    assert {s.date for s in again.suites} == {DATE - DAY}, "a mirror that lags behind may be used on purpose"
    assert len(said) == 3 and all("another mirror had one of 2025-06-15" in line for line in said)
    refresh(store, [sources(archive)], http=http(tell=said.append), policy=Policy(now=NOW))
    assert len(said) == 3
    with pytest.raises(TrustError, match="not an accepted"):
        run(store, sources(old, keyring=keyring.parse(OTHER.public(), "other keys")))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://m.example/debian", "https://m.example/debian", True),
        ("http://m.example/debian", "http://user:x@M.example:80//debian/", True),
        ("https://m.example:443/debian", "http://m.example/debian", True),
        ("http://m.example:8080/debian", "http://m.example/debian", False),
        ("http://m.example/debian", "http://n.example/debian", False),
        ("file:/srv/debian", "http://srv/debian", False),
    ],
)
def test_which_addresses_share_a_memory(one: str, other: str, same: bool) -> None:
    places = {
        inrelease._place(source.SuiteSource(name="trixie", archive=parse(address, "test"))) for address in (one, other)
    }
    assert (len(places) == 1) == same


LISTED = "main/binary-amd64/Packages"


def relisted(archive: Archive, change: Callable[[str], str]) -> None:
    """Sign another Release over the same indices."""
    suite = archive.suite("trixie", by_hash=False)
    archive.publish()
    text = (suite.folder / "Release").read_text()
    changed = change(text)
    assert changed != text
    archive._sign(suite, changed, [Signing(key=archive.key, created=DATE)])


def sized(path: str, by: int) -> Callable[[str], str]:
    return lambda text: re.sub(
        rf"(\d+) ({re.escape(path)})$", lambda m: f"{int(m[1]) + by} {m[2]}", text, flags=re.MULTILINE
    )


def other_digest(path: str) -> Callable[[str], str]:
    return lambda text: re.sub(rf" [0-9a-f]{{64}} +(\d+) ({re.escape(path)})$", rf" {'0' * 64} \1 \2", text, flags=re.M)


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize(
    ("listed", "change", "said"),
    [
        (("xz",), sized(f"{LISTED}.xz", 1), "is not the one that its signed Release lists"),
        (("xz",), sized(f"{LISTED}.xz", -1), "is not the one that its signed Release lists"),
        (("xz",), other_digest(f"{LISTED}.xz"), "is not the one that its signed Release lists"),
        (("none", "xz"), sized(LISTED, 1), "does not unpack to what|is not the one"),
        (("none", "xz"), sized(LISTED, -1), "unpacks to more than the|is not the one"),
        (("none", "xz"), other_digest(LISTED), "does not unpack to what|is not the one"),
        (
            ("none",),
            lambda text: re.sub(rf"(\d+) {LISTED}$", f"{3 << 30} {LISTED}", text, flags=re.M),
            "larger than the",
        ),
        (("none",), lambda text: re.sub(rf"(\d+) {LISTED}$", f"0 {LISTED}", text, flags=re.M), "is not the one"),
    ],
    ids=["larger", "smaller", "digest", "unpacks larger", "unpacks smaller", "unpacks to other", "huge", "no bytes"],
)
def test_an_index_that_does_not_fit(
    archive: Archive, store: Store, listed: tuple[str, ...], change: Callable[[str], str], said: str, remote: bool
) -> None:
    archive.suite("trixie", listed=listed, by_hash=False)
    relisted(archive, change)
    with archive.serve() as server:
        for suffix in ("", ".gz") if "xz" in listed else ():
            server.fault(f"*/Packages{suffix}", "status", times=None, status=404)
        if not remote:
            for suffix in ("", ".gz") if "xz" in listed else ():
                (archive.suites["trixie"].folder / f"{LISTED}{suffix}").unlink(missing_ok=True)
        with pytest.raises((MirrorError, TrustError), match=said):
            run(store, sources(archive, server.uri if remote else None, pockets=()))
    assert not list((store.root / "indices").glob("*/*"))
    assert not list((store.root / "seen").glob("*/*"))
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("other", ["main/binary-arm64", "contrib/binary-amd64"], ids=["architecture", "component"])
def test_the_index_of_another_architecture_or_component_in_its_place(tmp_path: Path, store: Store, other: str) -> None:
    archive = Archive(tmp_path / "a", components=("main", "contrib"), architectures=("amd64", "arm64"))
    archive.add("hello", "1.0", architecture="amd64")
    archive.add("evil", "1.0", architecture=other.rpartition("-")[2], component=other.partition("/")[0])
    archive.suite("trixie", by_hash=False)
    archive.publish()
    folder = archive.suites["trixie"].folder
    for suffix in ("", ".gz", ".xz"):
        (folder / f"{LISTED}{suffix}").write_bytes((folder / f"{other}/Packages{suffix}").read_bytes())
    with pytest.raises(MirrorError, match="`trixie/main/amd64` is not the one that its signed Release lists"):
        run(store, sources(archive, pockets=()))
    assert not list((store.root / "indices").glob("*/*"))


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("forms", [("InRelease",), DETACHED])
def test_unsigned_sources_must_be_called_trusted(archive: Archive, store: Store, forms: tuple[str, ...]) -> None:
    for suite in archive.suites:
        archive.suite(suite, signers=[], forms=forms)
    with pytest.raises(TrustError, match=r"not signed|not a signed message"):
        run(store, sources(archive))
    found = run(store, sources(archive, keyring=None))
    assert "Package: hello" in texts(found)["trixie/main/amd64"]
    assert {s.fingerprint for s in found.suites} == {""}


@pytest.mark.counts("trust-refused")
def test_a_trusted_source_is_read_inside_its_signature_only(archive: Archive, store: Store) -> None:
    archive.suite("trixie", wrap=lambda data: b"Origin: Evil\n" + data)
    with pytest.raises(TrustError, match="not a `Field: value` line"):
        run(store, sources(archive, keyring=None))


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("corrupt", {}),
        ("body", {"content": b"<html>captive portal</html>"}),
        ("body", {"content": b""}),
        ("grow", {"after": 1}),
        ("oversend", {"after": 1 << 20}),
        ("truncate", {"after": 50}),
        ("status", {"status": 404}),
        ("status", {"status": 500}),
        ("status", {"status": 403}),
        ("reset", {}),
    ],
)
@pytest.mark.parametrize("pattern", ["*/InRelease", "*/by-hash/*"])
def test_a_mirror_that_lies_for_good_is_refused(
    archive: Archive, store: Store, kind: str, more: dict[str, Any], pattern: str
) -> None:
    with archive.serve() as server:
        server.fault(pattern, kind, times=None, **more)
        server.fault("*/Packages*", kind, times=None, **more)
        server.fault("*/Release", kind, times=None, **more)
        with pytest.raises((MirrorError, TrustError)) as caught:
            run(store, sources(archive, server.uri, pockets=()))
        assert len(str(caught.value)) < 1000
    assert not list((store.root / "indices").glob("*/*"))
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("truncate", {"after": 50}),
        ("status", {"status": 503}),
        ("status", {"status": 429, "headers": (("Retry-After", "0"),)}),
        ("reset", {}),
        ("corrupt", {}),
        ("slow", {"seconds": 0.05}),
    ],
)
def test_a_passing_fault_is_overcome(archive: Archive, store: Store, kind: str, more: dict[str, Any]) -> None:
    with archive.serve() as server:
        server.fault("*/by-hash/*", kind, times=2, **more)
        if kind != "corrupt":
            server.fault("*/InRelease", kind, times=2, **more)
        assert "Package: hello" in texts(run(store, sources(archive, server.uri)))["trixie/main/amd64"]


def test_a_half_updated_mirror_is_read_by_hash(archive: Archive, store: Store) -> None:
    with archive.serve() as server:
        server.fault("*/Packages*", "body", times=None, content=b"newer")
        assert "Package: hello" in texts(run(store, sources(archive, server.uri)))["trixie/main/amd64"]


def test_a_half_updated_mirror_without_by_hash_says_so(archive: Archive, store: Store) -> None:
    archive.suite("trixie", by_hash=False)
    with archive.serve() as server:
        server.fault("*/Packages*", "body", times=None, content=b"newer")
        with pytest.raises(MirrorError, match="is not the one that its signed Release lists") as caught:
            run(store, sources(archive, server.uri))
        assert "try again" in str(caught.value)
        # Having failed past all forms, it was asked for past caches as well.
        assert any(h.get("cache-control") == "no-cache" for _, h in server.requests)


def test_listed_forms_that_are_missing_are_passed_over(archive: Archive, store: Store) -> None:
    archive.suite("trixie", listed=("none", "gz", "xz"), by_hash=False)
    with archive.serve() as server:
        server.fault("*/Packages.xz", "status", times=None, status=404)
        assert "Package: hello" in texts(run(store, sources(archive, server.uri, pockets=())))["trixie/main/amd64"]
        assert server.paths("*/Packages.gz")


@pytest.mark.counts("trust-refused")
def test_signed_garbage_is_not_unpacked_without_bound(archive: Archive, store: Store) -> None:
    archive.suite("trixie", listed=("xz",), by_hash=False)
    archive.publish()
    suite = archive.suites["trixie"]
    bomb = lzma.compress(b"\0" * (64 << 20), preset=1)
    path = "main/binary-amd64/Packages.xz"
    (suite.folder / path).write_bytes(bomb)
    digest = sha256(bomb)
    text = archive.release_text(suite, [(digest, len(bomb), path)])
    archive._sign(suite, text, [Signing(key=archive.key, created=DATE)])
    archive._stale = False
    with pytest.raises(TrustError, match=r"more than the .* bytes"):
        run(store, sources(archive, pockets=()))


@pytest.mark.counts("trust-refused")
def test_an_inrelease_without_end_is_not_read(archive: Archive, store: Store) -> None:
    with archive.serve() as server:
        server.fault("*/InRelease", "body", times=None, content=b"x" * ((32 << 20) + 1))
        with pytest.raises(MirrorError, match="more than the 4194304 that are taken"):
            run(store, sources(archive, server.uri, pockets=()))


def test_an_unchanged_inrelease_is_not_sent_again(archive: Archive, store: Store) -> None:
    with archive.serve() as server:
        run(store, sources(archive, server.uri, pockets=()))
        run(store, sources(archive, server.uri, pockets=()))
        assert "if-modified-since" in server.requests[-1][1]


@pytest.mark.counts("trust-accepted")
def test_a_snapshot_pins_every_pocket(tmp_path: Path, store: Store, archive: Archive) -> None:
    date = "20250101T000000Z"
    for suite in archive.suites:
        archive.suite(suite, valid_until=DATE + 60)
    archive.publish()
    dated = tmp_path / "snapshots" / date
    dated.mkdir(parents=True)
    for name in ("debian", "debian-security"):
        (archive.root / name).rename(dated / name)
    live = sources(archive, f"file:{tmp_path}/live/debian")
    policy = Policy(now=NOW)
    pattern = f"file:{tmp_path}/snapshots/{{snapshot}}/{{archive}}"
    config = Config(snapshots={"debian": pattern}, path="config.toml")
    then = snapshot(store, live, date, config=config, http=http(), policy=policy)
    assert then.snapshot == date
    assert all(f"/snapshots/{date}/" in str(suite.address) for suite in then.suites)
    # Valid-Until passed long ago, as it must have in any snapshot; live it is an error.
    assert "Package: hello" in texts(run(store, then))["trixie/main/amd64"]
    with pytest.raises(MirrorError, match="a snapshot pins every pocket"):
        only = Config(snapshots={"debian": f"file:{tmp_path}/snapshots/{{snapshot}}/debian"}, path="config.toml")
        archive.publish()
        snapshot(store, sources(archive), date, config=only, http=http(), policy=Policy(now=NOW))


def test_a_snapshot_by_the_releases_own_field(tmp_path: Path, store: Store, archive: Archive) -> None:
    date = "20250101T000000Z"
    for name, suite in archive.suites.items():
        folder = "debian-security" if name.endswith("-security") else "debian"
        archive.suite(name, fields={"Snapshots": f"file:{tmp_path}/snapshots/@SNAPSHOTID@/{folder}"})
        assert suite.name == name
    then = snapshot(store, sources(archive), date, config=Config(), http=http(), policy=Policy(now=NOW))
    assert [str(s.archive) for s in then.suites] == [
        f"file:{tmp_path}/snapshots/{date}/{folder}" for folder in ("debian", "debian", "debian-security")
    ]


@pytest.mark.parametrize("text", ["2025-01-01", "20250101", "20250101T000000", "20250101T000000Z ", ""])
def test_what_is_no_snapshot(text: str) -> None:
    with pytest.raises(RecipeError):
        source.check_snapshot(text, "recipe.yaml:3:1")
    source.check_snapshot("20250101T000000Z", "recipe.yaml:3:1")


def test_debian_unstable_has_no_pockets(archive: Archive) -> None:
    found = mirror.mirror("debian", "amd64", config=Config(), environ={}, recipe="file:/srv/debian")
    ring = keyring.load(archive.keyring)
    names = [
        s.name for s in source.distribution("debian", "sid", mirror=found, keyring=ring, architectures=["amd64"]).suites
    ]
    assert names == ["sid"]


def test_the_result_is_the_same_whatever_arrives_first(tmp_path: Path, archive: Archive) -> None:
    results = []
    for n, slow in enumerate(("*trixie/*", "*trixie-security/*", "*trixie-updates/*")):
        with archive.serve() as server:
            server.fault(slow, "slow", times=None, seconds=0.05)
            found = run(Store(tmp_path / f"store{n}"), sources(archive, server.uri))
        results.append([(i.suite, i.component, i.sha256) for i in found.indices])
    assert results[0] == results[1] == results[2]


def test_the_server_of_these_tests_resumes(archive: Archive) -> None:
    """Guards the tests themselves: Range is what resumption rests on."""
    import urllib.request

    built = archive.add("big", files={"x": bytes(range(256)) * 40}, compression="none")
    with archive.serve() as server:
        assert isinstance(server, Server)
        request = urllib.request.Request(f"{server.uri}/{built.filename}", headers={"Range": "bytes=100-"})
        with urllib.request.urlopen(request) as response:
            assert response.status == 206
            assert response.read() == built.path.read_bytes()[100:]


def test_a_failed_refresh_leaves_the_store_usable_offline(archive: Archive, store: Store) -> None:
    with archive.serve() as server:
        wanted = sources(archive, server.uri)
        before = texts(run(store, wanted))
        archive.add("hello", "2.0", architecture="amd64")
        archive.suite("trixie", date=DATE + 60)
        archive.publish()
        for pattern in ("*/by-hash/*", "*/Packages*"):
            server.fault(pattern, "status", times=None, status=404)
        with pytest.raises(MirrorError, match="none of the forms"):
            run(store, wanted)
        assert texts(run(store, wanted, offline=True)) == before


def test_two_builds_at_once_agree(archive: Archive, store: Store) -> None:
    with archive.serve() as server:
        wanted = sources(archive, server.uri)
        found: list[Refreshed] = []
        threads = [threading.Thread(target=lambda: found.append(run(store, wanted))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4
    assert all(f == found[0] for f in found)
    assert not list((store.root / "tmp").iterdir())


def test_what_is_known_already_is_not_written_again(archive: Archive, store: Store) -> None:
    wanted = sources(archive)
    run(store, wanted)
    before = {path: path.stat().st_ino for path in store.root.rglob("*") if path.is_file()}
    run(store, wanted)
    assert {path: path.stat().st_ino for path in store.root.rglob("*") if path.is_file()} == before
