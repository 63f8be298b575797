"""What the postinst scripts of base-files, libc-bin, base-passwd and tzdata make, as data."""

from __future__ import annotations

import re

from mkroot.rootfs.accounts import Accounts, read_accounts
from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.static.sysusers import make_declared
from mkroot.rootfs.system import os_release, writes_timezone_file
from mkroot.rootfs.users import write_accounts
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK

_COPY = re.compile(r"^\s*install_from_default\s+(\S+)\s+(/\S+)\s*$", re.MULTILINE)
_FOLDER = re.compile(r"^\s*install_directory\s+(\S+)\s+([0-7]+)\s+(\S+)\s*$", re.MULTILINE)
_LOCAL = re.compile(r"^\s*install_local_dir\s+/(usr/local\S*)\s*$", re.MULTILINE)
_EMPTY = re.compile(r"^\s*ensure_file_owner_mode\s+/(\S+)\s+root:(\S+)\s+([0-7]+)\s*$", re.MULTILINE)
LINKS = (  # of base-files: path, target
    ("var/spool/mail", "../mail"), ("var/run", "/run"), ("var/lock", "/run/lock"), ("usr/local/man", "share/man"),
)  # fmt: skip
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


def make_base_files(recorder: Recorder, postinst: str, accounts: Accounts) -> None:
    """Make what the postinst of base-files makes at a first installation; its calls are read as data.

    postinst: the script, "" where base-files is not in the set.
    """
    tree = recorder.tree
    _copy(recorder, "usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf", "libc-bin")
    if not postinst:
        return
    for name, target in _COPY.findall(postinst):
        _copy(recorder, f"usr/share/base-files/{name}", target.lstrip("/"), "base-files")
    with recorder.at("static: base-files"):
        vendor = os_release(tree).get("ID", "")
        if vendor and tree.exists(f"etc/dpkg/origins/{vendor}") and not tree.exists("etc/dpkg/origins/default"):
            recorder.link("etc/dpkg/origins/default", vendor)
        for path, target in LINKS[:3]:
            _replace_empty(recorder, path, target)
        wanted = [(path.strip("/"), int(mode, 8), group) for path, mode, group in _FOLDER.findall(postinst)]
        wanted += [(path.rstrip("/"), 0o755, "root") for path in _LOCAL.findall(postinst)]
        for path, mode, group in wanted:
            if not tree.exists(path):
                recorder.folder(path, mode, 0, accounts.group_id(group) or 0)
        if tree.get("usr/local/man", follow=False) is None:
            recorder.link(*LINKS[3])
        for path, group, mode in _EMPTY.findall(postinst):
            if not tree.exists(path) and tree.exists("var/log"):
                recorder.write(path, b"", int(mode, 8), 0, accounts.group_id(group) or 0)


def _copy(recorder: Recorder, source: str, target: str, package: str) -> None:
    """Copy a file where there is none and its folder is there."""
    tree = recorder.tree
    entry = tree.get(source)
    above = tree.get(target.rpartition("/")[0])
    if entry is None or entry.kind not in (FILE, HARDLINK) or above is None or tree.exists(target):
        return
    with recorder.at(f"static: {package}"):
        recorder.write(target, tree.read(source), entry.mode, 0, 0)


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
