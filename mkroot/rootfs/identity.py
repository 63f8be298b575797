"""As whom mkroot builds: root, an ordinary user's namespace with many ids or with one, or without any namespace.

It is settled once, before threads start and before anything heavy is imported. Every mount that mkroot makes lies in a
mount namespace of its own, so that it is gone with the process, however that ends.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from mkroot.rootfs import idmap, linux
from mkroot.rootfs.idmap import Range
from mkroot.rootfs.standby import PASSED, stand_by

ROOT, MAPPED, SINGLE, NONE = "root", "mapped", "single", "none"
IDS = 65536  # how many ids a Debian system may use (Policy 9.2.2)


class Identity:
    """What this process may do to files and namespaces.

    kind: ROOT (all ids, own mounts), MAPPED (a user namespace with ranges of ids), SINGLE (a user namespace in which
    only id 0 exists) or NONE (no namespaces: maintainer scripts cannot run, nothing can be mounted).
    tag: short and stable; unpacked trees of one tag have owners that another build of the same tag reads right.
    reason: why it is not a better kind; "" for ROOT and MAPPED. hint: what to install or enable for a better one.
    """

    __slots__ = ("gids", "hint", "kind", "reason", "tag", "uids")

    def __init__(
        self,
        kind: str,
        tag: str,
        *,
        uids: tuple[Range, ...] = (),
        gids: tuple[Range, ...] = (),
        reason: str = "",
        hint: str = "",
    ) -> None:
        self.kind, self.tag, self.uids, self.gids, self.reason, self.hint = kind, tag, uids, gids, reason, hint

    def __repr__(self) -> str:
        return f"Identity(kind={self.kind!r}, tag={self.tag!r}, reason={self.reason!r})"

    @property
    def can_mount(self) -> bool:
        """Whether file systems can be mounted and maintainer scripts be run at all."""
        return self.kind != NONE

    @property
    def namespaced(self) -> bool:
        """Whether this process lives in a user namespace, so that overlayfs needs `userxattr`."""
        return self.kind in (MAPPED, SINGLE)

    def can_chown(self, uid: int, gid: int) -> bool:
        """Tell whether files can be given to this owner and group."""
        return _holds(self.uids, uid) and _holds(self.gids, gid)


def _holds(ranges: tuple[Range, ...], number: int) -> bool:
    return any(first <= number < first + count for first, _, count in ranges)


EVERY: tuple[Range, ...] = ((0, 0, 0xFFFFFFFF),)


def assume() -> Identity:
    """Take the best identity that this host gives, and return it.

    As root, the process leaves the host's mount namespace. As an ordinary user it forks: the child goes on as the
    program, in namespaces of its own; the parent stays to pass signals on, and ends as the child ended. A child never
    outlives its parent. Call it once, in a process that has no threads; raises RuntimeError otherwise.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("the identity must be settled before threads start")
    root = os.geteuid() == 0
    if root and linux.has_capability("sys_admin"):
        try:
            linux.unshare(linux.CLONE_NEWNS)
            _make_private()
            return _root_identity()
        except OSError:
            pass  # a container's seccomp filter or security module; a user namespace may still do
    return _enter_user_namespace(root)


def _root_identity() -> Identity:
    """Return what root is here: of the host, or of a user namespace that somebody else made."""
    uids, gids = idmap.rows("/proc/self/uid_map"), idmap.rows("/proc/self/gid_map")
    if uids == gids == EVERY:
        return Identity(ROOT, "root", uids=uids, gids=gids)
    if uids[0][2] > 1 or len(uids) > 1:
        return Identity(MAPPED, "u" + "-".join(f"{first}x{count}" for _, first, count in uids), uids=uids, gids=gids)
    reason = "this user namespace was made with one id"
    hint = "start mkroot as an ordinary user outside of it, or make it with several (`unshare --map-auto`)"
    return Identity(SINGLE, f"s{uids[0][1]}", uids=uids, gids=gids, reason=reason, hint=hint)


def _make_private() -> None:
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)


# ---- which ids


