"""The root as a squashfs image, made by sqfstar from the tar stream."""

from __future__ import annotations

from pathlib import Path

from mkroot.artifact.manifest import Made
from mkroot.artifact.outputs import Bench
from mkroot.digest import oci, sha256_file
from mkroot.errors import ArtifactError
from mkroot.tar.entry import DIR, Entry

NAME = "rootfs.squashfs"
FORMAT = "1"  # of how it is made here; part of what it is kept under
BLOCK_SIZE = 131072


def make_squashfs(bench: Bench) -> Made:
    """Write `rootfs.squashfs`, zstd; raises ArtifactError where sqfstar is missing or fails."""
    path = bench.folder / NAME
    write_squashfs(bench, path)
    return Made(kind="squashfs", name=NAME, size=path.stat().st_size, digest=oci(sha256_file(path)))


def write_squashfs(bench: Bench, path: Path) -> None:
    """Write a squashfs image to a new file; see make_squashfs.

    sqfstar leaves out the root folder of a tar archive, so its mode and owner are given apart; its time is the epoch,
    because 4.5.1 takes the clock's whatever -root-time says, and only SOURCE_DATE_EPOCH bounds that. It also takes the
    owner from the process whatever -root-uid says: hence `as_root`.
    """
    root = next((e for e in bench.entries() if not e.path), Entry("", DIR, 0o755, mtime=bench.epoch))
    try:
        sqfstar = "sqfstar"
        bench.tools.find(sqfstar)
    except ArtifactError as e:
        raise ArtifactError(
            "the tool sqfstar is not installed",
            hint="install the Debian package squashfs-tools, version 4.5 or newer: `apt-get install squashfs-tools`",
        ) from e
    bench.kept(["squashfs", FORMAT, bench.tools.identity(sqfstar)], path, lambda: _make(bench, path, root))


def _make(bench: Bench, path: Path, root: Entry) -> None:
    arguments = [
        "-quiet", "-no-progress", "-exit-on-error", "-reproducible",
        "-comp", "zstd",  # at its default level, 15: sqfstar 4.5.1 reads no -Xcompression-level
        "-b", str(BLOCK_SIZE),
        "-root-mode", f"{root.mode:o}",
        "-root-uid", str(root.uid), "-root-gid", str(root.gid),
        str(path),
    ]  # fmt: skip
    environ = {"SOURCE_DATE_EPOCH": str(bench.epoch)}
    bench.tools.run("sqfstar", arguments, stdin=bench.assembly.raw(), environ=environ, as_root=True)
    path.chmod(0o644)
