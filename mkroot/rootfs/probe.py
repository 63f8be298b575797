"""What this host can do for mkroot, each tried for real, and what to install or enable for what it cannot."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import msgspec

from mkroot.errors import MkrootError
from mkroot.rootfs import linux, seccomp
from mkroot.rootfs.identity import MAPPED, NONE, ROOT, SINGLE, Identity, find_tool, subordinate
from mkroot.rootfs.sandbox import Sandbox
from mkroot.rootfs.union import mount_union, unmount

# statfs(2) names of file systems by magic number are the kernel's own; /proc/self/mountinfo gives the name.
_NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
_UID_WORDS = {
    ROOT: "root: every owner, own mounts",
    MAPPED: "an ordinary user with subordinate ids",
    SINGLE: "an ordinary user with one id: scripts run, owners are recorded beside the files",
    NONE: "no namespaces: nothing is mounted and no maintainer script runs",
}


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that mkroot asks of a host.

    works: whether it is there. needed: whether a build does not work without. hint: what to install or enable; "" where
    it works.
    """

    name: str
    works: bool
    detail: str
    hint: str = ""
    needed: bool = False


def probe(identity: Identity, store: Path, *, uid: int, user: str) -> list[Fact]:
    """Return the facts for `doctor`, in a fixed order.

    identity: as `identity.assume` returned it. store: the store's folder; the file systems are tried there. uid, user:
    of whoever started mkroot, as they were before `assume`. Never raises for what the host lacks.
    """
    facts = [
        Fact(
            name="identity",
            works=identity.can_mount,
            detail=_UID_WORDS[identity.kind] + (f" ({identity.reason})" if identity.reason else ""),
            hint=identity.hint,
            needed=True,
        )
    ]
    facts += _tools(identity, uid, user)
    facts.append(_openat2())
    facts.append(_store(store))
    folder = store if store.is_dir() and os.access(store, os.W_OK) else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="mkroot-probe-", dir=folder) as aside:
        facts.append(_overlay(identity, Path(aside)))
        facts.append(_sandbox(identity, Path(aside)))
        facts.append(_attributes(Path(aside)))
    facts.append(_notification(identity))
    return facts


def _tools(identity: Identity, uid: int, user: str) -> list[Fact]:
    if identity.kind == ROOT:
        return []
    facts = []
    for tool in ("newuidmap", "newgidmap"):
        path = find_tool(tool)
        hint = "" if path else "install `uidmap` (Debian, Ubuntu) or `shadow-utils`"
        facts.append(Fact(name=tool, works=bool(path), detail=path or "not installed", hint=hint))
    for file in ("/etc/subuid", "/etc/subgid"):
        count = sum(n for _, n in subordinate(file, user, uid))
        hint = f"run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}` as root"
        works = count >= 65535
        facts.append(Fact(name=file, works=works, detail=f"{count} ids for {user}", hint="" if works else hint))
    return facts


def _openat2() -> Fact:
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(linux.open_in_root(fd, "/", os.O_PATH))
        return Fact(name="openat2", works=True, detail="yes")
    except OSError as e:
        detail = f"{e.strerror}; folders are opened one by one instead"
        return Fact(name="openat2", works=False, detail=detail, hint="use Linux 5.6 or later")
    finally:
        os.close(fd)


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path` or the nearest folder above it that exists, or `unknown`."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        device = path.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.split()[2] == wanted:
                    return line.partition(" - ")[2].split()[0]
    except OSError:
        pass
    return "unknown"


def _store(store: Path) -> Fact:
    kind = file_system(store)
    works = kind not in _NETWORKED
    hint = "" if works else "set MKROOT_STORE to a folder on a local disk: owners and attributes are not kept here"
    return Fact(name="store", works=works, detail=f"{store} on {kind}", hint=hint)


def _overlay(identity: Identity, aside: Path) -> Fact:
    name = "overlayfs"
    slower = "without it each root is made of copies, which is slower"
    if not identity.can_mount:
        return Fact(name=name, works=False, detail="not tried: nothing can be mounted", hint=slower)
    lower = aside / "lower"
    (lower / "d").mkdir(parents=True)
    (lower / "d/f").touch()
    try:
        union = mount_union(aside / "at", [lower], aside / "upper", aside / "work", namespaced=identity.namespaced)
    except MkrootError as e:
        return Fact(name=name, works=False, detail=e.what, hint=slower)
    try:
        if not union.mounted:
            hint = f"use Linux 5.11 or later, or `modprobe overlay` as root; {slower}"
            return Fact(name=name, works=False, detail=union.why_not, hint=hint)
        (union.at / "d/f").unlink()
        (union.at / "d").rmdir()
        (union.at / "d").mkdir()
        where = "in memory, for the store's file system cannot be written through it" if union.in_memory else "yes"
        return Fact(name=name, works=True, detail=where)
    except OSError as e:
        return Fact(name=name, works=False, detail=f"whiteouts do not work here: {e.strerror}", hint=slower)
    finally:
        unmount(union)


def _sandbox(identity: Identity, aside: Path) -> Fact:
    hint = "`configure: static` and `configure: none` work without"
    root = aside / "root"
    for name in ("dev", "proc"):
        (root / name).mkdir(parents=True)
    try:
        with Sandbox(root, identity=identity, epoch=0) as box:
            return Fact(name="sandbox", works=True, detail="; ".join(box.limits) or "yes", needed=True)
    except MkrootError as e:
        return Fact(name="sandbox", works=False, detail=e.what, hint=e.hint or hint, needed=True)


def _attributes(aside: Path) -> Fact:
    file = aside / "attributes"
    file.touch()
    try:
        os.setxattr(file, "user.mkroot.probe", b"1")
        return Fact(name="extended attributes", works=True, detail="yes")
    except OSError as e:
        hint = "set MKROOT_STORE to a folder on ext4, xfs or btrfs"
        return Fact(name="extended attributes", works=False, detail=e.strerror or "no", hint=hint)


def _notification(identity: Identity) -> Fact:
    """Try the filter in a process of its own: it cannot be taken off again."""
    name = "seccomp user notification"
    if os.uname().machine not in seccomp.CALLS:
        return Fact(name=name, works=False, detail=f"not known for {os.uname().machine}")
    words = "needed with a single id only"
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            if not identity.can_mount:
                linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
            seccomp.install(notify=True)
        except OSError as e:
            code = e.errno or errno.EIO
        finally:
            os._exit(code & 0xFF)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return Fact(name=name, works=True, detail=f"yes ({words})")
    hint = "use Linux 5.0 or later with CONFIG_SECCOMP_FILTER"
    return Fact(name=name, works=False, detail=f"{os.strerror(abs(code))} ({words})", hint=hint)
