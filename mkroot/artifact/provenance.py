"""The record of a build, `provenance.json`: what was asked for, what it was made of, what came out.

An in-toto Statement v1 with a predicate of SLSA Provenance v1. No time, host, user or path stands in it, so the same
build has the same record wherever it is made.
"""

from __future__ import annotations

import posixpath
import urllib.parse
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

import mkroot
from mkroot import BUILD_TYPE
from mkroot.artifact.manifest import Made, encode
from mkroot.decoding import from_json
from mkroot.digest import is_sha256
from mkroot.errors import ArtifactError
from mkroot.resolve.lock import Lock, LockedPackage

FILE_NAME = "provenance.json"
MEDIA_TYPE = "application/vnd.in-toto+json"  # in-toto attestation framework, v1 envelope: media types
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILDER = "urn:mkroot"
LOCAL = "recipe: "  # before the key of the recipe that names a local file
TREE = "mkrootTree"  # the digest of a folder: see `mkroot.artifact.outputs.tree_digest` and, for `bootfs/`, its maker
_LIMIT = 64 << 20  # bytes of a record that is read
_FOLDERS = ("dir", "bootfs")  # kinds whose digest is over a listing
Digests = Mapping[str, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]]


class Subject(Struct, frozen=True, kw_only=True):
    """An artifact (in-toto, ResourceDescriptor). digest: `sha256` of a file, of an image its manifest's; or TREE."""

    name: str
    digest: Digests


