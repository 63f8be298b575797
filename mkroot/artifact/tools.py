"""How a file-system maker is run: from the host, or by whatever stands in its place."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mkroot.digest import sha256_file
from mkroot.errors import ArtifactError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # an ordinary user's own often lacks sbin
PACKAGES = {  # the Debian package that has a tool
    "mksquashfs": "squashfs-tools",
    "sqfstar": "squashfs-tools",
    "mkfs.erofs": "erofs-utils",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "mformat": "mtools",
    "mmd": "mtools",
    "mcopy": "mtools",
    "qemu-img": "qemu-utils",
    "unshare": "util-linux",
}


class Tools(Protocol):
    """Runs tools by name."""

    def find(self, name: str) -> str:
        """Return what `name` is run as; raises ArtifactError naming the package to install."""
        ...

    def identity(self, name: str) -> str:
        """Return what tells the tool from another release of it; raises ArtifactError."""
        ...

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        stdin: Iterable[bytes] = (),
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        as_root: bool = False,
    ) -> tuple[str, str]:
        """Run a tool to its end and return what it wrote on standard output and standard error.

        environ: what it sees besides PATH, locale and time zone. as_root: it must see itself as user 0.
        Raises ArtifactError with the tool's own words where it fails.
        """
        ...


class HostTools:
    """The tools of this machine, with nothing of the caller's environment but what is handed in."""

    def __init__(self, path: str | None = None) -> None:
        """path: folders to search; default: the usual ones, then the caller's."""
        self._path = path if path is not None else PATH + ":" + os.environ.get("PATH", "")

    def find(self, name: str) -> str:
        """See Tools.find."""
        found = shutil.which(name, path=self._path)
        if found is None:
            package = PACKAGES.get(name)
            hint = f"install the Debian package {package}: `apt-get install {package}`" if package else None
            raise ArtifactError(f"the tool {name} is not installed", hint=hint)
        return found

    def identity(self, name: str) -> str:
        """See Tools.identity: the program's digest, for not every one has an option that tells its version."""
        return sha256_file(Path(self.find(name)))

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        stdin: Iterable[bytes] = (),
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        as_root: bool = False,
    ) -> tuple[str, str]:
        """See Tools.run; an ordinary user becomes user 0 of a user namespace."""
        command = [self.find(name), *arguments]
        if as_root and os.geteuid() != 0:
            command = [self.find("unshare"), "--user", "--map-root-user", *command]
        env = {"PATH": self._path, "LC_ALL": "C.UTF-8", "TZ": "UTC", **(environ or {})}
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err, env=env, cwd=cwd)
            try:
                assert process.stdin is not None
                try:
                    for data in stdin:
                        process.stdin.write(data)
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # it ended early; its status and its words say why
                status = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            out.seek(0)
            err.seek(0)
            told = out.read().decode("utf-8", "backslashreplace"), err.read().decode("utf-8", "backslashreplace")
        if status:
            words = last_words(told[1] or told[0])
            if os.strerror(errno.ENOSPC) in told[1]:
                raise ArtifactError(
                    f"the disk is full: {name} could not write its output",
                    hint="make room there, or choose another folder with `-o DIR`",
                )
            closed = as_root and words.startswith("unshare:")
            hint = "user namespaces must be allowed here, or build as root; `mkroot doctor` tells" if closed else None
            raise ArtifactError(f"{name} failed with status {status}: {words}", hint=hint)
        return told


def last_words(text: str) -> str:
    """Return the last lines of what a tool said."""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return "; ".join(lines[-3:]) or "it said nothing"
