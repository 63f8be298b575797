"""Keyrings: the shipped ones, a recipe's own, and what is none."""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from pathlib import Path

import pytest

from mkroot.archive import keyring
from mkroot.errors import RecipeError, TrustError
from tests.testarchive import Key
from tests.testarchive.openpgp import RETIRED

ONE, TWO = Key(), Key(number=1)


@pytest.mark.parametrize("distro", ["debian", "ubuntu"])
def test_the_readme_beside_the_shipped_keys_names_them_all(distro: str) -> None:
    folder = importlib.resources.files("mkroot.archive").joinpath("keys")
    text = folder.joinpath("README").read_text()
    section = text[text.index(f"{distro}.pgp\n") :]
    section = section[: section.index("\n\n", section.index("\n\n") + 1)]
    named = set(re.findall(r"^    ([0-9A-F]{40})  ", section, re.MULTILINE))
    found = {c.fingerprint.upper() for c in keyring.shipped(distro, host=None).certificates}
    assert found == named
    assert hashlib.sha256(folder.joinpath(f"{distro}.pgp").read_bytes()).hexdigest() in section


def test_the_hosts_keyring_serves_as_well(tmp_path: Path) -> None:
    before = keyring.shipped("debian", host=str(tmp_path / "none"))
    (tmp_path / "debian-archive-keyring.gpg").write_bytes(ONE.public())
    with_host = keyring.shipped("debian", host=str(tmp_path))
    assert {c.fingerprint for c in with_host.certificates} == {c.fingerprint for c in before.certificates} | {
        ONE.fingerprint
    }


def test_what_two_keyrings_know_of_a_key_is_joined() -> None:
    merged = keyring._merged(
        [
            *keyring.parse(ONE.public(), "a").certificates,
            *keyring.parse(ONE.but(revocations=[(1700000000, RETIRED)]).public(), "b").certificates,
        ]
    )
    assert len(merged) == 1
    assert merged[0].cert.is_revoked


@pytest.mark.parametrize(
    "data",
    [
        ONE.public() + TWO.public(),
        (ONE.public_armored() + TWO.public_armored()).encode(),
        ("my keys\n\n" + ONE.public_armored() + "and\n" + TWO.public_armored()).encode(),
        (ONE.public_armored() + TWO.public_armored()).replace("\n", "\r\n").encode(),
    ],
    ids=["binary", "armoured", "armoured with comments", "armoured with CRLF"],
)
def test_both_forms(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(data)
    assert [c.fingerprint for c in keyring.load(path).certificates] == [ONE.fingerprint, TWO.fingerprint]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no `-----BEGIN PGP PUBLIC KEY BLOCK"),
        (b"hello\n", "no `-----BEGIN PGP PUBLIC KEY BLOCK"),
        (ONE.public_armored().encode()[:-60], "cut short"),
        (ONE.public()[:100], "not an OpenPGP keyring"),
        (b"\xff" * 100, "not an OpenPGP keyring"),
        (b"\0" * 8 + b"KBXf" + b"\0" * 100, "GnuPG keybox"),
        (b"\x99" * ((16 << 20) + 1), "larger than"),
    ],
)
def test_what_is_no_keyring(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(data)
    with pytest.raises(TrustError) as caught:
        keyring.load(path)
    assert said in caught.value.what
    assert caught.value.where == str(path)
    assert "stack" not in str(caught.value).lower()


def test_a_keyring_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="cannot be read: No such file"):
        keyring.load(tmp_path / "none")


def test_a_distribution_without_keys() -> None:
    with pytest.raises(TrustError, match="no archive keys of `arch`"):
        keyring.shipped("arch")


@pytest.mark.parametrize("text", [ONE.fingerprint, ONE.fingerprint.upper(), "0x" + ONE.fingerprint, ""])
def test_one_key_of_several(text: str) -> None:
    ring = keyring.parse(ONE.public() + TWO.public(), "k.asc")
    spaced = " ".join(re.findall("....", ONE.fingerprint))
    assert [c.fingerprint for c in ring.only(text or spaced).certificates] == [ONE.fingerprint]


def test_a_fingerprint_that_is_not_there() -> None:
    with pytest.raises(TrustError, match="no key with the fingerprint") as caught:
        keyring.parse(ONE.public(), "k.asc").only(TWO.fingerprint)
    assert ONE.fingerprint.upper() in str(caught.value)


@pytest.mark.parametrize("text", ["", "DEADBEEF", ONE.fingerprint[-16:], ONE.fingerprint[:-1] + "g", "*"])
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(RecipeError, match="not a key's fingerprint"):
        keyring.parse(ONE.public(), "k.asc").only(text)
