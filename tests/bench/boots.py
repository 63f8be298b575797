"""What boots: a guest's way to its verdict, and a recipe's way to a disk, against the same done by other means."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.measure import Contender, Failed
from tests.bench.works import DEBIAN, MKROOT, ROOT, Site

NEEDED = ("qemu-system-x86_64", "qemu-img", "mformat", "mcopy", "mke2fs", "sfdisk", "busybox", "cpio")
MACHINE = ("systemd-sysv", "udev", "dbus", "kmod", "iproute2", "openssh-server")
SYSTEMD = ("systemd-sysv", "udev", "dbus", "kmod")  # no ssh: making its keys takes longer than all else, in both
KERNEL = "linux-image-cloud-amd64"
MINIMAL_CLOUD_IMAGE = 226.75  # MiB, of Ubuntu's own for 24.04
_VERDICT = b"floor-verdict"


def prepare(site: Site) -> None:
    """Build everything that is booted, and fetch what the peers need; raises CalledProcessError."""
    environ = {**os.environ, **site.environ(site.work / "store-boot")}
    for recipe in (_own("debian-micro"), *_pair(site), _disk_recipe(site), _own("ubuntu-vm")):
        words = [MKROOT, "build", "-o", str(site.work / "boot"), "--no-lock", str(recipe)]
        subprocess.run(words, check=True, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _own(name: str) -> Path:
    return ROOT / "recipes" / f"{name}.yaml"


def _pair(site: Site) -> tuple[Path, Path]:
    """Return two recipes of one machine that differ in who makes the initramfs.

    QEMU loads the kernel of both: GRUB copies it byte by byte before it starts it, 3 s without KVM, whoever made the
    initramfs.
    """
    test = {"memory": "512M", "timeout": 300}
    found = []
    for initramfs in ("mkroot", "distro"):
        boot = {"kernel": KERNEL, "loader": "direct", "initramfs": initramfs, "cmdline": "console=ttyS0"}
        packages = {"variant": "minbase", "include": list(SYSTEMD)}
        found.append(
            site.recipe(
                DEBIAN, f"boot-{initramfs}", packages=packages, boot=boot, test=test, outputs=["bootfs", "disk.raw"]
            )
        )
    return found[0], found[1]


def _disk_recipe(site: Site) -> Path:
    """Return a recipe of a machine's disk: that of the repository's own, with the boot loader that needs no tool."""
    path = site.work / "boot-disk.yaml"
    base = ROOT / "recipes/machine/debian.yaml"
    boot = {"loader": "systemd-boot", "firmware": "uefi"}
    path.write_text(
        json.dumps({"version": 1, "name": "boot-disk", "extends": [str(base)], "boot": boot, "outputs": ["disk.raw"]})
    )
    return path


# ---- from QEMU's start to the guest's verdict


def micro(site: Site) -> list[Contender]:
    """The smallest machine, against the same kernel with nothing but an init."""
    folder = site.work / "boot/debian-micro/amd64"
    return [
        Contender("mkroot: debian-micro", [], measure=_tested(site, _own("debian-micro"))),
        Contender("floor: its kernel with a bare static init", [], measure=lambda: _floor(site, folder)),
    ]


def systemd(site: Site) -> list[Contender]:
    """A disk with systemd, against the same root with the distribution's initramfs."""
    own, distro = _pair(site)
    return [
        Contender("mkroot's initramfs", [], measure=_tested(site, own)),
        Contender("initramfs-tools' initrd", [], measure=_tested(site, distro)),
    ]


def _tested(site: Site, recipe: Path) -> Callable[[], float]:
    def measure() -> float:
        words = [MKROOT, "test", str(recipe), "-o", str(site.work / "boot"), "--accel", "tcg", "--json"]
        environ = {**os.environ, **site.environ(site.work / "store-boot")}
        done = subprocess.run(words, capture_output=True, text=True, env=environ, check=False)
        if done.returncode:
            raise Failed(f"{recipe.stem} does not boot: {done.stdout}{done.stderr}")
        return float(json.loads(done.stdout)[0]["seconds"])

    return measure


