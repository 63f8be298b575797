"""Image references: what is one, what its parts are, and what is said of what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkroot.errors import ImageError
from mkroot.oci.reference import Reference

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "host", "path", "tag", "digest"),
    [
        ("ubuntu", "", "ubuntu", "latest", ""),
        ("ubuntu-min:noble", "", "ubuntu-min", "noble", ""),
        ("team/app", "", "team/app", "latest", ""),
        ("localhost/app", "localhost", "app", "latest", ""),
        ("localhost:5000/app:1", "localhost:5000", "app", "1", ""),
        ("127.0.0.1:5000/team/my-ubuntu:1.0", "127.0.0.1:5000", "team/my-ubuntu", "1.0", ""),
        ("registry.example/a/b__c.d-e:V_1", "registry.example", "a/b__c.d-e", "V_1", ""),
        ("[::1]:5000/app", "[::1]:5000", "app", "latest", ""),
        (f"app@{DIGEST}", "", "app", "", DIGEST),
        (f"app:1@{DIGEST}", "", "app", "1", DIGEST),
    ],
)
def test_parts(text: str, host: str, path: str, tag: str, digest: str) -> None:
    found = Reference.parse(text)
    assert (found.host, found.path, found.tag, found.digest) == (host, path, tag, digest)
    assert Reference.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "", ":1", "a:", "a:b:c", "-a", "a-", "a..b", "a___b", "/a", "a/", "a//b", "a b", "a\n", "é", "a@",
        "a@sha256:12",
        f"a@{DIGEST}0", "a:" + "x" * 129, "host.example:99999/a", "host.example:x/a", "a/" * 130 + "a", "-.example/a",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(ImageError, match="not an image reference") as caught:
        Reference.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("Ubuntu:Noble", "ubuntu:Noble"),
        ("host.example:5000/Team/App", "host.example:5000/team/app"),
        ("Team/App", "team/app"),
    ],
)
def test_the_lower_case_name_is_offered(text: str, offered: str) -> None:
    with pytest.raises(ImageError) as caught:
        Reference.parse(text)
    assert caught.value.hint == f"write `{offered}`"
    Reference.parse(offered)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:5000/a", True),
        ("localhost/a", True),
        ("[::1]:5000/a", True),
        ("10.0.0.1:5000/a", False),
        ("a.example/a", False),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    assert Reference.parse(text).is_loopback is loopback


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_an_error_and_a_reference_is_stable(text: str) -> None:
    try:
        found = Reference.parse(text)
    except ImageError:
        return
    assert Reference.parse(str(found)) == found
