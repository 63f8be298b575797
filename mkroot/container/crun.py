"""Runs a container's commands by crun: the OCI runtime bundle (runtime-spec 1.0), and crun's command lines.

Process 1 is mkroot's own here, too: crun starts in its PID namespace, so what is left behind is reaped, and ends with
it. Quick to import: see `mkroot.container.init`.
"""

from __future__ import annotations

import errno
import os
import select

from mkroot.container.console import SOCKET
from mkroot.container.signals import default_signals
from mkroot.rootfs import linux
from mkroot.rootfs.filter import DENIED
from mkroot.rootfs.kernelfs import NODES, loopback_up

TYPE_CHECKING = False
if TYPE_CHECKING:  # neither is imported while it runs
    from collections.abc import Sequence
    from typing import Any

_UNIFIED = "/sys/fs/cgroup/unified"
_NAME = "container"
_NODEV = 'PATH=/bin:/usr/bin; cat >/dev/null; exec mount -o remount,bind,nodev "$0"'  # a hook reads what crun tells it
_QUIET = ["nosuid", "noexec", "nodev"]
_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)  # CLONE_NEW flags

_HARMLESS = (3, 17)  # bits of a personality: Linux32, UNAME26


def process(request: dict[str, Any], capabilities: Sequence[str]) -> dict[str, Any]:
    """Return a command as the specification has it (config.md, "Process")."""
    kept = sorted(f"CAP_{name.upper()}" for name in capabilities)
    effective = [] if request["uid"] else kept
    found = {
        "terminal": bool(request["terminal"]),
        "user": {
            "uid": request["uid"],
            "gid": request["gid"],
            "additionalGids": sorted({request["gid"], *request["groups"]}),
            "umask": 0o022,
        },
        "args": list(request["argv"]),
        "env": [f"{name}={value}" for name, value in request["environment"].items()],
        "cwd": request["workdir"],
        "capabilities": {"bounding": kept, "effective": effective, "permitted": effective},
        "noNewPrivileges": False,
    }
    if request["terminal"]:
        found["consoleSize"] = dict(zip(("height", "width"), request["size"], strict=True))
    return found


def bundle(config: dict[str, Any]) -> dict[str, Any]:
    """Return a container as the specification has it, without its process.

    config: that of `mkroot.container.setup.Setup`, with the bundle's `folder`, paths to hide and to fix (read-only),
    and whether this is a user namespace. It has process 1's PID and network namespaces.
    """
    spaces = ["mount", "ipc", "uts", "cgroup"]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": config["root"], "readonly": config["read_only"]},
        "hostname": config["hostname"],
        "mounts": _mounts(config),
        # crun takes `nodev` off the root, and without a list of devices every node in the image would open.
        "hooks": {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", _NODEV, config["root"]]}]},
        "linux": {
            "namespaces": [{"type": kind} for kind in spaces],
            "rootfsPropagation": "private",
            "maskedPaths": ["/" + path for path in config["hidden"]],
            "readonlyPaths": ["/" + path for path in config["fixed"]],
            "seccomp": _seccomp(),
        },
    }


def _mounts(config: dict[str, Any]) -> list[dict[str, Any]]:
    def mount(at: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": at, "type": kind, "source": source, "options": list(options)}

    sysfs = mount("/sys", "sysfs", "sysfs", *_QUIET, "ro")
    if config["namespaced"] and not config["network"]:
        # The network is not this namespace's own. `rro`: the control groups lie in mounts below it.
        sysfs = mount("/sys", "bind", "/sys", "rbind", *_QUIET, "rro")
    found = [
        mount("/proc", "proc", "proc", *_QUIET),
        sysfs,
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "nodev", "strictatime", "mode=755", "size=65536k"),
        # Bound before crun would make them: a node that it made could not be opened on a file system without devices,
        # and one without that bound would open whatever the container makes there, the host's disks too.
        *(mount(f"/dev/{name}", "bind", f"/dev/{name}", "bind", "nosuid", "noexec") for name in NODES),
        mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", "shm", *_QUIET, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", *_QUIET),
    ]
    for number, (path, _) in enumerate(config["files"]):
        found.append(mount("/" + path, "bind", f"{config['folder']}/file{number}", "bind", *_QUIET))
    for source, path, read_only, _ in config["volumes"]:
        found.append(mount("/" + path, "bind", source, "rbind", "nodev", "rro" if read_only else "rw"))
    return found


