"""Puts the recipe's files, trees, folders and links into a root."""

from __future__ import annotations

from mkroot.errors import MkrootError, RecipeError, RootfsError
from mkroot.recipe.model import File
from mkroot.recipe.values import Owner
from mkroot.rootfs.accounts import Accounts, number
from mkroot.rootfs.inputs import Item
from mkroot.rootfs.recorder import Recorder, collecting
from mkroot.rootfs.users import nearest
from mkroot.tar.entry import DIR, FILE

NOBODY_SAID = Owner("root:root")


def apply_files(
    recorder: Recorder, accounts: Accounts, files: tuple[File, ...], trees: dict[int, tuple[Item, ...]]
) -> None:
    """Write `config.files` in order.

    trees: what the `from` of a file holds, by index. A folder that is there already keeps its mode and owner, but for
    the one that the recipe names together with a mode or owner. Raises RecipeError, or Faults with all of them.
    """
    faults: list[MkrootError] = []
    for i, file in enumerate(files):
        key = f"config.files[{i}]"
        with collecting(faults), recorder.at(f"recipe: {key}", key=key):
            _put(recorder, accounts, file, trees.get(i, ()), key)
    if faults:
        from mkroot.errors import Faults

        raise faults[0] if len(faults) == 1 else Faults(faults)


def owner_ids(accounts: Accounts, owner: str, where: str) -> tuple[int, int]:
    """Return the uid and gid that `user:group` means in the image; raises RecipeError for a name that it lacks."""
    user, _, group = owner.partition(":")
    known = accounts.user_ids(user)
    if user.isdigit():
        uid = int(user)
        line = accounts.passwd.by_id(uid)
        own = number(line[3]) if line is not None else None
        gid = uid if own is None else own
    elif known is None:
        names = [f[0] for f in accounts.passwd.lines]
        raise RecipeError(f"there is no user `{user}` in the image", where=where, hint=nearest(user, names))
    else:
        uid, gid = known
    if group.isdigit():
        gid = int(group)
    elif group:
        found = accounts.group_id(group)
        if found is None:
            names = [f[0] for f in accounts.group.lines]
            raise RecipeError(f"there is no group `{group}` in the image", where=where, hint=nearest(group, names))
        gid = found
    return uid, gid


def _put(recorder: Recorder, accounts: Accounts, file: File, items: tuple[Item, ...], key: str) -> None:
    if any(part.startswith(".wh.") for part in file.path.split("/")):
        raise RecipeError("names that begin with `.wh.` mean a removal in image layers", where=f"{key}.path")
    uid, gid = owner_ids(accounts, file.owner, f"{key}.owner")
    path = file.path.lstrip("/")
    given = file.owner != NOBODY_SAID
    if file.content is not None:
        content = file.content.encode("utf-8", "surrogateescape")
        recorder.write(path, content, 0o644 if file.mode is None else int(file.mode), uid, gid)
    elif file.link is not None:
        recorder.link(path, str(file.link), uid, gid)
    elif file.directory:
        _folder(recorder, path, None if file.mode is None else int(file.mode), uid, gid, given)
    elif items and items[0].kind == FILE:
        if recorder.tree.resolve(path) in recorder.tree.nodes and _is_folder(recorder, path):
            raise RootfsError(f"/{path} is a folder in the image; name the file itself")
        recorder.write(path, items[0].content, items[0].mode if file.mode is None else int(file.mode), uid, gid)
    else:
        _tree(recorder, path, items, None if file.mode is None else int(file.mode), uid, gid, given)


def _is_folder(recorder: Recorder, path: str) -> bool:
    entry = recorder.tree.get(path)
    return path == "" or (entry is not None and entry.kind == DIR)


def _folder(recorder: Recorder, path: str, mode: int | None, uid: int, gid: int, given: bool) -> None:
    if not _is_folder(recorder, path):
        recorder.folder(path, 0o755 if mode is None else mode, uid, gid)
    elif path:
        recorder.metadata(path, mode=mode, uid=uid if given else None, gid=gid if given else None)


def _tree(
    recorder: Recorder, path: str, items: tuple[Item, ...], mode: int | None, uid: int, gid: int, given: bool
) -> None:
    """Copy a local tree; `mode` is that of its files."""
    for item in items:
        if any(part.startswith(".wh.") for part in item.path.split("/")):
            raise RootfsError(f"{item.path!r}: names that begin with `.wh.` mean a removal in image layers")
        target = f"{path}/{item.path}".strip("/")
        if item.kind == DIR:
            if item.path:
                recorder.folder(target, item.mode, uid, gid)
            else:
                _folder(recorder, target, None, uid, gid, given)
        elif item.kind == FILE:
            recorder.write(target, item.content, item.mode if mode is None else mode, uid, gid)
        else:
            recorder.link(target, item.link, uid, gid)
