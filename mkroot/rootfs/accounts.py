"""Users and groups: the account files of an image, read and written as useradd(8) and groupadd(8) leave them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import ClassVar

from mkroot.errors import RecipeError, RootfsError
from mkroot.rootfs.tree import Tree

DEFAULTS = {  # login.defs(5), where the image's own says nothing
    "UID_MIN": 1000, "UID_MAX": 60000, "GID_MIN": 1000, "GID_MAX": 60000,
    "SUB_UID_MIN": 100_000, "SUB_UID_MAX": 600_100_000, "SUB_UID_COUNT": 65536,
    "SUB_GID_MIN": 100_000, "SUB_GID_MAX": 600_100_000, "SUB_GID_COUNT": 65536,
    "PASS_MIN_DAYS": 0, "PASS_MAX_DAYS": 99999, "PASS_WARN_AGE": 7,
    "HOME_MODE": 0o700,  # where login.defs has none, adduser's DIR_MODE
}  # fmt: skip
AGES = ("PASS_MIN_DAYS", "PASS_MAX_DAYS", "PASS_WARN_AGE")
MASTERS = "usr/share/base-passwd"  # base-passwd's own copies, which its postinst installs
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"

NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)

Lines = list[list[str]]


def login_defs(text: str | None) -> dict[str, int]:
    """Return the numbers of a login.defs(5) by name, the defaults for those it lacks; octal and hex as strtol(3).

    text: None where the image has none. Of a file that is there, missing ages of passwords are -1: none.
    """
    values = dict(DEFAULTS)
    if text is None:
        return values
    values.update(dict.fromkeys(AGES, -1))
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] not in values:
            continue
        word = words[1]
        try:
            octal = len(word) > 1 and word.startswith("0") and word.isdigit()
            values[words[0]] = int(word, 8) if octal else int(word, 0)
        except ValueError:
            continue
    return values


def number(text: str) -> int | None:
    """Return the number that a field of an account file holds, or None."""
    return int(text) if NUMBER.fullmatch(text) else None


class AccountFile:
    """One file of colon-separated lines; those with fewer than `width` fields are kept as they are."""

    def __init__(self, text: str | None, width: int) -> None:
        self.present = text is not None
        self.width = width
        self.lines: Lines = [line.split(":") for line in (text or "").splitlines()]
        self.text = text

    def find(self, name: str) -> list[str] | None:
        """Return the fields of the first line with this name."""
        return next((f for f in self.lines if f[0] == name and len(f) >= self.width), None)

    def by_id(self, wanted: int) -> list[str] | None:
        """Return the fields of the first line whose third field is `wanted`."""
        return next((f for f in self.lines if len(f) >= self.width and number(f[2]) == wanted), None)

    def ids(self, field: int = 2) -> set[int]:
        """Return the numbers in a field."""
        found = (number(f[field]) for f in self.lines if len(f) > field)
        return {n for n in found if n is not None}

    def render(self) -> str:
        """Return the file's text."""
        return "".join(":".join(f) + "\n" for f in self.lines)


