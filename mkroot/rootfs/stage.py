"""Configures packages in stages: the image's own dpkg runs over the union of their trees, and what it wrote is kept.

A stage's result is a layer under a key made of everything that went into it, so a later build that shares the stage
mounts it as one more read-only layer and runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from mkroot.errors import SandboxError
from mkroot.rootfs import dpkg, linux
from mkroot.rootfs.capture import COARSE, Event, capture
from mkroot.rootfs.identity import SINGLE, Identity
from mkroot.rootfs.memo import Memo, Unusable, can_follow
from mkroot.rootfs.merge import Merge, alias_links, diversions
from mkroot.rootfs.sandbox import Sandbox
from mkroot.rootfs.top import Top
from mkroot.rootfs.tree import Node, Tree
from mkroot.rootfs.waves import waves
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.trees import Trees
from mkroot.store.unpack import INFO, control_fields, info_name
from mkroot.tar.entry import FILE, Entry, parent

FORMAT = "1"  # of what a stage does; part of every stage's key
FSTAB = b"# UNCONFIGURED FSTAB FOR BASE SYSTEM\n"  # what debootstrap and mmdebstrap leave there
LENT = f"{dpkg.ADMIN}/tmp.ci"  # where dpkg unpacks control files


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


def replaces(packages: Sequence[Layer]) -> Callable[[str, str], bool]:
    """Return the function that tells whether one package's Replaces names another's version (Policy 7.6.1)."""
    from mkroot.debian.relation import parse_relations

    fields = {p.name: control_fields(p.control["control"]) for p in packages}

    def declared(new: str, old: str) -> bool:
        clauses = parse_relations(fields[new].get("replaces", "")) if new in fields else ()
        version = fields[old]["version"] if old in fields else ""
        return any(r.name == old and r.accepts(version) for clause in clauses for r in clause)

    return declared


def merge_stage(root: Root, stage: Stage) -> tuple[Tree, set[str]]:
    """Return the tree with the stage's packages unpacked, and the paths that their union alone would not show so."""
    tree = root.tree.copy()
    status = dpkg.ADMIN + "/diversions"
    diverted = diversions(tree.read(status)) if tree.get(status) else {}
    merge = Merge(tree, replaces([*root.packages, *stage.packages]), diverted)
    for layer in stage.packages:
        merge.add(layer)
    return tree, merge.fixed


def replay(root: Root, stage: Stage, top: Layer) -> Root:
    """Return the root after a stage whose result is known."""
    tree, fixed = merge_stage(root, stage)
    tree.apply(top)
    for path in fixed:  # what was moved stands in the top; what a script then removed is gone
        node = tree.nodes.get(path)
        if node is not None and tree.layers[node.layer].key != top.key and not stands(tree, node, path):
            tree.drop(path)
    return msgspec.structs.replace(
        root, key=top.key, tree=tree, packages=(*root.packages, *stage.packages), tops=(*root.tops, top)
    )


def stands(tree: Tree, node: Node, path: str) -> bool:
    """Tell whether a path stands where its layer has it: what lies below another package's link does not."""
    return any(e.path == path for e in tree.layers[node.layer].entries)


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
            known = Memo(store, identity.kind, start, follow=follow) if memo and can_follow(identity.kind) else None
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
        running = root
        fixed: set[str] = set()
        for group in waves(stage.packages) if root.packages else [list(stage.packages)]:
            wave = msgspec.structs.replace(stage, packages=tuple(group))
            running = _wave(top, running, wave, events, fixed, note, memo)
        layer, chunks = capture(
            top.upper,
            running.tree,
            key,
            f"stage {stage.name}",
            start,
            events,
            keep=fixed,
            owners=top.owners,
            heirs=identity.kind == SINGLE,
            writers=memo.writers if memo is not None else None,
            epoch=stage.epoch,
        )
        top.keep(layer, iter(chunks))


def _wave(
    top: Top,
    root: Root,
    wave: Stage,
    events: list[Event],
    moved: set[str],
    note: Callable[[str], None],
    memo: Memo | None,
) -> Root:
    """Run the preinst scripts, unpack, and configure one group of packages; note in `moved` what the top puts right."""
    first = not root.packages
    tree, fixed = merge_stage(root, wave)
    moved |= fixed
    after = msgspec.structs.replace(root, tree=tree, packages=(*root.packages, *wave.packages))
    with_preinst = [p for p in wave.packages if "preinst" in p.control]
    with ExitStack() as stack:
        if first:
            top.put(_first_files(after), tree)
        if with_preinst and not first:
            with top.mounted(root) as at, _box(top, at, wave, root.tree, memo) as box:
                _preinsts(box, with_preinst, events, note, memo, outside=at)
                top.owners |= box.owners()
        _database(top, root, tree, wave)
        _fix(top, tree, fixed)
        at = stack.enter_context(top.mounted(after))
        box = stack.enter_context(_box(top, at, wave, tree, memo))
        if first:
            _preinsts(box, with_preinst, events, note, memo)
        _configure(box, events, note, memo)
        top.owners |= box.owners()
    _check(top.read(dpkg.STATUS) or b"", wave)
    return after


