"""What makes a system start: which packages a boot loader comes from, and what the boot file system holds.

Rules: UEFI specification 2.10, 3.5.1.1 (EFI/BOOT/BOOT*.EFI, what firmware starts by itself); UAPI.1, Boot Loader
Specification, type 1 entries; the kernel's Documentation/arch/x86/boot.rst for its image.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from mkroot.boot import grub
from mkroot.boot.pe import EFI_APPLICATION, MACHINES, read_program
from mkroot.boot.uki import make_uki, uki_sections
from mkroot.errors import BootError
from mkroot.rootfs.tree import Tree

KERNEL = "vmlinuz"
INITRAMFS = "initramfs.cpio.zst"
CMDLINE = "cmdline"
SYSTEMD_BOOT, BUSYBOX, GRUB_BIOS, GRUB_TOOLS = "systemd-boot-efi", "busybox-static", "grub-pc-bin", "grub-common"
DEPMOD = "kmod"
GRUB_EFI = {"amd64": "grub-efi-amd64-bin", "arm64": "grub-efi-arm64-bin"}
UNIVERSE = {"ubuntu": frozenset({SYSTEMD_BOOT})}  # not in `main`; Debian has all of these there
OLDER = {SYSTEMD_BOOT: "systemd"}  # where a release does not split the package yet (Ubuntu 22.04, Debian 11)
SHORT = {"amd64": "x64", "arm64": "aa64"}  # UEFI's names of machines, as file names have them
_EFI_LOADERS = ("systemd-boot", "uki", "grub")
_EFI_FOLDER = "usr/lib/systemd/boot/efi"
_GRUB_FOLDER = "usr/lib/grub"
_CMDLINE_LIMIT = 2047  # characters; COMMAND_LINE_SIZE is 2048 on x86 and arm64, with the zero at its end
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")


class Bootfs(msgspec.Struct, frozen=True, kw_only=True):
    """What boots, in bytes.

    files: the boot file system (the ESP, or what GRUB reads under BIOS), by path. medium: what stands beside it in the
    ISO itself, {} for a disk. efi: the unified kernel image. boot_code: GRUB's boot sector, and core: the rest of GRUB,
    for BIOS: boot.img and core.img for a disk, boot_hybrid.img and the El Torito image for an ISO.
    """

    files: dict[str, bytes]
    medium: dict[str, bytes] = {}
    efi: bytes | None = None
    boot_code: bytes | None = None
    core: bytes | None = None


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """All that a boot file system is made of."""

    tree: Tree
    distro: str
    architecture: str
    kernel: bytes
    initramfs: bytes | None
    cmdline: str
    title: str
    version: str

    @property
    def folder(self) -> str:
        return f"{self.distro}/{self.version}"

    @property
    def payload(self) -> dict[str, bytes]:
        """Kernel and initramfs, in a folder of their own."""
        files = {f"{self.folder}/{KERNEL}": self.kernel}
        if self.initramfs is not None:
            files[f"{self.folder}/{INITRAMFS}"] = self.initramfs
        return files

    @property
    def marker(self) -> str:
        """The name of a file that only this boot file system has."""
        seen = hashlib.sha256()
        for part in (self.kernel, self.initramfs or b"", self.cmdline.encode(), self.title.encode()):
            seen.update(hashlib.sha256(part).digest())
        return f"{self.folder}/{seen.hexdigest()[:16]}.id"

    @property
    def entry(self) -> grub.Entry:
        return grub.Entry(
            title=self.title,
            kernel=f"/{self.folder}/{KERNEL}",
            initramfs=None if self.initramfs is None else f"/{self.folder}/{INITRAMFS}",
            cmdline=self.cmdline,
            marker=f"/{self.marker}",
        )

    def read(self, path: str, package: str) -> bytes:
        """Return a boot loader's file; raises BootError naming its package."""
        if self.tree.get(path) is None:
            hint = f"it is in the package {package}"
            if package in UNIVERSE.get(self.distro, ()):
                hint += "; the recipe's `components` must have `universe`"
            raise BootError(f"/{path} is not among the packages of the lock", hint=hint)
        return self.tree.read(path)


def packages_for(
    distro: str, loader: str, firmware: str, initramfs: str, architecture: str, *, iso: bool, image: bool = False
) -> tuple[str, ...]:
    """Return the packages that only make the boot file system, sorted: locked beside the root and not installed.

    distro: "debian" | "ubuntu"; the other words as in the recipe. iso: the recipe has the output `iso`, which starts
    under BIOS too. image: the root is that of an image, which may have no init and no lists of the kernel's modules.
    Those of `component` "universe" need it in the recipe; `OLDER` names another package for releases that do not have
    one. Raises BootError where the loader is not to be had for firmware or architecture.
    """
    _check_fit(loader, firmware, architecture)
    found = set()
    if initramfs == "mkroot" or image:
        found.add(BUSYBOX)
    if image:
        found.add(DEPMOD)
    if loader in ("systemd-boot", "uki"):
        found.add(SYSTEMD_BOOT)
    elif (loader == "grub" and firmware == "uefi") or iso:
        found.add(GRUB_EFI[architecture])
    if (loader == "grub" and firmware == "bios") or (iso and architecture == "amd64"):
        found.add(GRUB_BIOS)
    if any(name.startswith("grub-") for name in found):
        found.add(GRUB_TOOLS)
    return tuple(sorted(found))


