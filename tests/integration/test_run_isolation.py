"""What a container reaches of the host, tried from inside: nothing that it was not given."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.integration.building import needs, needs_root, ordinary_user
from tests.integration.containers import Host, make_host
from tests.unit.boxes import base, make_root
from tests.unit.images import add_image, store
from tests.unit.probes import PATHS, SHELL, expected, names, program, said, surroundings

CONTAINERS = "00000000a80425fb"  # Docker's: those of scripts, and net_raw
HOSTS = ("root", "ordinary user", "root, crun", "ordinary user, crun")
Said = Mapping[str, str]


@contextmanager
def made(who: str) -> Iterator[Host]:
    """Make a host with the images `box` and `probe`, which has Perl; skip where it cannot be had."""
    name, _, runtime = who.partition(", ")
    if runtime:
        needs(runtime)
    needs_root()
    user = "" if name == "root" else ordinary_user()
    folder = Path(tempfile.mkdtemp(prefix="mkroot-isolation."))  # pytest's own folders are for its user alone
    folder.chmod(0o755)
    try:
        host = make_host(folder, user, runtime)
        tools = make_root(base() / "probing-run", [*SHELL, "unshare", "setsid"])
        files = {str(p.relative_to(tools)): p for p in tools.glob("usr/**/*") if p.is_file() and not p.is_symlink()}
        inside = {path: (p.read_bytes(), 0o755) for path, p in files.items()}
        links = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
        users = {"etc/passwd": b"root:x:0:0::/root:/bin/sh\napp:x:10:20::/:/bin/sh\n", "tmp/.keep": b""}
        evil = {"usr/bin/suid": (b"#!/bin/sh\n", 0o4755), "evil": "/etc", "out": "/../../../../../../tmp"}
        layer = {**inside, **links, **users, **evil}
        add_image(store(folder), "probe:latest", [layer], config={"Env": ["PATH=/usr/bin:/usr/sbin"], "Cmd": ["sh"]})
        host.take_over()
        (folder / "writable").mkdir(mode=0o777)
        (folder / "writable").chmod(0o777)
        tried = host("run", "--rm", "box", "true")
        if tried.returncode and "cannot be run" in tried.stderr:
            pytest.skip(tried.stderr.strip())
        yield host
        host("rm", "-f", "--all")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with made(request.param) as host:
        yield host


def probed(host: Host, *options: str) -> Said:
    """Return what the probes say in a container of this host."""
    with surroundings(host.folder) as around:
        code = Path(__file__).parents[2]
        places = ("store", "writable", "site")
        paths = [*(host.folder / p for p in places), code, Path(sys.executable).resolve()]
        around.paths |= dict(zip(PATHS, paths, strict=True))
        script = program(around, "/dev/shm/said") + "cat /dev/shm/said\n"
        given = os.open(around.canary, os.O_RDONLY)
        os.set_inheritable(given, True)
        words = ["run", "--rm", "--network", "none", *options, "probe", "sh", "-c", script]
        try:
            done = subprocess.run(
                [*host.command, *words], env=host.environ | around.environ, cwd="/", pass_fds=(given,),
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
            )  # fmt: skip
        finally:
            os.close(given)
        assert done.returncode == 0, done.stderr
        assert around.found() == []
        return said(done.stdout)


@cache
def _reached(place: str) -> Said:
    who, _, user = place.partition(" as ")
    try:
        with made(who) as host:
            return probed(host, *(("-u", user) if user else ()))
    except pytest.skip.Exception as e:
        return {"skip": str(e)}
    except (AssertionError, subprocess.TimeoutExpired) as e:
        return {"fault": str(e)[-2000:]}  # once, and not for every probe anew


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("place", [*HOSTS, "root as app"])
@pytest.mark.parametrize("name", names())
def test_a_container_reaches_nothing(name: str, place: str) -> None:
    found = _reached(place)
    if "skip" in found:
        pytest.skip(found["skip"])
    assert "fault" not in found, found["fault"]
    app = place.endswith(" as app")
    capabilities = "0" * 16 if app and "bounding" not in name else CONTAINERS
    wanted = expected(name, capabilities, "EPERM" if app else "opened", r"\S+")
    assert re.fullmatch(wanted, found[name]), f"it said {found[name]!r}, and not {wanted!r}"


# ---- what it is given, and no more


@pytest.mark.counts("hostile")
def test_a_further_command_is_no_freer_than_the_first(host: Host) -> None:
    host.good("run", "-d", "--name", "first", "box", "sleep", "60")
    status = host.good("exec", "first", "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["CapBnd"] == fields["CapEff"] == CONTAINERS
    assert fields["Seccomp"] == "2"
    found = host.good("exec", "first", "sh", "-c", "ls /proc/self/fd | wc -l; ls /proc/1/root 2>&1 | grep -c denied")
    assert found.split() == ["4", "1"]
    host.good("rm", "-f", "first")


@pytest.mark.counts("hostile")
def test_the_program_that_starts_it_cannot_be_changed(host: Host) -> None:
    """An image whose command is /proc/self/exe runs the host's own file (CVE-2019-5736): read-only at least."""
    if host.runtime:
        pytest.skip("crun sees to it itself; it runs a read-only mount of its own file")
    python = os.path.realpath(host.command[-3] if host.user else host.command[0])
    prefix = str(Path(python).parents[1])
    script = "import os; os.chmod('/proc/self/exe', os.stat('/proc/self/exe').st_mode & 0o7777)"
    shown = [p for p in {prefix, "/usr/lib", "/lib", "/lib64"} if os.path.isdir(p)]
    words = [word for path in shown for word in ("-v", f"{path}:{path}:ro")]
    libraries = sysconfig.get_config_var("LIBDIR") or ""
    words += ["-e", f"PYTHONHOME={prefix}", "-e", f"LD_LIBRARY_PATH={libraries}"]
    before = os.stat(python)
    done = host("run", "--rm", *words, "box", "/proc/self/exe", "-S", "-c", script)
    assert done.returncode == 1, done.stderr
    assert "Read-only file system: '/proc/self/exe'" in done.stderr
    assert os.stat(python).st_ctime_ns == before.st_ctime_ns


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("folder", ["/dev", "/tmp", "/dev/shm", "/given"])
def test_no_device_opens_but_those_of_dev(host: Host, folder: str) -> None:
    given = host.folder / "writable"
    done = host.sh(
        f"mknod {folder}/n c 1 3; echo x > {folder}/n; head -c 1 {folder}/n; ls -l {folder}/n; rm -f {folder}/n",
        "-v", f"{given}:/given",
    )  # fmt: skip
    if "c 1 3" in done.stdout or re.search(r"^c", done.stdout):
        assert done.stderr.count("ermission denied") == 2, done.stderr
    else:
        assert "not permitted" in done.stderr
    assert os.listdir(given) == []


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("option", ["evil/x", "out/x", "etc/../../x"])
def test_a_volume_lands_inside_whatever_the_image_links_to(host: Host, option: str) -> None:
    done = host("run", "--rm", "-v", f"{host.folder / 'writable'}:/{option}", "probe", "sh", "-c", "cat /proc/mounts")
    if ".." in option:
        assert done.returncode == 2
        assert "no place for a mount" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert f" /{'etc' if option.startswith('evil') else 'tmp'}/x " in done.stdout
    assert not os.path.lexists("/etc/x")
    assert not os.path.lexists("/tmp/x")


