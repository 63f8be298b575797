"""GRUB's images for BIOS, told where on the disk they lie.

The offsets are those of GRUB 2.06 and 2.12: include/grub/i386/pc/boot.h, include/grub/offsets.h; what is done with
them is what util/setup.c does when it embeds core.img.
"""

from __future__ import annotations

import struct

from mkroot.errors import ArtifactError

BOOT_CODE_SIZE = 440  # of an MBR; what follows is the disk's signature and the partition table
_SECTOR = 512
_KERNEL_SECTOR = 0x5C  # boot.img: where core.img begins, 64 bits
_BOOT_DRIVE = 0x64  # boot.img: 0xff for the drive that the BIOS names
_DRIVE_CHECK = 0x66  # boot.img: a jump of two bytes
_HYBRID_KERNEL_SECTOR = 0x1B0  # boot_hybrid.img's counterpart
_BLOCK_LIST = struct.Struct("<QHH")  # first sector, sectors, segment; the first list ends core.img's first sector
_SEGMENT = 0x820  # GRUB_BOOT_I386_PC_KERNEL_SEG and one sector in paragraphs
_CORE_LIMIT = 0x78000 - 0x8200  # what lies free between the kernel's link address and the BIOS's own data
_CDBOOT_SIZE = 2048  # cdboot.img, before the image proper


def embed_grub(boot_img: bytes, core_img: bytes, start_sector: int) -> tuple[bytes, bytes]:
    """Return the boot code (440 bytes) and the core image (whole sectors) for a core image at `start_sector`.

    boot_img: GRUB's i386-pc/boot.img as shipped, 512 bytes. core_img: what `grub-mkimage -O i386-pc` wrote.
    Raises ArtifactError where they are not that.
    """
    _check_boot(boot_img, "boot.img")
    boot = bytearray(boot_img)
    if boot[_DRIVE_CHECK] != 0xEB and boot[_DRIVE_CHECK : _DRIVE_CHECK + 2] != b"\x90\x90":
        raise ArtifactError("this is not GRUB's boot.img", hint="take `boot.img` of the package grub-pc-bin")
    struct.pack_into("<Q", boot, _KERNEL_SECTOR, start_sector)
    boot[_BOOT_DRIVE] = 0xFF
    boot[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"  # two nops: some BIOSes name drive 0 where they mean a disk
    if not 2 * _SECTOR <= len(core_img) <= _CORE_LIMIT:
        raise ArtifactError(
            f"GRUB's core image has {len(core_img)} bytes, and a BIOS loads {2 * _SECTOR} to {_CORE_LIMIT}",
            hint="build fewer modules into it",
        )
    core = bytearray(core_img.ljust(-(-len(core_img) // _SECTOR) * _SECTOR, b"\0"))
    at = _SECTOR - _BLOCK_LIST.size
    while at > 0 and _BLOCK_LIST.unpack_from(core, at)[1]:
        _BLOCK_LIST.pack_into(core, at, 0, 0, 0)
        at -= _BLOCK_LIST.size
    if at != _SECTOR - 2 * _BLOCK_LIST.size:
        raise ArtifactError(
            "this is not a core image of GRUB for BIOS: it has no block list of its own",
            hint="build it with `grub-mkimage -O i386-pc`",
        )
    _BLOCK_LIST.pack_into(core, _SECTOR - _BLOCK_LIST.size, start_sector + 1, len(core) // _SECTOR - 1, _SEGMENT)
    return bytes(boot[:BOOT_CODE_SIZE]), bytes(core)


def embed_hybrid(boot_img: bytes, core_sector: int) -> bytes:
    """Return the boot code (440 bytes) that starts an El Torito image of GRUB at `core_sector` from a USB stick.

    boot_img: GRUB's i386-pc/boot_hybrid.img as shipped. core_sector: in units of 512 bytes. Raises ArtifactError.
    """
    _check_boot(boot_img, "boot_hybrid.img")
    boot = bytearray(boot_img)
    struct.pack_into("<Q", boot, _HYBRID_KERNEL_SECTOR, core_sector + _CDBOOT_SIZE // _SECTOR)
    return bytes(boot[:BOOT_CODE_SIZE])


def embed_eltorito(core_img: bytes, core_sector: int) -> bytes:
    """Return the start of an El Torito image of GRUB with its block list set for a start from a USB stick.

    core_img: what `grub-mkimage -O i386-pc-eltorito` wrote: cdboot.img, then the image as on a disk, whose block list
    already has length and segment. A start from CD does not read it. Raises ArtifactError.
    """
    at = _CDBOOT_SIZE + _SECTOR - _BLOCK_LIST.size
    if len(core_img) < _CDBOOT_SIZE + 2 * _SECTOR or not _BLOCK_LIST.unpack_from(core_img, at)[1]:
        raise ArtifactError(
            "this is not a core image of GRUB for El Torito",
            hint="build it with `grub-mkimage -O i386-pc-eltorito`",
        )
    core = bytearray(core_img)
    struct.pack_into("<Q", core, at, core_sector + _CDBOOT_SIZE // _SECTOR + 1)
    return bytes(core)


def _check_boot(image: bytes, name: str) -> None:
    if len(image) != _SECTOR or image[-2:] != b"\x55\xaa":
        raise ArtifactError(
            f"GRUB's {name} has {len(image)} bytes and should be a boot sector of {_SECTOR}",
            hint=f"take `{name}` of the package grub-pc-bin",
        )
