"""A bill of materials as a value, from whatever a root comes in; `spdx` and `cyclonedx` write it."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping

from msgspec import Struct

from mkroot.artifact.inventory import Package
from mkroot.artifact.licences import licences

TOOL = "mkroot"


class BillPackage(Struct, frozen=True, kw_only=True):
    """A package and the licences that its copyright file names, as SPDX identifiers."""

    package: Package
    licences: tuple[str, ...] = ()
    purl: str


class Bill(Struct, frozen=True, kw_only=True):
    """What a system is made of.

    name, version: of the system, "" where none. digest: `sha256:…` of what the bill is of. epoch: seconds since 1970.
    """

    name: str
    version: str
    architecture: str
    distro: str
    suite: str
    epoch: int
    digest: str
    packages: tuple[BillPackage, ...]

    @property
    def identity(self) -> uuid.UUID:
        """A UUID (version 8, RFC 9562) of all that the bill says: equal bills have equal ones."""
        import msgspec

        raw = bytearray(hashlib.sha256(b"mkroot bill\n" + msgspec.json.encode(self, order="sorted")).digest()[:16])
        raw[6] = raw[6] & 0x0F | 0x80
        raw[8] = raw[8] & 0x3F | 0x80
        return uuid.UUID(bytes=bytes(raw))


def make_bill(
    *,
    name: str,
    version: str = "",
    architecture: str = "",
    distro: str,
    suite: str,
    epoch: int,
    digest: str,
    packages: Iterable[Package],
    texts: Mapping[str, bytes] | None = None,
) -> Bill:
    """Return the bill of these packages, in order of name and architecture.

    texts: files of the root by path; `usr/share/doc/PACKAGE/copyright` tells of licences where it is there.
    """
    rows = []
    for package in sorted(packages, key=lambda p: (p.name, p.architecture, p.version)):
        text = (texts or {}).get(f"usr/share/doc/{package.name}/copyright", b"")
        rows.append(BillPackage(package=package, licences=licences(text), purl=package_url(package, distro, suite)))
    return Bill(
        name=name,
        version=version,
        architecture=architecture,
        distro=distro,
        suite=suite,
        epoch=epoch,
        digest=digest,
        packages=tuple(rows),
    )


def package_url(package: Package, distro: str, suite: str) -> str:
    """Return a package's purl (purl-spec, types, deb)."""
    from packageurl import PackageURL

    qualifiers = {"arch": package.architecture}
    if suite:
        qualifiers["distro"] = suite
    if package.source and (package.source, package.source_version) != (package.name, package.version):
        qualifiers["upstream"] = f"{package.source}@{package.source_version or package.version}"
    return PackageURL("deb", distro or "debian", package.name, package.version, qualifiers).to_string()


def os_release(texts: Mapping[str, bytes]) -> dict[str, str]:
    """Return the fields of os-release(5), from `usr/lib` where `etc` has it as a link."""
    text = texts.get("etc/os-release") or texts.get("usr/lib/os-release") or b""
    fields = {}
    for line in text.decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals and name.isidentifier():
            fields[name] = value.strip().strip("\"'")
    return fields


def canonical(document: object) -> bytes:
    """Return JSON with sorted keys, two spaces and a newline at the end."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