@pytest.mark.counts("hostile")
def test_a_read_only_volume_stays_so(host: Host) -> None:
    script = "echo x > /given/no; mount -o remount,rw /given; umount /given; echo x > /given/no; rmdir /given"
    done = host.sh(script, "-v", f"{host.folder / 'writable'}:/given:ro")
    assert done.returncode != 0
    assert done.stderr.count("Read-only file system") == 2, done.stderr
    assert os.listdir(host.folder / "writable") == []


@pytest.mark.counts("hostile")
def test_nobody_else_gets_at_what_a_container_or_an_image_holds(host: Host) -> None:
    """A set-user-id program made in there as root would make another user of the host root."""
    host.good("run", "--name", "mine", "probe", "sh", "-c", "cat /usr/bin/suid > /own && true")
    folders = [*host.store.glob("trees-*"), host.folder_of("mine")]
    assert len(folders) >= 2
    for folder in folders:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    (program,) = host.store.glob("trees-*/*/*/usr/bin/suid")
    assert program.stat().st_mode & stat.S_ISUID
    for path in (program, host.folder_of("mine") / "upper/own", host.folder_of("mine") / "container.json"):
        done = subprocess.run(["runuser", "-u", "nobody", "--", "cat", path], capture_output=True, text=True, cwd="/")
        assert "Permission denied" in done.stderr
    host.good("rm", "mine")


@pytest.mark.counts("hostile")
def test_copies_stay_inside_a_container_that_links_out(host: Host) -> None:
    outside = host.folder / "writable"
    (host.folder / "secret").write_text("secret\n")
    (host.folder / "plain").write_text("plain\n")
    links = f"ln -s {host.folder}/secret /link; ln -s {outside} /folder; ln -s /proc/1/root /up"
    host.good("run", "--name", "links", "box", "sh", "-c", links)
    done = host("cp", "links:/link", str(host.folder / "store/got"))
    got = host.folder / "store/got"
    assert done.returncode == 1 or os.path.islink(got)
    done = host("cp", str(host.folder / "plain"), "links:/folder/plain")
    assert os.listdir(outside) == []
    host.good("rm", "links")


def test_the_hosts_servers_are_reached_with_its_network(host: Host) -> None:
    """The default, as the documentation says; `test_a_container_reaches_nothing` has `--network none`."""
    with surroundings(host.folder) as around:
        script = program(around, "/dev/shm/said") + "cat /dev/shm/said\n"
        done = host("run", "--rm", "probe", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    found = said(done.stdout)
    for name in ("network: a server of the host", "network: an abstract socket"):
        assert found[name] == "connected"


@pytest.mark.counts("hostile")
def test_what_a_container_leaves_running_is_gone(host: Host) -> None:
    mark = f"43{os.getpid()}"
    ways = f"sleep {mark} & (setsid sleep {mark} &); (trap '' TERM HUP INT; sleep {mark}) &"
    done = host(
        "run", "--rm", "probe", "sh", "-c", f"({ways}) > /dev/null 2>&1; sleep 0.2; echo up; exit 7", timeout=20
    )
    assert (done.stdout, done.returncode) == ("up\n", 7)
    assert subprocess.run(["pgrep", "-fx", f"sleep {mark}"], capture_output=True).stdout == b""
