"""diff and sbom: what they say of locks, roots, archives and images."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mkroot.artifact.diff import compare
from mkroot.artifact.inventory import Collector, Inventory, Package, packages_of, read_folder, read_tar
from mkroot.artifact.kinds import makers
from mkroot.artifact.licences import licence_id, licences
from mkroot.artifact.outputs import write_outputs
from mkroot.artifact.sbom import Bill, make_bill
from mkroot.errors import ArtifactError, MkrootError
from mkroot.oci.build import ImageSettings
from mkroot.oci.outputs import write_build
from mkroot.oci.store import ImageStore
from mkroot.resolve.lock import Lock, LockedPackage, LockedRoot
from mkroot.store.store import Store
from mkroot.tar.entry import DIR, FILE, SYMLINK, Entry
from tests.unit.test_artifact_root import FACTS, small_root


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    module = importlib.import_module(f"mkroot.cli.{words[0]}")
    module.add(parser.add_subparsers())
    args = parser.parse_args(words)
    capsys.readouterr()
    status = args.run(args)
    return status, capsys.readouterr().out


def inventory(*members: tuple[Entry, bytes], packages: tuple[Package, ...] = ()) -> Inventory:
    collector = Collector()
    for entry, content in members:
        collector.add(entry, content)
    return collector.inventory(packages)


def package(name: str, version: str, architecture: str = "amd64", **more: Any) -> Package:
    return Package(name=name, version=version, architecture=architecture, **more)


def test_packages_are_told_apart_by_version_bytes_and_architecture() -> None:
    before = inventory(
        packages=(
            package("a", "1"),
            package("b", "2"),
            package("c", "1", sha256="1"),
            package("d", "1"),
            package("e", "1"),
        )
    )
    after = inventory(
        packages=(
            package("a", "1:0"),
            package("b", "1"),
            package("c", "1", sha256="2"),
            package("d", "1", "all"),
            package("f", "1"),
        )
    )
    found = compare(before, after)
    assert [(c.name, c.kind) for c in found.packages_changed] == [
        ("a", "upgraded"),
        ("b", "downgraded"),
        ("c", "rebuilt"),
        ("d", "rebuilt"),
    ]
    assert [p.name for p in found.packages_added] == ["f"] and [p.name for p in found.packages_removed] == ["e"]
    assert compare(before, before).same and not found.same


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mode": 0o600}, {"mode": ("0644", "0600")}),
        ({"uid": 7}, {"owner": ("0:0", "7:0")}),
        ({"xattrs": {"user.a": b"b"}}, {"xattrs": ("", "user.a=62")}),
        ({"kind": SYMLINK, "link": "x", "mode": 0o644}, None),
        ({"mtime": 9}, {}),
    ],
)
def test_a_file_is_told_by_what_changed(change: dict[str, Any], told: dict[str, Any] | None) -> None:
    entry = Entry("f", FILE, 0o644, size=1)
    found = compare(inventory((entry, b"x")), inventory((msgspec.structs.replace(entry, **change), b"x")))
    if told is None:
        assert found.files_changed[0].changes["kind"] == ("file", "link")
    else:
        assert [c.changes for c in found.files_changed] == ([told] if told else [])


def test_content_and_size_are_told() -> None:
    found = compare(
        inventory((Entry("f", FILE, 0o644, size=1), b"x")), inventory((Entry("f", FILE, 0o644, size=2), b"xx"))
    )
    assert set(found.files_changed[0].changes) == {"size", "content"}
    assert (found.bytes_before, found.bytes_after) == (1, 2)


def whiteout_layers() -> list[list[tuple[Entry, bytes]]]:
    folder = [(Entry(p, DIR, 0o755), b"") for p in ("", "a", "b")]
    files = [(Entry(p, FILE, 0o644, size=1), b"x") for p in ("a/1", "a/2", "b/1", "c")]
    top = [(Entry("a", DIR, 0o755), b""), (Entry("a/.wh.1", FILE, 0), b""), (Entry(".wh.c", FILE, 0), b"")]
    opaque = [
        (Entry("b", DIR, 0o755), b""),
        (Entry("b/2", FILE, 0o644, size=1), b"y"),
        (Entry("b/.wh..wh..opq", FILE, 0), b""),
    ]
    return [folder + files, top + opaque]


def test_whiteouts_remove_what_is_below_and_not_what_is_beside() -> None:
    from mkroot.tar.write import END, header, padding

    collector = Collector()
    for members in whiteout_layers():
        data = b"".join(header(e) + c + padding(len(c)) for e, c in members) + END
        collector.add_tar(iter([data]), "layer", whiteouts=True)
    assert sorted(collector.files) == ["", "a", "a/2", "b", "b/2"]


def test_status_d_of_distroless_roots_is_read() -> None:
    texts = {
        "var/lib/dpkg/status.d/libc6": b"Package: libc6\nVersion: 2\nArchitecture: amd64\nInstalled-Size: 3\n",
        "var/lib/dpkg/status.d/libc6.md5sums": b"Package: not\nVersion: 1\n",
        "var/lib/dpkg/status": b"Package: gone\nStatus: deinstall ok not-installed\nVersion: 1\n",
    }
    found = packages_of(texts)
    assert list(found) == [("libc6", "amd64")] and found["libc6", "amd64"].installed_size == 3072


# The commands


def lock(path: Path, *packages: tuple[str, str]) -> Path:
    rows = tuple(
        LockedPackage(
            name=name, version=version, architecture="amd64", source=name, source_version=version,
            sha256="ab" * 32, size=5, installed_size=2, path="pool/x.deb", origin="debian", suite="trixie",
            component="main", stage="variant", why="priority",
        )
        for name, version in packages
    )  # fmt: skip
    path.write_bytes(Lock(recipe="00" * 32, sources=(), architectures={"amd64": LockedRoot(packages=rows)}).encode())
    return path


def test_diff_of_locks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = lock(tmp_path / "1.lock", ("a", "1"), ("b", "1")), lock(tmp_path / "2.lock", ("a", "2"), ("c", "1"))
    assert command(capsys, "diff", str(one), str(one)) == (0, "")
    status, out = command(capsys, "diff", str(one), str(two))
    assert status == 1
    assert out.splitlines() == [
        "packages: 1 added, 1 removed, 1 changed",
        "  ~ a 1 → 2 (upgraded)",
        "  - b 1 (amd64)",
        "  + c 1 (amd64)",
    ]
    status, out = command(capsys, "diff", "--json", str(one), str(two))
    told = json.loads(out)
    assert (status, told["same"]) == (1, False)
    assert [c["after"] for c in told["packages_changed"]] == ["2"] and told["bytes_before"] is None


def test_all_forms_of_one_root_are_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    store = Store(tmp_path / "store")
    monkeypatch.setenv("MKROOT_STORE", str(store.root))
    kinds = ["tar", "tar.gz", "tar.zst", "oci", "oci-archive", "docker-archive"]
    settings = ImageSettings(tags=("box:1",), by="source", budget=3)
    folder = write_build(
        small_root(store.root), FACTS, settings, tmp_path / "out", kinds, images=ImageStore(store)
    ).folder
    forms = [str(folder / n) for n in ("rootfs.tar.gz", "rootfs.tar.zst", "oci", "oci.tar", "docker.tar", "")]
    forms += ["box:1", f"{folder}/oci:box:1"]
    if os.geteuid() == 0:
        write_outputs(small_root(store.root), FACTS, tmp_path / "dir", ["dir"], makers())
        forms.append(str(tmp_path / "dir/box/amd64/rootfs"))
    for form in forms:
        status, out = command(capsys, "diff", str(folder / "rootfs.tar"), form)
        assert (status, out) == (0, ""), form


def test_what_is_no_root_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.tar").write_bytes(b"not a tar archive" * 100)
    (tmp_path / "x.gz").write_bytes(b"\x1f\x8bbroken")
    (tmp_path / "x.lock").write_text("{}")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("x.tar", "x.gz", "x.lock", "empty", "missing.tar"):
        with pytest.raises(MkrootError):
            command(capsys, "diff", str(tmp_path / name), str(tmp_path / name))


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_folder(tmp_path / "missing")


# Bills of materials

COPYRIGHT = b"""Format: https://mirror.example/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: a

