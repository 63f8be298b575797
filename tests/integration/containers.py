"""A host for containers: mkroot as root or as an ordinary user, with a store in which a small image stands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3
import zstandard

import mkroot
from tests.integration.building import needs, needs_root, ordinary_user
from tests.unit.images import add_image, store

_ENTRY = "from mkroot.cli.main import entry; entry()"
_APPLETS = [
    "sh",
    "ls",
    "cat",
    "echo",
    "sleep",
    "id",
    "env",
    "pwd",
    "true",
    "false",
    "ps",
    "kill",
    "touch",
    "mkdir",
    "rm",
]
_APPLETS += [
    "mknod",
    "mount",
    "unshare",
    "stty",
    "tty",
    "head",
    "hostname",
    "find",
    "stat",
    "chown",
    "yes",
    "wc",
    "chmod",
]
_APPLETS += ["nc", "ip", "test", "dd", "ln", "mv", "grep"]
USER = "mkroot-test"
DONE = subprocess.CompletedProcess


def container_user() -> str:
    """Return the name of an ordinary user with subordinate ids; the test is skipped where there is none."""
    needs("newuidmap", "runuser")
    needs_root()
    import pwd

    try:
        pwd.getpwnam(USER)
    except KeyError:
        ordinary_user()
    if USER not in Path("/etc/subuid").read_text():
        pytest.skip(f"{USER} has no subordinate ids")
    return USER


class Host:
    """Runs mkroot with a store of its own. user: an ordinary one, "" for this one."""

    def __init__(self, folder: Path, user: str, runtime: str) -> None:
        self.user, self.folder, self.runtime = user, folder, runtime
        self.store = folder / "store"
        self.environ = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "MKROOT_STORE": str(self.store),
            "TERM": "xterm",
            "MKROOT_RUNTIME": runtime,
        }
        python = sys.executable
        if user:
            # The checkout and its Python may not be readable for another user.
            python = f"/usr/bin/python3.{sys.version_info.minor}"
            if not os.path.exists(python):
                pytest.skip(f"{python} is not installed")
            site = folder / "site"
            site.mkdir()
            modules = [Path(m.__file__ or "") for m in (mkroot, msgspec, urllib3, zstandard)]
            for module in modules:
                shutil.copytree(module.parent, site / module.parent.name, ignore=shutil.ignore_patterns("__pycache__"))
            self.environ["PYTHONPATH"] = str(site)
            subprocess.run([python, "-m", "compileall", "-q", site], check=True)
            subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        self.command = [python, "-c", _ENTRY]
        if user:
            words = [f"{name}={value}" for name, value in self.environ.items()]
            self.command = ["runuser", "-u", user, "--", "env", *words, *self.command]

    def take_over(self) -> None:
        """Give the store to the user."""
        if self.user:
            subprocess.run(["chown", "-R", f"{self.user}:", self.store], check=True)

    def __call__(self, *words: str | Path, stdin: bytes | None = None, timeout: float = 60) -> DONE[str]:
        given: dict[str, Any] = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            [*self.command, *map(str, words)],
            capture_output=True,
            cwd="/",
            env=self.environ,
            timeout=timeout,
            **given,
        )
        return DONE(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def good(self, *words: str | Path, **more: Any) -> str:
        """Run it and return what it prints; it must not fail."""
        done = self(*words, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def sh(self, script: str, *options: str | Path, **more: Any) -> DONE[str]:
        """Run a script in a container that is removed afterwards."""
        return self("run", "--rm", *options, "box", "sh", "-c", script, **more)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start mkroot without waiting for it."""
        return subprocess.Popen(
            [*self.command, *words],
            cwd="/",
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def containers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.good("ps", "-a", "--json"))
        return found

    def folder_of(self, name: str) -> Path:
        """Return a container's folder."""
        (found,) = [c["id"] for c in self.containers() if c["name"] == name]
        return self.store / "containers" / str(found)

    def wrote(self, name: str) -> list[str]:
        """Return what a container's upper folder holds."""
        upper = self.folder_of(name) / "upper"
        return sorted(str(p.relative_to(upper)) for p in upper.rglob("*"))


def box(config: dict[str, Any] | None = None) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return the layers and the config of a small image: busybox, two users, and a layer that changes the one below."""
    needs("busybox")
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    if b"ld-linux" in busybox[:4096]:
        pytest.skip("busybox is not linked statically")
    files: dict[str, Any] = {"bin/busybox": (busybox, 0o755), **{f"bin/{name}": "busybox" for name in _APPLETS}}
    files |= {
        "etc/passwd": b"root:x:0:0::/root:/bin/sh\napp:x:10:20::/srv:/bin/sh\n",
        "etc/group": b"root:x:0:\napp:x:20:\nsound:x:29:app\n",
        "etc/resolv.conf": "../run/stub",
        "etc/old": b"old\n",
        "srv/data": b"data\n",
        "bin/plain": b"no program\n",
        "bin/lost": (b"#!/no/such/interpreter\n", 0o755),
        "tmp/.keep": b"",
    }
    return [files, {"srv/more": b"more\n"}], {"Cmd": ["sh"], "Env": ["PATH=/bin", "KIND=box"], **(config or {})}


def make_host(folder: Path, user: str, runtime: str) -> Host:
    """Return a host with the image `box`, and `app`, which says more in its config."""
    host = Host(folder, user, runtime)
    images = store(folder)
    layers, config = box()
    add_image(images, "box:latest", layers, config=config, removed=["etc/old"])
    more = {"User": "app", "WorkingDir": "/srv/work", "Entrypoint": ["echo", "I am"], "Cmd": ["an app"]}
    add_image(images, "app:latest", layers, config={**config, **more}, removed=["etc/old"])
    host.take_over()
    return host
