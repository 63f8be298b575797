"""What a hostile package did: to what lies around the root, in the store, and in dpkg's hands."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

SECRET = b"a canary that sings must not be heard inside\n"
State = dict[str, tuple[object, ...]]


class Canaries:
    """A folder that nothing may leave a trace in, and that nothing may be read from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "outside"
        (self.folder / "canary.d").mkdir(parents=True)
        self.path = self.folder / "canary"
        for path in (self.path, self.folder / "canary.d/passwd", self.folder / "f"):
            path.write_bytes(SECRET)
        self._before = state(self.folder, times=True)
        self._around = folder
        self._beside = sorted(os.listdir(folder))

    def check(self, *inside: Path) -> None:
        """Assert that nothing outside was made, changed or removed, and that no file inside holds what it says."""
        assert state(self.folder, times=True) == self._before
        assert sorted(os.listdir(self._around)) == self._beside
        for root in inside:
            for at, _, names in os.walk(root):
                for name in names:
                    path = Path(at, name)
                    if stat.S_ISREG(path.lstat().st_mode):
                        assert SECRET not in path.read_bytes(), f"{path} holds what lies outside"


def state(root: Path, *, times: bool = False, skip: tuple[str, ...] = (), aim: str = "") -> State:
    """Every path below a folder: what it is, its mode, owner, content or target, and which others are the same file.

    aim: the canary's path, which is called CANARY in targets.
    """
    found: State = {}
    first: dict[int, str] = {}
    for at, folders, names in os.walk(root):
        if at == str(root):
            folders[:] = [n for n in folders if n not in skip]
        for name in sorted(folders + names):
            path = os.path.join(at, name)
            s = os.lstat(path)
            shown = os.path.relpath(path, root)
            same = first.setdefault(s.st_ino, shown) if not stat.S_ISDIR(s.st_mode) else shown
            content: object = None
            if stat.S_ISREG(s.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(s.st_mode):
                content = os.readlink(path).replace(aim or "\0", "CANARY")
            elif not stat.S_ISDIR(s.st_mode):
                content = s.st_rdev
            when = (s.st_mtime_ns, s.st_ctime_ns) if times else ()
            found[shown] = (oct(s.st_mode), s.st_uid, s.st_gid, content, same, *when)
    return found


def left(store: Path) -> list[str]:
    """The files that a store holds beside its own: there are none after a package was refused."""
    own = ("format", "locks")
    return sorted(
        str(p.relative_to(store))
        for p in store.rglob("*")
        if not p.is_dir() and p.relative_to(store).parts[0] not in own
    )


def can_judge() -> bool:
    """Whether dpkg can be asked: it needs root to make what it is told to."""
    return os.geteuid() == 0 and shutil.which("dpkg") is not None


def dpkg(folder: Path, *make: Callable[[str], bytes]) -> tuple[int, State, str]:
    """Unpack packages in a root of their own below `folder`; return dpkg's status, the tree and what it said.

    They aim at a canary that is dpkg's own.
    """
    root = folder / "inner/root"
    for name in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / name).mkdir(parents=True)
    for name in ("status", "available"):
        (root / "var/lib/dpkg" / name).touch()
    (folder / "outside/canary.d").mkdir(parents=True)
    (folder / "outside/canary").write_bytes(SECRET)
    debs = []
    for number, one in enumerate(make):
        debs.append(folder / f"{number}.deb")
        debs[-1].write_bytes(one(str(folder / "outside/canary")))
    command = ["dpkg", f"--root={root}", "--force-unsafe-io", "--force-script-chrootless", "--unpack", *map(str, debs)]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
    return (
        done.returncode,
        state(root, skip=("var",), aim=str(folder / "outside/canary")),
        done.stderr.decode("utf-8", "backslashreplace"),
    )