def component(distro: str, package: str) -> str:
    """Return the component of the archive that has one of the packages of `packages_for`."""
    return "universe" if package in UNIVERSE.get(distro, ()) else "main"


def make_bootfs(
    tree: Tree,
    *,
    distro: str,
    loader: str,
    firmware: str,
    architecture: str,
    kernel: bytes,
    initramfs: bytes | None,
    cmdline: str,
    title: str,
    version: str,
    mkimage: grub.MkImage,
    iso: bool = False,
) -> Bootfs:
    """Return what the boot file system holds; the same input gives the same bytes.

    tree: the root and the packages locked beside it. kernel, initramfs: their bytes. title: os-release's PRETTY_NAME;
    version: the kernel's release. mkimage: runs grub-mkimage (see `grub.MkImage`). iso: for a medium that starts under
    UEFI (by the loader, GRUB where it is `direct`) and, on amd64, under BIOS (by GRUB). Raises BootError where the
    parts do not fit, a file is missing (with its package), or the command line would not reach the kernel as it is.
    """
    _check_fit(loader, firmware, architecture)
    for name, text in (("distribution's name", distro), ("kernel's release", version)):
        if not _SAFE.fullmatch(text):
            raise BootError(f"the {name} cannot be part of a file's name: {text!r}")
    cmdline = _checked_cmdline(cmdline)
    title = "".join(c for c in " ".join(title.split()) if c.isprintable()) or distro
    source = _Source(
        tree=tree, distro=distro, architecture=architecture, kernel=kernel, initramfs=initramfs, cmdline=cmdline,
        title=title, version=version,
    )  # fmt: skip
    _check_kernel(source, efi=loader in _EFI_LOADERS and firmware == "uefi", stub=loader in ("systemd-boot", "uki"))
    if iso:
        return _iso(source, loader, mkimage)
    if loader == "direct":
        files = {KERNEL: kernel, CMDLINE: f"{cmdline}\n".encode()}
        return Bootfs(files=files if initramfs is None else {**files, INITRAMFS: initramfs})
    if loader == "grub" and firmware == "bios":
        return Bootfs(
            files={**source.payload, **_grub_config(source, grub.CONFIG)},
            boot_code=source.read(f"{_GRUB_FOLDER}/{grub.BIOS}/boot.img", GRUB_BIOS),
            core=grub.make_core(grub.BIOS, source.entry, mkimage),
        )
    if loader == "grub":
        return Bootfs(files={**source.payload, **_grub_efi(source, mkimage)})
    return _by_stub(source, loader)


def _check_fit(loader: str, firmware: str, architecture: str) -> None:
    if architecture not in SHORT:
        known = " and ".join(SHORT)
        raise BootError(f"mkroot makes nothing that boots on {architecture}", hint=f"it does for {known}")
    if firmware == "bios" and loader in ("systemd-boot", "uki"):
        raise BootError(f"`{loader}` needs `firmware: uefi`", hint="`loader: grub` starts under BIOS too")
    if firmware == "bios" and architecture != "amd64":
        raise BootError(f"there is no BIOS on {architecture}", hint="write `firmware: uefi`")


def _checked_cmdline(cmdline: str) -> str:
    cmdline = cmdline.strip(" ")
    odd = next((c for c in cmdline if not " " <= c <= "~"), None)
    if odd is not None:
        raise BootError(
            f"the kernel's command line may hold printable ASCII characters only, not {odd!r}",
            where="recipe: boot.cmdline",
            hint="systemd writes others as \\xNN",
        )
    if len(cmdline) > _CMDLINE_LIMIT:
        raise BootError(
            f"the kernel's command line has {len(cmdline)} characters, and the kernel reads {_CMDLINE_LIMIT}",
            where="recipe: boot.cmdline",
            hint="leave out what the kernel or systemd can read from files in the root",
        )
    return cmdline


def _check_kernel(source: _Source, *, efi: bool, stub: bool) -> None:
    """Raise BootError where the kernel is none that the loader can start (stub: the loader needs an EFI program)."""
    kernel, where = source.kernel, f"kernel {source.version}"
    if kernel[:2] == b"\x1f\x8b" and (efi or source.architecture == "arm64"):
        raise BootError("the kernel is packed with gzip, which this loader does not unpack", where=where)
    if source.architecture == "amd64" and kernel[0x202:0x206] != b"HdrS":
        raise BootError("this is no kernel for amd64: a bzImage has `HdrS` at 0x202", where=where)
    if not (stub or (efi and source.architecture == "arm64")):
        return
    try:
        program = read_program(kernel, where)
    except BootError as e:
        hint = "a kernel with CONFIG_EFI_STUB does; `loader: grub` with `firmware: bios` starts others"
        raise BootError(f"UEFI cannot start this kernel: {e.what}", where=where, hint=hint) from None
    if program.machine != MACHINES[source.architecture] or program.subsystem != EFI_APPLICATION:
        raise BootError(f"the kernel is no EFI program for {source.architecture}", where=where)


