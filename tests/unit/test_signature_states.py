"""Which signatures on a Release are accepted and which are not, one state a row."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from mkroot.archive import keyring, signature
from mkroot.errors import TrustError
from tests.testarchive import DAY, Key, Signing, armor, clearsign, detached
from tests.testarchive.openpgp import COMPROMISED, CREATED, NO_REASON, RETIRED, SUPERSEDED, packet

NOW = 1795600000  # of the check; the machine's clock is later than every signature here but the future ones
SIGNED = 1700000000
TEXT = "Origin: Test\nSuite: stable\n\n-dashed\n"
KEY = Key()
OTHER = Key(number=1, user_id="Other <other@example.org>")
WITH_SUBKEY = Key(signing_subkey=1)


def by(key: Key = KEY, created: int = SIGNED, **more: object) -> Signing:
    return Signing(key=key, created=created, **more)  # type: ignore[arg-type]


def swapped(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode(), 1)

    return change


@dataclass(frozen=True, kw_only=True)
class State:
    """Signatures on the text, the keys that are accepted, what is done to the file, and what is said to it.

    said: a pattern of the message; "" where the text is accepted. signer: whose fingerprint is reported.
    """

    name: str
    signings: Sequence[Signing] = (by(),)
    accepted: Sequence[Key] = (KEY,)
    change: Callable[[bytes], bytes] = field(default=lambda data: data)
    said: str = ""
    signer: Key = KEY
    now: int = NOW


GOOD = [
    State(name="one good signature"),
    State(name="SHA-256", signings=[by(hash_name="sha256")]),
    State(name="SHA-384", signings=[by(hash_name="sha384")]),
    State(name="signing subkey", signings=[by(WITH_SUBKEY)], accepted=[WITH_SUBKEY]),
    State(name="issuer told by key ID only", signings=[by(named=False)]),
    State(name="key expired after it signed", accepted=[KEY.but(lifetime=SIGNED - CREATED + DAY)]),
    State(name="key retired after it signed", accepted=[KEY.but(revocations=[(SIGNED + DAY, RETIRED)])]),
    State(name="key superseded after it signed", accepted=[KEY.but(revocations=[(SIGNED + DAY, SUPERSEDED)])]),
    State(
        name="subkey retired after it signed",
        signings=[by(WITH_SUBKEY)],
        accepted=[WITH_SUBKEY.but(subkey_revocations=[(SIGNED + DAY, RETIRED)])],
    ),
    State(name="good beside one by an unknown key", signings=[by(OTHER), by()]),
    State(name="good beside a weak one", signings=[by(hash_name="sha1"), by()]),
    State(name="good beside a broken one", signings=[by(broken=True), by()]),
    State(name="several accepted keys", signings=[by(OTHER)], accepted=[KEY, OTHER], signer=OTHER),
    State(name="signature that has not expired yet", signings=[by(lifetime=100 * 365 * DAY)]),
    State(name="blanks at the end of a line, which are not signed", change=swapped("stable\n", "stable \t\n")),
    State(name="blank lines after the end", change=lambda data: data + b"\n\n"),
]
BAD = [
    State(name="unknown key", signings=[by(OTHER)], said="the key .* is not an accepted one"),
    State(name="same name, other key", accepted=[OTHER.but(user_id=KEY.user_id)], said="not an accepted one"),
    State(name="MD5", signings=[by(hash_name="md5")], said="uses MD5, which is broken"),
    State(name="SHA-1", signings=[by(hash_name="sha1")], said="uses SHA-1, which is broken"),
    State(name="RIPEMD-160", signings=[by(hash_name="ripemd160")], said="uses RIPEMD-160, which is broken"),
    State(
        name="RSA of 1,024 bits",
        signings=[by(Key(number=3))],
        accepted=[Key(number=3)],
        said="has 1024 bits, fewer than 2048",
    ),
    State(
        name="key expired before it signed",
        accepted=[KEY.but(lifetime=SIGNED - CREATED - DAY)],
        said=r"expired on 2023-11-13 .* before it signed on 2023-11-14",
    ),
    State(
        name="subkey expired before it signed",
        signings=[by(WITH_SUBKEY)],
        accepted=[WITH_SUBKEY.but(subkey_lifetime=DAY)],
        said="expired on 2020-01-02 .* before it signed",
    ),
    State(
        name="primary key of a subkey expired before it signed",
        signings=[by(WITH_SUBKEY)],
        accepted=[WITH_SUBKEY.but(lifetime=DAY)],
        said="expired on 2020-01-02 .* before it signed",
    ),
    *[
        State(
            name=f"key revoked before it signed, reason {reason}",
            accepted=[KEY.but(revocations=[(SIGNED - DAY, reason)])],
            said="was revoked on 2023-11-13",
        )
        for reason in (NO_REASON, SUPERSEDED, COMPROMISED, RETIRED)
    ],
    State(
        name="key compromised, told after it signed",
        accepted=[KEY.but(revocations=[(SIGNED + DAY, COMPROMISED)])],
        said="was revoked on",
    ),
    State(
        name="key revoked without a reason after it signed",
        accepted=[KEY.but(revocations=[(SIGNED + DAY, NO_REASON)])],
        said="was revoked on",
    ),
    State(
        name="subkey revoked before it signed",
        signings=[by(WITH_SUBKEY)],
        accepted=[WITH_SUBKEY.but(subkey_revocations=[(SIGNED - DAY, RETIRED)])],
        said="was revoked on",
    ),
    State(
        name="primary key of a subkey revoked",
        signings=[by(WITH_SUBKEY)],
        accepted=[WITH_SUBKEY.but(revocations=[(SIGNED - DAY, COMPROMISED)])],
        said="was revoked on",
    ),
    State(
        name="subkey that did not agree to be one",
        signings=[by(WITH_SUBKEY)],
        accepted=[WITH_SUBKEY.but(subkey_cross_signed=False)],
        said="does not match the text, or the key may not sign",
    ),
    State(name="key that may certify only", accepted=[KEY.but(flags=1)], said="the key may not sign"),
    State(name="key bound by SHA-1", accepted=[KEY.but(self_hash="sha1")], said="is bound by SHA-1"),
    State(name="key bound by MD5", accepted=[KEY.but(self_hash="md5")], said="is bound by MD5"),
    State(
        name="signature before the key was made", signings=[by(created=CREATED - DAY)], said="before the key was made"
    ),
    State(name="signature more than a day ahead", now=SIGNED - DAY - 60, said="in the future"),
    State(name="signature expired", signings=[by(lifetime=DAY)], said="expired on 2023-11-15"),
    State(name="signature of other bytes", signings=[by(broken=True)], said="does not match the text"),
    State(
        name="weak, broken and unknown together",
        signings=[by(hash_name="sha1"), by(broken=True), by(OTHER)],
        said="SHA-1.*does not match.*not an accepted one",
    ),
    State(name="a letter changed", change=swapped("stable", "stablf"), said="does not match the text"),
    State(name="a line added inside", change=swapped("Suite:", "Evil: yes\nSuite:"), said="does not match the text"),
    State(name="a line removed", change=swapped("Suite: stable\n", ""), said="does not match the text"),
    State(name="text before", change=lambda data: b"Origin: Evil\n" + data, said="text before the signed message"),
    State(name="blank line before", change=lambda data: b"\n" + data, said="text before the signed message"),
    State(name="text after", change=lambda data: data + b"Origin: Evil\n", said="text around the signature"),
    State(name="another message after", change=lambda data: data + data, said="text around the signature"),
    State(
        name="text between message and signature",
        change=swapped("-----BEGIN PGP SIGNATURE", "-----BEGIN EVIL-----\n-----BEGIN PGP SIGNATURE"),
        said="is followed by",
    ),
    State(name="not signed at all", change=lambda _: TEXT.encode(), said="it is not a signed message"),
    State(name="empty", change=lambda _: b"", said="it is not a signed message"),
    State(name="cut inside the text", change=lambda data: data[:80], said="cut short"),
    State(name="cut inside the signature", change=lambda data: data[:-60], said="cut short"),
    State(name="a header that is no Hash", change=swapped("Hash: ", "Evil: "), said="has the header"),
    State(
        name="an unescaped dash",
        change=swapped("- -dashed", "-dashed"),
        said="unescaped dash",
    ),
    State(name="control characters", change=swapped("Suite:", "\x1b[2JSuite:"), said="control characters"),
    State(name="carriage returns inside a line", change=swapped("Suite:", "Evil\rSuite:"), said="control characters"),
    State(
        name="a key where a signature is expected", change=lambda data: _with(data, KEY.public()), said="no signatures"
    ),
    State(
        name="an unknown kind of packet",
        change=lambda data: _with(data, packet(60, b"x" * 40)),
        said="malformed|no signatures",
    ),
    State(name="bytes that are no packets", change=lambda data: _with(data, b"\0\1\2"), said="malformed|no signatures"),
    State(name="a signature without bytes", change=lambda data: _with(data, b""), said="malformed|no signatures"),
    State(
        name="a hundred signatures",
        change=lambda data: _with(data, by(OTHER).over(b"", 1) * 100),
        said="100 signatures on one file",
    ),
    State(
        name="signature over a key, not a text",
        change=lambda data: _with(data, _packets_of_kind(0x13)),
        said="which signs no document",
    ),
    State(name="base64 that is none", change=swapped("SIGNATURE-----\n\n", "SIGNATURE-----\n\n!!"), said="not base64"),
]


def _with(data: bytes, packets: bytes) -> bytes:
    """Replace a message's signature."""
    return data[: data.index(b"-----BEGIN PGP SIGNATURE")] + armor("SIGNATURE", packets).encode()


