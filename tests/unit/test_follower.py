"""A table is made while its text is unpacked, and is kept only where the text turns out to be the right one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mkroot.archive import index as index_module
from mkroot.archive import keyring, mirror, refresh, source
from mkroot.archive.config import Config
from mkroot.archive.follower import following
from mkroot.archive.http import Http
from mkroot.archive.index import KIND, ArchiveUniverse, open_index, table_key
from mkroot.archive.inrelease import Policy
from mkroot.debian.release import Index
from mkroot.digest import sha256
from mkroot.errors import MkrootError, TrustError
from mkroot.store.store import Store
from mkroot.tar.stream import decompress
from tests.testarchive import DATE, DAY, Archive

TEXT = "\n".join(
    f"Package: p{n}\nVersion: {n}\nArchitecture: all\nDepends: p{n + 1}, d{n}\nProvides: v\n" for n in range(200)
).encode()
DIGEST = sha256(TEXT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def entry(store: Store, text: bytes = TEXT) -> Index:
    """Return the index of a text, which is in the store then."""
    digest = sha256(text)
    path = store.path(KIND, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    return Index(source="m", suite="s", codename="s", architecture="amd64", path=path, sha256=digest, size=len(text))


def gone(pid: int) -> bool:
    """Tell whether a child has ended and has been waited for."""
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return True


@pytest.mark.parametrize("told", [range(0, len(TEXT), 700), [1], []])
def test_a_text_that_grows(store: Store, told: range | list[int]) -> None:
    found = entry(store)
    with following(store, 1) as (follower,), found.path.open("rb") as file:
        follower.begin(file.fileno())
        for size in told:
            follower.grown(size)
        assert not store.has(KIND, table_key(DIGEST))
        pid = follower._pid
        follower.finish(DIGEST)
        assert store.has(KIND, table_key(DIGEST))
        assert gone(pid)
    made = store.path(KIND, table_key(DIGEST)).stat().st_ino
    universe = ArchiveUniverse(store, [found])
    assert store.path(KIND, table_key(DIGEST)).stat().st_ino == made
    assert [p.version for p in universe.packages("p150")] == ["150"]
    assert len(universe.providers("v")) == 200
    assert [universe.rank(n, "amd64")[1] for n in ("p0", "p1", "d0", "v", "p2", "d1")] == list(range(6))


def test_a_text_that_is_given_up(store: Store) -> None:
    found = entry(store)
    with following(store, 3) as followers, found.path.open("rb") as file:
        pids = [f._pid for f in followers]
        for follower in followers[:2]:  # the third is never begun
            follower.begin(file.fileno())
            follower.grown(len(TEXT))
        followers[0].close()
    assert all(map(gone, pids))
    assert not store.has(KIND, table_key(DIGEST))
    assert not list((store.root / "tmp").iterdir())


def test_a_process_ends_with_its_own_pipe_whatever_the_others_hold(store: Store) -> None:
    with following(store, 3) as followers:
        for follower in followers:  # the first one's end is known to the processes forked after it
            pid = follower._pid
            follower.close()
            assert gone(pid)


def test_a_text_that_cannot_be_read_is_refused_later_and_aloud(store: Store) -> None:
    found = entry(store, b"Version: 1\n\n" + TEXT)
    with following(store, 1) as (follower,), found.path.open("rb") as file:
        follower.begin(file.fileno())
        for size in range(0, len(TEXT), 100):
            follower.grown(size)
        follower.finish(found.sha256)
    assert not store.has(KIND, table_key(found.sha256))
    with pytest.raises(TrustError, match="at byte 0 of the index names no package"):
        open_index(store, found)


def test_no_more_processes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise OSError(errno.EAGAIN, "no more")

    monkeypatch.setattr(os, "fork", fork)
    with following(store, 2) as followers:
        assert followers == []


# --- with an archive


def fresh(archive: Archive, store: Store, *, offline: bool = False) -> tuple[Index, ...]:
    """Bring the store up to date with an archive."""
    found = mirror.mirror(archive.distro, "amd64", config=Config(), environ={}, recipe=archive.uri, root=archive.root)
    main = source.distribution(
        archive.distro,
        archive.codename,
        mirror=found,
        architectures=["amd64"],
        keyring=keyring.load(archive.keyring),
    )
    policy = Policy(now=DATE + DAY, offline=offline)
    return refresh.refresh(store, [main], http=Http({}, backoff=0.01), policy=policy).indices


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    monkeypatch.setattr(refresh, "LARGE", 0)
    made = Archive(tmp_path / "archive")
    made.add("hello", "1.0", architecture="amd64")
    made.add("hello", "1.1", architecture="amd64", suite="trixie-security")
    return made


def test_tables_come_with_the_indices(archive: Archive, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    indices = fresh(archive, store)
    large = [i for i in indices if i.size]
    assert len(large) == 2 and all(store.has(KIND, table_key(i.sha256)) for i in large)
    monkeypatch.setattr(index_module, "keep", lambda *_: pytest.fail("made once more"))
    universe = ArchiveUniverse(store, large)
    assert {p.version for p in universe.packages("hello")} == {"1.0", "1.1"}
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a process for what is there"))
    assert fresh(archive, store) == indices
    assert fresh(archive, store, offline=True) == indices


def test_an_index_that_is_not_what_was_signed_leaves_no_table(
    archive: Archive, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lying(kind: str, data: memoryview, limit: int) -> Iterator[bytes]:
        yield b"".join(decompress(kind, data, limit)).replace(b"Version: 1.", b"Version: 2.")

    monkeypatch.setattr("mkroot.archive.packages.decompress", lying)
    with pytest.raises(MkrootError, match="does not unpack to what its Release lists"):
        fresh(archive, store)
    assert not list((store.root / KIND).glob("*/*.t*"))
