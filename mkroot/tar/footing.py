"""Which members of one archive may stand in one tree: names that any root can hold, each in a folder."""

from __future__ import annotations

from mkroot.tar.entry import DIR, SYMLINK, Entry, parent
from mkroot.tar.stream import Corrupt

NAME_MAX, PATH_MAX = 255, 4095  # bytes of a name and of a path (limits.h)
DEPTH = 256  # folders below one another; what walks a tree, here and elsewhere, holds one more open for each


class Footing:
    """The kinds of an archive's members by path, and of the folders that they imply.

    A member below a link or a file is refused whichever of them comes first, so that nothing that unpacks the members,
    in any order, goes through a link among them.
    """

    def __init__(self) -> None:
        self._kinds = {"": DIR}

    def add(self, entry: Entry) -> None:
        """Take a member; raises Corrupt where its name cannot be kept, or where a link or a file is its folder."""
        path, kind = entry.path, entry.kind
        check_name(path)
        if kind == SYMLINK:
            check_target(path, entry.link)
        self.enter(parent(path), path)
        if kind != DIR and self._kinds.get(path) == DIR:
            raise Corrupt(f"member {path[:200]!r} stands where " + ("a folder is" if path else "the root is"))
        self._kinds[path] = kind

    def is_folder(self, path: str) -> bool:
        """Tell whether there is a folder, by its own member or by what is below it."""
        return self._kinds.get(path) == DIR

    def enter(self, folder: str, path: str) -> None:
        """Take note that `path` needs a folder there; raises Corrupt where the archive has something else."""
        missing = []
        while (kind := self._kinds.get(folder)) is None:
            missing.append(folder)
            folder = parent(folder)
        if kind != DIR:
            raise Corrupt(f"member {path[:200]!r} lies below {folder[:200]!r}, which is not a folder")
        self._kinds.update((one, DIR) for one in missing)


def check_name(path: str) -> None:
    """Raise Corrupt for a path that no root can hold, or that an image's layer would take for something else.

    Names are UTF-8 (Policy 10.10), have at most NAME_MAX bytes, and lie at most DEPTH deep. `.wh.` begins the name of a
    removal (image-spec, layer.md, "Whiteouts").
    """
    if ".wh." in path and (path.startswith(".wh.") or "/.wh." in path):
        raise Corrupt(f"member {path[:200]!r} has a name that image layers give another meaning")
    if len(path) <= NAME_MAX and path.isascii():
        return
    names = _encoded(path, path).split(b"/")
    if len(names) > DEPTH:
        raise Corrupt(f"member {path[:200]!r} lies more than {DEPTH} folders deep")
    if max(map(len, names)) > NAME_MAX or sum(map(len, names)) + len(names) - 1 > PATH_MAX:
        raise Corrupt(f"member {path[:200]!r} has a longer name than a file system takes")


def check_target(path: str, link: str) -> None:
    """Raise Corrupt for a symbolic link's target that no link can have (symlink(2)). path: the link's own."""
    if not link or "\0" in link or len(_encoded(path, link)) > PATH_MAX:
        raise Corrupt(f"link {path[:200]!r} has no target that a link can have")


def _encoded(path: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Corrupt(f"member {path[:200]!r} has a name or target that is not UTF-8") from None
