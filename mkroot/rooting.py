"""From packages in the store to a finished root: stages, the recipe's config, hooks, trim."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

import mkroot
from mkroot.digest import sha256
from mkroot.errors import SandboxError
from mkroot.progress import Following, Progress
from mkroot.recipe.model import Hook, Recipe
from mkroot.recipe.normal import plain
from mkroot.rootfs import appliance as appliances
from mkroot.rootfs import causes, dpkg, machine
from mkroot.rootfs import customise as customising
from mkroot.rootfs.appliance import Appliance, prepare_appliance
from mkroot.rootfs.apt_sources import write_apt_sources
from mkroot.rootfs.assembly import Assembly
from mkroot.rootfs.capture import COARSE, Event, capture
from mkroot.rootfs.identity import SINGLE, Identity
from mkroot.rootfs.memo import Memo, mostly_known
from mkroot.rootfs.merge import alias_links
from mkroot.rootfs.parts import cut
from mkroot.rootfs.placing import stands
from mkroot.rootfs.sandbox import Sandbox
from mkroot.rootfs.scrub import scrub
from mkroot.rootfs.stage import Root, Stage, configure, merge_stage, stage_key
from mkroot.rootfs.system import Command
from mkroot.rootfs.top import Top
from mkroot.rootfs.tree import Tree, top_of
from mkroot.rootfs.trim import trim
from mkroot.store.frame import pieces_of
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.trees import Trees
from mkroot.tar.entry import DIR, FILE, HARDLINK

if TYPE_CHECKING:
    from mkroot.additions import Inside
    from mkroot.rootfs.static.configure import StaticReport

AUTO, RUN, FOLLOW = "auto", "run", "follow"  # of `configured`
CONFIGURING = "configure "  # what the steps are called that configure packages
FORMAT = "1"  # of what this module does; part of the keys of what it stores
Origins = Mapping[str, str]
Notes = Sequence[str]


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """A hook's text, or a command of the image. shown: for messages. origin: who asked for it. cwd: where it starts."""

    shown: str
    origin: str
    argv: tuple[str, ...] = ()
    text: bytes = b""
    network: bool = False
    cwd: str = "/"


def empty_root(layers: LayerStore, architecture: str, key: str = "") -> Root:
    """Return the root before anything is in it."""
    return Root(key=key or "empty", tree=Tree(layers.read), architecture=architecture)


def stages(packages: Sequence[tuple[str, Layer]], epoch: int | None, recipe: Recipe) -> list[Stage]:
    """Return the stages of packages given with their stage's name, in order; empty ones are left out.

    A stage's scripts see the date of the newest package so far, or `epoch` where SOURCE_DATE_EPOCH says one. Where the
    recipe's initramfs is not the distribution's, they are told so: its making takes longer than all else together
    (INITRD=No, /etc/kernel/postinst.d/initramfs-tools).
    """
    found = []
    date = 0
    for name in ("essential", "variant", "include"):
        members = tuple(layer for stage, layer in packages if stage == name)
        if members:
            date = max([date, *(layer.date for layer in members)])
            environment = environment_of(recipe) if name == "include" else ()
            found.append(
                Stage(name=name, packages=members, epoch=date if epoch is None else epoch, environment=environment)
            )
    return found


def environment_of(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """Return what the scripts of a recipe's own packages see beside the usual; see `stages`."""
    own = recipe.boot is not None and recipe.boot.initramfs != "distro"
    return (("INITRD", "No"),) if own else ()


def known(layers: LayerStore, root: Root, todo: Sequence[Stage]) -> bool:
    """Tell whether the store has the result of every stage."""
    key = root.key
    for stage in todo:
        key = stage_key(key, stage)
        if not layers.has(key):
            return False
    return True


def configured(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    todo: Sequence[Stage],
    progress: Progress,
    place: str = "",
    told: Callable[[str], None] | None = None,
    scripts: str = AUTO,
) -> Root:
    """Configure stage after stage; raises SandboxError, RootfsError.

    place: the recipe and architecture, for the memory of what its stages were made of. told: called with a sentence on
    why each stage was made again, or was not, and on each script that ran in one of which most were known. scripts:
    AUTO, a script's known effects may stand for it, where the store knows those of most; FOLLOW, so they may, and the
    scripts that run are followed to know theirs; RUN, every script runs.
    """
    for stage in todo:
        with progress.step(f"{CONFIGURING}{stage.name}", len(stage.packages), "packages") as p:
            p.cached = layers.has(stage_key(root.key, stage))
            p.result = f"{len(stage.packages)} packages"
            known = scripts == AUTO and not p.cached and mostly_known(layers.store, identity.kind, stage.packages)
            follow = scripts == FOLLOW
            if told is not None:
                told(causes.cause(layers.store, place, root.key, stage, made=not p.cached))

            def ran(memo: Memo, name: str = stage.name) -> None:
                for line in memo.told():
                    if told is not None:
                        told(f"stage {name}: {line}")

            root = configure(
                layers, identity, trees, root, stage, Following(progress), memo=known or follow, follow=follow, told=ran
            )
    return root


def unpacked(root: Root, packages: Sequence[Layer]) -> Root:
    """Return the root with packages unpacked and no script run."""
    tree, fixed = merge_stage(root, Stage(name="unpacked", packages=tuple(packages), epoch=0))
    for path in sorted(fixed):  # what stands elsewhere than in its package, below another's link
        node = tree.nodes.get(path)
        if node is not None and node.entry.kind != DIR and not stands(tree, node, path):
            content = tree.read(path) if node.entry.kind in (FILE, HARDLINK) else b""
            entry = tree.linked(node) if node.entry.kind == HARDLINK else node.entry
            tree.put(msgspec.structs.replace(entry, path=path), content)
    return msgspec.structs.replace(root, tree=tree, packages=(*root.packages, *packages))


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts], sort_keys=True, default=str).encode()).hexdigest()


