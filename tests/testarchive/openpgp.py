"""Just enough OpenPGP (RFC 9580, version 4 packets, RSA) to sign test archives with any date, hash or key state."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.testarchive.primes import RSA_PRIMES

DAY = 86400
CREATED = 1577836800  # 2020-01-01, when test keys are made unless told otherwise
HASHES = {"md5": 1, "sha1": 2, "ripemd160": 3, "sha256": 8, "sha384": 9, "sha512": 10, "sha224": 11}  # RFC 9580, 9.5
_DIGEST_INFO = {  # RFC 8017, 9.2, note 1: the DER prefix of an RSA signature's hash
    "md5": "3020300c06082a864886f70d020505000410",
    "sha1": "3021300906052b0e03021a05000414",
    "ripemd160": "3021300906052b2403020105000414",
    "sha256": "3031300d060960864801650304020105000420",
    "sha384": "3041300d060960864801650304020205000430",
    "sha512": "3051300d060960864801650304020305000440",
    "sha224": "302d300d06096086480165030402040500041c",
}
NO_REASON, SUPERSEDED, COMPROMISED, RETIRED = 0, 1, 2, 3  # RFC 9580, 5.2.3.31


def packet(tag: int, body: bytes) -> bytes:
    """Return a packet in the new format with a five-octet length."""
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def _mpi(number: int) -> bytes:
    return number.bit_length().to_bytes(2, "big") + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _subpacket(kind: int, body: bytes) -> bytes:
    return bytes([len(body) + 1, kind]) + body


def armor(kind: str, data: bytes) -> str:
    """Return `data` in ASCII armour with a checksum (RFC 9580, 6.2)."""
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    check = base64.b64encode(_crc24(data).to_bytes(3, "big")).decode()
    return f"-----BEGIN PGP {kind}-----\n\n{lines}\n={check}\n-----END PGP {kind}-----\n"


@functools.cache
def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc


@dataclass(frozen=True, slots=True)
class Rsa:
    """An RSA key pair by its place in the table of test primes."""

    number: int

    @property
    def modulus(self) -> int:
        p, q = RSA_PRIMES[self.number]
        return p * q

    def sign(self, hash_name: str, digest: bytes) -> int:
        return _rsa_signature(self.number, hash_name, digest)


@functools.cache  # the same archives are signed over and over, and their signatures are the same
def _rsa_signature(number: int, hash_name: str, digest: bytes) -> int:
    p, q = RSA_PRIMES[number]
    info = bytes.fromhex(_DIGEST_INFO[hash_name]) + digest
    size = ((p * q).bit_length() + 7) // 8
    padded = int.from_bytes(b"\0\1" + b"\xff" * (size - 3 - len(info)) + b"\0" + info, "big")
    d = pow(65537, -1, (p - 1) * (q - 1))
    by_p, by_q = pow(padded, d % (p - 1), p), pow(padded, d % (q - 1), q)
    return by_q + q * ((by_p - by_q) * pow(q, -1, p) % p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A certificate with its secrets.

    number: which test primes (0 to 2 have 2,048 bits, 3 has 1,024 bits).
    lifetime: seconds from `created` after which the key expires; None for never.
    self_hash: hash of the binding signatures.
    flags: what the primary key may do (RFC 9580, 5.2.3.29): 1 certify, 2 sign, 4 and 8 encrypt.
    revocations: (time, reason code) of each revocation of the whole key.
    signing_subkey: sign with a subkey of these primes instead of the primary key.
    """

    number: int = 0
    user_id: str = "Test Archive Key <archive@example.org>"
    created: int = CREATED
    lifetime: int | None = None
    self_hash: str = "sha512"
    flags: int = 3
    revocations: Sequence[tuple[int, int]] = field(default=())
    signing_subkey: int | None = None
    subkey_lifetime: int | None = None
    subkey_revocations: Sequence[tuple[int, int]] = field(default=())
    subkey_cross_signed: bool = True

    def but(self, **changes: object) -> Key:
        """Return the key with some of its fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def _body(self, number: int) -> bytes:
        rsa = Rsa(number)
        return b"\x04" + self.created.to_bytes(4, "big") + b"\x01" + _mpi(rsa.modulus) + _mpi(65537)

    def _hashed_key(self, number: int) -> bytes:
        body = self._body(number)
        return b"\x99" + len(body).to_bytes(2, "big") + body

    def _fingerprint(self, number: int) -> bytes:
        return hashlib.sha1(self._hashed_key(number)).digest()

    @property
    def fingerprint(self) -> str:
        """The primary key's fingerprint, 40 lower-case hexadecimal digits."""
        return self._fingerprint(self.number).hex()

    @property
    def signing_fingerprint(self) -> str:
        """The fingerprint of the key that makes the signatures."""
        return self._fingerprint(self._signer).hex()

    @property
    def _signer(self) -> int:
        return self.number if self.signing_subkey is None else self.signing_subkey

    def _signature(
        self,
        kind: int,
        data: bytes,
        created: int,
        hash_name: str,
        hashed: bytes = b"",
        *,
        signer: int | None = None,
        named: bool = True,
    ) -> bytes:
        number = self.number if signer is None else signer
        subpackets = _subpacket(2, created.to_bytes(4, "big")) + hashed
        if named:
            subpackets += _subpacket(33, b"\x04" + self._fingerprint(number))
        head = bytes([4, kind, 1, HASHES[hash_name]]) + len(subpackets).to_bytes(2, "big") + subpackets
        trailer = b"\x04\xff" + len(head).to_bytes(4, "big")
        digest = hashlib.new(hash_name, data + head + trailer).digest()
        unhashed = _subpacket(16, self._fingerprint(number)[-8:])
        body = head + len(unhashed).to_bytes(2, "big") + unhashed + digest[:2]
        return packet(2, body + _mpi(Rsa(number).sign(hash_name, digest)))

    def public(self) -> bytes:
        """Return the certificate, binary."""
        primary = self._hashed_key(self.number)
        uid = self.user_id.encode()
        out = packet(6, self._body(self.number))
        for when, reason in self.revocations:
            out += self._signature(0x20, primary, when, "sha512", _subpacket(29, bytes([reason]) + b"test"))
        preferences = _subpacket(27, bytes([self.flags])) + _subpacket(25, b"\x01")
        if self.lifetime is not None:
            preferences += _subpacket(9, self.lifetime.to_bytes(4, "big"))
        over = primary + b"\xb4" + len(uid).to_bytes(4, "big") + uid
        out += packet(13, uid) + self._signature(0x13, over, self.created, self.self_hash, preferences)
        return out + self._subkey(primary)

    def _subkey(self, primary: bytes) -> bytes:
        number = self.signing_subkey
        if number is None:
            return b""
        over = primary + self._hashed_key(number)
        hashed = _subpacket(27, b"\x02")
        if self.subkey_lifetime is not None:
            hashed += _subpacket(9, self.subkey_lifetime.to_bytes(4, "big"))
        if self.subkey_cross_signed:
            back = self._signature(0x19, over, self.created, self.self_hash, signer=number)[6:]
            hashed += b"\xff" + (len(back) + 1).to_bytes(4, "big") + b"\x20" + back
        out = packet(14, self._body(number))
        for when, reason in self.subkey_revocations:
            out += self._signature(0x28, over, when, "sha512", _subpacket(29, bytes([reason]) + b"test"))
        return out + self._signature(0x18, over, self.created, self.self_hash, hashed)

    def public_armored(self) -> str:
        """Return the certificate in ASCII armour."""
        return armor("PUBLIC KEY BLOCK", self.public())

    def sign(
        self,
        data: bytes,
        *,
        created: int,
        hash_name: str = "sha512",
        kind: int = 0,
        lifetime: int | None = None,
        named: bool = True,
    ) -> bytes:
        """Return a detached signature over `data`, binary; `kind` 0 is over bytes, 1 over text."""
        hashed = b"" if lifetime is None else _subpacket(3, lifetime.to_bytes(4, "big"))
        return self._signature(kind, data, created, hash_name, hashed, signer=self._signer, named=named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """One signature to be made: by which key, when and how."""

    key: Key
    created: int
    hash_name: str = "sha512"
    lifetime: int | None = None
    named: bool = True
    broken: bool = False

    def over(self, data: bytes, kind: int) -> bytes:
        """Return the signature packet over `data`."""
        made = self.key.sign(
            data,
            created=self.created,
            hash_name=self.hash_name,
            kind=kind,
            lifetime=self.lifetime,
            named=self.named,
        )
        return made[:-3] + bytes([made[-3] ^ 1]) + made[-2:] if self.broken else made


def detached(data: bytes, signings: Sequence[Signing]) -> bytes:
    """Return the signatures over `data`, binary, one packet after another."""
    return b"".join(s.over(data, 0) for s in signings)


def clearsign(text: str, signings: Sequence[Signing], *, kind: int = 1) -> str:
    """Return `text` in the cleartext signature framework (RFC 9580, 7); signatures made over canonical text."""
    lines = [line.rstrip(" \t") for line in text.removesuffix("\n").split("\n")]
    data = "\r\n".join(lines).encode()
    names = ",".join(dict.fromkeys(s.hash_name.upper() for s in signings)) or "SHA512"
    escaped = "\n".join("- " + line if line.startswith("-") else line for line in text.removesuffix("\n").split("\n"))
    packets = b"".join(s.over(data, kind) for s in signings)
    head = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: {names}\n\n{escaped}\n"
    return head + armor("SIGNATURE", packets)