class Accounts:
    """The users and groups of an image.

    defs: numbers of login.defs. day: days since 1970, the date of a password's last change.
    FILES: their names, each with the fields that a line must have to count.
    """

    FILES: ClassVar[dict[str, int]] = {"passwd": 7, "group": 4, "shadow": 3, "gshadow": 4, "subuid": 3, "subgid": 3}

    def __init__(self, texts: Mapping[str, str | None], defs: Mapping[str, int], day: int) -> None:
        self.files = {name: AccountFile(texts.get(name), width) for name, width in self.FILES.items()}
        self.passwd, self.group = self.files["passwd"], self.files["group"]
        self.shadow, self.gshadow = self.files["shadow"], self.files["gshadow"]
        self.defs = defs
        self.day = day

    def user_ids(self, name: str) -> tuple[int, int] | None:
        """Return a user's uid and primary gid, or None."""
        fields = self.passwd.find(name)
        if fields is None:
            return None
        uid, gid = number(fields[2]), number(fields[3])
        if uid is None or gid is None:
            raise RootfsError(f"the image's /etc/passwd has a malformed line for `{name}`")
        return uid, gid

    def group_id(self, name: str) -> int | None:
        """Return a group's gid, or None."""
        fields = self.group.find(name)
        return number(fields[2]) if fields is not None else None

    def free_id(self, reserved: Iterable[int] = (), *, group_only: bool = False) -> int:
        """Return the lowest free number for a user and a group of its own, as adduser(8) takes it."""
        taken = set(reserved) | self.group.ids()
        low, high = self.defs["GID_MIN"], self.defs["GID_MAX"]
        if not group_only:
            taken |= self.passwd.ids()
            low, high = max(low, self.defs["UID_MIN"]), min(high, self.defs["UID_MAX"])
        for candidate in range(low, high + 1):
            if candidate not in taken:
                return candidate
        raise RecipeError(f"no number between {low} and {high} is free in the image")

    def add_group(self, name: str, gid: int) -> None:
        """Add a group, as groupadd does."""
        self.group.lines.append([name, "x" if self.gshadow.present else "*", str(gid), ""])
        if self.gshadow.present:
            self.gshadow.lines.append([name, "!", "", ""])

    def add_member(self, group: str, user: str) -> None:
        """Add a user to a group's members in group and gshadow."""
        for file in (self.group, self.gshadow):
            fields = file.find(group)
            if fields is not None and len(fields) > 3:
                members = [m for m in fields[3].split(",") if m]
                if user not in members:
                    fields[3] = ",".join([*members, user])

    def add_user(self, name: str, uid: int, gid: int, comment: str, home: str, shell: str) -> None:
        """Add a user whose password is locked, as useradd does."""
        self.passwd.lines.append([name, "x" if self.shadow.present else "!", str(uid), str(gid), comment, home, shell])
        if self.shadow.present:
            self.shadow.lines.append([name, "!", *self._ages()])
        if self.defs["UID_MIN"] <= uid <= self.defs["UID_MAX"]:
            self._add_subordinate("subuid", "SUB_UID", name)
            self._add_subordinate("subgid", "SUB_GID", name)

    def _ages(self) -> list[str]:
        """Return the fields of a shadow line from the third on."""
        ages = [str(self.defs[k]) if self.defs[k] >= 0 else "" for k in AGES]
        return [str(self.day), *ages, "", "", ""]

    def _add_subordinate(self, file: str, prefix: str, name: str) -> None:
        """Give a user the first free range of subordinate ids (subuid(5)), where the image has the file."""
        count = self.defs[f"{prefix}_COUNT"]
        if not self.files[file].present or not count or self.files[file].find(name):
            return
        start = self.defs[f"{prefix}_MIN"]
        ranges = sorted(
            (int(f[1]), int(f[2]))
            for f in self.files[file].lines
            if len(f) == 3 and number(f[1]) is not None and number(f[2]) is not None
        )
        for first, size in ranges:
            if start + count <= first:
                break
            start = max(start, first + size)
        if start + count - 1 <= self.defs[f"{prefix}_MAX"]:
            self.files[file].lines.append([name, str(start), str(count)])

    def set_password(self, name: str, password: str) -> None:
        """Set a user's password field: `locked`, `empty` or a hash (crypt(5))."""
        value = {"locked": "!", "empty": ""}.get(password, password)
        fields = self.shadow.find(name)
        if fields is not None:
            if fields[1] != value:
                fields[1], fields[2] = value, str(self.day)
        elif self.shadow.present:
            self.shadow.lines.append([name, value, *self._ages()])
        elif (fields := self.passwd.find(name)) is not None:
            fields[1] = value


def read_accounts(tree: Tree, epoch: int) -> Accounts:
    """Read the account files of a tree; what is missing comes from base-passwd's masters, else from root and nobody.

    epoch: seconds, the date that goes into shadow. Raises RootfsError where one of them is no file.
    """
    texts = {name: _text(tree, f"etc/{name}") for name in Accounts.FILES}
    if texts["passwd"] is None:
        passwd = unlocked(_text(tree, f"{MASTERS}/passwd.master") or PASSWD)
        texts["passwd"], texts["shadow"] = passwd, texts["shadow"] or shadow_of(passwd, epoch // 86400)
    if texts["group"] is None:
        group = unlocked(_text(tree, f"{MASTERS}/group.master") or GROUP)
        texts["group"], texts["gshadow"] = group, texts["gshadow"] or gshadow_of(group)
    return Accounts(texts, login_defs(_text(tree, "etc/login.defs")), epoch // 86400)


def unlocked(text: str) -> str:
    """Return a passwd or group with `x` for the password, as shadowconfig leaves base-passwd's `*`."""
    rows = (line.split(":") for line in text.splitlines() if line)
    return "".join(":".join([f[0], "x", *f[2:]]) + "\n" for f in rows)


def shadow_of(passwd: str, day: int) -> str:
    """Return the shadow(5) that pwconv makes of a passwd: every password locked by `*`."""
    return "".join(f"{line.split(':')[0]}:*:{day}:0:99999:7:::\n" for line in passwd.splitlines() if line)


def gshadow_of(group: str) -> str:
    """Return the gshadow(5) that grpconv makes of a group."""
    rows = (line.split(":") for line in group.splitlines() if line)
    return "".join(f"{f[0]}:*::{f[3] if len(f) > 3 else ''}\n" for f in rows)


def _text(tree: Tree, path: str) -> str | None:
    return tree.read(path).decode("utf-8", "surrogateescape") if tree.exists(path) else None
