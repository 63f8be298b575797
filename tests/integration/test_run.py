"""Containers, as root and as an ordinary user: what a command sees, what it may do, and what stays of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.building import needs, needs_root
from tests.integration.containers import Host, container_user, make_host

DOCKER_CAPABILITIES = "00000000a80425fb"


@pytest.fixture(scope="module", params=["root", "ordinary user", "root, crun", "ordinary user, crun"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    who, _, runtime = request.param.partition(", ")
    if runtime:
        needs(runtime)
    if who == "root":
        needs_root()
    user = "" if who == "root" else container_user()
    folder = Path(tempfile.mkdtemp(prefix="mkroot-host."))  # pytest's own folders are for its user alone
    folder.chmod(0o755)
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    host = make_host(folder, user, runtime)
    probe = host("run", "--rm", "box", "true")
    if probe.returncode and "cannot be run" in probe.stderr:
        pytest.skip(probe.stderr.strip())
    yield host
    host("rm", "-f", "--all")


def until(what: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- status and streams


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 42"], 42, ""),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["sh", "-c", "kill -15 $$"], 143, ""),
        (["nothing"], 127, "`nothing` is not there"),
        (["/no/thing"], 127, "is not there"),
        (["lost"], 127, "interpreter"),
        (["plain"], 126, "cannot be executed"),
        (["/srv"], 126, "cannot be executed"),
    ],
)
def test_the_status_is_the_commands(host: Host, command: list[str], status: int, said: str) -> None:
    if command == ["lost"] and host.runtime == "crun":
        pytest.skip("crun 1.8 ends with 1 and says nothing where an interpreter is not there")
    done = host("run", "--rm", "box", *command)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert said in done.stderr
    assert bool(said) == bool(done.stderr)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["run", "--rm", "bax"], 125, "there is no image `bax`"),
        (["run", "--rm", "-u", "nobody", "box", "true"], 125, "no user `nobody`"),
        (["run", "--rm", "-v", "/no/where:/x", "box", "true"], 125, "/no/where"),
        (["run", "--name", "a/b", "box", "true"], 125, "not a name"),
        (["run", "-v", "data:/x", "box", "true"], 2, "no named volumes"),
        (["run", "--memory", "lots", "box", "true"], 2, "--memory"),
        (["run"], 2, "missing: REF"),
        (["exec", "gone", "true"], 125, "there is no container `gone`"),
        (["start", "gone"], 125, "there is no container `gone`"),
        (["rm", "gone"], 1, "there is no container `gone`"),
        (["logs", "gone"], 1, "there is no container `gone`"),
        (["rm"], 2, "--all"),
    ],
)
def test_faults_are_told_and_leave_nothing(host: Host, words: list[str], status: int, said: str) -> None:
    before = host.containers()
    done = host(*words)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert host.containers() == before


def test_streams_stay_apart_and_whole(host: Host) -> None:
    done = host.sh("echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert len(host.sh("head -c 5000000 /dev/zero").stdout) == 5_000_000
    data = bytes(range(256)) * 20_000
    found = host.sh("cat | wc -c", "-i", stdin=data)
    assert found.stdout.strip() == str(len(data))


def test_standard_input_is_read_with_i_alone(host: Host) -> None:
    assert host.sh("cat", "-i", stdin=b"words\n").stdout == "words\n"
    assert host.sh("cat", stdin=b"words\n").stdout == ""


def test_a_reader_that_goes_ends_the_command(host: Host) -> None:
    with host.start("run", "--rm", "box", "yes") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(20) == 141


# ---- what it sees


def test_the_image_says_how_it_runs(host: Host) -> None:
    assert host.good("run", "--rm", "app") == "I am an app\n"
    assert host.good("run", "--rm", "app", "another") == "I am another\n"
    found = host.good("run", "--rm", "--entrypoint", "sh", "app", "-c", "id; pwd; echo $HOME $KIND")
    assert found == "uid=10(app) gid=20(app) groups=20(app),29(sound)\n/srv/work\n/srv box\n"


def test_the_command_line_says_more(host: Host) -> None:
    words = ["-e", "A=1", "-e", "TERM", "-w", "/new/folder", "-u", "12:34", "--hostname", "my.box"]
    done = host.sh("echo $A $TERM; pwd; id -u; id -g; hostname; cat /etc/hostname", *words)
    assert done.stdout == "1 xterm\n/new/folder\n12\n34\nmy.box\nmy.box\n"


def test_layers_lie_over_each_other(host: Host) -> None:
    assert host.sh("cat /srv/data /srv/more; ls /etc/old").stdout == "data\nmore\n"


def test_it_has_processes_devices_and_mounts_of_its_own(host: Host) -> None:
    found = host.sh("echo $$; ls /dev; cat /proc/1/comm; echo 1 >/proc/sys/vm/swappiness; touch /sys/x")
    lines = found.stdout.split()
    assert int(lines[0]) < 10
    assert set(lines) >= {"null", "zero", "full", "random", "urandom", "tty", "shm", "pts", "mqueue", "mkroot"}
    assert not {"sda", "vda", "kmsg", "mem"} & set(lines)
    assert found.stderr.count("Read-only file system") == 2
    mounts = host.sh("cat /proc/self/mountinfo").stdout
    assert str(host.folder) not in mounts


def test_its_files_for_the_network_are_the_hosts(host: Host) -> None:
    found = host.sh("cat /etc/resolv.conf; hostname; cat /etc/hosts")
    assert Path("/etc/resolv.conf").read_text() in found.stdout
    assert "localhost" in found.stdout
    assert host.sh("cat /etc/resolv.conf; ip -o link", "--network", "none").stdout.count("\n") == 1


def test_a_private_network(host: Host) -> None:
    if not shutil.which("pasta") and not shutil.which("slirp4netns"):
        done = host.sh("true", "--network", "private")
        assert done.returncode == 125
        assert "needs pasta or slirp4netns" in done.stderr
        return
    done = host.sh("ip -o link; ip route", "--network", "private")
    if "tun" in done.stderr:
        pytest.skip("this user cannot use /dev/net/tun")
    assert done.returncode == 0, done.stderr
    assert "default via" in done.stdout
    assert done.stdout.count("link/") == 2


def test_capabilities_and_calls_are_cut_down(host: Host) -> None:
    status = host.sh("cat /proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["CapBnd"] == fields["CapEff"] == DOCKER_CAPABILITIES
    assert fields["CapInh"] == fields["CapAmb"] == "0" * 16
    assert fields["Seccomp"] == "2"
    assert fields["NoNewPrivs"] == "0"
    fields = dict(line.split(":\t", 1) for line in host.sh("cat /proc/self/status", "-u", "app").stdout.splitlines())
    assert fields["CapEff"] == "0" * 16
    for command in ("unshare -U true", "mount -t tmpfs x /srv", "mknod /n b 254 0 && head -c 1 /n", "hostname x"):
        assert host.sh(command).returncode, command


def test_volumes(host: Host) -> None:
    tmp_path = Path(tempfile.mkdtemp(dir=host.folder))
    tmp_path.chmod(0o755)
    (tmp_path / "in").mkdir()
    (tmp_path / "in").chmod(0o777)
    (tmp_path / "in/file").write_text("here\n")
    (tmp_path / "hosts").write_text("mine\n")
    shown = [f"{tmp_path}/in:/new/place", f"{tmp_path}/in:/ro:ro", f"{tmp_path}/hosts:/etc/hosts"]
    words = [word for volume in shown for word in ("-v", volume)]
    done = host("run", "--name", "volumes", *words, "box", "sh", "-c", "cat /new/place/file /etc/hosts; "
                "echo x >/new/place/out; echo x >/ro/no")  # fmt: skip
    assert done.stdout == "here\nmine\n"
    assert "Read-only" in done.stderr
    assert sorted(os.listdir(tmp_path / "in")) == ["file", "out"]
    assert host.wrote("volumes") == []
    host.good("rm", "volumes")


def test_a_read_only_root(host: Host) -> None:
    done = host.sh("touch /x; touch /dev/shm/x && echo shm", "--read-only")
    assert done.stdout == "shm\n"
    assert "Read-only file system" in done.stderr


# ---- what stays


def test_nothing_of_mkroot_is_in_what_a_container_wrote(host: Host) -> None:
    host.good("run", "--name", "clean", "-w", "/", "box", "sh", "-c", "cat /etc/resolv.conf /etc/hosts /etc/hostname")
    assert host.wrote("clean") == []
    host.good("run", "--name", "one", "box", "sh", "-c", "echo x >/etc/new; rm /srv/data")
    assert host.wrote("one") == ["etc", "etc/new", "srv", "srv/data"]
    host.good("rm", "clean", "one")


def test_containers_see_nothing_of_each_other_and_share_the_image(host: Host) -> None:
    for name in ("left", "right"):
        host.good("run", "-d", "--name", name, "box", "sh", "-c", "echo $0 >/own; rm -f /srv/data; sleep 60")
    until(lambda: all((host.folder_of(n) / "upper/own").exists() for n in ("left", "right")))
    host.good("exec", "left", "sh", "-c", "echo left >/srv/more")
    assert host.good("exec", "right", "cat", "/srv/more") == "more\n"
    inodes = {host.good("exec", name, "stat", "-c", "%i %d", "/bin/busybox").split()[0] for name in ("left", "right")}
    assert len(inodes) == 1
    (tree,) = host.store.glob("trees-*/*/*/bin/busybox")
    assert inodes == {str(tree.stat().st_ino)}
    used = subprocess.run(["du", "-sk", host.folder_of("right")], capture_output=True, text=True).stdout.split()[0]
    assert int(used) < 1024
    host.good("rm", "-f", "left", "right")
    assert host.sh("cat /srv/data /srv/more").stdout == "data\nmore\n"


def test_start_goes_on_where_it_ended(host: Host) -> None:
    script = "echo line >>/count; wc -l </count"
    assert host.good("run", "--name", "again", "box", "sh", "-c", script) == "1\n"
    assert host.good("start", "-a", "again") == "2\n"
    host.good("start", "again")
    host.good("wait", "again")
    assert host.good("logs", "again") == "1\n2\n3\n"
    assert host.good("logs", "-n", "1", "again") == "3\n"
    host.good("rm", "again")


def test_rm_leaves_nothing(host: Host) -> None:
    before = sorted(os.listdir(host.store / "containers"))
    assert host.sh("mkdir -p /a/b; echo x >/a/b/c; chmod 0 /a").returncode == 0
    assert sorted(os.listdir(host.store / "containers")) == before
    assert not os.listdir(host.store / "tmp")


def test_prune_leaves_what_containers_stand_on(host: Host) -> None:
    host.good("run", "--name", "kept", "box", "sh", "-c", "cat /srv/data")
    host.good("cache", "prune", "--all")
    assert host.good("start", "-a", "kept") == "data\n"
    host.good("rm", "kept")


# ---- signals and processes


def test_signals_are_passed_on(host: Host) -> None:
    script = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    with host.start("run", "--rm", "box", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        target = process.pid
        if host.user:  # runuser does not pass it on
            (target,) = [int(p) for p in _children(process.pid)]
        os.kill(target, signal.SIGTERM)
        assert process.stdout.readline() == b"got\n"
        assert process.wait(20) == 7


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_zombies_are_reaped(host: Host) -> None:
    found = host.sh(
        "(sleep 0.05 & sleep 0.05 & true); sleep 0.4; cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true"
    )
    assert found.stdout.strip() in ("", "0")


def test_a_killed_mkroot_leaves_no_process(host: Host) -> None:
    with host.start("run", "--name", "killed", "box", "sh", "-c", "echo up; exec sleep 4321") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        record = json.loads((host.folder_of("killed") / "container.json").read_bytes())
        os.kill(record["supervisor"]["pid"], signal.SIGKILL)
        process.wait(20)
    until(lambda: not os.path.exists(f"/proc/{record['init']['pid']}"))
    (found,) = [c for c in host.containers() if c["name"] == "killed"]
    assert (found["status"], found["exit_code"]) == ("exited", None)
    host.good("rm", "killed")
    with open("/proc/self/mountinfo") as f:
        assert str(host.store) not in f.read()


def test_a_detached_container_is_supervised(host: Host) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"
    found = host.good("run", "-d", "--name", "web", "box", "sh", "-c", script).strip()
    assert len(found) == 64
    assert [c["id"] for c in json.loads(host.good("ps", "--json"))] == [found]
    until(lambda: host.good("logs", found[:6]) == "up\n")
    done = host("exec", "-e", "A=b", "-w", "/srv", "web", "sh", "-c", "echo $A; pwd; id -u; exit 9")
    assert (done.returncode, done.stdout) == (9, "b\n/srv\n0\n")
    assert host("exec", "-i", "-u", "app", "web", "sh", "-c", "cat; id -u", stdin=b"in\n").stdout == "in\n10\n"
    assert host("exec", "web", "nothing").returncode == 127
    for words, said in ((("rm", "web"), "is running"), (("start", "web"), "is running")):
        refused = host(*words)
        assert refused.returncode
        assert said in refused.stderr
    taken = host("run", "--name", "web", "box", "true")
    assert taken.returncode == 125
    assert "taken" in taken.stderr
    host.good("stop", "web")
    (row,) = [c for c in host.containers() if c["name"] == "web"]
    assert (row["status"], row["exit_code"]) == ("exited", 3)
    assert host.good("logs", "web") == "up\nbye\n"
    assert "not running" in host("exec", "web", "true").stderr
    host.good("rm", found[:12])
    assert not [c for c in host.containers() if c["name"] == "web"]


def test_logs_follow(host: Host) -> None:
    host.good("run", "-d", "--name", "talk", "box", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    assert host.good("logs", "-f", "talk") == "1\n2\n3\n"
    host.good("rm", "talk")


def test_memory_is_bounded_or_refused(host: Host) -> None:
    done = host.sh("dd if=/dev/zero of=/dev/null bs=200M count=1 && echo done", "--memory", "32M")
    if done.returncode == 125:
        assert "the memory cannot be bounded here" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (137, "")


# ---- the terminal


def test_a_real_terminal(host: Host) -> None:
    pexpect = pytest.importorskip("pexpect")
    import termios

    words = [*host.command[1:], "run", "--rm", "-it", "-e", "PS1=ready>", "box", "sh"]
    child = pexpect.spawn(
        host.command[0], words, env=host.environ, cwd="/", dimensions=(33, 99), timeout=20, encoding="utf-8"
    )
    before = termios.tcgetattr(child.child_fd)
    child.expect("ready>")
    child.sendline("tty; stty size; echo TERM=$TERM")
    child.expect("/dev/pts/0")
    child.expect("33 99")
    child.expect("TERM=xterm")
    child.expect("ready>")
    child.setwinsize(44, 111)
    child.sendline("sleep 0.2; stty size")
    child.expect("44 111")
    child.expect("ready>")
    child.sendline("sleep 1000")
    child.expect("1000")
    time.sleep(0.3)
    child.sendcontrol("c")
    child.expect("ready>")
    child.sendline("echo was $?")
    child.expect("was 130")
    child.expect("ready>")
    child.sendline("sleep 1000")
    child.expect("1000")
    time.sleep(0.3)
    child.sendcontrol("z")
    child.expect("Stopped")
    child.expect("ready>")
    child.sendline("kill -9 %1; sleep 0.3")
    child.expect("ready>")
    child.sendline("jobs; exit 5")
    child.expect(pexpect.EOF)
    assert termios.tcgetattr(child.child_fd) == before
    child.close()
    assert child.exitstatus == 5


def test_an_image_that_is_not_there_is_pulled(host: Host, tmp_path: Path) -> None:
    from tests.integration.registries import served

    with served(tmp_path / "registry") as registry:
        name = f"{registry.host}/team/box:1"
        host.good("tag", "box", name)
        host.good("push", name)
        host.good("rmi", name)
        refused = host("run", "--rm", "--pull", "never", name, "true")
        assert refused.returncode == 125
        assert "there is no image" in refused.stderr
        assert host.good("run", "--rm", name, "echo", "pulled") == "pulled\n"
        host.good("rmi", name)
