"""A script that has its files written to the disk is told that they are, and none is; a container's calls are made."""

from __future__ import annotations

import errno
import os

import pytest

from mkroot.rootfs.filter import TABLES
from tests.unit.boxes import KINDS, run
from tests.unit.test_container_filter import ALLOW, DONE, answer

AUDITS = [(machine, table.audit, table.syncs) for machine, tables in TABLES.items() for table in tables]
CALLS = [
    pytest.param(machine, audit, number, id=f"{machine}-{audit:x}-{name}")
    for machine, audit, syncs in AUDITS
    for name, number in syncs.items()
]


@pytest.mark.parametrize(("machine", "audit", "number"), CALLS)
def test_a_build_is_answered_and_a_container_is_served(machine: str, audit: int, number: int) -> None:
    assert answer(machine, audit, number, syncs=False) == DONE
    assert answer(machine, audit, number) == ALLOW


def test_every_table_knows_all_of_them() -> None:
    for _, audit, syncs in AUDITS:
        assert len(set(syncs.values())) == 5, hex(audit)
        assert {name.removesuffix("2") for name in syncs} == {"sync", "syncfs", "fsync", "fdatasync", "sync_file_range"}


@pytest.mark.counts("hostile")
@KINDS
def test_a_script_that_syncs_succeeds_and_no_call_is_made(kind: str) -> None:
    """A call that were made would say that there is no such descriptor."""
    machine = os.uname().machine
    if machine not in TABLES:
        pytest.skip(f"the calls of {machine} are not known")
    syncs = TABLES[machine][0].syncs
    calls = ", ".join(f"syscall({syncs[name]}, -1, 0, 0, 0)" for name in sorted(syncs) if name != "sync")
    perl = f"print join ' ', {calls}; print \" \", syscall(0, -1, 0, 0) < 0 ? $! + 0 : 'read'"
    code = (
        "at = make_root(base / f'sync-{me.tag}', ['sh', 'sync', 'perl', 'touch'])\n"
        "with box(at) as b:\n"
        "    first = b.run(['sh', '-c', 'touch /tmp/x && sync && sync /tmp/x && sync -d /tmp/x && sync -f /tmp/x'])\n"
        f"    second = b.run(['perl', '-e', {perl!r}], environment={{'LC_ALL': 'C'}})\n"
        "emit(first=[first.returncode, first.output.decode()], second=[second.returncode, second.output.decode()])"
    )
    got = run(kind, code)
    assert got["first"] == [0, ""]
    if machine == "x86_64":  # 0 is read(2) there
        assert got["second"] == [0, f"0 0 0 0 {errno.EBADF}"]
    else:
        assert got["second"][1].startswith("0 0 0 0 ")
