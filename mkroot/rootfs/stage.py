"""Configures packages in stages: the image's own dpkg runs over the union of their trees, and what it wrote is kept.

A stage's result is a layer under a key made of everything that went into it, so a later build that shares the stage
mounts it as one more read-only layer and runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from mkroot.errors import RootfsError, SandboxError
from mkroot.rootfs import dpkg
from mkroot.rootfs.capture import COARSE, DATABASE, Event, capture
from mkroot.rootfs.identity import SINGLE, Identity
from mkroot.rootfs.memo import Memo, Unusable, can_follow
from mkroot.rootfs.merge import Merge, alias_links
from mkroot.rootfs.placing import (
    origins,
    place,
    put_right,
    recorded,
    reorder,
    replaces,
    settled,
    stands,
)
from mkroot.rootfs.preinst import diverts, parts, run_preinsts, tail, with_preinst
from mkroot.rootfs.sandbox import Sandbox
from mkroot.rootfs.top import Top
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.waves import waves
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.trees import Trees
from mkroot.store.unpack import control_fields
from mkroot.tar.entry import Entry

FORMAT = "2"  # of what a stage does; part of every stage's key
FSTAB = b"# UNCONFIGURED FSTAB FOR BASE SYSTEM\n"  # what debootstrap and mmdebstrap leave there


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Packages to configure together, in order, and the date that their scripts see (seconds since 1970).

    environment: what else their scripts see.
    """

    name: str
    packages: tuple[Layer, ...]
    epoch: int
    environment: tuple[tuple[str, str], ...] = ()


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A root under construction: its packages and what was written over them. key: of everything that went into it."""

    key: str
    tree: Tree
    packages: tuple[Layer, ...] = ()
    tops: tuple[Layer, ...] = ()
    architecture: str


def stage_key(before: str, stage: Stage) -> str:
    """Return the key of a stage's result: what was before, its packages in order, and what their scripts see."""
    parts: list[object] = ["stage", FORMAT, before, stage.name, stage.epoch, [p.key for p in stage.packages]]
    parts += [stage.environment] if stage.environment else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def merge_stage(root: Root, stage: Stage) -> tuple[Tree, set[str]]:
    """Return the tree with the stage's packages unpacked, and the paths that their union alone would not show so.

    Raises RootfsError where two packages have one path.
    """
    tree = root.tree.copy()
    merge = Merge(tree, replaces([*root.packages, *stage.packages]), recorded(tree))
    for layer in stage.packages:
        merge.add(layer)
    return tree, merge.fixed


def replay(root: Root, stage: Stage, top: Layer) -> Root:
    """Return the root after a stage whose result is known."""
    tree, fixed = settled(root.tree, root.packages, stage.packages)
    tree.apply(top)
    for path in fixed:  # what was moved stands in the top; what a script then removed is gone
        node = tree.nodes.get(path)
        if node is not None and tree.layers[node.layer].key != top.key and not stands(tree, node, path):
            tree.drop(path)
    return msgspec.structs.replace(
        root, key=top.key, tree=tree, packages=(*root.packages, *stage.packages), tops=(*root.tops, top)
    )


def configure(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    stage: Stage,
    note: Callable[[str], None] = lambda line: None,
    memo: bool = False,
    follow: bool = False,
    told: Callable[[Memo], None] = lambda memo: None,
) -> Root:
    """Unpack and configure a stage's packages, or take the result from the store; raises SandboxError, RootfsError.

    note: called with each script that begins, as `tzdata postinst`, and with "" when the last one has ended. memo:
    whether known effects may stand for scripts; follow: whether those that run are followed. told: called afterwards.
    """
    key = stage_key(root.key, stage)
    store = layers.store
    if layers.has(key):
        return replay(root, stage, layers.load(key))
    with store.lock("stages", key):
        if not layers.has(key):
            start = time.clock_gettime(COARSE)
            followed = memo and can_follow(identity.kind, root.architecture)
            known = Memo(store, identity.kind, start, follow=follow) if followed else None
            try:
                _run(layers, identity, trees, root, stage, key, note, known)
            except Unusable:
                _run(layers, identity, trees, root, stage, key, note, None)
            else:
                if known is not None:
                    known.save()
                    told(known)
    return replay(root, stage, layers.load(key))


def _run(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    stage: Stage,
    key: str,
    note: Callable[[str], None],
    memo: Memo | None,
) -> None:
    with Top(layers, identity, trees) as top:
        events: list[Event] = []
        start = time.clock_gettime(COARSE)
        moved: dict[str, str] = {}
        if not root.packages:
            shown = _first(top, root, stage, events, moved, note, memo).tree
        else:
            running = root
            groups = waves(stage.packages)
            for group in groups:
                wave = msgspec.structs.replace(stage, packages=tuple(group))
                running = _wave(top, running, wave, events, moved, note, memo)
            shown = running.tree
            if len(groups) > 1:
                shown, fixed = settled(root.tree, root.packages, stage.packages)
                late = reorder(top, running.tree, shown, fixed - moved.keys())
                moved |= origins(running.tree, late - moved.keys())
        layer, chunks = capture(
            top.upper,
            shown,
            key,
            f"stage {stage.name}",
            start,
            events,
            keep=moved,
            owners=top.owners,
            heirs=identity.kind == SINGLE,
            writers=memo.writers if memo is not None else None,
            epoch=stage.epoch,
        )
        top.keep(layer, iter(chunks))