def _seccomp() -> dict[str, Any]:
    """Return `mkroot.rootfs.filter` in the specification's words."""
    refuse, bits = "SCMP_ACT_ERRNO", "SCMP_CMP_MASKED_EQ"
    rules: list[dict[str, Any]] = [
        {"names": sorted(DENIED), "action": refuse, "errnoRet": 1},
        {"names": ["clone3"], "action": refuse, "errnoRet": 38},
        {
            "names": ["socket"],
            "action": refuse,
            "errnoRet": 1,
            "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}],
        },
    ]
    looked_at = [("clone", flag, flag) for flag in _NAMESPACES]
    # A bit that no harmless personality has, and not bit 31, which the question for the present one has (0xFFFFFFFF).
    looked_at += [("personality", 1 << bit | 1 << 31, 1 << bit) for bit in range(31) if bit not in _HARMLESS]
    for name, mask, value in looked_at:
        argument = {"index": 0, "value": mask, "valueTwo": value, "op": bits}
        rules.append({"names": [name], "action": refuse, "errnoRet": 1, "args": [argument]})
    machines = {"x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "aarch64": ["SCMP_ARCH_AARCH64"]}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": machines.get(os.uname().machine, []),
        "syscalls": rules,
    }


def prepare(root: str, folder: str, files: Sequence[tuple[str, bytes]], network: bool) -> None:
    """Make what crun finds, in a mount namespace of process 1's own, and go to the bundle's folder; raises OSError.

    The bundle is in memory, so that no path of the host's disk shows in the container's list of mounts.
    """
    linux.unshare(linux.CLONE_NEWNS | (linux.CLONE_NEWNET if network else 0))
    if network:
        loopback_up()
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.mount_setattr(root, linux.MOUNT_ATTR_NODEV)
    if os.path.ismount(_UNIFIED):
        # crun 1.8 refuses a host with both versions. Covered, for in a user namespace nothing can be unmounted.
        linux.mount("tmpfs", _UNIFIED, "tmpfs", linux.MS_RDONLY, "size=4k")
    linux.mount("tmpfs", folder, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=711,size=64m")
    os.chdir(folder)
    os.mkdir("state", 0o700)
    for number, (_, content) in enumerate(files):
        fd = os.open(f"file{number}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.write(fd, content)
        os.fchmod(fd, 0o644)
        os.close(fd)


def command_line(crun: str, main: bool, terminal: bool, number: int) -> list[str]:
    """Return crun's command line, which is run in the bundle's folder; `number` tells further commands apart."""
    words = [crun, "--root", "state", "--cgroup-manager=disabled", f"--log=log{number}", "run" if main else "exec"]
    if terminal:
        words += ["--console-socket", f"{SOCKET}{number}"]
    words += ["--pid-file", f"pid{number}"]
    return [*words, "--bundle", ".", _NAME] if main else [*words, "--process", f"process{number}", _NAME]


def fault(number: int) -> tuple[int, str]:
    """Return what kept crun from executing a command: an errno, and the step; (0, "") where nothing did."""
    try:
        with open(f"log{number}", encoding="utf-8", errors="replace") as f:
            text = f.read().strip()
    except OSError:
        return 0, ""
    if not text:
        return 0, ""
    found = [n for n in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR) if os.strerror(n) in text]
    execute = "executable" in text or "exec " in text
    return found[0] if found else errno.EIO, "execute" if execute else text[-300:]


class Crun:
    """Starts commands by crun, in the bundle's folder, which is the current one."""

    def __init__(self, program: str, bundle: dict[str, Any], capabilities: frozenset[str]) -> None:
        self._program, self._bundle, self._capabilities = program, bundle, capabilities

    def write(self, number: int, request: dict[str, Any], main: bool) -> None:
        """Write what crun reads before it starts the command."""
        import json

        found = process(request, sorted(self._capabilities))
        name, document = ("config.json", {**self._bundle, "process": found}) if main else (f"process{number}", found)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as f:
            json.dump(document, f)

    def become(self, number: int, main: bool, fds: list[int], terminal: bool) -> None:
        """In the child: become crun; raises OSError."""
        if terminal:
            fds = [0, 0, 0]
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        default_signals()
        os.umask(0o022)
        words = command_line(self._program, main, terminal, number)
        os.execve(words[0], words, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": "/tmp"})

    @staticmethod
    def started(number: int) -> int:
        """Return the number of a command's process, or 0 while crun has not written it down."""
        try:
            with open(f"pid{number}", encoding="ascii") as f:
                return int(f.read())
        except (FileNotFoundError, ValueError):
            return 0

    @classmethod
    def pid(cls, number: int) -> int:
        """Return the number of a command's process; raises OSError where crun does not tell it in a second."""
        for _ in range(50):
            if found := cls.started(number):
                return found
            select.poll().poll(20)  # the command may be running before crun has written it down
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
