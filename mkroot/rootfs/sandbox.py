"""Runs maintainer scripts, triggers and hooks in an image's root, away from the host."""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from mkroot.errors import SandboxError
from mkroot.rootfs import firstprocess, foreign, linux, sandbox_init
from mkroot.rootfs.identity import ROOT, SINGLE, Identity
from mkroot.rootfs.owners import Owners
from mkroot.rootfs.streams import Collector, StatusCallback, Streams

if TYPE_CHECKING:
    from mkroot.rootfs.watch import Watch, Watcher

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Policy 9.3.3.2 (invoke-rc.d asks it): 101 forbids the action.
POLICY_RC_D = ("/usr/sbin/policy-rc.d", b"#!/bin/sh\nexit 101\n", 0o755)
_START_STOP = b"#!/bin/sh\necho 'start-stop-daemon: nothing is started while an image is built' >&2\nexit 0\n"


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """A command that ended.

    returncode: its exit status; the negative number of the signal that ended it; 126 or 127 where `fault` says why it
    could not be executed. output: what it wrote to stdout and stderr, the last mebibyte. left: how many processes it
    left behind, which are gone now. seconds: how long it took.
    """

    returncode: int
    output: bytes
    truncated: bool = False
    fault: str = ""
    left: int = 0
    seconds: float = 0.0


