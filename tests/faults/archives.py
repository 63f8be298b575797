"""Archives whose recipes the faults meet: one that needs no script, and one whose scripts run in the sandbox."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from tests.testarchive import Archive, File
from tests.unit.commands import small_archive
from tests.unit.parents import base_tar

STATIC: dict[str, Any] = {
    "packages": {"variant": "none", "include": ["tool", "base"]},
    "configure": "static",
    "outputs": ["tar.zst", "oci", "dir", "cpio.zst"],
}
SCRIPTED: dict[str, Any] = {
    "packages": {"variant": "none", "include": ["dpkg", "app"]},
    "outputs": ["tar.zst", "oci"],
}
POSTINST = "#!/bin/sh\necho $0 $* >> /var/log.txt\ncat /usr/share/app/text > /etc/app.conf\n"


def static_archive(folder: Path) -> Archive:
    """Return an archive of three small packages."""
    return small_archive(folder)


def scripted_archive(folder: Path) -> Archive:
    """Return an archive whose `dpkg` has the host's own tools, and whose `app` has a script that reads its file."""
    folder.mkdir(parents=True, exist_ok=True)
    base_tar(folder / "base.tar")
    files: dict[str, Any] = {}
    with tarfile.open(folder / "base.tar") as tar:
        for member in tar:
            if member.isreg() and not member.name.startswith("var/lib/dpkg"):
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                files[member.name] = File(content=content, mode=member.mode)
    archive = Archive(folder)
    links = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
    archive.add("dpkg", "1.22", essential=True, files=files, symlinks=links, dirs={"tmp": 0o1777})
    archive.add("app", "1.0", files={"usr/share/app/text": b"text\n"}, scripts={"postinst": POSTINST})
    return archive
