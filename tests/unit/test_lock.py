"""Locks: the same text always, strict reading, differences, partial renewal."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkroot.errors import LockError
from mkroot.resolve.lock import Lock, LockedSource, LockedSuite, decode_lock, diff_locks, held, lock_root, named
from mkroot.resolve.request import Request
from mkroot.resolve.resolver import beside, resolve
from mkroot.resolve.universe import TextUniverse

DIGEST = "ab" * 32


def universe(**versions: str) -> TextUniverse:
    """Return packages app → lib → base, and loader, in the given versions (1)."""
    depends = {"app": "lib", "lib": "base", "base": "", "loader": "nowhere"}
    return TextUniverse.of(
        "\n".join(
            f"Package: {name}\nVersion: {versions.get(name, '1')}\nArchitecture: amd64\nSource: {name}-src\n"
            + (f"Depends: {need}\n" if need else "")
            + f"Size: 10\nInstalled-Size: 3\nFilename: pool/{name}.deb\nSHA256: {versions.get(name, '1') * 64}\n"
            for name, need in depends.items()
        )
    )


def lock(found: TextUniverse, request: Request | None = None) -> Lock:
    request = request or Request(architecture="amd64", variant="none", include=("app",))
    resolution = resolve(found, request)
    suites = (LockedSuite(suite="stable", inrelease=DIGEST, date=1, signer="F" * 40),)
    return Lock(
        recipe=DIGEST,
        sources=(LockedSource(id="main", suites=suites),),
        architectures={"amd64": lock_root(resolution, beside(found, request, resolution, ["loader", "app"]))},
    )


def test_there_and_back() -> None:
    one = lock(universe())
    assert decode_lock(one.encode(), "x.lock") == one
    assert one.encode() == decode_lock(one.encode(), "x.lock").encode()
    assert one.encode().endswith(b"}\n")
    assert b"/home" not in one.encode() and b"://" not in one.encode()


def test_what_it_says() -> None:
    root = lock(universe()).root("amd64")
    assert [(p.name, p.why) for p in root.packages] == [
        ("base", "lib depends on base"),
        ("lib", "app depends on lib"),
        ("app", "requested as `app`"),
    ]
    package = root.packages[0]
    assert (package.sha256, package.size, package.installed_size, package.path) == ("1" * 64, 10, 3, "pool/base.deb")
    assert (package.source, package.source_version, package.origin, package.suite) == (
        "base-src",
        "1",
        "main",
        "stable",
    )
    assert [(p.name, p.stage) for p in root.beside] == [("loader", "beside")]


def test_keys_are_sorted() -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert list(value) == sorted(value)
            for inner in value.values():
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)

    check(json.loads(lock(universe()).encode()))


def test_stale() -> None:
    one = lock(universe())
    assert one.stale("cd" * 32) and not one.stale(DIGEST)
    with pytest.raises(LockError, match="arm64"):
        one.root("arm64")


def changed(path: list[Any], value: Any) -> bytes:
    tree = json.loads(lock(universe()).encode())
    at = tree
    for step in path[:-1]:
        at = at[step]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(tree).encode()


PACKAGE = ["architectures", "amd64", "packages", 0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a lock"),
        (b"\xff", "not a lock"),
        (b"[]", "not a lock"),
        (changed(["version"], 99), "form 99"),
        (changed(["extra"], 1), "extra"),
        (changed([*PACKAGE, "size"], "10"), "size"),
        (changed([*PACKAGE, "size"], -1), "negative"),
        (changed([*PACKAGE, "sha256"], "ab"), "sha256"),
        (changed([*PACKAGE, "sha256"], None), "sha256"),
        (changed([*PACKAGE, "name"], "../x"), "name"),
        (changed([*PACKAGE, "name"], "lib"), "twice"),
        (changed([*PACKAGE, "path"], "a/../../x"), "leaves"),
        (changed([*PACKAGE, "path"], "/etc/passwd"), "leaves"),
        (changed([*PACKAGE, "more"], 1), "more"),
    ],
)
def test_refused(data: bytes, says: str) -> None:
    with pytest.raises(LockError, match=says) as caught:
        decode_lock(data, "x.lock")
    assert caught.value.where == "x.lock"


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(LockError):
        decode_lock(data, "x.lock")


def test_differences() -> None:
    before = lock(universe())
    request = Request(architecture="amd64", variant="none", include=("lib",))
    after = lock(universe(lib="2", base="0"), request)
    diff = diff_locks(before, after)["amd64"]
    assert [p.name for p in diff.removed] == []
    assert [(c.name, c.before, c.after, c.kind) for c in diff.changed] == [
        ("base", "1", "0", "downgraded"),
        ("lib", "1", "2", "upgraded"),
    ]
    smaller = msgspec.structs.replace(after, architectures={})
    assert [p.name for p in diff_locks(after, smaller)["amd64"].removed] == ["app", "base", "lib", "loader"]
    assert diff_locks(before, before)["amd64"].empty


def test_renewing_some() -> None:
    before = lock(universe()).root("amd64")
    text = "\n\n".join(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nSHA256: {version * 64}\nDepends: {need}"
        for name, need in (("app", "lib"), ("lib", "base"), ("base", ""))
        for version in ("1", "2")
    )
    found = TextUniverse.of(text.replace("Depends: \n", "").removesuffix("Depends: "))
    for update, expected in ((["lib"], "121"), (["app-src"], "112"), ([], "111"), (["app", "base", "lib"], "222")):
        request = Request(
            architecture="amd64", variant="none", include=("app",), locked=held(before, named(before, update))
        )
        assert "".join(p.version for p in resolve(found, request).packages) == expected
    with pytest.raises(LockError, match="`nginx`"):
        named(before, ["nginx"])


def test_renewing_takes_along_what_it_must() -> None:
    before = lock(universe()).root("amd64")
    text = "\n\n".join(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nSHA256: {version * 64}\n"
        f"Depends: {need} (= {version})"
        for name, need in (("app", "lib"), ("lib", "base"))
        for version in ("1", "2")
    )
    base = "\n\n".join(f"Package: base\nVersion: {v}\nArchitecture: amd64\nSHA256: {v * 64}" for v in "12")
    request = Request(
        architecture="amd64", variant="none", include=("app=2",), locked=held(before, named(before, ["app"]))
    )
    assert {p.version for p in resolve(TextUniverse.of(f"{text}\n\n{base}"), request).packages} == {"2"}