def environment_for(epoch: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the whole environment of a maintainer script; nothing of the host's is in it."""
    fixed = {
        "DEBCONF_NONINTERACTIVE_SEEN": "true",
        "DEBIAN_FRONTEND": "noninteractive",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LANGUAGE": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "LOGNAME": "root",
        "PATH": PATH,
        "SHELL": "/bin/sh",
        "SOURCE_DATE_EPOCH": str(epoch),
        "TERM": "dumb",
        "USER": "root",
    }
    return {**fixed, **(extra or {})}


def scaffold(folder: Path) -> Path:
    """Make a lower layer that holds what a sandbox mounts upon, and return it.

    Put on top of a union's lowers it keeps the sandbox from making these in the upper: the folders /dev and /proc, and
    a policy-rc.d that starts nothing. Nothing of it reaches the upper unless a script writes to it. Safe to do twice.
    """
    for name in ("dev", "proc", "usr/sbin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("", "dev", "proc", "usr", "usr/sbin"):
        os.chmod(folder / name, 0o755)
    path, content, mode = POLICY_RC_D
    at = folder / path.lstrip("/")
    at.write_bytes(content)
    os.chmod(at, mode)
    return folder


class Sandbox:
    """A root with its own processes, mounts, IPC, host name and network, for the time of a `with` statement.

    In it: a minimal /dev, a fresh /proc without what tells of the host, no /sys (it is the host's; what a script made
    of it would differ from host to host), the root's own /run and /tmp. No terminal, no host path, environment or
    descriptor. Capabilities are cut down to what scripts need, system calls to those of `mkroot.rootfs.filter`; no file
    system but the nodes of /dev opens devices.
    `no_new_privs` is not set, for postinst scripts use su. Services are not started: policy-rc.d forbids it, and
    start-stop-daemon does nothing.

    root: a folder or mount point, in this process's mount namespace. network: keep the host's network, with its
    resolv.conf (hooks only; the host's abstract and loopback sockets can be reached then). start_stop: hide the root's
    start-stop-daemon; off for hooks that may upgrade dpkg. sysfs: mount a read-only /sys. epoch: SOURCE_DATE_EPOCH.
    watcher: makes what follows the scripts in it, where the kernel can tell of their system calls (`Memo.watch`).
    follow: whether of all their calls that name files, or only of programs that are executed.
    architecture: of the root's programs, where it may be another than this host's (`mkroot.rootfs.foreign`).

    When it ends, however it ends, every process in it is gone, and what it mounted left no trace in the root. It ends
    at once when mkroot is killed.
    """

    def __init__(
        self,
        root: Path,
        *,
        identity: Identity,
        epoch: int,
        network: bool = False,
        hostname: str = "localhost",
        environment: Mapping[str, str] | None = None,
        start_stop: bool = True,
        sysfs: bool = False,
        watcher: Watcher | None = None,
        follow: bool = True,
        architecture: str = "",
    ) -> None:
        self.root = root
        self.identity = identity
        self.environment = environment_for(epoch, environment)
        self.limits: tuple[str, ...] = ()
        self._network, self._hostname, self._start_stop, self._sysfs = network, hostname, start_stop, sysfs
        self._pid = 0
        self._control: socket.socket | None = None
        self._created: list[str] = []
        self._owners: Owners | None = None
        self._architecture = architecture
        self._watcher = watcher
        self._following = follow
        self._watch: Watch | None = None
        self._busy = threading.Lock()

    # ---- start and end

    def __enter__(self) -> Sandbox:
        """Start it; raises SandboxError where this host cannot, saying what to enable."""
        if not self.identity.can_mount:
            raise SandboxError(
                f"maintainer scripts cannot run: {self.identity.reason}",
                hint=f"{self.identity.hint}; `configure: static` and `configure: none` work without",
            )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        try:
            for s in (ours, theirs):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sandbox_init.MESSAGE * 2)
            self._spawn(theirs)
            theirs.close()
            config = marshal.dumps(self._config())
            with contextlib.suppress(ConnectionError):  # that it has ended is told by what it does not say
                ours.send(config)
            self._ready(self._receive())
        except BaseException:
            theirs.close()
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it at once, with everything in it; doing it twice is no error."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # the kernel kills the whole PID namespace with its process 1
            os.waitpid(self._pid, 0)  # and that returns when all of them are gone
            self._pid = 0
        if self._owners is not None:
            self._owners.close()
        if self._watch is not None:
            self._watch.close()
        self._remove_created()

    def owners(self) -> dict[str, tuple[int, int]]:
        """Return whom files would belong to that cannot say so themselves, for `read_upper`; by path.

        Empty but for an identity with a single id. There, what scripts see with stat is root's, and a process that
        changes its user stays root.
        """
        return dict(self._owners.by_path) if self._owners is not None else {}

    def _spawn(self, theirs: socket.socket) -> None:
        """Start its process 1."""
        try:
            alive = linux.pidfd_open(os.getpid())  # by it process 1 sees this process end
        except OSError:
            alive = -1  # before Linux 5.3: the socket alone tells
        try:
            self._pid = firstprocess.start(sandbox_init.__name__, [theirs.fileno(), alive])
        except OSError as e:
            raise SandboxError(f"a sandbox cannot be started: {e.strerror}") from e
        finally:
            if alive >= 0:
                os.close(alive)

    def _config(self) -> dict[str, object]:
        files = [(*POLICY_RC_D, True)]
        if self._start_stop:
            files += [(f"{d}/start-stop-daemon", _START_STOP, 0o755, False) for d in ("/usr/sbin", "/sbin")]
        if self._network:
            with contextlib.suppress(OSError):  # a host without one resolves without one
                files.append(("/etc/resolv.conf", Path("/etc/resolv.conf").read_bytes()[:65536], 0o644, True))
        return {
            "root": str(self.root.absolute()),
            "network": self._network,
            "sysfs": self._sysfs,
            "hostname": self._hostname,
            "files": files,
            "single": self.identity.kind == SINGLE,
            "devices": self.identity.kind == ROOT,
            "foreign": foreign.given(self._architecture),
            "watched": "" if self._watcher is None else "follow" if self._following else "executions",
        }

    def _receive(self) -> list[str]:
        assert self._control is not None
        try:
            data, fds, _, _ = socket.recv_fds(self._control, sandbox_init.MESSAGE, 1)
        except ConnectionError:
            data, fds = b"", []
        if fds and (self.identity.kind == SINGLE or self._watcher is None):
            self._owners = Owners(fds[0], real=self.identity.kind == ROOT)
        elif fds and self._watcher is not None:
            self._watch = self._watcher(fds[0], self._pid)
        if not data:
            raise SandboxError("the sandbox ended before it was ready", where=str(self.root))
        return data.decode("utf-8", "surrogateescape").split("\0")

    def _ready(self, answer: list[str]) -> None:
        if answer[0] == "ready":
            count = int(answer[1])
            self._created = answer[2 : 2 + count]
            self.limits = tuple(answer[2 + count :])
            return
        self._created = [name for name in answer[3:] if name]
        if answer[0] == "foreign":
            raise foreign.fault(self._architecture, foreign.missing(self._architecture, answer[1], int(answer[2])))
        raise SandboxError(
            f"a sandbox cannot be made of this root: {answer[2].replace(str(self.root.absolute()), '')}",
            where=str(self.root),
            hint="`mkroot doctor` tells what this host allows",
        )

    def _remove_created(self) -> None:
        """Take away what was made in the root to mount upon, and give the folders around it their times back."""
        created, self._created = self._created, []
        if not created:
            return
        at = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for line in reversed(created):
                before, after, path = line.split(" ", 2)
                folder, _, name = path.strip("/").rpartition("/")
                try:
                    parent = linux.open_beneath(at, folder, os.O_RDONLY | os.O_DIRECTORY)
                except OSError:
                    continue  # a script took the folder away
                try:
                    now = os.fstat(parent)
                    if os.path.basename(path) in ("dev", "proc", "sys"):
                        os.rmdir(name, dir_fd=parent)
                    else:
                        os.unlink(name, dir_fd=parent)
                    # A folder that a script changed meanwhile keeps the time of that.
                    mtime = int(before) if now.st_mtime_ns == int(after) else now.st_mtime_ns
                    os.utime(parent, ns=(now.st_atime_ns, mtime))
                except OSError:
                    pass  # a script put something of its own there
                finally:
                    os.close(parent)
        finally:
            os.close(at)

    # ---- commands

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | int | None = None,
        cwd: str = "/",
        environment: Mapping[str, str] | None = None,
        user: tuple[int, ...] | None = None,
        output: Callable[[bytes], None] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        status: StatusCallback | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """Run a command to its end, and end what it left running.

        argv: the program, looked up in PATH where it has no slash, and its arguments. stdin: its input, or a
        descriptor; nothing by default. environment: added to the sandbox's. user: uid, gid and further groups; root by
        default. output: called with each line of stdout and stderr as it comes, newline included. stdout, stderr:
        descriptors that take these instead. status: called with each line that the command writes to descriptor 3
        (`dpkg --status-fd 3`), without its newline, and the coarse real time in seconds when it came, which is the
        clock that files get their times from. timeout: seconds.

        A returncode that is not 0 is the caller's to judge. Raises SandboxError when the sandbox or the timeout ended
        it; any exception, an interrupt too, ends the sandbox on the way out of its `with`.
        """
        if self._control is None:
            raise SandboxError("the sandbox has ended", where=str(self.root))
        begin = time.monotonic()
        with self._busy, Streams(stdin, stdout, stderr, status is not None) as streams:
            request = {
                "argv": list(argv),
                "environment": {**self.environment, **(environment or {})},
                "cwd": cwd,
                "user": user,
                "fds": list(streams.numbers),
            }
            data = marshal.dumps(request)
            if len(data) > sandbox_init.MESSAGE:
                raise SandboxError(f"a command line of {len(data)} bytes is too long for the sandbox")
            socket.send_fds(self._control, [data], list(streams.theirs))
            streams.close_theirs()
            collector = Collector(output, status)
            until = None if timeout is None else begin + timeout
            answer = self._follow(argv[0], streams, collector, until)
        _, code, fault, left = answer.split()
        number = int(fault)
        return Completed(
            returncode=int(code) if not number else 127 if number == 2 else 126,
            output=collector.kept(),
            truncated=collector.truncated,
            fault=f"`{argv[0]}` cannot be executed: {os.strerror(number)}" if number else "",
            left=int(left),
            seconds=time.monotonic() - begin,
        )

    def _follow(self, name: str, streams: Streams, collector: Collector, until: float | None) -> str:
        """Read what comes until the command has ended; return the sandbox's answer."""
        assert self._control is not None
        poll = select.poll()
        sinks = {streams.output: collector.take, streams.status: collector.take_status}
        sinks.pop(-1, None)
        for fd in (self._control.fileno(), *sinks):
            poll.register(fd, select.POLLIN)
        answer = ""
        # When the answer is here every writer is gone, so the pipes come to their ends.
        while not answer or sinks:
            left = None if until is None else max(0.0, until - time.monotonic())
            events = poll.poll(None if left is None else left * 1000)
            if not events and left is not None and left <= 0:
                self.stop()
                raise SandboxError(f"`{name}` did not end in time", where=str(self.root))
            for fd, _ in events:
                if fd in sinks:
                    data = os.read(fd, 65536)
                    sinks[fd](data)
                    if not data:
                        poll.unregister(fd)
                        del sinks[fd]
                else:
                    answer = self._control.recv(sandbox_init.MESSAGE).decode()
                    poll.unregister(fd)
                    if not answer:
                        self.stop()
                        raise SandboxError(f"the sandbox ended while `{name}` ran", where=str(self.root))
        return answer
