"""Makes the recipe's groups and users: account files, home folders and authorized keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mkroot.errors import MkrootError, RecipeError, RootfsError
from mkroot.recipe.model import Config, User
from mkroot.rootfs.accounts import Accounts
from mkroot.rootfs.recorder import Recorder, collecting
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK

NO_LOGIN = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")  # mean "no login" even where missing
HOMELESS = ("", "/", "/nonexistent")  # homes that nothing is put into
MODES = {"passwd": 0o644, "group": 0o644, "shadow": 0o640, "gshadow": 0o640, "subuid": 0o644, "subgid": 0o644}
USER_DEFAULTS = {f.name: f.default for f in msgspec.structs.fields(User)}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return a hint that names the known word nearest to `name`, or None."""
    import difflib

    found = difflib.get_close_matches(name, sorted(set(known)), 1, 0.6)
    return f"did you mean `{found[0]}`?" if found else None


def apply_accounts(recorder: Recorder, accounts: Accounts, config: Config, keys: dict[int, tuple[str, ...]]) -> None:
    """Make groups and users of the recipe in the image; an account that a package made is changed instead.

    Of such an account only what the recipe says otherwise than the default is changed. keys: the lines of the users'
    authorized keys by index. Raises RecipeError, or Faults with all of them.
    """
    if not config.groups and not config.users:
        return
    faults: list[MkrootError] = []
    # Numbers that the recipe gives are kept free for whom it gives them.
    asked = {g.gid for g in config.groups if g.gid is not None} | {u.uid for u in config.users if u.uid is not None}
    for i, group in enumerate(config.groups):
        with collecting(faults):
            _group(accounts, group.name, group.gid, asked, f"config.groups[{i}]")
    homes: list[tuple[int, bool]] = []
    for i, user in enumerate(config.users):
        with collecting(faults):
            homes.append((i, _user(recorder, accounts, user, asked, f"config.users[{i}]")))
    for i, user in enumerate(config.users):
        with collecting(faults):
            _memberships(accounts, user, f"config.users[{i}].groups")
    if faults:
        from mkroot.errors import Faults

        raise faults[0] if len(faults) == 1 else Faults(faults)
    with recorder.at(_origin(config), key="config.users"):
        write_accounts(recorder, accounts)
    for i, new in homes:
        where = f"config.users[{i}]"
        with recorder.at(f"recipe: {where}", key=where):
            _home(recorder, accounts, config.users[i].name, new)
            if keys.get(i):
                _authorized_keys(recorder, accounts, config.users[i].name, keys[i])


def write_accounts(recorder: Recorder, accounts: Accounts) -> None:
    """Write the account files that changed; a new one gets the mode and owner that Debian gives it."""
    shadow = accounts.group_id("shadow") or 0
    for name, file in accounts.files.items():
        text = file.render()
        if text != file.text and (file.present or text):
            path = f"etc/{name}"
            new = not recorder.tree.exists(path)
            gid = shadow if MODES[name] == 0o640 else 0
            content = text.encode("utf-8", "surrogateescape")
            recorder.write(path, content, MODES[name] if new else None, 0 if new else None, gid if new else None)
        elif file.present and not recorder.tree.exists(f"etc/{name}"):
            gid = shadow if MODES[name] == 0o640 else 0
            recorder.write(f"etc/{name}", text.encode("utf-8", "surrogateescape"), MODES[name], 0, gid)


def _origin(config: Config) -> str:
    places = [f"config.groups[{i}]" for i in range(len(config.groups))]
    places += [f"config.users[{i}]" for i in range(len(config.users))]
    return "recipe: " + ", ".join(places)


def _group(accounts: Accounts, name: str, gid: int | None, asked: set[int], where: str) -> int:
    known = accounts.group_id(name)
    if known is not None:
        if gid is not None and gid != known:
            raise RecipeError(
                f"group `{name}` is in the image with id {known}; files of its packages carry that number",
                where=f"{where}.gid",
                hint=f"leave `gid` out, or write {known}",
            )
        return known
    if gid is None:
        gid = accounts.free_id(asked, group_only=True)
    elif (other := accounts.group.by_id(gid)) is not None:
        raise RecipeError(f"group id {gid} is that of `{other[0]}` in the image", where=f"{where}.gid")
    accounts.add_group(name, gid)
    return gid


def _user(recorder: Recorder, accounts: Accounts, user: User, asked: set[int], where: str) -> bool:
    """Add or change a user; tell whether it is new."""
    shell = _shell(recorder, user, where)
    if user.group is not None and accounts.group_id(user.group) is None:
        raise RecipeError(
            f"there is no group `{user.group}` in the image",
            where=f"{where}.group",
            hint=nearest(user.group, _groups(accounts)) or "add it to `config.groups`",
        )
    if (known := accounts.user_ids(user.name)) is not None:
        _change(accounts, user, known[0], where)
        return False
    uid = user.uid
    if uid is not None and (other := accounts.passwd.by_id(uid)) is not None:
        raise RecipeError(f"user id {uid} is that of `{other[0]}` in the image", where=f"{where}.uid")
    own = user.group or user.name
    gid = accounts.group_id(own)
    if uid is None:
        uid = gid if gid is not None and user.group is None and _fits(accounts, gid, asked) else accounts.free_id(asked)
    if gid is None:
        gid = _group(accounts, own, uid, asked, where)
    accounts.add_user(user.name, uid, gid, user.comment, user.home or f"/home/{user.name}", shell)
    if user.password != "locked":
        accounts.set_password(user.name, user.password)
    return True


