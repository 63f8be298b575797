"""Runs code as root, as a user with many ids and as one with a single id, on a small root of the host's tools."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parents[2]
_TOOLS = """sh cat chown chgrp chmod cp head id ln ls mkdir mknod mv readlink rm rmdir sleep stat sync touch true
uname"""
TOOLS = _TOOLS.split()
LONE = 64123  # an id that no user has, and so none in /etc/subuid

_PRELUDE = """
import json, os, sys, time, shutil, signal
from pathlib import Path
from mkroot.rootfs import identity as identities
me = identities.assume()
signal.alarm(50)  # nothing hangs
from mkroot.rootfs import linux, sandbox, union, upper
from mkroot.rootfs.sandbox import Sandbox
from mkroot.errors import MkrootError, SandboxError
from tests.unit.boxes import make_root, fresh
base = Path(sys.argv[1])
def emit(**values):
    print(json.dumps(values, default=repr), flush=True)
def root():
    return make_root(base / f"root-{me.tag}")
def work():
    return fresh(base)
def box(at, **options):
    return Sandbox(at, identity=me, epoch=1700000000, **options)
def union_of(*lowers, at=None):
    at = at or work()
    made = union.mount_union(at / "at", lowers, at / "upper", at / "work", namespaced=me.namespaced)
    assert made.mounted, made.why_not
    return made
"""


@cache
def base() -> Path:
    """Return a folder that every user may write to, for the time of the tests."""
    folder = Path(tempfile.mkdtemp(prefix="mkroot-test-", dir="/var/tmp"))
    os.chmod(folder, 0o1777)
    owner = os.getpid()
    atexit.register(lambda: _remove(folder) if os.getpid() == owner else None)
    return folder


def _remove(folder: Path) -> None:
    if os.geteuid() != 0:  # what belongs to subordinate ids goes from inside the namespace that owns them
        with suppress(Exception):
            run("user", "for entry in base.iterdir(): shutil.rmtree(entry, ignore_errors=True)\nemit()")
    shutil.rmtree(folder, ignore_errors=True)


def fresh(folder: Path) -> Path:
    """Return a new empty folder in `folder`."""
    made = Path(tempfile.mkdtemp(dir=folder))
    os.chmod(made, 0o755)
    return made


def make_root(folder: Path, names: Sequence[str] = TOOLS) -> Path:
    """Make a small root with a shell, some tools and their libraries, if it is not there yet, and return it."""
    if folder.exists():
        return folder
    aside = folder.with_name(f"{folder.name}.{os.getpid()}")
    for name in ("usr/bin", "usr/sbin", "etc", "tmp", "dev", "proc", "sys", "run", "root", "var/lib"):
        (aside / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        os.symlink(f"usr/{name}", aside / name)
    tools = [path for name in names if (path := shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin"))]
    listed = subprocess.run(["ldd", *tools], stdout=subprocess.PIPE, check=False).stdout.decode()
    libraries = sorted(set(re.findall(r"(/lib\S+) \(", listed)))
    for path in [*tools, *libraries]:
        inside = re.sub(r"^/(bin|sbin|lib|lib64)/", r"/usr/\1/", path).lstrip("/")
        (aside / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, aside / inside)
        os.chmod(aside / inside, 0o755)
    (aside / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nwww:x:33:33::/:/bin/sh\n")
    (aside / "etc/group").write_text("root:x:0:\nwww:x:33:\n")
    for path in [aside, *aside.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            os.chmod(path, 0o755)
    os.chmod(aside / "tmp", 0o1777)
    with suppress(OSError):
        os.rename(aside, folder)
    return folder


@cache
def _user() -> int:
    """Return the id of a user with subordinate ids, made for these tests."""
    name = f"mkroot{os.getpid()}"
    made = subprocess.run(["useradd", "-M", "-d", "/nonexistent", name], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no user can be made here: {made.stderr.decode().strip()}")
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            subprocess.run(["userdel", name], capture_output=True, check=False)

    atexit.register(remove)
    if not any(line.startswith(f"{name}:") for line in Path("/etc/subuid").read_text().splitlines()):
        pytest.skip("useradd gives no subordinate ids here")
    return int(subprocess.run(["id", "-u", name], capture_output=True, check=True).stdout)


def _environment() -> dict[str, str]:
    paths = [str(HERE), *(p for p in sys.path if p.endswith("site-packages"))]
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


@cache
def python(uid: int | None) -> str:
    """Return a Python that this user may run and that finds mkroot."""
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}", "/usr/bin/python3"):
        with suppress(OSError):
            tried = subprocess.run(
                [candidate, "-c", "import mkroot.rootfs.sandbox"],
                env=_environment(),
                capture_output=True,
                check=False,
                **_as(uid),
            )
            if tried.returncode == 0:
                return candidate
    pytest.skip("another user cannot run this Python, and the system's lacks what mkroot needs")


def _as(uid: int | None) -> dict[str, Any]:
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}


def uid_of(kind: str) -> int | None:
    """Return as which user to run for an identity of this kind; None: as this one. Skips where it cannot be had."""
    if kind == "user":
        return None
    if os.geteuid() == 0:
        return {"root": lambda: None, "mapped": _user, "single": lambda: LONE}[kind]()
    if kind != own_kind():
        pytest.skip(f"as an ordinary user with the identity {own_kind()!r}, {kind!r} cannot be had")
    return None


@cache
def own_kind() -> str:
    """Return the kind of identity that this user gets."""
    return str(run("user", "emit(kind=me.kind)")["kind"])


def start(kind: str, code: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start code as a user of this kind; `me`, `root()`, `work()`, `box()`, `union_of()` and `emit()` are at hand."""
    uid = uid_of(kind)
    script = fresh(base()) / "script.py"
    script.write_text(_PRELUDE + code)
    words = [python(uid), str(script), str(base())]
    return subprocess.Popen(words, env=_environment(), stdin=subprocess.DEVNULL, cwd="/", **_as(uid), **options)


def run(kind: str, code: str, timeout: int = 60) -> dict[str, Any]:
    """Run code as a user of this kind and return what it emitted; skips where the identity cannot be had."""
    process = start(kind, f"assert me.kind == {kind!r} or {kind!r} == 'user', me\n" + code, stdout=-1, stderr=-1)
    out, err = process.communicate(timeout=timeout)
    if b"AssertionError: Identity(kind='none'" in err:
        pytest.skip(err.decode().strip().splitlines()[-1])
    assert process.returncode == 0, err.decode() + out.decode()
    return dict(json.loads(out.splitlines()[-1]))


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Kill the process at the end of a test that failed half-way."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


KINDS = pytest.mark.parametrize("kind", ["root", "mapped", "single"])
