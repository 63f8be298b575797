"""Makes a container's namespaces and mounts around the process that is to be its process 1.

Quick parts of the standard library only: see `mkroot.container.init`.
"""

from __future__ import annotations

import errno
import os

from mkroot.rootfs import emulator, kernelfs, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STAGING = ".mkroot"  # in the container's /dev, while it is made


class Setup:
    """Makes the container.

    config: root (a mount point), network (whether it has one of its own), hostname, workdir, read_only, volumes (host's
    path, path without links in the root, read-only, is a folder) and files (path without links in the root, content).
    What is mounted upon is in the root already. foreign: what `mkroot.rootfs.foreign.given` returned. limits: what this
    host did not give. emulated: a descriptor that keeps an emulator registered, -1 for none.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self.limits: list[str] = []
        self.emulated = -1
        self._sysfs = True
        self._at = -1

    def make(self) -> None:
        """Do all of it; raises OSError, and emulator.Cannot where the root's programs do not run here."""
        config = self._config
        foreign = config["foreign"]
        root = str(config["root"])
        flags = linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
        linux.unshare(flags | linux.CLONE_NEWNET if config["network"] else flags)
        try:
            linux.unshare(linux.CLONE_NEWCGROUP)
        except OSError:
            self.limits.append("the names of the host's control groups are visible in /proc")
        linux.sethostname(str(config["hostname"]))
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        # There is no list of devices that may be used (as a device cgroup has it): no node but those of /dev opens.
        linux.mount_setattr(root, linux.MOUNT_ATTR_NODEV)
        self._at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        held = emulator.hold(foreign["interpreter"]) if foreign and foreign["interpreter"] else -1
        self._proc()
        self._sys()
        self._dev()
        self._files()
        self._volumes()  # last, for one may take the place of a file above
        os.fchdir(self._at)
        kernelfs.mask("dev/null", sysfs=self._sysfs)
        os.fchdir(self._at)
        linux.pivot_root(".", ".")
        linux.umount(".", linux.MNT_DETACH)
        os.chdir("/")
        os.close(self._at)
        self._workdir(str(config["workdir"]))
        if config["read_only"]:
            linux.mount_setattr("/", linux.MOUNT_ATTR_RDONLY)
        if config["network"]:
            kernelfs.loopback_up()
        if foreign:  # last, for what is mounted after it would belong to another user namespace
            self.emulated = emulator.start(foreign, held, "/dev")

    def _enter(self, path: str) -> None:
        """Go into a folder of the root, following no link."""
        fd = linux.open_beneath(self._at, path, os.O_PATH | os.O_DIRECTORY)
        os.fchdir(fd)
        os.close(fd)

    def _cover(self, path: str, kind: str, flags: int, options: str | None = None) -> None:
        """Mount a file system on a folder of the root and go into it."""
        self._enter(path)
        linux.mount(kind, ".", kind, flags, options)
        self._enter(path)

    def _proc(self) -> None:
        try:
            self._cover("proc", "proc", kernelfs.QUIET)
        except PermissionError:
            # A container whose /proc has covered parts gives no fresh one (mount_too_revealing in fs/namespace.c).
            self._enter("proc")
            linux.mount("/proc", ".", None, linux.MS_BIND | linux.MS_REC)
            self.limits.append("/proc is the host's, for this host gives no fresh one")

    def _sys(self) -> None:
        try:
            self._cover("sys", "sysfs", kernelfs.QUIET | linux.MS_RDONLY)
            return
        except PermissionError:
            pass  # the network is not this user namespace's own: the host's /sys is shown
        try:
            self._enter("sys")
            linux.mount("/sys", ".", None, linux.MS_BIND | linux.MS_REC)
            self._enter("sys")
            linux.mount_setattr(".", linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID, recursive=True)
        except OSError:
            self._sysfs = False
            self.limits.append("/sys is empty, for this host gives none")

    def _dev(self) -> None:
        self._cover("dev", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=64m")
        kernelfs.fill_dev(self.limits)
        os.symlink("/proc/kcore", "core")
        for name in ("shm", "mqueue"):
            os.mkdir(name, 0o755)
        linux.mount("shm", "shm", "tmpfs", kernelfs.QUIET, "mode=1777,size=64m")
        try:
            linux.mount("mqueue", "mqueue", "mqueue", kernelfs.QUIET)
        except OSError:
            self.limits.append("/dev/mqueue is empty, for this host gives none")

    def _volumes(self) -> None:
        volumes = self._config["volumes"]
        for source, path, read_only, is_folder in volumes:
            up, _, name = path.rpartition("/")
            self._enter(path if is_folder else up)
            linux.mount(source, "." if is_folder else name, None, linux.MS_BIND | linux.MS_REC)
            self._enter(path if is_folder else up)
            attributes = linux.MOUNT_ATTR_NODEV | (linux.MOUNT_ATTR_RDONLY if read_only else 0)
            linux.mount_setattr("." if is_folder else name, attributes, recursive=True)

    def _files(self) -> None:
        """Show files in the container that are none of its root: writable, and gone when it ends."""
        files = self._config["files"]
        self._enter("dev")
        os.mkdir(_STAGING, 0o700)
        linux.mount("tmpfs", _STAGING, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, "mode=755,size=4m")
        stage = os.open(_STAGING, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for number, (path, content) in enumerate(files):
            fd = os.open(str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=stage)
            os.write(fd, content)
            os.fchmod(fd, 0o644)
            os.close(fd)
            up, _, name = path.rpartition("/")
            self._enter(up)
            linux.mount(f"/proc/self/fd/{stage}/{number}", name, None, linux.MS_BIND)
        os.close(stage)
        self._enter("dev")
        linux.umount(_STAGING, linux.MNT_DETACH)  # the file system stays for as long as its files are shown
        os.rmdir(_STAGING)

    def _workdir(self, path: str) -> None:
        """Make the folder in which the command starts, where the image has none."""
        try:
            os.makedirs(path, 0o755, exist_ok=True)
        except FileExistsError as e:
            raise OSError(errno.ENOTDIR, "the working directory is not a folder", path) from e
