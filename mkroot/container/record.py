"""The record of a container: what it was made of, how its command ran, and the folder with what it wrote.

$MKROOT_STORE/containers/<id>/
    container.json   the record
    upper/           what the container wrote: the writable layer, as overlayfs keeps it
    work/            overlayfs's own
    log              what the command wrote, as it came
    lock             held by whoever runs or changes the container
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from mkroot.decoding import from_json
from mkroot.errors import ContainerError, StoreError
from mkroot.store.replaced import replace
from mkroot.store.store import Store

FOLDER = "containers"
DIGITS = 64  # of an id, hexadecimal
SHORT = 12  # … that are shown
CREATED, RUNNING, EXITED = "created", "running", "exited"


class Settings(Struct, frozen=True, kw_only=True):
    """What `run` was given, with the image's own settings under it.

    env: the command's whole environment, `NAME=value`. user: as given, or the image's; "" is root. workdir: where the
    command starts. volumes: `host:path[:ro]`, host paths absolute. network: host, none or private. memory: bytes, 0
    for no limit. entrypoint: as given, None for the image's. stop_signal: a number. remove: it goes when it ends.
    """

    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    volumes: tuple[str, ...] = ()
    network: str = "host"
    hostname: str = ""
    read_only: bool = False
    tty: bool = False
    interactive: bool = False
    entrypoint: tuple[str, ...] | None = None
    memory: int = 0
    stop_signal: int = 15
    remove: bool = False


class Process(Struct, frozen=True, kw_only=True):
    """A process and when it started, in the kernel's ticks since boot, so that a number used again is not mistaken."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether it is still there, and no zombie."""
        return started(self.pid) == self.start


class Container(Struct, frozen=True, kw_only=True):
    """A container.

    id: 64 hexadecimal digits, random. image: its manifest's digest. reference: the image as the user named it.
    command: the whole command line, entrypoint included. layers: keys of the image's layers in the layer store, from
    the bottom up; their trees stay while the container does. identity: tag of the identity whose owners `upper` has
    (`mkroot.rootfs.identity`). architecture: of its programs, by Debian's name; "" for the host's. owners: owner and
    group, by path, of what cannot say so itself (`Owners.by_path`).
    status: created, running or exited. exit_code: the command's, once it has exited; None where nobody saw it end.
    supervisor, init: the mkroot process that runs it, and its process 1, while it runs. Times: seconds since 1970.
    """

    id: str
    name: str
    image: str
    reference: str
    created: int
    command: tuple[str, ...]
    layers: tuple[str, ...] = ()
    settings: Settings = Settings()
    identity: str = "root"
    architecture: str = ""
    owners: dict[str, tuple[int, int]] = {}
    status: str = CREATED
    exit_code: int | None = None
    supervisor: Process | None = None
    init: Process | None = None
    started: int = 0
    finished: int = 0

    @property
    def short(self) -> str:
        """The id as it is shown."""
        return self.id[:SHORT]


