"""Runs a container's main command: mounts its root, starts its process 1, and keeps its record."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import time
from pathlib import Path

from msgspec.structs import replace

from mkroot.container import crun, init, network, union
from mkroot.container.memory import MemoryLimit
from mkroot.container.record import EXITED, RUNNING, Container, Containers, Process, started
from mkroot.container.session import PASSED, Ended, Request, Session
from mkroot.container.user import User, find_user
from mkroot.container.view import View
from mkroot.container.wire import Wire
from mkroot.container.wish import Volume, parse_volume
from mkroot.errors import ContainerError
from mkroot.rootfs import firstprocess, foreign
from mkroot.rootfs.identity import ROOT, SINGLE, Identity
from mkroot.rootfs.kernelfs import HIDDEN, HIDDEN_SYS, READ_ONLY
from mkroot.rootfs.owners import Owners
from mkroot.rootfs.union import unmount
from mkroot.store.store import Store


class Supervisor:
    """A container that is run by this process, from `start` to the end of the `with`.

    crun: its path, where it is to start the commands; "" for mkroot's own way. notes: what this host did not give it.
    """

    def __init__(self, store: Store, identity: Identity, container: Container, *, crun: str = "") -> None:
        self._containers = Containers(store)
        self._store, self._identity = store, identity
        self.container = container
        self.notes: tuple[str, ...] = ()
        self._crun = crun if identity.kind != SINGLE else ""  # nor could it become another user there
        self._stack = contextlib.ExitStack()
        self._owners: Owners | None = None
        self._user = User()
        self._wire: Wire | None = None
        self._pid = 0

    def __enter__(self) -> Supervisor:
        """Take the container, mount it, and have its process 1 stand ready; the record says then that it runs.

        Raises ContainerError, SandboxError.
        """
        # What is half mounted cannot be taken away: a signal waits until the command is there to get it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)
        self._stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        try:
            self._stack.enter_context(self._containers.lock(self.container))
            self._check()
            self._stand()
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.container.status == RUNNING:
                self._note(137)
        finally:
            self._stack.close()

    def _check(self) -> None:
        if not self._identity.can_mount:
            raise ContainerError(f"a container cannot be run: {self._identity.reason}", hint=self._identity.hint)
        if self.container.identity != self._identity.tag:
            raise ContainerError(
                f"the container {self.container.name} belongs to another user, or was made with other ids",
                hint="start it as the one who made it",
            )

    # ---- making it

    def _stand(self) -> None:
        container, settings = self.container, self.container.settings
        folder = self._containers.folder(container)
        lowers = union.lowers_of(union.trees_of(self._store, self._identity), container.layers)
        view = View([str(p) for p in (folder / "upper", *lowers)])
        self._user = find_user(settings.user, view.read("etc/passwd"), view.read("etc/group"))
        self._check_user()
        volumes = sorted((self._volume(text) for text in settings.volumes), key=lambda v: v[0].path.count("/"))
        wanted, targets = union.places(view, [(v.path, is_folder) for v, is_folder in volumes])
        if self._identity.kind == SINGLE:
            wanted += union.single_id(view)
        scaffold = union.scaffold(folder / "scaffold", view, wanted)
        mounted = union.mount(folder, [scaffold, *lowers], self._identity)
        self._stack.callback(unmount, mounted)
        limit = None
        if settings.memory:
            limit = MemoryLimit(container.short, settings.memory)
            self._stack.callback(limit.close)
        files = network.files(settings.network, settings.hostname)
        shown = [place.path for place in wanted if not place.is_folder][: len(files)]
        mounts = [(v.host, t, v.read_only, is_folder) for (v, is_folder), t in zip(volumes, targets, strict=True)]
        config: dict[str, object] = {
            "root": str(mounted.at),
            "network": settings.network != "host",
            "hostname": settings.hostname,
            "workdir": settings.workdir,
            "read_only": settings.read_only,
            "volumes": mounts,
            "files": list(zip(shown, files.values(), strict=True)),
            "single": self._identity.kind == SINGLE,
            "devices": self._identity.kind == ROOT,
            "crun": self._crun,
            "foreign": None if self._crun else foreign.given(container.architecture),
        }
        if self._crun:
            self._by_crun(folder, config, view)
        self._spawn(folder, limit, config)
        if settings.network == "private":
            private = network.Private(self._pid)
            self._stack.callback(private.close)

    def _by_crun(self, folder: Path, config: dict[str, object], view: View) -> None:
        """Add the OCI bundle to process 1's configuration; raises ContainerError for what only mkroot itself starts."""
        architecture = self.container.architecture or foreign.native()
        if isinstance(foreign.how(architecture), foreign.Own):
            raise ContainerError(
                f"crun starts no programs of `{architecture}` here, which only an emulator runs",
                hint="leave MKROOT_RUNTIME out: mkroot's own way registers one for the container",
            )
        at = folder / "bundle"
        at.mkdir(exist_ok=True)
        more = {"hidden": (*HIDDEN, *HIDDEN_SYS), "fixed": READ_ONLY, "namespaced": self._identity.namespaced}
        config["folder"] = str(at)
        config["bundle"] = crun.bundle({**config, **more})
        # crun makes no folder to start in; this path has no links.
        os.makedirs(Path(str(config["root"])) / view.resolve(str(config["workdir"])), 0o755, exist_ok=True)

    def _check_user(self) -> None:
        user = self._user
        if not self._identity.can_chown(user.uid, user.gid):
            raise ContainerError(
                f"the command cannot run as {user.uid}:{user.gid}: you have not so many ids",
                hint=self._identity.hint or "have an administrator give you more in /etc/subuid and /etc/subgid",
            )

    @staticmethod
    def _volume(text: str) -> tuple[Volume, bool]:
        volume = parse_volume(text, "/")
        try:
            st = os.stat(volume.host)
        except OSError as e:
            raise ContainerError(
                f"`-v {text}`: {e.strerror}", where=volume.host, hint="make it first, or name what is there"
            ) from e
        return volume, stat.S_ISDIR(st.st_mode)

    def _spawn(self, folder: Path, limit: MemoryLimit | None, config: dict[str, object]) -> None:
        """Start process 1, let it make the container, and wait until it stands."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._wire = Wire(ours)
        self._stack.callback(self._end)
        alive, held = os.pipe()
        self._stack.callback(os.close, held)
        with theirs, _listen(folder) as listener:
            try:
                self._pid = firstprocess.start(init.__name__, [listener.fileno(), alive, theirs.fileno()])
            except OSError as e:
                raise ContainerError(f"a container cannot be started: {e.strerror}") from e
            finally:
                os.close(alive)
        if limit is not None:
            limit.add(self._pid)
        try:
            self._wire.send(("setup", config))
            got = self._wire.receive()
        except ConnectionError:
            got = None
        if got is None:
            raise ContainerError("the container ended before it was ready", hint="`mkroot doctor` tells why")
        (word, *rest), fds = got
        if word == "foreign":
            lack = foreign.missing(self.container.architecture, str(rest[0]), int(str(rest[1])))
            raise ContainerError(
                f"programs of `{self.container.architecture}` do not run here: {lack.why}", hint=lack.hint
            )
        if word != "ready":
            raise ContainerError(
                f"the container cannot be made: {rest[1]}", hint="`mkroot doctor` tells what this host allows"
            )
        if isinstance(rest[0], tuple):
            self.notes = tuple(str(note) for note in rest[0])
        if fds:
            self._owners = Owners(fds[0], real=self._identity.kind == ROOT)
            self._stack.callback(self._owners.close)

    def _end(self) -> None:
        """End process 1 and with it all that is in the container."""
        if self._wire is not None:
            self._wire.close()
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, 9)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0

    # ---- running it

    def _begin(self) -> None:
        """Note in the record that it runs."""
        self.container = replace(
            self.container,
            status=RUNNING,
            supervisor=Process(pid=os.getpid(), start=started(os.getpid())),
            init=Process(pid=self._pid, start=started(self._pid)),
            started=int(time.time()),
            exit_code=None,
        )
        self._containers.save(self.container)

    def run(self, *, attached: bool, interactive: bool) -> Ended:
        """Run the command to its end, and note it in the record; raises ContainerError.

        attached: its streams are mkroot's own. Signals that arrive meanwhile go to it.
        """
        assert self._wire is not None
        container, settings = self.container, self.container.settings
        environment = dict(word.partition("=")[::2] for word in settings.env)
        environment.setdefault("HOME", self._user.home)
        request = Request(
            argv=container.command,
            environment=environment,
            user=self._user,
            workdir=settings.workdir,
            terminal=settings.tty,
            interactive=interactive,
        )
        log = os.open(self._containers.log(container), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        ended = Ended(137)
        try:
            ended = Session(self._wire, request, attached=attached, log=log).run()
            if ended.fault and not attached:
                os.write(log, f"mkroot: {ended.fault}\n".encode())
            return ended
        finally:
            os.close(log)
            self._end()
            self._note(ended.code)

    def _note(self, code: int) -> None:
        owners = dict(self.container.owners)
        if self._owners is not None:
            owners |= self._owners.by_path
        self.container = replace(
            self.container,
            status=EXITED,
            supervisor=None,
            init=None,
            exit_code=code,
            finished=int(time.time()),
            owners=owners,
        )
        self._containers.save(self.container)


def _listen(folder: Path) -> socket.socket:
    """Return a socket at `control` in a container's folder, by which only its user reaches process 1."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    before = os.umask(0o177)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("control", dir_fd=at)
        listener.bind(f"/proc/self/fd/{at}/control")  # an address has 107 bytes at most (unix(7))
        listener.listen(16)
    except OSError as e:
        listener.close()
        raise ContainerError(f"a socket cannot be made: {e.strerror}", where=str(folder)) from e
    finally:
        os.umask(before)
        os.close(at)
    return listener
