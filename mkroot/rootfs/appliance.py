"""What an image's root is given so that a machine runs it: an init where it has none, which starts its command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import msgspec

from mkroot.rootfs.machine import INITS, MOUNT_POINTS, data_folder
from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.tree import Tree

FORMAT = "1"  # of what this module writes; part of the key of what it stores
FOLDER = "usr/lib/mkroot"
LOADERS = ("usr/sbin/modprobe", "sbin/modprobe", "usr/bin/kmod", "bin/kmod")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Appliance(msgspec.Struct, frozen=True, kw_only=True):
    """A command that a machine runs, and what it takes.

    command: entrypoint and arguments, as in the image's config; empty for a shell. env: words `NAME=VALUE`. user: name
    or number, also `USER:GROUP`. busybox: the program, static. modules: the kernel's, by path, for a root that can load
    them.
    """

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    busybox: bytes
    modules: Mapping[str, bytes] = {}


def has_init(tree: Tree) -> bool:
    """Tell whether a root has an init of its own; busybox' would start what an image does not have."""
    found = [tree.resolve(path) for path in (*INITS, "sbin/init", "bin/init") if tree.exists(path)]
    return any(path.rpartition("/")[2] != "busybox" for path in found)


def loads_modules(tree: Tree) -> bool:
    """Tell whether a root has the program that loads a kernel's modules."""
    return any(tree.exists(path) for path in LOADERS)


def prepare_appliance(tree: Tree, appliance: Appliance) -> dict[str, str]:
    """Change an image's root in memory and return the origin of each path that was written.

    A root with an init of its own is given the kernel's modules alone; any other busybox, a small init, and a script
    that starts the image's command as a container would: its environment, folder and user. An image is often without
    the mount points that a machine needs.
    """
    recorder = Recorder(tree)
    with recorder.at("mkroot: the kernel's modules"):
        for path in sorted(appliance.modules):
            recorder.write(path, appliance.modules[path], 0o644, 0, 0)
    with recorder.at("mkroot: what a machine needs"):
        for name, mode in MOUNT_POINTS.items():
            if not tree.exists(name):
                recorder.folder(name, mode)
    if has_init(tree):
        return recorder.origins
    with recorder.at("mkroot: a small init, for the image has none"):
        recorder.write(f"{FOLDER}/busybox", appliance.busybox, 0o755, 0, 0)
        for name in ("network", "lease"):
            recorder.write(f"{FOLDER}/{name}", (data_folder() / "check" / name).read_bytes(), 0o755, 0, 0)
        init = (data_folder() / "check" / "init").read_bytes()
        init = init.replace(b"#!/usr/bin/busybox sh", f"#!/{FOLDER}/busybox sh".encode(), 1)
        recorder.write(f"{FOLDER}/init", init, 0o755, 0, 0)
        recorder.link("sbin/init", f"/{FOLDER}/init")
    with recorder.at("mkroot: the image's command"):
        uid, _, gid = appliance.user.partition(":")
        if uid.isdecimal() and int(uid) and _account(tree, uid) is None:  # busybox becomes nobody whom passwd(5) lacks
            known = tree.read("etc/passwd") if tree.exists("etc/passwd") else b""
            group = gid if gid.isdecimal() else "0"
            recorder.write("etc/passwd", known + f"mkroot:x:{uid}:{group}::/:/bin/sh\n".encode())
        recorder.write(f"{FOLDER}/start", start_script(tree, appliance).encode(), 0o755, 0, 0)
    return recorder.origins


def start_script(tree: Tree, appliance: Appliance) -> str:
    """Return the script that becomes the image's command."""
    env = dict(word.partition("=")[::2] for word in appliance.env)
    path = env.get("PATH", _PATH)
    uid, _, gid = appliance.user.partition(":")
    lines = ["# The command of the image, with its environment, folder and user."]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in env.items() if name.isidentifier()]
    if "HOME" not in env:
        lines.append(f"export HOME={shlex.quote(_home(tree, uid))}")
    lines += [f"cd {shlex.quote(appliance.workdir)}"] if appliance.workdir else []
    words = list(appliance.command) or ["/bin/sh"]
    words[0] = _program(tree, words[0], path)
    if uid not in ("", "0", "root"):
        who = shlex.quote(f"{uid}:{gid}" if gid else uid)
        lines.append(
            f"exec start-stop-daemon -S -c {who} -x {shlex.quote(words[0])} -- {shlex.join(words[1:])}".rstrip()
        )
    else:
        lines.append(f"exec {shlex.join(words)}")
    return "\n".join([f"#!/{FOLDER}/busybox sh", *lines, ""])


def _program(tree: Tree, name: str, path: str) -> str:
    """Return a program's full name in the root; the name itself where it is not found."""
    if "/" in name:
        return name
    return next((f"{folder}/{name}" for folder in path.split(":") if folder and tree.exists(f"{folder}/{name}")), name)


def _home(tree: Tree, user: str) -> str:
    """Return a user's home by the root's own passwd(5); the root folder where it does not tell."""
    if not user:
        return "/root"
    account = _account(tree, user)
    return "/" if account is None else account[5] or "/"


def _account(tree: Tree, user: str) -> list[str] | None:
    """Return the fields of a user, by name or number, in the root's own passwd(5)."""
    if tree.exists("etc/passwd"):
        for line in tree.read("etc/passwd").decode("utf-8", "replace").splitlines():
            fields = line.split(":")
            if len(fields) == 7 and user in (fields[0], fields[2]):
                return fields
    return None
