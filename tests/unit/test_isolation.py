"""What maintainer scripts and hooks reach of the host in a real build, tried by the scripts themselves: nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.testarchive import Archive, File
from tests.unit.boxes import base, fresh, make_root, python, uid_of
from tests.unit.parents import TOOLS
from tests.unit.probes import PATHS, SHELL, expected, names, program, said, surroundings

SCRIPTS = (
    "00000000a80405fb"  # chown … kill, setgid, setuid, setpcap, net_bind_service, sys_chroot, mknod, audit_write, …
)
ROOT = Path(__file__).parents[2]
_ENTRY = "from mkroot.cli.main import entry; entry()"


@cache
def _archive() -> Archive:
    """Return an archive whose essential package is the host's own dpkg and shell."""
    if shutil.which("dpkg") is None:
        pytest.skip("the host has no dpkg, which is to configure the root")
    archive = Archive(fresh(base()))
    tools = make_root(base() / "probing", [*TOOLS, *SHELL, "setsid", "head", "unshare"])
    files = {str(p.relative_to(tools)): p for p in tools.glob("usr/**/*") if p.is_file() and not p.is_symlink()}
    archive.add(
        "base",
        essential=True,
        compression="none",
        files={path: File(content=p.read_bytes(), mode=0o755) for path, p in files.items()},
        dirs={name: 0o1777 if name == "tmp" else 0o755 for name in ("tmp", "var/log", "root", "etc", "run")},
    )
    return archive


