"""What maintainer scripts can see and reach, how they end, and that nothing is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.boxes import KINDS, base, ended, fresh, run, start

UNION = "made = union_of(sandbox.scaffold(work()), root())\nat = made.at\n"
SH = """
def sh(script, **options):
    with box(at) as b:
        return b.run(["sh", "-c", script], **options)
"""


def shell(kind: str, script: str, more: str = "", options: str = "") -> str:
    """Run a shell script in a sandbox on a union; return its output, or fail with it."""
    code = UNION + more + f"with box(at{options}) as b:\n    r = b.run(['sh', '-c', {script!r}])\n"
    got = run(kind, code + "emit(code=r.returncode, out=r.output.decode(), limits=b.limits)")
    assert got["code"] == 0, got["out"]
    return str(got["out"])


@pytest.mark.counts("hostile")
@KINDS
def test_environment_umask_terminal_and_limits_are_fixed(kind: str) -> None:
    script = "umask; pwd; ulimit -n; ulimit -c; cat; (: > /dev/tty) || echo no terminal; echo env; export -p"
    out = shell(kind, f"({script}) 2>/dev/null", "os.environ['SECRET'] = 'x'\nos.umask(0o077)\n")
    head, _, exported = out.partition("env\n")
    assert head.split("\n") == ["0022", "/", "1024", "0", "no terminal", ""]
    names = [line.split()[1].partition("=")[0] for line in exported.splitlines()]
    fixed = "DEBCONF_NONINTERACTIVE_SEEN DEBIAN_FRONTEND HOME LANG LANGUAGE LC_ALL LOGNAME PATH PWD SHELL"
    assert names == [*fixed.split(), "SOURCE_DATE_EPOCH", "TERM", "USER"]
    assert "export SOURCE_DATE_EPOCH='1700000000'" in exported


@pytest.mark.counts("hostile")
@KINDS
def test_no_descriptor_of_mkroot_is_inherited(kind: str) -> None:
    keep = "kept = os.open('/etc/passwd', os.O_RDONLY)\nos.dup2(kept, 9, inheritable=True)\n"
    assert shell(kind, "ls /proc/self/fd", keep).split() == ["0", "1", "2", "3"]  # 3: the listing


@pytest.mark.counts("hostile")
@KINDS
def test_only_its_own_processes_are_seen(kind: str) -> None:
    out = shell(kind, "cd /proc; for p in [0-9]*; do cat $p/comm; done; cat 1/cmdline")
    assert "python" not in out
    assert out.startswith("mkroot\n")
    assert "/mkroot" not in out
    assert str(base()) not in out


@pytest.mark.counts("hostile")
@KINDS
def test_process_1_shows_nothing_of_the_host(kind: str) -> None:
    out = shell(
        kind,
        "cd /proc/1; cat root/etc/passwd fd/3 cwd/etc/passwd 2>&1; cat maps environ 2>&1; true",
    )
    assert out.count("ermission denied") == 5, out


@pytest.mark.counts("fault")
@pytest.mark.parametrize("when", ["before it is told what to do", "after that"])
def test_a_process_1_that_dies_early_is_told_of(when: str) -> None:
    end = "import time; time.sleep(0.2)" if when == "after that" else ""
    code = f"""
(at := work() / "init").write_text("def main():\\n    {end or "pass"}\\n")
linux.mount(str(at), sandbox.sandbox_init.__file__, None, linux.MS_BIND)
told = []
for _ in range(3):
    try:
        with box(work()):
            pass
    except SandboxError as e:
        told.append(e.what)
