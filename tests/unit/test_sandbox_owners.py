"""Owners, devices and user changes of scripts where there is one id only."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mkroot.rootfs import linux
from mkroot.rootfs.seccomp import CALLS, program
from tests.unit.boxes import run

RUN = """
made = union_of(sandbox.scaffold(work()), root())
with box(made.at) as b:
    r = b.run(["sh", "-c", SCRIPT])
    owners = b.owners()
changes = upper.read_upper(made.upper, owners=owners)
emit(code=r.returncode, out=r.output.decode(), limits=b.limits, devices={e.path: e.device for e in changes.entries},
     entries={e.path: [e.kind, oct(e.mode), e.uid, e.gid] for e in changes.entries})
"""


def owners(script: str) -> dict[str, list[object]]:
    """Run a script with a single id; return what it wrote: kind, mode, owner, group by path."""
    got = run("single", f"SCRIPT = {script!r}\n" + RUN)
    if got["limits"]:
        pytest.skip(f"this host: {got['limits']}")
    assert got["code"] == 0, got["out"]
    return {**got["entries"], "out": got["out"], "devices": got["devices"]}


def test_owners_survive_renames_links_and_relative_paths() -> None:
    got = owners(
        "mkdir -p /d/e && cd /d/e && touch a && chown 33:8 a && chgrp 9 ../e && mv a b && ln b ../c"
        " && ln -s ../c l && chown 7 l && cd / && chown 1:1 ./etc/group"
    )
    assert got["d/e/b"] == ["h", "0o644", 7, 8]  # chown follows the link l to d/c, the same file
    assert got["d/c"] == ["f", "0o644", 7, 8]
    assert got["d/e"] == ["d", "0o755", 0, 9]
    assert got["d/e/l"][2:] == [0, 0]
    assert got["etc/group"] == ["f", "0o644", 1, 1]


def test_links_and_pipes_have_owners_by_path() -> None:
    got = owners("ln -s /nowhere /l; chown -h 7:8 /l; mkfifo /p 2>/dev/null || mknod /p p; chown 5 /p")
    assert got["l"] == ["l", "0o777", 7, 8]
    assert got["p"][2:] == [5, 0]


def test_devices_become_entries() -> None:
    got = owners("mknod -m 640 /n c 1 3 && chown 0:6 /n")
    assert got["n"] == ["c", "0o640", 0, 6]
    assert got["devices"]["n"] == [1, 3]  # type: ignore[index, call-overload]


def test_a_device_has_the_mode_that_the_umask_leaves() -> None:
    got = owners("umask 027; mknod /n c 1 3; umask 0; mknod /m b 8 1")
    assert got["n"] == ["c", "0o640", 0, 0]
    assert got["m"] == ["b", "0o666", 0, 0]


def test_faults_are_the_kernels_own() -> None:
    got = owners("chown 1 /nope 2>&1; chown 1 /etc/passwd/x 2>&1; true")
    assert "No such file" in str(got["out"])
    assert "Not a directory" in str(got["out"])


def test_set_id_bits_go_with_the_owner() -> None:
    got = owners("touch /x && chmod 6755 /x && chown 3 /x && touch /y && chown 3 /y && chmod 4755 /y")
    assert got["x"] == ["f", "0o755", 3, 0]
    assert got["y"] == ["f", "0o4755", 3, 0]


@pytest.mark.parametrize("machine", sorted(CALLS))
def test_every_call_reaches_its_answer(machine: str) -> None:
    calls = CALLS[machine]

    def answer(number: int, audit: int) -> int:
        lines, at, value = program(calls, notify=True), 0, 0
        while True:
            code, yes, no, k = lines[at]
            at += 1
            if code == 0x06:
                return k
            if code == 0x20:
                value = {0: number, 4: audit}[k]
            else:
                at += yes if value == k else no

    assert {answer(n, calls.audit) for n in calls.notified.values()} == {0x7FC00000}
    assert {answer(n, calls.audit) for n in calls.ignored} == {0x00050000}
    assert answer(1, calls.audit) == answer(calls.ignored[0], 0x40000003) == 0x7FFF0000


def test_a_rename_elsewhere_does_not_disturb_a_walk_through_the_folder_above(tmp_path: Path) -> None:
    """openat2(2) answers EAGAIN to a path with `..` when anything on the host is renamed meanwhile."""
    (tmp_path / "a/b").mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        while os.getppid() != 1:
            os.rename(tmp_path / "a", tmp_path / "c")
            os.rename(tmp_path / "c", tmp_path / "a")
    try:
        (tmp_path / "still/b").mkdir(parents=True)
        root = os.open(tmp_path / "still", os.O_PATH)
        for _ in range(20_000):
            os.close(linux.open_in_root(root, "b/../b/../b", os.O_PATH))
        os.close(root)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