def subordinate(file: str, name: str, number: int) -> list[tuple[int, int]]:
    """Return the ranges (first, count) that subuid(5) or subgid(5) gives a user, by name or number."""
    found = []
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                owner, _, rest = line.strip().partition(":")
                first, _, count = rest.partition(":")
                if owner in (name, str(number)) and first.isdecimal() and count.isdecimal() and int(count) > 0:
                    found.append((int(first), int(count)))
    except OSError:
        return []
    return found


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _spread(own: int, ranges: list[tuple[int, int]]) -> tuple[Range, ...]:
    """Map 0 to `own` and 1 to 65535 to the ranges, as far as they go."""
    lines, inside = [(0, own, 1)], 1
    for first, count in ranges:
        take = min(count, IDS - inside)
        if take > 0:
            lines.append((inside, first, take))
            inside += take
    return tuple(lines)


class _Plan:
    """The id maps to try, and who writes them."""

    __slots__ = ("by_hand", "gids", "lack", "uids")

    def __init__(self, root: bool) -> None:
        self.lack = ""
        if root and linux.has_capability("setuid") and linux.has_capability("setgid"):
            self.by_hand = True  # root without CAP_SYS_ADMIN: it may map every id that it sees
            self.uids, self.gids = idmap.visible("/proc/self/uid_map"), idmap.visible("/proc/self/gid_map")
            return
        uid, gid = os.geteuid(), os.getegid()
        name = _user_name(uid)
        self.by_hand = False
        uids, gids = subordinate("/etc/subuid", name, uid), subordinate("/etc/subgid", name, uid)
        self.uids, self.gids = _spread(uid, uids), _spread(gid, gids)
        for file, ranges in (("/etc/subuid", uids), ("/etc/subgid", gids)):
            if not ranges:
                self.lack = f"{file} names no ids for {name}"
                return
        for tool in ("newuidmap", "newgidmap"):
            if not find_tool(tool):
                self.lack = f"{tool} is not installed"
                return

    @property
    def tag(self) -> str:
        """The tag of a namespace with these maps."""
        if self.by_hand:
            return "root"
        parts = [f"{self.uids[1][1]}"]
        whole = len(self.uids) == len(self.gids) == 2 and self.uids[1][2] == self.gids[1][2] == IDS - 1
        if not whole or self.uids[1][1] != self.gids[1][1]:
            parts += [f"{o}x{n}" for _, o, n in self.uids[2:]] + ["g"] + [f"{o}x{n}" for _, o, n in self.gids[1:]]
            parts.append(f"n{self.uids[1][2]}")
        return "u" + "-".join([*parts, str(self.uids[0][1])])


def find_tool(name: str) -> str | None:
    """Return the path of newuidmap or newgidmap; the system's folders are looked at whatever PATH says."""
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/bin", "/usr/sbin"]:
        path = os.path.join(folder, name)
        if folder.startswith("/") and os.access(path, os.X_OK):
            return path
    return None


# ---- the user namespace


