"""Makes the mounts and namespaces of a sandbox around the process that is to be its process 1.

Quick parts of the standard library only: see `mkroot.rootfs.sandbox_init`.
"""
# ruff: noqa: SIM105  (contextlib costs more to import than all that is done here)

from __future__ import annotations

import os

from mkroot.rootfs import emulator, kernelfs, linux

STAGING = "/dev/.mkroot"


class Setup:
    """Makes the sandbox around this process.

    created: what had to be made in the root to mount upon, each as the folder's mtime before and after (nanoseconds)
    and the path; mkroot removes it when the sandbox has ended.
    limits: what this host did not give. emulated: a descriptor that keeps an emulator registered, -1 for none.
    """

    def __init__(self, config: dict[str, object]) -> None:
        self.root = str(config["root"])
        self.network = bool(config["network"])
        self.sysfs = bool(config["sysfs"])
        self.hostname = str(config["hostname"])
        self.single = bool(config["single"])
        self.watched = str(config["watched"])
        self.devices = bool(config["devices"])
        self.foreign = config["foreign"]
        self.emulated = -1
        files = config["files"]
        assert isinstance(files, list)
        self.files: list[tuple[str, bytes, int, bool]] = files
        self.created: list[str] = []
        self.limits: list[str] = []
        self._at = -1

    def make(self) -> None:
        """Do all of it; raises OSError, and emulator.Cannot where the root's programs do not run here."""
        flags = linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
        linux.unshare(flags if self.network else flags | linux.CLONE_NEWNET)
        try:
            linux.unshare(linux.CLONE_NEWCGROUP)  # hides the host's cgroup names; nothing in cgroups is changed
        except OSError:
            self.limits.append("the names of the host's control groups are visible in /proc")
        linux.sethostname(self.hostname)
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(self.root, self.root, None, linux.MS_BIND | linux.MS_REC)
        linux.mount_setattr(self.root, linux.MOUNT_ATTR_NODEV, recursive=True)
        self._at = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        held = self._hold()
        self._dev()
        self._proc()
        if self.sysfs:
            self._sys()
        os.fchdir(self._at)
        os.close(self._at)
        kernelfs.mask("dev/null", sysfs=self.sysfs)
        linux.pivot_root(".", ".")
        linux.umount(".", linux.MNT_DETACH)
        os.chdir("/")
        for target, content, mode, make in self.files:
            self._file(target, content, mode, make)
        if not self.network:
            try:
                kernelfs.loopback_up()
            except OSError:
                pass  # nothing listens in here anyway
        if isinstance(self.foreign, dict):  # last, for what is mounted after it would belong to another user namespace
            self.emulated = emulator.start(self.foreign, held, STAGING)
        os.rmdir(STAGING)

    def _hold(self) -> int:
        """Return a descriptor of the host's emulator for the root's programs, -1 where there is none."""
        interpreter = self.foreign["interpreter"] if isinstance(self.foreign, dict) else ""
        return emulator.hold(interpreter) if interpreter else -1

    def _made(self, path: str, folder: str, before: int) -> None:
        """Note what was made, with the time of its folder before and after."""
        self.created.append(f"{before} {os.stat(folder).st_mtime_ns} {path}")

    def _enter(self, name: str) -> None:
        """Go into a folder of the root, making it where it is missing; never through a symlink."""
        os.fchdir(self._at)
        try:
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            before = os.stat(".").st_mtime_ns
            os.mkdir(name, 0o755)
            self._made("/" + name, ".", before)
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.fchdir(fd)
        os.close(fd)

    def _cover(self, name: str, kind: str, flags: int, options: str | None) -> None:
        """Mount a file system on a folder of the root and go into it."""
        self._enter(name)
        linux.mount(kind, ".", kind, flags, options)
        os.fchdir(self._at)
        os.chdir(name)

    def _dev(self) -> None:
        self._cover("dev", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=64m")
        kernelfs.fill_dev(self.limits)
        os.close(os.open("console", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        linux.mount("null", "console", None, linux.MS_BIND)
        os.mkdir("shm", 0o1777)
        os.mkdir(os.path.basename(STAGING), 0o700)

    def _proc(self) -> None:
        try:
            self._cover("proc", "proc", kernelfs.QUIET, None)
        except PermissionError:
            # A container whose /proc has covered parts gives no fresh one (mount_too_revealing in fs/namespace.c).
            self._enter("proc")
            linux.mount("/proc", ".", None, linux.MS_BIND | linux.MS_REC)
            self.limits.append("/proc is the host's, for this container gives no fresh one")

    def _sys(self) -> None:
        try:
            self._cover("sys", "sysfs", kernelfs.QUIET | linux.MS_RDONLY, None)
        except PermissionError:
            self.sysfs = False
            self.limits.append("/sys is empty, for this host gives no fresh one")

    def _file(self, target: str, content: bytes, mode: int, make: bool) -> None:
        """Show a read-only file in place of `target`, leaving the one below as it is."""
        target = os.path.realpath(target)
        if os.path.isfile(target):
            with open(target, "rb") as f:
                if f.read(len(content) + 1) == content:
                    return  # the scaffold's own
        elif not make or os.path.lexists(target) or not os.path.isdir(os.path.dirname(target)):
            return
        else:
            before = os.stat(os.path.dirname(target)).st_mtime_ns
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
            self._made(target, os.path.dirname(target), before)
        source = f"{STAGING}/file"
        fd = os.open(source, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
        os.write(fd, content)
        os.fchmod(fd, mode)
        os.close(fd)
        linux.mount(source, target, None, linux.MS_BIND)
        linux.mount_setattr(target, linux.MOUNT_ATTR_RDONLY)
        os.unlink(source)