def save(layers: LayerStore, root: Root, key: str, name: str, write: Callable[[Tree], tuple[Origins, Notes]]) -> Root:
    """Return the root with what `write` writes into its tree, taken from the store where it has that layer.

    write: changes the tree in memory; returns the origin of each path, and what the user should know.
    """
    if not layers.has(key):
        tree = root.tree.copy()
        origins, notes = write(tree)
        top, chunks = top_of(root.tree, tree, key, name, dict(origins))
        layers.save(msgspec.structs.replace(top, notes=tuple(notes)), pieces_of(chunks))
    return _with(root, layers.load(key))


def _with(root: Root, top: Layer) -> Root:
    tree = root.tree.copy()
    tree.apply(top)
    return msgspec.structs.replace(root, key=top.key, tree=tree, tops=(*root.tops, top))


def run(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    scripts: Sequence[Script],
    name: str,
    epoch: int,
    note: Callable[[str], None] = lambda what: None,
) -> Root:
    """Run scripts in the image and keep what they wrote; raises SandboxError naming the one that failed.

    note: called with each script that begins, and with "" when the last one has ended. The result is taken from the
    store where the same scripts ran on the same root, but for scripts with network.
    """
    if not scripts:
        return root
    fresh = [time.time_ns()] if any(s.network for s in scripts) else []
    key = _key("run", root.key, name, epoch, [[s.argv, s.text.hex()] for s in scripts], fresh)
    if layers.has(key):
        return _with(root, layers.load(key))
    with Top(layers, identity, trees) as top:
        start = time.clock_gettime(COARSE)
        events = []
        with top.mounted(root) as at:
            for script in scripts:
                events.append(Event(time.clock_gettime(COARSE), script.origin))
                note(script.shown)
                with Sandbox(
                    at, identity=identity, epoch=epoch, network=script.network, architecture=root.architecture
                ) as box:
                    done = box.run(list(script.argv) or ["/bin/sh", "-e"], stdin=script.text or None, cwd=script.cwd)
                    top.owners |= box.owners()
                note("")
                if done.returncode:
                    tail = done.output.decode("utf-8", "backslashreplace").strip().splitlines()[-12:]
                    raise SandboxError(
                        f"{script.shown} failed with status {done.returncode}:\n  " + "\n  ".join(tail),
                        where=script.origin.removeprefix("recipe: "),
                        hint="it ran inside the image; its last lines are above",
                    )
        layer, chunks = capture(
            top.upper, root.tree, key, name, start, events, owners=top.owners, heirs=identity.kind == SINGLE
        )
        top.keep(layer, iter(chunks))
    return _with(root, layers.load(key))


def _hooks(recipe: Recipe, texts: Sequence[bytes], at: str) -> list[Script]:
    def one(number: int, hook: Hook) -> Script:
        return Script(
            shown=f"the hook {hook.run}", origin=f"recipe: hooks[{number}]", text=texts[number], network=hook.network
        )

    return [one(i, h) for i, h in enumerate(recipe.hooks) if h.at == at]