emit(told=told)
"""
    assert run("mapped", code)["told"] == ["the sandbox ended before it was ready"] * 3


@pytest.mark.counts("hostile")
@KINDS
def test_no_host_path_is_visible(kind: str) -> None:
    out = shell(kind, "cat /proc/self/mountinfo /proc/mounts /proc/self/cgroup; ls -a /")
    assert str(base()) not in out
    assert "/var/tmp" not in out
    assert ".mkroot" not in shell(kind, "ls -a /dev")


@pytest.mark.counts("hostile")
@KINDS
def test_there_is_no_network_and_another_host_name(kind: str) -> None:
    out = shell(kind, "cat /proc/net/dev /proc/sys/kernel/hostname", options=", hostname='box'")
    devices = [line.split(":")[0].strip() for line in out.splitlines() if ":" in line]
    assert devices == ["lo"]
    assert out.endswith("box\n")


@pytest.mark.counts("hostile")
@KINDS
def test_a_minimal_dev(kind: str) -> None:
    script = (
        "cd /dev; echo *; echo x > null; head -c 3 /dev/zero | cat; head -c1 full urandom > null; stat -c %t:%T null"
    )
    out = shell(kind, script).replace("\0", "0")
    assert out.split("\n")[:2] == [
        "console fd full null ptmx pts random shm stderr stdin stdout tty urandom zero",
        "0001:3",
    ]


@pytest.mark.counts("hostile")
@KINDS
def test_the_hosts_kernel_settings_cannot_be_changed(kind: str) -> None:
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches"):
        out = shell(kind, f"[ ! -e {path} ] || ! (echo 1 > {path}) 2>&1")
        assert "Read-only" in out or "denied" in out or out == ""


@pytest.mark.counts("hostile")
@KINDS
def test_capabilities_are_cut_down(kind: str) -> None:
    out = shell(kind, "cat /proc/self/status")
    fields = dict(line.split(":\t") for line in out.splitlines() if line.startswith(("Cap", "NoNew")))
    bounding = int(fields["CapBnd"], 16)
    for number in (
        2,
        12,
        13,
        16,
        17,
        19,
        21,
        22,
        25,
    ):  # dac_read_search, net_*, module, rawio, ptrace, admin, boot, time
        assert not bounding >> number & 1
    for number in (0, 1, 3, 4, 5, 6, 7, 18, 31):  # chown … setuid, sys_chroot, setfcap
        assert bounding >> number & 1
    assert fields["NoNewPrivs"] == "0"


@pytest.mark.counts("hostile")
def test_a_device_node_that_a_script_makes_opens_nothing() -> None:
    out = shell("root", "mknod /tmp/null c 1 3 && mknod /dev/mine c 1 3 && (cat /tmp/null; cat /dev/mine) 2>&1; true")
    assert out.count("ermission denied") == 2


@pytest.mark.counts("hostile")
@KINDS
def test_the_interpreter_of_process_1_is_read_only(kind: str) -> None:
    """A script `#!/proc/self/exe` executes the host's Python in there, and holds its file then (CVE-2019-5736)."""
    code = (
        UNION
        + "with box(at) as b:\n    at = os.statvfs(f'/proc/{b._pid}/exe')\n    emit(ro=bool(at.f_flag & os.ST_RDONLY))"
    )
    assert run(kind, code) == {"ro": True}


@pytest.mark.counts("hostile")
@KINDS
def test_the_keyring_and_user_namespaces_are_out_of_reach(kind: str) -> None:
    """The user's session keyring goes down to every process of the session, whatever its namespaces."""
    filtered = [line for line in shell(kind, "cat /proc/self/status").splitlines() if line.startswith("Seccomp:")]
    assert filtered == ["Seccomp:\t2"]
    assert shell(kind, "cat /proc/keys /proc/key-users /proc/kallsyms /proc/kmsg 2>&1; true") == ""


@KINDS
def test_codes_output_and_faults(kind: str) -> None:
    code = (
        UNION
        + """
(root() / "usr/bin/broken").write_text("#!/nowhere\\n")
os.chmod(root() / "usr/bin/broken", 0o755)
(root() / "usr/bin/plain").write_text("x")
os.chmod(root() / "usr/bin/plain", 0o644)
with box(at) as b:
    runs = [b.run(a) for a in (["true"], ["sh", "-c", "echo out; echo err >&2; exit 3"], ["sh", "-c", "kill -9 $$"],
            ["nothing"], ["broken"], ["/usr/bin/plain"])]
    fed = b.run(["cat"], stdin=b"fed" * 100000)
    env = b.run(["sh", "-c", "echo $A $PWD"], environment={"A": "1"}, cwd="/usr/bin")
emit(runs=[[r.returncode, r.output.decode(), r.fault] for r in runs], fed=len(fed.output), env=env.output.decode())
"""
    )
    got = run(kind, code)
    assert [r[0] for r in got["runs"]] == [0, 3, -9, 127, 127, 126]
    assert got["runs"][1][1] == "out\nerr\n"
    assert "`nothing` cannot be executed: No such file" in got["runs"][3][2]
    assert got["fed"] == 300000
    assert got["env"] == "1 /usr/bin\n"


