"""The keys that may sign an archive: shipped ones, the host's, or those that a recipe names."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from mkroot.archive import armor
from mkroot.archive.packets import MESSAGE, outermost
from mkroot.errors import RecipeError, TrustError

LIMIT = 16 << 20  # bytes of a keyring; Debian's developers' keyring, the largest about, has a quarter of it
_HOST = "/usr/share/keyrings"
_HOST_NAMES = {
    "debian": ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg"),
    "ubuntu": ("ubuntu-archive-keyring.pgp", "ubuntu-archive-keyring.gpg"),
}
_FINGERPRINT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class KeyPart(msgspec.Struct, frozen=True, kw_only=True):
    """A primary key or a subkey: its fingerprint, algorithm, size and creation time, as its packet says.

    bits: of the modulus, for RSA; 0 for others.
    """

    fingerprint: str
    algorithm: str
    bits: int
    created: int


class Certificate(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One public key with its subkeys; `cert` is pysequoia's."""

    parts: tuple[KeyPart, ...]
    cert: Any

    @property
    def fingerprint(self) -> str:
        """The primary key's fingerprint, lower-case hexadecimal."""
        return self.parts[0].fingerprint

    def part(self, issuer: str) -> KeyPart | None:
        """Return the key whose fingerprint or key ID (its last 16 digits) is `issuer`."""
        return next((p for p in self.parts if p.fingerprint == issuer or p.fingerprint[-16:] == issuer), None)


class Keyring:
    """The certificates that are accepted; `name` says in messages where they came from.

    They may be read when they are first asked for: a locked build never asks.
    """

    def __init__(self, name: str, certificates: Iterable[Certificate] | Callable[[], Iterable[Certificate]]) -> None:
        self.name = name
        self._given = certificates

    @functools.cached_property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates; raises TrustError where they cannot be read."""
        return tuple(self._given() if callable(self._given) else self._given)

    def find(self, issuer: str) -> list[tuple[Certificate, KeyPart]]:
        """Return every key that `issuer`, a fingerprint or key ID, may mean; IDs are not unique."""
        return [(c, part) for c in self.certificates if (part := c.part(issuer)) is not None]

    def only(self, fingerprint: str) -> Keyring:
        """Return the keyring with nothing but the key that has `fingerprint`; raises TrustError where there is none."""
        wanted = normal_fingerprint(fingerprint, self.name)
        found = tuple(c for c in self.certificates if any(p.fingerprint == wanted for p in c.parts))
        if not found:
            has = ", ".join(sorted(c.fingerprint.upper() for c in self.certificates))
            raise TrustError(
                f"no key with the fingerprint {wanted.upper()} in it",
                where=self.name,
                hint=f"it holds {has}",
            )
        return Keyring(self.name, found)


def normal_fingerprint(text: str, where: str) -> str:
    """Return a fingerprint as lower-case hexadecimal without blanks; raises RecipeError for anything shorter."""
    found = re.sub(r"\s|^0[xX]", "", text).lower()
    if not _FINGERPRINT.fullmatch(found):
        raise RecipeError(
            f"not a key's fingerprint: {text[:80]!r}",
            where=where,
            hint="a fingerprint has 40 hexadecimal digits (64 for version 6 keys); key IDs can be forged",
        )
    return found


def parse(data: bytes, name: str) -> Keyring:
    """Return the keyring in `data`, binary or ASCII-armoured; raises TrustError."""
    if len(data) > LIMIT:
        raise TrustError(f"a keyring of {len(data)} bytes is larger than {LIMIT}", where=name)
    if data[8:12] == b"KBXf":
        raise TrustError(
            "it is a GnuPG keybox, not a keyring", where=name, hint="write one with `gpg --export --armor KEY`"
        )
    if armor.is_armored(data):
        data = armor.blocks(data, "PUBLIC KEY BLOCK", name, alone=False)
    import pysequoia

    try:
        if any(tag in MESSAGE for tag, _ in outermost(data)):
            raise TrustError("it holds a message, not keys", where=name)
        certs = pysequoia.Cert.split_bytes(data)
        found = tuple(Certificate(parts=_parts(bytes(cert)), cert=cert) for cert in certs)
    except (RuntimeError, ValueError, OSError) as e:
        raise TrustError(f"not an OpenPGP keyring: {reason(e)}", where=name) from None
    if not found:
        raise TrustError("there is no public key in it", where=name)
    return Keyring(name, found)


def reason(error: Exception) -> str:
    """Return the first line of an error from pysequoia, which adds a stack trace."""
    return str(error).split("\n", 1)[0].rstrip(".")[:300]


def fact(packet: Any, name: str) -> Any:
    """Return what a packet says of itself, None where it does not, or where pysequoia has no word for it."""
    try:
        return getattr(packet, name)
    except (RuntimeError, ValueError):
        return None


def _parts(cert: bytes) -> tuple[KeyPart, ...]:
    from pysequoia.packet import PacketPile

    return tuple(
        KeyPart(
            fingerprint=p.fingerprint,
            algorithm=str(fact(p, "key_algorithm")).rpartition(".")[2],
            bits=_rsa_bits(p.body),
            created=int(p.key_created.timestamp()),
        )
        for p in PacketPile.from_bytes(cert)
        if fact(p, "fingerprint") is not None and fact(p, "key_created") is not None
    )


def _rsa_bits(body: bytes) -> int:
    """Return the modulus's size in bits of an RSA key packet's body (RFC 9580, 5.5.2), 0 for other algorithms."""
    at = 6 if body[0] == 4 else 10  # version 6 has a length field of four bytes after the algorithm
    return int.from_bytes(body[at : at + 2], "big") if body[5] in (1, 2, 3) else 0


def load(path: Path) -> Keyring:
    """Return the keyring in the file at `path`; raises TrustError."""
    try:
        with open(path, "rb") as f:
            data = f.read(LIMIT + 1)
    except OSError as e:
        raise TrustError(
            f"the keyring cannot be read: {e.strerror}", where=str(path), hint="`keyring:` names a file of public keys"
        ) from None
    return parse(data, str(path))


@functools.cache
def shipped(distro: str, *, host: str | None = _HOST) -> Keyring:
    """Return the archive keys of `distro` ("debian", "ubuntu"): those shipped with mkroot, and the host's if any.

    Raises TrustError for a distribution that mkroot has no keys of.
    """
    data = Path(__file__).parent / "keys" / f"{distro}.pgp"
    if not data.is_file():
        raise TrustError(f"mkroot ships no archive keys of `{distro}`", hint="name a file of its keys with `keyring:`")

    def certificates() -> tuple[Certificate, ...]:
        known = list(parse(data.read_bytes(), f"mkroot's keys of {distro}").certificates)
        for name in _HOST_NAMES.get(distro, ()) if host else ():
            path = Path(host or "", name)
            if path.is_file():
                known += load(path).certificates
                break
        return _merged(known)

    return Keyring(f"the archive keys of {distro}", certificates)


def _merged(certificates: Iterable[Certificate]) -> tuple[Certificate, ...]:
    """Join what several keyrings know of one key: a revocation or a new expiry counts wherever it stands."""
    out: dict[str, Certificate] = {}
    for c in certificates:
        known = out.get(c.fingerprint)
        if known is None:
            out[c.fingerprint] = c
        elif bytes(known.cert) != bytes(c.cert):
            merged = known.cert.merge(c.cert)
            out[c.fingerprint] = Certificate(parts=_parts(bytes(merged)), cert=merged)
    return tuple(out.values())
