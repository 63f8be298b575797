"""What a container sees of names and networks: hosts, resolv.conf, and a network of its own by pasta or slirp4netns."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess

from mkroot.errors import ContainerError
from mkroot.rootfs.identity import find_tool

_LOCAL = (
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)
_SLIRP_DNS = "10.0.2.3"  # slirp4netns(1): the name server of its network
_LOOPBACK = re.compile(rb"(?m)^\s*nameserver\s+(127\.|::1)")


def files(network: str, hostname: str) -> dict[str, bytes]:
    """Return the files that a container sees in place of its image's, by path (`union.FILES`); from the host's own.

    network: `host`, `none` or `private`.
    """
    hosts = _LOCAL.encode()
    resolv = b""
    if network != "none":
        resolv = _read("/etc/resolv.conf")
    if network == "host":
        hosts = _read("/etc/hosts") or hosts
    if network == "private" and (_LOOPBACK.search(resolv) or not resolv.strip()):
        # A name server on the host's loopback cannot be reached from another network.
        resolv = _read("/run/systemd/resolve/resolv.conf") or f"nameserver {_SLIRP_DNS}\n".encode()
    name = hostname.partition(".")[0]
    aliases = hostname if name == hostname else f"{hostname} {name}"
    if hosts and not hosts.endswith(b"\n"):
        hosts += b"\n"
    return {
        "etc/resolv.conf": resolv,
        "etc/hosts": hosts + f"127.0.1.1\t{aliases}\n".encode(),
        "etc/hostname": f"{hostname}\n".encode(),
    }


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read(1 << 20)
    except OSError:
        return b""


class Private:
    """A network of its own, joined to the host's by a program without privileges, until `close`.

    The program is given the namespace as an open descriptor: process 1's own entries in /proc are closed to it.
    """

    def __init__(self, pid: int) -> None:
        """Join the network of a container's process 1; raises ContainerError where no such program is installed."""
        self._process: subprocess.Popen[bytes] | None = None
        space = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if pasta := find_tool("pasta"):
                self._by_pasta(pasta, space)
            elif slirp := find_tool("slirp4netns"):
                self._by_slirp(slirp, space)
            else:
                raise ContainerError(
                    "`--network private` needs pasta or slirp4netns, and neither is installed",
                    hint="install the package `passt` or `slirp4netns`, or use `--network host` or `--network none`",
                )
        finally:
            os.close(space)

    def _by_pasta(self, program: str, space: int) -> None:
        words = [program, "--config-net", "--foreground", "--quiet", "--no-map-gw", "--netns-only", "--runas", "0:0"]
        words += [word for option in ("-t", "-u", "-T", "-U") for word in (option, "none")]  # no ports of either side
        ready, write = os.pipe()
        try:
            words += ["--pid", f"/proc/self/fd/{write}", "--netns", f"/proc/self/fd/{space}"]
            self._start(words, space, write)
        finally:
            os.close(write)
        self._wait(ready, "pasta")

    def _by_slirp(self, program: str, space: int) -> None:
        words = [program, "--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"]
        ready, write = os.pipe()
        try:
            self._start([*words, f"--ready-fd={write}", f"/proc/self/fd/{space}", "tap0"], space, write)
        finally:
            os.close(write)
        self._wait(ready, "slirp4netns")

    def _start(self, words: list[str], *given: int) -> None:
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(words, stdin=null, stdout=null, stderr=subprocess.PIPE, pass_fds=given)

    def _wait(self, ready: int, name: str) -> None:
        """Wait until the program says by its descriptor that the network stands."""
        assert self._process is not None
        assert self._process.stderr is not None
        try:
            stands = bool(select.select([ready], [], [], 10)[0]) and bool(os.read(ready, 16))
        finally:
            os.close(ready)
        if not stands:
            self._process.kill()
            said = self._process.stderr.read().decode(errors="replace").strip()[-500:]
            self.close()
            raise ContainerError(
                f"a private network cannot be made: {name}: {said or 'it does not answer'}",
                hint="use `--network host` or `--network none`",
            )

    def close(self) -> None:
        """End it; doing it twice is no error."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
            self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()
            self._process = None