def _enter_user_namespace(root: bool) -> Identity:
    plan = _Plan(root)
    sys.stdout.flush()
    sys.stderr.flush()
    ready, go = os.pipe(), os.pipe()
    parent = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED | {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        os.close(ready[0])
        os.close(go[1])
        identity = _be_the_program(plan, parent, ready[1], go[0])
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return identity
    os.close(ready[1])
    os.close(go[0])
    fault = _map_ids(plan, child, ready[0], go[1])
    os.close(ready[0])
    os.close(go[1])
    if fault is None:
        stand_by(child)
    os.waitpid(child, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    reason, hint = _explain(fault or 0)
    if root and linux.has_capability("chown"):
        return Identity(NONE, "root", uids=EVERY, gids=EVERY, reason=reason, hint=hint)
    uid, gid = os.geteuid(), os.getegid()
    return Identity(NONE, f"n{uid}", uids=((uid, uid, 1),), gids=((gid, gid, 1),), reason=reason, hint=hint)


def _be_the_program(plan: _Plan, parent: int, ready: int, go: int) -> Identity:
    """The child: make the namespaces, wait for the maps, make sure that mounts work, and go on; or end."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        os.write(ready, b"u")
        kind, _, lack = os.read(go, 1024).decode().partition(" ")
        if kind not in ("m", "s"):
            os._exit(1)
        if kind == "m" and not plan.by_hand:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        _make_private()
        os.write(ready, b"m")
        if os.read(go, 1) != b"k":
            os._exit(1)
    except OSError as e:
        os.write(ready, b"!" + str(e.errno).encode())
        os._exit(1)
    os.close(ready)
    os.close(go)
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        # No terminal that signals the whole group: a group of its own, so that a signal to the parent's group arrives
        # once, passed on by the parent, and not twice.
        os.setpgid(0, 0)
    if kind == "m":
        return Identity(MAPPED, plan.tag, uids=plan.uids, gids=plan.gids)
    hint = "let an administrator run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535` for this user"
    if "installed" in lack:
        hint = "install the package that brings newuidmap and newgidmap (`uidmap` on Debian and Ubuntu)"
    return Identity(SINGLE, f"s{uid}", uids=((0, uid, 1),), gids=((0, gid, 1),), reason=lack, hint=hint)


def _map_ids(plan: _Plan, child: int, ready: int, go: int) -> int | None:
    """The parent: write the child's id maps; return None when the child can go on, else the errno that stopped it."""
    try:
        if (answer := os.read(ready, 16)) != b"u":
            return _number(answer)
        kind = b"s"
        if not plan.lack:
            plan.lack = _write_ranges(plan, child)
            kind = b"s" if plan.lack else b"m"
        if kind == b"s":
            _write_single(child)
        os.write(go, kind + b" " + plan.lack.encode())
        if (answer := os.read(ready, 16)) != b"m":
            return _number(answer)
        os.write(go, b"k")
        return None
    except OSError as e:
        return e.errno or errno.EIO


def _number(answer: bytes) -> int:
    digits = answer.lstrip(b"um!")
    return int(digits) if digits.isdigit() else errno.EIO


def _write_ranges(plan: _Plan, child: int) -> str:
    """Write the maps of several ids; return "" or what failed."""
    if plan.by_hand:
        try:
            idmap.write(f"/proc/{child}/uid_map", plan.uids)
            idmap.write(f"/proc/{child}/gid_map", plan.gids)
            return ""
        except OSError as e:
            return f"the ids of this container cannot be mapped: {e.strerror}"
    running = []
    for tool, ranges in (("newuidmap", plan.uids), ("newgidmap", plan.gids)):
        path = find_tool(tool) or tool
        words = [tool, str(child), *(str(n) for line in ranges for n in line)]
        quiet = [(os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in (0, 1, 2)]
        running.append((tool, os.posix_spawn(path, words, {"PATH": "/usr/bin:/bin"}, file_actions=quiet)))
    failed = [tool for tool, pid in running if os.waitpid(pid, 0)[1] != 0]
    return f"{failed[0]} refuses the ids that /etc/subuid and /etc/subgid name" if failed else ""


def _write_single(child: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    for name, lines in (("uid_map", ((0, uid, 1),)), ("gid_map", ((0, gid, 1),))):
        with open(f"/proc/{child}/{name}", encoding="ascii") as f:
            if f.read().strip():
                continue  # newuidmap did its part before newgidmap failed
        if name == "gid_map":
            with open(f"/proc/{child}/setgroups", "w", encoding="ascii") as f:
                f.write("deny")
        idmap.write(f"/proc/{child}/{name}", lines)


# ---- why not


def _setting(path: str) -> str:
    try:
        with open(path, encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return ""


def _explain(number: int) -> tuple[str, str]:
    """Return why there is no user namespace, and what to enable, from the errno and the host's settings."""
    if _setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor keeps ordinary programs from using user namespaces (Ubuntu 23.10 and later)",
            "run mkroot as root, or let an administrator set `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
            " or give mkroot's Python an AppArmor profile with `userns,`",
        )
    if _setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return (
            "this host lets only root make user namespaces",
            "run mkroot as root, or let an administrator set `sysctl kernel.unprivileged_userns_clone=1`",
        )
    if _setting("/proc/sys/user/max_user_namespaces") == "0" or number == errno.ENOSPC:
        return (
            "the limit on user namespaces is reached, or is zero",
            "let an administrator raise `sysctl user.max_user_namespaces`",
        )
    if number in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        return (
            "user namespaces are forbidden here, as container engines do by their seccomp filter",
            "run mkroot outside the container, or start it with `--privileged`, or at least"
            " `--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined`",
        )
    return (f"a user namespace cannot be made: {os.strerror(number)}", "run mkroot as root")