def _by_stub(source: _Source, loader: str) -> Bootfs:
    """The ESP of systemd-boot or of a unified kernel image."""
    short = SHORT[source.architecture]
    fallback = f"EFI/BOOT/BOOT{short.upper()}.EFI"
    if loader == "uki":
        path = f"{_EFI_FOLDER}/linux{short}.efi.stub"
        sections = uki_sections(
            osrel=_os_release(source),
            cmdline=source.cmdline,
            version=source.version,
            initramfs=source.initramfs,
            kernel=source.kernel,
        )
        image = make_uki(source.read(path, SYSTEMD_BOOT), sections, where=f"/{path}")
        return Bootfs(files={fallback: image}, efi=image)
    program = source.read(f"{_EFI_FOLDER}/systemd-boot{short}.efi", SYSTEMD_BOOT)
    return Bootfs(
        files={
            fallback: program,
            f"EFI/systemd/systemd-boot{short}.efi": program,
            "loader/loader.conf": b"timeout 0\nconsole-mode keep\n",
            f"loader/entries/{source.distro}-{source.version}.conf": _type1(source),
            **source.payload,
        }
    )


def _type1(source: _Source) -> bytes:
    """Return the boot loader entry (Boot Loader Specification, type 1)."""
    options = source.cmdline
    if len(options) > 1 and options[0] == options[-1] == '"':
        # systemd-boot takes quotation marks around a whole value away
        raise BootError(
            "systemd-boot would take the quotation marks away at both ends of the command line",
            where="recipe: boot.cmdline",
            hint="put a word without them first or last",
        )
    lines = [
        f"title {source.title}",
        f"version {source.version}",
        f"sort-key {source.distro}",
        f"architecture {SHORT[source.architecture]}",
        f"linux /{source.folder}/{KERNEL}",
    ]
    if source.initramfs is not None:
        lines.append(f"initrd /{source.folder}/{INITRAMFS}")
    if options:
        lines.append(f"options {options}")
    return "\n".join([*lines, ""]).encode()


def _os_release(source: _Source) -> bytes:
    for path in ("etc/os-release", "usr/lib/os-release"):
        if source.tree.get(path) is not None:
            return source.tree.read(path)
    title = re.sub(r'([\\"`$])', r"\\\1", source.title)
    return f'ID={source.distro}\nPRETTY_NAME="{title}"\n'.encode()


def _grub_config(source: _Source, path: str) -> dict[str, bytes]:
    """grub.cfg where GRUB reads it, and the file by which it finds its file system."""
    return {path: grub.config(source.entry), source.marker: f"{source.title}\n".encode()}


def _grub_efi(source: _Source, mkimage: grub.MkImage) -> dict[str, bytes]:
    """GRUB for UEFI with its configuration: the distribution's ready image where it tells where it reads that."""
    short, kind = SHORT[source.architecture], grub.EFI[source.architecture]
    path = f"{_GRUB_FOLDER}/{kind}/monolithic/grub{short}.efi"
    fallback = f"EFI/BOOT/BOOT{short.upper()}.EFI"
    if source.tree.get(path) is not None:
        image = source.read(path, GRUB_EFI[source.architecture])
        prefix = grub.built_in_prefix(image, f"/{path}")
        if prefix is not None:
            return {fallback: image, **_grub_config(source, f"{prefix.lstrip('/')}/grub.cfg")}
    source.read(f"{_GRUB_FOLDER}/{kind}/kernel.img", GRUB_EFI[source.architecture])
    return {fallback: grub.make_core(kind, source.entry, mkimage), **_grub_config(source, grub.CONFIG)}


def _iso(source: _Source, loader: str, mkimage: grub.MkImage) -> Bootfs:
    """The two halves of a medium: the ESP for UEFI, and the ISO with GRUB for BIOS.

    systemd-boot and a unified image read the ESP only, so the kernel stands in both. GRUB stands in the ESP and reads
    the ISO; its configuration is in both, because GRUB takes the ISO for its own place when it comes from a CD, and the
    ESP when it comes from a USB stick.
    """
    medium = {**source.payload, **_grub_config(source, grub.CONFIG)}
    if loader in ("systemd-boot", "uki"):
        esp = _by_stub(source, loader)
    else:
        files = _grub_efi(source, mkimage)
        medium |= {path: data for path, data in files.items() if path.endswith("/grub.cfg")}
        esp = Bootfs(files={path: data for path, data in files.items() if path != source.marker})
    if source.architecture != "amd64":
        return msgspec.structs.replace(esp, medium=medium)
    return Bootfs(
        files=esp.files,
        medium=medium,
        efi=esp.efi,
        boot_code=source.read(f"{_GRUB_FOLDER}/{grub.BIOS}/boot_hybrid.img", GRUB_BIOS),
        core=grub.make_core(grub.BIOS_CD, source.entry, mkimage),
    )