def _fits(accounts: Accounts, number: int, asked: set[int]) -> bool:
    """Tell whether a user can have the number of the group of its name: free, and a normal user's."""
    normal = accounts.defs["UID_MIN"] <= number <= accounts.defs["UID_MAX"]
    return normal and accounts.passwd.by_id(number) is None and number not in asked


def _change(accounts: Accounts, user: User, uid: int, where: str) -> None:
    if user.uid is not None and user.uid != uid:
        raise RecipeError(
            f"user `{user.name}` is in the image with id {uid}; files of its packages carry that number",
            where=f"{where}.uid",
            hint=f"leave `uid` out, or write {uid}",
        )
    fields = accounts.passwd.find(user.name)
    assert fields is not None
    if user.group is not None:
        fields[3] = str(accounts.group_id(user.group))
    if user.comment:
        fields[4] = user.comment
    if user.home is not None:
        fields[5] = user.home
    if user.shell != USER_DEFAULTS["shell"]:
        fields[6] = user.shell
    if user.password != USER_DEFAULTS["password"]:
        accounts.set_password(user.name, user.password)


def _shell(recorder: Recorder, user: User, where: str) -> str:
    """Return the shell to enter; one that the recipe names must be a program of the image."""
    entry = recorder.tree.get(user.shell)
    if entry is not None and entry.kind in (FILE, HARDLINK) and entry.mode & 0o111:
        return user.shell
    if user.shell == USER_DEFAULTS["shell"]:
        return NO_LOGIN[0]  # an image without any shell, such as a distroless one
    if user.shell in NO_LOGIN:
        return user.shell
    shells = [line for line in _lines(recorder, "etc/shells") if line.startswith("/") and recorder.tree.exists(line)]
    raise RecipeError(
        f"the shell `{user.shell}` is not a program in the image",
        where=f"{where}.shell",
        hint=f"the image has {', '.join(shells)}" if shells else "add its package to `packages.include`",
    )


def _memberships(accounts: Accounts, user: User, where: str) -> None:
    for n, group in enumerate(user.groups):
        if accounts.group_id(group) is None:
            raise RecipeError(
                f"there is no group `{group}` in the image",
                where=f"{where}[{n}]",
                hint=nearest(group, _groups(accounts)) or "add it to `config.groups`, or the package that makes it",
            )
        accounts.add_member(group, user.name)


def _groups(accounts: Accounts) -> Sequence[str]:
    return [f[0] for f in accounts.group.lines]


def _lines(recorder: Recorder, path: str) -> list[str]:
    if not recorder.tree.exists(path):
        return []
    return recorder.tree.read(path).decode("utf-8", "replace").splitlines()


def _home(recorder: Recorder, accounts: Accounts, name: str, new: bool) -> None:
    """Make a new user's home folder with a copy of /etc/skel; one that is there is left as it is."""
    fields = accounts.passwd.find(name)
    if not new or fields is None or fields[5] in HOMELESS:
        return
    tree, home = recorder.tree, fields[5]
    if tree.exists(home):
        return
    uid, gid = accounts.user_ids(name) or (0, 0)
    place = recorder.folder(home, accounts.defs["HOME_MODE"], uid, gid)
    skel = tree.resolve("etc/skel")
    for path in sorted(p for p in tree.nodes if p.startswith(skel + "/")):
        entry, target = tree.nodes[path].entry, place + path[len(skel) :]
        if entry.kind == DIR:
            recorder.folder(target, entry.mode, uid, gid)
        elif entry.kind == SYMLINK:
            recorder.link(target, entry.link, uid, gid)
        elif entry.kind in (FILE, HARDLINK):
            recorder.write(target, tree.read(path), entry.mode, uid, gid)


def _authorized_keys(recorder: Recorder, accounts: Accounts, name: str, lines: Sequence[str]) -> None:
    """Write ~/.ssh/authorized_keys; sshd(8) with StrictModes wants it to be the user's own."""
    fields = accounts.passwd.find(name)
    assert fields is not None
    uid, gid = accounts.user_ids(name) or (0, 0)
    home = fields[5]
    if home in HOMELESS:
        raise RootfsError(
            f"user `{name}` has the home folder {home or 'none'}, where no key can be", hint="name a `home`"
        )
    if not recorder.tree.exists(home):
        recorder.folder(home, accounts.defs["HOME_MODE"], uid, gid)
    folder = recorder.folder(f"{home}/.ssh", 0o700, uid, gid)
    recorder.metadata(folder, mode=0o700, uid=uid, gid=gid)
    path = f"{folder}/authorized_keys"
    there = _lines(recorder, path)
    text = "".join(f"{line}\n" for line in [*there, *(k for k in lines if k not in there)])
    recorder.write(path, text.encode("utf-8", "surrogateescape"), 0o600, uid, gid)