Files: *
Copyright: 2001 Somebody
License: GPL-2+ or Artistic
 text

Files: lib/*
Copyright: 2002 Somebody
License: Expat, and Odd Words

License: GPL-3
 never used by a file
"""


def test_licences_of_a_machine_readable_file() -> None:
    assert licences(COPYRIGHT.replace(b"Odd Words", b"Odd_one")) == (
        "Artistic-1.0-Perl",
        "GPL-2.0-or-later",
        "LicenseRef-debian-Odd-one",
        "MIT",
    )
    assert licences(b"This package was debianized by somebody.\n") == ()
    assert licences(b"\xff\xfe") == ()


@pytest.mark.parametrize(
    ("name", "spdx"),
    [
        ("GPL-2", "GPL-2.0-only"), ("GPL-3+", "GPL-3.0-or-later"), ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("Expat", "MIT"), ("BSD-3-clause", "BSD-3-Clause"), ("GPL-9", "LicenseRef-debian-GPL-9"),
        ("a b/c", "LicenseRef-debian-a-b-c"),
    ],
)  # fmt: skip
def test_names_of_licences(name: str, spdx: str) -> None:
    assert licence_id(name) == spdx


def bill(**more: Any) -> Bill:
    packages = [
        package("libb", "1:2.0~rc1-1+b2", source="b", source_version="1:2.0~rc1-1", sha256="cd" * 32, size=4),
        package("a", "1", "all"),
    ]
    texts = {"usr/share/doc/a/copyright": COPYRIGHT}
    base: dict[str, Any] = {
        "name": "box",
        "distro": "debian",
        "suite": "trixie",
        "epoch": 1_700_000_000,
        "digest": "sha256:" + "0" * 64,
    }
    return make_bill(packages=packages, texts=texts, **{**base, **more})


def test_spdx() -> None:
    from mkroot.artifact.spdx import write_spdx

    data = write_spdx(bill())
    assert data == write_spdx(bill()) and data != write_spdx(bill(digest="sha256:" + "1" * 64))
    document = json.loads(data)
    assert document["spdxVersion"] == "SPDX-2.3" and document["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    _, a, libb = document["packages"]
    assert libb["checksums"] == [{"algorithm": "SHA256", "checksumValue": "cd" * 32}]
    assert libb["externalRefs"][0]["referenceLocator"] == (
        "pkg:deb/debian/libb@1:2.0~rc1-1%2Bb2?arch=amd64&distro=trixie&upstream=b%401:2.0~rc1-1"
    ), libb["externalRefs"]
    assert libb["licenseDeclared"] == "NOASSERTION" and "GPL-2.0-or-later" in a["licenseDeclared"]
    ids = [p["SPDXID"] for p in document["packages"]]
    assert len(set(ids)) == 3 and all(i.replace("-", "").replace(".", "").isalnum() for i in ids)
    contained = {r["relatedSpdxElement"] for r in document["relationships"] if r["relationshipType"] == "CONTAINS"}
    assert contained == {a["SPDXID"], libb["SPDXID"]}
    declared = {i["licenseId"] for i in document["hasExtractedLicensingInfos"]}
    assert declared == {w for w in a["licenseDeclared"].split() if w.startswith("LicenseRef-")}


def test_cyclonedx() -> None:
    from mkroot.artifact.cyclonedx import write_cyclonedx

    data = write_cyclonedx(bill())
    assert data == write_cyclonedx(bill())
    document = json.loads(data)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["serialNumber"] == f"urn:uuid:{bill().identity}"
    assert document["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")
    a, libb = document["components"]
    assert (a["name"], libb["version"]) == ("a", "1:2.0~rc1-1+b2")
    assert libb["hashes"] == [{"alg": "SHA-256", "content": "cd" * 32}]
    (system,) = [d for d in document["dependencies"] if d["ref"] == "system"]
    assert system["dependsOn"] == sorted([a["bom-ref"], libb["bom-ref"]])


def test_sbom_of_an_output_and_of_its_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    store = Store(tmp_path / "store")
    monkeypatch.setenv("MKROOT_STORE", str(store.root))
    settings = ImageSettings(tags=("box:1",))
    write_build(small_root(store.root), FACTS, settings, tmp_path / "out", ["tar.zst"], images=ImageStore(store))
    for subject in (str(tmp_path / "out"), "box:1"):
        target = tmp_path / "bill.json"
        status, out = command(capsys, "sbom", subject, "--format", "spdx", "-o", str(target))
        assert (status, out) == (0, "")
        document = json.loads(target.read_bytes())
        assert [p["name"] for p in document["packages"][1:]] == ["a"], subject
        assert document["packages"][0]["versionInfo"] == "13"


def test_images_history_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    store = Store(tmp_path / "store")
    monkeypatch.setenv("MKROOT_STORE", str(store.root))
    assert json.loads(command(capsys, "images", "--json")[1]) == []
    images = ImageStore(store)
    settings = ImageSettings(tags=("box:1", "other"), by="source", budget=3, cmd=("/bin/sh",))
    write_build(small_root(store.root), FACTS, settings, tmp_path / "out", ["oci"], images=images)
    rows = json.loads(command(capsys, "images", "--json")[1])
    assert [sorted(r) for r in rows] == [["created", "digest", "layers", "reference", "shared", "size", "unique"]] * 2
    assert rows[0]["digest"] == images.find("box:1").digest and rows[0]["layers"] == 2
    lines = command(capsys, "images", "box")[1].splitlines()
    assert len(lines) == 2 and lines[1].startswith("box:1")
    steps = json.loads(command(capsys, "history", "--json", "box:1")[1])
    assert [s["empty_layer"] for s in steps] == [True, False, False]
    assert sum(s["size"] for s in steps) == rows[0]["size"]
    assert steps[-1]["digest"] == images.load(images.find("box:1")).manifest.layers[0].digest
    (told,) = json.loads(command(capsys, "inspect", "--verify", rows[0]["digest"][7:19])[1])
    assert told["RepoTags"] == ["box:1", "other:latest"] and told["Config"]["Cmd"] == ["/bin/sh"]
    assert told["Size"] == rows[0]["size"]
    assert "CMD" in command(capsys, "history", "box:1")[1]


def test_reading_an_archive_needs_its_end(tmp_path: Path) -> None:
    outputs = write_outputs(small_root(tmp_path / "store"), FACTS, tmp_path / "out", ["tar"], makers())
    data = (outputs.folder / "rootfs.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[:-2048])
    with pytest.raises(ArtifactError, match="tar"):
        read_tar(tmp_path / "cut.tar")
