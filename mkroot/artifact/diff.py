"""What tells two roots apart: packages first, then files and bytes."""

from __future__ import annotations

from msgspec import Struct

from mkroot.artifact.inventory import Inventory, Item, Package
from mkroot.tar.entry import FILE


class PackageChange(Struct, frozen=True, kw_only=True):
    """A package in both with another version, or with other bytes. kind: "upgraded", "downgraded" or "rebuilt"."""

    name: str
    architecture: str
    before: str
    after: str
    kind: str


class FileChange(Struct, frozen=True, kw_only=True):
    """A path in both. changes: what differs (kind, mode, owner, size, content, link, device, xattrs): before, after."""

    path: str
    changes: dict[str, tuple[str, str]]


class NamedItem(Struct, frozen=True, kw_only=True):
    """A path that only one has."""

    path: str
    kind: str
    mode: str
    owner: str
    size: int


class Difference(Struct, frozen=True, kw_only=True):
    """All that differs, each part sorted. Bytes are those of the files; None where one side is a lock."""

    packages_added: tuple[Package, ...]
    packages_removed: tuple[Package, ...]
    packages_changed: tuple[PackageChange, ...]
    files_added: tuple[NamedItem, ...]
    files_removed: tuple[NamedItem, ...]
    files_changed: tuple[FileChange, ...]
    bytes_before: int | None
    bytes_after: int | None

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        packages = self.packages_added or self.packages_removed or self.packages_changed
        return not (packages or self.files_added or self.files_removed or self.files_changed)


def compare(before: Inventory, after: Inventory) -> Difference:
    """Return what differs between two roots; files are compared only where both have them."""
    old, new = before.files, after.files
    both = old is not None and new is not None
    old_files, new_files = (old or {}, new or {}) if both else ({}, {})
    changed = []
    for path in sorted(old_files.keys() & new_files.keys()):
        if changes := item_changes(old_files[path], new_files[path]):
            changed.append(FileChange(path="/" + path, changes=changes))
    return Difference(
        packages_added=tuple(after.packages[k] for k in sorted(_extra(after, before))),
        packages_removed=tuple(before.packages[k] for k in sorted(_extra(before, after))),
        packages_changed=_changed_packages(before, after),
        files_added=tuple(_named(p, new_files[p]) for p in sorted(new_files.keys() - old_files.keys())),
        files_removed=tuple(_named(p, old_files[p]) for p in sorted(old_files.keys() - new_files.keys())),
        files_changed=tuple(changed),
        bytes_before=_bytes(before),
        bytes_after=_bytes(after),
    )


def item_changes(before: Item, after: Item) -> dict[str, tuple[str, str]]:
    """Return what differs between two members of one path, as words."""
    changes: dict[str, tuple[str, str]] = {}
    pairs = {
        "kind": (KINDS.get(before.kind, before.kind), KINDS.get(after.kind, after.kind)),
        "mode": (f"{before.mode:04o}", f"{after.mode:04o}"),
        "owner": (f"{before.uid}:{before.gid}", f"{after.uid}:{after.gid}"),
        "link": (before.link, after.link),
        "device": (_device(before), _device(after)),
        "xattrs": (_attributes(before), _attributes(after)),
    }
    if before.kind == after.kind == FILE:
        pairs["size"] = (str(before.size), str(after.size))
        pairs["content"] = (before.sha256, after.sha256)
    for name, (a, b) in pairs.items():
        if a != b:
            changes[name] = (a, b)
    return changes


KINDS = {
    "f": "file", "d": "folder", "l": "link", "c": "character device", "b": "block device", "p": "pipe", "s": "socket",
}  # fmt: skip


def _device(item: Item) -> str:
    return "" if item.device == (0, 0) else f"{item.device[0]}:{item.device[1]}"


def _attributes(item: Item) -> str:
    return ",".join(f"{k}={item.xattrs[k].hex()}" for k in sorted(item.xattrs))


def _named(path: str, item: Item) -> NamedItem:
    owner = f"{item.uid}:{item.gid}"
    return NamedItem(
        path="/" + path, kind=KINDS.get(item.kind, item.kind), mode=f"{item.mode:04o}", owner=owner, size=item.size
    )


def _bytes(inventory: Inventory) -> int | None:
    return None if inventory.files is None else sum(item.size for item in inventory.files.values())


def _extra(one: Inventory, other: Inventory) -> set[tuple[str, str]]:
    return set(_paired(one, other)[1])


def _paired(
    one: Inventory, other: Inventory
) -> tuple[list[tuple[tuple[str, str], tuple[str, str]]], list[tuple[str, str]]]:
    """Return the keys of `one` with that of the same package in `other`, and those that have none there.

    A package whose architecture turned into `all` or out of it is the same package, where its name is there once.
    """
    names: dict[str, list[tuple[str, str]]] = {}
    for key in other.packages:
        names.setdefault(key[0], []).append(key)
    own: dict[str, int] = {}
    for name, _ in one.packages:
        own[name] = own.get(name, 0) + 1
    pairs, single = [], []
    for key in sorted(one.packages):
        if key in other.packages:
            pairs.append((key, key))
        elif own[key[0]] == 1 and len(names.get(key[0], ())) == 1:
            pairs.append((key, names[key[0]][0]))
        else:
            single.append(key)
    return pairs, single


def _changed_packages(before: Inventory, after: Inventory) -> tuple[PackageChange, ...]:
    from mkroot.debian.version import version_key

    found = []
    for old_key, new_key in _paired(before, after)[0]:
        old, new = before.packages[old_key], after.packages[new_key]
        other_bytes = old.sha256 and new.sha256 and old.sha256 != new.sha256
        if old.version == new.version and old.architecture == new.architecture and not other_bytes:
            continue
        a, b = version_key(old.version), version_key(new.version)
        kind = "upgraded" if a < b else "downgraded" if a > b else "rebuilt"
        found.append(
            PackageChange(
                name=new.name, architecture=new.architecture, before=old.version, after=new.version, kind=kind
            )
        )
    return tuple(found)
