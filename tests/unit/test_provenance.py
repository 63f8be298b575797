"""The record of a build: an in-toto statement with SLSA's predicate, the same bytes wherever the build is made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

import mkroot
from mkroot.artifact.inventory import Package
from mkroot.artifact.manifest import Made
from mkroot.artifact.provenance import (
    Asked,
    Provenance,
    encode_statement,
    materials,
    package_url,
    public,
    read_statement,
)
from mkroot.artifact.sbom import package_url as library_url
from mkroot.errors import ArtifactError
from mkroot.resolve.lock import Lock, LockedPackage, LockedRoot, LockedSource, LockedSuite
from tests.unit.commands import Program, small_archive


def locked(name: str, **more: str) -> LockedPackage:
    fields = {"path": f"pool/main/{name}.deb", "origin": "debian", "suite": "trixie", **more}
    return LockedPackage(
        name=name,
        version="1:2.0+b1",
        architecture="amd64",
        source=name,
        source_version="1:2.0",
        sha256="ab" * 32,
        size=9,
        installed_size=1,
        component="main",
        stage="include",
        why="requested",
        **fields,
    )


SUITE = LockedSuite(suite="trixie", inrelease="cd" * 32, date=1_700_000_000, signer="F" * 40)
LOCK = Lock(
    recipe="11" * 32,
    sources=(LockedSource(id="debian", suites=(SUITE,)),),
    architectures={
        "amd64": LockedRoot(
            packages=(locked("zlib"), locked("own", path="/home/me/own.deb", origin="")),
            beside=(locked("busybox"),),
            parent="sha256:" + "ef" * 32,
        )
    },
)


def record() -> Provenance:
    return Provenance(
        asked=Asked(
            name="box",
            recipe={"sha256": "22" * 32},
            variables={"release": "trixie"},
            architecture="amd64",
            architectures=("amd64",),
            outputs=("dir", "oci"),
        ),
        materials=materials(
            LOCK, "amd64", distro="debian", suite="trixie", parent="base:1", files={"hooks[0].run": "33" * 32}
        ),
    )


def statement() -> dict[str, object]:
    made = [
        Made(kind="oci", name="oci", size=1, digest="sha256:" + "44" * 32),
        Made(kind="dir", name="rootfs", size=1, digest="sha256:" + "55" * 32),
    ]
    found: dict[str, object] = json.loads(encode_statement(record().statement(made, "66" * 32)))
    return found


def test_it_has_the_form_that_others_read() -> None:
    """in-toto Statement v1 and SLSA Provenance v1, by their field names."""
    found = statement()
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    assert found["subject"] == [
        {"name": "manifest.json", "digest": {"sha256": "66" * 32}},
        {"name": "oci", "digest": {"sha256": "44" * 32}},
        {"name": "rootfs", "digest": {"mkrootTree": "55" * 32}},
    ]
    predicate = found["predicate"]
    assert isinstance(predicate, dict) and set(predicate) == {"buildDefinition", "runDetails"}
    assert predicate["runDetails"] == {"builder": {"id": "urn:mkroot", "version": {"mkroot": mkroot.__version__}}}
    definition = predicate["buildDefinition"]
    assert definition["buildType"] == "urn:mkroot:build:1"
    assert definition["externalParameters"] == {
        "name": "box",
        "recipe": {"sha256": "22" * 32},
        "variables": {"release": "trixie"},
        "architecture": "amd64",
        "architectures": ["amd64"],
        "outputs": ["dir", "oci"],
    }


def test_every_material_has_its_digest_and_no_place_of_this_machine() -> None:
    definition = statement()["predicate"]["buildDefinition"]  # type: ignore[index]
    found = {m["name"]: m for m in definition["resolvedDependencies"]}
    assert list(found) == [
        "lock", "debian: trixie Release", "image: base:1", "recipe: hooks[0].run",
        "pool/main/busybox.deb", "own.deb", "pool/main/zlib.deb",
    ]  # fmt: skip
    assert found["lock"]["digest"] == {"sha256": hashlib.sha256(LOCK.encode()).hexdigest()}
    assert found["debian: trixie Release"] == {
        "name": "debian: trixie Release",
        "digest": {"sha256": "cd" * 32},
        "annotations": {"date": "2023-11-14T22:13:20Z", "signer": "F" * 40},
    }
    assert found["image: base:1"]["digest"] == {"sha256": "ef" * 32}
    assert found["pool/main/zlib.deb"] == {
        "name": "pool/main/zlib.deb",
        "uri": "pkg:deb/debian/zlib@1:2.0%2Bb1?arch=amd64&distro=trixie",
        "digest": {"sha256": "ab" * 32},
        "annotations": {"source": "debian", "suite": "trixie"},
    }
    assert "/home/me" not in json.dumps(definition)


@pytest.mark.parametrize(("name", "version"), [("g++", "4:12.2.0-3+b1"), ("libc6", "2.41-12~x"), ("a.b", "1.0")])
def test_package_urls_are_those_of_the_library(name: str, version: str) -> None:
    package = Package(name=name, version=version, architecture="arm64")
    assert package_url("debian", name, version, "arm64", "trixie") == library_url(package, "debian", "trixie")


def test_no_address_and_no_password_among_the_variables() -> None:
    given = {"a": "http://me:secret@mirror.example/x", "b": "me@host", "c": "//host/share", "release": "noble"}
    assert public(given) == {"release": "noble"}


DAMAGES = {
    "empty": b"",
    "cut": encode_statement(record().statement([], "66" * 32))[:900],
    "no-json": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "another-type": b'{"_type": "https://in-toto.io/Statement/v0.1"}',
    "other-kinds": encode_statement(record().statement([], "66" * 32)).replace(b"Statement/v1", b"Statement/v9"),
    "other-build": encode_statement(record().statement([], "66" * 32)).replace(b"urn:mkroot:build:1", b"urn:x"),
    "path": encode_statement(record().statement([], "66" * 32)).replace(b'"manifest.json"', b'"../manifest"'),
    "no-digest": encode_statement(record().statement([], "66" * 32)).replace(b"66" * 32, b"66" * 3),
}


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_record_is_told_in_words(name: str, tmp_path: Path) -> None:
    path = tmp_path / "provenance.json"
    path.write_bytes(DAMAGES[name])
    with pytest.raises(ArtifactError, match=r"the record of the build is damaged|a record of another kind") as told:
        read_statement(path)
    assert told.value.where == str(path) and told.value.hint


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    written = record().statement([], "66" * 32)
    data = encode_statement(written)
    (tmp_path / "r").write_bytes(data)
    assert read_statement(tmp_path / "r") == (written, data)
    assert msgspec.json.decode(data)["predicate"]["buildDefinition"]["internalParameters"] == {}


@pytest.mark.counts("rebuild")
def test_a_build_has_the_same_record_in_another_folder_from_another_mirror(tmp_path: Path) -> None:
    """The password of the mirror, its name, the folders and the user stand in none of them."""
    found = []
    for name, user in (("one", "me:secret@"), ("two", "")):
        archive = small_archive(tmp_path / name / "archive")
        (tmp_path / name / "keys.asc").write_bytes(archive.keyring.read_bytes())
        program = Program(tmp_path / name)
        with archive.serve() as server:
            address = server.uri.replace("://", f"://{user}")
            data = archive.recipe(
                uri=address, packages={"include": ["tool"]}, configure="none", outputs=["tar"], keyring="keys.asc"
            )
            done = program("build", program.recipe("r.yaml", data), "-o", f"out-{name}")
            assert done.status == 0, done.err
        folder = tmp_path / name / f"out-{name}/mini/amd64"
        found.append((folder / "provenance.json").read_bytes())
        assert json.loads(found[-1])["subject"][1] == {
            "name": "rootfs.tar",
            "digest": {"sha256": hashlib.sha256((folder / "rootfs.tar").read_bytes()).hexdigest()},
        }
    assert found[0] == found[1]
    for word in (b"secret", b"127.0.0.1", str(tmp_path).encode(), b"out-one"):
        assert word not in found[0]
