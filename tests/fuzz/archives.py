"""Targets of what an archive sends: Release files, signatures, keys, indices."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from mkroot.archive import armor, keyring, signature
from mkroot.archive.scan import Scan, whole
from mkroot.archive.table import Table, encode
from mkroot.debian.deb822 import parse_stanza, stanzas
from mkroot.debian.release import Index, parse_release
from mkroot.digest import is_sha256
from mkroot.rootfs.dpkg import STATUS, states, with_pending
from mkroot.rootfs.dpkg import stanzas as status_stanzas
from tests.fuzz.target import Target
from tests.testarchive import DATE, Key, Signing
from tests.testarchive.openpgp import armor as armored
from tests.testarchive.openpgp import clearsign

TEXT = (
    "Origin: Debian\nSuite: stable\nCodename: trixie\nDate: Sun, 15 Jun 2025 15:06:40 UTC\nSHA256:\n"
    f" {'0' * 64} 12 main/binary-amd64/Packages\n- dash\n"
)


def release(data: bytes) -> None:
    """A Release file's text: nothing that it lists lies outside its folder."""
    found = parse_release(data.decode("utf-8", "surrogateescape"), "Release")
    assert isinstance(found.date, int)
    for path, (digest, size) in found.files.items():
        assert not path.startswith("/") and ".." not in path.split("/")
        assert is_sha256(digest) and size >= 0


def cleartext(data: bytes) -> None:
    """An InRelease file's frame: the text has no line that could end or begin another message."""
    text, packets = armor.split_cleartext(data, "InRelease")
    assert not any(c < 32 and c not in (9, 10) for c in text)
    assert packets is not None
    # Framed again, the same text and packets come out.
    body = b"\n".join(b"- " + line if line.startswith(b"-") else line for line in text.split(b"\n"))
    again = (
        b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + body + b"\n" + armored("SIGNATURE", packets).encode()
    )
    assert armor.split_cleartext(again, "InRelease") == (text, packets)


@cache
def _key() -> tuple[keyring.Keyring, bytes]:
    """Return a keyring with a test key, and the one text that it ever signed, as readers get it."""
    key = Key()
    signed = clearsign(TEXT, [Signing(key=key, created=DATE)])
    return keyring.parse(key.public(), "the test key"), armor.split_cleartext(signed.encode(), "f")[0]


def inrelease(data: bytes) -> None:
    """A whole InRelease file: what is accepted is the text that was signed, and nothing else."""
    ring, text = _key()
    found = signature.verify_inline(data, ring, now=DATE + 86400, where="InRelease")
    assert found.text == text, "a text that nobody signed"
    assert found.signed == DATE


def packets(data: bytes) -> None:
    """A detached signature, binary or armoured, on a fixed text."""
    ring, _ = _key()
    found = signature.verify_detached(TEXT.encode(), data, ring, now=DATE + 86400, where="Release.gpg")
    assert found.text == TEXT.encode() and found.fingerprint == ring.certificates[0].fingerprint


def keys(data: bytes) -> None:
    """A keyring, binary or armoured."""
    found = keyring.parse(data, "keys")
    assert found.certificates
    for certificate in found.certificates:
        assert certificate.part(certificate.fingerprint) is certificate.parts[0]
        assert all(part.bits >= 0 and part.created >= 0 for part in certificate.parts)


def index(data: bytes) -> None:
    """A Packages index: its table finds the stanzas that a plain reading finds, whatever pieces it came in."""
    scan = Scan("Packages")
    for piece in whole([data]):
        scan.read(piece)
    parts = Scan("Packages")
    for piece in whole(data[n : n + 97] for n in range(0, len(data), 97)):
        parts.read(piece)
    assert parts.priorities == scan.priorities and list(parts.providers) == list(scan.providers)
    assert parts.names == scan.names and list(parts.heard) == list(scan.heard)
    assert parts.provided == scan.provided and list(parts.marked) == list(scan.marked)
    plain = [s for s in stanzas(data) if b"\nPackage:" in b"\n" + s]
    assert len(scan.names) == len(plain)
    folder = _folder()
    text, place = folder / "Packages", folder / "table"
    text.write_bytes(data)
    place.write_bytes(encode(scan))
    table = Table(Index(source="s", suite="x", architecture="amd64", path=text, sha256=""), place)
    assert list(table.names()) == sorted(scan.names)
    found = [s for name in dict.fromkeys(scan.names) for s in table.packages(name)]
    assert sorted(found) == sorted(plain), "the table gives other stanzas"
    for name in dict.fromkeys(scan.names):
        for stanza in table.packages(name):
            if (b"\n" + stanza).count(b"\nPackage:") == 1 and (b"\n" + stanza).lower().count(b"\npackage:") == 1:
                said = parse_stanza(stanza)["package"].encode("utf-8", "surrogateescape")
                assert said.partition(b"\n")[0].strip() == name, (said, name)
    for name in (*scan.heard, b"absent"):
        place_of = table.place(name)
        assert (place_of is None) == (name not in scan.heard)
    for name in dict.fromkeys(scan.provided):
        assert list(table.providers(name))


@cache
def _folder() -> Path:
    room = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="mkroot-fuzz.", dir=room))


def status(data: bytes) -> None:
    """dpkg's status file."""
    found = states(data)
    assert all(":" in key for key in found)
    for stanza in status_stanzas(data):
        assert stanza.endswith(b"\n")
        assert with_pending(stanza, ["x"]).endswith(b"Triggers-Pending: x\n")
    assert STATUS.startswith("var/")


_RELEASE = (
    b"SHA256:\n",
    b"Date: ",
    b"Valid-Until: ",
    b"Suite: ",
    b"Codename: ",
    b"0" * 64,
    b"main/binary-amd64/Packages",
    b" UTC",
    b"../",
    b"Acquire-By-Hash: yes\n",
)
_ARMOR = (
    b"-----BEGIN PGP SIGNED MESSAGE-----\n",
    b"Hash: SHA512\n",
    b"-----BEGIN PGP SIGNATURE-----\n",
    b"- ",
    b"-----END PGP SIGNATURE-----\n",
    b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
)
_INDEX = (
    b"Package: ",
    b"\n\n",
    b"\n",
    b"Depends: ",
    b"Provides: ",
    b"Essential: yes\n",
    b"Priority: required\n",
    b" | ",
    b"Version: ",
    b"Recommends: ",
    b"\n\n\n",
    b" (= 1)",
)

TARGETS = (
    Target(name="release", run=release, words=_RELEASE),
    Target(name="cleartext", run=cleartext, words=_ARMOR),
    Target(name="inrelease", run=inrelease, words=_ARMOR),
    Target(name="signature", run=packets, words=_ARMOR),
    Target(name="keyring", run=keys, words=_ARMOR),
    Target(name="index", run=index, words=_INDEX, longest=2048),
    Target(name="status", run=status, words=(b"Status: install ok installed\n", *_INDEX)),
)
