"""The kernel of a root: where it is, how it was configured, and what it can mount without help."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mkroot.errors import BootError
from mkroot.rootfs.tree import Tree
from mkroot.tar.entry import FILE, HARDLINK

_IMAGE = "vmlinuz-"
_MODULES = "usr/lib/modules"
_KERNELS = "linux-image-cloud-amd64 or linux-image-amd64 on Debian, linux-image-virtual on Ubuntu"

# What a kernel needs for a disk on a bus: options of its configuration, each with the module that has it otherwise.
BUSES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "virtio": (("CONFIG_VIRTIO_PCI", "virtio_pci"), ("CONFIG_VIRTIO_BLK", "virtio_blk")),
    "virtio-mmio": (("CONFIG_VIRTIO_MMIO", "virtio_mmio"), ("CONFIG_VIRTIO_BLK", "virtio_blk")),
    "nvme": (("CONFIG_BLK_DEV_NVME", "nvme"),),
    "ahci": (("CONFIG_SATA_AHCI", "ahci"), ("CONFIG_BLK_DEV_SD", "sd_mod")),
}
# The same for the file systems that mkroot makes, as mkroot makes them; "" is a part that is never a module.
FILESYSTEMS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "ext4": (("CONFIG_EXT4_FS", "ext4"),),
    "squashfs": (("CONFIG_SQUASHFS", "squashfs"), ("CONFIG_SQUASHFS_ZSTD", "")),
    "erofs": (("CONFIG_EROFS_FS", "erofs"), ("CONFIG_EROFS_FS_ZIP", "")),
}


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel in a tree.

    version: as `uname -r` says it. image: path of the vmlinuz. modules: path of its modules' folder, which a kernel
    without modules does not have. config: its build's options by name (`CONFIG_EXT4_FS`: `y`); empty where the package
    does not tell them.
    """

    version: str
    image: str
    modules: str
    config: dict[str, str] = {}


def find_kernel(tree: Tree, package: str) -> Kernel:
    """Return the kernel of a root; raises BootError where there is none, or two and `package` names neither.

    package: what the recipe's `boot.kernel` names. Of two kernels `linux-image-VERSION` chooses its own.
    """
    places = [(name, f"{_MODULES}/{name}/vmlinuz") for name in tree.children(_MODULES)]
    places += [(n.removeprefix(_IMAGE), f"boot/{n}") for n in tree.children("boot") if n.startswith(_IMAGE)]
    images = {v: path for v, path in places if v and _is_file(tree, path) and not v.endswith((".old", ".bak"))}
    if not images:
        raise BootError(
            f"the package {package} brings no kernel: there is no /boot/vmlinuz-VERSION in the root",
            where="boot.kernel",
            hint=f"name a package that holds a kernel: {_KERNELS}",
        )
    named = [v for v in images if package.split("=")[0] in (f"linux-image-{v}", f"linux-image-unsigned-{v}")]
    versions = named or sorted(images)
    if len(versions) > 1:
        raise BootError(
            f"there are several kernels in the root: {', '.join(versions)}",
            where="boot.kernel",
            hint=f"pin one, as in `kernel: linux-image-{versions[-1]}`, or leave the other out of packages.include",
        )
    version = versions[0]
    path = f"boot/config-{version}"
    config = _parse_config(tree.read(path)) if _is_file(tree, path) else {}
    return Kernel(version=version, image=images[version], modules=f"{_MODULES}/{version}", config=config)


def _is_file(tree: Tree, path: str) -> bool:
    entry = tree.get(path)
    return entry is not None and entry.kind in (FILE, HARDLINK)


def _parse_config(data: bytes) -> dict[str, str]:
    """Read a kernel's configuration: `CONFIG_X=y`, strings in quotes; what is not set stands in comments."""
    pairs = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines() if line.startswith("CONFIG_"))
    return {name: value.strip().strip('"') for name, _, value in pairs}


def canonical(name: str) -> str:
    """Return a module's name as the kernel says it: `-` and `_` are the same, and a file's name has endings."""
    return name.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def builtin_modules(tree: Tree, kernel: Kernel) -> frozenset[str]:
    """Return the names of what would be modules and is part of the kernel (modules.builtin, kbuild)."""
    path = f"{kernel.modules}/modules.builtin"
    if not _is_file(tree, path):
        return frozenset()
    return frozenset(canonical(line.strip()) for line in tree.read(path).decode("utf-8", "replace").splitlines())


def unassisted(
    kernel: Kernel, tree: Tree, *, filesystem: str, bus: str, root: str, overlay: bool = False
) -> tuple[str, ...]:
    """Return why this kernel cannot mount that root without an initramfs; empty where it can.

    filesystem: ext4, squashfs or erofs. bus: a key of BUSES. root: the value of `root=`; the kernel itself knows
    devices, PARTUUID= and PARTLABEL= alone (admin-guide/kernel-parameters, root=). overlay: whether an overlay in
    memory is asked for. Raises BootError for a bus or file system that is not known here.
    """
    needs: list[tuple[str, str]] = []
    for what, name, table in (("disk bus", bus, BUSES), ("root file system", filesystem, FILESYSTEMS)):
        if name not in table:
            raise BootError(f"`{name}` is not a known {what}", hint=f"known are {', '.join(table)}")
        needs += table[name]
    form = root.partition("=")[0]
    if form in ("PARTUUID", "PARTLABEL"):
        needs.append(("CONFIG_EFI_PARTITION", ""))
    reasons = [r for r in (_lacking(kernel, builtin_modules(tree, kernel), *need) for need in needs) if r]
    if form not in ("PARTUUID", "PARTLABEL") and (not root.startswith("/dev/") or root.startswith("/dev/disk/")):
        reasons.append(f"the kernel alone cannot find root={root}: it knows PARTUUID= and devices")
    if overlay:
        reasons.append("the kernel alone cannot put the root under an overlay in memory")
    return tuple(reasons)


def _lacking(kernel: Kernel, builtin: frozenset[str], option: str, module: str) -> str:
    """Say why an option is not built in, or nothing."""
    value = kernel.config.get(option)
    if value == "y" or module in builtin or (not module and not kernel.config):
        return ""
    if value == "m":
        return f"{module} is a module of kernel {kernel.version} and not built in ({option}=m)"
    if not kernel.config:
        return f"{module} is not built into kernel {kernel.version} (modules.builtin does not name it)"
    return f"{module or option} is not in kernel {kernel.version} ({option} is not set)"