@KINDS
def test_lines_and_status_come_as_they_are_written(kind: str) -> None:
    code = (
        UNION
        + """
lines, states = [], []
with box(at) as b:
    b.run(["sh", "-c", "echo a; sleep 0.3; printf 'b\\nc'; echo status: x >&3; echo y >&3"],
          output=lambda l: lines.append((l.decode(), time.monotonic())), status=lambda l, t: states.append((l, t)))
emit(lines=[l for l, _ in lines], apart=lines[1][1] - lines[0][1], states=[l for l, _ in states],
     off=abs(states[0][1] - time.time()))
"""
    )
    got = run(kind, code)
    assert got["lines"] == ["a\n", "b\n", "c"]
    assert got["apart"] > 0.2
    assert got["states"] == ["status: x", "y"]
    assert got["off"] < 5


@pytest.mark.counts("hostile")
@KINDS
def test_output_is_bounded(kind: str) -> None:
    code = UNION + "with box(at) as b:\n    r = b.run(['sh', '-c', 'head -c 9000000 /dev/zero; echo end'])\n"
    got = run(kind, code + "emit(n=len(r.output), cut=r.truncated, end=r.output[-4:].decode())")
    assert got == {"n": 1 << 20, "cut": True, "end": "end\n"}


@pytest.mark.counts("hostile")
@KINDS
def test_what_a_command_leaves_running_is_ended(kind: str) -> None:
    code = UNION + SH + "t = time.monotonic()\nr = sh('(trap \"\" TERM HUP; sleep 60) & sleep 60 & echo started')\n"
    got = run(kind, code + "emit(took=time.monotonic() - t, left=r.left, out=r.output.decode())")
    assert got["took"] < 5
    assert got["left"] >= 2
    assert got["out"] == "started\n"


@pytest.mark.counts("hostile")
@KINDS
def test_a_timeout_ends_it(kind: str) -> None:
    code = UNION + SH + "t = time.monotonic()\ntry:\n    sh('sleep 60', timeout=0.3)\nexcept SandboxError as e:\n"
    got = run(kind, code + "    emit(took=time.monotonic() - t, what=e.what)")
    assert got["took"] < 5
    assert "did not end in time" in got["what"]


@KINDS
def test_no_trace_is_left_in_the_upper(kind: str) -> None:
    # Without a scaffold, folders around mount points are in the upper, the same as below.
    for scaffold in ("sandbox.scaffold(work()), ", ""):
        code = f"made = union_of({scaffold}root())\n"
        code += """
with box(made.at, network=True, sysfs=True) as b:
    r = b.run(["sh", "-c", "cat /usr/sbin/policy-rc.d; /usr/sbin/policy-rc.d; echo $?; cat /etc/resolv.conf"])
changes = upper.read_upper(made.upper)
emit(out=r.output.decode(), paths=[e.path for e in changes.entries], removed=changes.removed,
     times=[(made.at / e.path).stat().st_mtime == (root() / e.path).stat().st_mtime for e in changes.entries])
"""
        got = run(kind, code)
        assert "exit 101" in got["out"]
        assert "\n101\n" in got["out"]
        assert got["paths"] == (["etc"] if scaffold else ["etc", "usr", "usr/sbin"])
        assert all(got["times"])
        assert got["removed"] == []


@KINDS
def test_missing_mount_points_are_made_and_taken_away(kind: str) -> None:
    code = """
at = make_root(work() / "r")
for name in ("dev", "proc"):
    os.rmdir(at / name)
before = sorted(os.listdir(at)), at.stat().st_mtime_ns
with box(at) as b:
    r = b.run(["sh", "-c", "echo x > /dev/null && cat /proc/self/comm"])
emit(same=before == (sorted(os.listdir(at)), at.stat().st_mtime_ns), out=r.output.decode(),
     sbin=os.listdir(at / "usr/sbin"))
"""
    assert run(kind, code) == {"same": True, "out": "cat\n", "sbin": []}


@KINDS
def test_the_roots_own_start_stop_daemon_is_hidden_and_kept(kind: str) -> None:
    code = """
at = make_root(work() / "r")
daemon = at / "usr/sbin/start-stop-daemon"
daemon.write_text("#!/bin/sh\\necho real\\n")
daemon.chmod(0o755)
with box(at) as b:
    hidden = b.run(["start-stop-daemon", "--start"])
with box(at, start_stop=False) as b:
    shown = b.run(["start-stop-daemon", "--start"])
emit(hidden=[hidden.returncode, hidden.output.decode()], shown=shown.output.decode(), kept="real" in daemon.read_text())
"""
    got = run(kind, code)
    assert got["hidden"][0] == 0
    assert "nothing is started" in got["hidden"][1]
    assert (got["shown"], got["kept"]) == ("real\n", True)