@contextmanager
def _box(top: Top, at: Path, stage: Stage, tree: Tree, memo: Memo | None) -> Iterator[Sandbox]:
    with ExitStack() as stack:
        if memo is not None:
            stack.enter_context(memo.at(at, top.upper, tree))
        environment = dict(stage.environment)
        watcher = memo.watch if memo is not None else None
        follow = memo is not None and memo.follow
        yield stack.enter_context(
            Sandbox(
                at, identity=top.identity, epoch=stage.epoch, environment=environment, watcher=watcher, follow=follow
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


def _database(top: Top, root: Root, tree: Tree, wave: Stage) -> None:
    """Write dpkg's database as unpacking the packages would leave it."""
    before = top.read(dpkg.STATUS) or (root.tree.read(dpkg.STATUS) if root.tree.get(dpkg.STATUS) else b"")
    installed = dpkg.interests(list(root.packages))
    files = {dpkg.STATUS: dpkg.status_file(before, list(wave.packages), installed)}
    files |= dpkg.trigger_files(dpkg.interests([*root.packages, *wave.packages]))
    top.put([(Entry(path, "f", 0o644, size=len(data)), data) for path, data in sorted(files.items())], tree)


def _fix(top: Top, tree: Tree, fixed: set[str]) -> None:
    """Put into the top what the union of the packages' own trees would show otherwise."""
    for path in sorted(fixed):
        node = tree.nodes.get(path)
        if node is None:
            if tree.resolve(parent(path)) == parent(path):  # what is below a link is hidden by it
                top.hide(path, tree)
        elif node.entry.kind == "h":
            content = tree.read(path)
            top.put([(msgspec.structs.replace(node.entry, kind="f", link="", size=len(content)), content)], tree)
        else:
            top.put([(node.entry, tree.read(path) if node.entry.kind == FILE else b"")], tree)


def _preinsts(
    box: Sandbox,
    packages: Sequence[Layer],
    events: list[Event],
    note: Callable[[str], None],
    memo: Memo | None,
    outside: Path | None = None,
) -> None:
    """Run preinst scripts as dpkg does on a first installation (Policy 6.6): `preinst install`."""
    for layer in packages:
        fields = control_fields(layer.control["control"])
        name = info_name(fields)
        script = f"/{INFO}/{name}.preinst"
        if outside is not None:  # its own tree is not there yet; dpkg puts it here, too
            _lend(outside, layer.control["preinst"])
            script = f"/{LENT}/preinst"
        events.append(Event(time.clock_gettime(COARSE), f"{layer.name} preinst"))
        note(f"{layer.name} preinst")
        done = box.run(
            [script, "install"],
            environment={
                "DPKG_MAINTSCRIPT_PACKAGE": layer.name,
                "DPKG_MAINTSCRIPT_ARCH": fields["architecture"],
                "DPKG_MAINTSCRIPT_NAME": "preinst",
                "DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT": "1",
                "DPKG_ADMINDIR": "/var/lib/dpkg",
                "DPKG_RUNNING_VERSION": "1.21.1",
                "DPKG_ROOT": "",
            },
        )
        if memo is not None:
            memo.settle(done.left)
        note("")
        if outside is not None:
            _lend(outside, None)
        if done.returncode:
            raise SandboxError(
                f"the preinst script of {layer.name} failed with status {done.returncode}: {_tail(done.output)}",
                hint="the script is the package's own; leave the package out, or report it to the distribution",
            )


def _lend(at: Path, script: bytes | None) -> None:
    """Put a preinst into the mounted root, or take it away; raises SandboxError where that is not dpkg's folder.

    An earlier script may have put links there, which would be this host's: none is followed.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with ExitStack() as stack:
        try:
            root = os.open(at, flags)
            stack.callback(os.close, root)
            admin = linux.open_beneath(root, dpkg.ADMIN, flags)
            stack.callback(os.close, admin)
            name = LENT.rpartition("/")[2]
            if script is not None:
                os.mkdir(name, 0o755, dir_fd=admin)
            folder = os.open(name, flags, dir_fd=admin)
            stack.callback(os.close, folder)
            if script is None:
                os.unlink("preinst", dir_fd=folder)
                os.rmdir(name, dir_fd=admin)
                return
            new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open("preinst", new, 0o700, dir_fd=folder), "wb") as f:
                f.write(script)
                os.fchmod(f.fileno(), 0o755)
            os.fchmod(folder, 0o755)  # whatever the umask is
        except OSError as e:
            raise SandboxError(
                f"a preinst script cannot be put into /{LENT}: {e.strerror}",
                hint="a script that ran before changed dpkg's folder; leave its package out, or report it",
            ) from e


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
            f"configuring the packages failed: {_tail(done.output)}",
            hint="the message above is from the package's own script; leave the package out, or report it",
        )


def _tail(output: bytes) -> str:
    lines = output.decode("utf-8", "backslashreplace").strip().splitlines()
    return "\n  " + "\n  ".join(lines[-12:]) if lines else "it printed nothing"


def _check(status: bytes, wave: Stage) -> None:
    states = dpkg.states(status)
    for layer in wave.packages:
        fields = control_fields(layer.control["control"])
        state = states.get(f"{fields['package']}:{fields['architecture']}")
        if state != "installed":
            raise SandboxError(f"package {layer.name} is `{state}` after its configuration, not `installed`")
