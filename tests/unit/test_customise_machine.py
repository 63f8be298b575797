"""What a root is given because it boots as a machine."""

from __future__ import annotations

from pathlib import Path

from mkroot.recipe.booting import Disk
from mkroot.rootfs.machine import prepare_machine
from tests.unit.roots import EPOCH, changes, debian, tree_of
from tests.unit.roots import systemd as bare_systemd


def systemd(**more: str) -> dict[str, str | bytes]:
    return bare_systemd(**more) | {"usr/sbin/init": "-> ../lib/systemd/systemd"}


CHECK = [
    "l 0777 0:0 usr/lib/systemd/system/multi-user.target.wants/mkroot-check.service -> ../mkroot-check.service",
]


def prepared(tmp_path: Path, files: dict[str, str | bytes], **disk: bool) -> tuple[list[str], dict[str, str], str]:
    before = tree_of(tmp_path, files)
    tree = before.copy()
    origins = prepare_machine(tree, Disk(**disk), epoch=EPOCH)
    text = tree.read("etc/.updated").decode() if tree.exists("etc/.updated") else ""
    return changes(before, tree), origins, text


def test_systemd_gets_the_self_check_and_makes_no_cache_again(tmp_path: Path) -> None:
    found, origins, updated = prepared(tmp_path, systemd())
    assert [line.split(" ")[3] for line in found if not line.startswith("d ")] == [
        "etc/.updated",
        "usr/lib/systemd/system/mkroot-check.service",
        "usr/lib/systemd/system/multi-user.target.wants/mkroot-check.service",
        "var/.updated",
    ]
    assert CHECK[0] in found
    assert f"TIMESTAMP_NSEC={EPOCH}000000000\n" in updated
    assert "self-check" in origins["usr/lib/systemd/system/mkroot-check.service"]


def test_a_disk_that_grows_has_a_unit_for_it(tmp_path: Path) -> None:
    found, origins, _ = prepared(tmp_path, systemd(), grow=True)
    assert any("multi-user.target.wants/mkroot-grow.service" in line for line in found)
    assert origins["etc/repart.d/50-root.conf"] == "recipe: disk.grow"


def test_busybox_alone_is_given_a_small_init(tmp_path: Path) -> None:
    found, origins, _ = prepared(tmp_path, debian(**{"usr/bin/busybox": "x!"}))
    assert found == [
        "d 0755 0:0 dev",
        "d 0555 0:0 proc",
        "d 0755 0:0 run",
        "d 0555 0:0 sys",
        "d 1777 0:0 tmp",
        "f 0755 0:0 usr/sbin/init",
    ]
    assert "small init" in origins["usr/sbin/init"]
    found, _, _ = prepared(tmp_path / "systemd", bare_systemd() | {"usr/bin/busybox": "x!"})
    assert "f 0755 0:0 usr/sbin/init" in found, "systemd without systemd-sysv starts nothing"


def test_another_root_without_systemd_is_left_alone(tmp_path: Path) -> None:
    assert prepared(tmp_path, debian()) == ([], {}, "")
    own = debian(**{"usr/bin/busybox": "x!", "usr/sbin/init": "-> ../bin/busybox"})
    assert prepared(tmp_path / "own", own) == ([], {}, "")