@pytest.mark.counts("hostile")
@KINDS
@pytest.mark.parametrize("name", ["dev", "proc"])
def test_a_mount_point_that_is_a_link_is_refused(kind: str, name: str) -> None:
    outside = fresh(base())
    os.chmod(outside, 0o777)
    code = f"""
at = make_root(work() / "r")
os.rmdir(at / {name!r})
os.symlink({str(outside)!r}, at / {name!r})
try:
    box(at).__enter__()
except SandboxError as e:
    emit(what=e.what)
"""
    assert "cannot be made" in run(kind, code)["what"]
    assert os.listdir(outside) == []


@pytest.mark.counts("hostile")
@KINDS
def test_links_in_the_root_lead_nowhere_outside(kind: str) -> None:
    outside = fresh(base())
    os.chmod(outside, 0o777)
    code = f"""
at = make_root(work() / "r")
os.rmdir(at / "usr/sbin")
os.symlink({str(outside)!r}, at / "usr/sbin")
with box(at, network=True) as b:
    b.run(["true"])
emit()
"""
    run(kind, code)
    assert os.listdir(outside) == []


@pytest.mark.counts("hostile")
@KINDS
def test_an_interrupt_ends_it_at_once(kind: str) -> None:
    code = (
        UNION + "with box(at) as b:\n    b.run(['sh', '-c', 'trap \"\" INT TERM; echo go; while :; do sleep 5; done'],"
    )
    code += "output=lambda l: print('go', flush=True))\n"
    with ended(start(kind, code, stdout=-1, stderr=-1)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) != 0
        assert time.monotonic() - begin < 1.5


@pytest.mark.counts("hostile")
@KINDS
def test_killed_with_no_chance_it_leaves_nothing(kind: str) -> None:
    mark = f"31{os.getpid()}"
    code = UNION + f"with box(at) as b:\n    b.run(['sh', '-c', 'echo go; sleep {mark} & sleep {mark}'],"
    code += "output=lambda l: print('go', flush=True))\n"
    before = Path("/proc/self/mounts").read_text()
    with ended(start(kind, code, stdout=-1)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        until = time.monotonic() + 3
        while len(_sleeping(mark)) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        assert len(_sleeping(mark)) == 2
        process.kill()
        process.wait(5)
        until = time.monotonic() + 3
        while _sleeping(mark) and time.monotonic() < until:
            time.sleep(0.02)
        assert _sleeping(mark) == []
    assert Path("/proc/self/mounts").read_text() == before


def _sleeping(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes() == f"sleep\0{mark}\0".encode():
                    found.append(entry.name)
            except OSError:
                continue
    return found


def test_without_namespaces_it_says_what_to_enable() -> None:
    code = """
none = identities.Identity("none", "n1", reason="no namespaces here", hint="enable them")
try:
    Sandbox(work(), identity=none, epoch=0).__enter__()
except SandboxError as e:
    emit(what=e.what, hint=e.hint)
"""
    got = run("user", code)
    assert "no namespaces here" in got["what"]
    assert "enable them" in got["hint"]
    assert "static" in got["hint"]


@KINDS
def test_it_starts_fast(kind: str) -> None:
    code = (
        UNION
        + """
starts, runs = [], []
for _ in range(7):
    t = time.perf_counter()
    with box(at) as b:
        b.run(["true"])
        starts.append(time.perf_counter() - t)
        t = time.perf_counter()
        b.run(["true"])
        runs.append(time.perf_counter() - t)
emit(start=min(starts), run=min(runs))
"""
    )
    got = run(kind, code)
    assert got["start"] < 0.15
    assert got["run"] < 0.03


def test_its_process_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import mkroot.rootfs.sandbox_init; print(sorted(sys.modules))"
    root = str(Path(__file__).resolve().parents[2])
    words = ["python3", "-I", "-S", "-c", f"import sys; sys.path.append({root!r}); {code}"]
    import sys

    words[0] = sys.executable
    out = subprocess.run(words, capture_output=True, check=True).stdout.decode()
    for name in ("'typing'", "'enum'", "'re'", "'msgspec'", "'subprocess'", "'json'", "'pathlib'"):
        assert name not in out
