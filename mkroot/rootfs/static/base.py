"""What the postinst scripts of base-files, libc-bin, base-passwd and tzdata make, as data."""

from __future__ import annotations

from mkroot.rootfs.accounts import Accounts, read_accounts
from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.static.sysusers import make_declared
from mkroot.rootfs.system import os_release, writes_timezone_file
from mkroot.rootfs.users import write_accounts
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK

COPIES = (  # package, from, to: copied where there is none
    ("base-files", "usr/share/base-files/dot.profile", "root/.profile"),
    ("base-files", "usr/share/base-files/dot.bashrc", "root/.bashrc"),
    ("base-files", "usr/share/base-files/profile", "etc/profile"),
    ("base-files", "usr/share/base-files/motd", "etc/motd"),
    ("base-files", "usr/share/base-files/nsswitch.conf", "etc/nsswitch.conf"),
    ("base-files", "usr/share/base-files/info.dir", "usr/share/info/dir"),
    ("libc-bin", "usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf"),
)
FOLDERS = (  # of base-files: path, mode, group
    ("mnt", 0o755, "root"), ("srv", 0o755, "root"), ("opt", 0o755, "root"), ("etc/opt", 0o755, "root"),
    ("var/opt", 0o755, "root"), ("media", 0o755, "root"), ("var/mail", 0o2775, "mail"), ("run/lock", 0o1777, "root"),
    *((f"usr/local{below}", 0o755, "root") for below in (
        "", "/share", "/share/man", "/bin", "/games", "/lib", "/include", "/sbin", "/src", "/etc")),
)  # fmt: skip
LINKS = (  # of base-files: path, target
    ("var/spool/mail", "../mail"), ("var/run", "/run"), ("var/lock", "/run/lock"), ("usr/local/man", "share/man"),
)  # fmt: skip
EMPTY = (("var/log/wtmp", 0o664), ("var/log/btmp", 0o660), ("var/log/lastlog", 0o664))  # of base-files, group utmp
EVERYWHERE = (  # what a root needs whatever is in it (file-hierarchy(7))
    ("tmp", 0o1777), ("var/tmp", 0o1777), ("run", 0o755), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755),
    ("etc", 0o755), ("root", 0o700), ("home", 0o755),
)  # fmt: skip
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


def make_skeleton(recorder: Recorder) -> None:
    """Make the links of a merged /usr and the folders that every root has."""
    tree = recorder.tree
    with recorder.at("static: every root"):
        for name in MERGED:
            if tree.exists(f"usr/{name}") and tree.get(name, follow=False) is None:
                recorder.link(name, f"usr/{name}")
        for path, mode in EVERYWHERE:
            if not tree.exists(path):
                recorder.folder(path, mode)
        if not tree.exists("etc/os-release") and tree.exists("usr/lib/os-release"):
            recorder.link("etc/os-release", "../usr/lib/os-release")


def make_accounts(recorder: Recorder, epoch: int, *, subordinate: bool) -> Accounts:
    """Make passwd, group and their shadows, and the accounts that packages declare in sysusers.d.

    subordinate: whether the set's base-passwd makes empty subuid and subgid files.
    """
    accounts = read_accounts(recorder.tree, epoch)
    with recorder.at("static: base-passwd"):
        write_accounts(recorder, accounts)
        for name in ("subuid", "subgid") if subordinate else ():
            if not recorder.tree.exists(f"etc/{name}"):
                recorder.write(f"etc/{name}", b"", 0o644)
    accounts = read_accounts(recorder.tree, epoch)
    with recorder.at("static: sysusers.d"):
        make_declared(recorder, accounts)
        write_accounts(recorder, accounts)
    return accounts


def make_base_files(recorder: Recorder, packages: set[str], accounts: Accounts) -> None:
    """Make what the postinst scripts of base-files and libc-bin make at a first installation."""
    tree = recorder.tree
    for package, source, target in COPIES:
        entry = tree.get(source)
        above = tree.get(target.rpartition("/")[0])
        if entry is None or entry.kind not in (FILE, HARDLINK) or above is None or tree.exists(target):
            continue
        with recorder.at(f"static: {package}"):
            recorder.write(target, tree.read(source), entry.mode, 0, 0)
    if "base-files" not in packages:
        return
    with recorder.at("static: base-files"):
        vendor = os_release(tree).get("ID", "")
        if tree.exists(f"etc/dpkg/origins/{vendor}") and vendor and not tree.exists("etc/dpkg/origins/default"):
            recorder.link("etc/dpkg/origins/default", vendor)
        for path, target in LINKS[:3]:
            _replace_empty(recorder, path, target)
        for path, mode, group in FOLDERS:
            if not tree.exists(path):
                recorder.folder(path, mode, 0, accounts.group_id(group) or 0)
        if tree.get("usr/local/man", follow=False) is None:
            recorder.link(*LINKS[3])
        for path, mode in EMPTY:
            if not tree.exists(path) and tree.exists("var/log"):
                recorder.write(path, b"", mode, 0, accounts.group_id("utmp") or 0)


def _replace_empty(recorder: Recorder, path: str, target: str) -> None:
    """Put a link where an empty folder or nothing is."""
    entry = recorder.tree.get(path, follow=False)
    if entry is not None and entry.kind == DIR and not recorder.tree.children(path):
        recorder.remove(path)
        entry = None
    if entry is None or (entry.kind == SYMLINK and entry.link != target):
        recorder.link(path, target)


def make_timezone(recorder: Recorder) -> None:
    """Set the zone that tzdata's postinst sets without an answer: Etc/UTC."""
    tree = recorder.tree
    if tree.exists("usr/share/zoneinfo/Etc/UTC") and tree.get("etc/localtime", follow=False) is None:
        with recorder.at("static: tzdata"):
            recorder.link("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
            if writes_timezone_file(tree):
                recorder.write("etc/timezone", b"Etc/UTC\n", 0o644)
