"""Checks the OpenPGP signatures of Release files, in process, under a policy of its own messages."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from mkroot.archive import armor
from mkroot.archive.keyring import Certificate, KeyPart, Keyring, fact, reason
from mkroot.archive.packets import MARKER, SIGNATURE, outermost
from mkroot.errors import TrustError

SKEW = 86400  # seconds that a signature or a Date may lie in the future: clocks differ, and zones are mistaken
MIN_RSA = 2048  # bits
WEAK_KEYS = ("DSA", "ElGamalEncryptSign")  # by pysequoia's names; apt takes neither
MAX_SIGNATURES = 32  # of one file; Debian has three
LIMIT = 1 << 20  # bytes of the signatures of a file, out of armour
_WEAK = {"SHA1": "SHA-1", "MD5": "MD5", "RipeMD": "RIPEMD-160"}
_REVOCATIONS = {"KeyRevocation": "key", "SubkeyRevocation": "subkey"}
_BINDINGS = ("GenericCertification", "PersonaCertification", "CasualCertification", "PositiveCertification")


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A text whose signature is good.

    text: the signed bytes and nothing else.
    fingerprint: of the primary key that vouches, lower-case hexadecimal.
    signed: when, seconds since 1970.
    """

    text: bytes
    fingerprint: str
    signed: int


def verify_inline(data: bytes, keyring: Keyring, *, now: int, where: str) -> Signed:
    """Check an InRelease file and return what it signs; raises TrustError that says what is wrong."""
    text, packets = armor.split_cleartext(data, where)
    return _verify(text, packets, keyring, now, where)


def verify_detached(text: bytes, signature: bytes, keyring: Keyring, *, now: int, where: str) -> Signed:
    """Check a Release file against its Release.gpg, binary or armoured; raises TrustError that says what is wrong."""
    armor.check_text(text, where)
    packets = armor.blocks(signature, "SIGNATURE", where) if armor.is_armored(signature) else signature
    return _verify(text, packets, keyring, now, where)


def _verify(text: bytes, packets: bytes, keyring: Keyring, now: int, where: str) -> Signed:
    """One good signature by an accepted key is enough; the others' faults are told only when there is none."""
    faults: list[str] = []
    for packet in _signatures(packets, where):
        read = _read(packet)
        outcome = read if isinstance(read, str) else _check(text, read, keyring, now)
        if isinstance(outcome, Signed):
            return outcome
        faults.append(outcome)
    raise TrustError(
        "not signed by an accepted key: " + "; ".join(dict.fromkeys(faults)),
        where=where,
        hint=f"the accepted keys are {keyring.name}; `keyring:` in the recipe names others",
    )


def _signatures(data: bytes, where: str) -> list[bytes]:
    """Return the signature packets; raises TrustError for what is no run of them."""
    if len(data) > LIMIT:
        raise TrustError(f"a signature of {len(data)} bytes is larger than the {LIMIT} that are taken", where=where)
    found: list[bytes] = []
    try:
        for tag, packet in outermost(data):
            if tag not in (SIGNATURE, MARKER):
                raise TrustError("the signature holds packets that are no signatures", where=where)
            if tag == SIGNATURE:
                found.append(packet)
            if len(found) > MAX_SIGNATURES:
                raise TrustError(f"more than {MAX_SIGNATURES} signatures on one file", where=where)
    except ValueError as e:
        raise TrustError(f"the signature is malformed: {e}", where=where) from None
    if not found:
        raise TrustError("the signature holds no signatures", where=where)
    return found


def _read(packet: bytes) -> Any:
    """Return a packet as pysequoia has it, or why it cannot be read."""
    from pysequoia.packet import PacketPile

    try:
        (found,) = PacketPile.from_bytes(packet)
    except (RuntimeError, ValueError) as e:
        return f"a signature is malformed: {reason(e)}"
    return found


