"""A disk as a compressed qcow2 image, made by qemu-img from the raw one."""

from __future__ import annotations

import re
from pathlib import Path

from mkroot.artifact.tools import Tools
from mkroot.errors import ArtifactError

_ZSTD_SINCE = (5, 1)  # of QEMU: `compression_type`, docs/interop/qcow2.txt


def write_qcow2(raw: Path, path: Path, tools: Tools) -> None:
    """Write a raw disk image as qcow2 to a new file, 0644: zstd where qemu-img knows it, else zlib.

    The bytes depend on the disk's content and on qemu-img's version, not on the holes of the raw file. Raises
    ArtifactError where qemu-img is missing or fails.
    """
    if path.exists():
        raise ArtifactError("the qcow2 image is there already", where=path.name)
    told, _ = tools.run("qemu-img", ["--version"])
    found = re.search(r"version (\d+)\.(\d+)", told)
    zstd = found is not None and (int(found[1]), int(found[2])) >= _ZSTD_SINCE
    tools.run("qemu-img", [*_OPTIONS, "-o", f"compression_type={'zstd' if zstd else 'zlib'}", *_names(raw, path)])
    path.chmod(0o644)


def _names(raw: Path, path: Path) -> list[str]:
    # Absolute: qemu-img takes what stands before a colon for a protocol.
    return [str(raw.absolute()), str(path.absolute())]


_OPTIONS = ("convert", "-q", "-f", "raw", "-O", "qcow2", "-c")