class Builder:
    """Builds as root, as a user with many ids or as one with a single id, in a folder that this user may write to."""

    def __init__(self, kind: str) -> None:
        self.uid = uid_of(kind)
        self.folder = fresh(base())
        self.words = [python(self.uid), "-c", _ENTRY]
        self.environ = {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.folder / "home"),
            "MKROOT_STORE": str(self.folder / "store"),
            "PYTHONPATH": ":".join([str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]),
        }

    def recipe(self, scripts: Mapping[str, str], hook: str = "", **more: Any) -> Path:
        """Return a recipe of a package with these scripts and, if there is one, of a hook with this text."""
        archive = _archive()
        name = f"odd{len(archive.suite('trixie').stanzas)}-{self.folder.name.lower().replace('_', '-')}"
        archive.add(name, files={f"usr/share/{name}": b""}, scripts={n: f"#!/bin/sh\n{t}" for n, t in scripts.items()})
        packages = {"variant": "essential", "include": [name]}
        if hook:
            (self.folder / "hook.sh").write_text(hook)
            more["hooks"] = [{"at": "configured", "run": "./hook.sh", "network": more.pop("network", False)}]
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(archive.recipe(packages=packages, outputs=["tar"], **more)))
        return path

    def start(self, recipe: Path, *words: str, **more: Any) -> subprocess.Popen[str]:
        os.chmod(self.folder, 0o755)
        given = {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        if self.uid is not None:
            os.chown(self.folder, self.uid, self.uid)
        environ = self.environ | more.pop("environ", {})
        command = [*self.words, *words, "build", str(recipe), "-o", str(self.folder / "out"), "--no-lock"]
        return subprocess.Popen(
            command, env=environ, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1, text=True,
            start_new_session=True, **given, **more,
        )  # fmt: skip

    def build(self, recipe: Path, **more: Any) -> tuple[int, str]:
        """Build; return the status, and what stands on standard error."""
        with self.start(recipe, **more) as process:
            try:
                _, err = process.communicate(timeout=100)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if "cannot run" in err and "namespace" in err:
            pytest.skip(err.strip()[-300:])
        return process.returncode, err

    def read(self, path: str) -> str:
        """Return a file of the root that was built."""
        with tarfile.open(self.folder / "out/mini/amd64/rootfs.tar") as tar:
            for name in (path, f"./{path}"):
                if name in tar.getnames():
                    return tar.extractfile(name).read().decode()  # type: ignore[union-attr]
        raise AssertionError(f"{path} is not in the root")

    def clean(self) -> list[str]:
        """Return what a build has left over: files aside, mounts."""
        store = self.folder / "store"
        left = [str(p) for p in (store / "tmp").iterdir()] + [str(p) for p in store.glob("trees-*/.top*")]
        return left + [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(store) in line]


PLACES = ("script of root", "script of mapped", "script of single", "hook of root", "hook of mapped")
Said = Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def reached() -> Callable[[str], Said]:
    """What the probes said where, by kind of user: one build each. A kind that cannot be had says why at `skip`."""
    return cache(_probe)


def _probe(kind: str) -> Said:
    try:
        builder = Builder(kind)
        with surroundings(builder.folder) as host:
            code = Path(__file__).parents[2]
            places = ("store", "out", "recipe.yaml")
            paths = [*(builder.folder / p for p in places), code, Path(sys.executable).resolve()]
            host.paths |= dict(zip(PATHS, paths, strict=True))
            scripts = {"postinst": program(host, "/var/said-script")}
            recipe = builder.recipe(scripts, program(host, "/var/said-hook"))
            given = os.open(host.canary, os.O_RDONLY)
            os.set_inheritable(given, True)
            try:
                status, err = builder.build(recipe, environ=host.environ, pass_fds=(given,))
            finally:
                os.close(given)
            assert status == 0, err
            assert host.found() == []
            assert builder.clean() == []
            return {where: said(builder.read(f"var/said-{where}")) for where in ("script", "hook")}
    except pytest.skip.Exception as e:
        return {"skip": {"why": str(e)}}
    except AssertionError as e:
        return {"fault": {"why": str(e)}}  # once, and not for every probe anew


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", names())
def test_a_script_reaches_nothing(reached: Callable[[str], Said], name: str, place: str) -> None:
    where, _, kind = place.partition(" of ")
    found = reached(kind)
    if "skip" in found:
        pytest.skip(found["skip"]["why"])
    assert "fault" not in found, found["fault"]["why"]
    wanted = expected(name, SCRIPTS, "EPERM")
    assert re.fullmatch(wanted, found[where][name]), f"it said {found[where][name]!r}, and not {wanted!r}"


# ---- how scripts end, and what they say


def _sleeping(mark: str) -> list[str]:
    """Return the processes of this host that sleep for `mark` seconds."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cmdline").read_bytes() == f"sleep\0{mark}\0".encode():
                    found.append(entry.name)
    return found


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("way", ["in the background", "a session of its own", "deaf to signals", "holding its output"])
def test_what_a_script_leaves_running_is_gone(way: str) -> None:
    mark = f"41{os.getpid()}"
    sleeper = {
        "in the background": f"sleep {mark} > /dev/null 2>&1 &",
        "a session of its own": f"setsid sh -c 'sleep {mark} & sleep {mark} &' > /dev/null 2>&1 < /dev/null",
        "deaf to signals": f"(trap '' TERM HUP INT QUIT; sleep {mark}) > /dev/null 2>&1 &",
        "holding its output": f"cd /var; sleep {mark} &",
    }[way]
    builder = Builder("root" if os.geteuid() == 0 else "user")
    postinst = f"{sleeper}\nsleep 0.1; echo yes > /var/began\n"
    status, err = builder.build(builder.recipe({"postinst": postinst}, f"{sleeper}\nsleep 0.1\n"))
    assert status == 0, err
    assert builder.read("var/began") == "yes\n"
    assert _sleeping(mark) == []
    assert builder.clean() == []


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_script_that_never_ends_is_ended_with_the_build(number: int) -> None:
    mark = f"42{os.getpid()}"
    builder = Builder("root" if os.geteuid() == 0 else "user")
    recipe = builder.recipe({}, f"trap '' INT TERM HUP QUIT; while :; do sleep {mark}; done\n")
    with builder.start(recipe) as process:
        try:
            until = time.monotonic() + 60
            while not _sleeping(mark) and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            assert _sleeping(mark), process.stderr and process.stderr.read()
            begin = time.monotonic()
            process.send_signal(number)
            _, err = process.communicate(timeout=20)
            assert time.monotonic() - begin < 2
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert _sleeping(mark) == []
    assert builder.clean() == []


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("where", ["postinst", "hook"])
def test_what_a_script_prints_cannot_steer_the_terminal(where: str) -> None:
    text = "printf 'seen \\033]0;title\\007 \\033[2J \\233\\177 \\r over\\n' >&2\nexit 3\n"
    builder = Builder("root" if os.geteuid() == 0 else "user")
    scripts, hook = ({"postinst": text}, "") if where == "postinst" else ({}, text)
    status, err = builder.build(builder.recipe(scripts, hook))
    assert status == 1
    assert "seen \\x1b]0;title\\x07" in err
    assert not [c for c in err if not c.isprintable() and c != "\n"]
    assert not (builder.folder / "out/mini").exists()


@pytest.mark.counts("hostile")
@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("closes its streams", "exec < /dev/null > /dev/null 2>&1; exec 1>&- 2>&-; sleep 0.2; echo end > /var/end\n"),
        ("prints without an end", "head -c 40000000 /dev/zero; echo; echo end > /var/end\n"),
        ("prints one long line", "head -c 9000000 /dev/zero | cat; echo end > /var/end\n"),
        ("kills what it can", "trap '' TERM; kill -TERM -1 || kill -9 1; echo end > /var/end\n"),
    ],
    ids=lambda value: value if " " in value and "\n" not in value else "",
)
def test_a_script_that_is_odd_harms_itself_alone(case: str, text: str) -> None:
    builder = Builder("root" if os.geteuid() == 0 else "user")
    status, err = builder.build(builder.recipe({}, text))
    assert status == 0, (case, err[-2000:])
    assert len(err) < 20_000
    assert builder.read("var/end") == "end\n"


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("network", [False, True])
def test_a_hook_has_the_network_that_the_recipe_gives_it(network: bool) -> None:
    builder = Builder("root" if os.geteuid() == 0 else "user")
    with surroundings(builder.folder) as host:
        recipe = builder.recipe({}, program(host, "/var/said"), network=network)
        status, err = builder.build(recipe)
        assert status == 0, err
    found = said(builder.read("var/said"))
    assert found["network: a server of the host"] == ("connected" if network else "ECONNREFUSED")
    assert found["network: an abstract socket"] == ("connected" if network else "ECONNREFUSED")
    assert found["network: raw"] == found["network: packets"] == "EPERM"
    assert found["capabilities: bounding"] == SCRIPTS


# ---- without scripts, nothing runs

_WATCHED = """
import os, sys
seen = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def watch(event, arguments):
    if event in ("os.exec", "os.posix_spawn", "subprocess.Popen", "os.system", "os.forkpty"):
        os.write(seen, f"{event} {arguments[0]}\\n".encode())
sys.addaudithook(watch)
from mkroot.cli.main import entry
entry()
"""


@pytest.mark.counts("hostile")
@pytest.mark.parametrize("configure", ["static", "none", "scripts"])
def test_without_scripts_nothing_of_a_package_is_executed(configure: str) -> None:
    if os.geteuid():
        pytest.skip("an ordinary user's build forks before it begins, out of this test's sight")
    builder = Builder("root")
    scripts = {"postinst": "echo ran > /var/ran\n", "preinst": "echo ran > /var/pre\n"}
    builder.words = [sys.executable, "-c", _WATCHED]
    seen = builder.folder / "seen"
    status, err = builder.build(builder.recipe(scripts, configure=configure), environ={"SEEN": str(seen)})
    assert status == 0, err
    if configure == "scripts":  # what the test would see
        assert "os.posix_spawn" in seen.read_text()
        assert builder.read("var/ran") == builder.read("var/pre") == "ran\n"
        return
    assert seen.read_text() == ""
    for path in ("var/ran", "var/pre"):
        with pytest.raises(AssertionError, match="is not in the root"):
            builder.read(path)