def _first(
    top: Top,
    root: Root,
    stage: Stage,
    events: list[Event],
    moved: dict[str, str],
    note: Callable[[str], None],
    memo: Memo | None,
) -> Root:
    """Configure the first packages, which are all unpacked before a script can run; note what the top puts right."""
    packages = stage.packages
    try:
        (tree, fixed), disputed = merge_stage(root, stage), False
    except RootfsError:
        if not any(map(diverts, packages)):
            raise
        (tree, fixed), disputed = settled(root.tree, (), packages), True  # until the scripts say where files belong
    after = msgspec.structs.replace(root, tree=tree, packages=packages)
    top.put(_first_files(after), tree)
    _database(top, root, tree, stage, ())
    put_right(top, tree, fixed)
    moved |= origins(tree, fixed)
    with ExitStack() as stack:
        at = stack.enter_context(top.mounted(after))
        box = stack.enter_context(_box(top, at, stage, tree, memo, root.architecture))
        run_preinsts(box, with_preinst(packages), events, note, memo)
        if disputed:
            top.owners |= box.owners()
            stack.close()
            _unpacked(events)
            tree, more = place(top, root.tree, (), packages)
            moved |= more
            at = stack.enter_context(top.mounted(after))
            box = stack.enter_context(_box(top, at, stage, tree, memo, root.architecture))
        _configure(box, events, note, memo)
        top.owners |= box.owners()
    _check(top.read(dpkg.STATUS) or b"", stage)
    return after


def _wave(
    top: Top,
    root: Root,
    wave: Stage,
    events: list[Event],
    moved: dict[str, str],
    note: Callable[[str], None],
    memo: Memo | None,
) -> Root:
    """Run the preinst scripts, unpack, and configure one group of packages; note in `moved` what the top puts right."""
    configured = root.packages
    for part in parts(wave.packages):
        if scripts := with_preinst(part):
            with top.mounted(root) as at, _box(top, at, wave, root.tree, memo, root.architecture) as box:
                run_preinsts(box, scripts, events, note, memo, outside=at)
                top.owners |= box.owners()
        _unpacked(events)
        tree, fixed = place(top, root.tree, root.packages, part)
        _database(top, root, tree, msgspec.structs.replace(wave, packages=tuple(part)), configured)
        moved |= fixed
        root = msgspec.structs.replace(root, tree=tree, packages=(*root.packages, *part))
    with top.mounted(root) as at, _box(top, at, wave, root.tree, memo, root.architecture) as box:
        _configure(box, events, note, memo)
        top.owners |= box.owners()
    _check(top.read(dpkg.STATUS) or b"", wave)
    return root


def _unpacked(events: list[Event]) -> None:
    """Note that what is written from now on is no script's."""
    events.append(Event(time.clock_gettime(COARSE), DATABASE))


@contextmanager
def _box(top: Top, at: Path, stage: Stage, tree: Tree, memo: Memo | None, architecture: str) -> Iterator[Sandbox]:
    with ExitStack() as stack:
        if memo is not None:
            stack.enter_context(memo.at(at, top.upper, tree))
        environment = dict(stage.environment)
        watcher = memo.watch if memo is not None else None
        follow = memo is not None and memo.follow
        yield stack.enter_context(
            Sandbox(
                at,
                identity=top.identity,
                epoch=stage.epoch,
                environment=environment,
                watcher=watcher,
                follow=follow,
                architecture=architecture,
            )
        )


def _first_files(root: Root) -> list[tuple[Entry, bytes]]:
    """Return what stands in a root before its first script runs: the merged-/usr links, fstab, dpkg's architecture."""
    found: list[tuple[Entry, bytes]] = [(link, b"") for link in alias_links(root.tree)]
    if "etc/fstab" not in root.tree.nodes:
        found.append((Entry("etc/fstab", "f", 0o644, size=len(FSTAB)), FSTAB))
    architecture = root.architecture.encode() + b"\n"
    found.append((Entry(f"{dpkg.ADMIN}/arch", "f", 0o644, size=len(architecture)), architecture))
    return found


def _database(top: Top, root: Root, tree: Tree, part: Stage, configured: Sequence[Layer]) -> None:
    """Write dpkg's database as unpacking the packages would leave it; `configured`: whose triggers it may activate."""
    before = top.read(dpkg.STATUS) or (root.tree.read(dpkg.STATUS) if root.tree.get(dpkg.STATUS) else b"")
    files = {dpkg.STATUS: dpkg.status_file(before, list(part.packages), dpkg.interests(list(configured)))}
    files |= dpkg.trigger_files(dpkg.interests([*root.packages, *part.packages]))
    top.put([(Entry(path, "f", 0o644, size=len(data)), data) for path, data in sorted(files.items())], tree)


def _configure(box: Sandbox, events: list[Event], note: Callable[[str], None], memo: Memo | None) -> None:
    def status(line: str, when: float) -> None:
        kind, _, rest = line.partition(": ")
        if kind == "processing":
            action, _, package = rest.partition(": ")
            what = f"{package.strip().partition(':')[0]} {'triggers' if action == 'trigproc' else 'postinst'}"
            events.append(Event(when, what))
            note(what)

    command = ["dpkg", "--status-fd", "3", "--force-unsafe-io", "--configure", "-a"]
    done = box.run(command, status=status)
    if memo is not None:
        memo.settle(done.left)
    note("")
    if done.returncode:
        raise SandboxError(
            f"configuring the packages failed: {tail(done.output)}",
            hint="the message above is from the package's own script; leave the package out, or report it",
        )


def _check(status: bytes, wave: Stage) -> None:
    states = dpkg.states(status)
    for layer in wave.packages:
        fields = control_fields(layer.control["control"])
        state = states.get(f"{fields['package']}:{fields['architecture']}")
        if state != "installed":
            raise SandboxError(f"package {layer.name} is `{state}` after its configuration, not `installed`")
