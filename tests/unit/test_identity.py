"""As whom mkroot builds, and how its two processes behave as one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from mkroot.rootfs import identity
from tests.unit.boxes import KINDS, base, ended, fresh, run, start

SAY = "print('ready', flush=True)\n"
WAIT = """
until = time.monotonic() + 10
while not seen and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.2)
"""


@KINDS
def test_the_kind_that_the_user_can_have(kind: str) -> None:
    got = run(kind, "emit(kind=me.kind, uid=os.getuid(), tag=me.tag, reason=me.reason, hint=me.hint)")
    assert (got["kind"], got["uid"]) == (kind, 0)
    assert bool(got["reason"]) == bool(got["hint"]) == (kind == "single")
    if kind == "single":
        assert "/etc/subuid" in got["reason"]
        assert "usermod" in got["hint"]


@KINDS
def test_mounts_are_seen_by_nobody_else(kind: str) -> None:
    at = fresh(base())
    os.chmod(at, 0o777)
    run(kind, f"linux.mount('tmpfs', {str(at)!r}, 'tmpfs'); Path({str(at)!r}, 'x').touch(); emit()")
    assert os.listdir(at) == []
    assert str(at) not in Path("/proc/self/mounts").read_text()


def test_ids_that_files_can_be_given() -> None:
    code = "emit(all=[me.can_chown(u, u) for u in (0, 33, 65534, 65535, 70000)])"
    assert run("root", code)["all"] == [True] * 5
    assert run("mapped", code)["all"] == [True] * 4 + [False]
    assert run("single", code)["all"] == [True] + [False] * 4


def test_mapped_ids_are_really_there() -> None:
    code = "p = work() / 'x'; p.touch(); os.chown(p, 33, 65534); st = p.stat(); emit(owner=[st.st_uid, st.st_gid])"
    assert run("mapped", code)["owner"] == [33, 65534]


def test_tags_tell_trees_apart() -> None:
    tags = [run(kind, "emit(tag=me.tag)")["tag"] for kind in ("root", "mapped", "single")]
    assert len(set(tags)) == 3
    assert tags[0] == "root"
    assert tags == [run(kind, "emit(tag=me.tag)")["tag"] for kind in ("root", "mapped", "single")]


@KINDS
@pytest.mark.parametrize("status", [0, 1, 77])
def test_the_exit_status_is_the_programs(kind: str, status: int) -> None:
    with ended(start(kind, f"sys.exit({status})")) as process:
        assert process.wait(20) == status


@KINDS
def test_death_by_a_signal_is_the_programs(kind: str) -> None:
    with ended(start(kind, "os.kill(os.getpid(), signal.SIGABRT)", stderr=-3)) as process:
        assert process.wait(20) == -signal.SIGABRT


@KINDS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_program_once(kind: str, number: signal.Signals) -> None:
    code = """
seen = []
for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(n, lambda n, frame: seen.append(n))
"""
    code += SAY + WAIT + "print(seen, flush=True); sys.exit(3)\n"
    with ended(start(kind, code, stdout=-1)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"[{int(number)}]\n".encode()
        assert process.wait(20) == 3


@KINDS
def test_a_signal_to_the_whole_group_arrives_once(kind: str) -> None:
    code = "seen = []\nsignal.signal(signal.SIGTERM, lambda n, frame: seen.append(n))\n"
    code += SAY + WAIT + "print(len(seen), flush=True)\n"
    with ended(start(kind, code, stdout=-1, start_new_session=True)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == b"1\n"


@KINDS
def test_killed_with_no_chance_the_program_ends_too(kind: str) -> None:
    with ended(start(kind, "print(os.readlink('/proc/self'), flush=True); time.sleep(60)\n", stdout=-1)) as process:
        assert process.stdout is not None
        program = int(process.stdout.readline())
        process.kill()
        process.wait(5)
        until = time.monotonic() + 3
        while os.path.exists(f"/proc/{program}") and time.monotonic() < until:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{program}")


@KINDS
def test_stopping_stops_both_and_going_on_goes_on(kind: str) -> None:
    # In a group that has a parent outside of it: the kernel lets no orphaned group stop itself.
    with ended(
        start(kind, SAY + "time.sleep(0.3); print('done', flush=True)\n", stdout=-1, process_group=0)
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTSTP)
        pid, status = os.waitpid(process.pid, os.WUNTRACED)
        assert pid == process.pid
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == b"done\n"
        assert process.wait(5) == 0


def test_root_of_a_namespace_that_somebody_else_made() -> None:
    code = """
import subprocess
child = [sys.executable, '-c', "from mkroot.rootfs import identity; i = identity.assume();"
         "print(i.kind, i.namespaced, i.can_chown(33, 33), i.can_chown(0, 0))"]
def inside():
    linux.unshare(linux.CLONE_NEWUSER)
    Path('/proc/self/uid_map').write_text('0 0 1')
    Path('/proc/self/setgroups').write_text('deny')
    Path('/proc/self/gid_map').write_text('0 0 1')
emit(out=subprocess.run(child, stdout=-1, preexec_fn=inside, check=True).stdout.decode().split())
"""
    assert run("user", code)["out"] == ["single", "True", "False", "True"]


def test_threads_forbid_it() -> None:
    code = "import threading\nthreading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
    code += "try:\n    identities.assume()\nexcept RuntimeError as e:\n    emit(fault=str(e))\n"
    assert "threads" in run("user", code)["fault"]


def test_subordinate_ranges_by_name_and_number(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("# a note\nana:100000:65536\n\nbo:1:x\n1000:300000:10\nana:500000:5\nana:7:0\n")
    assert identity.subordinate(str(file), "ana", 1000) == [(100000, 65536), (300000, 10), (500000, 5)]
    assert identity.subordinate(str(file), "bo", 1001) == []
    assert identity.subordinate(str(tmp_path / "none"), "ana", 1000) == []
