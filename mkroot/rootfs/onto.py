"""Installs packages over a parent: the image's own dpkg unpacks and configures them, so that upgrades are right too.

What was written is kept as one layer, under a key made of all that went into it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mkroot.errors import RootfsError, SandboxError
from mkroot.rootfs import dpkg
from mkroot.rootfs.capture import COARSE, Event, capture
from mkroot.rootfs.identity import SINGLE, Identity
from mkroot.rootfs.sandbox import Sandbox
from mkroot.rootfs.stage import Root
from mkroot.rootfs.top import Top
from mkroot.rootfs.waves import waves
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.trees import Trees
from mkroot.store.unpack import Expected, check_control, control_fields, layer_key

FORMAT = "1"  # of what this module does; part of the key of what it stores
LENT = ".packages"  # the folder of the union in which dpkg sees the packages; it is no part of what is kept
BATCH = 200  # packages a command line
KEPT_CONFFILES = ("--force-confdef", "--force-confold")  # nobody is there to be asked: what was changed stays (dpkg(1))


class Lent(msgspec.Struct, frozen=True, kw_only=True):
    """A package as it is lent to dpkg: its file, and its record without members."""

    file: Path
    layer: Layer


def lent(file: Path, expected: Expected) -> Lent:
    """Return a package whose file's digest the caller has checked; raises PackageError where it is not the promised."""
    from mkroot.debian.deb import open_deb

    with open(file, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        deb = open_deb(view, f"{expected.name} {expected.version}")
        check_control(deb, expected)
        control, date = deb.control, deb.date
        deb.data.release()
        view.release()
    return Lent(
        file=file,
        layer=Layer(key=layer_key(expected.sha256), name=expected.name, entries=(), control=control, date=date),
    )


def install_key(before: str, packages: Sequence[str], epoch: int, environment: Sequence[tuple[str, str]] = ()) -> str:
    """Return the key of a result: what was before, the packages' layer keys in order, and what their scripts see."""
    parts = ["onto", FORMAT, before, list(packages), epoch, *([environment] if environment else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def install(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    packages: Sequence[Lent],
    epoch: int,
    environment: Sequence[tuple[str, str]] = (),
    note: Callable[[str], None] = lambda name: None,
) -> Root:
    """Install packages in their order over the root, or take the result from the store.

    The root's dpkg does all of it: a package that is there in another version is upgraded with its own scripts, what it
    no longer has is removed, files that two packages claim are refused. epoch: seconds, what the scripts see.
    Raises SandboxError with dpkg's last words.
    """
    key = install_key(root.key, [p.layer.key for p in packages], epoch, environment)
    if not layers.has(key):
        with layers.store.lock("stages", key):
            if not layers.has(key):
                _run(layers, identity, trees, root, packages, epoch, environment, key, note)
    return over(root, layers.load(key))


def over(root: Root, top: Layer) -> Root:
    """Return the root with a known result over it."""
    tree = root.tree.copy()
    tree.apply(top)
    return msgspec.structs.replace(root, key=top.key, tree=tree, tops=(*root.tops, top))


def _run(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    packages: Sequence[Lent],
    epoch: int,
    environment: Sequence[tuple[str, str]],
    key: str,
    note: Callable[[str], None],
) -> None:
    if root.tree.exists(LENT):
        raise RootfsError(f"/{LENT} is there already, and dpkg is to see the packages in it", hint="remove it")
    files = {p.layer.key: f"/{LENT}/{n:04d}_{p.layer.name}.deb" for n, p in enumerate(packages)}
    with Top(layers, identity, trees) as top:
        _lend(top, packages, files)
        events: list[Event] = []
        start = time.clock_gettime(COARSE)
        # What is hidden under a file of the sandbox cannot be upgraded; dpkg brings its own start-stop-daemon.
        hidden = all(p.layer.name != "dpkg" for p in packages)
        with (
            top.mounted(root) as at,
            Sandbox(
                at,
                identity=identity,
                epoch=epoch,
                environment=dict(environment),
                start_stop=hidden,
                architecture=root.architecture,
            ) as box,
        ):
            for wave in waves([p.layer for p in packages]):
                names = [files[layer.key] for layer in wave]
                for n in range(0, len(names), BATCH):
                    # As apt calls it: triggers wait for the end, and what is broken for a while is deconfigured.
                    unpack = ["--no-triggers", "--auto-deconfigure", "--unpack", *names[n : n + BATCH]]
                    _dpkg(box, unpack, "unpacking", events, note)
                _dpkg(box, ["--configure", "-a"], "configuring", events, note)
            top.owners |= box.owners()
        status = top.read(dpkg.STATUS) or b""
        _check(status, [p.layer for p in packages])
        layer, chunks = capture(
            top.upper,
            root.tree,
            key,
            "packages",
            start,
            events,
            owners=top.owners,
            heirs=identity.kind == SINGLE,
        )
        top.keep(layer, iter(chunks))


def _lend(top: Top, packages: Sequence[Lent], files: dict[str, str]) -> None:
    """Put the packages into the lowest folder of the union, which nothing is written to."""
    folder = top.folder / "scaffold" / LENT
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    for package in packages:
        at = folder / files[package.layer.key].rpartition("/")[2]
        shutil.copyfile(package.file, at)
        at.chmod(0o644)


def _dpkg(box: Sandbox, words: Sequence[str], doing: str, events: list[Event], note: Callable[[str], None]) -> None:
    def status(line: str, when: float) -> None:
        kind, _, rest = line.partition(": ")
        if kind != "processing":
            return
        action, _, package = rest.partition(": ")
        name = package.strip().partition(":")[0]
        what = {"configure": f"{name} postinst", "trigproc": f"{name} triggers"}.get(action, f"package: {name}")
        events.append(Event(when, what))
        note(what)

    done = box.run(["dpkg", "--status-fd", "3", "--force-unsafe-io", *KEPT_CONFFILES, *words], status=status)
    note("")
    if done.returncode:
        lines = done.output.decode("utf-8", "backslashreplace").strip().splitlines()
        told = "\n  " + "\n  ".join(lines[-12:]) if lines else done.fault or "it printed nothing"
        raise SandboxError(
            f"{doing} the packages failed: {told}",
            hint="the message above is from the parent's own dpkg; leave the package out, or report it",
        )


def _check(status: bytes, packages: Sequence[Layer]) -> None:
    states = dpkg.states(status)
    for layer in packages:
        fields = control_fields(layer.control["control"])
        state = states.get(f"{fields['package']}:{fields['architecture']}", "not there")
        if state != "installed":
            raise SandboxError(f"package {layer.name} is `{state}` after its configuration, not `installed`")
