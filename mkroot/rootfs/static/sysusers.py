"""Users and groups that packages declare in sysusers.d(5), made as systemd-sysusers(8) makes them."""

from __future__ import annotations

import re
import shlex

from mkroot.rootfs.accounts import Accounts, number
from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.tree import Tree
from mkroot.tar.entry import FILE, HARDLINK

FOLDERS = ("usr/lib/sysusers.d", "etc/sysusers.d")  # a file of a later folder hides one of the same name
HIGHEST = 999  # SYS_UID_MAX; free numbers are taken downwards from it


def declared(tree: Tree) -> list[list[str]]:
    """Return the lines of all sysusers.d files, split into words, groups first."""
    files: dict[str, str] = {}
    for folder in FOLDERS:
        files.update((n, f"{folder}/{n}") for n in tree.children(folder) if n.endswith(".conf"))
    lines: list[list[str]] = []
    for name in sorted(files):
        entry = tree.get(files[name])
        if entry is None or entry.kind not in (FILE, HARDLINK):
            continue
        for line in tree.read(files[name]).decode("utf-8", "replace").splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue
            if len(words) >= 2 and words[0].rstrip("!") in ("u", "g", "m"):
                lines.append([words[0].rstrip("!"), *words[1:]])
    return sorted(lines, key=lambda w: {"g": 0, "u": 1, "m": 2}[w[0]])


def make_declared(recorder: Recorder, accounts: Accounts) -> None:
    """Add the accounts that packages declare and the image lacks; what cannot be decided from files is noted."""
    for kind, name, *rest in declared(recorder.tree):
        given = rest[0] if rest else "-"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,30}", name):
            recorder.note(f"sysusers.d: account {name!r} is not made")
        elif kind == "m":
            if accounts.user_ids(name) and accounts.group_id(given) is not None:
                accounts.add_member(given, name)
        elif kind == "g":
            if accounts.group_id(name) is None:
                gid = number(given)
                _group(accounts, name, _free(accounts) if gid is None else gid)
        elif accounts.user_ids(name) is None:
            _user(accounts, name, given, *(rest[1:4]))


def _free(accounts: Accounts) -> int:
    taken = accounts.passwd.ids() | accounts.group.ids()
    return next(n for n in range(HIGHEST, 0, -1) if n not in taken)


def _group(accounts: Accounts, name: str, gid: int) -> int:
    accounts.add_group(name, gid)
    line = accounts.gshadow.find(name)
    if line is not None:
        line[1] = "!*"
    return gid


def _user(accounts: Accounts, name: str, given: str, comment: str = "", home: str = "-", shell: str = "-") -> None:
    wanted, _, group = given.partition(":")
    gid = number(group)
    if gid is None:
        gid = accounts.group_id(group or name)
    uid = number(wanted)
    if uid is None:
        uid = gid
    if uid is None or uid in accounts.passwd.ids():
        uid = _free(accounts)
    if gid is None:
        gid = _group(accounts, name, uid if uid not in accounts.group.ids() else _free(accounts))
    home, shell = "/" if home in ("-", "") else home, "/usr/sbin/nologin" if shell in ("-", "") else shell
    accounts.passwd.lines.append([name, "x", str(uid), str(gid), "" if comment == "-" else comment, home, shell])
    if accounts.shadow.present:
        accounts.shadow.lines.append([name, "!*", str(accounts.day), "", "", "", "", "", ""])
