"""Versions order exactly as dpkg orders them."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkroot.debian.version import Version, compare, version_key
from mkroot.errors import PackageError

# Each is older than the next.
ASCENDING = [
    "0~",
    "0",
    "0a",
    "0+",
    "0.0",
    "1~~",
    "1~~a",
    "1~",
    "1",
    "1-0.1",
    "1-1~bpo12+1",
    "1-1",
    "1-1+b1",
    "1-1+deb12u1",
    "1-1.1",
    "1a",
    "1+git",
    "1.0~rc1",
    "1.0",
    "1.0.1",
    "1.2",
    "1.10",
    "2-1-1",
    "10",
    "1:0~",
    "1:0.1",
    "1:2.0-1",
    "2:0",
]


def test_ascending() -> None:
    for n, older in enumerate(ASCENDING):
        for m, newer in enumerate(ASCENDING):
            assert compare(older, newer) == (n > m) - (n < m), (older, newer)
            assert (Version(older) < Version(newer)) is (n < m)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.0-00", "1.0"), ("1.01", "1.1"), ("1.", "1.0"), ("2-0", "2")],
)
def test_equal(one: str, other: str) -> None:
    assert Version(one) == Version(other)
    assert hash(Version(one)) == hash(Version(other))
    assert str(Version(one)) == one


def test_epoch_beats_everything() -> None:
    assert Version("1:1.0") > Version("2.0")
    assert Version("1:2.0-1").epoch == 1
    assert (Version("1:2-3-4").upstream, Version("1:2-3-4").revision) == ("2-3", "4")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1 0",
        "-1",
        "1-",
        ":1",
        "x:1",
        "1:",
        "1_0",
        "1/0",
        "1\n",
        "2147483648:1",
        "é",
        "1-é",
        "1" * 5000,
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(PackageError):
        Version(text)


def test_a_key_of_anything() -> None:
    for text in ("", "~", "-", ":", "a:b", "9" * 6000, "é", "1:", "\udcff"):
        assert version_key(text) == version_key(text)


_VERSIONS = st.from_regex(r"(\d:)?\d[0-9a-zA-Z.+~]{0,6}(-[0-9a-z+.~]{1,4})?", fullmatch=True).filter(str.isascii)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is not installed")
@settings(max_examples=150, deadline=None)
@given(_VERSIONS, _VERSIONS)
def test_as_dpkg(one: str, other: str) -> None:
    operator = {-1: "lt", 0: "eq", 1: "gt"}[compare(one, other)]
    assert subprocess.run(["dpkg", "--compare-versions", one, operator, other], check=False).returncode == 0


@given(_VERSIONS, _VERSIONS, _VERSIONS)
def test_order_is_total(a: str, b: str, c: str) -> None:
    first, second, third = sorted((Version(a), Version(b), Version(c)))
    assert first <= second <= third
    assert first <= third
