"""Packages come whole and verified, or not at all, whatever the mirror and the network do."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mkroot.archive import download
from mkroot.archive.address import parse
from mkroot.archive.download import Wanted, fetch, local_deb
from mkroot.archive.http import Http
from mkroot.digest import sha256
from mkroot.errors import MirrorError, MkrootError, PackageError, TrustError
from mkroot.store.store import Store
from tests.testarchive import Server

SIZE = 700_000  # more than two chunks of the reader


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "www" / "pool"
    folder.mkdir(parents=True)
    for n in range(12):
        content = random.Random(n).randbytes(SIZE if n == 0 else 1000 + n)
        (folder / f"p{n}_1.0~rc+1_all.deb").write_bytes(content)
    return folder


@pytest.fixture
def server(pool: Path) -> Iterator[Server]:
    with Server(pool.parent) as running:
        yield running


def wanted(pool: Path, uri: str, count: int = 12) -> list[Wanted]:
    out = []
    for n in range(count):
        path = pool / f"p{n}_1.0~rc+1_all.deb"
        data = path.read_bytes()
        address = parse(uri, "test").join(f"pool/{path.name}")
        out.append(Wanted(name=f"p{n} 1.0", address=address, sha256=sha256(data), size=len(data)))
    return out


def http(**more: Any) -> Http:
    return Http({}, **{"backoff": 0.01, "timeout": 1.0, **more})


def big(pool: Path, uri: str) -> list[Wanted]:
    return wanted(pool, uri, 1)


def nothing_left(store: Store) -> bool:
    return not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("workers", [1, 4])
def test_every_package_is_yielded_once(store: Store, pool: Path, server: Server, local: bool, workers: int) -> None:
    jobs = wanted(pool, f"file:{pool.parent}" if local else server.base)
    counted: dict[str, int] = {}
    lock = threading.Lock()

    def progress(job: Wanted, size: int) -> None:
        with lock:
            counted[job.name] = counted.get(job.name, 0) + size

    found = dict(fetch(store, [*jobs, jobs[0]], http=http(), progress=progress, workers=workers))
    assert {job.name for job in found} == {job.name for job in jobs}
    for job, path in found.items():
        assert sha256(path.read_bytes()) == job.sha256
    assert counted == {job.name: job.size for job in jobs}
    assert nothing_left(store)
    server.requests.clear()
    assert len(list(fetch(store, jobs, http=http(), offline=True))) == len(jobs)
    assert server.requests == []


def test_the_largest_is_begun_first(store: Store, pool: Path, server: Server) -> None:
    list(fetch(store, wanted(pool, server.base)[::-1], http=http(), workers=1))
    assert server.paths()[0].startswith("/pool/p0_")


def test_connections_are_reused(store: Store, pool: Path, server: Server) -> None:
    client = http()
    list(fetch(store, wanted(pool, server.base), http=client, workers=2))
    opened = sum(p.num_connections for pool_ in client._pools.values() for p in [_only(pool_)])
    assert opened <= 2


def _only(manager: Any) -> Any:
    (key,) = manager.pools.keys()
    return manager.pools[key]


PASSING = [
    ("truncate", {"after": 300_000}),
    ("truncate", {"after": 0}),
    ("stall", {"after": 300_000}),
    ("short", {"after": 300_000}),
    ("short", {"after": 0}),
    ("status", {"status": 500}),
    ("status", {"status": 502}),
    ("status", {"status": 503, "headers": (("Retry-After", "0"),)}),
    ("status", {"status": 429}),
    ("reset", {}),
    ("corrupt", {"after": 5}),
    ("grow", {"after": 7}),
]


@pytest.mark.counts("fault")
@pytest.mark.parametrize(("kind", "more"), PASSING, ids=lambda v: str(v))
@pytest.mark.parametrize("ranges", [True, False])
def test_a_passing_fault_is_overcome(
    store: Store, pool: Path, server: Server, kind: str, more: dict[str, Any], ranges: bool
) -> None:
    server.ranges = ranges
    server.fault("*", kind, **more)
    said: list[str] = []
    client = http(tell=said.append, timeout=0.3)
    (found,) = fetch(store, big(pool, server.base), http=client)
    assert sha256(found[1].read_bytes()) == found[0].sha256
    assert nothing_left(store)
    if kind not in ("corrupt", "grow"):
        assert len(said) == 1 and "trying again in" in said[0]


@pytest.mark.counts("fault")
def test_a_broken_transfer_is_taken_up_where_it_broke(store: Store, pool: Path, server: Server) -> None:
    server.fault("*", "truncate", after=600_000, times=1)
    server.fault("*", "truncate", after=650_000, times=1)
    list(fetch(store, big(pool, server.base), http=http()))
    asked = [headers.get("range", "") for _, headers in server.requests]
    assert asked[0] == ""
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in asked[1:]]
    assert 0 < starts[0] <= 600_000 <= starts[1] + 600_000 and len(starts) == 2


@pytest.mark.counts("fault")
def test_a_transfer_that_always_breaks_further_on_is_not_given_up(store: Store, pool: Path, server: Server) -> None:
    for step in range(1, 10):
        server.fault("*", "truncate", after=step * 70_000)
    list(fetch(store, big(pool, server.base), http=http(attempts=3)))


LASTING = [
    ("corrupt", {"after": 5}, "the digest is sha256:", TrustError),
    ("corrupt", {"after": SIZE - 1}, "the digest is sha256:", TrustError),
    ("body", {"content": b"<html>sign in</html>"}, "20 bytes where 700000 were promised", TrustError),
    ("body", {"content": b""}, "0 bytes where 700000 were promised", TrustError),
    ("grow", {"after": 1}, "700001 bytes where 700000 were promised", TrustError),
    ("oversend", {"after": 1 << 20}, "longer than the 700000 bytes", TrustError),
    ("truncate", {"after": 300_000}, "no luck after 3 attempts", MirrorError),
    ("stall", {"after": 10}, "no luck after 3 attempts: the transfer broke off", MirrorError),
    ("status", {"status": 500}, "status 500", MirrorError),
    ("status", {"status": 404}, "does not have it", MirrorError),
    ("status", {"status": 403}, "refuses access", MirrorError),
    ("status", {"status": 401}, "refuses access", MirrorError),
    ("status", {"status": 418}, "status 418", MirrorError),
    ("reset", {}, "no luck after 3 attempts: no connection", MirrorError),
    ("redirect", {}, "more than 5 redirects", MirrorError),
    ("redirect", {"location": "file:///etc/passwd"}, "neither http nor https", MirrorError),
    ("redirect", {"location": "ftp://mirror.example/x"}, "neither http nor https", MirrorError),
]


@pytest.mark.counts("fault")
@pytest.mark.parametrize(("kind", "more", "said", "error"), LASTING, ids=lambda v: str(v)[:40])
def test_a_lasting_fault_is_an_error_and_leaves_nothing(
    store: Store, pool: Path, server: Server, kind: str, more: dict[str, Any], said: str, error: type[MkrootError]
) -> None:
    server.ranges = False
    server.fault("*/p0_*", kind, times=None, **more)
    client = http(attempts=3, timeout=0.2)
    with pytest.raises(error) as caught:
        list(fetch(store, wanted(pool, server.base), http=client, workers=3))
    assert said in caught.value.what
    assert "/pool/p0_" in str(caught.value)
    assert not store.has("debs", wanted(pool, server.base)[0].sha256)
    assert client.stop.is_set()
    time.sleep(0.05)
    assert nothing_left(store)


def test_a_content_encoding_is_the_files_own_and_left_alone(store: Store, pool: Path, server: Server) -> None:
    """Servers say of a .gz that it is encoded; undoing that would give other bytes than the signed ones."""
    server.fault("*", "header", headers=(("Content-Encoding", "gzip"),))
    list(fetch(store, big(pool, server.base), http=http()))
    assert len(server.requests) == 1


@pytest.mark.counts("trust-accepted")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(store: Store, pool: Path, server: Server, status: int) -> None:
    (pool.parent / "elsewhere").symlink_to(pool)
    server.fault("/pool/*", "redirect", status=status, location="/elsewhere/p0_1.0~rc+1_all.deb")
    list(fetch(store, big(pool, server.base), http=http()))
    assert server.paths("/elsewhere/*")


@pytest.mark.counts("trust-refused")
def test_five_redirects_are_followed_and_six_are_not(store: Store, pool: Path, server: Server) -> None:
    fault = server.fault("/pool/*", "redirect", times=5)
    list(fetch(store, big(pool, server.base), http=http()))
    fault.times = 11
    other = Store(store.root.parent / "other")
    with pytest.raises(MirrorError, match="more than 5 redirects"):
        list(fetch(other, big(pool, server.base), http=http()))


@pytest.mark.counts("trust-refused")
def test_credentials_are_sent_and_never_shown(store: Store, pool: Path, server: Server) -> None:
    basic = "Basic dXNlcjpzM2NyM3Q="
    server.authorize = lambda headers: headers.get("authorization") == basic
    jobs = big(pool, server.base.replace("//", "//user:s3cr3t@"))
    assert "s3cr3t" not in repr(jobs)
    server.fault("*", "status", status=503)
    said: list[str] = []
    list(fetch(store, jobs, http=http(tell=said.append)))
    assert said and "s3cr3t" not in "".join(said)
    server.authorize = lambda headers: False
    with pytest.raises(MirrorError, match="refuses access") as caught:
        list(fetch(Store(store.root.parent / "other"), jobs, http=http()))
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.counts("trust-refused")
def test_credentials_do_not_follow_a_redirect_to_another_host(store: Store, pool: Path, server: Server) -> None:
    with Server(pool.parent) as other:
        server.fault("*", "redirect", location=f"{other.base}/pool/p0_1.0~rc+1_all.deb")
        list(fetch(store, big(pool, server.base.replace("//", "//user:s3cr3t@")), http=http()))
        assert "authorization" in server.requests[0][1]
        assert "authorization" not in other.requests[0][1]


def test_a_proxy_is_used_unless_no_proxy_names_the_host(store: Store, pool: Path, server: Server) -> None:
    jobs = [
        Wanted(name=j.name, address=parse("http://mirror.example", "t").join("pool/x"), sha256=j.sha256, size=j.size)
        for j in big(pool, server.base)
    ]
    server.fault("*", "body", content=(pool / "p0_1.0~rc+1_all.deb").read_bytes())
    proxy = server.base.replace("//", "//user:s3cr3t@")
    # A proxy is asked for the whole address; this server takes anything whose answer is replaced.
    (pool.parent / "http:" / "mirror.example" / "pool").mkdir(parents=True)
    (pool.parent / "http:" / "mirror.example" / "pool" / "x").write_bytes(b"")
    list(fetch(store, jobs, http=Http({"http_proxy": proxy}, backoff=0.01)))
    path, headers = server.requests[0]
    assert path == "http://mirror.example/pool/x"
    assert headers["proxy-authorization"] == "Basic dXNlcjpzM2NyM3Q="
    server.requests.clear()
    client = Http({"http_proxy": "http://127.0.0.1:1", "no_proxy": "localhost,127.0.0.1"}, backoff=0.01)
    list(fetch(Store(store.root.parent / "other"), big(pool, server.base), http=client))
    assert server.requests


def test_the_user_agent_says_who_asks(store: Store, pool: Path, server: Server) -> None:
    list(fetch(store, big(pool, server.base), http=http()))
    assert server.requests[0][1]["user-agent"].startswith("mkroot/")


@pytest.mark.counts("fault")
def test_a_server_that_is_not_there(store: Store, pool: Path) -> None:
    said: list[str] = []
    with pytest.raises(MirrorError, match="no luck after 3 attempts: no connection"):
        list(fetch(store, big(pool, "http://127.0.0.1:1"), http=http(attempts=3, tell=said.append)))
    assert len(said) == 2


@pytest.mark.counts("fault")
@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d[:-1] + b"?", lambda d: b"", lambda d: d + b"x"])
def test_damage_in_the_store_is_mended_whatever_its_mtime_says(
    store: Store, pool: Path, server: Server, change: Any
) -> None:
    jobs = wanted(pool, server.base)
    for _, path in fetch(store, jobs, http=http()):
        stat = path.stat()
        path.write_bytes(change(path.read_bytes()))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(MirrorError, match="the store does not have p"):
        list(fetch(store, jobs, http=http(), offline=True))
    for job, path in fetch(store, jobs, http=http()):
        assert sha256(path.read_bytes()) == job.sha256


def test_offline_without_the_package(store: Store, pool: Path, server: Server) -> None:
    with pytest.raises(MirrorError, match=r"the store does not have p0 1\.0"):
        list(fetch(store, big(pool, server.base), http=http(), offline=True))
    assert server.requests == []


@pytest.mark.counts("trust-refused")
def test_local_files_that_lie(store: Store, pool: Path) -> None:
    jobs = wanted(pool, f"file:{pool.parent}")
    victim = pool / "p0_1.0~rc+1_all.deb"
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with pytest.raises(TrustError, match=r"p0 1\.0 is not what the signed index promises"):
        list(fetch(store, jobs, http=http()))
    victim.unlink()
    with pytest.raises(MirrorError, match="no such file"):
        list(fetch(store, jobs, http=http()))
    victim.mkdir()
    with pytest.raises(MirrorError, match=r"cannot be read|not a regular file"):
        list(fetch(store, jobs, http=http()))
    victim.rmdir()
    os.mkfifo(victim)
    with pytest.raises(MirrorError, match="not a regular file"):
        list(fetch(store, jobs, http=http()))


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(("digest", "size"), [("", 10), ("../../x", 10), ("0" * 64, 0), ("0" * 64, 1 << 40)])
def test_promises_that_cannot_be_kept(store: Store, digest: str, size: int) -> None:
    address = parse("http://mirror.example", "t").join("pool/x")
    with pytest.raises(TrustError):
        list(fetch(store, [Wanted(name="x", address=address, sha256=digest, size=size)], http=http()))


@pytest.mark.counts("fault")
def test_giving_up_ends_the_transfers_and_leaves_nothing(store: Store, pool: Path, server: Server) -> None:
    server.fault("*", "slow", times=None, seconds=0.05)
    client = http()
    for _ in fetch(store, wanted(pool, server.base), http=client, workers=2):
        break
    assert client.stop.is_set()
    time.sleep(0.15)
    assert nothing_left(store)
    assert len(server.requests) < 12


def test_no_mode_bits_of_the_source_or_the_umask_matter(store: Store, pool: Path) -> None:
    old = os.umask(0o077)
    try:
        ((_, path),) = fetch(store, big(pool, f"file:{pool.parent}"), http=http())
    finally:
        os.umask(old)
    assert path.stat().st_size == SIZE


def test_a_local_deb_is_copied_into_the_store(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "x.deb"
    file.write_bytes(b"!<arch>\n" + b"x" * 3_000_000)
    found = local_deb(store, file)
    assert found.path.read_bytes() == file.read_bytes()
    assert (found.sha256, found.size) == (sha256(file.read_bytes()), 3_000_008)
    assert nothing_left(store)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "text", "empty"])
def test_what_is_no_local_deb(store: Store, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "x.deb"
    if kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind != "missing":
        file.write_bytes(b"hello" if kind == "text" else b"")
    with pytest.raises(PackageError) as caught:
        local_deb(store, file)
    assert caught.value.where == str(file)
    assert nothing_left(store)


@pytest.mark.counts("fault")
def test_a_full_disk_is_told(store: Store, pool: Path) -> None:
    """/dev/full stands for the disk: a real write that really fails with ENOSPC."""

    class Full:
        def __truediv__(self, name: str) -> Path:
            return Path("/dev/full")

    job = big(pool, f"file:{pool.parent}")[0]
    with pytest.raises(MkrootError, match="cannot be stored: No space left on device"):
        download._one(store, job, http(), False, None, Full())  # type: ignore[arg-type]