def _check(text: bytes, packet: Any, keyring: Keyring, now: int) -> Signed | str:
    """Return what a signature vouches for, or why it does not."""
    issuer = fact(packet, "issuer_fingerprint") or fact(packet, "issuer_key_id")
    kind = _name(packet, "signature_type")
    if kind not in ("Binary", "Text"):
        return f"the signature is of {f'the kind {kind}' if kind else 'an unknown kind'}, which signs no document"
    if issuer is None:
        return "the signature does not say which key made it"
    found = keyring.find(issuer)
    if not found:
        return f"the key {issuer.upper()} is not an accepted one"
    made = fact(packet, "signature_created")
    if made is None:
        return "the signature has no date"
    created = int(made.timestamp())
    fault = ""
    for certificate, part in found:
        fault = _refusal(packet, part, created, now)
        if not fault and _matches(text, packet, certificate):
            return Signed(text=text, fingerprint=certificate.fingerprint, signed=created)
        fault = fault or _explanation(certificate, part, created, now)
    return fault


def _refusal(packet: Any, part: KeyPart, created: int, now: int) -> str:
    """Return what speaks against a signature before any arithmetic is done, "" where nothing does."""
    who = part.fingerprint.upper()
    if weak := _WEAK.get(_name(packet, "hash_algorithm")):
        return f"the signature by {who} uses {weak}, which is broken"
    if part.algorithm in WEAK_KEYS:
        return f"the key {who} is of the kind {part.algorithm}, which is too weak"
    if part.bits and part.bits < MIN_RSA:
        return f"the key {who} has {part.bits} bits, fewer than {MIN_RSA}"
    if created > now + SKEW:
        return f"the signature by {who} is dated {_date(created)}, in the future; is this machine's clock right?"
    if created < part.created:
        return f"the signature by {who} is dated {_date(created)}, before the key was made"
    expires = fact(packet, "signature_expiration_time")
    if expires is not None and int(expires.timestamp()) <= now:
        return f"the signature by {who} expired on {_date(int(expires.timestamp()))}"
    return ""


def _matches(text: bytes, packet: Any, certificate: Certificate) -> bool:
    """Tell whether pysequoia, under its policy at the time of the signature, finds the signature good."""
    import pysequoia

    try:
        result = pysequoia.verify(
            text, store=lambda _: [certificate.cert], signature=pysequoia.Sig.from_bytes(bytes(packet))
        )
    except (RuntimeError, ValueError):
        return False
    return any(s.certificate == certificate.fingerprint for s in result.valid_sigs)


def _explanation(certificate: Certificate, part: KeyPart, created: int, now: int) -> str:
    """Say why a signature was refused, from the certificate's packets; pysequoia only says that it was.

    Claims of the packets are not checked here: they choose a message, never a verdict.
    """
    from pysequoia.packet import PacketPile

    who = part.fingerprint.upper()
    subject: KeyPart | None = None
    expiries: dict[str, tuple[int, int]] = {}
    weak = ""
    for p in PacketPile.from_bytes(bytes(certificate.cert)):
        if (fingerprint := fact(p, "fingerprint")) is not None:
            subject = certificate.part(fingerprint)
        kind = _name(p, "signature_type")
        made = fact(p, "signature_created")
        if subject is None or made is None:
            continue
        when = int(made.timestamp())
        if kind in _REVOCATIONS and (kind == "KeyRevocation" or subject is part):
            return f"the key {who} was revoked on {_date(when)}"
        if kind in _BINDINGS or kind in ("DirectKey", "SubkeyBinding"):
            weak = _WEAK.get(_name(p, "hash_algorithm"), "") or weak
            lifetime = fact(p, "key_validity_period")
            if lifetime is not None and when >= expiries.get(subject.fingerprint, (0, 0))[0]:
                expiry = subject.created + int(lifetime.total_seconds())
                expiries[subject.fingerprint] = (when, expiry)
    for fingerprint in (certificate.fingerprint, part.fingerprint):
        if fingerprint in expiries and expiries[fingerprint][1] <= created:
            expiry = expiries[fingerprint][1]
            return f"the key {who} expired on {_date(expiry)}, before it signed on {_date(created)}"
    if weak:
        return f"the key {who} is bound by {weak}, which is broken"
    if created > now:
        return f"the signature by {who} is dated {_date(created)}, in the future; is this machine's clock right?"
    return f"the signature by {who} does not match the text, or the key may not sign"


def _name(packet: Any, field: str) -> str:
    """Return a packet's value by its name in pysequoia, "" where it has none."""
    value = fact(packet, field)
    return "" if value is None else str(value).rpartition(".")[2]


def _date(when: int) -> str:
    return datetime.datetime.fromtimestamp(when, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
