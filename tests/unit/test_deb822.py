"""Stanzas and Release files: the fast reader, the strict one, and what a Release file must say."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkroot.debian.deb822 import parse_stanza, parse_strict, stanzas
from mkroot.debian.package import Package
from mkroot.debian.release import parse_release
from mkroot.errors import PackageError, TrustError


def test_a_stanza() -> None:
    assert parse_stanza(b"Package: a\nDescription: short\n long\n .\n more\nX-Y:z") == {
        "package": "a",
        "description": "short\n long\n .\n more",
        "x-y": "z",
    }


def test_stanzas_are_split_at_empty_lines() -> None:
    assert list(stanzas(b"\n\nA: 1\n\n\n\nB: 2\nC: 3\n\n")) == [b"A: 1", b"B: 2\nC: 3"]


def test_strict_knows_lines() -> None:
    first, second = parse_strict("# c\nA: 1\n b\n# d\n c\n\n\nB:2\r\n", "f")
    assert (first["a"].value, first["a"].line, second["b"].value, second["b"].line) == ("1\n b\n c", 2, "2", 8)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("A: 1\nB\n", "f:2"),
        (" x\n", "f:1"),
        ("A: 1\na: 2\n", "f:2"),
        ("A B: 1\n", "f:1"),
        ("A: 1\n\n x", "f:3"),
        (": 1", "f:1"),
    ],
)
def test_strict_refuses(text: str, place: str) -> None:
    with pytest.raises(PackageError) as caught:
        parse_strict(text, "f")
    assert caught.value.where == place


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for stanza in stanzas(data):
        parse_stanza(stanza)
    with contextlib.suppress(PackageError):
        parse_strict(data.decode("utf-8", "surrogateescape"), "f")


def test_a_package() -> None:
    package = Package.parse(
        b"Package: a\nVersion: 1-1+b1\nArchitecture: amd64\nSource: src (1-1)\nPriority: REQUIRED\nEssential: yes\n"
        b"Installed-Size: 12\nSize: 34\nSHA256: AB\nMulti-Arch: same\nDepends: b | c\nProvides: d (= 2)"
    )
    assert (package.source, package.source_version, package.priority) == ("src", "1-1", "required")
    assert (package.essential, package.protected, package.multi_arch) == (True, False, "same")
    assert (package.installed_size, package.size, package.sha256) == (12, 34, "ab")
    assert [len(c) for c in package.depends] == [2]
    assert package.provides[0][0].version == "2"


def test_a_package_without_a_version() -> None:
    with pytest.raises(PackageError, match="version"):
        Package.parse(b"Package: a\nArchitecture: all")


def test_a_bad_relation_names_its_package() -> None:
    with pytest.raises(PackageError) as caught:
        _ = Package.parse(b"Package: a\nVersion: 1\nArchitecture: all\nDepends: b b").depends
    assert caught.value.where == "a 1, field depends"


DIGEST = "0" * 64
RELEASE = f"""Origin: Debian
Label: Debian
Suite: stable
Version: 13.1
Codename: trixie
Date: Sat, 06 Sep 2025 10:03:05 UTC
Valid-Until: Sat, 13 Sep 2025 10:03:05 UTC
Acquire-By-Hash: yes
No-Support-for-Architecture-all: Packages
Architectures: all amd64
Components: updates/main updates/contrib
SHA256:
 {DIGEST}   12 main/binary-all/Packages
 {DIGEST} 1234 main/binary-amd64/Packages.xz
"""


def test_a_release() -> None:
    release = parse_release(RELEASE, "r")
    assert (release.suite, release.codename, release.version, release.origin) == ("stable", "trixie", "13.1", "Debian")
    assert (release.date, release.valid_until) == (1757152985, 1757757785)
    assert release.acquire_by_hash and release.no_support_for_architecture_all and not release.not_automatic
    assert release.components == ("updates/main", "updates/contrib")
    assert release.files["main/binary-amd64/Packages.xz"] == (DIGEST, 1234)  # two indices may have one digest


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("Suite: stable", "Suite: stable\nSuite: stable", "twice"),
        ("SHA256:", "SHA256:\n\nSHA256:", "one stanza"),
        ("Date: Sat, 06 Sep 2025 10:03:05 UTC\n", "", "no Date"),
        ("Date: Sat, 06 Sep 2025 10:03:05 UTC", "Date: yesterday", "cannot be read"),
        ("Date: Sat, 06 Sep 2025 10:03:05 UTC", "Date: Sat, 36 Sep 2025 10:03:05 UTC", "cannot be read"),
        ("Date: Sat, 06 Sep 2025 10:03:05 UTC", "Date: Sat, 06 Sep 2025 10:03:05 PST", "cannot be read"),
        ("Valid-Until: Sat, 13 Sep 2025 10:03:05 UTC", "Valid-Until: never", "cannot be read"),
        ("SHA256:", "MD5Sum:", "no SHA256"),
        ("main/binary-all/Packages", "main/binary-amd64/Packages.xz", "twice"),
        ("main/binary-all/Packages", "../main/binary-all/Packages", "outside"),
        ("main/binary-all/Packages", "/main/binary-all/Packages", "outside"),
        ("   12 ", " -12 ", "not a line"),
        ("   12 ", " ", "not a line"),
        (DIGEST + "   12", "0" * 40 + "   12", "not a line"),
        (RELEASE, "", "one stanza"),
        ("Origin: Debian", "Origin", "not a"),
    ],
)
def test_a_release_is_refused(before: str, after: str, says: str) -> None:
    with pytest.raises(TrustError, match=says):
        parse_release(RELEASE.replace(before, after), "r")


@given(st.text(max_size=120))
def test_any_release(text: str) -> None:
    with contextlib.suppress(TrustError):
        parse_release(RELEASE + text, "r")