class Containers:
    """The containers of a store. A record is replaced whole, so readers need no lock."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.root = store.root / FOLDER

    def folder(self, container: Container) -> Path:
        """Return the container's folder."""
        return self.root / container.id

    def upper(self, container: Container) -> Path:
        """Return the folder of what it wrote."""
        return self.root / container.id / "upper"

    def log(self, container: Container) -> Path:
        """Return the file of what its command printed."""
        return self.root / container.id / "log"

    # Reading

    def list(self) -> list[Container]:
        """Return every container, the newest first; raises ContainerError where a record cannot be read.

        One that is said to run, but whose mkroot process is gone, is returned as exited.
        """
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:
            return []
        found = [c for name in names if is_id(name) and (c := self._read(name)) is not None]
        return sorted(found, key=lambda c: (-c.created, c.name, c.id))

    def get(self, container_id: str) -> Container:
        """Return the container with this whole id; raises ContainerError where there is none."""
        found = self._read(container_id)
        if found is None:
            raise ContainerError(
                f"there is no container `{container_id[:SHORT]}`", hint="`mkroot ps -a` lists those that there are"
            )
        return found

    def find(self, word: str) -> Container:
        """Return the container that a name, an id or its beginning means; raises ContainerError.

        A name wins over the beginning of an id; a beginning that several ids have is an error that lists them.
        """
        everything = self.list()
        for container in everything:
            if word in (container.name, container.id):
                return container
        found = [c for c in everything if word and c.id.startswith(word)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"{c.short} ({c.name})" for c in found[:5])
            raise ContainerError(
                f"`{word}` begins the ids of {len(found)} containers: {listed}", hint="give more digits, or the name"
            )
        import difflib

        near = difflib.get_close_matches(word, [c.name for c in everything], 1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise ContainerError(f"there is no container `{word}`", hint=f"{hint}`mkroot ps -a` lists those that there are")

    def _read(self, container_id: str) -> Container | None:
        path = self.root / container_id / "container.json"
        try:
            container = from_json(path.read_bytes(), Container)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.MsgspecError) as e:
            raise ContainerError(
                f"the record of a container cannot be read: {e}",
                where=str(path),
                hint="remove the folder if the container is of no use any more",
            ) from e
        if container.status == RUNNING and not (container.supervisor and container.supervisor.alive):
            return msgspec.structs.replace(container, status=EXITED, supervisor=None, init=None)
        return container

    # Writing

    def create(self, container: Container) -> None:
        """Make a container's folder, whole or not at all; raises ContainerError where its name is taken, StoreError."""
        try:
            self.root.mkdir(exist_ok=True)
            with self._store.lock(FOLDER, "names"):
                self._check_name(container.name)
                aside = self._store.root / "tmp" / f"container.{container.id[:16]}"
                try:
                    # For its user alone: a set-user-id program made in there as root would be the host's root's.
                    aside.mkdir(mode=0o700)
                    for name in ("upper", "work"):
                        (aside / name).mkdir(parents=True)
                        os.chmod(aside / name, 0o755)
                    for name in ("log", "lock"):
                        os.close(os.open(aside / name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
                    replace(aside / "container.json", _encoded(container), 0o600)
                    os.rename(aside, self.root / container.id)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
        except OSError as e:
            raise StoreError(f"a container cannot be made: {e.strerror}", where=str(e.filename or self.root)) from e

    def _check_name(self, name: str) -> None:
        for other in self.list():
            if other.name == name:
                raise ContainerError(
                    f"the name `{name}` is taken by the container {other.short}",
                    hint=f"choose another, or remove that one: `mkroot rm {name}`",
                )

    def save(self, container: Container) -> None:
        """Replace a container's record; raises StoreError. The caller holds `lock`, or is its only user."""
        path = self.root / container.id / "container.json"
        try:
            replace(path, _encoded(container), 0o600)
        except OSError as e:
            raise StoreError(f"the record of a container cannot be written: {e.strerror}", where=str(path)) from e

    def remove(self, container: Container) -> None:
        """Remove a container with all that it wrote; raises StoreError. The caller holds `lock`.

        It is gone from `list` at once, however this ends: a rest lies in the store's `tmp` and goes with `cache prune`.
        """
        rest = self._store.root / "tmp" / f"container.{container.id[:16]}.gone"
        try:
            os.rename(self.root / container.id, rest)
            shutil.rmtree(rest)
        except FileNotFoundError:
            return
        except OSError as e:
            raise StoreError(
                f"a container cannot be removed: {e.strerror}",
                where=str(e.filename or rest),
                hint="it may belong to another user; run mkroot as the one who made it",
            ) from e

    @contextlib.contextmanager
    def lock(self, container: Container, *, wait: bool = False) -> Iterator[None]:
        """Hold a container for oneself; raises ContainerError where another process has it, or where it is gone.

        Whoever runs, starts, commits or removes a container holds it. The lock goes with the process that holds it.
        """
        path = self.root / container.id / "lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise ContainerError(f"the container {container.short} is gone") from None
        except OSError as e:
            raise StoreError(f"a container cannot be locked: {e.strerror}", where=str(path)) from e
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise ContainerError(
                    f"the container {container.name} is in use", hint="wait until its command has ended, or stop it"
                ) from None
            if not path.exists():
                raise ContainerError(f"the container {container.short} is gone")
            yield
        finally:
            os.close(fd)


def check(folder: Path) -> None:
    """Raise ValueError where the record in a container's folder cannot be read; OSError."""
    from_json((folder / "container.json").read_bytes(), Container)


def is_id(text: str) -> bool:
    """Tell whether a text is a container's whole id."""
    return len(text) == DIGITS and not text.strip("0123456789abcdef")


def new_id() -> str:
    """Return a new container's id."""
    return os.urandom(DIGITS // 2).hex()


def started(pid: int) -> int:
    """Return when a process started, in ticks since boot (proc(5), field 22 of stat); 0: it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _encoded(container: Container) -> bytes:
    return msgspec.json.format(msgspec.json.encode(container), indent=2) + b"\n"