def finished(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    recipe: Recipe,
    inside: Inside,
    epoch: int,
    progress: Progress,
    appliance: Appliance | None = None,
) -> tuple[Root, tuple[str, ...]]:
    """Return the root as the recipe wants it, and what the user should know; raises MkrootError.

    appliance: of a root that is an image's, which a machine is to run.
    """
    with progress.step("customise") as step:
        note = Following(progress)
        hooks = partial(_hooks, recipe, inside.hooks)
        root = run(layers, identity, trees, root, hooks("configured"), "hooks configured", epoch, note)
        commands: list[Script] = []

        def runs(programs: Sequence[Command]) -> list[Script]:
            return [Script(shown=c.shown, origin=c.origin, argv=c.argv) for c in programs]

        def config(tree: Tree) -> tuple[Origins, Notes]:
            done = customising.customise(tree, recipe.config, inside.inputs, epoch=epoch)
            commands.extend(runs(done.commands))
            origins = dict(done.origins) | write_apt_sources(tree, recipe.distro, inside.sources, key=inside.key)
            if recipe.boot is not None:
                origins |= prepare_appliance(tree, appliance) if appliance is not None else {}
                origins |= machine.prepare_machine(tree, recipe.disk, epoch=epoch)
            return origins | _automatic(tree, inside.automatic), done.notes

        wanted = [plain(recipe.config), msgspec.msgpack.encode(inside, enc_hook=str).hex()]
        if recipe.boot is not None:
            wanted += [machine.FORMAT, machine.check_unit().hex(), machine.small_init().hex(), str(recipe.disk.grow)]
        if appliance is not None:
            wanted += [appliances.FORMAT, sha256(msgspec.msgpack.encode(appliance, order="sorted"))]
        key = _key("config", mkroot.__version__, customising.FORMAT, root.key, epoch, wanted)
        step.cached = layers.has(key)
        if step.cached and recipe.config.locale:  # its commands are not in the layer
            commands.extend(runs(customising.commands(root.tree, recipe.config)))
        root = save(layers, root, key, "config", config)
        root = run(layers, identity, trees, root, commands, "config commands", epoch, note)
        root = run(layers, identity, trees, root, hooks("final"), "hooks final", epoch, note)

        def trimmed(tree: Tree) -> tuple[Origins, Notes]:
            done = trim(tree, recipe.trim)
            return done.origins | scrub(tree), done.notes

        key = _key("trim", mkroot.__version__, root.key, plain(recipe.trim))
        root = save(layers, root, key, "trim", trimmed)
    return root, tuple(note for top in root.tops for note in top.notes)


def _automatic(tree: Tree, packages: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Tell apt which packages are there only because others need them, as its own installation would (apt-mark(8))."""
    path = "var/lib/apt/extended_states"
    if not packages or not tree.exists("usr/bin/apt-get"):
        return {}
    text = tree.read(path).decode() if tree.get(path) is not None else ""
    text += "".join(f"Package: {n}\nArchitecture: {a}\nAuto-Installed: 1\n\n" for n, a in packages)
    return {tree.write(path, text.encode(), 0o644, 0, 0): "mkroot: apt's automatic marks"}


def assembled(
    layers: LayerStore,
    root: Root,
    epoch: int,
    sources: Mapping[str, str],
    below: Root | None = None,
    by_source: bool = False,
) -> Assembly:
    """Return a finished root, ready to be written. below: the root of the parent that it stands on."""
    if below is None:
        return Assembly(root.tree, layers, epoch, sources)
    first = len(below.tree.layers)
    tree = cut(layers, root.tree, first, sources) if by_source and len(root.tree.layers) > first else root.tree
    return Assembly(tree, layers, epoch, sources, below.tree)


def unscripted(
    layers: LayerStore, root: Root, packages: Sequence[Layer], how: str, date: int | None, progress: Progress
) -> Root:
    """Return the root of packages that no script configures.

    how: "none", packages stay unpacked as dpkg's database says; "static", mkroot makes the few things that matter.
    date: seconds, where SOURCE_DATE_EPOCH says one.
    """
    with progress.step(f"{CONFIGURING}{how}") as step:
        root = unpacked(root, packages)

        def configure(tree: Tree) -> tuple[Origins, Notes]:
            origins: dict[str, str] = {}
            for link in alias_links(tree):
                tree.put(link)
                origins[link.path] = "mkroot: merged /usr"
            if how == "static":
                from mkroot.rootfs.static.configure import configure_static

                epoch = max([p.date for p in packages], default=0) if date is None else date
                report = configure_static(tree, packages, epoch=epoch)
                return origins | report.origins, _not_run(report)
            files = {dpkg.STATUS: dpkg.status_file(b"", list(packages), [])}
            files |= dpkg.trigger_files(dpkg.interests(list(packages)))
            files[f"{dpkg.ADMIN}/arch"] = root.architecture.encode() + b"\n"
            database = {tree.write(path, data, 0o644, 0, 0): "mkroot: dpkg's database" for path, data in files.items()}
            return origins | database, ()

        key = _key("unscripted", mkroot.__version__, how, date, [p.key for p in packages], root.architecture)
        step.cached = layers.has(key)
        return save(layers, root, key, f"configure {how}", configure)


def _not_run(report: StaticReport) -> Notes:
    scripts = [f"{s.package} {s.script}" for s in report.scripts if not s.instead]
    return (*report.notes, *((f"scripts that were not run: {', '.join(scripts)}",) if scripts else ()))
