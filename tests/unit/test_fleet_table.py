"""What a run tells at its end: rows, faults, sums, and what a build changed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from mkroot.artifact.manifest import Facts, Made, Manifest, PackageFacts, encode, make_manifest
from mkroot.fleet.changes import change, manifest
from mkroot.fleet.model import DONE, FAILED, SKIPPED, UNCHANGED, Change, Fault, Job, Row
from mkroot.fleet.table import cells, faults, label, tally

LOST, OTHER = Fault(what="lost"), Fault(what="other", where="x")
ROWS = (
    Row(job=Job(recipe="top.yaml", defines={}, architecture="amd64"), state=SKIPPED, faults=(OTHER,)),
    Row(
        job=Job(recipe="m.yaml", defines={"b": "2", "a": "1", "c": "3"}, varied=("a", "b"), architecture="arm64"),
        state=DONE,
        packages=7,
        size=2048,
        seconds=1.5,
    ),
    Row(job=Job(recipe="a.yaml", defines={}, architecture="amd64"), state=FAILED, faults=(LOST,), seconds=0.5),
    Row(job=Job(recipe="b.yaml", defines={}, architecture="amd64"), state=FAILED, faults=(LOST, OTHER)),
    Row(job=Job(recipe="c.yaml", defines={}), state=UNCHANGED, packages=1, size=1),
)


def test_a_line_for_each_job() -> None:
    head, *rows = cells(ROWS, "{} B".format, "{} s".format)
    assert head == ("recipe", "arch", "state", "packages", "size", "time")
    assert rows == [
        ("top.yaml", "amd64", "skipped", "-", "-", "-"),
        ("m.yaml a=1 b=2", "arm64", "done", "7", "2048 B", "1.5 s"),
        ("a.yaml", "amd64", "failed", "-", "-", "0.5 s"),
        ("b.yaml", "amd64", "failed", "-", "-", "-"),
        ("c.yaml", "-", "unchanged", "1", "1 B", "-"),
    ]


def test_each_fault_once_and_what_was_skipped_last() -> None:
    assert [(f.what, [label(row) for row in having]) for f, having in faults(ROWS)] == [
        ("lost", ["a.yaml", "b.yaml"]),
        ("other", ["b.yaml", "top.yaml"]),
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (ROWS, "1 built, 1 unchanged, 2 failed, 1 skipped"),
        (ROWS[1:2], "1 built, 0 failed"),
        ((), "0 built, 0 failed"),
    ],
)
def test_the_sum(rows: tuple[Row, ...], says: str) -> None:
    assert tally(rows) == says


# ---- what changed


def built(*packages: str, size: int = 10) -> Manifest:
    facts = Facts(
        name="r",
        architecture="amd64",
        distro="debian",
        suite="trixie",
        packages=tuple(
            PackageFacts(
                name=name, version=version, architecture="all", source=name, source_version=version, sha256="", size=1
            )
            for name, _, version in (p.partition("=") for p in packages)
        ),
    )
    made = (Made(kind="tar", name="rootfs.tar", size=size, digest=""), Made(kind="oci", name="oci", size=1, digest=""))
    return make_manifest(facts, 0, "", 0, 0, made)


def test_what_a_build_changed() -> None:
    found = change(built("a=1", "b=1", "c=1"), built("a=1", "b=2", "d=1", size=4))
    assert found == Change(added=("d 1",), removed=("c 1",), changed=("b 1 to 2",), bytes=-6)
    assert change(built("a=1"), built("a=1")) == Change()


def test_a_first_build_has_changed_nothing() -> None:
    assert change(None, built("a=1")) == Change(first=True)
    assert change(built("a=1"), None).first


@pytest.mark.parametrize("data", [None, b"", b"{}", b"\xff", encode({"version": 99})], ids=repr)
def test_what_is_no_manifest_is_none(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "manifest.json").write_bytes(data)
    assert manifest(tmp_path) is None


def test_a_manifest_is_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(encode(built("a=1")))
    assert manifest(tmp_path) == built("a=1")
    assert json.loads(msgspec.json.encode(built("a=1")))["name"] == "r"