def _packets_of_kind(kind: int) -> bytes:
    return KEY._signature(kind, b"", SIGNED, "sha512")


def ring(keys: Sequence[Key]) -> keyring.Keyring:
    return keyring.parse(b"".join(key.public() for key in keys), "the test's keys")


@pytest.mark.parametrize("state", GOOD, ids=lambda s: s.name)
def test_accepted(state: State) -> None:
    data = state.change(clearsign(TEXT, state.signings).encode())
    found = signature.verify_inline(data, ring(state.accepted), now=state.now, where="InRelease")
    assert found.text == TEXT.rstrip("\n").encode()
    assert found.fingerprint == state.signer.fingerprint
    assert found.signed == SIGNED


@pytest.mark.parametrize("state", BAD, ids=lambda s: s.name)
def test_refused(state: State) -> None:
    data = state.change(clearsign(TEXT, state.signings).encode())
    with pytest.raises(TrustError) as caught:
        signature.verify_inline(data, ring(state.accepted), now=state.now, where="InRelease")
    assert re.search(state.said, caught.value.what, re.DOTALL), caught.value.what
    assert caught.value.where == "InRelease"
    assert "0x" not in caught.value.what and "backtrace" not in caught.value.what


@pytest.mark.parametrize("armored", [True, False])
def test_detached_signatures_in_both_forms(armored: bool) -> None:
    packets = detached(TEXT.encode(), [by(OTHER), by()])
    data = armor("SIGNATURE", packets).encode() if armored else packets
    found = signature.verify_detached(TEXT.encode(), data, ring([KEY]), now=NOW, where="Release.gpg")
    assert found.text == TEXT.encode()
    assert found.fingerprint == KEY.fingerprint


