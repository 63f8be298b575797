"""The kinds of artifact that need nothing but the root, each with its maker and its file's name."""

from __future__ import annotations

from mkroot.artifact.manifest import Made
from mkroot.artifact.outputs import Bench, Maker

TAR_CODECS = {"tar": "none", "tar.gz": "gzip", "tar.zst": "zstd"}


def makers() -> dict[str, Maker]:
    """Return the makers by kind, as recipes name them."""
    from mkroot.artifact.cpio import make_cpio
    from mkroot.artifact.directory import make_directory
    from mkroot.artifact.erofs import make_erofs
    from mkroot.artifact.ext4 import make_ext4
    from mkroot.artifact.squashfs import make_squashfs

    return {
        "dir": make_directory,
        **{kind: _tar_maker(kind) for kind in TAR_CODECS},
        "cpio.zst": make_cpio,
        "squashfs": make_squashfs,
        "erofs": make_erofs,
        "ext4": make_ext4,
    }


def _tar_maker(kind: str) -> Maker:
    def make_tar(bench: Bench) -> Made:
        name = f"rootfs.{kind}"
        blob = bench.stream(bench.folder / name, TAR_CODECS[kind])
        return Made(kind=kind, name=name, size=blob.size, digest=blob.digest)

    return make_tar