class Material(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a build was made of (in-toto, ResourceDescriptor). name: a package's path relative to its mirror."""

    name: str
    uri: str = ""
    digest: Digests
    annotations: Mapping[str, str] = {}


class Asked(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the user decides, the `externalParameters`.

    recipe: digest of the recipe's normal form. variables: those whose value is no address. source_date_epoch: the
    variable of the environment, None where it was not set.
    """

    name: str
    recipe: Digests
    variables: Mapping[str, str] = {}
    architecture: str
    architectures: tuple[str, ...]
    outputs: tuple[str, ...]
    tags: tuple[str, ...] = ()
    source_date_epoch: int | None = None


class Definition(Struct, frozen=True, kw_only=True, rename="camel"):
    """SLSA's BuildDefinition."""

    build_type: str = BUILD_TYPE
    external_parameters: Asked
    internal_parameters: Mapping[str, str] = {}
    resolved_dependencies: tuple[Material, ...]


class Builder(Struct, frozen=True, kw_only=True):
    """SLSA's Builder: this program and its version."""

    id: str = BUILDER
    version: Mapping[str, str]


class Run(Struct, frozen=True, kw_only=True):
    """SLSA's RunDetails; its metadata, which are times, are left out."""

    builder: Builder


class Predicate(Struct, frozen=True, kw_only=True, rename="camel"):
    """SLSA's provenance."""

    build_definition: Definition
    run_details: Run


class Statement(Struct, frozen=True, kw_only=True):
    """The whole record."""

    type: str = field(default=STATEMENT, name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = field(default=PREDICATE, name="predicateType")
    predicate: Predicate

    @property
    def asked(self) -> Asked:
        """What the user had asked for."""
        return self.predicate.build_definition.external_parameters

    @property
    def version(self) -> str:
        """The version of mkroot that built."""
        return self.predicate.run_details.builder.version.get("mkroot", "")

    def material(self, name: str) -> Material | None:
        """Return the first material of a name."""
        return next((m for m in self.predicate.build_definition.resolved_dependencies if m.name == name), None)


class Provenance(Struct, frozen=True, kw_only=True):
    """A record before its artifacts are there."""

    asked: Asked
    materials: tuple[Material, ...]

    def statement(self, made: Iterable[Made], manifest: str) -> Statement:
        """Return the record of these artifacts, by name. manifest: SHA-256 of `manifest.json`, hexadecimal."""
        subjects = [Subject(name=m.name, digest={algorithm(m.kind): m.digest.removeprefix("sha256:")}) for m in made]
        subjects.append(Subject(name="manifest.json", digest={"sha256": manifest}))
        return Statement(
            subject=tuple(sorted(subjects, key=lambda s: s.name)),
            predicate=Predicate(
                build_definition=Definition(external_parameters=self.asked, resolved_dependencies=self.materials),
                run_details=Run(builder=Builder(version={"mkroot": mkroot.__version__})),
            ),
        )


def algorithm(kind: str) -> str:
    """Return what the digest of an artifact of this kind is called in a record."""
    return TREE if kind in _FOLDERS else "sha256"


def public(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a record may hold: an address can have a password, or name a house's own host."""
    return {name: value for name, value in variables.items() if "//" not in value and "@" not in value}


def materials(
    lock: Lock, architecture: str, *, distro: str, suite: str, parent: str = "", files: Mapping[str, str] | None = None
) -> tuple[Material, ...]:
    """Return what a build from a lock is made of.

    parent: the reference of the image that it stands on. files: SHA-256 of the recipe's local files, by the key of the
    recipe that names each.
    """
    root = lock.root(architecture)
    found = [Material(name="lock", digest={"sha256": _hex(lock)})]
    for source in lock.sources:
        for one in source.suites:
            about = {"date": datetime.fromtimestamp(one.date, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
            about |= {"signer": one.signer} if one.signer else {}
            about |= {"snapshot": one.snapshot} if one.snapshot else {}
            about |= {"allowExpired": "true"} if one.allow_expired else {}
            name = f"{source.id}: {one.suite} Release"
            found.append(Material(name=name, digest={"sha256": one.inrelease}, annotations=about))
    if root.parent is not msgspec.UNSET:
        found.append(Material(name=f"image: {parent}", digest={"sha256": root.parent.removeprefix("sha256:")}))
    found += [Material(name=LOCAL + k, digest={"sha256": v}) for k, v in sorted((files or {}).items())]
    packages = sorted((*root.packages, *root.beside), key=lambda p: (p.name, p.architecture))
    found += [_package(p, distro, suite) for p in packages]
    return tuple(found)


def _hex(lock: Lock) -> str:
    from mkroot.digest import sha256

    return sha256(lock.encode())


def _package(p: LockedPackage, distro: str, suite: str) -> Material:
    uri = package_url(distro, p.name, p.version, p.architecture, suite)
    if not p.origin:  # a local file, whose folder is nobody's business
        return Material(name=posixpath.basename(p.path), uri=uri, digest={"sha256": p.sha256})
    return Material(
        name=p.path, uri=uri, digest={"sha256": p.sha256}, annotations={"source": p.origin, "suite": p.suite}
    )


def package_url(distro: str, name: str, version: str, architecture: str, suite: str) -> str:
    """Return a package's purl (purl-spec, types, deb); the library for it is slow to import."""
    quoted, number = (urllib.parse.quote(text, safe=":~.-_") for text in (name, version))
    tail = f"&distro={urllib.parse.quote(suite, safe='')}" if suite else ""
    return f"pkg:deb/{distro}/{quoted}@{number}?arch={architecture}{tail}"


def encode_statement(statement: Statement) -> bytes:
    """Return a record's bytes: canonical JSON, newline-terminated."""
    return encode(statement)


def read_statement(path: Path) -> tuple[Statement, bytes]:
    """Read a record and return it with its bytes.

    Raises ArtifactError where it cannot be read, is damaged, or is of another kind; FileNotFoundError where it is not
    there.
    """
    hint = "build the recipe again: `mkroot build RECIPE`"
    try:
        with open(path, "rb") as f:
            data = f.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise ArtifactError(f"a record of more than {_LIMIT >> 20} MiB", where=str(path), hint=hint)
        statement = from_json(data, Statement)
    except FileNotFoundError:
        raise
    except OSError as e:
        raise ArtifactError(f"the record of the build cannot be read: {e.strerror}", where=str(path)) from e
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise ArtifactError(f"the record of the build is damaged: {e}", where=str(path), hint=hint) from None
    kinds = (statement.type, statement.predicate_type, statement.predicate.build_definition.build_type)
    if kinds != (STATEMENT, PREDICATE, BUILD_TYPE):
        raise ArtifactError(f"a record of another kind: {', '.join(kinds)[:300]}", where=str(path), hint=hint)
    for subject in statement.subject:
        if subject.name in ("", ".", "..") or "/" in subject.name or not any(map(is_sha256, subject.digest.values())):
            raise ArtifactError(
                f"the record of the build is damaged: the artifact {subject.name[:100]!r}", where=str(path), hint=hint
            )
    return statement, data
