"""The words of a recipe: what each takes and what it makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from mkroot.recipe.numbers import DiskSize, Duration, Mode, Size
from mkroot.recipe.values import (
    AccountName,
    Fingerprint,
    Hostname,
    ImagePath,
    Name,
    Reference,
    Refused,
    Snapshot,
    Tag,
    Unit,
    Url,
)
from mkroot.recipe.wants import LocalPath


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Size, "180M", 180 << 20),
        (Size, "1.5G", 3 << 29),
        (Size, "2GiB", 2 << 30),
        (Size, "1T", 1 << 40),
        (Size, "4096", 4096),
        (DiskSize, "minimal", 0),
        (DiskSize, "2G", 2 << 30),
        (Duration, "120", 120),
        (Duration, "90s", 90),
        (Duration, "5m", 300),
        (Duration, "2h", 7200),
        (Mode, "0644", 0o644),
        (Mode, "755", 0o755),
        (Mode, "4755", 0o4755),
        (Unit, "ssh", "ssh.service"),
        (Unit, "getty@tty1", "getty@tty1.service"),
        (Unit, "a.b", "a.b.service"),
        (Unit, "apt-daily.timer", "apt-daily.timer"),
        (Fingerprint, "abcd " * 10, "ABCD" * 10),
        (Name, "team/ubuntu-min_2.x", "team/ubuntu-min_2.x"),
        (Reference, "localhost/a:b@sha256:" + "0" * 64, "localhost/a:b@sha256:" + "0" * 64),
        (Tag, "127.0.0.1:5000/team/my-ubuntu:1.0", "127.0.0.1:5000/team/my-ubuntu:1.0"),
        (Tag, "mirror.example/a__b:A_1", "mirror.example/a__b:A_1"),
        (Snapshot, "20240229T235959Z", "20240229T235959Z"),
        (Hostname, "a-1.example", "a-1.example"),
        (ImagePath, "/", "/"),
        (ImagePath, "/a b/..c/.d", "/a b/..c/.d"),
        (AccountName, "_apt", "_apt"),
        (AccountName, "www-data", "www-data"),
    ],
)
def test_taken(kind: Any, text: str, value: object) -> None:
    found = kind.parse(text)
    assert found == value
    assert type(found) is kind


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Size, "0"),
        (Size, "-1M"),
        (Size, "1.5"),
        (Size, "180MB"),
        (Size, "9" * 15 + "T"),
        (Size, "5iB"),
        (Size, "١M"),
        (DiskSize, "0"),
        (DiskSize, "Minimal"),
        (Duration, "0"),
        (Duration, "25h"),
        (Duration, "5d"),
        (Mode, "64"),
        (Mode, "17777"),
        (Mode, "0o644"),
        (Unit, ""),
        (Unit, "a/b"),
        (Fingerprint, "ABCD" * 9),
        (Name, "a_-b"),
        (Name, "a/"),
        (Reference, "none:"),
        (Tag, "a:b:c"),
        (Tag, "a:-x"),
        (Tag, "Host.example/Name:x"),
        (Snapshot, "20230229T000000Z"),
        (Snapshot, "20240101T000000Z\n"),
        (Hostname, "-a"),
        (Hostname, "a."),
        (ImagePath, "/a//b"),
        (ImagePath, "/a/."),
        (ImagePath, "/.."),
        (ImagePath, "/a\0b"),
        (AccountName, "a" * 33),
        (AccountName, "root\n"),
    ],
)
def test_refused(kind: Any, text: str) -> None:
    with pytest.raises(Refused, match="expected"):
        kind.parse(text)


@pytest.mark.parametrize(
    ("kind", "text", "hint"),
    [
        (Name, "Ubuntu", "`ubuntu`"),
        (Tag, "MyUbuntu:V1", "`myubuntu:V1`"),
        (Tag, "Host.example:5000/My:V1", "`host.example:5000/my:V1`"),
        (Size, "180 MB", "`180M`"),
        (Snapshot, "2026-11-01", "20261101T000000Z"),
        (Fingerprint, "0xDEADBEEF", "whole fingerprint"),
    ],
)
def test_a_refusal_offers_what_may_be_meant(kind: Any, text: str, hint: str) -> None:
    with pytest.raises(Refused) as raised:
        kind.parse(text)
    assert raised.value.hint is not None
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("http://me:pw@mirror.example:8080/debian/", "http://mirror.example:8080/debian"),
        ("https://token@mirror.example", "https://mirror.example"),
        ("http://mirror.example/", "http://mirror.example"),
        ("file:///srv/mirror/", "file:///srv/mirror"),
        ("file:///", "file:///"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
    ],
)
def test_an_address_without_its_secrets(text: str, bare: str) -> None:
    assert Url.parse(text).bare() == bare


@pytest.mark.parametrize(
    "text",
    ["ftp://mirror.example", "http://", "http:///a", "http://a:b:c/", "http://h:0/", "http://[::1/", "file:a", "/srv"],
)
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(Refused):
        Url.parse(text)


@pytest.mark.parametrize(
    ("text", "folder", "base", "path", "relative"),
    [
        ("./a", "r/sub", "r", "r/sub/a", "sub/a"),
        ("../a", "r/sub", "r", "r/sub/../a", "a"),
        ("a", "lib", "r", "lib/a", "../lib/a"),
        ("a", "", "", "a", "a"),
        (".", "r", "r", "r/.", "."),
        ("/etc/../x", "r", "r", "/etc/../x", "/x"),
    ],
)
def test_a_local_path(text: str, folder: str, base: str, path: str, relative: str) -> None:
    found = LocalPath.parse(text, folder, base)
    assert (found.path, found.relative) == (path, relative)
    with pytest.raises(AttributeError):
        found.path = "x"