def test_detached_signatures_in_several_blocks() -> None:
    blocks = [armor("SIGNATURE", by(key).over(TEXT.encode(), 0)) for key in (OTHER, KEY)]
    found = signature.verify_detached(TEXT.encode(), "".join(blocks).encode(), ring([KEY]), now=NOW, where="x")
    assert found.fingerprint == KEY.fingerprint


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no `-----BEGIN PGP SIGNATURE"),
        (b"hello", "text around"),
        (b"\xff\xff\xff", "malformed|no signatures"),
        (detached(b"other", [by()]), "does not match"),
        (detached(TEXT.encode(), [by(hash_name="sha1")]), "SHA-1"),
        (detached(TEXT.encode(), [by()])[:-20], "malformed|does not match|no signatures"),
        (b"evil\n" + armor("SIGNATURE", detached(TEXT.encode(), [by()])).encode(), "text around"),
    ],
)
def test_detached_signatures_refused(data: bytes, said: str) -> None:
    with pytest.raises(TrustError, match=said):
        signature.verify_detached(TEXT.encode(), data, ring([KEY]), now=NOW, where="Release.gpg")


def test_the_verdict_does_not_depend_on_the_order_of_keys_and_signatures() -> None:
    for signings in ([by(OTHER), by()], [by(), by(OTHER)]):
        for keys in ([KEY, Key(number=2)], [Key(number=2), KEY]):
            data = clearsign(TEXT, signings).encode()
            assert signature.verify_inline(data, ring(keys), now=NOW, where="x").fingerprint == KEY.fingerprint


def _damaged(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(out))
        what = chance.randrange(4)
        if what == 0:
            out[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            del out[at : at + chance.randrange(1, 40)]
        elif what == 2:
            out[at:at] = chance.randbytes(chance.randrange(1, 9))
        else:
            out[at] = chance.randrange(256)
    return bytes(out)


@pytest.mark.parametrize("part", ["message", "signature", "armoured signature", "keys"])
def test_random_damage_is_an_error_or_changes_nothing(part: str) -> None:
    chance = random.Random(part)
    message = clearsign(TEXT, [by(WITH_SUBKEY), by(Key(number=2))]).encode()
    packets, keys = detached(TEXT.encode(), [by(WITH_SUBKEY)]), [WITH_SUBKEY, Key(number=2)]
    public = b"".join(key.public() for key in keys)
    accepted = ring(keys)
    refused = 0
    for _ in range(400):
        try:
            if part == "message":
                found = signature.verify_inline(_damaged(message, chance), accepted, now=NOW, where="x")
                assert found.text == TEXT.rstrip("\n").encode()
            elif part == "signature":
                signature.verify_detached(TEXT.encode(), _damaged(packets, chance), accepted, now=NOW, where="x")
            elif part == "armoured signature":
                data = armor("SIGNATURE", _damaged(packets, chance)).encode()
                signature.verify_detached(TEXT.encode(), data, accepted, now=NOW, where="x")
            else:
                some = keyring.parse(_damaged(public, chance), "x")
                signature.verify_detached(TEXT.encode(), packets, some, now=NOW, where="x")
        except TrustError as e:
            refused += 1
            assert len(str(e)) < 3000
    assert refused > 100
