"""Builds through the command line, as users do, with one store for a whole test run; and readers of what came out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MKROOT = Path(sys.executable).parent / "mkroot"
Member = tuple[Any, ...]


def mkroot(
    *words: str | Path,
    store: Path,
    check: bool = True,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    umask: int = -1,
) -> subprocess.CompletedProcess[str]:
    """Run the command line; skip the test where the archive does not answer, fail it where the command failed.

    before: words that the command is handed to. umask: in place of this process's own.
    """
    environ = {**os.environ, "MKROOT_STORE": str(store), **(env or {})}
    command = [*before, MKROOT, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environ, umask=umask)
    if done.returncode and any(t in done.stderr for t in ("does not answer", "cannot be reached", "no mirror of")):
        pytest.skip(f"the archive does not answer: {done.stderr.strip()[-300:]}")
    if check:
        assert done.returncode == 0, done.stderr
    return done


def build(recipe: str | Path, out: Path, store: Path, *words: str, **more: Any) -> dict[str, Any]:
    """Build one recipe and return its JSON description."""
    done = mkroot("build", recipe, "-o", out, "--no-lock", "--json", *words, store=store, **more)
    found: dict[str, Any] = json.loads(done.stdout)["builds"][0]
    return found


def members(path: Path) -> dict[str, Member]:
    """Return a tar archive's members: kind, mode, owners, content or target, xattrs; a hard link as its file."""
    data = path.read_bytes()
    if data[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    found: dict[str, Member] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        for m in t:
            target = t.getmember(m.linkname) if m.islnk() else m
            found[m.name.removeprefix("./").rstrip("/").removeprefix(".")] = _member(t, target)
    return found


def _member(t: tarfile.TarFile, m: tarfile.TarInfo) -> Member:
    kind = {tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link", tarfile.CHRTYPE: "device"}.get(m.type, "file")
    content: object = ""
    if m.isreg():
        content = hashlib.sha256(t.extractfile(m).read()).hexdigest()  # type: ignore[union-attr]
    elif m.issym():
        content = m.linkname
    elif m.isdev():
        content = (m.devmajor, m.devminor)
    xattrs = {k: v for k, v in m.pax_headers.items() if k.startswith("SCHILY.xattr.")}
    return kind, 0o777 if m.issym() else m.mode, m.uid, m.gid, content, xattrs


def differences(ours: Mapping[str, Member], theirs: Mapping[str, Member], explained: Sequence[str]) -> list[str]:
    """Return a line for each path that differs and matches none of the globs."""
    from fnmatch import fnmatchcase

    lines = []
    for path in sorted({*ours, *theirs}):
        a, b = ours.get(path), theirs.get(path)
        if a != b and not any(fnmatchcase("/" + path, glob) for glob in explained):
            lines.append(f"/{path}: here {a}, there {b}")
    return lines


def in_chroot(root: Path, *commands: str) -> str:
    """Run shell commands in an unpacked root with a /dev of its own, and return what they print."""
    script = 'mount --bind /dev "$0/dev" && exec chroot "$0" /bin/sh -ec "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, root, "\n".join(commands)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def unpacked(tar: Path, at: Path) -> Path:
    """Unpack a root with tar, owners and all; needs root."""
    at.mkdir(parents=True)
    subprocess.run(["tar", "--numeric-owner", "-xpf", tar, "-C", at], check=True)
    return at


def needs(*tools: str) -> None:
    """Skip the test where a program is not installed."""
    for tool in tools:
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")


def needs_root() -> None:
    """Skip the test where it is not run as root."""
    if os.geteuid():
        pytest.skip("only root can enter a root with chroot")


def ordinary_user() -> str:
    """Return an ordinary user with subordinate ids that can run mkroot, made where root may; skip otherwise."""
    name = "mkroot-test"
    needs("newuidmap", "runuser")
    needs_root()
    try:
        pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--create-home", name], check=True)
    if name not in Path("/etc/subuid").read_text():
        pytest.skip(f"{name} has no subordinate ids")
    as_user(name)
    return name


def as_user(name: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the words that run mkroot as another user, with nothing of this environment but what is handed in.

    Where that user cannot run this Python, such as one in root's home, the system's of the same release takes its
    place. Skips the test where that user cannot read this checkout either.
    """
    given = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": pwd.getpwnam(name).pw_dir, **(environ or {})}
    own = [str(MKROOT)]
    system = [f"/usr/bin/python3.{sys.version_info.minor}", "-c", "from mkroot.cli.main import entry; entry()"]
    site = Path(sysconfig.get_path("purelib"))
    for words, more in ((own, {}), (system, {"PYTHONPATH": f"{ROOT}:{site}"})):
        env = [f"{k}={v}" for k, v in {**given, **more}.items()]
        command = ["runuser", "-u", name, "--", "env", "-i", *env, *words]
        try:
            if subprocess.run([*command, "schema"], cwd="/", capture_output=True).returncode == 0:
                return command
        except OSError:
            continue
    pytest.skip(f"{name} cannot run this Python or read this checkout")
