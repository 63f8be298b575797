"""A parent image with the host's own dpkg in it, small enough to be made for a test."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from mkroot.debian.deb822 import stanzas
from tests.unit.commands import Program

_TOOLS = """dpkg dpkg-deb dpkg-split dpkg-query dpkg-divert dpkg-trigger update-alternatives sh tar cat cp mv rm ls
mkdir rmdir ln touch true diff start-stop-daemon ldconfig"""
TOOLS = _TOOLS.split()


def base_tar(path: Path, status: str = "", files: dict[str, bytes] | None = None) -> None:
    """Write a root of the host's tools with a dpkg database of its own; skip where the host has none."""
    tools = {name: shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin") for name in TOOLS}
    if tools["dpkg"] is None:
        pytest.skip("the host has no dpkg, which the parent is to have")
    found = [t for t in tools.values() if t]
    listed = subprocess.run(["ldd", *found], stdout=subprocess.PIPE, check=False).stdout.decode()
    libraries = sorted(set(re.findall(r"(/lib\S+) \(", listed)))
    folders = ("usr/bin", "usr/sbin", "usr/lib", "etc/alternatives", "tmp", "var/log", "run", "var/cache")
    dpkg = ("info", "updates", "triggers", "parts", "alternatives")
    with tarfile.open(path, "w") as tar:

        def add(
            name: str, content: bytes = b"", mode: int = 0o644, kind: bytes = tarfile.REGTYPE, to: str = ""
        ) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.size = kind, mode, to, len(content)
            info.mtime = 1_600_000_000
            tar.addfile(info, io.BytesIO(content))

        made: set[str] = set()
        inside = {re.sub(r"^/(bin|sbin|lib|lib64)/", r"/usr/\1/", p).lstrip("/"): p for p in [*found, *libraries]}
        for folder in sorted({*folders, *(f"var/lib/dpkg/{d}" for d in dpkg), *map(os.path.dirname, inside)}):
            parts = folder.split("/")
            for n in range(1, len(parts) + 1):
                one = "/".join(parts[:n])
                if one not in made:
                    made.add(one)
                    add(one, mode=0o755, kind=tarfile.DIRTYPE)
        for name in ("bin", "sbin", "lib", "lib64"):
            add(name, kind=tarfile.SYMTYPE, to=f"usr/{name}")
        for place, source in sorted(inside.items()):
            add(place, Path(source).read_bytes(), 0o755)
        rest = {
            "var/lib/dpkg/status": status.encode(),
            "var/lib/dpkg/available": b"",
            "etc/passwd": b"root:x:0:0::/root:/bin/sh\n",
            "etc/group": b"root:x:0:\n",
            "etc/os-release": b"ID=debian\nVERSION_ID=13\n",
            **(files or {}),
        }
        for name, content in rest.items():
            add(name, content)


def installed(program: Program, reference: str) -> dict[str, tuple[str, str]]:
    """Return what dpkg's database of an image says: state and version by name."""
    program("export", reference, "root.tar")
    with tarfile.open(program.folder / "root.tar") as tar:
        text = tar.extractfile("var/lib/dpkg/status").read()  # type: ignore[union-attr]
    found = {}
    for stanza in stanzas(text):
        fields = dict(line.split(": ", 1) for line in stanza.decode().splitlines() if ": " in line)
        found[fields["Package"]] = (fields["Status"].split()[-1], fields["Version"])
    return found
