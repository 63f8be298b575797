"""What a root is given because it boots as a machine: the self-check, growing, and no update that was made already."""

from __future__ import annotations

from pathlib import Path

import mkroot
from mkroot.recipe.booting import Disk
from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.units import Units

FORMAT = "2"  # of what this module writes; part of the key of what it stores
CHECK = "mkroot-check.service"
GROW = "mkroot-grow.service"
INITS = ("usr/sbin/init", "etc/init", "usr/bin/init")  # where the kernel looks (init/main.c), but for the shell
MOUNT_POINTS = {"dev": 0o755, "proc": 0o555, "run": 0o755, "sys": 0o555, "tmp": 0o1777}  # base-files would have them
_REPART = "/etc/repart.d/50-root.conf"
_GROW_UNIT = """\
[Unit]
Description=Let the root grow to the disk
DefaultDependencies=no
Conflicts=shutdown.target
After=systemd-remount-fs.service systemd-udevd.service
Before=shutdown.target
ConditionPathIsReadWrite=/

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/systemd-repart --dry-run=no
ExecStart=/usr/lib/systemd/systemd-growfs /

[Install]
WantedBy=multi-user.target
"""


def data_folder() -> Path:
    """Return the folder with mkroot's data for machines: inside the wheel, or beside the package in a checkout."""
    inside = Path(mkroot.__file__).parent / "qemu"
    return inside if inside.is_dir() else Path(mkroot.__file__).parents[1] / "qemu"


def check_unit() -> bytes:
    """Return the unit that runs the self-check."""
    return (data_folder() / "check" / CHECK).read_bytes()


def small_init() -> bytes:
    """Return the init of a root that has none of its own."""
    return (data_folder() / "check" / "init").read_bytes()


def prepare_machine(tree: Tree, disk: Disk, *, epoch: int) -> dict[str, str]:
    """Change the root of a machine in memory and return the origin of each path that was written.

    A root with no init of its own, but with busybox, is given a small one that takes the same check; any other without
    systemd is left alone. epoch: seconds since 1970.
    """
    recorder = Recorder(tree)
    if not any(tree.exists(path) for path in INITS):  # systemd may be there without systemd-sysv
        if tree.exists("usr/bin/busybox"):
            with recorder.at("mkroot: a small init, for the packages have none"):
                recorder.write("usr/sbin/init", small_init(), 0o755, 0, 0)
                for name, mode in MOUNT_POINTS.items():
                    recorder.folder(name, mode)
        return recorder.origins
    if not Units(tree).present:
        return {}
    with recorder.at("mkroot: the guest's self-check, run where the host of the machine asks for it"):
        recorder.write(f"usr/lib/systemd/system/{CHECK}", check_unit(), 0o644, 0, 0)
        recorder.link(f"usr/lib/systemd/system/multi-user.target.wants/{CHECK}", f"../{CHECK}")
    if disk.grow:
        with recorder.at("recipe: disk.grow"):
            recorder.write(_REPART.lstrip("/"), b"[Partition]\nType=root\n", 0o644, 0, 0)
            recorder.write(f"usr/lib/systemd/system/{GROW}", _GROW_UNIT.encode(), 0o644, 0, 0)
            recorder.link(f"etc/systemd/system/multi-user.target.wants/{GROW}", f"/usr/lib/systemd/system/{GROW}")
    with recorder.at(
        "mkroot: the packages' triggers have made all caches, so the first boot need not (systemd.unit(5))"
    ):
        for folder in ("etc", "var"):  # ConditionNeedsUpdate= compares these with the time of /usr
            text = f"# The date of the image.\nTIMESTAMP_NSEC={epoch * 10**9}\n"
            recorder.write(f"{folder}/.updated", text.encode(), 0o644, 0, 0)
    return recorder.origins