def _floor(site: Site, folder: Path) -> float:
    """Start the kernel with an initramfs of one program, which tells that it runs; return the seconds until then."""
    packed = site.work / "floor.cpio"
    if not packed.exists():
        tree = site.work / "floor"
        (tree / "bin").mkdir(parents=True, exist_ok=True)
        (tree / "dev").mkdir(exist_ok=True)
        (tree / "bin/busybox").write_bytes(Path("/usr/bin/busybox").read_bytes())
        (tree / "bin/busybox").chmod(0o755)
        (tree / "init").write_text(
            "#!/bin/busybox sh\nbusybox mount -t devtmpfs dev /dev\n"
            f"echo {_VERDICT.decode()} > /dev/ttyS1\nbusybox poweroff -f\n"
        )
        (tree / "init").chmod(0o755)
        with open(packed, "wb") as out:
            names = "\n".join(["init", "bin", "bin/busybox", "dev"])
            subprocess.run(
                ["cpio", "-o", "-H", "newc", "--quiet"], input=names, text=True, cwd=tree, stdout=out, check=True
            )
    mine = json.loads((folder.parent.parent / "microvm.json").read_text())
    command = [*mine, "-kernel", str(folder / "bootfs/vmlinuz"), "-initrd", str(packed)]
    start = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        seen = b""
        while _VERDICT not in seen:
            if not select.select([process.stdout], [], [], 60)[0] or not (
                part := os.read(process.stdout.fileno(), 4096)
            ):
                raise Failed("the bare init says nothing")
            seen += part
        return time.monotonic() - start
    finally:
        process.kill()
        process.wait()


def floor_command(site: Site) -> None:
    """Keep the words with which mkroot starts the machine, less the system: the floor is measured on the same one."""
    from mkroot.boot.machine import machine
    from mkroot.vm.host import tsc_rate

    m = machine("microvm")
    words = [m.emulator, "-machine", m.machine, "-accel", "tcg", "-cpu", m.cpu, "-m", "256", "-nodefaults"]
    words += ["-display", "none", "-no-reboot", "-serial", "null", "-chardev", "stdio,id=verdict"]
    words += ["-device", m.verdict_device.format(verdict="verdict")]
    append = "console=ttyS0 " + m.cmdline_tcg.format(tsc=tsc_rate())
    (site.work / "boot" / "microvm.json").write_text(json.dumps([*words, "-append", append]))


# ---- from a recipe to a disk


def disks(site: Site) -> list[Contender]:
    """A known recipe's disk, in a new folder, against the same machine put together by hand."""
    out = site.work / "disk-out"
    words = [MKROOT, "build", "--no-lock", "--offline", "-o", str(out), str(_disk_recipe(site))]
    return [
        Contender("mkroot, store known", [words], site.environ(site.work / "store-boot"), [out]),
        _by_hand(site),
    ]


def _by_hand(site: Site) -> Contender:
    """mmdebstrap, mke2fs, mtools, sfdisk: what one writes into a script without mkroot."""
    work = site.work / "by-hand"
    include = ",".join([*MACHINE, KERNEL, "systemd-boot-efi"])
    sources = " ".join(f"'{line}'" for line in site.sources(DEBIAN))
    entry = "title box\\nlinux /vmlinuz\\ninitrd /initrd.img\\noptions root=LABEL=root rw console=ttyS0\\n"
    script = f"""set -e
mkdir -p {work}/root && cd {work}
mmdebstrap --quiet --mode=root --variant=minbase --include={include} {DEBIAN.suite} root.tar {sources}
tar -C root -xpf root.tar
truncate -s 64M esp.img && mformat -i esp.img -F ::
mmd -i esp.img ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
mcopy -i esp.img root/usr/lib/systemd/boot/efi/systemd-bootx64.efi ::/EFI/BOOT/BOOTX64.EFI
mcopy -i esp.img root/boot/vmlinuz-* ::/vmlinuz && mcopy -i esp.img root/boot/initrd.img-* ::/initrd.img
printf '{entry}' > box.conf && mcopy -i esp.img box.conf ::/loader/entries/box.conf
rm -rf root/boot/*
truncate -s 700M root.ext4 && mke2fs -q -t ext4 -L root -d root root.ext4
truncate -s 768M disk.raw
printf 'label: gpt\\nstart=1MiB, size=64MiB, type=uefi\\nstart=65MiB, size=701MiB, type=linux\\n' | sfdisk -q disk.raw
dd if=esp.img of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none
dd if=root.ext4 of=disk.raw bs=1M seek=65 conv=notrunc,sparse status=none
"""
    environ = {"TMPDIR": str(site.work), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    return Contender("mmdebstrap, mke2fs and a boot loader by hand", [["sh", "-c", script]], environ, [work])


def size_line(site: Site) -> str:
    """Return what Ubuntu's machine takes as a compressed disk, beside Ubuntu's own image."""
    size = (site.work / "boot/ubuntu-vm/amd64/disk.qcow2").stat().st_size / 2**20
    goal = "met" if size <= MINIMAL_CLOUD_IMAGE / 2 else "missed"
    return (
        f"ubuntu-vm as disk.qcow2: {size:.1f} MiB; Ubuntu's own minimal cloud image has {MINIMAL_CLOUD_IMAGE} MiB "
        f"(goal: half of it, {goal})"
    )
