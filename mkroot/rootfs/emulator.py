"""Has the kernel run the programs of a foreign architecture for one process and all that it starts.

Where the kernel does so already, by the processor or by what the host registered in binfmt_misc, nothing is changed.
Else the process goes on in a user namespace of its own, in which every id is what it was: since Linux 6.7 such a one
has a binfmt_misc of its own (fs/binfmt_misc.c), and the emulator is registered there. The kernel opens it at once, so
that it need not be in the root; the file system is not mounted anywhere, and is gone with the process.

Quick parts of the standard library only: see `mkroot.rootfs.sandbox_init`.
"""

from __future__ import annotations

import marshal
import os
import sys

from mkroot.rootfs import idmap, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WORDS = 23  # of a sample's command line
# What keeps foreign programs from running: there is no emulator; there are no user namespaces, or no binfmt_misc of
# their own; the emulator does not work.
ABSENT, USERS, REGISTER, EMULATE = "absent", "users", "register", "emulate"
KERNEL, OWN = "kernel", "own"  # what runs them
_SAMPLE = "sample"


class Cannot(Exception):
    """Foreign programs do not run here. step: ABSENT, …; number: the kernel's error, 0 for none.

    `mkroot.rootfs.foreign.missing` says so in words.
    """

    def __init__(self, step: str, number: int = 0) -> None:
        super().__init__(step, number)
        self.step, self.number = step, number


def hold(interpreter: str) -> int:
    """Return a descriptor of an emulator that stays one when the root is another; raises OSError.

    Whoever runs by it has it as /proc/self/exe, and may be root: through this descriptor the host's file cannot be
    changed (compare CVE-2019-5736 of runc). Needs a mount namespace of its own.
    """
    linux.mount(interpreter, interpreter, None, linux.MS_BIND)
    linux.mount_setattr(interpreter, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NODEV)
    return os.open(interpreter, os.O_PATH | os.O_CLOEXEC)


def start(given: dict[str, Any], held: int, folder: str) -> int:
    """See to it that this process runs foreign programs; return the descriptor that keeps it so, -1 where none need.

    given: what `mkroot.rootfs.foreign.given` returned. held: its emulator, as `hold` returned it; -1 for none. folder:
    takes a sample for a moment. Before the bounding set and filters are set, which a user namespace takes away or
    needs. Raises Cannot, OSError.
    """
    path = f"{folder}/{_SAMPLE}"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o755)
    os.write(fd, given["sample"])
    os.fchmod(fd, 0o755)
    os.close(fd)
    try:
        if _tried(path) == WORDS:
            return -1
        if held < 0:
            raise Cannot(ABSENT)
        _enter()
        return _register(given["rules"], f"/proc/self/fd/{held}", path)
    finally:
        os.unlink(path)


def _tried(path: str, root: str = "") -> int:
    """Execute a sample; return how many words it was given, or the kernel's error as a negative number.

    root: a folder to make the root first, as far as this process may.
    """
    report, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if root:
                _change_root(root)
            os.execve(path, [_SAMPLE] * WORDS, {})
        except OSError as e:
            os.write(told, str(e.errno).encode())
        finally:
            os._exit(0)
    os.close(told)
    fault = os.read(report, 16)
    os.close(report)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return -int(fault) if fault else code


def _change_root(folder: str) -> None:
    try:
        os.chroot(folder)
    except PermissionError:
        linux.unshare(linux.CLONE_NEWUSER)
        os.chroot(folder)
    os.chdir("/")


def _enter() -> None:
    """Go on in a user namespace with a mount namespace, each id mapped onto itself; raises Cannot.

    The map is written by a child that stays outside. Where that has no rights, as for an ordinary user who only asks
    whether it would work, this process gets its own id alone, which is enough to register.
    """
    ready, gone = os.pipe()
    maps = [(name, idmap.visible(f"/proc/self/{name}")) for name in ("gid_map", "uid_map")]
    uid, gid, own = os.geteuid(), os.getegid(), os.getpid()
    lone = not linux.has_capability("setuid")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(gone)
            if os.read(ready, 1):
                for name, lines in maps:
                    idmap.write(f"/proc/{own}/{name}", lines)
                code = 0
        except OSError as e:
            code = e.errno or 1
        finally:
            os._exit(code)
    os.close(ready)
    try:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        os.write(gone, b"u")
    except OSError as e:
        raise Cannot(USERS, e.errno or 0) from e
    finally:
        os.close(gone)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not code:
        return
    if not lone:  # it must not go on with fewer ids than it had
        raise Cannot(USERS, code)
    try:
        with open("/proc/self/setgroups", "wb") as f:
            f.write(b"deny")
        idmap.write("/proc/self/uid_map", ((0, uid, 1),))
        idmap.write("/proc/self/gid_map", ((0, gid, 1),))
    except OSError as e:
        raise Cannot(USERS, code) from e


def _register(rules: list[bytes], interpreter: str, path: str) -> int:
    """Register an emulator in this user namespace, by the first rule that works; return what keeps it registered."""
    try:
        context = linux.fsopen("binfmt_misc")
        try:
            linux.fsconfig(context, linux.FSCONFIG_CMD_CREATE)
            at = linux.fsmount(context)
        finally:
            os.close(context)
    except OSError as e:
        raise Cannot(REGISTER, e.errno or 0) from e
    seen = 0
    for rule in rules:
        try:
            fd = os.open("register", os.O_WRONLY | os.O_CLOEXEC, dir_fd=at)
            try:
                os.write(fd, rule % interpreter.encode())
            finally:
                os.close(fd)
        except OSError as e:
            raise Cannot(REGISTER, e.errno or 0) from e
        seen = _tried(path)
        if seen == WORDS:
            return at
    raise Cannot(EMULATE, -seen if seen < 0 else 0)


def main() -> None:
    """Read what to try from stdin, and write for each what runs it (KERNEL, OWN), or a step and an error's number.

    Each to try: a name, what `start` takes as given, and below which folder the sample of that name lies.
    """
    wanted = marshal.loads(sys.stdin.buffer.read())
    answers: dict[str, tuple[str, int]] = {}
    for name, _, folder in wanted:
        if _tried(f"/{name}", folder) == WORDS:
            answers[name] = (KERNEL, 0)
    entered = False
    for name, given, folder in wanted:
        if name in answers:
            continue
        try:
            if not given["interpreter"]:
                raise Cannot(ABSENT)
            if not entered:
                _enter()
                entered = True
            _register(given["rules"], given["interpreter"], f"{folder}/{name}")
            answers[name] = (OWN, 0)
        except Cannot as e:
            answers[name] = (e.step, e.number)
    sys.stdout.buffer.write(marshal.dumps(answers))
