"""mkroot's own initramfs: busybox, a small init, and exactly the modules that a machine needs to mount its root."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.resources import files

import msgspec

from mkroot.artifact.cpio import newc
from mkroot.boot.kernel import FILESYSTEMS, Kernel
from mkroot.boot.modules import Closure, closure
from mkroot.errors import BootError
from mkroot.rootfs.tree import Tree
from mkroot.tar.entry import CHAR, DIR, FILE, HARDLINK, SYMLINK, Entry, parent

FORMAT = "1"  # of how it is made here; part of what it is kept under
LEVEL = 19  # zstd's; what an initramfs costs is read at each boot and packed once
_GZIP_LEVEL = 12  # libdeflate's highest
BUSYBOX = "usr/bin/busybox"
# What init runs, and what one misses first in its shell. The shell itself knows all of busybox' applets.
APPLETS = (
    "cat", "cttyhack", "dmesg", "du", "hexdump", "insmod", "losetup", "ls", "mkdir", "mount", "poweroff", "reboot",
    "setsid", "sh", "sleep", "switch_root", "tr", "umount", "usleep",
)  # fmt: skip
# What a live medium may stand on: CD and disk drives of real and virtual machines, as far as the kernel has them.
MEDIA = (
    "virtio_pci", "virtio_blk", "virtio_scsi", "ahci", "ata_piix", "nvme", "xhci_pci", "ehci_pci", "usb_storage", "uas",
    "sd_mod", "sr_mod",
)  # fmt: skip
_FOLDERS = ("bin", "dev", "modules", "proc", "root", "run", "sys")


class Initramfs(msgspec.Struct, frozen=True, kw_only=True):
    """An initramfs. data: as the kernel reads it. raw: its bytes uncompressed. codec: zstd, gzip or none.

    modules: in the order in which init loads them. firmware, missing_firmware: names, of files that are in it and of
    files that modules name and the tree lacks. left_out: drivers for a live medium that the kernel does not have.
    """

    data: bytes
    raw: int
    codec: str
    modules: tuple[str, ...]
    firmware: tuple[str, ...]
    missing_firmware: tuple[str, ...]
    left_out: tuple[str, ...]


def make_initramfs(
    tree: Tree,
    kernel: Kernel,
    *,
    drivers: Sequence[str],
    filesystem: str,
    overlay: bool,
    live: bool,
    epoch: int,
    tools: Tree | None = None,
) -> Initramfs:
    """Return the initramfs with which a kernel mounts its root; the same arguments give the same bytes.

    tree: the root that has the kernel's modules and firmware. drivers: modules for the machine's disk. filesystem: of
    the root, ext4, squashfs or erofs. overlay: the root goes under an overlay in memory. live: the root is an image on
    an ISO 9660 medium, under an overlay. epoch: the time of all files, seconds. tools: the tree that has busybox where
    it is not the root. Raises BootError where a driver or a static busybox is missing.
    """
    if filesystem not in FILESYSTEMS:
        raise BootError(
            f"mkroot's initramfs cannot mount a root of kind {filesystem}",
            where="disk.root",
            hint=f"take one of {', '.join(FILESYSTEMS)}, or `initramfs: distro`",
        )
    wanted = [*drivers, filesystem]
    if overlay or live:
        wanted.append("overlay")
    if live:
        wanted += ["loop", "isofs"]
    needed = closure(tree, kernel, wanted, MEDIA if live else ())
    raw = b"".join(_archive(needed, _busybox(tools or tree), epoch))
    codec = codec_of(kernel)
    return Initramfs(
        data=compress(raw, codec),
        raw=len(raw),
        codec=codec,
        modules=tuple(m.name for m in needed.modules),
        firmware=tuple(name for name, _ in needed.firmware),
        missing_firmware=needed.missing_firmware,
        left_out=needed.left_out,
    )


def codec_of(kernel: Kernel) -> str:
    """Return how an initramfs is packed for a kernel: zstd, gzip or none.

    A kernel whose configuration is not known gets gzip, which every distribution's reads.
    """
    if kernel.config.get("CONFIG_RD_ZSTD") == "y":
        return "zstd"
    return "gzip" if not kernel.config or kernel.config.get("CONFIG_RD_GZIP") == "y" else "none"


def compress(raw: bytes, codec: str) -> bytes:
    """Pack an archive as Linux wants it: one frame, and the archive ends where the frame ends."""
    if codec == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=LEVEL, threads=0).compress(raw)
    if codec == "gzip":
        import deflate

        return bytes(deflate.gzip_compress(raw, _GZIP_LEVEL))
    return raw


def init_script() -> bytes:
    """Return the program that the kernel starts in the initramfs."""
    return files("mkroot.boot").joinpath("init").read_bytes()


def _busybox(tree: Tree) -> bytes:
    """Return busybox of a tree; raises BootError where it is missing or needs libraries."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    hint = "add the package busybox-static, which mkroot's initramfs is made of"
    entry = tree.get(BUSYBOX)
    if entry is None or entry.kind not in (FILE, HARDLINK):
        raise BootError(f"there is no /{BUSYBOX} for the initramfs", where="boot.initramfs: mkroot", hint=hint)
    data = tree.read(BUSYBOX)
    try:
        kinds = {segment["p_type"] for segment in ELFFile(io.BytesIO(data)).iter_segments()}
    except (ELFError, ValueError, LookupError, OverflowError, AttributeError, TypeError) as e:
        raise BootError(f"not a program: {e or type(e).__name__}", where=f"/{BUSYBOX}", hint=hint) from e
    if "PT_INTERP" in kinds:
        raise BootError(
            "busybox needs shared libraries, which an initramfs does not have",
            where=f"/{BUSYBOX}",
            hint="replace the package busybox by busybox-static",
        )
    return data


def _archive(needed: Closure, busybox: bytes, epoch: int) -> list[bytes]:
    """Return the newc archive in pieces."""
    contents = {"init": (init_script(), 0o755), "bin/busybox": (busybox, 0o755)}
    contents |= {f"modules/{m.name}.ko": (m.data, 0o644) for m in needed.modules}
    contents["modules/load"] = ("".join(f"{m.name}\n" for m in needed.modules).encode(), 0o644)
    contents |= {f"lib/firmware/{name}": (data, 0o644) for name, data in needed.firmware}
    folders = {"", *_FOLDERS}
    for path in contents:
        while path := parent(path):
            folders.add(path)
    entries = [Entry(path, DIR, 0o755, mtime=epoch) for path in folders]
    entries += [Entry(p, FILE, mode, mtime=epoch, size=len(data)) for p, (data, mode) in contents.items()]
    entries += [Entry(f"bin/{name}", SYMLINK, 0o777, mtime=epoch, link="busybox") for name in APPLETS]
    entries.append(Entry("dev/console", CHAR, 0o600, mtime=epoch, device=(5, 1)))  # init's first standard output
    entries.sort(key=lambda e: e.path.split("/"))
    return list(newc(entries, ((e, contents[e.path][0] if e.kind == FILE else b"") for e in entries)))
